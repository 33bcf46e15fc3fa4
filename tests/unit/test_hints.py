"""The catalogue: its form, its document, and the detectors that are shown a host in a directory."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest

from nstool import uapi
from nstool.detectors.view import View
from nstool.errors import errno_number
from nstool.kinds import INITIAL_USERNS
from nstool.plan import hints, preflight
from nstool.plan.calls import CALLS
from nstool.plan.steps import CHILD, INIT, LAUNCHER, PAYLOAD, Fd, Plan, Step

REPOSITORY = Path(__file__).resolve().parents[2]
# Calls that nstool makes beside its plans, or explains to others.
BESIDE = {"bind", "memfd_create", "renameat2", "rename", "link", "linkat", hints.ANY}
USER = uapi.CLONE_NEWUSER
UNPRIVILEGED = "Uid:\t1000\t1000\t1000\t1000\nGid:\t1000\t1000\t1000\t1000\nCapEff:\t0000000000000000\n"
ROOT = "Uid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nCapEff:\t000001ffffffffff\n"


def init(call: str, *args: object, result: str = "") -> Step:
    return Step(INIT, call, args, "", result)  # type: ignore[arg-type]


def launcher(call: str, *args: object, result: str = "") -> Step:
    return Step(LAUNCHER, call, args, "", result)  # type: ignore[arg-type]


def label(path: str, text: str) -> Step:
    return Step(PAYLOAD, "write_file", (Fd("attr_proc"), f"thread-self/{path}", text, 0, 0), "")


EXECVE = Step(PAYLOAD, "execve", (("/bin/true",), ("true",), ()), "")
NO_NEW_PRIVS = Step(PAYLOAD, "prctl", (uapi.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "")
CLONE_USER = launcher("clone3", USER, -1, 0, 0)
CLONE = launcher("clone3", 0, -1, 0, 0)


# ---- the form of the table ----


def test_rows_name_calls_and_errnos_that_exist() -> None:
    """Every call is one of plan.calls, every errno one of errno(3), or of the kernel."""
    for row in hints.ROWS:
        assert set(row.calls) <= set(CALLS) | BESIDE, row.name
        assert all(errno_number(name) for name in row.errnos), row.name
        assert row.source, row.name


def test_rows_have_names_of_their_own() -> None:
    """A detector stands for one cause; directory_closed alone is met by two kinds of step."""
    names = [row.name for row in hints.ROWS]
    assert {name for name in names if names.count(name) > 1} == {"directory_closed"}


def test_every_cause_and_remedy_has_words_for_its_braces() -> None:
    """A word that no detector gives would show as <word> in a checked cause."""
    sources = "".join(path.read_text() for path in (REPOSITORY / "nstool/detectors").glob("*.py"))
    for row in hints.ROWS:
        for word in re.findall(r"\{(\w+)\}", row.cause + row.remedy):
            assert f'"{word}"' in sources, (row.name, word)


def test_every_row_is_tested() -> None:
    """Each detector is named by a test that provokes it or shows it a prepared host."""
    texts = Path(__file__).read_text() + (REPOSITORY / "tests/kernel/test_hints.py").read_text()
    assert [row.name for row in hints.ROWS if not re.search(rf"{row.name}\b", texts)] == []


def test_document_is_current() -> None:
    """docs/errors.md is what `python -m nstool.plan.hints` prints."""
    assert (REPOSITORY / "docs/errors.md").read_text() == hints.markdown()


# ---- explain ----


def files(root: Path, **texts: str) -> str:
    """Make files below root, / written as __ in their names; return root."""
    for name, text in texts.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


def explained(root: str, number: int, *steps: Step, detail: int = 0) -> tuple[str, ...]:
    """Return the checked causes of the last step's failure; () when none is sure."""
    causes, remedies, checked = hints.explain(steps[-1], number, detail, Plan(steps), root)
    assert len(causes) == len(remedies)
    return causes if checked else ()


