"""Why an address is not to be listened at: who has it, and what is at a path. ip(7), unix(7)."""

from __future__ import annotations

import os
import socket
import stat

from nstool.detectors.scene import Scene
from nstool.frozen import Frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from nstool.detectors.scene import Answer

_INTERNET = ("tcp", "udp")
_TYPES = {"unix": socket.SOCK_STREAM, "seqpacket": socket.SOCK_SEQPACKET}
_ALL = ("0.0.0.0", "::", "::ffff:0.0.0.0")
_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFREG: "a regular file",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class Where(Frozen):
    """What a step binds: kind "tcp", "udp", "unix" or "seqpacket"; address: or a path, "@name"; port: 0 of the latter.

    The arguments of the call as nstool.service.listen makes them.
    """

    kind: str
    address: str
    port: int

    @property
    def path(self) -> str:
        """The path of a Unix socket that has one, else empty."""
        return self.address if self.address.startswith("/") else ""

    def __str__(self) -> str:
        if self.kind not in _INTERNET:
            return self.address
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


def _where(scene: Scene) -> Where:
    kind, address, port = scene.step.args
    assert isinstance(kind, str)
    assert isinstance(address, str)
    assert isinstance(port, int)
    return Where(kind, address, port)


# ---- who has it ----


def _holders(where: Where) -> Iterator[Any]:
    """Yield the sockets that keep it from others, as psutil has them; pid None: nobody's to be seen from here."""
    import psutil

    if where.kind not in _INTERNET:
        for one in psutil.net_connections("unix"):
            # A name that is no path is another for each type. unix(7), "Abstract sockets"
            if str(one.laddr) == where.address and (where.path or one.type == _TYPES[where.kind]):
                yield one
        return
    for one in psutil.net_connections(where.kind):
        if one.raddr or not one.laddr or one.laddr.port != where.port:
            continue
        if where.address in _ALL or one.laddr.ip in (where.address, *_ALL):
            yield one


def _pids(scene: Scene) -> list[int]:
    return scene.once(_pids_that_hold)


def _pids_that_hold(scene: Scene) -> list[int]:
    return sorted({one.pid for one in _holders(_where(scene)) if one.pid})


def _ours(pid: int) -> tuple[str, str] | None:
    """Return the service that a process is of, and the generation that it is, "" of nstool serve itself."""
    from nstool.sandbox import rundir

    for record in filter(None, map(rundir.read, rundir.names())):
        if record.spec.get("service") and record.launcher_alive and record.pid == pid:
            return record.name, ""
        service, dot, _ = record.name.rpartition(".")
        if dot and record.init_alive and record.init_pid == pid:
            return service, record.name
    return None


def is_of(service: str, where: Where) -> bool:
    """Whether the service of this name, or a generation that it has left, has a socket there."""
    pids = {one.pid for one in _holders(where) if one.pid}
    return any(ours[0] == service for ours in filter(None, map(_ours, pids)))


def passed(scene: Scene) -> Answer:
    """The caller was started with a socket there. sd_listen_fds(3)."""
    return os.environ.get("LISTEN_PID") == str(os.getpid()) and os.getpid() in _pids(scene)


def listens_itself(scene: Scene) -> Answer:
    """The caller has a socket there: another word of the same spec says the same."""
    if passed(scene):
        return False
    return {"where": str(_where(scene))} if os.getpid() in _pids(scene) else False


def left_by_a_service(scene: Scene) -> Answer:
    """The generation of a service that has been killed has it, and takes no more connections."""
    from nstool.sandbox import rundir

    for service, generation in filter(None, map(_ours, _pids(scene))):
        if generation and not rundir.launcher_alive(service):
            return {"generation": generation, "service": service}
    return False


def taken(scene: Scene) -> Answer:
    """Another process has a socket there."""
    import psutil

    if left_by_a_service(scene) or listens_itself(scene) or passed(scene):
        return False
    where = str(_where(scene))
    for pid in _pids(scene):
        if ours := _ours(pid):
            service = ours[0]
            return {"who": f"the service {service}", "where": where, "what": f"nstool service stop {service}"}
        try:
            return {"who": f"process {pid} ({psutil.Process(pid).name()})", "where": where, "what": "stop that"}
        except psutil.NoSuchProcess:  # it has ended between the two looks
            continue
    return False


def taken_by_hidden(scene: Scene) -> Answer:
    """No process that has it is to be seen from here."""
    where = _where(scene)
    if _pids(scene) or path_is_no_socket(scene):
        return False
    return {"where": str(where), "options": "-lntup" if where.kind in _INTERNET else "-lxp"}


# ---- what the host lets be ----


def address_of_others(scene: Scene) -> Answer:
    """No interface of this host has the address."""
    where = _where(scene)
    if where.kind not in _INTERNET:
        return False
    return {"address": where.address, "all": "[::]" if ":" in where.address else "0.0.0.0"}


def port_for_the_privileged(scene: Scene) -> Answer:
    """The port is below those that everybody may have, and the caller has no CAP_NET_BIND_SERVICE."""
    port, first = _where(scene).port, scene.number("/proc/sys/net/ipv4/ip_unprivileged_port_start")
    if not port or first is None or port >= first or scene.may("net_bind_service"):
        return False
    return {"port": port, "first": first}


# ---- what is at a path ----


def path_is_no_socket(scene: Scene) -> Answer:
    """Something else than a socket is at the path."""
    path = _where(scene).path
    if not path or not os.path.lexists(path):
        return False
    kind = _KINDS.get(stat.S_IFMT(os.lstat(path).st_mode), "")
    return {"path": path, "kind": kind} if kind else False


def path_without_directory(scene: Scene) -> Answer:
    """A directory on the way to the path is not there, or is none."""
    path = _where(scene).path
    if not path:
        return False
    above = os.path.dirname(path)
    if os.path.isdir(above):
        return False
    parts = above.split("/")
    missing = next(
        one for one in ("/".join(parts[:count]) for count in range(2, len(parts) + 1)) if not os.path.isdir(one)
    )
    if os.path.lexists(missing):
        return {"missing": missing, "what": "is no directory", "do": "name another path"}
    return {"missing": missing, "what": "is not there", "do": f"make it: mkdir -p {above}"}


def path_on_read_only(scene: Scene) -> Answer:
    """The directory is on a filesystem that cannot be written to."""
    above = os.path.dirname(_where(scene).path)
    if not os.path.isdir(above) or not os.statvfs(above).f_flag & os.ST_RDONLY:
        return False
    return {"directory": above}


def path_on_full(scene: Scene) -> Answer:
    """The filesystem of the directory is full, of bytes or of files."""
    above = os.path.dirname(_where(scene).path)
    if not os.path.isdir(above):
        return False
    found = os.statvfs(above)
    return {"directory": above, "blocks": found.f_bavail, "files": found.f_favail}


def path_in_closed_directory(scene: Scene) -> Answer:
    """The caller may not make a file in the directory."""
    path = _where(scene).path
    above = os.path.dirname(path)
    if not path or not os.path.isdir(above) or os.access(above, os.W_OK | os.X_OK, effective_ids=True):
        return False
    return {"directory": above, "uid": os.geteuid(), "mode": f"{os.stat(above).st_mode & 0o7777:04o}"}
