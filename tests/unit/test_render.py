"""How a plan is shown: in words, as a table, as JSON, as a shell script. No build, no root; the scripts are not run."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import subprocess
from typing import Any

import pytest
from hypothesis import assume, event, given, settings
from rich.console import Console

from nstool import uapi
from nstool.errors import NotSupported, SpecError
from nstool.kinds import KINDS
from nstool.plan import build, join, render, track
from nstool.plan.calls import CALLS
from nstool.plan.cgroups import Controller, Layout
from nstool.plan.describe import arguments, call_text, man
from nstool.plan.encode import decode, encode
from nstool.plan.host import Host
from nstool.plan.lease import Lease
from nstool.plan.shell import script
from nstool.plan.shell.steps import ABSENT, FORMS
from nstool.plan.steps import CHILD, INIT, LAUNCHER, PAYLOAD, UNDO, Fd, Plan, Step
from nstool.spec.model import Capabilities, Limits, Mount, Namespaces, Net, Publish, Root, Spec
from tests.unit import strategies

LEASE = Lease(
    "box",
    0x70000000,
    0x70000000,
    65536,
    "nstool-box-1",
    link="ns-0ad50002",
    address="10.213.0.2/30",
    gateway="10.213.0.1/30",
)
CGROUPS = Layout(
    {name: Controller(name, 1, f"/cg/{name}", f"/cg/{name}", True, True) for name in ("memory", "pids", "cpu")},
    unified_mount="/cg/unified",
    unified_base="/cg/unified",
    swap_accounting=True,
)
HOST = Host(
    root=frozenset(("/proc", "/dev", "/tmp", "/sys", "/home")),
    proc_files={"kcore": False, "acpi": True},
    covered=("/home", "/sys"),
    scratch=("/tmp",),
    cgroups=CGROUPS,
)
# What a number is when it is no flag and no command: an id, a size, a count, an fd, a yes or no.
QUANTITIES = {
    ("answer_sysinfo", "memory"),
    ("answer_sysinfo", "swap"),
    ("fchownat", "uid"),
    ("fchownat", "gid"),
    ("setresuid", "ruid"),
    ("setresuid", "euid"),
    ("setresuid", "suid"),
    ("setresgid", "rgid"),
    ("setresgid", "egid"),
    ("setresgid", "sgid"),
    ("socket", "protocol"),
    ("prctl", "arg4"),
    ("prctl", "arg5"),
    ("dup3", "newfd"),
    ("fcntl", "arg"),
    ("close_range", "first"),
    ("pidfd_open", "pid"),
    ("receive", "fds"),
    ("clone3", "set_tid"),
    ("clone3", "owner"),
    ("landlock_add_rule", "port"),
}


def planned(**changes: object) -> Plan:
    """The plan of a spec with these changes, on a host as most are."""
    spec = Spec(**{"command": ("id",), "terminal": "never", **changes})  # type: ignore[arg-type]
    return build.plan(spec, HOST, LEASE)


DEFAULT = planned()
VETH = Net(mode="veth", publish=(Publish(8080, 80),))
PLANS = {
    "default": DEFAULT,
    "veth": planned(net=VETH),
    "bridge": planned(net=Net(mode="bridge")),
    "tmpfs": planned(root=Root(type="tmpfs"), mounts=(Mount("/usr", "/usr"), Mount("/data", type="tmpfs"))),
    "overlay": planned(root=Root(type="overlay", lower=("/a", "/b"))),
    "directory": planned(root=Root(type="directory", path="/srv"), limits=Limits(cpu=0.5)),
    "no init": planned(init=False),
    "host ids": planned(namespaces=Namespaces(user="host")),
    "capabilities": planned(capabilities=Capabilities(*[("kill", "net_raw")] * 5), personality="linux32", aslr="off"),
}


# ---- words ----


def example(name: str, number: int) -> Step:
    """A step of the call, with arguments of the right kinds; each number is `number`."""
    values: dict[str, Any] = {"i": number, "f": Fd("x"), "s": "s", "z": None, "b": bytes(64), "v": ("a", "b")}
    args = tuple(values[kind] for _, kind in CALLS[name].params) if name != "external" else ("veth_create", {"a": [1]})
    return Step(PAYLOAD, name, args, "why")


@pytest.mark.parametrize("name", CALLS)
def test_every_call_has_words_and_a_man_page(name: str) -> None:
    """Whatever its numbers are."""
    for number in (0, 1, 3, 0x1234, (1 << 64) - 1):
        step = example(name, number)
        assert call_text(step).startswith(name if name != "external" else "veth_create")
        assert man(step)
        assert len(arguments(step)) == (0 if name == "external" else len(CALLS[name].params))


@pytest.mark.parametrize("name", CALLS)
def test_no_number_is_left_to_readers_of_headers(name: str) -> None:
    """An integer parameter that can be more than a quantity has names, is octal, or has a word for "no limit"."""
    numbers = {n for n in vars(uapi).values() if isinstance(n, int) and n > 0} | {8, 0xFFFF_FFFF, uapi.RLIM_INFINITY}
    for parameter, kind in CALLS[name].params:
        if kind == "i" and (name, parameter) not in {
            *QUANTITIES,
            ("prctl", "arg2"),
            ("prctl", "arg3"),
            ("ioctl_int", "arg"),
        }:
            assert any(arguments(example(name, number))[parameter] != str(number) for number in numbers), parameter


@pytest.mark.parametrize("plan", PLANS.values(), ids=list(PLANS))
def test_numbers_that_are_shown_are_quantities(plan: Plan) -> None:
    """In a whole plan no other number above 1 is left."""
    counted = {*QUANTITIES, ("setrlimit", "soft"), ("setrlimit", "hard")}
    for step in plan.steps:
        for (parameter, kind), word in zip(CALLS[step.call].params, arguments(step).values()):
            if kind == "i" and word.isdigit() and not word.startswith("0"):
                assert (step.call, parameter) in counted or word == "1", call_text(step)


@pytest.mark.parametrize(
    ("step", "text"),
    [
        (
            Step(INIT, "openat2", (uapi.AT_FDCWD, "/x", uapi.O_PATH | uapi.O_CLOEXEC, 0, 4), "", "at"),
            'at = openat2(AT_FDCWD, "/x", {flags=O_CLOEXEC|O_PATH, resolve=RESOLVE_NO_SYMLINKS})',
        ),
        (
            Step(LAUNCHER, "openat2", (uapi.AT_FDCWD, "/x", uapi.O_CREAT, 0o600, 0), "", "f"),
            'f = openat2(AT_FDCWD, "/x", {flags=O_RDONLY|O_CREAT, mode=0600})',
        ),
        (
            Step(INIT, "mount_setattr", (Fd("m"), "", uapi.AT_EMPTY_PATH, 3, 0, uapi.MS_SLAVE, Fd("u")), ""),
            'mount_setattr(<m>, "", AT_EMPTY_PATH, '
            "{attr_set=MOUNT_ATTR_RDONLY|MOUNT_ATTR_NOSUID, propagation=MS_SLAVE, userns_fd=<u>})",
        ),
        (Step(LAUNCHER, "clone3", (uapi.CLONE_NEWPID, -1, 77, 0), ""), "clone3({flags=CLONE_NEWPID, set_tid=77})"),
        (Step(PAYLOAD, "prctl", (uapi.PR_SET_PDEATHSIG, 9, 0, 0, 0), ""), "prctl(PR_SET_PDEATHSIG, SIGKILL)"),
        (
            Step(PAYLOAD, "prctl", (uapi.PR_CAP_AMBIENT, uapi.PR_CAP_AMBIENT_RAISE, 5, 0, 0), ""),
            "prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_KILL)",
        ),
        (
            Step(PAYLOAD, "prctl", (uapi.PR_SET_SECUREBITS, 3, 0, 0, 0), ""),
            "prctl(PR_SET_SECUREBITS, SECBIT_NOROOT|SECBIT_NOROOT_LOCKED)",
        ),
        (
            Step(PAYLOAD, "capset", (1 << 5 | 1 << 13, (1 << 41) - 1, (1 << 41) - 2), ""),
            "capset({effective=CAP_KILL|CAP_NET_RAW, permitted=all, inheritable=all but CAP_CHOWN})",
        ),
        (Step(PAYLOAD, "setrlimit", (7, 1024, -1), ""), "setrlimit(RLIMIT_NOFILE, 1024, RLIM_INFINITY)"),
        (Step(PAYLOAD, "setgroups", (b"\5\0\0\0\7\1\0\0",), ""), "setgroups([5, 263])"),
        (Step(PAYLOAD, "keyctl", (1, None), ""), "keyctl(KEYCTL_JOIN_SESSION_KEYRING, NULL)"),
        (Step(PAYLOAD, "close_range", (3, 0xFFFFFFFF, 4), ""), "close_range(3, ~0U, CLOSE_RANGE_CLOEXEC)"),
        (Step(PAYLOAD, "ioctl_int", (Fd("t"), uapi.TIOCSCTTY, 0), ""), "ioctl_int(<t>, TIOCSCTTY, 0)"),
        (
            Step(INIT, "ioctl", (Fd("s"), uapi.SIOCSIFFLAGS, b"lo".ljust(16, b"\0") + b"\1\0" + bytes(46)), ""),
            'ioctl(<s>, SIOCSIFFLAGS, {ifr_name="lo", ifr_flags=IFF_UP})',
        ),
        (
            Step(LAUNCHER, "mknodat", (Fd("d"), "x", uapi.S_IFCHR | 0o666, 259 | 1 << 20), ""),
            'mknodat(<d>, "x", S_IFCHR|0666, makedev(1, 259))',
        ),
        (
            Step(INIT, "write_file", (uapi.AT_FDCWD, "/f", b"a\n\x01\xff", 0, 0), ""),
            r'write_file(AT_FDCWD, "/f", "a\n\x01\xff", O_WRONLY|O_CLOEXEC, 0)',
        ),
    ],
)
def test_words_are_the_kernels(step: Step, text: str) -> None:
    """Flags, options and their arguments by name; what asks for nothing is left out."""
    assert call_text(step) == text


def test_device_numbers_are_those_of_the_c_library() -> None:
    """makedev(3) and mknod(2) agree, also for a minor above 255."""
    for major, minor in ((1, 3), (5, 0), (259, 70000)):
        step = Step(INIT, "mknodat", (Fd("d"), "x", uapi.S_IFBLK, os.makedev(major, minor)), "")
        assert f"makedev({major}, {minor})" in call_text(step)


# ---- where everybody is ----


def codes(plan: Plan) -> list[tuple[str, str]]:
    """(who, namespaces) in order, each change once."""
    pairs = zip((step.who for step in plan.steps), map(render.code, track.namespaces(plan)))
    return [pair for pair, _ in itertools.groupby(pairs)]


def test_namespaces_of_each_actor_are_tracked() -> None:
    """clone3 makes six; time comes when init joins it, cgroup when init unshares it; the launcher stays outside."""
    assert codes(DEFAULT) == [
        (LAUNCHER, "--------"),
        (CHILD, "umpnhi--"),
        (LAUNCHER, "--------"),
        (INIT, "umpnhi--"),
        (INIT, "umpnhi-t"),
        (INIT, "umpnhict"),
        (PAYLOAD, "umpnhict"),
        (UNDO, "--------"),
    ]


def test_joined_pid_namespace_holds_for_the_next_process() -> None:
    """setns(2) of a pid namespace changes nothing for who calls it; of any other type it does, time included."""
    plan = join.into_namespaces(("id",), {kind: f"/proc/1/ns/{kind}" for kind in KINDS}, {})
    assert [pair for pair in codes(plan) if pair[0] in (INIT, PAYLOAD)] == [
        (INIT, "--------"),
        (INIT, "U-------"),
        (INIT, "U-----C-"),
        (INIT, "U----IC-"),
        (INIT, "U---HIC-"),
        (INIT, "U--NHIC-"),
        (INIT, "U--NHICT"),
        (INIT, "UM-NHICT"),
        (PAYLOAD, "UMPNHICT"),
    ]


def test_headings_follow_from_the_steps() -> None:
    """Short words for what a step helps to make, also of a compiled plan, which has no names and no reasons."""
    found = [heading for heading, _ in itertools.groupby(track.headings(DEFAULT))]
    for heading in ("cgroups", "user namespace", "root", "/proc", "/dev", "masks", "network", "limits", "credentials"):
        assert heading in found
    assert len(found) < len(DEFAULT.steps) / 3
    assert track.headings(decode(encode(DEFAULT))) == track.headings(DEFAULT)


# ---- the table ----


def table(plan: Plan, width: int, long: bool = False) -> list[str]:
    """The table's lines on a terminal of this width."""
    file = io.StringIO()
    console = Console(file=file, width=width, highlight=False, force_terminal=True, color_system=None)
    render.table(plan, long, console)
    return file.getvalue().splitlines()


