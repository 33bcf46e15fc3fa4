"""Chapter 4, USER: who can act on whom. What the kernel asks, said before; then really tried.

Book: 4.2 capabilities of processes, 4.3 the structure of USER namespaces, 4.4 credentials. Man pages: kill(2),
ptrace(2) "Ptrace access mode checking", setns(2), user_namespaces(7) "Capabilities", capabilities(7).
Run it as root or as anybody: ``.venv/bin/python examples/chapter4_who_can.py``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING

from show import GID, ROOT, UID, begin, check, fact, run, step

from nstool import syscalls, uapi
from nstool.inspect import can

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nstool.security.access import Verdict

ALL = uapi.CLONE_NEWNS | uapi.CLONE_NEWNET | uapi.CLONE_NEWUTS


def tell(name: str, verdict: Verdict, expected: str) -> None:
    """Print an answer with the check that decides it."""
    decides = verdict.deciding[-1]
    fact(name, f"{verdict.answer}{f' ({verdict.errno})' if verdict.errno else ''}: {decides.function}")
    for sentence in (rule.why for rule in decides.rules if rule.why):
        fact("", sentence)
    check(verdict.answer == expected, f"{name}: {verdict.reasons}")


def tried(act: Callable[[], object]) -> str:
    """What the kernel really says."""
    try:
        act()
    except OSError as error:
        return str(error.strerror)
    return "done"


@contextmanager
def child(flags: int, answers: Callable[[], str] = lambda: "") -> Iterator[tuple[int, Callable[[], str]]]:
    """A child in new namespaces, and its own answer: what ``answers`` returns there, asked once."""
    go, told = os.pipe(), os.pipe()

    def serve() -> None:
        os.close(go[1])
        os.read(go[0], 1)
        os.write(told[1], answers().encode() or b"-")
        os.read(go[0], 1)  # until the example lets it go

    process = syscalls.clone3(flags | uapi.CLONE_PIDFD, child=serve)
    for fd in (go[0], told[1]):
        os.close(fd)
    if flags & uapi.CLONE_NEWUSER:
        write_maps(process.pid)

    def ask() -> str:
        os.write(go[1], b"?")
        return os.read(told[0], 100).decode()

    try:
        yield process.pid, ask
    finally:
        os.close(go[1])
        syscalls.waitid(uapi.P_PIDFD, process.pidfd)
        for fd in (told[0], process.pidfd):
            os.close(fd)


def write_maps(pid: int) -> None:
    """Map uid and gid 0 inside to those of this process."""
    lines = {"setgroups": "deny", "uid_map": f"0 {UID} 1", "gid_map": f"0 {GID} 1"}
    for name, text in lines.items():
        with open(f"/proc/{pid}/{name}", "w", encoding="ascii") as file:
            file.write(text)


def up_and_down() -> None:
    step("A process and its maker have the same uid, but capabilities reach down only (4.3)")
    me = os.getpid()

    def try_maker() -> str:
        signals = tried(lambda: os.kill(me, 0))
        return f"{signals}, {tried(lambda: os.readlink(f'/proc/{me}/root'))}"

    with child(uapi.CLONE_NEWUSER | ALL, try_maker) as (pid, ask):
        tell("maker signals child", can.signal(me, pid), "yes")
        tell("maker attaches to child", can.ptrace(me, pid), "yes")
        tell("child signals maker", can.signal(pid, me), "yes")
        tell("child looks into maker", can.read(pid, me), "no")
        answer = ask()
        fact("the child has tried both", answer)
        check(answer == "done, Permission denied", "the kernel says something else")


def entering() -> None:
    step("Entering namespaces needs CAP_SYS_ADMIN over their owner, and where one will be (setns(2))")
    me = os.getpid()
    with child(uapi.CLONE_NEWUSER | ALL) as (pid, _):
        tell("maker enters user, net", can.setns(me, pid, ("user", "net")), "yes")
        tell("maker enters net alone", can.setns(me, pid, ("net",)), "yes" if ROOT else "no")
        tell("child enters maker's net", can.setns(pid, me, ("net",)), "no")


def owners() -> None:
    step("It counts who owns a namespace, not whether one is root inside (user_namespaces(7))")

    def hostname() -> str:
        return tried(lambda: syscalls.sethostname("mine"))

    for flags, expected in ((uapi.CLONE_NEWUSER, "no"), (uapi.CLONE_NEWUSER | ALL, "yes")):
        with child(flags, hostname) as (pid, ask):
            where = "its own namespaces" if flags & ALL else "the host's"
            tell(f"names {where}", can.sethostname(pid), expected)
            tell(f"mounts in {where}", can.mount(pid), expected)
            tell(f"binds port 80 in {where}", can.bind_port(pid, 80), expected)
            answer = ask()
            fact("it has tried to set the name", answer)
            check((answer == "done") == (expected == "yes"), "the kernel says something else")


def all_the_rules() -> None:
    step("The rules of one answer, in the kernel's order, with the facts that it used")
    with child(uapi.CLONE_NEWUSER) as (pid, _):
        for number, made in enumerate(can.ptrace(pid, os.getpid()).checks, 1):
            fact(f"{number} {made.function}", f"{ {True: 'yes', False: 'no', None: 'unknown'}[made.passed] }")
            for rule in made.rules if not made.aside else ():
                fact(f"    {rule.function}", "; ".join(rule.facts))


def main() -> None:
    begin("Chapter 4: who can act on whom")
    up_and_down()
    entering()
    owners()
    all_the_rules()


if __name__ == "__main__":
    run(main)
