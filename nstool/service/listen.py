"""Listening sockets: their words, and how they are made. socket(7), ip(7), unix(7), sd_listen_fds(3)."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import select
import socket
import stat
from errno import EACCES, EADDRINUSE, EINVAL, ENOENT, ENOTCONN, EPERM, EROFS

from nstool.errors import KernelError, SpecError
from nstool.frozen import Frozen
from nstool.sandbox.sockets import SocketFile
from nstool.service.tied import tie

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nstool.service.blueprint import Blueprint
    from nstool.spec.check import Place
    from nstool.spec.service import Service

_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # of a socket for all addresses
_LAST_ID = (1 << 32) - 2  # the one after it stands for none, chown(2)
FIRST_PASSED = 3  # SD_LISTEN_FDS_START
_LISTENS = 1 << 16  # __SO_ACCEPTCON of linux/net.h
CONNECTIONS = "where connections come in"
METRICS = "where its metrics are asked for"
KINDS: dict[str, tuple[int, int]] = {
    "unix": (socket.AF_UNIX, socket.SOCK_STREAM),
    "seqpacket": (socket.AF_UNIX, socket.SOCK_SEQPACKET),
}


class Listener(Frozen):
    """Where connections come in. word: as the spec has it. fd: the caller's. file: of a Unix socket, to be removed."""

    word: str
    fd: int
    file: SocketFile | None = None

    @property
    def is_there(self) -> bool:
        """Whether clients find it: its file, if it has one, is still its own."""
        return self.file is None or self.file.is_there

    @property
    def type(self) -> int:
        """SOCK_STREAM, SOCK_SEQPACKET, SOCK_DGRAM."""
        with socket.socket(fileno=os.dup(self.fd)) as one:
            return one.type

    @property
    def is_of_tcp(self) -> bool:
        """Whether its connections are of the host's network."""
        with socket.socket(fileno=os.dup(self.fd)) as one:
            return one.type == socket.SOCK_STREAM and one.family in (socket.AF_INET, socket.AF_INET6)

    @property
    def where(self) -> str:
        """The address as the kernel has it: with the port that it chose for port 0."""
        with socket.socket(fileno=os.dup(self.fd)) as one:
            name, kind = one.getsockname(), "udp" if one.type == socket.SOCK_DGRAM else "tcp"
        if isinstance(name, tuple):
            host = f"[{name[0]}]" if ":" in name[0] else name[0]
            return f"{kind}:{host}:{name[1]}"
        text = os.fsdecode(name) if isinstance(name, bytes) else name
        text = f"@{text[1:]}" if text.startswith("\0") else text
        return f"{self.word.partition(':')[0]}:{text}"


class Access(Frozen):
    """Who may connect to a Unix socket: its file's permission bits and owner. None, -1: as bind(2) makes it."""

    mode: int | None = None
    uid: int = -1
    gid: int = -1


def access(service: Service, place: Place) -> Access:
    """Return who may connect to the Unix sockets of a service. Raises SpecError for one that is not
    there, or may not have them."""
    if not service.socket_owner:
        return Access(service.socket_mode)
    at = place(("service", "socket_owner"))
    uid, gid = _owner(service.socket_owner, at)
    own = os.geteuid()
    if own and (uid not in (-1, own) or gid not in (-1, os.getegid(), *os.getgroups())):
        raise SpecError(
            "only root gives a socket to another user, or to a group that he is not in: say a group of yours, "
            'socket_owner = ":GROUP", or run as root',
            at,
        )
    return Access(service.socket_mode, uid, gid)


def _owner(word: str, at: str) -> tuple[int, int]:
    """Return uid and gid, -1 for who is not said, of "user:group", "user" (and its first group) or ":group"."""
    import grp
    import pwd

    user, _, group = word.partition(":")
    uid = _number(user, lambda: pwd.getpwnam(user).pw_uid, "user", at) if user else -1
    if group:
        return uid, _number(group, lambda: grp.getgrnam(group).gr_gid, "group", at)
    if not user:
        raise SpecError(f'{word!r} is nobody: socket_owner = "USER:GROUP", "USER", or ":GROUP"', at)
    try:
        return uid, pwd.getpwuid(uid).pw_gid
    except KeyError:
        raise SpecError(f'user {uid} is not known here, nor then its group: say that too, "{uid}:GROUP"', at) from None


