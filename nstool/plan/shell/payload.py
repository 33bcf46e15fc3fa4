"""The payload's steps: words of the programs that exec one another until the command runs. Pure."""

from __future__ import annotations

import shlex

from nstool import uapi
from nstool.errors import NotSupported
from nstool.plan import describe
from nstool.plan.shell.words import Lines, exec_chain, numbers
from nstool.plan.steps import INIT, LAUNCHER, PAYLOAD, Fd, Step
from nstool.security import capabilities, securebits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from nstool.plan.shell.script import Script


PASSED = "fds that the spec passes: put them at 3 and above in the last exec"
# setpriv(1) has no word for the other securebits.
_SECUREBITS = {"noroot", "noroot_locked", "no_setuid_fixup", "no_setuid_fixup_locked", "keep_caps_locked"}
_ORDER = ("setsid", "setarch", "prlimit", "setpriv", "env")


def program(s: Script, name: str, *words: str) -> Lines:
    s.programs.setdefault(name, []).extend(words)
    return [f"#   by {name} {' '.join(words)}".rstrip() + " below"]


def setsid(s: Script, _: Step) -> Lines:
    return program(s, "setsid")


def umask(s: Script, step: Step) -> Lines:
    return [f"umask {numbers(step, 0)[0]:03o}"]


def personality(s: Script, step: Step) -> Lines:
    (persona,) = numbers(step, 0)
    if persona & ~(uapi.PER_LINUX32 | uapi.ADDR_NO_RANDOMIZE):
        return s.no("an execution domain that setarch does not name")
    words = ["linux32" if persona & uapi.PER_LINUX32 else "x86_64"]
    return program(s, "setarch", *words, *(["-R"] if persona & uapi.ADDR_NO_RANDOMIZE else []))


def setrlimit(s: Script, step: Step) -> Lines:
    resource, *limits = numbers(step, 0, 1, 2)
    name = uapi.name("RLIMIT", resource).removeprefix("RLIMIT_").lower()
    soft, hard = (str(n) if 0 <= n < uapi.RLIM_INFINITY else "unlimited" for n in limits)
    if step.who == LAUNCHER:
        return [f'{s.tool("prlimit")} --pid "$pid" --{name}={soft}:{hard}']
    return program(s, "prlimit", f"--{name}={soft}:{hard}")


def drop_bounding(s: Script, step: Step) -> Lines:
    if step.who == INIT:
        return s.no("init keeps its bounding set")
    return program(s, "setpriv", f"--bounding-set={_capability_words(*numbers(step, 0))}")


def _capability_words(mask: int) -> str:
    return ",".join(["-all", *(f"+{name}" for name in capabilities.names(mask))])


def setgroups(s: Script, step: Step) -> Lines:
    groups = ",".join(map(str, describe.group_ids(step.args[0])))
    if step.who == INIT:
        s.ids["--groups" if groups else "--clear-groups"] = groups
        return ["#   by setpriv below"]
    return program(s, "setpriv", f"--groups={groups}" if groups else "--clear-groups")


def set_ids(option: str) -> Callable[[Script, Step], Lines]:
    def form(s: Script, step: Step) -> Lines:
        if len(set(step.args)) > 1:
            return s.no("real, effective and saved ids that differ")
        if step.who == INIT:
            s.ids[option] = str(numbers(step, 0)[0])
            return ["#   by setpriv below"]
        return program(s, "setpriv", f"{option}={numbers(step, 0)[0]}")

    return form


def capset(s: Script, step: Step) -> Lines:
    if step.who != PAYLOAD:
        return s.no("init keeps all the capabilities of its user namespace")
    if _another(s, "capset"):
        return ["#   setpriv does so by itself"]
    # The exec that follows makes the permitted and effective sets of the others; capabilities(7).
    return program(s, "setpriv", f"--inh-caps={_capability_words(*numbers(step, 2))}")


def _another(s: Script, call: str) -> bool:
    return any(step.call == call and step.who == PAYLOAD for step in s.plan.steps[s.number :])


