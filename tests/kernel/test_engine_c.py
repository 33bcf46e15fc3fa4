"""nsexec runs compiled plans without Python: exit statuses, signals, ARGS, undo, and what a careless caller does."""

from __future__ import annotations

import fcntl
import glob
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nstool._native", reason="nstool._native is not built; run make build")

from nstool.errors import SpecError
from nstool.plan import build
from nstool.plan.calls import CALLS
from nstool.plan.encode import decode, encode
from nstool.plan.lease import Lease
from nstool.plan.steps import UNDO, Plan, Step
from nstool.sandbox import engine, host, journal
from nstool.sandbox.compiled import PID_TOKEN, compile_spec
from nstool.sandbox.launch import launch
from nstool.spec.model import Limits, Mount, Net, Root, Spec
from tests.support import leaks, plans
from tests.support.user import User
from tests.support.workplace import Workplace

InChild = Callable[..., Any]
Make = Callable[..., str]

pytestmark = pytest.mark.needs("root")
NSEXEC = engine.IMAGE
USAGE, CANNOT, NOT_EXECUTABLE, NOT_FOUND = 2, 125, 126, 127
SECONDS = 120
NO_LIMITS = Limits(memory=0, pids=0, cpu=0)
READY = "echo ready; "


def base(name: str, *command: str) -> Spec:
    """The safe default, in cgroups of its own; nsexec attests nothing."""
    return Spec(command=command, name=name, terminal="never", attest=False)


@pytest.fixture
def compiled(tmp_path: Path, name: str) -> Make:
    """``compiled(command..., **changes)``: the file of the compiled plan of the default spec with changes."""
    count = iter(range(100))

    def make(*command: str, **changes: Any) -> str:
        file = tmp_path / f"{next(count)}.plan"
        file.write_bytes(compile_spec(base(name, *command).replace(**changes)))
        return str(file)

    return make


def nsexec(file: str, *args: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([NSEXEC, file, *args], capture_output=True, text=True, timeout=SECONDS, **options)


def after(shell: str, file: str) -> subprocess.CompletedProcess[str]:
    """nsexec as a shell starts it that did this first: ``ulimit -n 8``, ``exec <&-``."""
    command = ["sh", "-c", f'{shell}; exec "$@"', "sh", NSEXEC, file]
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)


@pytest.fixture
def running(compiled: Make) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """``running(script, **changes)``: nsexec with a shell that has said "ready"."""
    started: list[subprocess.Popen[str]] = []

    def start(script: str, **changes: Any) -> subprocess.Popen[str]:
        file = compiled("sh", "-c", script, **changes)
        process = subprocess.Popen(
            [NSEXEC, file], stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        process.terminate()  # killed, it would leave its cgroups
        process.communicate(timeout=SECONDS)


def file_of(process: subprocess.Popen[str]) -> str:
    """The compiled plan that it runs."""
    assert isinstance(process.args, list)
    return str(process.args[1])


def cgroups_of(file: str) -> list[str]:
    """The directories that runs of a compiled plan have made and that are there now."""
    plan = decode(Path(file).read_bytes())
    made = [str(step.args[1]) for step in plan.steps if step.who == UNDO and step.call == "unlinkat"]
    assert all(PID_TOKEN in path for path in made)
    return [path for pattern in made for path in glob.glob(pattern.replace(PID_TOKEN, "[0-9]" * 12))]


# ---- how it ends ----

BOTH = pytest.mark.parametrize("init", [True, False], ids=["init", "no-init"])


@BOTH
@pytest.mark.parametrize("status", [0, 1, 7, 125, 255])
def test_exit_status_is_that_of_the_command(compiled: Make, status: int, init: bool) -> None:
    """nsexec ends as the command ended."""
    done = nsexec(compiled("sh", "-c", f"exit {status}", init=init))
    assert (done.returncode, done.stderr) == (status, "")


@BOTH
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV])
def test_signal_that_ended_the_command_is_in_the_status(compiled: Make, number: int, init: bool) -> None:
    """128+n for signal n, as a shell has it. Without init, a pid namespace's first process is immune to its own."""
    command = ("sh", "-c", f"kill -{int(number)} $$; sleep 9")
    changes: dict[str, Any] = {"init": init}
    if not init:
        changes["namespaces"] = Spec().namespaces.replace(pid="host")
        changes |= {"proc": "none"}
    assert nsexec(compiled(*command, **changes)).returncode == 128 + number