def cause(wanted: str, /, **words: object) -> str:
    row = next(row for row in hints.ROWS if row.name == wanted)
    return hints.sentence(row.cause, words)


def test_unknown_refusal_has_no_cause(tmp_path: Path) -> None:
    """Where no row is about it, nothing is said."""
    assert hints.explain(launcher("umask", 0), errno.EIO, 0, None, str(tmp_path)) == ((), (), False)


def test_possible_causes_are_named_where_none_is_sure(tmp_path: Path) -> None:
    """What a detector cannot tell is possible, and said to be unchecked; the sure one silences it."""
    host = files(tmp_path, proc__thread_self__status="", sys__fs__selinux__enforce="1\n")
    step = launcher("mknodat", Fd("dev"), "null", 0, 0)
    causes, _, checked = hints.explain(step, errno.EPERM, 0, Plan((step,)), host)
    assert not checked
    assert cause("security_module") in causes
    files(tmp_path, **{"proc__thread-self__status": UNPRIVILEGED})
    assert explained(host, errno.EPERM, step) == (cause("no_mknod"),)


def test_possible_cause_has_no_gaps(tmp_path: Path) -> None:
    """What a detector would have filled in is left out of a sentence that is only possible."""
    causes, _, checked = hints.explain(CLONE_USER, errno.ENOSPC, 0, None, files(tmp_path, proc__x=""))
    assert not checked
    assert "a limit of user.max_*_namespaces is reached, here or in an outer user namespace" in causes


def test_no_hint_where_the_host_is_fine(tmp_path: Path) -> None:
    """Switches that are open, and privilege, explain nothing."""
    host = files(
        tmp_path,
        **{"proc__thread-self__status": ROOT + "Seccomp:\t0\n", "proc__sys__kernel__unprivileged_userns_clone": "1\n"},
        proc__self__mountinfo="1 0 8:1 / / rw - ext4 /dev/vda rw\n",
        proc__sys__user__max_user_namespaces="100\n",
    )
    assert explained(host, errno.EPERM, CLONE_USER) == ()


def test_files_of_the_host_may_have_been_too_many(tmp_path: Path) -> None:
    """ENFILE of any call has one cause; it is said as a possible one where files have been closed meanwhile."""
    host = files(tmp_path, **{"proc__sys__fs__file-nr": "10\t0\t1000\n"})
    step = Step(CHILD, "exec_init", (), "")
    causes, remedies, checked = hints.explain(step, errno.ENFILE, plan=Plan((step,)), root=host)
    assert causes == ("the host has as many files open as fs.file-max allows",)
    assert remedies == ("as root: sysctl -w fs.file-max=NUMBER",)
    assert not checked
    assert hints.explain(step, errno.EMFILE, plan=Plan((step,)))[2]


def test_a_limit_of_files_above_what_the_host_allows(tmp_path: Path) -> None:
    """Of who may raise a hard limit: else that is the cause, and its remedy says both."""
    host = files(tmp_path, **{"proc__thread-self__status": ROOT, "proc__sys__fs__nr_open": "1000\n"})
    (tmp_path / "proc/self/ns").mkdir(parents=True)
    (tmp_path / "proc/self/ns/user").symlink_to(INITIAL_USERNS)
    step = init("setrlimit", uapi.RLIMIT_NOFILE, 1, 1 << 40)
    assert explained(host, errno.EPERM, step) == (cause("above_nr_open", most=1000),)
    (tmp_path / "proc/self/ns/user").unlink()
    assert cause("above_nr_open", most=1000) not in explained(host, errno.EPERM, step)


# ---- detectors that are shown a host in a directory, because this one cannot be brought to it ----

MOUNTINFO = "20 1 8:1 / / rw - ext4 /dev/vda rw\n21 20 0:5 / /proc rw - proc proc rw{}\n"


