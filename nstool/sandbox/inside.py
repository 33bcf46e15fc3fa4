"""Call a function in other namespaces: in a child, because what has been joined cannot be left. setns(2).

The child has all of its caller's memory, and goes where others may be masters: it cannot be traced (CVE-2016-9962),
takes no file from a mount namespace that it joins, and ends with its caller. The caller takes nothing for granted: a
child that is stopped there is killed, and what it answers is data.
"""

from __future__ import annotations

import os
from errno import EIO, EPERM, ETIMEDOUT

from nstool import syscalls, uapi
from nstool.errors import KernelError, NstoolError, SandboxGone, no_process
from nstool.frozen import Frozen
from nstool.kinds import JOIN_ORDER, KINDS
from nstool.sandbox.facts import why_hidden
from nstool.sandbox.helper import Helper, shut
from nstool.security.idmap import parse_map

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from socket import socket
    from typing import Any, NoReturn, TypeVar

    from nstool.spec.model import IdMap

    T = TypeVar("T")

_MOST_SECONDS = 60.0  # that a caller waits for an answer, should something in there never give one
_MOST_BYTES = 64 << 20  # of an answer
_SPAWNED = "import sys; sys.path[:] = sys.argv[2:]; from nstool.sandbox.inside import spawned; spawned(sys.argv[1])"


class Maps(Frozen):
    """The id maps of a user namespace; outside is as the reader sees it."""

    uid: tuple[IdMap, ...]
    gid: tuple[IdMap, ...]


def refused(pid: int, name: str, error: OSError, why: str) -> KernelError:
    """Return the error for a file of a process that the kernel does not let the caller open, with the checked cause.

    name: of the file in /proc/PID, as "ns/ipc". why: what it was for. Raises SandboxGone if the process has ended.
    """
    try:
        cause, remedy = why_hidden(pid)
    except (FileNotFoundError, ProcessLookupError):
        raise SandboxGone(f"process {pid} has ended") from None
    return KernelError(
        f'open("/proc/{pid}/{name}")',
        error.errno or 0,
        why=why,
        causes=(f"you may not look into process {pid}: {cause}, ptrace(2)",),
        remedies=(remedy,),
        checked=True,
    )


def open_namespace(pid: int, kind: str) -> int:
    """Return an fd of a process's namespace of this kind. Raises SandboxGone, KernelError if the process is hidden."""
    try:
        return os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError as error:
        raise refused(pid, f"ns/{kind}", error, f"to look into its {kind} namespace") from None
    except (FileNotFoundError, ProcessLookupError):
        if kind in KINDS and not os.path.exists(f"/proc/self/ns/{kind}"):
            raise
        raise SandboxGone(no_process(pid)) from None


def call(namespaces: Mapping[str, int], function: Callable[..., T], *args: object, keep: Iterable[int] = ()) -> T:
    """Return what ``function(*args)`` returns or raises in a child that has joined these namespaces.

    namespaces: fd by kind; one that the caller is in is not joined, so with none the function is called in a child and
    no more. The user namespace that owns one is joined first where the caller has the privilege only there, as an
    ordinary user in one of its own. function: one of a module, for a caller that has threads is served by a fresh
    interpreter, into which it and args go by pickle; what it returns and raises comes back as ``plain`` can tell it. In
    another mount namespace it must not import, nor call what loads files, as getpwnam(3). keep: fds that it uses.
    Raises KernelError: EPERM with the cause for what may not be joined, EIO if the child was killed or stopped,
    ETIMEDOUT if it gave no answer in a minute; RuntimeError for what else than NstoolError and OSError is raised.
    """
    return call_with_maps(namespaces, function, *args, keep=keep)[0]


def call_with_maps(
    namespaces: Mapping[str, int], function: Callable[..., T], *args: object, keep: Iterable[int] = ()
) -> tuple[T, Maps | None]:
    """As ``call``, and return the maps of the user namespace if one was joined: the kernel translates ids then."""
    import pickle
    import socket

    from nstool.sandbox import plain

    name = " and ".join(namespaces) + " namespace" if namespaces else "child"
    request = (dict(namespaces), function, args)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        if syscalls.single_threaded():
            sent, pid = b"", _forked(ours, theirs, request)
        else:
            sent, pid = pickle.dumps(request), _by_interpreter(theirs, (*namespaces.values(), *keep))
        with Helper(pid, name, _MOST_SECONDS) as child:
            theirs.close()
            ours.settimeout(_MOST_SECONDS)
            data = bytearray()
            maps = None
            try:
                ours.sendall(sent)
                child.wait_for(ours)
                # While the child waits, its maps can be read as they are seen from here.
                maps = _maps(pid) if ours.recv(1) == b"u" else None
                ours.sendall(b"g")
                while True:
                    child.wait_for(ours)
                    block = ours.recv(1 << 16)
                    data += block
                    if not block or len(data) > _MOST_BYTES:
                        break
            except ConnectionError:  # it was killed
                data.clear()
            except FileNotFoundError:  # it was killed, so that its maps are not there to be read
                data.clear()
            except TimeoutError:
                raise KernelError(name, ETIMEDOUT, why="the child that was to look there takes no question") from None
    if not data:
        raise KernelError(name, EIO, why="the child that was to look there has ended before it answered")
    try:
        value, error = plain.loads(bytes(data))
    except (ValueError, TypeError):
        raise KernelError(name, EIO, why="what the child that was to look there has said is no answer") from None
    if isinstance(error, (NstoolError, OSError, RuntimeError)):
        raise error
    result: T = value
    return result, maps


