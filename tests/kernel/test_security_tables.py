"""The tables of nstool.security beside what the kernel and the system's own tools say."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nstool.security import capabilities, idmap, rlimits, securebits
from nstool.spec.model import IdMap
from tests.support import kernel
from tests.support.user import User

InChild = Callable[..., Any]

CAP_CHOWN, CAP_KILL, CAP_NET_RAW = 1 << 0, 1 << 5, 1 << 13
PR_SET_SECUREBITS, PR_GET_SECUREBITS, PR_CAPBSET_READ = 28, 27, 23
libc = ctypes.CDLL(None, use_errno=True)


def libcap() -> ctypes.CDLL:
    """The system's libcap, which the package that builds nstool brings."""
    name = ctypes.util.find_library("cap")
    assert name, "no libcap; install libcap2"
    library = ctypes.CDLL(name, use_errno=True)
    library.cap_from_text.restype = ctypes.c_void_p
    library.cap_to_text.restype = ctypes.c_char_p
    return library


def by_libcap(text: str) -> capabilities.CapSets:
    """Read the text form with libcap."""
    library = libcap()
    caps = library.cap_from_text(text.encode())
    assert caps, f"libcap refuses {text!r}"
    masks = []
    for flag in range(3):  # CAP_EFFECTIVE, CAP_PERMITTED, CAP_INHERITABLE
        value = ctypes.c_int()
        mask = 0
        for bit in range(capabilities.last_cap() + 1):
            library.cap_get_flag(ctypes.c_void_p(caps), bit, flag, ctypes.byref(value))
            mask |= value.value << bit
        masks.append(mask)
    return capabilities.CapSets(*masks)


def text_by_libcap(text: str) -> str:
    """Return libcap's own form of a text."""
    library = libcap()
    return library.cap_to_text(ctypes.c_void_p(library.cap_from_text(text.encode())), None).decode()


@pytest.mark.parametrize(
    "text",
    [
        "=",
        "=ep",
        "all=eip",
        "cap_net_raw,cap_kill=ep",
        "cap_kill=eip cap_kill-e",
        "all=p cap_chown-p",
        "=ep cap_chown,cap_kill-e cap_net_raw+i",
        "cap_sys_admin+p cap_sys_admin+e",
    ],
)
def test_text_form_is_libcaps(text: str) -> None:
    """libcap and nstool read each other's text as the same sets. cap_from_text(3)."""
    last = capabilities.last_cap()
    sets = capabilities.from_text(text, last)
    assert sets == by_libcap(text)
    assert by_libcap(capabilities.to_text(sets, last)) == sets
    assert capabilities.from_text(text_by_libcap(text), last) == sets


def test_last_cap_is_the_last_that_the_kernel_knows() -> None:
    """prctl answers for that one and refuses the next."""
    last = capabilities.last_cap()
    assert libc.prctl(PR_CAPBSET_READ, last, 0, 0, 0) >= 0
    assert libc.prctl(PR_CAPBSET_READ, last + 1, 0, 0, 0) == -1


def set_securebits(mask: int) -> tuple[int, ...]:
    """Set securebits, then try to clear each flag; return what is left after each try."""
    kernel.prctl(PR_SET_SECUREBITS, mask)
    left = []
    for name in ("noroot", "no_setuid_fixup", "keep_caps", "no_cap_ambient_raise"):
        libc.prctl(PR_SET_SECUREBITS, mask & ~securebits.mask([name]), 0, 0, 0)
        left.append(libc.prctl(PR_GET_SECUREBITS, 0, 0, 0, 0))
        libc.prctl(PR_SET_SECUREBITS, mask, 0, 0, 0)
    return tuple(left)


@pytest.mark.needs("root")
@pytest.mark.parametrize("flags", [("noroot",), ("noroot", "no_setuid_fixup", "no_cap_ambient_raise")])
def test_locked_securebits_stay(flags: tuple[str, ...], in_child: InChild) -> None:
    """With all locks nothing can be cleared; without them everything can."""
    mask = securebits.mask(flags)
    locked = securebits.with_locks(mask)
    assert in_child(set_securebits, locked) == (locked,) * 4
    assert in_child(set_securebits, mask)[0] == mask & ~securebits.mask(["noroot"])