SMALL = Plan(
    (
        Step(LAUNCHER, "clone3", (uapi.CLONE_NEWUTS, -1, 0, 0), "the new process"),
        Step(CHILD, "exec_init", (), "nsexec takes over"),
        Step(LAUNCHER, "release", (), "let it go on"),
        Step(INIT, "wait", (), "until then"),
        Step(INIT, "mkdirat", (uapi.AT_FDCWD, "/a", 0o755), "a place", ignore=17),
        Step(INIT, "sethostname", ("box",), "a name"),
        Step(PAYLOAD, "execve", (("/bin/id",), ("id",), ("A=b",)), "the command"),
    ),
    ("stdin",),
    False,
    True,
    "small",
)


def test_table_of_a_small_plan() -> None:
    """The whole of it, at 160 columns."""
    assert [re.sub(" {3,}", "   ", line.rstrip()) for line in table(SMALL, 160)] == [
        "plan small: 7 steps; given by the caller: stdin",
        "ns, the actor's namespaces: u user, m mnt, p pid, n net, h uts, i ipc, c cgroup, t time; "
        "small is new, capital joined, - the caller's",
        "#  who   ns   call   why   man page",
        "new namespaces (1)",
        "1  launcher  --------  clone3({flags=CLONE_NEWUTS})   the new process   clone(2)",
        "init (2)",
        "2  child   ----h---  exec_init()   nsexec takes over   execveat(2)",
        "go on (3-4)",
        "3  launcher  --------  release()   let it go on   unix(7)",
        "4  init   ----h---  wait()   until then   unix(7)",
        "root (5)",
        '5  init   ----h---  mkdirat(AT_FDCWD, "/a", 0755)  [EEXIST is no failure]   a place   mkdir(2)',
        "host name (6)",
        '6  init   ----h---  sethostname("box")   a name   sethostname(2)',
        "the command (7)",
        '7  payload   ----h---  execve(["/bin/id"], ["id"], ["A=b"])   the command   execve(2)',
    ]
    assert [line.rstrip() for line in table(SMALL, 80)][-2:] == [
        '7  payload   ----h---  execve(["/bin/id"], ["id"], ["A=b"])',
        "                       the command  execve(2)",
    ]