def _forked(ours: socket, theirs: socket, request: tuple[Any, ...]) -> int:
    try:
        pid = os.fork()
    except BlockingIOError:
        raise _no_process() from None
    if pid == 0:
        ours.close()
        _serve(theirs, request)
    return pid


def _by_interpreter(theirs: socket, fds: Iterable[int]) -> int:
    # A fork would inherit the locks that other threads hold.
    import subprocess
    import sys

    command = [sys.executable, "-I", "-c", _SPAWNED, str(theirs.fileno()), *sys.path]
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(), *fds))
    except BlockingIOError:
        raise _no_process() from None
    child.returncode = 0  # another waits for it
    return child.pid


def _no_process() -> KernelError:
    from nstool.sandbox.spare import no_process

    return no_process("a child that joins namespaces")


def _maps(pid: int) -> Maps:
    def read(name: str) -> tuple[IdMap, ...]:
        with open(f"/proc/{pid}/{name}") as file:
            return parse_map(file.read())

    return Maps(read("uid_map"), read("gid_map"))


# ---- in the child ----


def spawned(fd: str) -> NoReturn:
    """Be the fresh interpreter: read the call from a socket, and answer there."""
    import pickle
    import socket

    link = socket.socket(fileno=int(fd))
    with link.makefile("rb") as file:
        request = pickle.load(file)
    _serve(link, request)


def _serve(link: socket, request: tuple[Any, ...]) -> NoReturn:
    try:
        import _signal

        from nstool.sandbox import plain

        # A key that stops a terminal's programs stops the caller alone, who would take it for somebody in there.
        _signal.pthread_sigmask(_signal.SIG_BLOCK, (_signal.SIGTSTP, _signal.SIGTTIN, _signal.SIGTTOU))
        try:
            namespaces, function, args = request
            _enter(link, namespaces)
            message = plain.dumps((function(*args), None))
        except (NstoolError, OSError) as error:
            message = plain.dumps((None, error))
        except Exception as error:  # a bug, which must reach the caller in words
            message = plain.dumps((None, RuntimeError(f"{type(error).__name__}: {error}")))
        link.sendall(message)
    finally:
        os._exit(0)  # whatever happens, the caller's program goes on in the parent alone


def _enter(link: socket, namespaces: Mapping[str, int]) -> None:
    parent = os.getppid()
    shut(parent)
    if "mnt" in namespaces:
        _load_nothing()
    joined = b"-"
    try:
        joined = _join(namespaces, parent)
    finally:
        link.sendall(joined)
        if not link.recv(1):  # else the parent has read the maps
            os._exit(0)  # it went before its end could end this


def _load_nothing() -> None:
    # Others may choose what is at the paths of modules and of the messages of the C library.
    import locale
    import sys

    sys.meta_path[:] = [one for one in sys.meta_path if getattr(one, "__name__", "") == "BuiltinImporter"]
    locale.setlocale(locale.LC_MESSAGES, "C")


def _join(namespaces: Mapping[str, int], parent: int) -> bytes:
    # b"u" if a user namespace was joined.
    joined = b"-"
    for kind in JOIN_ORDER:
        if kind not in namespaces or _same(namespaces[kind], kind):
            continue
        try:
            syscalls.setns(namespaces[kind], KINDS[kind].flag)
        except KernelError as error:
            if error.errno != EPERM:
                raise
            _join_by_owner(namespaces[kind], kind, error.call, parent)
            joined = b"u"
        if kind == "user":
            shut(parent)
            joined = b"u"
    return joined


def _join_by_owner(namespace: int, kind: str, call_: str, parent: int) -> None:
    whose = "it belongs to a user namespace that is not yours nor below yours"
    try:
        owner = syscalls.ns_get_userns(namespace)
        whose = f"it belongs to user:[{os.fstat(owner).st_ino}]"
        if not _same(owner, "user"):
            syscalls.setns(owner, uapi.CLONE_NEWUSER)
            shut(parent)
            syscalls.setns(namespace, KINDS[kind].flag)
            return
    except KernelError:
        pass  # the first refusal is the one that tells
    raise KernelError(
        call_,
        EPERM,
        why=f"to look into {kind}:[{os.fstat(namespace).st_ino}]",
        causes=(f"{whose}, in which you have no CAP_SYS_ADMIN, setns(2)",),
        remedies=("run as root, or as the user who made that user namespace",),
    )


def _same(namespace: int, kind: str) -> bool:
    return os.fstat(namespace).st_ino == os.stat(f"/proc/self/ns/{kind}").st_ino
