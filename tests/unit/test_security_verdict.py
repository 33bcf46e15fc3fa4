"""The rules of who may act on whom, where this kernel cannot try them: Yama, protected symlinks, what is not known."""

from __future__ import annotations

import stat
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nstool import uapi
from nstool.security import acts, files
from nstool.security.access import AclEntry
from nstool.security.files import Inode, Walk
from nstool.security.verdict import INITIAL, Cred, Host, Ns, Task, UserNs, Verdict, every

HOST = Host()
CHILD = UserNs(10, 1000, INITIAL)
OTHERS_CHILD = UserNs(11, 2000, INITIAL)
GRANDCHILD = UserNs(12, 3000, CHILD)
SPACES = (INITIAL, CHILD, OTHERS_CHILD, GRANDCHILD)
PTRACE = 1 << uapi.CAP_SYS_PTRACE


def cred(uid: int = 1000, user_ns: UserNs | None = INITIAL, caps: int = 0, **ids: Any) -> Cred:
    every_id = dict.fromkeys(("uid", "euid", "suid", "fsuid", "gid", "egid", "sgid", "fsgid"), uid)
    return Cred(**{**every_id, "groups": (), "effective": caps, "permitted": caps, "user_ns": user_ns, **ids})


def task(pid: int, **facts: Any) -> Task:
    plain = {"tgid": pid, "comm": "x", "cred": cred(), "pids": (pid,), "pgids": (pid,), "pid_ns": (1,), "session": 1}
    return Task(pid=pid, **{**plain, **facts})


def answers(verdict: Verdict) -> tuple[str, str]:
    return verdict.answer, verdict.errno


# Yama


@pytest.mark.parametrize(
    ("scope", "caps", "ancestors", "answer"),
    [
        (0, 0, (), "yes"),
        (1, 0, (7, 1), "yes"),
        (1, 0, (8, 1), "unknown"),
        (1, PTRACE, (8, 1), "yes"),
        (2, 0, (7, 1), "no"),
        (2, PTRACE, (), "yes"),
        (3, PTRACE, (7, 1), "no"),
    ],
)
def test_yama(scope: int, caps: int, ancestors: tuple[int, ...], answer: str) -> None:
    """0 asks nothing, 1 for a descendant or one who names its tracer, 2 for the capability, 3 lets nobody."""
    a, b = task(7, cred=cred(caps=caps)), task(9, ancestors=ancestors)
    verdict = acts.ptrace(a, b, HOST.replace(yama=scope))
    assert verdict.answer == answer
    assert all(check.function == "yama_ptrace_access_check" for check in verdict.deciding if answer != "yes")
    if answer == "unknown":
        assert "PR_SET_PTRACER" in verdict.needs[0]


def test_yama_lets_the_tracer_and_its_threads_write_too() -> None:
    """Who has attached already is not asked for its ancestors: /proc/PID/mem, process_vm_writev(2)."""
    host, b = HOST.replace(yama=1), task(9, ancestors=(8, 1), tracer=7)
    thread = task(71, tgid=7)
    assert [acts.read(a, b, host, "mem").answer for a in (task(7), thread)] == ["yes", "yes"]
    assert acts.read(task(6), b, host, "mem").answer == "unknown"
    assert acts.read(task(7), b.replace(tracer=0), host, "mem").answer == "unknown"


def test_a_group_of_which_not_all_is_seen_is_not_refused_for_certain() -> None:
    """Where its leader is in a pid namespace above the reader's, others of the group may be there."""
    a, b = task(7, pgrp=5, pgids=(5,)), task(9, pgrp=5, pgids=(5,), cred=cred(5))
    assert acts.kill_group(a, (b,), b, HOST).answer == "no"
    a, b = a.replace(pgrp=0, pgids=(0,)), b.replace(pgrp=0, pgids=(0,))
    assert acts.kill_group(a, (b,), b, HOST).answer == "unknown"


def test_an_init_that_is_traced_is_sent_what_it_has_no_handler_for() -> None:
    """Its tracer sees it, sig_ignored of kernel/signal.c; SIGKILL never comes from beside."""
    a, b = task(7), task(9, init=True)
    assert acts.signal(a, b, HOST, uapi.SIGTERM).answer == "no"
    assert acts.signal(a, b.replace(tracer=5), HOST, uapi.SIGTERM).answer == "yes"
    assert acts.signal(a, b.replace(tracer=5), HOST, uapi.SIGKILL).answer == "no"


def test_yama_does_not_ask_who_only_reads() -> None:
    """PTRACE_MODE_READ is none of its business; /proc/PID/mem is."""
    a, b, host = task(7), task(9), HOST.replace(yama=3)
    assert acts.read(a, b, host).answer == "yes"
    assert acts.read(a, b, host, "environ").answer == "yes"
    assert answers(acts.read(a, b, host, "mem")) == ("no", "EACCES")


