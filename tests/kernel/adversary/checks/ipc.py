"""What processes share: System V IPC, POSIX queues and memory, sockets, keys, the network. All is its own."""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.kernel.adversary.base import Answer, Check, call, is_value, refused, says, tells
from tests.kernel.adversary.run import View

IPC_CREAT, IPC_EXCL, IPC_RMID = 0o1000, 0o2000, 0
_libc = ctypes.CDLL(None, use_errno=True)


def _key() -> int:
    return 0x7E570000 | os.getpid() & 0xFFFF


@contextmanager
def _outside(get: str, remove: str, *size: int) -> Iterator[int]:
    """A System V object outside with mode 666: its key."""
    number = getattr(_libc, get)(_key(), *size, IPC_CREAT | IPC_EXCL | 0o666)
    assert number >= 0, os.strerror(ctypes.get_errno())
    try:
        yield _key()
    finally:
        getattr(_libc, remove)(number, *((0,) if remove == "semctl" else ()), IPC_RMID, 0)


def _shm(view: View) -> Answer:
    with _outside("shmget", "shmctl", 4096) as key:
        return view.ask(*call("shmget", key, 4096, 0))


def _sem(view: View) -> Answer:
    with _outside("semget", "semctl", 1) as key:
        return view.ask(*call("semget", key, 1, 0))


def _msg(view: View) -> Answer:
    with _outside("msgget", "msgctl") as key:
        return view.ask(*call("msgget", key, 0))


def _made_inside(view: View) -> Answer:
    """What of System V memory comes to be outside when a segment is made inside; it is removed."""

    def segments() -> set[str]:
        return {line.split()[1] for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]}

    before = segments()
    made = view.ask(*call("shmget", _key() + 1, 4096, IPC_CREAT | 0o600))
    new = segments() - before if made.value >= 0 else set()
    found = str(made.value) in new
    if found:
        _libc.shmctl(made.value, IPC_RMID, 0)
    return Answer(value=found, error=made.error)


def _queue(view: View) -> Answer:
    name = f"/nst-{os.getpid()}"
    rt = ctypes.CDLL("librt.so.1")
    queue = rt.mq_open(name.encode(), os.O_CREAT | os.O_RDONLY, 0o666, None)
    assert queue >= 0
    try:
        return view.ask("mq_open", name)
    finally:
        os.close(queue)
        rt.mq_unlink(name.encode())


def _posix_memory(view: View) -> Answer:
    path = Path(f"/dev/shm/nst-{os.getpid()}")
    path.write_text("outside")
    path.chmod(0o666)
    try:
        return view.ask("read", str(path))
    finally:
        path.unlink()


def _abstract(view: View) -> Answer:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"\0nst-{os.getpid()}")
        server.listen()
        return view.ask("connect_unix", f"@nst-{os.getpid()}")


def _pathname(view: View) -> Answer:
    """A socket that everybody may connect to, in the directory of the command's file, which is shown."""
    path = f"/tmp/nst-{os.getpid()}.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        os.chmod(path, 0o777)
        server.listen()
        try:
            return view.ask("connect_unix", path)
        finally:
            os.unlink(path)


def _tcp(family: int, address: str) -> object:
    def look(view: View) -> Answer:
        with socket.socket(family) as server:
            server.bind((address, 0))
            server.listen()
            port = str(server.getsockname()[1])
            return view.ask("reach", "6" if family == socket.AF_INET6 else "4", "tcp", address, port)

    return look


_OWN = "objects of the host cannot be had"

CHECKS: tuple[Check, ...] = (
    Check("shared-memory", _shm, refused("ENOENT"), _OWN, "ipc"),
    Check("memory-made-inside", _made_inside, is_value(0), "what is made inside is not outside", "ipc"),
    Check("semaphores", _sem, refused("ENOENT"), _OWN, "ipc"),
    Check("message-queue", _msg, refused("ENOENT"), _OWN, "ipc"),
    Check("posix-queue", _queue, refused("ENOENT"), _OWN, "ipc"),
    Check("posix-memory", _posix_memory, refused("ENOENT"), _OWN, "root"),
    Check(
        "abstract-socket", _abstract, refused("ECONNREFUSED"), "abstract sockets of the host are out of reach", "net"
    ),
    Check("socket-in-tmp", _pathname, refused("ENOENT"), "sockets in /tmp of the host are out of reach", "root"),
    Check("keyctl", call("keyctl", 0, -3, 0), refused("EPERM"), "no key ring can be asked for", "seccomp"),
    Check("add-key", call("add_key", "user", "x", "x", 1, -4), refused("EPERM"), "no key can be made", "seccomp"),
    Check("request-key", call("request_key", "user", "x", 0, -4), refused("EPERM"), "no key can be had", "seccomp"),
    # ---- the network ----
    Check("interfaces", ("interfaces",), says("lo"), "there is no device but loopback", "net"),
    Check(
        "service-on-127.0.0.1",
        _tcp(socket.AF_INET, "127.0.0.1"),
        refused("ECONNREFUSED"),
        "the host's loopback is another",
        "net",
    ),
    Check(
        "service-on-::1", _tcp(socket.AF_INET6, "::1"), refused("ECONNREFUSED"), "the host's loopback is another", "net"
    ),
    *(
        Check(
            f"no-way-to-{address}-{how}",
            ("reach", "6" if ":" in address else "4", how, address, "53"),
            refused("ENETUNREACH", "EADDRNOTAVAIL"),
            "nothing outside is reached",
            "net",
        )
        for address in ("8.8.8.8", "169.254.169.254", "10.0.0.1", "224.0.0.1", "2001:db8::1", "ff05::1")
        for how in ("tcp", "udp")
    ),
    Check(
        "routes",
        ("read", "/proc/net/route"),
        tells("has none", lambda text: len(text.splitlines()) == 1),
        "there is no route",
        "net",
    ),
    Check(
        "unix-sockets",
        ("read", "/proc/net/unix"),
        tells("has none", lambda text: len(text.splitlines()) == 1),
        "no socket of the host is listed",
        "net",
    ),
    Check("no-raw-socket", call("socket", 2, 3, 1), refused("EPERM"), "no raw packets", "seccomp"),
    Check("no-packet-socket", call("socket", 17, 3, 0), refused("EPERM"), "no raw packets", "seccomp"),
)
