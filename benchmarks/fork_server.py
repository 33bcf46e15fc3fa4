#!/usr/bin/env python3
"""What nstool's Python services are measured against: a server that forks for each connection and isolates itself.

    fork_server.py PORT ROOT

The copy enters seven new namespaces, maps its id, makes ROOT its root, only to be read, with a /proc of its own, and
drops its rights: by itself, as somebody would write it with ctypes. As root.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
NEW = 0x10000000 | 0x20000 | 0x20000000 | 0x40000000 | 0x04000000 | 0x08000000 | 0x02000000
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE, MNT_DETACH = 1, 32, 4096, 16384, 1 << 18, 2
PR_SET_NO_NEW_PRIVS, PR_SET_SECUREBITS, SYS_PIVOT_ROOT = 38, 28, 155
ANSWER = b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n"


def call(result: int) -> None:
    """Raise OSError for a call that was refused."""
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def mount(source: bytes | None, target: bytes, kind: bytes | None, flags: int) -> None:
    """mount(2)."""
    call(LIBC.mount(source, target, kind, ctypes.c_ulong(flags), None))


def isolate(root: bytes) -> None:
    """Enter the namespaces; returns in process 1 of the new pid namespace."""
    call(LIBC.unshare(NEW))
    for name, text in (("setgroups", "deny"), ("uid_map", "0 0 1"), ("gid_map", "0 0 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        os._exit(0)
    mount(None, b"/", None, MS_PRIVATE | MS_REC)
    mount(root, root, None, MS_BIND | MS_REC)
    mount(b"proc", root + b"/proc", b"proc", 14)
    mount(None, root, None, MS_BIND | MS_REMOUNT | MS_RDONLY)
    os.chdir(root)
    call(LIBC.syscall(SYS_PIVOT_ROOT, b".", b"."))
    call(LIBC.umount2(b".", MNT_DETACH))
    call(LIBC.prctl(PR_SET_SECUREBITS, 0xEF, 0, 0, 0))
    call(LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def main(port: int, root: str) -> None:
    """Serve for ever."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.create_server(("127.0.0.1", port), backlog=1024) as server:
        while True:
            connection, _ = server.accept()
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                server.close()
                isolate(os.fsencode(root))
                connection.recv(4096)
                connection.sendall(ANSWER)
                os._exit(0)
            connection.close()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
