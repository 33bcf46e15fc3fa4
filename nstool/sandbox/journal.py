"""The journal: how a sandbox is undone, written before it is made; undoing; finding what nobody undid.

Lines after the first (sandbox/rundir.py): ``{"sandbox": {...}}`` what it is, ``{"undo": [call,
[arguments], why]}`` in the order of making, ``{"init": [pid, start time]}``, ``{"ended": status}``.
"""

from __future__ import annotations

import os
from errno import EBUSY

from nstool.errors import NotSupported, NstoolError
from nstool.frozen import Frozen
from nstool.plan.steps import UNDO, Fd, Step
from nstool.sandbox import jsonl, leases, rundir
from nstool.uapi import AT_FDCWD, AT_REMOVEDIR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from nstool.plan.lease import Lease

# Modules with a table ``HANDLERS``: name of an external step to function(context or None, arguments).
HANDLER_MODULES: tuple[str, ...] = ("nstool.sandbox.sockets", "nstool.network.external", "nstool.sandbox.tarball")
# stale() looks at no more than this many sandboxes, so that a start costs the same among thousands.
LOOK_AT = 32
# Seconds, after which an empty cgroup of a dead launcher is nobody's, whatever run directory it is of.
ABANDONED = 3600.0


class Cleaned(Frozen):
    """A sandbox that was undone. done: what was there and has been undone, sentences."""

    name: str
    done: tuple[str, ...]


# ------------------------------------------------------------------------------------ writing


def begin(
    name: str,
    undo: Iterable[Step],
    *,
    cgroups: dict[str, str] | None = None,
    spec: dict[str, object] | None = None,
    outlives: bool = False,
    seccomp: bytes | None = None,
    template: dict[str, object] | None = None,
) -> None:
    """Write how the sandbox is undone, and what it is. Before the first step is made.

    undo: the plan's UNDO steps in its order; their arguments are values, never fd slots, and paths
    are absolute: another process reads them. spec: a summary of plain values. seccomp: the filter of a list of its own,
    for commands that come later, when its file may say something else. template: as of ``rundir.Record``.
    Raises TypeError for a step that cannot be journaled.
    """
    info: dict[str, object] = {"outlives": outlives, "cgroups": cgroups or {}, "spec": spec or {}}
    if seccomp is not None:
        info["seccomp"] = seccomp.hex()
    if template is not None:
        info["template"] = template
    rundir.append(name, "".join([*_undo_lines(undo), '{"sandbox":' + jsonl.encode(info) + "}\n"]))


def add(name: str, undo: Iterable[Step]) -> None:
    """Write how more is undone, of what has just been made. undo: as of ``begin``."""
    rundir.append(name, "".join(_undo_lines(undo)))


def started(name: str, init_pid: int) -> None:
    """Write which process is the sandbox's init, right after clone."""
    rundir.append(name, f'{{"init":[{init_pid},{rundir.starttime(init_pid)}]}}\n')


def ended(name: str, status: int) -> None:
    """Write how the command ended, for who waits for it (sandbox/waiting.py). status: as wait(2) gives it."""
    try:
        rundir.append(name, f'{{"ended":{status}}}\n')
    except NstoolError:  # somebody has removed it; or there is no room, and then nothing but this is lost
        return


def _undo_lines(steps: Iterable[Step]) -> list[str]:
    for step in steps:
        _check(step)
    return [f'{{"undo":{jsonl.encode([step.call, step.args, step.why])}}}\n' for step in steps]


def _check(step: Step) -> None:
    if step.who != UNDO or step.call not in _CALLS:
        raise TypeError(f"{step.call} ({step.who}) is not a step that undoes: {', '.join(_CALLS)}")
    if any(isinstance(arg, Fd) for arg in step.args):
        raise TypeError(f"{step!r}: an fd means nothing to the process that undoes")
    if step.call == "unlinkat" and (step.args[::2] != (AT_FDCWD, AT_REMOVEDIR) or str(step.args[1])[:1] != "/"):
        raise TypeError(f"{step!r}: needs AT_FDCWD, AT_REMOVEDIR and an absolute path")


def read_undo(name: str) -> tuple[Step, ...]:
    """Return the UNDO steps in the sandbox's journal; none if it was killed before it wrote them."""
    return undo_steps(name, rundir.lines(name))


def undo_text(steps: Iterable[Step]) -> bytes:
    """Return steps as the journal has them."""
    return "".join(_undo_lines(steps)).encode()


def undo_steps(name: str, lines: Iterable[bytes]) -> tuple[Step, ...]:
    """Return the UNDO steps in these lines of the journal of sandbox ``name``."""
    steps = []
    for line in lines:
        if line.startswith(b'{"undo":'):
            call, args, why = rundir.decode(name, line)["undo"]
            steps.append(Step(UNDO, call, tuple(args), why))
    return tuple(steps)


# ------------------------------------------------------------------------------------ undoing