@pytest.mark.parametrize("width", [80, 120, 159, 160, 200])
@pytest.mark.parametrize("plan", PLANS.values(), ids=list(PLANS))
def test_table_fits_its_width_and_has_every_step(plan: Plan, width: int) -> None:
    """No line is longer; each step has its number, actor and page; below 160 columns nothing is cut either."""
    lines = table(plan, width)
    assert max(map(len, lines)) <= width
    numbered = [line.split()[:2] for line in lines if re.match(r" *\d+  \w+ +[-a-zA-Z]{8}  ", line)]
    assert numbered == [[str(number), step.who] for number, step in enumerate(plan.steps, 1)]
    for step in plan.steps:
        assert any(line.rstrip().endswith(man(step)) for line in lines), step
    if width < 160:
        text = re.sub(r"\s", "", "".join(lines))
        for step in plan.steps:
            assert re.sub(r"\s", "", call_text(step)) in text


def test_long_table_shortens_nothing() -> None:
    """--long: every character of a long argument is there, at any width."""
    argument = "".join(f"{number:03d}," for number in range(200))
    plan = planned(command=("echo", argument))
    for width in (80, 200):
        assert argument in re.sub(r"\s", "", "".join(table(plan, width, long=True)))
        assert argument not in re.sub(r"\s", "", "".join(table(plan, width)))


