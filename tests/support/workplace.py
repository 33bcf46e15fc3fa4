"""Where one test process works: its directories, and the names that mark what it makes as its own.

The process that starts the run makes one short directory and names it in NSTOOL_TEST_DIR; every
pytest-xdist worker has its part of it. So workers do not see each other's sandboxes, and what one
leaves behind is laid at its own door.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import socket
import subprocess
import tempfile
from ipaddress import ip_address, ip_network
from pathlib import Path

from tests.support import kernel

# t<worker>x<process that started the run, hex>-<number>: short, because links take 15 bytes
TEST_NAME = re.compile(r"\bt\d*x[0-9a-f]+-\d+")


# 64 slices of nstool's default pools of networks and of host ids
SLICES = 64
NETS_PER_SLICE = 4 * 256  # addresses
IDS_PER_SLICE = 63 * 65536
NET_POOLS = ("10.213.0.0", "172.29.0.0")
FIRST_ID = 0x70000000


class Workplace:
    """base: the run's directory. worker: "gw0", or "" without xdist. prefix: of all sandbox names.

    nets: the networks that this process's sandboxes lease, as NSTOOL_NETS has them; ids: NSTOOL_IDS.
    Two processes with run directories of their own would else lease the same ones.
    part: the slice of those that it has.
    """

    def __init__(self, base: Path, worker: str, part: int) -> None:
        self.base = base
        self.worker = worker
        self.tag = base.name.removeprefix("nst-")
        self.prefix = f"t{worker.removeprefix('gw')}x{self.tag}-"
        self.own = base / (worker or "main")
        self.run = self.own / "run"  # NSTOOL_RUN_DIR, made by nstool
        self.user_runtime = self.own / "user"  # XDG_RUNTIME_DIR of the ordinary user
        self.home = base / "home"
        self.nets = [ip_network((int(ip_address(pool)) + part * NETS_PER_SLICE, 22)) for pool in NET_POOLS]
        first = FIRST_ID + part * IDS_PER_SLICE
        self.ids = f"{first:#x}-{first + IDS_PER_SLICE - 1:#x}"
        self.claim: socket.socket | None = None  # of the slice
        self._numbers = itertools.count(1)

    def new_name(self) -> str:
        """Return a sandbox name that nobody else on this host uses."""
        return f"{self.prefix}{next(self._numbers)}"

    def is_own(self, text: str) -> bool:
        """Whether the name of a link, cgroup or firewall object, or its whole text, speaks of our sandboxes.

        What speaks of no test's sandbox is ours when no other worker can have made it.
        """
        if self.prefix in text:
            return True
        links = [int(digits, 16) for digits in re.findall(r"\bns-([0-9a-f]{8})", text)]
        dotted = [int(ip_address(word)) for word in re.findall(r"\b(?:10\.213|172\.29)\.\d+\.\d+\b", text)]
        if addresses := [ip_address(number) for number in links + dotted]:
            return any(address in net for address in addresses for net in self.nets)
        return not self.worker and not TEST_NAME.search(text)

    def is_others(self, path: str) -> bool:
        """Whether the path lies in a directory of another worker of this run."""
        if self.worker and re.search(rf"/popen-(?!{self.worker}\b)gw\d+(/|$)", path):  # pytest's tmp_path
            return True
        return Path(path).is_relative_to(self.base) and not Path(path).is_relative_to(self.own)


def claim_slice() -> tuple[int, socket.socket]:
    """Take a slice that no other process of this host has; it is taken for as long as the socket is open."""
    name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    for part in range(SLICES):
        try:
            name.bind(f"\0nstool-tests-{part}")
            return part, name
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    raise RuntimeError(f"{SLICES} processes run tests of nstool here")


def open_workplace(worker: str) -> Workplace:
    """Return this process's workplace, its directories made. worker: "" in the process that starts the run."""
    if not worker:
        base = Path(tempfile.gettempdir(), f"nst-{os.getpid():x}")
        base.mkdir(mode=0o711)  # the ordinary user must get through
        base.chmod(0o711)
        os.environ["NSTOOL_TEST_DIR"] = str(base)
    part, claim = claim_slice()
    place = Workplace(Path(os.environ["NSTOOL_TEST_DIR"]), worker, part)
    place.claim = claim
    place.own.mkdir()
    place.own.chmod(0o711)
    place.user_runtime.mkdir(mode=0o700)
    os.environ["NSTOOL_RUN_DIR"] = str(place.run)
    os.environ["NSTOOL_NETS"] = ",".join(map(str, place.nets))
    os.environ["NSTOOL_IDS"] = place.ids
    return place


def close_workplace(place: Workplace) -> None:
    """Remove the run's directory."""
    remove_tree(place.base)
    for name in ("TEST_DIR", "RUN_DIR", "NETS", "IDS"):
        del os.environ[f"NSTOOL_{name}"]


def stale() -> list[Path]:
    """Return the directories of runs that were killed."""
    found = []
    for base in Path(tempfile.gettempdir()).glob("nst-*"):
        with contextlib.suppress(FileNotFoundError):  # another run has just removed it
            if base.lstat().st_uid == os.geteuid() and is_stale(base.name.removeprefix("nst-")):
                found.append(base)
    return found


def is_stale(tag: str) -> bool:
    """Whether the run of the process with this number, in hex, is over: none has it, or the one that just starts."""
    if not re.fullmatch("[0-9a-f]+", tag):
        return False
    return int(tag, 16) == os.getpid() or not os.path.exists(f"/proc/{int(tag, 16)}")


def remove_tree(base: Path) -> None:
    """Remove a directory. A mount still in it is detached first: its source is not ours to delete.

    By rm(1): shutil.rmtree goes no deeper than Python's recursion.
    """
    inside = [target for target in mount_points() if Path(target).is_relative_to(base)]
    for target in reversed(inside):
        kernel.umount(target, kernel.MNT_DETACH)
    subprocess.run(["rm", "-rf", "--one-file-system", "--", base], check=True)


def mount_points() -> list[str]:
    """Return the mount points of this mount namespace, in the order of /proc/self/mountinfo."""
    with open("/proc/self/mountinfo") as file:
        return [unescape(line.split()[4]) for line in file]


def unescape(field: str) -> str:
    """Undo the octal escapes of /proc/self/mountinfo: space, tab, newline, backslash."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def entries(directory: str | Path) -> list[str]:
    """Return the names in a directory; none if it is absent, as those of nstool are when nothing is in them."""
    try:
        return sorted(os.listdir(directory))
    except FileNotFoundError:
        return []
