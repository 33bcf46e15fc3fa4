"""Facts about who acts and who is acted on, answers in three values, and what a capability reaches. capabilities(7).

Pure. A question to the kernel is a row of *checks*, all of which must be passed; a check is a list of *rules*, one of
which is enough. A rule holds, does not hold, or it is not known whether it does: None, and ``needs`` says what would
tell. Rules and checks have the names of the kernel's functions, and come in the kernel's order.
``acts`` has the questions about processes, ``files`` those about files; ``inspect.can`` reads the facts.
"""

from __future__ import annotations

from nstool.frozen import Frozen
from nstool.kinds import INITIAL_USERNS
from nstool.security import capabilities
from nstool.uapi import CAPABILITIES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

YES, NO, UNKNOWN = "yes", "no", "unknown"


class UserNs(Frozen):
    """A user namespace. user_namespaces(7), ioctl_nsfs(2).

    owner: effective uid of who made it, as the reader's user namespace sees it. parent: None for the initial one, and
    for the highest one that the reader may see.
    """

    inode: int
    owner: int
    parent: UserNs | None = None
    initial: bool = False

    def line(self) -> Iterator[UserNs]:
        """Yield this one, its parent, and so on up."""
        userns: UserNs | None = self
        while userns is not None:
            yield userns
            userns = userns.parent

    def __str__(self) -> str:
        return f"user:[{self.inode}]{' (the initial one)' if self.initial else ''}" if self.inode else "one above yours"


# Owns what the reader may not see the owner of: a user namespace that is not the reader's nor below it.
OUTSIDE = UserNs(0, -1)
INITIAL = UserNs(int(INITIAL_USERNS[6:-1]), 0, None, initial=True)
UNSEEN = "a user namespace that you may not see"
ROOT_SEES = "the user namespaces of both, which root can see"
IDS = "ids that your user namespace does not map: ask from the initial one"


class Cred(Frozen):
    """Credentials of a thread, named as in struct cred. credentials(7), capabilities(7).

    Ids: as the reader's user namespace sees them. effective, permitted: masks. user_ns: None if it may not be seen.
    """

    uid: int
    euid: int
    suid: int
    fsuid: int
    gid: int
    egid: int
    sgid: int
    fsgid: int
    groups: tuple[int, ...]
    effective: int
    permitted: int
    user_ns: UserNs | None


class Ns(Frozen):
    """A namespace of a process and the user namespace that owns it; user_ns of a user namespace: itself."""

    inode: int
    user_ns: UserNs


class Task(Frozen):
    """A thread, as its reader sees it. proc_pid_status(5), proc_pid_stat(5).

    tgid: its process. kernel: it is a thread of the kernel. ended: a zombie. init: of its pid namespace.
    dumpable: None if unknown; dumpable_by: how it is known. mm_user_ns: the user namespaces of which one is that of
    its memory, where it last executed a program; None stands for one that may not be seen.
    pids, pgids: its number and its process group's in each pid namespace from the reader's down to its own.
    pid_ns: inodes of its pid namespace and those above it, empty if they may not be seen.
    pgrp, session: in the reader's pid namespace, 0 for one that has no number there. threads: of the process.
    ancestors: pids of its parent, of that one's parent, …, read where Yama asks. tracer: pid, 0 for none. blocked,
    ignored, caught: masks of signals, bit 0 is signal 1. seccomp: SECCOMP_MODE_*. label: of a security module, "" if
    none labels, None if unknown. guarded: the reader was refused a look that all rules here allow it. uids, gids: the
    ranges (first, count) of the reader's ids that its user namespace maps, None if unknown. namespaces: by kind, those
    that may be seen. unread: why a fact is missing, by its name.
    """

    pid: int
    tgid: int
    comm: str
    cred: Cred
    kernel: bool = False
    ended: bool = False
    init: bool = False
    dumpable: bool | None = True
    dumpable_by: str = ""
    mm_user_ns: tuple[UserNs | None, ...] = ()
    pids: tuple[int, ...] = ()
    pgids: tuple[int, ...] = ()
    pid_ns: tuple[int, ...] = ()
    pgrp: int = 0
    session: int = 0
    threads: int = 1
    ancestors: tuple[int, ...] = ()
    tracer: int = 0
    blocked: int = 0
    ignored: int = 0
    caught: int = 0
    no_new_privs: bool = False
    seccomp: int = 0
    label: str | None = ""
    guarded: bool = False
    uids: tuple[tuple[int, int], ...] | None = ((0, 0xFFFFFFFF),)
    gids: tuple[tuple[int, int], ...] | None = ((0, 0xFFFFFFFF),)
    namespaces: dict[str, Ns] = {}
    unread: dict[str, str] = {}

    def __str__(self) -> str:
        thread = "" if self.pid == self.tgid else f"thread {self.pid} of process "
        return f"{thread}{self.tgid} ({self.comm})"