@BOTH
def test_command_that_is_not_there(compiled: Make, init: bool) -> None:
    """127 and the step; 126 for a file that cannot be executed."""
    done = nsexec(compiled("no-such-command", init=init))
    assert done.returncode == NOT_FOUND
    assert done.stderr.startswith("nsexec: step ")
    assert done.stderr.endswith(", execve of no-such-command: ENOENT\n")
    done = nsexec(compiled("/etc/passwd", init=init))
    assert done.returncode == NOT_EXECUTABLE
    assert done.stderr.endswith(", execve of /etc/passwd: EACCES\n")


def test_usage() -> None:
    """Without a file: how it is used, and status 2; --help is no mistake."""
    nothing = subprocess.run([NSEXEC], capture_output=True, text=True, timeout=SECONDS)
    assert (nothing.returncode, nothing.stderr[:22]) == (USAGE, "usage: nsexec FILE [AR")
    assert nsexec("--help").returncode == 0
    option = nsexec("--version")
    assert (option.returncode, option.stderr[:36]) == (USAGE, "nsexec: --version: no option but --h")


# ---- what goes in ----


def test_args_are_added_to_the_command(compiled: Make) -> None:
    """ARGS follow the command's own arguments, as they are: empty, with spaces, not in UTF-8."""
    file = compiled("printf", "<%s>", "own")
    command: list[Any] = [NSEXEC, file, "", "a b", b"\xff", "x" * 100_000]
    done = subprocess.run(command, capture_output=True, timeout=SECONDS)
    assert done.stdout == b"<own><><a b><\xff><" + b"x" * 100_000 + b">"


def test_args_have_a_limit(compiled: Make) -> None:
    """More ARGS than a plan has room for are refused in words, at once."""
    done = nsexec(compiled("true"), *["x" * 100_000] * 15)
    assert done.returncode == USAGE
    assert done.stderr.endswith(": too many ARGS for a plan: E2BIG\n")


def test_plan_can_be_a_script(compiled: Make, tmp_path: Path) -> None:
    """With a first line #!/path/of/nsexec a compiled plan is a command, and its arguments are ARGS."""
    data = Path(compiled("printf", "%s,")).read_bytes()
    script = tmp_path / "script"
    script.write_bytes(f"#!{NSEXEC}\n".encode() + data)
    script.chmod(0o755)
    done = subprocess.run([script, "a", "b"], capture_output=True, text=True, timeout=SECONDS)
    assert (done.returncode, done.stdout) == (0, "a,b,")


def test_standard_streams_are_the_callers(compiled: Make) -> None:
    """What comes in goes out, each stream to its own place."""
    done = nsexec(compiled("sh", "-c", "cat; echo oops >&2"), input="hello")
    assert (done.stdout, done.stderr) == ("hello", "oops\n")


def test_no_other_fd_goes_in(compiled: Make) -> None:
    """Of the caller's fds the command has only the standard streams."""
    reader, writer = os.pipe()
    try:
        file = compiled("sh", "-c", "ls /proc/$$/fd")
        done = nsexec(file, pass_fds=(reader, writer))
    finally:
        os.close(reader)
        os.close(writer)
    assert done.stdout.split() == ["0", "1", "2"]


# ---- signals ----


@BOTH
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT])
def test_signals_are_forwarded(running: Callable[..., subprocess.Popen[str]], number: int, init: bool) -> None:
    """A signal that nsexec gets reaches the command, which may handle it and go on."""
    script = f"trap 'echo got; exit 3' {int(number)}; {READY} sleep 60 & wait $!; exit 4"
    process = running(script, init=init)
    process.send_signal(number)
    out, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, out, err) == (3, "got\n", "")