def piped(plan: Plan) -> list[str]:
    """The table's lines where the output is no terminal."""
    file = io.StringIO()
    render.table(plan, console=Console(file=file, highlight=False))
    return file.getvalue().splitlines()


def test_a_pipe_gets_one_line_a_step_with_nothing_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call, reason and man page whole, and no colours; what fits into its column stands below the head."""
    monkeypatch.delenv("COLUMNS", raising=False)
    argument = "".join(f"{number:03d}," for number in range(200))
    plan = planned(command=("echo", argument))
    lines = piped(plan)
    steps = [line for line in lines if re.match(r" *\d+  ", line)]
    assert len(steps) == len(plan.steps)
    for step, line in zip(plan.steps, steps):
        assert f"  {call_text(step, longest=1 << 30)}  " in line
        assert f"  {step.why}  " in line
        assert line.endswith(man(step))
    head = next(line for line in lines if line.split()[:1] == ["#"])
    assert steps[0].index(plan.steps[0].why) == head.index("why")
    assert "\033" not in "".join(lines)


def test_a_pipe_gets_as_many_columns_as_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """COLUMNS, as whoever shows it on a terminal sets it."""
    monkeypatch.setenv("COLUMNS", "170")
    assert {len(line) for line in piped(DEFAULT) if re.match(r" *\d+  ", line)} == {170}


# ---- JSON ----


def test_json_tells_its_version_and_keys() -> None:
    """The keys of the document and of a step are the documented ones."""
    document = json.loads(render.json(DEFAULT))
    assert {key: type(value) for key, value in document.items()} == {
        "nstool_plan": int,
        "name": str,
        "init": bool,
        "die_with_parent": bool,
        "given": list,
        "steps": list,
    }
    assert document["nstool_plan"] == 1
    keys = "step who group namespaces call args words result ignore text why man"
    assert all(" ".join(step) == keys for step in document["steps"])
    assert all(set(step["namespaces"]) == set(KINDS) for step in document["steps"])


def test_json_values() -> None:
    """Numbers stay numbers, text is text, fds and bytes say that they are such; the names stand beside."""
    plan = Plan(
        (
            Step(INIT, "mount_setattr", (Fd("m"), "", uapi.AT_EMPTY_PATH, 1, 0, 0, -1), "w"),
            Step(INIT, "write_file", (uapi.AT_FDCWD, "/a\udcff", b"x\n", 0, 0), "w"),
            Step(INIT, "write_file", (uapi.AT_FDCWD, "/b", b"\0\1", 0, 0), "w"),
            Step(PAYLOAD, "setgroups", (b"",), "w"),
            Step(PAYLOAD, "mount", (None, "/", None, 0, None), "w"),
        )
    )
    rows = json.loads(render.json(plan))["steps"]
    assert rows[0]["args"] == {
        "dirfd": {"fd": "m"},
        "path": "",
        "flags": 4096,
        "attr_set": 1,
        "attr_clr": 0,
        "propagation": 0,
        "userns_fd": -1,
    }
    assert rows[0]["words"]["attr_set"] == "MOUNT_ATTR_RDONLY"
    assert (rows[1]["args"]["path"], rows[1]["args"]["data"]) == ({"hex": "2f61ff"}, "x\n")
    assert rows[2]["args"]["data"] == {"hex": "0001"}
    assert rows[3]["args"] == {"list": {"hex": ""}}
    assert rows[4]["args"]["source"] is None


def test_json_of_a_tarball() -> None:
    """What unpacks it is told in lists only, which come back as they were."""
    plan = planned(root=Root(type="tarball", path="/a.tar"), mounts=(Mount("/usr", "/usr"),))
    again = render.load(json.loads(render.json(plan)))
    told = [[step.args for step in steps if step.call == "external"] for steps in (again.steps, plan.steps)]
    assert told[0][0][0] == "tarball_unpack"
    assert told[0] == told[1]


@settings(max_examples=20)
@given(strategies.cases())
def test_json_is_the_whole_plan(case: tuple[Spec, Host, Lease]) -> None:
    """The plan that is made of the document encodes to the same bytes."""
    plan = any_plan(case)
    again = render.load(json.loads(render.json(plan)))
    assert encode(again) == encode(plan)
    assert [(s.who, s.result, s.ignore, man(s)) for s in again.steps] == [
        (s.who, s.result, s.ignore, man(s)) for s in plan.steps
    ]
    assert [s.args for s in again.steps if s.call == "external"] == [s.args for s in plan.steps if s.call == "external"]


def any_plan(case: tuple[Spec, Host, Lease]) -> Plan:
    """The plan of a case that has one."""
    try:
        return build.plan(*case)
    except (SpecError, NotSupported):
        assume(False)
        raise


# ---- the shell script ----

PART = re.compile(r"^cat >\"\$work/(\w+)\" <<'(\w+)'\n(.*?)^\2$", re.M | re.S)


def shell(plan: Plan) -> str:
    """The script as text."""
    return script.write(plan).decode("utf-8", "surrogateescape")


def parts(text: str) -> dict[str, str]:
    """What each process of the script reads: "" the script itself, and the parts that it writes."""
    return {"": PART.sub("", text), **{name: body for name, _, body in PART.findall(text)}}


def test_every_call_has_a_shell_form_or_a_named_absence() -> None:
    """One of the two."""
    assert set(FORMS) | set(ABSENT) == set(CALLS)
    assert not set(FORMS) & set(ABSENT)
    assert all(ABSENT.values())


@pytest.mark.parametrize("plan", PLANS.values(), ids=list(PLANS))
def test_script_has_every_step_in_order(plan: Plan) -> None:
    """Each step once, with its call and why; the undo steps come first, in reverse, for a trap runs them."""
    numbers = [(int(n), call) for n, call in re.findall(r"^ *# (\d+) (\w+)", shell(plan), re.M)]
    undo = [(n, s.call) for n, s in enumerate(plan.steps, 1) if s.who == UNDO]
    others = [(n, s.call) for n, s in enumerate(plan.steps, 1) if s.who != UNDO]
    assert numbers == undo[::-1] + others


@pytest.mark.parametrize("plan", PLANS.values(), ids=list(PLANS))
def test_what_a_script_does_not_do_is_listed(plan: Plan) -> None:
    """Each "not done" at a step is in the list at the start, with the step's number."""
    text = shell(plan)
    head = text[: text.index("\nset -eu")]
    number = 0
    for line in text.splitlines():
        if found := re.match(r" *# (\d+) \w+", line):
            number = int(found[1])
        if found := re.match(r" *#   not done: (.*)", line):
            (entry,) = [entry for entry in head.splitlines() if entry.startswith(f"#   - {found[1]} (")]
            assert number in numbers_in(entry)
    seccomp = next(n for n, step in enumerate(plan.steps, 1) if step.call == "seccomp")
    (entry,) = [line for line in head.splitlines() if "(--seccomp-filter FILE)" in line]
    assert seccomp in numbers_in(entry)