def _number(word: str, look: Callable[[], int], kind: str, at: str) -> int:
    if word.isascii() and word.isdecimal():
        if len(word) > 10 or int(word) > _LAST_ID:
            raise SpecError(f"{word} is no number of a {kind}: 0 to {_LAST_ID}", at)
        return int(word)
    try:
        return look()
    except (KeyError, ValueError):  # the second: no name can be so
        raise SpecError(f"there is no {kind} {word!r} on this host", at) from None


def is_shut(one: Listener) -> bool:
    """Whether a socket listens no more: a command that has it can have shut it down. shutdown(2), SO_ACCEPTCONN."""
    poll = select.poll()
    poll.register(one.fd, select.POLLRDHUP)
    with socket.socket(fileno=os.dup(one.fd)) as listening:
        if listening.type == socket.SOCK_DGRAM:
            return False
        return bool(poll.poll(0)) or not listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)


def give_up(one: Listener) -> None:
    """Let another socket have the address of one that is shut, whatever a command has set on it. SO_REUSEADDR."""
    with socket.socket(fileno=os.dup(one.fd)) as shut:
        if shut.family != socket.AF_UNIX:
            shut.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)


def parse(word: str, place: str) -> tuple[int, int, object]:
    """Return (family, type, address) of a word of ``listen``. Raises SpecError."""
    kind, _, rest = word.partition(":")
    if kind in KINDS:
        if not rest.startswith(("/", "@")) or "\0" in rest:
            raise SpecError(f'"{word}" needs an absolute path, or @NAME for an abstract one: {kind}:/run/w.sock', place)
        if len(os.fsencode(rest)) > 107:
            raise SpecError(f"{rest} is longer than the 107 bytes that unix(7) allows", place)
        return (*KINDS[kind], "\0" + rest[1:] if rest.startswith("@") else rest)
    if kind not in ("tcp", "udp"):
        raise SpecError(
            f'"{word}" is no listener: "tcp:ADDRESS:PORT", "udp:ADDRESS:PORT", "unix:PATH", "seqpacket:PATH" or '
            '"systemd"',
            place,
        )
    host, _, port = rest.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    family = socket.AF_INET6 if ":" in bare else socket.AF_INET
    if not port.isdecimal() or int(port) > 65535:
        raise SpecError(f'"{word}" needs a port from 0 to 65535: tcp:127.0.0.1:8080; 0 is one that is free', place)
    try:
        found = ipaddress.ip_address(bare)
    except ValueError:
        raise SpecError(
            f'"{word}" needs an address: tcp:127.0.0.1:{port}, tcp:[::1]:{port}, tcp:0.0.0.0:{port} for all', place
        ) from None
    if found.is_multicast or (found.version == 6 and (found.is_link_local or "%" in bare)):
        what = "of a group" if found.is_multicast else "of one link alone"
        every = "[::]" if found.version == 6 else "0.0.0.0"
        raise SpecError(
            f'"{word}" is an address {what}, where no service listens: {kind}:{every}:{port} for all, or one that '
            "ip address lists with scope global",
            place,
        )
    return family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM, (bare, int(port))


def check(service: Service, place: Place) -> None:
    """Raise SpecError for words that say no address, and for two that say the same."""
    words = [(word, place(("service", "listen", number))) for number, word in enumerate(service.listen)]
    if service.metrics:
        words.append((service.metrics, place(("service", "metrics"))))
    found: list[tuple[str, tuple[int, int, object]]] = []
    for word, at in words:
        if word == "systemd":
            continue
        address = parse(word, at)
        for other, there in found:
            if _overlap(address, there):
                raise SpecError(f'"{word}" is at the address of "{other}": say another, or leave one of them out', at)
        found.append((word, address))


def _overlap(one: tuple[int, int, object], other: tuple[int, int, object]) -> bool:
    (family, type_, here), (family2, type2, there) = one, other
    if isinstance(here, str) or isinstance(there, str):  # an abstract name is another one for each type: unix(7)
        return here == there and (type_ == type2 or str(here).startswith("/"))
    assert isinstance(here, tuple)
    assert isinstance(there, tuple)
    if (family, type_) != (family2, type2) or not here[1] or here[1] != there[1]:
        return False
    first, second = (socket.inet_pton(family, address) for address, _ in (here, there))
    return first == second or not any(first) or not any(second)