def undo(name: str, steps: tuple[Step, ...] | None = None, lease: Lease | None = None) -> tuple[str, ...]:
    """Undo a sandbox, give its leases back, remove it from the run directory.

    steps: its UNDO steps if the caller has them, else they are read back; in reverse order, what is
    gone already is done, a failure does not stop the others. lease: likewise.
    Returns what was undone, sentences. Raises NstoolError that names all failures; then the journal
    stays for the next try. The processes are the caller's to end, or ``clean`` does it.
    """
    fd = rundir.lock(name)
    if fd < 0:  # undone already, or somebody removed its directory; a caller with steps need not know
        return () if steps is None else _undo_locked(name, fd, steps, lease)
    try:
        return _undo_locked(name, fd, steps, lease)
    finally:
        rundir.unlock(fd)


def _undo_locked(
    name: str, fd: int, steps: tuple[Step, ...] | None = None, lease: Lease | None = None
) -> tuple[str, ...]:
    if steps is None:
        steps = read_undo(name)
    done: list[str] = []
    failed: list[str] = []
    for step in reversed(steps):
        try:
            if undo_step(step):
                done.append(step.why)
        except Exception as error:  # of any library that a handler uses, too
            failed.append(f"{step.why}: {_said(error)}")
    if not failed:
        try:
            if lease is not None:
                leases.release(lease)
            elif fd >= 0:
                done += leases.release_all(name)
            else:  # somebody removed the directory: what bears the name now may be another's
                leases.release_orphans()
            if fd >= 0:
                rundir.remove(name, fd)
            else:
                rundir.tidy()
        except OSError as error:
            failed.append(f"the directory of the sandbox: {_said(error)}")
    if failed:
        raise _not_undone(name, failed)
    return tuple(done)


def undo_step(step: Step) -> bool:
    """Undo one thing; False if it was gone already. Raises OSError, NstoolError."""
    call = _CALLS.get(step.call)
    if call is None:
        raise NstoolError(f"{step.call} cannot be undone by this version of nstool")
    _check(step)
    return call(*step.args)


def _said(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error) or repr(error)


def _not_undone(name: str, failed: list[str]) -> NstoolError:
    what = "\n".join(f"  {line}" for line in failed)
    return NstoolError(
        f"sandbox {name}: {len(failed)} not undone\n{what}\n"
        "remedy: see to the causes above, then `nstool cleanup` tries again (the journal is kept)"
    )


def _rmdir(dirfd: int, path: str, flags: int) -> bool:
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno != EBUSY or not os.path.exists(path + "/cgroup.procs"):
            raise
        from nstool.sandbox import cgroups

        cgroups.remove(path)
    return True


def _external(name: str, args: dict[str, Any]) -> bool:
    return handler(name)(None, args) is not False


def handler(name: str) -> Callable[..., object]:
    """Return the function that makes or undoes an external step, from HANDLER_MODULES."""
    for module in HANDLER_MODULES:
        function = __import__(module, fromlist=["HANDLERS"]).HANDLERS.get(name)
        if function is not None:
            return function  # type: ignore[no-any-return]
    raise NstoolError(f"nobody knows how to undo {name!r}: it is in no HANDLERS of {', '.join(HANDLER_MODULES)}")


# No more than is needed, for whoever can write a journal has this done by us: no file is removed but a socket that no
# process has, none is written, nothing is unmounted, and the handlers take nothing for granted that a name or an
# address does not prove.
_CALLS: dict[str, Callable[..., bool]] = {"unlinkat": _rmdir, "external": _external}


# ----------------------------------------------------------------------------------- cleaning


def stale() -> bool:
    """Whether ``cleanup`` has something to do: one listdir when there are no sandboxes.

    Looks at LOOK_AT sandboxes, others each time, so that many live ones do not slow a start down.
    """
    found = rundir.entries()
    if len(found) > LOOK_AT:
        first = int.from_bytes(os.urandom(4), "little") % len(found)
        found = (found + found)[first : first + LOOK_AT]
    return any(_is_stale(entry) for entry in found)


def _is_stale(entry: str) -> bool:
    try:
        if entry[0] == ".":
            return rundir.draft_is_dead(entry)
        if rundir.launcher_alive(entry):
            return False
        record = rundir.read(entry)
    except NotSupported:  # another version's or a stray, which must not stop every command; cleanup tells of it
        return False
    return record is None or not record.alive


