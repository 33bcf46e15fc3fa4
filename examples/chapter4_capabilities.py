"""Chapter 4, USER: what execve(2) makes of capabilities, predicted by rules and then really done.

Book: 4.2 capabilities of processes and of files, 4.4 credentials. Man pages: capabilities(7), execve(2), prctl(2).
Run it as root or as anybody: ``.venv/bin/python examples/chapter4_capabilities.py``. An ordinary user's part happens in
new user namespaces, in which it is root and may give its own files capabilities.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable

from show import ROOT, as_root_inside, begin, check, fact, in_child, owned, run, step

from nstool import syscalls, uapi
from nstool.inspect.execution import execution, host, subject
from nstool.security import capabilities, filecaps
from nstool.security.predict import after_setresuid

NET_RAW = capabilities.mask(("net_raw",))
PROGRAM = "/bin/cat"  # a program of our own that says what it has become: it reads /proc/self/status


def words(mask: int) -> str:
    """Return a mask in names, a full one in one word."""
    if mask == subject().process.sets.bounding:
        return "all of the bounding set"
    return " ".join(capabilities.names(mask)) or "none"


def executed(path: str) -> dict[str, int] | str:
    """Execute a copy of cat; return the five sets of the new program as it reads them, or the errno by name."""
    try:
        done = subprocess.run([path, "/proc/self/status"], capture_output=True, text=True, check=True)
    except OSError as error:
        return errno_name(error)
    lines = dict(line.split(":\t") for line in done.stdout.splitlines() if line.startswith("Cap"))
    return {name: int(lines[line], 16) for name, line in capabilities.SETS.items()}


def errno_name(error: OSError) -> str:
    from errno import errorcode

    return errorcode[error.errno or 0]


def beside(prepare: Callable[[], object], path: str, rules: tuple[str, ...] = ()) -> None:
    """Become such a process, say what executing the file will do, and by which rules; then do it and compare."""

    def child() -> None:
        as_root_inside()
        prepare()
        found = execution(path)
        really = executed(path)
        for rule in found.prediction.rules:
            if rule.name in rules:
                fact(rule.name, rule.formula)
                fact("", rule.numbers)
        if found.prediction.after is None:
            fact("predicted: it fails", f"{found.prediction.errno_name}: {found.prediction.why}")
            fact("really", really)
            check(really == found.prediction.errno_name, "the kernel says something else")
            return
        sets = found.prediction.after.sets
        fact("predicted: permitted, effective", f"{words(sets.permitted)}; {words(sets.effective)}")
        check(isinstance(really, dict), f"it has failed: {really}")
        assert isinstance(really, dict)
        fact("really:    permitted, effective", f"{words(really['permitted'])}; {words(really['effective'])}")
        check(really == sets.asdict(), f"predicted {sets}, it is {really}")

    in_child(child, owned(0))


def nothing_special() -> None:
    """Stay root, with all that root has."""


def no_right_of_root() -> None:
    """Be like any other user: uid 0 gains nothing by execve(2), and no capability is left. Needs no second uid."""
    syscalls.prctl(uapi.PR_SET_SECUREBITS, uapi.SECBIT_NOROOT)
    syscalls.capset(0, 0, 0)


def no_new_privs() -> None:
    no_right_of_root()
    syscalls.prctl(uapi.PR_SET_NO_NEW_PRIVS, 1)


def without_net_raw() -> None:
    syscalls.prctl(uapi.PR_CAPBSET_DROP, uapi.CAP_NET_RAW)
    no_right_of_root()


def with_ambient() -> None:
    syscalls.prctl(uapi.PR_SET_SECUREBITS, uapi.SECBIT_NOROOT)
    syscalls.capset(NET_RAW, NET_RAW, NET_RAW)
    syscalls.prctl(uapi.PR_CAP_AMBIENT, uapi.PR_CAP_AMBIENT_RAISE, uapi.CAP_NET_RAW)


def capable(path: str) -> str:
    """Give a copy of the program a capability.

    Done in a user namespace it is of revision 3: it counts where the root id, ours, is uid 0, as in each that we make.
    """
    shutil.copy(PROGRAM, path)

    def child() -> None:
        as_root_inside()
        filecaps.write(path, filecaps.from_text("cap_net_raw=ep"))

    in_child(child, owned(0))
    caps = filecaps.read(path)
    check(caps is not None and (caps.rootid is None) == ROOT, f"the file has {caps}")
    return path


def by_uid() -> None:
    step("A change of the user ids, without execve: setresuid(1000, 1000, 1000)")
    if not ROOT:
        fact("left out", "an ordinary user has one id, and so no other to change to")
        return
    for text, bits in (("ordinarily", 0), ("SECBIT_KEEP_CAPS", uapi.SECBIT_KEEP_CAPS)):

        def child(bits: int = bits, text: str = text) -> None:
            syscalls.prctl(uapi.PR_SET_SECUREBITS, bits)
            found = after_setresuid(subject().process, 1000, 1000, 1000, system=host())
            assert found.after
            syscalls.setresuid(1000, 1000, 1000)
            really = subject().process
            fact(f"predicted, {text}", words(found.after.sets.permitted))
            fact(f"really,    {text}", words(really.sets.permitted))
            check(really == found.after, "the kernel says something else")

        in_child(child)


def main() -> None:
    begin("Chapter 4, capabilities")
    with tempfile.TemporaryDirectory() as directory:
        plain, ping = shutil.copy(PROGRAM, f"{directory}/plain"), capable(f"{directory}/ping")
        step("An ordinary program executed by root: root gains all of its bounding set")
        beside(nothing_special, plain, ("root", "permitted"))
        step("The same with SECBIT_NOROOT: uid 0 is a user as any other")
        beside(no_right_of_root, plain, ("SECBIT_NOROOT", "permitted"))
        step("A file with cap_net_raw=ep: whoever executes it gains that, and nothing else")
        beside(no_right_of_root, ping, ("file capabilities", "permitted", "effective"))
        step("With no_new_privs it is executed all the same, and gives nothing")
        beside(no_new_privs, ping, ("nothing gained",))
        step("Its effective bit says that it cannot do without: with a smaller bounding set it is refused")
        beside(without_net_raw, ping, ("effective bit",))
        step("An ambient capability outlives an ordinary program, without any attribute of the file")
        beside(with_ambient, plain, ("ambient", "permitted", "effective"))
    by_uid()


if __name__ == "__main__":
    run(main)