def open_listener(
    word: str,
    backlog: int,
    place: str,
    *,
    handed: bool = True,
    shared: bool = False,
    first: bool = False,
    made: Callable[[SocketFile], None] = lambda file: None,
    why: str = CONNECTIONS,
) -> Listener:
    """Return a listening socket. Raises SpecError, KernelError for an address that is not to be had.

    why: what the address is for.
    handed: its connections are given to sandboxes, see tied.tie. shared: others may have the address too, and the
    kernel distributes connections among them: SO_REUSEPORT, socket(7). first: of those, so that nobody else may have
    it yet. made: is called with the file of a Unix socket, before anybody can connect.
    """
    family, type_, address = parse(word, place)
    path = address if isinstance(address, str) and address.startswith("/") else ""
    try:
        one = socket.socket(family, type_ | socket.SOCK_CLOEXEC)
    except OSError as error:
        raise KernelError(f"socket({word})", error.errno or 0, place, why) from None
    file = None
    try:
        if family != socket.AF_UNIX:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shared and not first))
            if shared:
                _be_nobodys(one)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if path:
            _remove_dead(path, type_)
        one.bind(address)  # type: ignore[arg-type]
        if path:
            file = _file(path)
            made(file)
        if first:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shared))
        if type_ != socket.SOCK_DGRAM:
            tie(one, place, needed=handed)
            one.listen(backlog)
    except BaseException as error:
        one.close()
        if file is not None:
            file.remove()
        if isinstance(error, OSError) and not isinstance(error, KernelError):
            raise _refused(word, error.errno or 0, place, why) from None
        raise
    return Listener(word, one.detach(), file)


def asked(blueprint: Blueprint) -> Iterator[tuple[str, str, str, bool]]:
    """Yield the addresses that a service opens, as ``attempt`` takes them: word, place, why, handed."""
    service = blueprint.service
    for word in service.listen:
        if word != "systemd":
            yield word, blueprint.listener_place(word), CONNECTIONS, service.shape != "port"
    if service.metrics:
        yield service.metrics, blueprint.written(("service", "metrics")), METRICS, False


def attempt(word: str, place: str, why: str, *, handed: bool = False) -> None:
    """Raise KernelError for an address that ``open_listener`` would not get. Nobody listens, and no file is made.

    What has no file is bound for a moment; of a Unix socket's file it is looked at what is there. handed: as there.
    """
    family, type_, address = parse(word, place)
    if isinstance(address, str) and address.startswith("/"):
        if number := _foreseen(address):
            raise _refused(word, number, place, why)
        return
    try:
        one = socket.socket(family, type_ | socket.SOCK_CLOEXEC)
    except OSError as error:
        raise KernelError(f"socket({word})", error.errno or 0, place, why) from None
    with one:
        if type_ == socket.SOCK_STREAM:  # a datagram could come to the wrong one of two that have its address
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            one.bind(address)  # type: ignore[arg-type]
        except OSError as error:
            raise _refused(word, error.errno or 0, place, why) from None
        if handed and type_ == socket.SOCK_STREAM:
            tie(one, place)


def _foreseen(path: str) -> int:
    """Return the errno that bind(2) would have for the file of a Unix socket, 0 for none."""
    above = os.path.dirname(path)
    if not os.path.isdir(above):
        return ENOENT
    if os.path.lexists(path) and (not stat.S_ISSOCK(os.lstat(path).st_mode) or _is_listened_at(path)):
        return EADDRINUSE
    if os.statvfs(above).f_flag & os.ST_RDONLY:
        return EROFS
    return 0 if os.access(above, os.W_OK | os.X_OK, effective_ids=True) else EACCES


def _is_listened_at(path: str) -> bool:
    """Whether somebody of this network namespace listens at the file of a Unix socket. proc_net(5), unix."""
    with open("/proc/self/net/unix") as file:
        lines = (line.split(maxsplit=7) for line in file)
        found = [words for words in lines if len(words) == 8 and words[7].rstrip("\n") == path]
    return any(int(words[3], 16) & _LISTENS for words in found)


def is_of(service: str, word: str) -> bool:
    """Whether the service of this name has the address of a word: it runs, or has left a generation that goes on."""
    from nstool.detectors import listening

    return listening.is_of(service, listening.Where(*_bound_at(word)))