class Host(Frozen):
    """What holds for the whole host, and for who reads.

    yama: /proc/sys/kernel/yama/ptrace_scope, None where there is none. lsms: the active security modules, None if
    unknown. permissive: SELinux is there and refuses nothing. protected_symlinks: the sysctl, proc_sys_fs(5).
    profilers: whether CAP_PERFMON is enough to read memory's files in /proc, Linux 6.15; None if unknown.
    blurred: the ids that stand for all those which the reader's user namespace does not map, none if it maps all.
    """

    yama: int | None = None
    lsms: tuple[str, ...] | None = ()
    permissive: bool = False
    protected_symlinks: bool = False
    profilers: bool | None = True
    blurred: tuple[int, ...] = ()

    def same(self, one: int, other: int) -> bool | None:
        """Whether two ids are one; None if both are of those that the reader cannot tell apart."""
        if one == other and one in self.blurred:
            return None
        return one == other


class Rule(Frozen):
    """One way to pass a check. function: the kernel's. question: what it asks. facts: what its answer is made of.

    needs: what would tell, if it is not known whether it holds. why: the facts in a few words, empty if there are few.
    """

    function: str
    question: str
    holds: bool | None
    facts: tuple[str, ...] = ()
    needs: str = ""
    why: str = ""


class Check(Frozen):
    """What must be passed, by one of its rules. errno: what the kernel answers otherwise. man: where to read.

    aside: nearly everybody passes it.
    """

    function: str
    question: str
    man: str
    errno: str
    rules: tuple[Rule, ...]
    aside: bool = False

    @property
    def passed(self) -> bool | None:
        """Whether a rule holds; None if that is not known."""
        return either(rule.holds for rule in self.rules)

    @property
    def sentence(self) -> str:
        """What it asked, the answer, and the facts: of the rule that holds, or of all of those that do not."""
        held = [rule for rule in self.rules if rule.holds]
        if held:
            return _sentence(held[0].function, held[0].question, True, held[0].facts)
        facts = dict.fromkeys(fact for rule in self.rules for fact in rule.facts)
        return _sentence(self.function, self.question, self.passed, tuple(facts))

    def report(self) -> dict[str, object]:
        """Return the check with its answer as plain JSON values."""
        return {**self.asdict(), "passed": self.passed}


class Verdict(Frozen):
    """The answer to "may A do this to B?". A and B are what the texts call the two.

    checks: in the kernel's order, up to the one that refuses. notes: what does not decide but helps to read the answer.
    unless: what nothing shows, and would turn the answer round.
    """

    subject: str
    action: str
    target: str
    checks: tuple[Check, ...]
    notes: tuple[str, ...] = ()
    unless: tuple[str, ...] = ()

    @property
    def answer(self) -> str:
        """ "yes", "no" or "unknown"."""
        return word(every(check.passed for check in self.checks))

    @property
    def deciding(self) -> tuple[Check, ...]:
        """The check that refuses; or those of which it is not known; or those that let A through."""
        outcome = {YES: True, NO: False, UNKNOWN: None}[self.answer]
        found = tuple(check for check in self.checks if check.passed is outcome)
        return tuple(check for check in found if not check.aside) or found if outcome else found

    @property
    def errno(self) -> str:
        """What the kernel answers, as EPERM; empty unless the answer is no, and if it may have said so before."""
        first = next((check for check in self.checks if not check.passed), None)
        return first.errno if first is not None and first.passed is False else ""

    @property
    def reasons(self) -> tuple[str, ...]:
        """Sentences: the rules that decide, each with its facts."""
        return tuple(check.sentence for check in self.deciding)

    @property
    def needs(self) -> tuple[str, ...]:
        """What would decide; empty unless the answer is unknown."""
        rules = (rule for check in self.deciding for rule in check.rules if rule.holds is None and rule.needs)
        return tuple(dict.fromkeys(rule.needs for rule in rules)) if self.answer == UNKNOWN else ()

    def report(self) -> dict[str, object]:
        """Return the verdict with its answer as plain JSON values."""
        answer = {"answer": self.answer, "errno": self.errno, "reasons": list(self.reasons), "needs": list(self.needs)}
        return {**answer, **self.asdict(), "checks": [check.report() for check in self.checks]}