def test_signal_may_end_the_command(running: Callable[..., subprocess.Popen[str]]) -> None:
    """A signal that the command does not handle ends it, and nsexec says so; the cgroups are gone."""
    process = running(f"{READY} exec sleep 60")
    process.terminate()
    assert process.wait(SECONDS) == 128 + signal.SIGTERM
    assert not any(map(os.path.exists, cgroups_of(file_of(process))))


@pytest.mark.orphans
def test_sandbox_dies_with_nsexec(running: Callable[..., subprocess.Popen[str]]) -> None:
    """When nsexec is killed, the sandbox goes too; `nstool cleanup` removes the cgroups that were left."""
    process = running(f"{READY} exec sleep 60")
    file = file_of(process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    pidfds = [os.pidfd_open(int(child)) for child in children]
    left = cgroups_of(file)
    assert left
    assert all(map(os.path.exists, left))
    process.kill()
    for fd in pidfds:
        assert select.select([fd], [], [], SECONDS)[0], "init runs on"
        os.close(fd)
    process.wait(SECONDS)
    journal.cleanup()
    assert not any(map(os.path.exists, left))


# ---- undo ----


def test_cgroups_are_there_while_it_runs(running: Callable[..., subprocess.Popen[str]]) -> None:
    """The limits of a compiled plan are in force: the sandbox is in its cgroups, which end with it."""
    process = running(f"{READY} read x < /proc/self/cgroup; exec sleep 60")
    made = cgroups_of(file_of(process))
    assert made
    for path in made:
        assert Path(path, "cgroup.procs").read_text().split(), path
    process.terminate()
    process.wait(SECONDS)
    assert not any(map(os.path.exists, made))


@pytest.mark.parametrize(("command", "status"), [("true", 0), ("false", 1), ("no-such-command", NOT_FOUND)])
def test_nothing_is_left_however_it_ends(compiled: Make, command: str, status: int) -> None:
    """Success, failure, no launch at all: the cgroups are removed."""
    file = compiled(command)
    assert nsexec(file).returncode == status
    assert not any(map(os.path.exists, cgroups_of(file)))


def test_second_run_does_not_disturb_the_first(running: Callable[..., subprocess.Popen[str]]) -> None:
    """Each run of a plan has cgroups of its own, named after its pid, and removes only these."""
    process = running(f"{READY} exec sleep 60")
    file = file_of(process)
    first = cgroups_of(file)
    second = subprocess.Popen([NSEXEC, file], stdout=subprocess.PIPE, text=True)
    assert second.stdout is not None
    with second.stdout:
        assert second.stdout.readline() == "ready\n"
        assert len(cgroups_of(file)) == 2 * len(first)
        second.terminate()
        assert second.wait(SECONDS) == 128 + signal.SIGTERM
    assert cgroups_of(file) == first
    assert process.poll() is None


def _subject(step: Step) -> tuple[Any, ...]:
    """What nsexec names of a step: the command, or the last string that is not empty."""
    if step.call == "execve":
        return step.args[1][:1]
    texts = (value for (_, kind), value in zip(CALLS[step.call].params, step.args) if kind == "s" and value)
    return tuple(texts)[-1:]


def _refuse_each(workplace: Workplace, plan: Plan, directory: str) -> list[str]:
    """Run the plan as often as it has steps, each time with another one refused. Returns what was wrong."""
    total = sum(step.who != UNDO for step in plan.steps)
    check = leaks.LeakCheck(workplace)
    wrong = []
    for number in range(total):
        step = plan.steps[number]
        if step.call == "exec_init":  # refused by a bad image, which nsexec makes itself
            continue
        refused, errno = plans.refused_step(step)
        steps = (*plan.steps[:number], refused, *plan.steps[number + 1 :])
        file = f"{directory}/{number}"
        Path(file).write_bytes(encode(plan.replace(steps=steps)))
        done = nsexec(file)
        name = {2: "ENOENT", 9: "EBADF", 22: "EINVAL"}[errno]
        what = " of ".join((refused.call, *_subject(refused)))
        hint = "" if refused.call == "execve" else "; nstool plan FILE shows the step"
        said = f"nsexec: step {number + 1} of {total}, {what}: {name}{hint}\n"
        status = NOT_FOUND if step.call == "execve" else CANNOT
        if (done.returncode, done.stderr) != (status, said):
            wrong.append(f"{step.who} {step.call}: {done.returncode} {done.stderr!r}, not {status} {said!r}")
        if left := check.wait():
            wrong.append(f"{step.who} {step.call} left:\n{leaks.report(left)}")
            check.tidy(left)
            check = leaks.LeakCheck(workplace)
    return wrong


@BOTH
def test_step_that_is_refused_is_named(
    in_child: InChild, workplace: Workplace, name: str, tmp_path: Path, init: bool
) -> None:
    """Whichever step the kernel refuses: status 125, one line that names it, and nothing is left."""
    spec = base(name, "true").replace(init=init, proc_subset="pid")
    plan = build.plan(spec, host.read(spec), Lease(name, 0x6FFF0000, 0x6FFF0000, 65536, f"nstool-{name}"))
    assert in_child(_refuse_each, workplace, plan, str(tmp_path), timeout=120) == []


def test_a_refusal_names_the_path_and_where_its_step_is_shown(compiled: Make, tmp_path: Path) -> None:
    """What has gone since the plan was compiled; nstool plan FILE has the step under that number."""
    source = tmp_path / "gone"
    source.mkdir()
    file = compiled("true", mounts=(Mount("/tmp/data", str(source)),))
    source.rmdir()
    done = nsexec(file)
    match = re.fullmatch(
        rf"nsexec: step (\d+) of \d+, open_tree of {source}: ENOENT; nstool plan FILE shows the step\n", done.stderr
    )
    assert match, done.stderr
    assert done.returncode == CANNOT
    environment = {key: value for key, value in os.environ.items() if key != "COLUMNS"}  # which would fold the lines
    command = [sys.executable, "-m", "nstool.cli.main", "plan", file]
    shown = subprocess.run(command, capture_output=True, text=True, env=environment)
    (line,) = (line for line in shown.stdout.splitlines() if line.split()[:1] == [match[1]])
    assert f'open_tree(AT_FDCWD, "{source}"' in line


# ---- what is not compiled ----

MAPPED = "an id-mapped mount needs a launcher that brings the fd"
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "terminal": ({"terminal": "always"}, "nsexec relays no terminal"),
    "net.mode": ({"net": Net("veth")}, '"veth" needs Python at launch; .* mode = "join"'),
    "root": ({"root": Root(type="tarball", path=__file__)}, "a tarball is unpacked by nstool"),
    "pass_fds": ({"pass_fds": (0,)}, "a passed fd needs a launcher"),
    "mounts[1]": ({"mounts": (Mount("/tmp/a", "/etc"), Mount("/tmp/b", "/etc", idmap=True))}, MAPPED),
}