@pytest.mark.parametrize(
    ("row", "number", "steps", "yes", "no", "words"),
    [
        (
            "userns_sysctl",
            errno.EPERM,
            (CLONE_USER,),
            {"proc/thread-self/status": UNPRIVILEGED, "proc/sys/kernel/unprivileged_userns_clone": "0\n"},
            {"proc/sys/kernel/unprivileged_userns_clone": "1\n"},
            {},
        ),
        (
            "apparmor_userns",
            errno.EPERM,
            (CLONE_USER, init("mount", None, "/", None, 0, None)),
            {
                "proc/thread-self/status": UNPRIVILEGED,
                "proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1\n",
                "proc/self/attr/apparmor/current": "unconfined\n",
            },
            {"proc/sys/kernel/apparmor_restrict_unprivileged_userns": "0\n"},
            {},
        ),
        (
            "kernel_too_old",
            errno.ENOSYS,
            (launcher("mount_setattr", Fd("x"), "", 0, 0, 0, 0, -1),),
            {"proc/sys/kernel/osrelease": "5.10.0-21-amd64\n", "proc/thread-self/status": "Seccomp:\t0\n"},
            {"proc/sys/kernel/osrelease": "5.12.0-rc1\n"},
            {"release": "5.10", "since": "5.12"},
        ),
        (
            "host_task_limit",
            errno.EAGAIN,
            (CLONE,),
            {
                "proc/loadavg": "0.1 0.1 0.1 1/32768 99\n",
                "proc/sys/kernel/pid_max": "32768\n",
                "proc/thread-self/status": ROOT,
            },
            {"proc/loadavg": "0.1 0.1 0.1 1/100 99\n"},
            {"limit": "kernel.pid_max", "allowed": 32768},
        ),
        (
            "sandbox_pids_limit",
            errno.EAGAIN,
            (launcher("write_file", -100, "/cg/pids.max", b"1", 0, 0), init("clone3", 0, -1, 0, 0)),
            {"proc/thread-self/status": ROOT},
            None,
            {"allowed": 1},
        ),
        (
            "out_of_memory",
            errno.ENOMEM,
            (launcher("fsopen", "tmpfs", 1),),
            {"proc/meminfo": "MemTotal: 100 kB\nMemAvailable: 2048 kB\n"},
            {"proc/meminfo": "MemAvailable: 2048000 kB\n"},
            {"available": 2},
        ),
        (
            "host_fd_limit",
            errno.ENFILE,
            (launcher("fsopen", "tmpfs", 1),),
            {"proc/sys/fs/file-nr": "1000\t0\t1000\n"},
            {"proc/sys/fs/file-nr": "10\t0\t1000\n"},
            {"allowed": 1000},
        ),
        (
            "type_not_built",
            errno.EINVAL,
            (launcher("clone3", uapi.CLONE_NEWUTS, -1, 0, 0),),
            {"proc/self/ns/user": ""},
            {"proc/self/ns/uts": ""},
            {"type": "uts", "option": "CONFIG_UTS_NS"},
        ),
        (
            "cgroup_gone",
            errno.ENODEV,
            (launcher("openat2", -100, "/cg/x", 0, 0, 0, result="cgroup"), launcher("clone3", 0, Fd("cgroup"), 0, 0)),
            {},
            {"cg/x/cgroup.procs": ""},
            {"cgroup": "/cg/x"},
        ),
        (
            "cgroup_has_controllers",
            errno.EBUSY,
            (launcher("openat2", -100, "/cg/x", 0, 0, 0, result="cgroup"), launcher("clone3", 0, Fd("cgroup"), 0, 0)),
            {"cg/x/cgroup.subtree_control": "memory\n"},
            {"cg/x/cgroup.subtree_control": "\n"},
            {"cgroup": "/cg/x", "controllers": "memory"},
        ),
        (
            "hidepid",
            errno.ENOENT,
            (CLONE_USER, launcher("write_proc", "uid_map", "0 1000 1\n")),
            {"proc/self/mountinfo": MOUNTINFO.format(",hidepid=invisible"), "proc/self/uid_map": "0 0 4294967295\n"},
            {"proc/self/mountinfo": MOUNTINFO.format("")},
            {"option": "hidepid=invisible"},
        ),
        (
            "joined_setgroups_denied",
            errno.EPERM,
            (
                launcher("openat2", -100, "/proc/77/ns/user", 0, 0, 0, result="ns_user"),
                CLONE,
                init("setns", Fd("ns_user"), USER),
                init("setgroups", b""),
            ),
            {"proc/77/setgroups": "deny\n", "proc/thread-self/status": ROOT},
            {"proc/77/setgroups": "allow\n"},
            {},
        ),
        (
            "joined_option_id_unmapped",
            errno.EINVAL,
            (
                launcher("openat2", -100, "/proc/77/ns/user", 0, 0, 0, result="ns_user"),
                CLONE,
                init("setns", Fd("ns_user"), USER),
                init("fsopen", "devpts", 1, result="fs"),
                init("fsconfig", Fd("fs"), uapi.FSCONFIG_SET_STRING, "gid", "5", 0),
            ),
            {"proc/77/gid_map": "0 1000 1\n"},
            {"proc/77/gid_map": "0 1000 6\n"},
            {"option": "gid=5", "map": "gid_map"},
        ),
        (
            "mount_limit",
            errno.ENOSPC,
            (init("move_mount", Fd("a"), "", Fd("b"), "", 0),),
            {"proc/sys/fs/mount-max": "3\n", "proc/self/mountinfo": MOUNTINFO.format("")},
            {"proc/sys/fs/mount-max": "100000\n"},
            {"most": 3, "count": 2},
        ),
        (
            "proc_option_unknown",
            errno.EINVAL,
            (
                CLONE_USER,
                init("fsopen", "proc", 1, result="fs"),
                init("fsconfig", Fd("fs"), uapi.FSCONFIG_SET_STRING, "hidepid", "invisible", 0),
            ),
            {"proc/sys/kernel/osrelease": "5.4.0\n"},
            None,
            {"option": "hidepid=invisible"},
        ),
        (
            "overlay_in_userns",
            errno.EPERM,
            (CLONE_USER, init("fsopen", "overlay", 1, result="fs"), init("fsmount", Fd("fs"), 1, 0)),
            {"proc/sys/kernel/osrelease": "5.10.1\n"},
            {"proc/sys/kernel/osrelease": "5.11.0\n"},
            {},
        ),
        (
            "idmapped_already",
            errno.EPERM,
            (
                CLONE,
                launcher("open_tree", -100, "/", 1, result="t"),
                launcher("mount_setattr", Fd("t"), "", 0, uapi.MOUNT_ATTR_IDMAP, 0, 0, -1),
            ),
            {"proc/self/mountinfo": "20 1 8:1 / / rw,idmapped - ext4 /dev/vda rw\n", "proc/thread-self/status": ROOT},
            {"proc/self/mountinfo": "20 1 8:1 / / rw - ext4 /dev/vda rw\n"},
            {"point": "/"},
        ),
        (
            "root_is_rootfs",
            errno.EINVAL,
            (CLONE, init("pivot_root", ".", ".")),
            {"proc/self/mountinfo": "1 1 0:2 / / rw - rootfs rootfs rw\n"},
            {"proc/self/mountinfo": "1 1 0:2 / / rw - ext4 /dev/vda rw\n"},
            {},
        ),
        (
            "inner_processes",
            errno.EBUSY,
            (launcher("write_file", -100, "/cg/x/cgroup.subtree_control", b"+memory", 1, 0),),
            {
                "proc/self/mountinfo": "30 1 0:9 / /cg rw - cgroup2 cgroup2 rw\n",
                "cg/cgroup.controllers": "memory\n",
                "cg/x/cgroup.controllers": "memory\n",
                "cg/x/cgroup.procs": "12\n13\n",
                "cg/x/cgroup.type": "domain\n",
            },
            {"cg/x/cgroup.procs": ""},
            {"pids": "12, 13", "cgroup": "/cg/x"},
        ),
        (
            "limit_below_use",
            errno.EBUSY,
            (launcher("write_file", -100, "/cg/memory.limit_in_bytes", b"4096", 0, 0),),
            {"cg/memory.usage_in_bytes": "8192\n"},
            {"cg/memory.usage_in_bytes": "1024\n"},
            {},
        ),
        (
            "key_quota",
            errno.EDQUOT,
            (CLONE, Step(PAYLOAD, "keyctl", (1, None), "")),
            {"proc/thread-self/status": UNPRIVILEGED, "proc/key-users": " 1000:     5 5/5 200/200 99/20000\n"},
            {"proc/key-users": " 1000:     5 5/5 2/200 99/20000\n"},
            {"uid": 1000, "what": "keys", "most": 200},
        ),
        (
            "keys_absent",
            errno.ENOSYS,
            (CLONE, Step(PAYLOAD, "keyctl", (1, None), "")),
            {"proc/thread-self/status": "Seccomp:\t0\n"},
            {"proc/keys": ""},
            {},
        ),
        (
            "apparmor_no_attribute",
            errno.ENOENT,
            (CLONE, label("attr/apparmor/exec", "exec web")),
            {"proc/self/attr/current": ""},
            {"proc/self/attr/apparmor/exec": ""},
            {},
        ),
        (
            "apparmor_confined_already",
            errno.EPERM,
            (CLONE, label("attr/apparmor/exec", "exec web"), NO_NEW_PRIVS, EXECVE),
            {"proc/self/attr/apparmor/current": "box (enforce)\n", "proc/thread-self/status": ROOT},
            {"proc/self/attr/apparmor/current": "unconfined\n"},
            {"own": "box (enforce)", "profile": "web"},
        ),
        (
            "selinux_absent",
            errno.EINVAL,
            (CLONE, label("attr/exec", "u:r:t:s0")),
            {},
            {"sys/fs/selinux/enforce": "1"},
            {},
        ),
        (
            "selinux_context_unknown",
            errno.EINVAL,
            (CLONE, label("attr/exec", "u:r:t:s0")),
            {"sys/fs/selinux/enforce": "1"},
            None,
            {"context": "u:r:t:s0"},
        ),
        (
            "no_room_for_filters",
            524,
            (CLONE, Step(PAYLOAD, "seccomp", (0, b"12345678"), "")),
            {"proc/sys/net/core/bpf_jit_enable": "1\n", "proc/sys/net/core/bpf_jit_limit": "528482304\n"},
            {"proc/sys/net/core/bpf_jit_enable": "0\n"},
            {"most": "528482304 bytes"},
        ),
        (
            "seccomp_absent",
            errno.EINVAL,
            (CLONE, Step(PAYLOAD, "seccomp", (0, b"12345678"), "")),
            {},
            {"proc/sys/kernel/seccomp/actions_avail": "allow\n"},
            {},
        ),
    ],
)
def test_prepared_host(
    tmp_path: Path,
    row: str,
    number: int,
    steps: tuple[Step, ...],
    yes: dict[str, str],
    no: dict[str, str] | None,
    words: dict[str, object],
) -> None:
    """The row's cause is named on the host that has it, alone, and not on the one that differs in ``no``."""
    for path, text in yes.items():
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (tmp_path / "proc").mkdir(exist_ok=True)
    assert explained(str(tmp_path), number, *steps) == (cause(row, **words),)
    for path, text in (no or {}).items():
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    if no is not None:
        assert cause(row, **words) not in explained(str(tmp_path), number, *steps)