def word(value: bool | None) -> str:
    """ "yes", "no" or "unknown"."""
    return UNKNOWN if value is None else YES if value else NO


def _sentence(function: str, question: str, value: bool | None, facts: tuple[str, ...]) -> str:
    return f"{function}: {question} {word(value)}{': ' if facts else ''}{'; '.join(facts)}"


def either(values: Iterable[bool | None]) -> bool | None:
    """Whether one is true; None if that hangs on one that is None."""
    found = list(values)
    return True if True in found else None if None in found else False


def every(values: Iterable[bool | None]) -> bool | None:
    """Whether all are true; None if that hangs on one that is None."""
    found = list(values)
    return False if False in found else None if None in found else True


def turned(value: bool | None) -> bool | None:
    """The opposite; of None, None."""
    return None if value is None else not value


def up_to_answer(checks: Iterable[Check]) -> tuple[Check, ...]:
    """Return the checks that are made: up to the first that refuses; of each, the rules up to one that holds."""
    made = []
    for check in checks:
        held = next((number for number, rule in enumerate(check.rules) if rule.holds), len(check.rules))
        made.append(check.replace(rules=check.rules[: held + 1]) if held + 1 < len(check.rules) else check)
        if check.passed is False:
            break
    return tuple(made)


def capable(cred: Cred, target: UserNs | None, name: str, host: Host, *, which: str) -> Rule:
    """Whether credentials have a capability in a user namespace: ns_capable, which asks cap_capable.

    From the target upwards: in the namespace of the credentials the effective set counts, and it counts for all below.
    Who made a namespace, from its parent, has every capability in it and below. user_namespaces(7), "Capabilities".
    name: as "kill". which: what the target is of, for the texts. target: None if it may not be seen.
    """
    has = bool(cred.effective >> CAPABILITIES[name] & 1)
    holds, why = _walk(cred, target, has, name, host)
    facts = (f"{which} is {target or UNSEEN}", f"A is in {cred.user_ns or UNSEEN}", why)
    needs = ROOT_SEES if holds is None else ""
    return Rule("cap_capable", f"has A CAP_{name.upper()} in {which}?", holds, facts, needs, why)


def _walk(cred: Cred, target: UserNs | None, has: bool, name: str, host: Host) -> tuple[bool | None, str]:
    own = cred.user_ns
    in_set = f"CAP_{name.upper()} is {'' if has else 'not '}in A's effective set"
    if own is not None and own.initial and has:
        return True, f"{in_set}, and all user namespaces are below A's"
    if target is None:
        return None, in_set
    if own is None:
        if target.initial and not has:
            return False, f"{in_set}, and the initial user namespace has no maker whose right it would be"
        return None, in_set
    for userns in target.line():
        if userns.inode == own.inode:
            there = "that is A's own user namespace" if userns is target else "A's user namespace is above it"
            return has, f"{in_set}, and {there}"
        if userns.parent is not None and userns.parent.inode == own.inode:
            made = host.same(userns.owner, cred.euid)
            if made or (made is None and not has):
                which = "it" if userns is target else f"{userns}, above it,"
                who = f"uid {userns.owner}, {'' if made else 'perhaps '}A's euid"
                return made, f"{which} was made from A's by {who}: its maker has every capability there"
    return False, "A's is neither that one nor above it: capabilities reach down, never up or aside"


def lacks(names: Iterable[str]) -> str:
    """Return capabilities in words: "CAP_KILL, CAP_CHOWN, …"."""
    listed = [f"CAP_{name.upper()}" for name in names]
    return ", ".join(listed[:3]) + (", …" if len(listed) > 3 else "")