@pytest.mark.parametrize("key", REFUSED)
def test_what_only_python_can_make_is_not_compiled(name: str, key: str) -> None:
    """Each with its key and what to do."""
    changes, message = REFUSED[key]
    with pytest.raises(SpecError, match=message) as caught:
        compile_spec(base(name, "true").replace(**changes))
    assert (caught.value.place, "; and " in caught.value.message) == (key, False)


def test_all_that_is_not_compiled_is_told_at_once(name: str) -> None:
    """Whoever takes one away does not meet the next."""
    spec = base(name, "true").replace(
        **{key: value for changes, _ in REFUSED.values() for key, value in changes.items()}
    )
    with pytest.raises(SpecError) as caught:
        compile_spec(spec)
    first, *others = str(caught.value).split("; and ")
    assert [text.split(": ")[0] for text in (first, *others)] == list(REFUSED)


@pytest.mark.parametrize(
    "root", [Root(type="directory", path="/usr", idmap=True), Root(type="overlay", lower=("/usr",))]
)
def test_a_mapped_root_is_not_compiled(name: str, tmp_path: Path, root: Root) -> None:
    """Mapped because it says so, or because its upper layer is kept."""
    if root.type == "overlay":
        (tmp_path / "upper").mkdir()
        root = root.replace(upper=str(tmp_path / "upper"))
    with pytest.raises(SpecError, match=f"^root: {MAPPED}"):
        compile_spec(base(name, "true").replace(root=root))


