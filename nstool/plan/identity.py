"""What a sandbox is told of itself where the host's own would tell of the host: accounts, names, ids. Pure."""

from __future__ import annotations

from nstool.namespaces import user
from nstool.plan.lease import Lease
from nstool.spec.model import Spec

ETC: tuple[str, ...] = ("passwd", "group", "nsswitch.conf", "hosts", "machine-id", "hostname")  # what it makes there

# What Debian and the others agree on, passwd(5), group(5).
_ACCOUNTS = {0: "root", 1: "daemon", 2: "bin", 8: "mail", 33: "www-data", 65534: "nobody"}
_GROUPS = {0: "root", 1: "daemon", 2: "bin", user.TTY: "tty", 8: "mail", 33: "www-data", 65534: "nogroup"}
_OWN = "user"  # whoever else the command runs as
_HOMES = {0: "/root"}
_NSSWITCH = """passwd: files
group: files
shadow: files
hosts: files dns
networks: files
protocols: files
services: files
ethers: files
rpc: files
"""


def files(spec: Spec, lease: Lease, maps: user.Maps | None, hostname: str) -> dict[str, str]:
    """Return the files of /etc that the default root has of its own: path to content."""
    uid, gid = user.ids(spec)
    groups = [gid, *(int(group) for group in spec.groups if group.isdecimal())]
    names = {uid: _OWN} | _ACCOUNTS
    group_names = {number: _OWN if number == gid else f"group{number}" for number in groups} | _GROUPS
    if maps and not user.is_inside(maps.gid, user.TTY):
        # sshd, su and screen give a terminal to the group of this name where there is one: there is none, EINVAL.
        del group_names[user.TTY]
    made = {
        "/etc/passwd": "".join(
            _account(number, name, gid if number == uid else number) for number, name in sorted(names.items())
        ),
        "/etc/group": "".join(f"{name}:x:{number}:\n" for number, name in sorted(group_names.items())),
        "/etc/nsswitch.conf": _NSSWITCH,
        "/etc/hosts": "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n",
        "/etc/machine-id": f"{lease.machine_id}\n",
    }
    if hostname:
        made["/etc/hostname"] = f"{hostname}\n"
        made["/etc/hosts"] += f"127.0.1.1\t{hostname}\n" if hostname != "localhost" else ""
    return made


def _account(uid: int, name: str, gid: int) -> str:
    shell = "/bin/sh" if name in ("root", _OWN) else "/usr/sbin/nologin"
    return f"{name}:x:{uid}:{gid}:{name}:{_HOMES.get(uid, '/')}:{shell}\n"