# What is not known


def test_ids_that_the_reader_cannot_tell_apart_leave_it_open() -> None:
    """Two processes whose ids both show as 65534 may have the same one or not."""
    host = HOST.replace(blurred=(65534,))
    a, b = (task(pid, cred=cred(65534, CHILD)) for pid in (7, 9))
    assert acts.signal(a, b, HOST).answer == "yes"
    assert acts.signal(a, b, host).answer == "unknown"
    assert acts.signal(a, b.replace(cred=cred(5, CHILD)), host).answer == "no"
    assert "ids that your user namespace does not map" in acts.signal(a, b, host).needs[0]


def test_the_initial_namespaces_capabilities_reach_where_the_reader_does_not_see() -> None:
    a, b = task(7, cred=cred(caps=1 << uapi.CAP_KILL)), task(9, cred=cred(5, None))
    assert acts.signal(a, b, HOST).answer == "yes"
    assert acts.signal(a.replace(cred=cred(8)), b, HOST).answer == "unknown"
    assert acts.signal(a.replace(cred=cred(8)), b.replace(cred=cred(5)), HOST).answer == "no"


def test_memory_of_an_unknown_user_namespace() -> None:
    """Where the capability holds over one of the possible ones and not over another, it is not known."""
    b = task(9, cred=cred(3000, GRANDCHILD), dumpable=False, mm_user_ns=(GRANDCHILD, CHILD))
    over_both, over_one = task(7, cred=cred(1000)), task(7, cred=cred(3000, GRANDCHILD, PTRACE))
    assert acts.ptrace(over_both, b, HOST).answer == "yes"
    assert acts.ptrace(over_one, b, HOST).answer == "unknown"
    assert "last executed a program" in acts.ptrace(over_one, b, HOST).needs[0]


def test_a_refusal_is_final_whatever_else_is_unknown() -> None:
    """And its errno is not told where the kernel may have refused before."""
    a, b = task(7, seccomp=2), task(9, init=True, cred=cred(5, None))
    verdict = acts.signal(a, b, HOST, uapi.SIGKILL)
    assert answers(verdict) == ("no", "")
    assert verdict.deciding[0].function == "sig_task_ignored"


def test_what_is_hidden_is_said_of_a_yes_only() -> None:
    a, b = task(7), task(9)
    assert any("Landlock" in text for text in acts.signal(a, b, HOST.replace(lsms=None)).unless)
    assert any("Landlock" in text for text in acts.signal(a, b, HOST.replace(lsms=("landlock",))).unless)
    assert acts.signal(a, b, HOST.replace(lsms=("capability", "yama"))).unless == ()
    assert acts.signal(a, task(9, cred=cred(5)), HOST).unless == ()


@pytest.mark.parametrize(
    ("labels", "permissive", "answer"),
    [
        (("", ""), False, "yes"),
        (("unconfined", "unconfined"), False, "yes"),
        (("docker-default (complain)", "unconfined"), False, "yes"),
        (("docker-default (enforce)", "unconfined"), False, "unknown"),
        (("unconfined", "docker-default (enforce)"), False, "unknown"),
        (("u:r:t:s0", "u:r:t:s0"), True, "yes"),
        (("u:r:t:s0", "u:r:t:s0"), False, "unknown"),
        ((None, ""), False, "unknown"),
    ],
)
def test_security_modules(labels: tuple[str | None, str | None], permissive: bool, answer: str) -> None:
    """Who is unconfined is not refused; what a policy says is not known."""
    a, b = (task(pid, label=label) for pid, label in zip((7, 9), labels))
    assert acts.ptrace(a, b, HOST.replace(permissive=permissive)).answer == answer


def test_security_modules_are_asked_by_hooks_that_there_are() -> None:
    """As linux/lsm_hook_defs.h has them."""
    a = task(7, namespaces={kind: Ns(1, INITIAL) for kind in ("mnt", "uts")}, cred=cred(caps=1 << uapi.CAP_SYS_ADMIN))
    asked = [[check.function for check in ask(a, HOST).checks][2] for ask in (acts.mount, acts.sethostname)]
    assert asked == ["security_sb_mount", "security_capable"]


def test_seccomp_in_strict_mode() -> None:
    assert acts.mount(task(7, seccomp=1, namespaces={"mnt": Ns(1, CHILD)}), HOST).answer == "no"


# Files


def file(mode: int = 0o644, uid: int = 0, gid: int = 0, **facts: Any) -> Inode:
    return Inode("/f", stat.S_IFREG | mode, uid, gid, **facts)


def walk(*steps: Inode, last: Inode | None = None) -> Walk:
    root = Inode("/", stat.S_IFDIR | 0o755, 0, 0)
    return Walk("/f", (root, *steps), last or file())