def cleanup() -> tuple[Cleaned, ...]:
    """Undo every sandbox that nobody looks after, and return what was undone.

    That is: its launcher is dead, and it does not outlive it on purpose. One that another process is
    just undoing is left to it. Raises NstoolError that names all failures, after all were tried.
    """
    cleaned: list[Cleaned] = []
    failed: list[str] = []
    for entry in sorted(rundir.entries()):
        try:
            if entry[0] != ".":
                done = clean(entry, wait=False)
                if done is not None:
                    cleaned.append(Cleaned(entry, done))
            elif rundir.draft_is_dead(entry):
                rundir.remove_draft(entry)
        except (OSError, NstoolError) as error:
            failed.append(_said(error))
    cleaned += _without_journal()
    try:
        cleaned += _trees()
    except (OSError, NstoolError) as error:
        failed.append(f"unpacked trees: {_said(error)}")
    try:
        cleaned += _shared_network()
    except (OSError, NstoolError) as error:
        failed.append(f"the shared state of the network: {error}")
    leases.release_orphans()  # last: a network is in use as long as its link is there
    rundir.tidy()
    failed += map(str, leases.strays())
    if failed:
        raise NstoolError("\n".join(failed))
    return tuple(cleaned)


def _shared_network() -> list[Cleaned]:
    """Undo what the shared state of the network and the kernel have of sandboxes whose journal somebody removed."""
    import shutil

    if os.geteuid() != 0 or not shutil.which("nft", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"):
        return []
    from nstool.network import reap

    return [Cleaned(name, tuple(done)) for name, done in reap.cleanup().items()]


def _trees() -> list[Cleaned]:
    from nstool.sandbox import tarball

    return [Cleaned(name, ("removed its unpacked tree",)) for name in tarball.sweep()]


def _without_journal() -> list[Cleaned]:
    """Remove empty cgroups that no journal tells of: of killed nsexec runs, and of sandboxes whose journal was removed.

    Their name ends in the pid of the launcher. Those of another run directory are left to its own cleanup for
    ABANDONED seconds: it may serve another pid namespace, in which the pid is somebody's who is about to enter them.
    """
    from time import time

    from nstool.sandbox import cgroups

    layout = cgroups.layout()
    bases = {controller.base for controller in layout.controllers.values() if controller.base} | {layout.unified_base}
    found = [(base, entry) for base in sorted(bases - {""}) for entry in os.listdir(base) if _whose(entry) is not None]
    known = _cgroups_of_journals() if found else ()
    done: dict[str, list[str]] = {}
    for base, entry in found:
        path = f"{base}/{entry}"
        if path in known:
            continue
        try:
            mine = _whose(entry) in ("", leases.cgroup_mark())
            # Who lives there has a pid that is not of our pid namespace.
            if (mine or time() - os.stat(path).st_ctime >= ABANDONED) and cgroups.remove_empty(path):
                done.setdefault(entry, []).append(f"removed {path}")
        except FileNotFoundError:  # another has just removed it
            continue
    return [Cleaned(entry, tuple(lines)) for entry, lines in done.items()]


def _cgroups_of_journals() -> set[str]:
    """Return the directories that journals tell of: what outlives its launcher has empty ones for what comes."""
    found: set[str] = set()
    for entry in rundir.entries():
        if entry[0] == ".":
            continue
        try:
            found.update(str(arg) for step in read_undo(entry) if step.call == "unlinkat" for arg in step.args[1:2])
        except (NotSupported, OSError):  # a stray, or it is just being undone
            continue
    return found


def _whose(cgroup: str) -> str | None:
    """Return the mark of a cgroup's run directory, empty of nsexec; None if its launcher lives, or it is not ours."""
    start, _, pid = cgroup.rpartition("-")
    if not start.startswith("nstool-") or len(pid) != 12 or not pid.isdecimal() or rundir.starttime(int(pid)):
        return None
    return "".join(start.partition("+")[1:])


def clean(name: str, *, wait: bool = True) -> tuple[str, ...] | None:
    """Kill what remains of a sandbox that nobody looks after, and undo it; None if it is not such a one.

    wait: for another process that is undoing it; without, that counts as not such a one.
    """
    fd = rundir.lock(name, wait=wait)
    if fd < 0:
        return None
    try:
        record = rundir.read(name)
        if record is None:  # undone but for the directory; its leases may be those of a new claim by now
            rundir.remove(name, fd)
            return ()
        if record.alive:
            return None
        if record.rebooted:
            # Processes, cgroups, links and mounts went with the boot, and their names may be others' now.
            files = [step for step in read_undo(name) if step.call == "unlinkat"]
            return _undo_locked(name, fd, tuple(files))
        killed = _kill_init(record)
        return killed + _undo_locked(name, fd)
    finally:
        rundir.unlock(fd)


def _kill_init(record: rundir.Record) -> tuple[str, ...]:
    """Kill a dead sandbox's init, and with it all in its pid namespace; wait until it is dead."""
    if not record.init_pid:
        return ()
    try:
        pidfd = os.pidfd_open(record.init_pid)
    except ProcessLookupError:
        return ()
    try:
        # Now the pid cannot become another process's, so the comparison holds.
        if rundir.starttime(record.init_pid) != record.init_start:
            return ()
        import select
        import signal

        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(10_000):
            raise NstoolError(f"init {record.init_pid} of sandbox {record.name} does not die: see /proc/PID/stack")
        return (f"killed init {record.init_pid}",)
    except ProcessLookupError:
        return ()
    finally:
        os.close(pidfd)