def test_namespace_limit_and_nesting(tmp_path: Path) -> None:
    """A limit that is reached is counted; in the first user namespace nothing is nested too deep."""
    ns = tmp_path / "proc/7/ns"
    ns.mkdir(parents=True)
    (ns / "uts").symlink_to("uts:[4026531838]")
    files(tmp_path, proc__sys__user__max_uts_namespaces="1\n")
    step = launcher("clone3", uapi.CLONE_NEWUTS, -1, 0, 0)
    assert explained(str(tmp_path), errno.ENOSPC, step) == (
        cause("namespace_limit_reached", limit="user.max_uts_namespaces", allowed=1),
    )
    step = CLONE_USER
    causes, _, checked = hints.explain(step, errno.ENOSPC, 0, None, str(tmp_path))
    assert (cause("nested_too_deep") in causes, checked) == (True, False)
    (tmp_path / "proc/self/ns").mkdir(parents=True)
    (tmp_path / "proc/self/ns/user").symlink_to("user:[4026531837]")
    assert cause("nested_too_deep") not in hints.explain(step, errno.ENOSPC, 0, None, str(tmp_path))[0]


def test_helper_killed() -> None:
    """The helper's wait status tells the signal."""
    step = launcher("spawn", ("/bin/sh", "{pid}"))
    assert cause("helper_killed", signal=9) in explained("", errno.EPERM, step, detail=9)