def _bound_at(word: str) -> tuple[str, str, int]:
    """Return kind, address and port of a word, as the catalogue has them: listening.Where."""
    _, _, address = parse(word, "")
    host, port = address if isinstance(address, tuple) else (str(address).replace("\0", "@", 1), 0)
    return word.partition(":")[0], host, port


def _be_nobodys(one: socket.socket) -> None:
    """Share an address with sockets of this uid alone: a sandbox may have that of the service, no one has this."""
    try:
        os.fchown(one.fileno(), _LAST_ID, -1)
    except OSError as error:
        if error.errno not in (EPERM, EINVAL):  # only root may; in a user namespace it may have no such id
            raise


def _file(path: str) -> SocketFile:
    status = os.lstat(path)
    return SocketFile(path, status.st_dev, status.st_ino)


def grant(file: SocketFile, access: Access) -> None:
    """Give the file of a socket its owner and permission bits, if it is there. Raises KernelError."""
    if access == Access() or not file.is_there:
        return
    fd = os.open(file.path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    own = f"/proc/self/fd/{fd}"
    call, key = f"chown({file.path}, {access.uid}, {access.gid})", "service.socket_owner"
    try:
        os.chown(own, access.uid, access.gid)
        if access.mode is not None:
            call, key = f"chmod({file.path}, {access.mode:04o})", "service.socket_mode"
            os.chmod(own, access.mode)
    except OSError as error:
        raise KernelError(call, error.errno or 0, key, "who may connect") from None
    finally:
        os.close(fd)


def _refused(word: str, number: int, place: str, why: str) -> KernelError:
    """Return the error of a word at which nobody can listen, with what nstool.detectors.listening finds there."""
    from nstool.plan.hints import explain
    from nstool.plan.steps import LAUNCHER, Step

    step = Step(LAUNCHER, "bind", _bound_at(word), why)
    return KernelError(f"bind({word})", number, place, why, *explain(step, number))


def _remove_dead(path: str, type_: int) -> None:
    """Remove a socket that nobody listens on any more: what a killed service has left."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return  # bind(2) says what is wrong
        with socket.socket(socket.AF_UNIX, type_) as one:
            one.setblocking(False)
            try:
                one.connect(path)
            except ConnectionRefusedError:
                os.unlink(path)
            except OSError:  # somebody is there, if busy
                return


def check_passed(words: tuple[str, ...], written: Callable[[str], str]) -> None:
    """Raise SpecError if "systemd" is one of these words, and what was passed is none of sockets that listen.

    To be called before files are opened, which could be taken for what was passed. written: where a word is written.
    """
    for place in (written(word) for word in words if word == "systemd"):
        for fd in _passed(place):
            if wrong := _no_listener(fd):
                raise SpecError(
                    f'"systemd": LISTEN_FDS says {os.environ["LISTEN_FDS"]}, and fd {fd} {wrong}; sd_listen_fds(3)',
                    place,
                )


def _passed(place: str) -> range:
    count = os.environ.get("LISTEN_FDS", "")
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or not count.isdecimal() or not int(count):
        raise SpecError(
            '"systemd": no socket was passed (LISTEN_PID, LISTEN_FDS): start it from a unit with a .socket', place
        )
    return range(FIRST_PASSED, FIRST_PASSED + int(count))


def from_systemd(place: str, *, handed: bool = True) -> list[Listener]:
    """Return the sockets that systemd has passed. sd_listen_fds(3). Raises SpecError if there are none."""
    found = []
    for fd in _passed(place):
        os.set_inheritable(fd, False)
        with socket.socket(fileno=os.dup(fd)) as one:
            if one.type == socket.SOCK_STREAM:
                tie(one, place, needed=handed)
        found.append(Listener("systemd", fd))
    return found


_WANTED = {
    (socket.AF_INET, socket.SOCK_STREAM),
    (socket.AF_INET6, socket.SOCK_STREAM),
    (socket.AF_INET, socket.SOCK_DGRAM),
    (socket.AF_INET6, socket.SOCK_DGRAM),
    *KINDS.values(),
}


def _no_listener(fd: int) -> str:
    """Return what an fd is instead of a socket at which a service can listen, with what was expected; else empty."""
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        return "is not open; a socket that listens is expected"
    if not stat.S_ISSOCK(mode):
        return f"is {os.readlink(f'/proc/self/fd/{fd}')}; a socket that listens is expected"
    with socket.socket(fileno=os.dup(fd)) as one:
        family, type_ = (getattr(word, "name", word) for word in (one.family, one.type))
        what = f"is a socket of {family}, {type_}"
        if (one.family, one.type) not in _WANTED:
            return f"{what}; one of TCP or UDP, or of Unix streams or packets (SOCK_SEQPACKET), is expected"
        if one.type != socket.SOCK_DGRAM:
            listens = one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            return "" if listens else f"{what} that does not listen; one that does is expected: Accept=no of its unit"
        return f"{what} that has a peer; one without is expected" if _has_peer(one) else ""


def _has_peer(one: socket.socket) -> bool:
    try:
        one.getpeername()
    except OSError as error:
        if error.errno != ENOTCONN:
            raise
        return False
    return True


def open_all(
    words: tuple[str, ...],
    backlog: int,
    written: Callable[[str], str],
    *,
    handed: bool = True,
    shards: int = 1,
    made: Callable[[SocketFile], None] = lambda file: None,
) -> list[Listener]:
    """Return a socket for each word, of the internet so many as there are shards; none stays open if one fails.

    written: where a word is written. handed, made: as of ``open_listener``.
    """
    found: list[Listener] = []
    try:
        for word in words:
            place = written(word)
            if word == "systemd":
                found += from_systemd(place, handed=handed)
                continue
            many = shards if word.startswith(("tcp:", "udp:")) else 1
            found.append(open_listener(word, backlog, place, handed=handed, shared=many > 1, first=many > 1, made=made))
            where = found[-1].where  # with the port that the kernel chose
            for _ in range(many - 1):
                found.append(open_listener(where, backlog, place, handed=handed, shared=True).replace(word=word))
    except BaseException:
        close_all(found)
        raise
    return found


def of_shard(listeners: list[Listener], shard: int, shards: int) -> list[Listener]:
    """Return those of one template of so many: its own of each address, or a shared one where there are fewer."""
    found = []
    for where in dict.fromkeys(one.where for one in listeners):
        same = [one for one in listeners if one.where == where]
        found += [one for n, one in enumerate(same) if n % shards == shard] or [same[shard % len(same)]]
    return found


def tie_all(listeners: list[Listener]) -> None:
    """Tie what another service has opened, of which it need not have given connections away. Raises KernelError."""
    for one in listeners:
        with socket.socket(fileno=os.dup(one.fd)) as each:
            if each.type == socket.SOCK_STREAM:
                tie(each, one.word)


def close_all(listeners: list[Listener]) -> None:
    """Close sockets, and remove the files of those that nobody else has."""
    for one in listeners:
        os.close(one.fd)
        if one.file is not None:
            one.file.remove()


def abandon(listeners: list[Listener]) -> None:
    """Let nobody listen any more on sockets that others have, too; systemd's stay as they are. shutdown(2)"""
    for one in listeners:
        if one.word != "systemd" and one.type != socket.SOCK_DGRAM:  # a template that drains takes no datagrams
            with socket.socket(fileno=os.dup(one.fd)) as shut:
                shut.shutdown(socket.SHUT_RDWR)
        if one.file is not None and one.file.is_there:
            os.unlink(one.file.path)
    close_all(listeners)


def dialled(fd: int) -> tuple[int, tuple[object, ...] | str | bytes]:
    """Return the family of a listening socket, and the address by which this host reaches it."""
    with socket.socket(fileno=os.dup(fd)) as one:
        address: tuple[object, ...] | str | bytes = one.getsockname()
        if isinstance(address, tuple):
            address = (_LOOPBACK.get(str(address[0]), address[0]), *address[1:])
        return one.family, address


def place_of(word: str) -> object:
    """Return what tells a listener of a word from others: family, type and address."""
    family, type_, address = parse(word, "")
    return family, type_, address


def place_of_fd(fd: int) -> object:
    """Return the same of a socket."""
    with socket.socket(fileno=os.dup(fd)) as one:
        name: object = one.getsockname()
        if isinstance(name, tuple):
            name = name[:2]
        elif isinstance(name, bytes):
            name = os.fsdecode(name)
        return one.family, one.type, name