@pytest.mark.parametrize(
    ("link", "above", "answer"),
    [(1000, 0, "yes"), (2000, 0, "no"), (2000, 2000, "yes"), (0, 0, "yes")],
)
def test_protected_symlinks(link: int, above: int, answer: str) -> None:
    """In a sticky directory of everybody's a symlink is followed if it is the follower's or the directory owner's."""
    sticky = Inode("/t", stat.S_IFDIR | 0o1777, above, above)
    symlink = Inode("/t/l", stat.S_IFLNK | 0o777, link, link, trailing=True)
    way = walk(sticky, symlink)
    assert files.may_open(task(7), way, "read", HOST.replace(protected_symlinks=True)).answer == answer
    assert files.may_open(task(7), way, "read", HOST).answer == "yes"
    inner = walk(sticky, symlink.replace(trailing=False))
    assert files.may_open(task(7), inner, "read", HOST.replace(protected_symlinks=True)).answer == "yes"


@pytest.mark.parametrize(
    ("fstype", "answer"),
    [
        ("ext4", "yes"),
        ("overlay", "yes"),
        ("fuse", "unknown"),
        ("nfs4", "unknown"),
        ("", "unknown"),
        ("sysfs", "unknown"),
    ],
)
def test_filesystems_with_rules_of_their_own(fstype: str, answer: str) -> None:
    verdict = files.may_open(task(7), walk(last=file(fstype=fstype)), "read", HOST)
    assert verdict.answer == answer
    assert any("overlay" in text for text in verdict.unless) == (fstype == "overlay")


def test_a_stricter_filesystem_refuses_what_the_mode_refuses() -> None:
    assert answers(files.may_open(task(7), walk(last=file(0o600, fstype="cgroup2")), "read", HOST)) == ("no", "EACCES")


def test_flags_that_may_not_be_read_are_said() -> None:
    last = file(0o666, immutable=None, append=None)
    verdict = files.may_open(task(7), walk(last=last), "write", HOST)
    assert verdict.answer == "yes"
    assert any("immutable" in text for text in verdict.unless)


@pytest.mark.parametrize(
    ("mode", "above", "uid", "noted"),
    [
        (0o1777, 0, 2000, True),
        (0o1770, 0, 2000, True),
        (0o1777, 2000, 2000, False),
        (0o1777, 0, 1000, False),
        (0o777, 0, 2000, False),
        (0o1755, 0, 2000, False),
    ],
)
def test_protected_files_are_noted(mode: int, above: int, uid: int, noted: bool) -> None:
    """Of another's file in a sticky directory that others write to: open(2) with O_CREAT may be refused."""
    way = walk(Inode("/t", stat.S_IFDIR | mode, above, 1000), last=file(0o666, uid))
    assert any("O_CREAT" in note for note in files.may_open(task(7), way, "write", HOST).notes) == noted
    assert files.may_open(task(7), way, "read", HOST).notes == ()


def test_a_subvolume_may_be_read_only() -> None:
    way = walk(last=file(0o666, fstype="btrfs"))
    assert any("subvolume" in text for text in files.may_open(task(7), way, "write", HOST).unless)
    assert not any("subvolume" in text for text in files.may_open(task(7), way, "read", HOST).unless)


def test_an_owner_that_an_id_mapped_mount_lacks_is_not_known() -> None:
    last = file(0o666, 65534, 65534, idmapped=True)
    assert files.may_open(task(7), walk(last=last), "write", HOST).answer == "unknown"
    assert files.may_open(task(7), walk(last=last.replace(idmapped=False)), "write", HOST).answer == "yes"


# What holds for all facts

IDS = st.sampled_from((0, 1000, 2000, 3000))
CAPS = st.sets(st.sampled_from(("kill", "sys_ptrace", "sys_admin", "sys_chroot", "dac_override", "fowner"))).map(
    lambda names: sum(1 << uapi.CAPABILITIES[name] for name in names)
)


@st.composite
def tasks(draw: st.DrawFn, pid: int) -> Task:
    ids = {name: draw(IDS) for name in ("uid", "euid", "suid", "fsuid", "gid", "egid", "sgid", "fsgid")}
    own = draw(st.sampled_from(SPACES))
    permitted = draw(CAPS)
    creds = Cred(**ids, groups=(draw(IDS),), effective=permitted & draw(CAPS), permitted=permitted, user_ns=own)
    dumpable = draw(st.booleans())
    return task(
        pid,
        cred=creds,
        dumpable=dumpable,
        mm_user_ns=() if dumpable else (draw(st.sampled_from(tuple(own.line()))),),
        session=draw(st.sampled_from((1, 2))),
        init=draw(st.booleans()),
        namespaces={kind: Ns(1, draw(st.sampled_from(SPACES))) for kind in ("mnt", "net", "uts", "pid")}
        | {"user": Ns(own.inode, own)},
    )