def numbers_in(entry: str) -> set[int]:
    """The steps that an entry ends with: "(steps 3, 5-7)"."""
    words = re.search(r"\(steps? ([\d, -]+)\)$", entry)
    assert words
    ends = [word.split("-") for word in words[1].split(", ")]
    return {number for pair in ends for number in range(int(pair[0]), int(pair[-1]) + 1)}


@pytest.mark.parametrize("plan", PLANS.values(), ids=list(PLANS))
def test_parts_of_a_script_are_valid_sh(plan: Plan) -> None:
    """The shell reads each part to its end."""
    for name, part in parts(shell(plan)).items():
        done = subprocess.run(["sh", "-n"], input=part, capture_output=True, text=True)
        assert done.returncode == 0, (name, done.stderr)


@settings(max_examples=20)
@given(strategies.cases())
def test_every_plan_has_a_script_or_a_reason(case: tuple[Spec, Host, Lease]) -> None:
    """NotSupported says why not; otherwise every step is there, and nothing of an argument gets out of its quotes."""
    plan = any_plan(case)
    try:
        text = shell(plan)
    except NotSupported as error:
        event(str(error))
        return
    numbers = [int(n) for n in re.findall(r"^ *# (\d+) \w+: ", text, re.M)]
    assert sorted(numbers) == list(range(1, len(plan.steps) + 1))