def subset(child: Cred, have: int) -> tuple[bool, str]:
    """Whether the child's permitted set is within a mask, and the capabilities that are not, in words."""
    missing = child.permitted & ~have
    return not missing, lacks(capabilities.names(missing))


def acting(task: Task) -> Check:
    """Who has ended acts no more; whom the kernel runs is not asked."""
    rule = Rule("exit_state", "is A alive?", not task.ended, ("a zombie makes no system calls",) if task.ended else ())
    if task.kernel:
        facts = ("A is a thread of the kernel, which makes no system calls that would be checked",)
        rule = Rule("PF_KTHREAD", "does A make system calls?", None, facts, "the kernel's source")
    return Check("exit_state", "does A act at all?", "proc_pid_stat(5)", "ESRCH", (rule,), aside=True)


def seccomp(task: Task) -> Check:
    """A filter of A's may refuse any call, and nothing shows what it says. seccomp(2)."""
    question = "does no seccomp filter refuse the call?"
    if task.seccomp == 0:
        rule = Rule("seccomp", "is A without a filter?", True, ("Seccomp: 0 in /proc/A/status",))
    elif task.seccomp == 1:
        rule = Rule("seccomp", "is it read, write or exit?", False, ("A is in strict mode: the call would kill it",))
    else:
        needs = "A's seccomp filter, which nothing shows: only A, trying it, can tell"
        rule = Rule("seccomp", "does A's filter let the call pass?", None, ("A has a seccomp filter",), needs)
    return Check("__secure_computing", question, "seccomp(2)", "EPERM", (rule,), aside=True)


def module(hook: str, tasks: Iterable[Task], host: Host) -> Check:
    """SELinux, AppArmor or Smack may refuse; that is their policy's to say. tasks: A, and B if it is a process."""
    tasks = tuple(tasks)
    labels = {"" if (task.label or "").endswith("(complain)") else task.label for task in tasks}
    named = ", ".join(sorted(label for label in labels if label))
    function = f"security_{hook}"
    if hook == "ptrace_access_check" and any(task.guarded for task in tasks[1:]):
        fact = "the kernel refuses you a look into B that all these rules allow: a Landlock domain, or another module"
        rule = Rule(function, "is A free of what holds you?", None, (fact,), "A's trying it")
    elif labels <= {"", "unconfined"}:
        rule = Rule(function, "is nobody confined by a security module?", True, (f"label: {named or 'none'}",))
    elif host.permissive:
        rule = Rule(function, "is SELinux permissive?", True, ("/sys/fs/selinux/enforce says 0", f"labels: {named}"))
    else:
        seen = f"labels: {named}" if named else "its label may not be read"
        needs = "the policy of the security module: the audit log tells what it has refused"
        rule = Rule(function, "does the policy of the security module allow it?", None, (seen,), needs)
    return Check(function, "does no security module refuse?", "the module's own", "EACCES", (rule,), aside=True)


def verdict(
    a: Task,
    action: str,
    target: str,
    checks: Iterable[Check],
    host: Host,
    *,
    others: Iterable[Task] = (),
    notes: Iterable[str] = (),
    landlock: str = "",
    unless: Iterable[str] = (),
) -> Verdict:
    """Make the checks and say what nothing shows. others: the tasks beside A. landlock: what a domain may refuse.

    unless: what else nothing shows that would refuse.
    """
    made = up_to_answer(checks)
    answer = word(every(check.passed for check in made))
    hidden: list[str] = []
    if answer == YES:
        # Where the kernel has Landlock; nothing tells whether a process is in a domain. landlock(7)
        if landlock and (host.lsms is None or "landlock" in host.lsms):
            hidden.append(f"A is in a Landlock domain that refuses it ({landlock}): nothing shows those, landlock(7)")
        hidden += unless
    if answer != UNKNOWN and any(rule.why for check in made for rule in check.rules):  # a capability was asked for
        for name, task in (("A", a), *(("B", task) for task in others)):
            if reason := task.unread.get("user_ns"):
                hidden.append(f"{name}'s user namespace is another: it is {reason}")
    return Verdict(str(a), action, target, made, tuple(notes), tuple(hidden))