# ---- files that are no plan ----


def test_files_that_are_no_plan(compiled: Make, tmp_path: Path) -> None:
    """Each is refused with status 2 and one line that names it; none holds nsexec up."""
    good = Path(compiled("true")).read_bytes()
    files: dict[str, bytes] = {
        "empty": b"",
        "text": b"command = ['true']\n",
        "short": good[:100],
        "cut": good[:-1],
        "long": good + b"\0",
        "shebang-alone": b"#!/usr/bin/nsexec",
        "shebang-and-nothing": b"#!/usr/bin/nsexec\n",
        "zeros": bytes(4096),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with open(tmp_path / "huge", "wb") as file:
        file.write(good)
        file.truncate(2 << 30)
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "directory").mkdir()
    (tmp_path / "link").symlink_to("link")
    others = [tmp_path / name for name in ("huge", "fifo", "directory", "link", "missing")]
    for path in (*(tmp_path / name for name in files), *others, "/dev/null", "/dev/zero", "/proc/self/mem", ""):
        done = nsexec(str(path))
        assert done.returncode == USAGE, path
        assert f"{path}: " in done.stderr
        assert done.stderr.startswith("nsexec: ")
        assert done.stderr.count("\n") == 1


def test_plans_that_need_python(tmp_path: Path, name: str) -> None:
    """A plan with external steps, a terminal or more fds is refused by what it needs."""
    lease = Lease(name, 100000, 100000, 65536, f"nstool-{name}", "ns-0ad50002", "10.213.0.2/30", "10.213.0.1/30")
    specs = {
        "network": base(name, "true").replace(net=Net("veth"), limits=NO_LIMITS),
        "terminal": base(name, "true").replace(terminal="always", limits=NO_LIMITS),
        "more fds": base(name, "true").replace(pass_fds=(7,), limits=NO_LIMITS),
    }
    for what, spec in specs.items():
        file = tmp_path / what
        file.write_bytes(encode(build.plan(spec, host.read(spec), lease)))
        done = nsexec(str(file))
        assert (done.returncode, what in done.stderr) == (USAGE, True), done.stderr


# ---- careless callers ----


def test_closed_standard_streams_become_dev_null(compiled: Make) -> None:
    """Streams that the caller has closed are /dev/null inside, and nothing else takes their place."""
    script = "for n in 0 1 2; do case $(readlink /proc/$$/fd/$n) in *null) ;; *) exit 9;; esac; done; exit 5"
    file = compiled("sh", "-c", script)
    for closed in ("exec <&- >&- 2>&-", "exec <&- 2>&- > /dev/null", "exec < /dev/null >&- 2>&-"):
        assert after(closed, file).returncode == 5, closed
    assert after("exec <&-", compiled("sh", "-c", "cat; echo out; echo err >&2")).stdout == "out\n"


def test_no_reader_of_its_messages(tmp_path: Path) -> None:
    """A message that nobody reads does not end nsexec by SIGPIPE: the status stays the one that is documented."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as pipe:
        done = subprocess.run([NSEXEC, tmp_path / "missing"], stderr=pipe, timeout=SECONDS)
    assert done.returncode == USAGE


def _ignore_sigchld() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)


@BOTH
def test_ignored_sigchld_loses_no_status(compiled: Make, init: bool) -> None:
    """A caller that ignores SIGCHLD hands that down, and yet the status is the command's."""
    done = nsexec(compiled("sh", "-c", "exit 7", init=init), preexec_fn=_ignore_sigchld)
    assert done.returncode == 7