@pytest.mark.parametrize(
    "hostile", ["/a\ntouch /tmp/x", "/a'; touch x;'", "/$(touch x)`touch x`", '/"x', "/END_OF_INIT2"]
)
def test_no_path_or_argument_is_read_as_code(hostile: str) -> None:
    """Each is one word, and comments stay comments: sh names the words of every command as they are in the plan."""
    plan = planned(
        command=("echo", hostile, "\nEND_OF_INIT2\n"),
        mounts=(Mount(hostile, hostile),),
        root=Root(type="tmpfs"),
        cwd=hostile,
        env={"A": hostile},
    )
    text = shell(plan)
    body = parts(text)["init2"]
    tail = body[body.index("    exec $old$setsid") :]
    words = subprocess.run(
        ["sh", "-c", tail[: tail.index("\n) <&3")].replace("exec $old$setsid", "printf '%s\\0'").replace("$old$", "")],
        capture_output=True,
        check=True,
    ).stdout.split(b"\0")[:-1]
    assert words[-4:] == [f"A={hostile}".encode(), b"echo", hostile.encode(), b"\nEND_OF_INIT2\n"]
    assert f"--chdir={hostile}".encode() in words
    without = subprocess.run(["sh", "-n"], input=body, capture_output=True, text=True)
    assert without.returncode == 0, without.stderr
    comments = re.findall(r"^ *# (\d+) \w+: ", text, re.M)
    assert len(comments) == len(plan.steps)  # none broken off by a newline in a path