def test_ends_of_the_launch_are_possible_only() -> None:
    """That the other process was killed is never sure."""
    for row, step in (("other_end_gone", init("wait")), ("child_gone", launcher("write_proc", "uid_map", "0 0 1\n"))):
        number = errno.EPIPE if row == "other_end_gone" else errno.ESRCH
        causes, _, checked = hints.explain(step, number)
        assert (causes, checked) == ((cause(row),), False)


def test_landlock_is_blamed_on_one_mount_only(tmp_path: Path) -> None:
    """EXDEV within a mount is Landlock's; between two filesystems it is what rename(2) says."""
    step = launcher("renameat2", str(tmp_path / "a"), str(tmp_path / "b"))
    assert explained("", errno.EXDEV, step) == (cause("same_filesystem"),)
    assert explained("", errno.EXDEV, launcher("renameat2", str(tmp_path / "a"), "/proc/self/b")) == ()


def test_profile_that_is_not_loaded_is_named(tmp_path: Path) -> None:
    """apparmor_profile_missing: the file could be opened, and what was written into it was not found."""
    host = files(tmp_path, proc__self__attr__apparmor__exec="")
    step = label("attr/apparmor/exec", "exec web")
    assert explained(host, errno.ENOENT, CLONE, step, detail=1) == (cause("apparmor_profile_missing", profile="web"),)
    assert explained(host, errno.ENOENT, CLONE, step, detail=0) == ()