def prctl(s: Script, step: Step) -> Lines:
    option, value, third = numbers(step, 0, 1, 2)
    if step.who != PAYLOAD:
        what = {
            uapi.PR_SET_DUMPABLE: "init stays dumpable: what has its uid inside may trace it",
            uapi.PR_SET_NO_NEW_PRIVS: "no_new_privs of init",
        }
        return s.no(what.get(option, f"{uapi.name('PR', option)} of init"))
    if option == uapi.PR_SET_KEEPCAPS:
        return ["#   setpriv does so by itself"]
    if option == uapi.PR_SET_NO_NEW_PRIVS:
        return program(s, "setpriv", "--no-new-privs")
    if option == uapi.PR_SET_PDEATHSIG:
        return program(s, "setpriv", f"--pdeathsig={uapi.name('SIG', value).removeprefix('SIG')}")
    if option == uapi.PR_CAP_AMBIENT:
        return _ambient(s, value, third)
    if option == uapi.PR_SET_SECUREBITS:
        return _securebits(s, value)
    return s.no(f"{uapi.name('PR', option)}: no command sets it")


def _ambient(s: Script, action: int, capability: int) -> Lines:
    if action == uapi.PR_CAP_AMBIENT_CLEAR_ALL:
        return program(s, "setpriv", "--ambient-caps=-all")
    if action != uapi.PR_CAP_AMBIENT_RAISE:
        return s.no("a change of the ambient set that only lowers it")
    words = s.programs.setdefault("setpriv", [])
    name = capabilities.names(1 << capability)[0]
    for at, word in enumerate(words):
        if word.startswith("--ambient-caps="):
            words[at] = f"{word},+{name}"
            return [f"#   by setpriv {words[at]} below"]
    return program(s, "setpriv", f"--ambient-caps=+{name}")


def _securebits(s: Script, mask: int) -> Lines:
    names = securebits.names(mask)
    missing = [name for name in names if name not in _SECUREBITS]
    notes = s.no(f"securebits {' '.join(missing)}: setpriv has no word for them") if missing else []
    words = ",".join(f"+{name}" for name in names if name in _SECUREBITS)
    return [*notes, *(program(s, "setpriv", f"--securebits={words}") if words else [])]


def reset_signals(s: Script, _: Step) -> Lines:
    s.no("signals that the caller has blocked stay blocked")
    return program(s, "env", "--default-signal")


def own_null(s: Script, _: Step) -> Lines:
    s.no("a stream that is /dev/null stays the host's, which can be watched and locked")
    return []


def dup3(s: Script, step: Step) -> Lines:
    fd = step.args[0]
    if isinstance(fd, Fd) and fd.name.startswith("high"):
        return s.no(PASSED)
    return ["#   as this process has it"]


def close_range(s: Script, step: Step) -> Lines:
    if step.who == INIT:
        return ["#   not needed: a shell of this script has nothing open that leads outside"]
    s.no("fds from 10 on that the caller of this script has open, which sh cannot close")
    return ["exec " + " ".join(f"{n}>&-" for n in range(numbers(step, 0)[0], 10))]


def close(s: Script, _: Step) -> Lines:
    return ["#   nothing to do: the script has no such fd"]


def execve(s: Script, step: Step) -> Lines:
    _, argv, envp = step.args
    assert isinstance(argv, tuple)
    assert isinstance(envp, tuple)
    if "=" in argv[0]:
        raise NotSupported("plan --sh", f"env(1) takes {argv[0]!r} for a variable", "give the command another name")
    s.programs["env"] = ["-i", *s.programs.get("env", ()), *map(shlex.quote, envp)]
    if "setpriv" in s.programs:
        s.programs["setpriv"] = _groups_said(s.programs["setpriv"])
    programs = [" ".join([s.tool(name), *s.programs[name]]) for name in _ORDER if name in s.programs]
    return exec_chain([*programs, " ".join(map(shlex.quote, argv))])


def _groups_said(words: Lines) -> Lines:
    """setpriv changes a gid only when told what becomes of the supplementary groups."""
    said = any(word.startswith(("--groups", "--clear-groups")) for word in words)
    changed = any(word.startswith("--regid") for word in words)
    return [*words, "--keep-groups"] if changed and not said else words


def become(s: Script) -> str:
    """Return the setpriv that takes the ids of init's steps, for the exec of its next part."""
    words = [f"{option}={value}" if value else option for option, value in s.ids.items()]
    signal = ["--pdeathsig=KILL"] if s.plan.die_with_parent else []  # a change of ids has cleared it
    return " ".join([s.tool("setpriv"), *_groups_said(words), *signal])