@st.composite
def inodes(draw: st.DrawFn) -> Inode:
    named = st.builds(AclEntry, st.just(uapi.ACL_USER), st.integers(0, 7), IDS)
    groups = st.builds(AclEntry, st.just(uapi.ACL_GROUP), st.integers(0, 7), IDS)
    acl = [
        AclEntry(uapi.ACL_USER_OBJ, 7, -1),
        *draw(st.lists(named, max_size=1)),
        AclEntry(uapi.ACL_GROUP_OBJ, draw(st.integers(0, 7)), -1),
    ]
    acl += [
        *draw(st.lists(groups, max_size=1)),
        AclEntry(uapi.ACL_MASK, draw(st.integers(0, 7)), -1),
        AclEntry(uapi.ACL_OTHER, 4, -1),
    ]
    return file(draw(st.integers(0, 0o777)), draw(IDS), draw(IDS), acl=draw(st.sampled_from(((), tuple(acl)))))


def all_verdicts(a: Task, b: Task, inode: Inode, host: Host) -> list[Verdict]:
    way = walk(last=inode)
    return [
        *(acts.signal(a, b, host, number) for number in (0, uapi.SIGCONT, uapi.SIGKILL)),
        acts.ptrace(a, b, host),
        *(acts.read(a, b, host, name, (stat.S_IFREG | 0o400, inode.uid, inode.gid)) for name in ("environ", "mem")),
        *(acts.setns(a, b, kinds, host) for kinds in (("net",), ("user", "mnt"), ("pid",))),
        acts.prlimit(a, b, host),
        acts.renice(a, b, host),
        acts.mount(a, host),
        acts.bind_port(a, 80, 1024, host),
        *(files.may_open(a, way, want, host) for want in ("read", "write", "exec")),
        files.chown(a, way, host, 2000, 1000),
        files.chmod(a, way, host),
        files.delete(a, way, host),
    ]


@given(tasks(7), tasks(9), inodes(), st.data())
def test_knowing_less_turns_no_answer_round(a: Task, b: Task, inode: Inode, data: st.DataObject) -> None:
    """With a fact taken away the answer is the same, or unknown; a known answer is never a guess."""
    full = all_verdicts(a, b, inode, HOST)
    assert "unknown" not in {verdict.answer for verdict in full}
    forget = data.draw(st.sampled_from(("user_ns a", "user_ns b", "dumpable", "memory", "pid_ns", "namespaces", "ids")))
    host = HOST
    if forget == "user_ns a":
        a = a.replace(cred=a.cred.replace(user_ns=None), namespaces={}, uids=None, gids=None)
    elif forget == "user_ns b":
        b = b.replace(cred=b.cred.replace(user_ns=None), namespaces={}, mm_user_ns=b.mm_user_ns and (None,))
    elif forget == "dumpable":
        b = b.replace(dumpable=None, mm_user_ns=tuple((b.cred.user_ns or INITIAL).line()))
    elif forget == "memory":
        b = b.replace(mm_user_ns=b.mm_user_ns and tuple((b.cred.user_ns or INITIAL).line()))
    elif forget == "pid_ns":
        a, b = a.replace(pid_ns=()), b.replace(pid_ns=())
    elif forget == "namespaces":
        a, b = a.replace(namespaces={}), b.replace(namespaces={})
    else:
        host = HOST.replace(blurred=(1000,))
    for before, after in zip(full, all_verdicts(a, b, inode, host)):
        assert after.answer in (before.answer, "unknown"), (before, after)


@given(tasks(7), tasks(9), inodes(), CAPS)
def test_more_capabilities_take_no_right_away(a: Task, b: Task, inode: Inode, more: int) -> None:
    """Of A's own; those of B may."""
    stronger = a.replace(cred=a.cred.replace(effective=a.cred.effective | more, permitted=a.cred.permitted | more))
    for before, after in zip(all_verdicts(a, b, inode, HOST), all_verdicts(stronger, b, inode, HOST)):
        assert not (before.answer == "yes" and after.answer == "no")


@given(tasks(7), tasks(9), inodes())
def test_a_verdict_is_of_its_checks(a: Task, b: Task, inode: Inode) -> None:
    """Every check but the last is passed or unknown; the answer is that of all, and what decides has it too."""
    for verdict in all_verdicts(a, b, inode, HOST.replace(yama=1)):
        passed = [check.passed for check in verdict.checks]
        assert False not in passed[:-1]
        assert verdict.answer == {True: "yes", False: "no", None: "unknown"}[every(passed)]
        assert {check.passed for check in verdict.deciding} == {every(passed)}
        assert (verdict.answer == "unknown") == bool(verdict.needs)
        assert verdict.reasons
        assert verdict.report()["answer"] == verdict.answer