def test_one_who_is_confined_may_stack(tmp_path: Path) -> None:
    """apparmor_confined_already: neither for a stacked profile, nor without no_new_privs, nor for one's own."""
    host = files(tmp_path, proc__self__attr__apparmor__current="box (enforce)\n", proc__x="")
    files(tmp_path, **{"proc__thread-self__status": ROOT})
    for steps in (
        (label("attr/apparmor/exec", "stack web"), NO_NEW_PRIVS),
        (label("attr/apparmor/exec", "exec web"),),
        (label("attr/apparmor/exec", "exec box//&web"), NO_NEW_PRIVS),
    ):
        assert cause("apparmor_confined_already", own="box (enforce)", profile="web") not in explained(
            host, errno.EPERM, CLONE, *steps, EXECVE
        )


def test_what_selinux_refuses_at_execve_is_possible_only(tmp_path: Path) -> None:
    """selinux_transition: the policy's reason stands in its log alone; without a context it is no cause."""
    host = files(tmp_path, sys__fs__selinux__enforce="1\n", **{"proc__thread-self__status": ROOT})
    steps = (CLONE, label("attr/exec", "u:r:t:s0"), EXECVE)
    causes, _, checked = hints.explain(EXECVE, errno.EPERM, 0, Plan(steps), host)
    assert (cause("selinux_transition") in causes, checked) == (True, False)
    assert cause("selinux_transition") not in hints.explain(EXECVE, errno.EPERM, 0, Plan((CLONE, EXECVE)), host)[0]