def test_small_script() -> None:
    """Parts and order of a plan that can be read at a glance."""
    text = shell(SMALL)
    assert parts(text)["stage"].splitlines()[-6:] == [
        "# 1 clone3: the new process",
        "#   by unshare below, and a fork of it",
        "# 2 exec_init: nsexec takes over",
        "#   not done: init is a shell, not nsexec from a sealed memfd: "
        "it forwards no signals and reports only the exit status",
        "exec unshare --uts --fork --kill-child \\",
        '    sh -eu -c \'exec 2>&3 3>&-; read -r pid _ </proc/self/stat; echo "$pid" >&4; '
        'read -r _ <"$work/go"; exec sh -eu "$work/init1"\' 3>&2 2>"$work/errors"',
    ]
    assert parts(text)["init1"].splitlines()[1:] == [
        "# 4 wait: until then",
        "#   it was waiting for this file to be there",
        "# 5 mkdirat: a place",
        "[ -d /a ] || mkdir -m 755 /a",
        "",
        "# 6 sethostname: a name",
        "hostname box",
        "",
        "# 7 execve: the command",
        "exec env -i A=b \\",
        "    id",
    ]


def test_fds_of_a_mount_become_one_command() -> None:
    """fsopen to move_mount, and open_tree to move_mount, are one mount each, by a tool of the old root."""
    text = shell(planned(root=Root("host"), proc_show=("sys",)))
    proc = text[text.index("fsopen: a /proc") :]
    calls = "".join(rf"# \d+ {call}: .*\n" for call in ("fsconfig", "fsconfig", "fsmount", "openat2", "move_mount"))
    command = r"\$old\$mount -n -c -t proc -o hidepid=invisible,nosuid,nodev,noexec none /proc\n"
    assert re.match(rf"fsopen: .*\n{calls}{command}", proc)
    assert "\n$old$mount -n -c --bind ../dev/file /proc/kcore\n" in text
    assert "\nattributes /proc/sys ro,nosuid,nodev,noexec below\n" in text


def test_a_script_cannot_hold_more_fds_than_sh_has() -> None:
    """It is refused with the reason, not written wrong."""
    places = {kind: f"/proc/1/ns/{kind}" for kind in ("net", "ipc", "uts", "cgroup")}
    with pytest.raises(NotSupported, match="sh knows fds 0 to 9 only"):
        shell(planned(namespaces=Namespaces(user="host", **places), limits=Limits()))
