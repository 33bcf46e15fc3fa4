"""What the kernel asks before a process acts on another, or on what its namespaces hold. Pure; see ``verdict``.

kill(2), ptrace(2) "Ptrace access mode checking", setns(2), prlimit(2), setpriority(2), mount(2), ip(7).
"""

from __future__ import annotations

import stat

from nstool import uapi
from nstool.kinds import KINDS
from nstool.security import signals
from nstool.security.verdict import (
    IDS,
    INITIAL,
    ROOT_SEES,
    UNSEEN,
    Check,
    Host,
    Rule,
    Task,
    UserNs,
    Verdict,
    acting,
    capable,
    either,
    every,
    module,
    seccomp,
    subset,
    turned,
    up_to_answer,
    verdict,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

B_USERNS = "B's user namespace"
PID_NS = "the pid namespaces of both, which root can see"
OUTSIDE_IT = "processes outside it"
FOREVER = (uapi.SIGKILL, uapi.SIGSTOP)  # sig_kernel_only: no handler, cannot be blocked or ignored

# Files below /proc/PID that show its memory, by mm_access, and the others that need a right, to the access mode that
# opening or reading them needs. Of ns, fd and map_files: their links; to list fd its mode is enough. proc_pid(5)
MM_FILES = ("environ", "maps", "smaps", "smaps_rollup", "auxv", "pagemap", "numa_maps")
PROC_FILES: dict[str, str] = {
    **dict.fromkeys((*MM_FILES, "ns", "root", "cwd", "exe", "fd", "fdinfo", "map_files", "io"), "READ_FSCREDS"),
    **dict.fromkeys(("mem", "syscall", "personality"), "ATTACH_FSCREDS"),
}


# Signals


def signal(a: Task, b: Task, host: Host, number: int = 0) -> Verdict:
    """May A send B this signal? number: 0 asks for the permission alone, as kill(pid, 0) does. kill(2)."""

    def checks() -> Iterator[Check]:
        yield acting(a)
        yield visible(a, b)
        yield kill_permission(a, b, host, number)
        if number and b.init:
            yield delivery(a, b, number)
        yield module("task_kill", (a, b), host)
        yield seccomp(a)

    name = signals.name(number) if number else "signals"
    notes = _signal_notes(b, number, name)
    return verdict(
        a, f"send {name} to", str(b), checks(), host, others=(b,), notes=notes, landlock="signals to outside it"
    )


def kill_group(a: Task, members: Sequence[Task], b: Task, host: Host, number: int = 0) -> Verdict:
    """May A signal the process group of B? One member that may be signalled is enough. kill(2), a negative pid.

    members: the processes of the group that the reader sees, B among them.
    """
    unseen: tuple[Rule, ...] = ()
    if not b.pgrp:  # its leader is in a pid namespace above the reader's, where others of the group may be
        fact = "the leader of the group has no number where you are"
        unseen = (Rule("check_kill_permission", "may A signal a member that you do not see?", None, (fact,), PID_NS),)

    def checks() -> Iterator[Check]:
        yield acting(a)
        yield _group_named(a, b)
        yield Check(
            "__kill_pgrp_info",
            "is there a member that A may signal?",
            "kill(2)",
            "EPERM",
            (*(_member(a, member, host, number) for member in members), *unseen),
        )
        yield seccomp(a)

    reached = [str(m) for m in members if kill_permission(a, m, host, number).passed]
    notes = (f"of {len(members)} members it reaches {len(reached)}: {', '.join(reached) or 'none'}",)
    return verdict(
        a,
        "signal the process group of",
        str(b),
        checks(),
        host,
        others=members,
        notes=notes,
        landlock="signals to outside it",
    )


def _member(a: Task, member: Task, host: Host, number: int) -> Rule:
    check = kill_permission(a, member, host, number)
    moduled = module("task_kill", (a, member), host)
    holds = every((check.passed, moduled.passed))
    facts = tuple(fact for rule in check.rules for fact in rule.facts)
    needs = next((r.needs for c in (check, moduled) for r in c.rules if r.holds is None), "") if holds is None else ""
    return Rule("check_kill_permission", f"may A signal {member}?", holds, facts, needs)


def visible(a: Task, b: Task) -> Check:
    """A names B by its number in A's pid namespace: B is in that one, or in one below. pid_namespaces(7)."""
    where = (f"A's pids, from yours down: {_numbers(a.pids)}", f"B's: {_numbers(b.pids)}")
    needs = PID_NS if sees(a, b) is None else ""
    rule = Rule("find_vpid", "is B in A's pid namespace or below it?", sees(a, b), where, needs)
    return Check("find_vpid", "has B a number that A can name?", "pid_namespaces(7)", "ESRCH", (rule,), aside=True)


def sees(a: Task, b: Task) -> bool | None:
    """Whether B has a pid in A's pid namespace."""
    if a.pid_ns and b.pid_ns:
        return a.pid_ns[0] in b.pid_ns
    if len(a.pids) == 1:  # in the reader's own, and the reader sees B
        return True
    return False if len(b.pids) < len(a.pids) else None


def kill_permission(a: Task, b: Task, host: Host, number: int) -> Check:
    """Whether A's ids or capabilities let it signal B: check_kill_permission, kill_ok_by_cred."""
    mine, theirs = a.cred, b.cred
    pairs = [(one, other) for one in (mine.euid, mine.uid) for other in (theirs.suid, theirs.uid)]
    ids = (f"A: uid {mine.uid}, euid {mine.euid}", f"B: uid {theirs.uid}, suid {theirs.suid}")
    question = "is A's real or effective uid B's real or saved one?"
    rules = [
        _one_process(a, b),
        _ids_rule("kill_ok_by_cred", question, either(host.same(*pair) for pair in pairs), ids),
        capable(mine, theirs.user_ns, "kill", host, which=B_USERNS),
    ]
    if number == uapi.SIGCONT:
        facts = (f"A's session {a.session}, B's {b.session}",)
        needs = "" if a.session or b.session else "the sessions of both, whose leaders have no number here"
        same = (a.session == b.session) if a.session or b.session else None
        rules.append(Rule("task_session", "is SIGCONT sent within one session?", same, facts, needs))
    return Check("check_kill_permission", "may A signal B?", "kill(2)", "EPERM", tuple(rules))


def delivery(a: Task, b: Task, number: int) -> Check:
    """Whether a signal for the init of a pid namespace comes to something: sig_task_ignored. pid_namespaces(7).

    The kernel drops those that it has no handler for, and says nothing; from above, SIGKILL and SIGSTOP count.
    """
    bit = 1 << (number - 1)
    above = turned(either((a.pid_ns[0] == b.pid_ns[0], b.pid_ns[0] in a.pid_ns))) if a.pid_ns and b.pid_ns else None
    if len(a.pids) < len(b.pids):
        above = True
    where = f"A is {'above' if above else 'in or below' if above is False else 'perhaps above'} B's pid namespace"
    if number in FOREVER:
        needs = PID_NS if above is None else ""
        rules = [Rule("SIGNAL_UNKILLABLE", "does it come from above B's pid namespace?", above, (where,), needs)]
    else:
        has = bool((b.caught | b.blocked) & bit) or b.tracer > 0
        rules = [Rule("sig_handler", "has B a handler for it, or blocks it?", has, ("SigCgt, SigBlk of B",))]
    return Check(
        "sig_task_ignored",
        "B is init of its pid namespace: does the signal count?",
        "pid_namespaces(7)",
        "0, but it is dropped",
        tuple(rules),
    )


def _signal_notes(b: Task, number: int, name: str) -> Iterator[str]:
    bit = 1 << (number - 1) if number else 0
    if not number and b.init:
        yield "B is init of its pid namespace: signals that it has no handler for are dropped; ask with --signal"
    if b.ended:
        yield "B is a zombie: the call succeeds and does nothing"
    elif b.kernel:
        yield "B is a thread of the kernel: it takes no signals unless it has asked for them"
    elif bit & b.blocked:
        yield f"B blocks {name} now: it waits until B lets it in"
    elif bit & b.ignored and not b.init:
        yield f"B ignores {name}: the call succeeds and does nothing"


def _one_process(a: Task, b: Task) -> Rule:
    facts = (f"A is of process {a.tgid}, B of {b.tgid}",)
    return Rule("same_thread_group", "are A and B threads of one process?", a.tgid == b.tgid, facts)


def _ids_rule(function: str, question: str, holds: bool | None, facts: tuple[str, ...]) -> Rule:
    needs = IDS if holds is None else ""
    return Rule(function, question, holds, facts, needs)


def _group_named(a: Task, b: Task) -> Check:
    level = len(a.pids)
    together = a.pgrp == b.pgrp if a.pgrp or b.pgrp else None
    seen = every((sees(a, b), level <= len(b.pgids) and b.pgids[level - 1] > 0))
    rules = (
        Rule("task_pgrp", "is A in the group itself?", together, (f"A's group {a.pgrp}, B's {b.pgrp}",)),
        Rule("find_vpid", "has the group a number in A's pid namespace?", seen, (f"B's groups: {_numbers(b.pgids)}",)),
    )
    if either(rule.holds for rule in rules) is None:
        rules = (rules[0], rules[1].replace(needs=PID_NS))
    return Check("find_vpid", "can A name the group?", "kill(2)", "ESRCH", rules, aside=True)


def _numbers(numbers: tuple[int, ...]) -> str:
    return " > ".join(map(str, numbers)) or "unknown"


# Looking into a process


def ptrace(a: Task, b: Task, host: Host) -> Verdict:
    """May A attach to B? PTRACE_ATTACH, PTRACE_SEIZE, and with them all that ptrace(2) can do."""

    def checks() -> Iterator[Check]:
        yield acting(a)
        yield visible(a, b)
        yield _attachable(a, b)
        yield from access(a, b, host, "ATTACH_REALCREDS")
        yield _not_traced(b)
        yield seccomp(a)

    notes = ("process_vm_readv(2), process_vm_writev(2) and pidfd_getfd(2) need the same right",)
    return verdict(a, "attach to", str(b), checks(), host, others=(b,), notes=notes, landlock=OUTSIDE_IT)


def read(a: Task, b: Task, host: Host, file: str = "", owner: tuple[int, int, int] | None = None) -> Verdict:
    """May A read what /proc/B shows to few: memory maps, environment, namespaces, open files? proc_pid(5).

    file: one of PROC_FILES; empty for the right to look alone, READ_FSCREDS. owner: mode, uid and gid of that file
    as the reader sees them: proc's files have modes too, which are asked first.
    """
    mode = PROC_FILES.get(file, "READ_FSCREDS")

    def checks() -> Iterator[Check]:
        yield acting(a)
        if owner is not None:
            from nstool.security.files import Inode, permission

            inode = Inode(f"/proc/{b.pid}/{file}", *owner, fstype="proc")
            check = permission(a, inode, "search" if stat.S_ISDIR(inode.mode) else "read", host)
            # proc_fd_permission: a process may always list its own.
            yield check.replace(rules=(*check.rules, _one_process(a, b))) if file == "fd" else check
        yield _has_memory(b)
        looked = up_to_answer(access(a, b, host, mode, "EACCES"))
        yield from _for_profilers(a, looked, host) if file in MM_FILES else looked
        yield seccomp(a)

    notes = [f"this is PTRACE_MODE_{mode}, ptrace(2)"]
    if sees(a, b) is False:
        notes.append("A has no number for B in its pid namespace: it needs a /proc of one above, or an fd")
    return verdict(a, "look into", str(b), checks(), host, others=(b,), notes=notes, landlock=OUTSIDE_IT)


def _for_profilers(a: Task, looked: tuple[Check, ...], host: Host) -> tuple[Check, ...]:
    # may_access_mm: whom ptrace_may_access has refused, whatever the reason, may read memory's files nevertheless.
    passed = every(check.passed for check in looked)
    over = [
        capable(a.cred, INITIAL, name, host, which="the initial user namespace") for name in ("perfmon", "sys_admin")
    ]
    if passed or not any(rule.holds is not False for rule in over):
        return looked
    why = tuple(check.sentence for check in looked if check.passed is not True)
    needs = next((rule.needs for check in looked for rule in check.rules if rule.holds is None), "")
    rules = [Rule("ptrace_may_access", "does ptrace_may_access let A look?", passed, why, needs)]
    for rule in over:
        holds = every((rule.holds, host.profilers))
        needs = "the kernel's source: this came with Linux 6.15, and may be in an older one" if holds is None else ""
        rules.append(rule.replace(function="perfmon_capable", holds=holds, needs=needs))
    question = "may A look, or is it a profiler, which may read memory's files?"
    return (Check("may_access_mm", question, "proc_pid_maps(5)", "EACCES", tuple(rules)),)


def access(a: Task, b: Task, host: Host, mode: str, errno: str = "EPERM") -> Iterator[Check]:
    """Yield what ptrace_may_access asks. mode: PTRACE_MODE_… without that: ATTACH or READ, _REALCREDS or _FSCREDS.

    errno: what the caller of ptrace_may_access makes of a refusal.
    """
    one = _one_process(a, b)
    if one.holds:
        yield Check("__ptrace_may_access", "is A looking at itself?", "ptrace(2)", errno, (one,))
        return
    fs = mode.endswith("_FSCREDS")
    mine, theirs = a.cred, b.cred
    uid, gid = (mine.fsuid, mine.fsgid) if fs else (mine.uid, mine.gid)
    pairs = [(uid, other) for other in (theirs.euid, theirs.suid, theirs.uid)]
    pairs += [(gid, other) for other in (theirs.egid, theirs.sgid, theirs.gid)]
    kind = "file system" if fs else "real"
    ids = (
        f"A: {kind} uid {uid}, gid {gid}",
        f"B: uids {theirs.uid} {theirs.euid} {theirs.suid}, gids {theirs.gid} {theirs.egid} {theirs.sgid}",
    )
    question = f"are B's real, effective and saved uid and gid all A's {kind} ones?"
    by_capability = capable(mine, theirs.user_ns, "sys_ptrace", host, which=B_USERNS)
    yield Check(
        "__ptrace_may_access",
        "has A B's ids, or CAP_SYS_PTRACE over it?",
        "ptrace(2)",
        errno,
        (
            one,
            _ids_rule("uid_eq, gid_eq", question, every(host.same(*pair) for pair in pairs), ids),
            by_capability.replace(function="ptrace_has_cap"),
        ),
    )
    yield _dumpable(a, b, host).replace(errno=errno)
    yield _no_more_capabilities(a, b, host, by_capability, fs).replace(errno=errno)
    if host.yama is not None and mode.startswith("ATTACH"):
        yield _yama(a, b, host.yama, by_capability).replace(errno=errno)
    yield module("ptrace_access_check", (a, b), host)


def _dumpable(a: Task, b: Task, host: Host) -> Check:
    by = b.dumpable_by or "PR_GET_DUMPABLE"
    needs = "whether B is dumpable: Linux 6.16 tells it, PIDFD_GET_INFO" if b.dumpable is None else ""
    rules = [Rule("get_dumpable", "is B dumpable?", b.dumpable, (by,), needs)]
    over = [
        capable(a.cred, userns, "sys_ptrace", host, which="the user namespace of B's memory") for userns in b.mm_user_ns
    ]
    holds = {rule.holds for rule in over}
    if over:
        first = next((rule for rule in over if rule.holds is not True), over[0])
        merged = holds.pop() if len(holds) == 1 else None
        needs = "in which user namespace B last executed a program, which nothing shows" if merged is None else ""
        rules.append(first.replace(function="ptrace_has_cap", holds=merged, needs=needs or first.needs))
    return Check(
        "task_still_dumpable", "is B dumpable, or A privileged over its memory?", "prctl(2)", "EPERM", tuple(rules)
    )


def _no_more_capabilities(a: Task, b: Task, host: Host, by_capability: Rule, fs: bool) -> Check:
    mine, theirs = a.cred, b.cred
    own, other = mine.user_ns, theirs.user_ns
    together = None if own is None or other is None else own.inode == other.inode
    within, missing = subset(theirs, mine.effective if fs else mine.permitted)
    kind = "effective" if fs else "permitted"
    facts = (
        f"A is in {own or UNSEEN}, B in {other or UNSEEN}",
        f"B's permitted set is within A's {kind} one" if within else f"B has {missing}, which A's {kind} set has not",
    )
    holds = every((together, within))
    needs = ROOT_SEES if holds is None else ""
    question = f"are they in one user namespace, and is B's permitted set within A's {kind} one?"
    return Check(
        "cap_ptrace_access_check",
        "has B no capability that A lacks, or A CAP_SYS_PTRACE over it?",
        "ptrace(2)",
        "EPERM",
        (Rule("cap_issubset", question, holds, facts, needs), by_capability),
    )


def _yama(a: Task, b: Task, scope: int, by_capability: Rule) -> Check:
    facts = (f"ptrace_scope is {scope}",)
    rules = {
        0: [Rule("YAMA_SCOPE_DISABLED", "is Yama's ptrace_scope 0?", True, facts)],
        3: [Rule("YAMA_SCOPE_NO_ATTACH", "does ptrace_scope allow anybody?", False, facts)],
        2: [by_capability],
    }.get(scope)
    if rules is None:
        line = f"B's ancestors: {' '.join(map(str, b.ancestors)) or 'none to be seen'}"
        named = "whether B has named A, or one of its ancestors, by prctl(PR_SET_PTRACER): only B can tell"
        rules = [
            Rule("task_is_descendant", "does B descend from A?", a.tgid in b.ancestors, (*facts, line)),
            Rule("ptracer_exception_found", "is A B's tracer already?", b.tracer in (a.pid, a.tgid)),
            by_capability,
            Rule("ptracer_exception_found", "has B named A as its tracer?", None, (*facts,), named),
        ]
    return Check("yama_ptrace_access_check", "does Yama let A attach?", "ptrace(2)", "EPERM", tuple(rules))


def _attachable(a: Task, b: Task) -> Check:
    fits = not b.kernel and a.tgid != b.tgid
    fact = "B is a thread of the kernel" if b.kernel else f"A is of process {a.tgid}, B of {b.tgid}"
    rule = Rule("ptrace_attach", "is B of another process, and not the kernel's?", fits, (fact,))
    return Check("ptrace_attach", "is B something to attach to?", "ptrace(2)", "EPERM", (rule,), aside=True)


def _not_traced(b: Task) -> Check:
    free = not b.ended and not b.tracer
    fact = "B is a zombie" if b.ended else f"TracerPid of B is {b.tracer}"
    rule = Rule("ptrace_attach", "is B alive, and traced by nobody?", free, (fact,))
    return Check("ptrace_attach", "is B free?", "ptrace(2)", "EPERM", (rule,), aside=True)


def _has_memory(b: Task) -> Check:
    facts = ("B is a zombie: memory, files and namespaces are gone",) if b.ended else ()
    rule = Rule("exit_mm", "is B alive?", not b.ended, facts)
    return Check("get_task_mm", "is there something to read?", "proc_pid(5)", "ENOENT or nothing", (rule,), aside=True)


# Limits and priorities


def prlimit(a: Task, b: Task, host: Host) -> Verdict:
    """May A read or set B's resource limits? Raising a hard limit moreover needs CAP_SYS_RESOURCE. prlimit(2)."""
    mine, theirs = a.cred, b.cred
    pairs = [(mine.uid, other) for other in (theirs.euid, theirs.suid, theirs.uid)]
    pairs += [(mine.gid, other) for other in (theirs.egid, theirs.sgid, theirs.gid)]
    ids = (
        f"A: uid {mine.uid}, gid {mine.gid}",
        f"B: uids {theirs.uid} {theirs.euid} {theirs.suid}, gids {theirs.gid} {theirs.egid} {theirs.sgid}",
    )
    question = "are B's real, effective and saved uid and gid all A's real ones?"
    rules = (
        Rule("current", "is B A itself?", a.pid == b.pid, (f"A is {a.pid}, B is {b.pid}",)),
        _ids_rule("uid_eq, gid_eq", question, every(host.same(*pair) for pair in pairs), ids),
        capable(mine, theirs.user_ns, "sys_resource", host, which=B_USERNS),
    )
    checks = (
        acting(a),
        visible(a, b),
        Check("check_prlimit_permission", "may A set B's limits?", "prlimit(2)", "EPERM", rules),
        module("task_prlimit", (a, b), host),
        seccomp(a),
    )
    return verdict(a, "set the limits of", str(b), checks, host, others=(b,))


def renice(a: Task, b: Task, host: Host) -> Verdict:
    """May A make B nicer? A lower value moreover needs RLIMIT_NICE or CAP_SYS_NICE. setpriority(2)."""
    mine, theirs = a.cred, b.cred
    ids = (f"A: euid {mine.euid}", f"B: uid {theirs.uid}, euid {theirs.euid}")
    same = either(host.same(mine.euid, other) for other in (theirs.uid, theirs.euid))
    rules = (
        _ids_rule("uid_eq", "is A's effective uid B's real or effective one?", same, ids),
        capable(mine, theirs.user_ns, "sys_nice", host, which=B_USERNS),
    )
    checks = (
        acting(a),
        visible(a, b),
        Check("set_one_prio_perm", "may A set B's nice value?", "setpriority(2)", "EPERM", rules),
        _safe_nice(a, b, host),
        module("task_setnice", (a, b), host),
        seccomp(a),
    )
    return verdict(a, "renice", str(b), checks, host, others=(b,))


def _safe_nice(a: Task, b: Task, host: Host) -> Check:
    within, missing = subset(b.cred, a.cred.permitted)
    fact = "B's permitted set is within A's" if within else f"B has {missing}, which A has not"
    rules = (
        Rule("cap_issubset", "is B's permitted set within A's?", within, (fact,)),
        capable(a.cred, b.cred.user_ns, "sys_nice", host, which=B_USERNS),
    )
    question = "has B no capability that A lacks, or A CAP_SYS_NICE over it?"
    return Check("cap_safe_nice", question, "capabilities(7)", "EPERM", rules)


# Namespaces


def setns(a: Task, b: Task, types: Iterable[str], host: Host) -> Verdict:
    """May A enter these namespaces of B, all by one setns(pidfd, types)? setns(2), Linux 5.8.

    With "user" among them A must be privileged over the namespace that it enters, in place of its own.
    One by one, with fds of /proc/B/ns, is the same but for that: after the user namespace A has its rights only there.
    """
    wanted = [kind for kind in _VALIDATED if kind in set(types)]

    def checks() -> Iterator[Check]:
        yield acting(a)
        yield from access(a, b, host, "READ_REALCREDS")
        for kind in wanted:
            yield from _install(a, b, kind, wanted, host)
        yield seccomp(a)

    notes = () if sees(a, b) is not False else ("A has no number for B in its pid namespace: it needs a pidfd of B",)
    action = f"enter the {','.join(wanted)} namespace{'s' if len(wanted) > 1 else ''} of"
    return verdict(a, action, str(b), checks(), host, others=(b,), notes=notes, landlock=OUTSIDE_IT)


_VALIDATED = ("user", "mnt", "uts", "ipc", "pid", "cgroup", "net", "time")  # the order of validate_nsset


def _install(a: Task, b: Task, kind: str, wanted: list[str], host: Host) -> Iterator[Check]:
    target = owner(b, kind)
    man = KINDS[kind].man
    function = f"{_PREFIX.get(kind, kind)}_install"
    if kind == "user":
        yield _other_userns(a.cred.user_ns, target, man)
    if kind in ("user", "time"):
        yield _single_threaded(a, kind, man, wanted)
    which = B_USERNS if kind == "user" else f"the owner of B's {kind} namespace"
    over = capable(a.cred, target, "sys_admin", host, which=which)
    question = f"may A administer B's {kind} namespace?"
    yield Check(function, question, man, "EPERM", (over,))
    if kind != "user":
        # The credentials in force are A's; the user namespace is that in which it will be.
        joins = "user" in wanted
        inside = b.cred.user_ns if joins else a.cred.user_ns
        which = "the user namespace that A enters" if joins else "A's own user namespace"
        for name in ("sys_chroot", "sys_admin") if kind == "mnt" else ("sys_admin",):
            rule = capable(a.cred, inside, name, host, which=which)
            yield Check(function, f"has A CAP_{name.upper()} where it will be?", man, "EPERM", (rule,))
    if kind == "mnt":
        yield _single_threaded(a, kind, man, wanted)
    if kind == "pid":
        below = None if not a.pid_ns or not b.pid_ns else a.pid_ns[0] in b.pid_ns
        needs = PID_NS if below is None else ""
        facts = (f"A's pid namespace {a.pid_ns[:1]}, B's and those above it {b.pid_ns}",)
        rule = Rule("pidns_is_ancestor", "is B's pid namespace A's own or below it?", below, facts, needs)
        yield Check(function, "does A go down, not up or aside?", man, "EINVAL", (rule,))


_PREFIX = {"user": "userns", "mnt": "mntns", "uts": "utsns", "ipc": "ipcns", "pid": "pidns", "net": "netns"}
_PREFIX |= {"cgroup": "cgroupns", "time": "timens"}


def _other_userns(own: UserNs | None, target: UserNs | None, man: str) -> Check:
    other = None if own is None or target is None else own.inode != target.inode
    needs = ROOT_SEES if other is None else ""
    facts = (f"A is in {own or UNSEEN}, B in {target or UNSEEN}",)
    rule = Rule("current_user_ns", "is it another than A's own?", other, facts, needs)
    return Check("userns_install", "is A not in it already?", man, "EINVAL", (rule,))


def _single_threaded(a: Task, kind: str, man: str, wanted: list[str]) -> Check:
    errno = "EUSERS" if kind == "time" else "EINVAL"
    function = {"user": "thread_group_empty", "time": "current_is_single_threaded"}.get(kind, "fs->users")
    alone: bool | None = a.threads == 1
    needs = ""
    if kind == "mnt" and len(wanted) > 1 and not alone:
        # prepare_nsset copies what the threads share, and the check looked at the copy: 6.18.44 lets it through,
        # 6.12.117 does not.
        alone, needs = None, "trying it: some kernels let a process with threads join mnt together with other types"
    rule = Rule(function, "has A one thread only?", alone, (f"A's process has {a.threads} threads",), needs)
    return Check(function, f"may all of A change its {kind} namespace?", man, errno, (rule,), aside=True)


def mount(a: Task, host: Host) -> Verdict:
    """May A mount, bind, move, unmount, change propagation in its mount namespace? mount(2).

    A new filesystem moreover must be of a type that user namespaces may mount, unless A is privileged in the initial.
    """
    notes = ("what is locked stays: mounts that came together from a more privileged mount namespace",)
    man, domain = "mount(2)", "the mount topology"
    return _in_own(a, "mount", "may_mount", "sb_mount", "mnt", host, man, notes, domain)


def sethostname(a: Task, host: Host) -> Verdict:
    """May A set the names of its uts namespace? sethostname(2)."""
    # No hook of its own: a module may refuse the capability.
    return _in_own(a, "set the host name", "sethostname", "capable", "uts", host, "sethostname(2)")


def _in_own(
    a: Task,
    action: str,
    function: str,
    hook: str,
    kind: str,
    host: Host,
    man: str,
    notes: tuple[str, ...] = (),
    domain: str = "",
) -> Verdict:
    rule = capable(a.cred, owner(a, kind), "sys_admin", host, which=f"the owner of A's {kind} namespace")
    question = f"is A privileged over its {kind} namespace?"
    checks = (acting(a), Check(function, question, man, "EPERM", (rule,)), module(hook, (a,), host), seccomp(a))
    return verdict(a, action, "", checks, host, notes=notes, landlock=domain)


def owner(task: Task, kind: str) -> UserNs | None:
    """The user namespace that owns a namespace of the task; None if it may not be seen."""
    found = task.namespaces.get(kind)
    return found.user_ns if found else None


def bind_port(a: Task, port: int, start: int | None, host: Host) -> Verdict:
    """May A bind a TCP or UDP socket to this port? Whether another has it already is not asked. ip(7).

    start: net.ipv4.ip_unprivileged_port_start of A's network namespace, None if it may not be read.
    """
    told = f"ip_unprivileged_port_start is {'not to be read' if start is None else start}"
    free = port == 0 or (None if start is None else port >= start)
    needs = "that sysctl in A's network namespace: run as root" if free is None else ""
    rules = (
        Rule("inet_port_requires_bind_service", "is the port one for everybody?", free, (f"port {port}", told), needs),
        capable(a.cred, owner(a, "net"), "net_bind_service", host, which="the owner of A's net namespace"),
    )
    question = "is the port free to all, or has A the capability?"
    checks = (
        acting(a),
        Check("__inet_bind", question, "ip(7)", "EACCES", rules),
        module("socket_bind", (a,), host),
        seccomp(a),
    )
    notes = ("port 0: the kernel chooses one",) if port == 0 else ()
    return verdict(a, f"bind port {port}", "", checks, host, notes=notes, landlock="TCP ports")