@pytest.mark.parametrize(
    ("abi", "row"), [(-errno.ENOSYS, "landlock_absent"), (-errno.EOPNOTSUPP, "landlock_off"), (2, "landlock_too_old")]
)
def test_why_there_is_no_ruleset(abi: int, row: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By what the kernel says of its version: no Landlock, one that is off, and one older than the plan."""
    monkeypatch.setattr("nstool.detectors.confining._abi", lambda: abi)
    host = files(tmp_path, **{"proc__thread-self__status": ROOT + "Seccomp:\t0\n"})
    step = Step(PAYLOAD, "landlock_create_ruleset", (0xFFFF, 0, 0), "", "landlock")
    number = -abi if abi < 0 else errno.EINVAL
    assert explained(host, number, CLONE, step) == (cause(row, abi=abi),)
    fits = Step(PAYLOAD, "landlock_create_ruleset", (0x3FFF, 0, 0), "", "landlock")
    assert cause("landlock_too_old", abi=abi) not in explained(host, errno.EINVAL, CLONE, fits)


def test_unreadable_script_and_long_arguments(tmp_path: Path) -> None:
    """A script that its user cannot read; arguments beyond a quarter of the stack."""
    script = tmp_path / "s"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o111)
    ids = Step(PAYLOAD, "setresuid", (1000, 1000, 1000), "")
    none = Step(PAYLOAD, "capset", (0, 0, 0), "")
    maps = launcher("write_proc", "uid_map", "0 1879048192 65536\n")
    step = Step(PAYLOAD, "execve", ((str(script),), (str(script),), ()), "")
    found = explained("", errno.EACCES, CLONE_USER, maps, ids, none, step)
    assert cause("unreadable_script", uid=1879049192, file=script) in found
    stack = Step(PAYLOAD, "setrlimit", (uapi.RLIMIT_STACK, 1 << 20, 1 << 20), "")
    many = tuple("x" * 100000 for _ in range(3))
    step = Step(PAYLOAD, "execve", (("/bin/sh",), many, ()), "")
    assert explained("", errno.E2BIG, CLONE, stack, step) == (cause("arguments_too_long", size=300027, most=262144),)


# ---- what the sandbox sees ----


def mounted(name: str, path: str) -> tuple[Step, ...]:
    flags = uapi.MOVE_MOUNT_F_EMPTY_PATH | uapi.MOVE_MOUNT_T_EMPTY_PATH
    return (
        init("openat2", uapi.AT_FDCWD, path, 0, 0, 0, result="at"),
        init("move_mount", Fd(name), "", Fd("at"), "", flags),
    )


def new_root(path: Path) -> tuple[Step, ...]:
    return (
        launcher("open_tree", uapi.AT_FDCWD, str(path), 1, result="root"),
        init("move_mount", Fd("root"), "", uapi.AT_FDCWD, "/", uapi.MOVE_MOUNT_F_EMPTY_PATH),
    )


def test_view_follows_links_inside_the_root(tmp_path: Path) -> None:
    """An absolute symlink of the root leads to the root's own files, and /.. stays inside."""
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/x").write_text("")
    (tmp_path / "bin").symlink_to("/usr/bin")
    view = View(new_root(tmp_path))
    place = view.locate("/../bin/x")
    assert (place.kind, place.path, place.host) == ("file", "/usr/bin/x", str(tmp_path / "usr/bin/x"))
    assert place.links == (("/bin", "/usr/bin"),)
    assert view.locate("/usr/no/x").missing == "/usr/no"
    assert view.locate("/etc").kind == "absent"


def test_view_ends_a_circle_of_links(tmp_path: Path) -> None:
    """Two links to each other are a loop."""
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert View(new_root(tmp_path)).locate("/a").kind == "loop"


def test_view_knows_binds_new_filesystems_and_what_is_made(tmp_path: Path) -> None:
    """The later mount covers the earlier; a tmpfs has what the plan makes in it; proc is not to be known."""
    (tmp_path / "root/data").mkdir(parents=True)
    (tmp_path / "root/proc").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/f").write_text("")
    steps = (
        launcher("open_tree", uapi.AT_FDCWD, str(tmp_path / "other"), 1, result="bind"),
        launcher("mount_setattr", Fd("bind"), "", 0, uapi.MOUNT_ATTR_NOEXEC, 0, 0, -1),
        *new_root(tmp_path / "root"),
        *mounted("bind", "/data"),
        init("fsopen", "proc", 1, result="fs"),
        init("fsmount", Fd("fs"), 1, 0, result="proc"),
        *mounted("proc", "/proc"),
        init("fsopen", "tmpfs", 1, result="fs"),
        init("fsmount", Fd("fs"), 1, 0, result="tmp"),
    )
    view = View((*steps, init("mkdirat", uapi.AT_FDCWD, "/data/new", 0o755)))
    assert view.locate("/data/f").host == str(tmp_path / "other/f")
    assert view.locate("/data/f").attributes == uapi.MOUNT_ATTR_NOEXEC
    assert view.locate("/data/new").kind == "dir"
    assert view.locate("/proc/1/exe").kind == "unknown"
    covered = View((*steps, *mounted("tmp", "/data")))
    assert covered.locate("/data/f").kind == "absent"
    assert covered.locate("/data").kind == "dir"


def test_view_takes_no_process_for_the_command() -> None:
    """/proc/self is whoever looks, and in the /proc of a joined mount namespace the pids are other processes."""
    assert View(()).locate("/proc/self/fd/3").kind == "unknown"
    assert View(()).locate("/dev/fd/3").kind == "unknown"
    assert View(()).locate(f"/proc/{os.getpid()}/fd").kind == "dir"
    joined = init("setns", Fd("target"), uapi.CLONE_NEWNS | uapi.CLONE_NEWPID)
    assert View((joined,)).locate(f"/proc/{os.getpid()}/fd").kind == "unknown"
    causes, _, checked = hints.explain(
        Step(PAYLOAD, "chdir", ("/proc/self/fd/3",), ""), errno.ENOENT, plan=Plan((joined,))
    )
    assert (causes, checked) == ((cause("directory_missing", missing="/proc/self/fd/3"),), False)


# ---- preflight ----


def test_predict_names_each_cause_once(tmp_path: Path) -> None:
    """The same cause of several steps is one problem, and undo steps are not asked about."""
    path = str(tmp_path / "no")
    one = launcher("open_tree", uapi.AT_FDCWD, path, 1, result="a")
    two = launcher("open_tree", uapi.AT_FDCWD, path, 1, result="b")
    undo = Step("undo", "unlinkat", (uapi.AT_FDCWD, "/no/such", 0), "")
    problems = preflight.predict(Plan((one, two, CLONE, undo)))
    assert [p.cause for p in problems] == [cause("source_missing", path=path, missing=path)]
    assert problems[0].call.startswith("a = open_tree(")


def test_predict_knows_what_earlier_steps_make(tmp_path: Path) -> None:
    """What the plan makes itself is not missing; a step that may fail so is no problem."""
    make = launcher("mkdirat", uapi.AT_FDCWD, str(tmp_path / "cg"), 0o755)
    use = launcher("openat2", uapi.AT_FDCWD, str(tmp_path / "cg/procs"), 0, 0, 0, result="fd")
    again = Step(LAUNCHER, "mkdirat", (uapi.AT_FDCWD, str(tmp_path), 0o755), "", ignore=errno.EEXIST)
    assert preflight.predict(Plan((make, use, again, CLONE))) == ()


def test_trial_plan_makes_nothing_that_stays() -> None:
    """No undo step is left, no link, and the command is a path that nothing has."""
    end = Step(PAYLOAD, "execve", (("/bin/sh",), ("sh",), ()), "")
    link = launcher("external", "veth_create", {})
    undo = Step("undo", "external", ("veth_delete", {}), "")
    trial = preflight.trial_plan(Plan((link, CLONE, end, undo)))
    assert [step.call for step in trial.steps] == ["clone3", "execve"]
    assert trial.steps[-1].args[0] == ("",)
    assert not os.path.exists("")