@pytest.mark.parametrize("name", ["core", "cpu", "nofile", "memlock", "rttime", "msgqueue"])
def test_limits_arrive(name: str, in_child: InChild) -> None:
    """The number and the value that the table gives are those that /proc shows."""

    def lower() -> str:
        resource.setrlimit(rlimits.number(name), rlimits.parse(name, "30:70"))
        return Path("/proc/self/limits").read_text()

    rows = {line[:26].strip(): line[26:].split()[:2] for line in in_child(lower).splitlines()}
    words = {"core": "core file size", "cpu": "cpu time", "nofile": "open files", "memlock": "locked memory"}
    words |= {"rttime": "realtime timeout", "msgqueue": "msgqueue size"}
    assert rows[f"Max {words[name]}"] == ["30", "70"]


@contextmanager
def process_in_userns() -> Iterator[int]:
    """The pid of a process in a new user namespace."""
    ready, go = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        kernel.unshare(kernel.CLONE_NEWUSER)
        os.write(ready[1], b"1")
        os.read(go[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    try:
        yield pid
    finally:
        os.write(go[1], b"1")
        os.waitpid(pid, 0)


def map_child(uid: int, maps: tuple[IdMap, ...]) -> tuple[int, str]:
    """Map a new user namespace with newuidmap; return its exit status and the map that the kernel then shows."""
    with process_in_userns() as pid:
        words = ["newuidmap", str(pid), *idmap.format_map(maps).split()]
        status = subprocess.run(words, stderr=subprocess.DEVNULL).returncode
        return status, Path(f"/proc/{pid}/uid_map").read_text()


@pytest.mark.needs("user", "newuidmap", "userns")
def test_newuidmap_takes_the_chosen_map(user: User) -> None:
    """The map chosen from /etc/subuid is written, and what is predicted to be refused is refused."""
    subuid = Path("/etc/subuid").read_text()
    maps = idmap.rootless_map(user.uid, user.name, subuid, 5000)
    status, shown = user.run(map_child, user.uid, maps)
    assert (status, idmap.parse_map(shown)) == (0, maps)
    for wrong in ((IdMap(0, 0, 1),), (IdMap(0, user.subuid[0] - 1, 1),)):
        assert idmap.refused_by_newidmap(wrong, user.uid, user.name, subuid) == wrong
        assert user.run(map_child, user.uid, wrong)[0] != 0


@pytest.mark.needs("root", "userns")
@pytest.mark.parametrize(
    ("maps", "valid"),
    [
        ((IdMap(0, 100000, 10), IdMap(10, 100010, 5)), True),
        ((IdMap(0, 100000, 10), IdMap(9, 200000, 5)), False),
        ((IdMap(0, 100000, 10), IdMap(20, 100009, 5)), False),
        ((IdMap(0, 4294967294, 1),), True),
        ((IdMap(0, 4294967294, 2),), False),
        ((IdMap(0, 4294967295, 1),), False),
        ((IdMap(0, 0, 0),), False),
        (tuple(IdMap(i, i, 1) for i in range(340)), True),
        (tuple(IdMap(i, i, 1) for i in range(341)), False),
        (tuple(IdMap(4000000000 + i, 3000000000 + i, 1) for i in range(200)), False),
    ],
)
def test_maps_are_refused_as_by_the_kernel(maps: tuple[IdMap, ...], valid: bool, in_child: InChild) -> None:
    """check_map raises for exactly those that a write to uid_map refuses."""

    def write() -> bool:
        with process_in_userns() as pid:
            try:
                Path(f"/proc/{pid}/uid_map").write_text(idmap.format_map(maps))
            except OSError:
                return False
        return True

    assert in_child(write) == valid
    try:
        idmap.check_map(maps)
    except ValueError:
        assert not valid
    else:
        assert valid