def _launch_with_sigchld_ignored(name: str) -> int | None:
    _ignore_sigchld()
    with launch(base(name, "sh", "-c", "exit 7").replace(limits=NO_LIMITS)) as sandbox:
        return sandbox.wait(SECONDS).code


def test_launch_with_sigchld_ignored_ends(in_child: InChild, name: str) -> None:
    """Init reaps its children whatever the launcher does with SIGCHLD; else it would wait for ever."""
    assert in_child(_launch_with_sigchld_ignored, name) == 7


def test_blocked_and_ignored_signals_are_not_handed_down(compiled: Make) -> None:
    """The command begins with every signal at its default: SIGTERM ends it although the caller ignores it."""
    done = after("trap '' TERM USR1", compiled("sh", "-c", "kill -TERM $$; sleep 9; exit 3"))
    assert done.returncode == 128 + signal.SIGTERM


@pytest.mark.parametrize("limit", [3, 4, 5, 6, 7, 8, 10, 12, 16, 20])
def test_few_fds(compiled: Make, limit: int) -> None:
    """With too small a limit of fds the step that met it is named, and nothing is left; never a silent end."""
    file = compiled("true")
    done = after(f"ulimit -n {limit}", file)
    if done.returncode:
        assert done.returncode in (USAGE, CANNOT)
        assert re.fullmatch(r"nsexec: .*: (EMFILE|EINVAL|EBADF)(; nstool plan FILE shows the step)?\n", done.stderr)
    assert not any(map(os.path.exists, cgroups_of(file)))


def test_small_files_only(compiled: Make) -> None:
    """With a file size limit of 0 the image cannot be made: an error, not a core dump."""
    done = after("ulimit -f 0", compiled("true"))
    assert done.returncode == CANNOT
    assert done.stderr.endswith(": EFBIG\n")


def test_little_memory(compiled: Make) -> None:
    """Without address space for the plan nsexec says so; with little more the launch fails. Nothing is left."""
    file = compiled("true")
    done = after("ulimit -v 1000", file)
    assert (done.returncode, done.stderr) == (CANNOT, f"nsexec: {file}: no memory: ENOMEM\n")
    assert after("ulimit -v 1500", file).returncode != 0
    assert not any(map(os.path.exists, cgroups_of(file)))


def test_image_is_sealed(running: Callable[..., subprocess.Popen[str]]) -> None:
    """Init runs from a memfd that cannot be written: what is inside cannot reach the host's nsexec. CVE-2019-5736."""
    process = running(f"{READY} exec sleep 60")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    link = os.readlink(f"/proc/{children[0]}/exe")
    assert link.startswith("/memfd:nsexec")
    fd = os.open(f"/proc/{children[0]}/exe", os.O_RDONLY)
    try:
        assert not os.path.samestat(os.fstat(fd), os.stat(NSEXEC))
        assert fcntl.fcntl(fd, 1034) == 0xF  # F_GET_SEALS: SEAL, SHRINK, GROW, WRITE
    finally:
        os.close(fd)


def _as_ordinary_user(directory: str, name: str) -> tuple[int, str, str]:
    spec = base(name, "sh", "-c", "id -u; exit 7").replace(limits=NO_LIMITS, groups=("keep",))
    file = os.path.join(directory, "plan")
    Path(file).write_bytes(compile_spec(spec))
    done = subprocess.run([NSEXEC, file], capture_output=True, text=True, timeout=SECONDS)
    os.unlink(file)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.needs("userns")
def test_ordinary_user_runs_a_plan(as_user: Callable[..., Any], user: User, name: str) -> None:
    """A plan that an ordinary user has compiled runs without any privilege; the host's root owns nothing of it."""
    assert as_user(_as_ordinary_user, str(user.home), name) == (7, "1000\n", "")
