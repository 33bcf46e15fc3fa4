"""The script of `nstool plan --sh` makes what `nstool run` makes, but for what it says it does not."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nstool.kinds import KINDS
from nstool.spec.model import Capabilities, IdMap, Ipc, Limits, Mount, Namespaces, Net, Publish, Root, Spec
from tests.support import kernel
from tests.support.child import run_in_child
from tests.support.plans import free_port
from tests.support.probes import REPOSITORY, probe
from tests.support.user import User
from tests.support.workplace import Workplace, unescape

NSTOOL = str(REPOSITORY / ".venv/bin/nstool")
BUSYBOX = "/bin/busybox"
APPLETS = ("sh", "cat", "cut", "grep", "head", "ls", "readlink", "sed", "sort", "tr", "true", "sleep")

pytestmark = pytest.mark.needs("root", "native", "nsexec")

# What a process of the sandbox sees: sections of lines, by the shell and tools that every root here has.
PROBE = r"""
say() { printf '== %s\n' "$1"; }
say status; grep -E '^(Uid|Gid|Groups|NoNewPrivs|Cap...|Umask|SigBlk|SigIgn):' /proc/self/status |
    sed 's/^\(SigIgn:.0000000\)../\100/' # not 32 and 33: make(1) ignores them, and no sh can reset them
say seccomp; grep '^Seccomp:' /proc/self/status
say pids; grep '^NSpid:' /proc/self/status; cut -d' ' -f4-6 /proc/$$/stat
say mounts; cat /proc/self/mountinfo
say limits; cat /proc/self/limits
say cgroups; cat /proc/self/cgroup
say names; cat /proc/sys/kernel/hostname /proc/sys/kernel/domainname
say clocks; cat /proc/self/timens_offsets
say ipc; cat /proc/sys/kernel/shmmax /proc/sys/kernel/sem /proc/sys/fs/mqueue/queues_max
say dev; ls -ln /dev /dev/pts /dev/shm | sed 's/ [A-Z][a-z][a-z] .*:[0-9][0-9] / /'
say directories; readlink /proc/self/cwd; readlink /proc/self/root; ls /
say environment; tr '\0' '\n' </proc/$$/environ
say fds; ls /proc/$$/fd
say network; cut -d: -f1 /proc/net/dev; cat /proc/net/route /proc/net/if_inet6 /proc/net/arp
say out of memory; cat /proc/self/oom_score_adj
say persona; cat /proc/self/personality 2>/dev/null || echo hidden
say arguments; tr '\0' '|' </proc/$$/cmdline; echo
say map; sed 's/ *[0-9]* *\([0-9]*\).*/\1/' /proc/self/uid_map
for kind in user mnt pid net uts ipc cgroup time; do say "ns $kind"; readlink "/proc/self/ns/$kind"; done
"""
LISTS = {"mounts", "limits", "dev", "environment", "network", "cgroups"}  # whose order means nothing

# What may differ, and why: the script says each of these at its start, or it is a number of this one run.
ALLOWED = {
    "seccomp": "setpriv has no --seccomp-filter before util-linux 2.40",
    "pids": "init has run programs before the command",
    "map": "the host ids are leased anew",
    **{f"ns {kind}": "every sandbox has its own" for kind in KINDS},
}


@probe
def shellcheck() -> str:
    """The linter of shell scripts."""
    return "" if shutil.which("shellcheck") else "no shellcheck; install shellcheck"


@pytest.fixture
def busybox(workplace: Workplace) -> Iterator[str]:
    """A directory with busybox, its applets and the usual mount points: all that a small root has."""
    root = workplace.own / "busybox"
    for name in ("bin", "proc", "dev", "tmp", "etc", "run", "var/tmp", "data", "sys"):
        (root / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, root / "bin")
    for applet in APPLETS:
        (root / "bin" / applet).symlink_to("busybox")
    for name in ("resolv.conf", "hosts"):
        (root / "etc" / name).touch()
    yield str(root)
    shutil.rmtree(root)


@contextlib.contextmanager
def written(spec: Spec, place: Workplace) -> Iterator[str]:
    """A spec as a file."""
    path = place.own / "spec.json"
    path.write_text(json.dumps(spec.changed()))
    try:
        yield str(path)
    finally:
        path.unlink()


@contextlib.contextmanager
def script(spec: Spec, place: Workplace, *, tidy: bool = True) -> Iterator[str]:
    """The script of a spec as a file. tidy: at the end nothing of its own directory may be left."""
    path = place.own / "script.sh"
    with written(spec, place) as file:
        made = subprocess.run([NSTOOL, "plan", "--sh", file], capture_output=True, timeout=60)
    assert made.returncode == 0, made.stderr
    path.write_bytes(made.stdout)
    try:
        yield str(path)
        assert not tidy or not list(place.own.glob("nstool.*"))
    finally:
        path.unlink()


def environment(place: Workplace) -> dict[str, str]:
    """One in which the script makes its directory where the test looks, and the sandbox's ids can pass."""
    return {**os.environ, "TMPDIR": str(place.own)}


def run_script(path: str, place: Workplace, shell: str = "sh", **options: Any) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    options = {"stdin": subprocess.DEVNULL, **options}
    return subprocess.run([shell, path], capture_output=True, text=True, timeout=60, env=environment(place), **options)


def seen(output: str) -> dict[str, list[str]]:
    """The sections of the probe's output; host ids as "ID+n", hidden mounts left out."""
    sections: dict[str, list[str]] = {}
    for line in output.splitlines():
        if line.startswith("== "):
            sections[line[3:]] = lines = []
        else:
            lines.append(line)
    base = int(sections["map"][0])
    sections["mounts"] = visible(sections["mounts"])
    for name, lines in sections.items():
        if base and name != "map":
            lines[:] = [re.sub(r"\d{9,}", lambda m: host_id(int(m[0]), base), line) for line in lines]
        if name == "dev":  # it belongs to who has made the ipc namespace
            lines[:] = [re.sub(r" +\d+ +65534 +\d+ mqueue$", " MAKER mqueue", line) for line in lines]
        if name in LISTS:
            lines.sort()
    sections["clocks"] = [clock(line) for line in sections["clocks"]]
    return sections


def clock(line: str) -> str:
    """A line of timens_offsets; the offset that makes a clock begin at zero depends on when it was chosen."""
    name, seconds, nanoseconds = line.split()
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    zero = -100 < uptime + int(seconds) < 100
    return f"{name} {'from zero' if zero else seconds} {nanoseconds}"


def host_id(number: int, base: int) -> str:
    return f"ID+{number - base}" if base <= number < base + 65536 else str(number)


def visible(mountinfo: list[str]) -> list[str]:
    """Mounts as "root point flags type source options", without those that another one on the same place hides.

    Their flags cannot be set by path, which the script says. Nor is a mount of the script's in the peer group of the
    host's, which it says too.
    """
    rows = [re.sub(r" shared:\d+ ", " shared ", line).split() for line in mountinfo]
    hidden = {upper[1] for upper in rows for lower in rows if upper[1] == lower[0] and upper[4] == lower[4]}
    return [" ".join([unescape(row[4]), row[3], *row[5:]]) for row in rows if row[0] not in hidden]


def by_run(spec: Spec, place: Workplace) -> dict[str, list[str]]:
    """What the probe sees in the sandbox that nstool makes."""
    with written(spec, place) as file:
        done = subprocess.run(
            [NSTOOL, "run", file], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
        )
    assert (done.returncode, done.stderr) == (0, "")
    return seen(done.stdout)


def by_script(spec: Spec, place: Workplace, shell: str = "sh") -> dict[str, list[str]]:
    """What the probe sees in the sandbox that the script makes."""
    with script(spec, place) as path:
        done = run_script(path, place, shell)
    assert (done.returncode, done.stderr) == (0, "")
    return seen(done.stdout)


def probing(name: str, **changes: object) -> Spec:
    """A spec whose command is the probe, with arguments that a careless script would break."""
    command = ("/bin/sh", "-c", PROBE, "a b", "x\ny'$z\"")
    wanted = {"command": command, "name": name, "hostname": "box", "terminal": "never", **changes}
    return Spec(**wanted)  # type: ignore[arg-type]


def veth(place: Workplace) -> Net:
    """A link with addresses that the test's own pool has, and a published port."""
    network = place.nets[0]
    return Net(
        mode="veth",
        address=f"{network[2]}/30",
        gateway=f"{network[1]}/30",
        ipv6=False,
        publish=(Publish(free_port(), 80),),
    )


Wanted = Callable[[str, str, Workplace], Spec]
SPECS: dict[str, Wanted] = {
    "the default": lambda name, root, place: probing(name),
    "directory": lambda name, root, place: probing(name, root=Root(type="directory", path=root)),
    "writable directory": lambda name, root, place: probing(
        name,
        root=Root(type="directory", path=root, writable=True),
        mounts=(Mount("/data", "/var/tmp", propagation="shared"),),
    ),
    "directory without mount points": lambda name, root, place: probing(
        name, root=Root(type="directory", path=root), mounts=(Mount("/new", "/usr/share"),)
    ),
    "tmpfs with binds": lambda name, root, place: probing(
        name,
        root=Root(type="tmpfs"),
        mounts=(
            Mount("/bin", f"{root}/bin"),
            Mount("/etc/passwd", "/etc/passwd"),
            Mount("/data", "/var/tmp", writable=True, exec=False, recursive=False),
            Mount("/scratch", type="tmpfs", size=1 << 20, mode=0o700),
        ),
        readonly_paths=("/scratch",),
        mask_paths=("/etc/passwd",),
    ),
    "overlay": lambda name, root, place: probing(name, root=Root(type="overlay", lower=(root,))),
    "limits, names, clocks, credentials": lambda name, root, place: probing(
        name,
        limits=Limits(
            memory=64 << 20, pids=50, cpu=0.5, rlimits={"core": (0, 0), "nofile": (64, 128), "as": (1 << 30, -1)}
        ),
        ipc=Ipc(shmmax=12345678, sem="100 1000 10 10", mq_queues_max=7),
        namespaces=Namespaces(monotonic_offset=1000, boottime_offset=-5),
        domainname="domain",
        user="0:0",
        groups=("5", "7"),
        capabilities=Capabilities(*[("net_raw", "kill")] * 5),
        env={"A": "b c'd\ne"},
        cwd="/usr",
        umask=0o077,
        net=Net(mode="none"),
        aslr="off",
        personality="linux32",
    ),
    "no user namespace": lambda name, root, place: probing(name, namespaces=Namespaces(user="host")),
    "no init": lambda name, root, place: probing(name, init=False),
    "ids of its own choice": lambda name, root, place: probing(
        name, uid_map=(IdMap(0, place_id(place), 2000),), gid_map=(IdMap(0, place_id(place), 2000),)
    ),
    "veth": lambda name, root, place: probing(name, net=veth(place)),
}


def place_id(place: Workplace) -> int:
    return int(place.ids.split("-")[0], 16)


@pytest.mark.needs("nft")
@pytest.mark.parametrize("wanted", SPECS.values(), ids=list(SPECS))
def test_script_makes_what_run_makes(wanted: Wanted, name: str, busybox: str, workplace: Workplace) -> None:
    """Every section of the probe is the same, but those of ALLOWED; the namespaces are new ones in both."""
    spec = wanted(name, busybox, workplace)
    run, shell = by_run(spec, workplace), by_script(spec, workplace)
    assert run.keys() == shell.keys()
    assert {key: shell[key] for key in shell if key not in ALLOWED} == {
        key: run[key] for key in run if key not in ALLOWED
    }
    assert run["seccomp"] == ["Seccomp:\t2"]
    assert shell["seccomp"] == ["Seccomp:\t0"]
    for kind in KINDS:
        own = [os.readlink(f"/proc/self/ns/{kind}")]
        shared = getattr(spec.namespaces, kind) == "host"
        assert (run[f"ns {kind}"] == own, shell[f"ns {kind}"] == own) == (shared, shared)


@pytest.mark.parametrize("propagation", ["shared", "slave"])
def test_what_is_not_shared_with_the_host_is_said(propagation: str, name: str, workplace: Workplace) -> None:
    mounts = (Mount("/data", "/var/tmp", propagation=propagation),)
    with script(Spec(command=("true",), name=name, mounts=mounts), workplace) as path:
        said = "#   - sharing with the host's mount" in Path(path).read_text()
    assert said == (propagation == "shared")


@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_any_posix_shell_runs_it(shell: str, name: str, workplace: Workplace, tmp_path: Path) -> None:
    """As the script's own shell and as the sh of its parts."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "sh").symlink_to(shutil.which(shell) or pytest.fail(f"no {shell}"))
    with script(Spec(command=("echo", "done"), name=name, terminal="never"), workplace) as path:
        text = Path(path).read_text().replace("\nPATH=", f"\nPATH={tools}:")
        Path(path).write_text(text)
        done = run_script(path, workplace, str(tools / "sh"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


@pytest.mark.parametrize(
    ("command", "status"), [("cat; exit 7", 7), ("kill -TERM $$", 143), ("exec nothing-here", 127)]
)
def test_streams_and_status_are_the_commands(command: str, status: int, name: str, workplace: Workplace) -> None:
    """Input reaches the command, its output and its exit status come back."""
    spec = Spec(command=("sh", "-c", command), name=name, terminal="never")
    with script(spec, workplace) as path:
        done = subprocess.run(
            ["sh", path], input=b"in\0put", capture_output=True, timeout=60, env=environment(workplace)
        )
    assert done.returncode == status
    assert done.stdout == (b"in\0put" if status == 7 else b"")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_script_and_all_it_made(number: int, name: str, workplace: Workplace) -> None:
    """The trap undoes; what the leak check finds is checked after the test."""
    spec = Spec(command=("sh", "-c", "echo ready; exec sleep 1000"), name=name, terminal="never", net=veth(workplace))
    with script(spec, workplace) as path, started(path, workplace) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.wait(30) == 128 + number
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_a_refusal_of_unshare_is_told(name: str, workplace: Workplace) -> None:
    """Status 125, its message, and no more."""
    with script(Spec(command=("true",), name=name, terminal="never"), workplace) as path:
        text = Path(path).read_text()
        assert text.count("\nexec unshare --user ") == 1
        Path(path).write_text(text.replace("\nexec unshare --user ", "\nexec unshare --no-such-option "))
        done = run_script(path, workplace)
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr.startswith("unshare: unrecognized option '--no-such-option'\n")


@contextlib.contextmanager
def started(path: str, place: Workplace) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        ["sh", path],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(place),
    ) as process:
        try:
            yield process
        finally:
            process.terminate()  # of a test that fails, too, the script undoes what it has made
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


@pytest.mark.orphans
def test_sandbox_dies_with_a_killed_script(name: str, workplace: Workplace) -> None:
    """SIGKILL of the script ends its processes; its cgroups and directory stay, as its first lines say."""
    spec = Spec(command=("sh", "-c", "echo ready; exec sleep 1000"), name=name, terminal="never")
    with script(spec, workplace, tidy=False) as path, started(path, workplace) as process:
        assert "killed by SIGKILL leaves behind" in Path(path).read_text()
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        cgroups = re.findall(r"^    remove_cgroup (.*)", Path(path).read_text(), re.M)
        process.kill()
        poll = select.poll()
        poll.register(process.stdout, select.POLLIN)
        assert poll.poll(10_000), "the command is still there"
        assert process.stdout.read() == ""  # the last holder of the pipe has ended: command, init and unshare
    (left,) = workplace.own.glob("nstool.*")
    shutil.rmtree(left)
    assert cgroups
    for path in cgroups:
        remove_cgroup(path)


def remove_cgroup(path: str) -> None:
    """Remove a cgroup whose processes are dying."""
    subprocess.run(
        [
            "sh",
            "-c",
            'for _ in $(seq 100); do rmdir "$1" 2>/dev/null && exit; sleep 0.02; done; rmdir "$1"',
            "sh",
            path,
        ],
        check=True,
    )


@pytest.mark.parametrize("place", ["stage", "init2"])
def test_a_step_that_fails_ends_the_script(place: str, name: str, workplace: Workplace) -> None:
    """It says what failed, gives a status that is no success, and leaves nothing."""
    spec = Spec(command=("echo", "no"), name=name, terminal="never")
    with script(spec, workplace) as path:
        text = Path(path).read_text()
        start = text.index(f'cat >"$work/{place}"')
        at = text.index("\nmount ", start)
        Path(path).write_text(f"{text[:at]}\nmount -t nosuch none /nosuch{text[at:]}")
        done = run_script(path, workplace)
    assert done.returncode != 0
    assert done.stdout == ""
    assert "nosuch" in done.stderr


@pytest.mark.needs("newuidmap")
@pytest.mark.parametrize("root", ["host", "tmpfs"])
def test_script_makes_what_run_makes_for_an_ordinary_user(
    root: str, as_user: Callable[..., Any], name: str, workplace: Workplace
) -> None:
    """With a range in /etc/subuid and without limits of cgroups: the helpers write the maps, init opens the sources."""
    mounts = (Mount("/bin", "/usr/bin"), Mount("/lib", "/usr/lib"), Mount("/lib64", "/usr/lib64"))
    changes = {"root": Root(type="tmpfs"), "mounts": mounts} if root == "tmpfs" else {}
    spec = probing(name, limits=Limits(memory=0, pids=0, cpu=0), **changes)

    def act() -> list[tuple[int, str, str]]:
        file, path = (Path.home() / f"{name}{suffix}" for suffix in (".json", ".sh"))  # all workers share the home
        file.write_text(json.dumps(spec.changed()))
        results = []
        for words in ([NSTOOL, "run", str(file)], [NSTOOL, "plan", "--sh", str(file)], ["sh", str(path)]):
            done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
            results.append((done.returncode, done.stderr, done.stdout))
            path.write_text(done.stdout)
        path.unlink()
        file.unlink()
        return results

    run, plan, shell = as_user(act)
    assert [result[:2] for result in (run, plan, shell)] == [(0, "")] * 3
    expected, found = seen(run[2]), seen(shell[2])
    assert {key: found[key] for key in found if key not in ALLOWED} == {
        key: expected[key] for key in expected if key not in ALLOWED
    }


def test_a_mount_below_a_closed_directory_keeps_no_script_from_running(name: str, user: User) -> None:
    """An ordinary user's script cannot reach it, to make it read-only, nor can who is inside reach it."""
    command = ("grep", "-c", " /srv/closed/m ", "/proc/self/mountinfo")
    spec = Spec(command, name, Root(type="host"), limits=Limits(memory=0, pids=0, cpu=0))

    def act() -> tuple[int, str, str]:
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
        kernel.mount("none", "/srv", "tmpfs", data="mode=755")
        os.makedirs("/srv/closed/m")
        os.chmod("/srv/closed", 0o700)
        kernel.mount("none", "/srv/closed/m", "tmpfs")
        user.become()
        os.chdir(user.home)
        file, path = user.home / f"{name}.json", user.home / f"{name}.sh"
        file.write_text(json.dumps(spec.changed()))
        path.write_bytes(subprocess.run([NSTOOL, "plan", "--sh", str(file)], stdout=subprocess.PIPE, timeout=60).stdout)
        done = subprocess.run(["sh", str(path)], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
        path.unlink()
        file.unlink()
        return done.returncode, done.stdout, done.stderr

    assert run_in_child(act, timeout=120) == (0, "1\n", "")


def test_a_compiled_plan_is_shown_like_the_one_it_was_made_of(name: str, workplace: Workplace) -> None:
    """nstool plan FILE: the same calls; its script runs. It knows no reasons and no names of fds any more."""
    spec = Spec(command=("echo", "compiled"), name=name, terminal="never", attest=False)
    compiled = workplace.own / "compiled.plan"
    try:
        with written(spec, workplace) as file:
            subprocess.run([NSTOOL, "compile", "-o", compiled, file], check=True, timeout=60)
            texts = [
                subprocess.run([NSTOOL, "plan", "--json", path], check=True, capture_output=True, timeout=60).stdout
                for path in (file, compiled)
            ]
        of_spec, of_file = ([step["call"] for step in json.loads(text)["steps"]] for text in texts)
        assert of_file == of_spec
        path = workplace.own / "compiled.sh"
        made = subprocess.run([NSTOOL, "plan", "--sh", compiled], check=True, capture_output=True, timeout=60)
        path.write_bytes(made.stdout)
        done = run_script(str(path), workplace)
        path.unlink()
    finally:
        compiled.unlink(missing_ok=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "compiled\n", "")


@pytest.mark.needs("shellcheck")
@pytest.mark.parametrize("wanted", SPECS.values(), ids=list(SPECS))
def test_shellcheck_has_nothing_to_say(wanted: Wanted, name: str, busybox: str, workplace: Workplace) -> None:
    """Of the script, and of each part that it writes."""
    spec = wanted(name, busybox, workplace)
    with script(spec, workplace) as path:
        text = Path(path).read_text()
    part = re.compile(r"^cat >\"\$work/(\w+)\" <<'(\w+)'\n(.*?)^\2$", re.M | re.S)
    texts = {"": text, **{found[1]: found[3] for found in part.finditer(text)}}
    assert {"stage", "init1"} < texts.keys()
    for key, body in texts.items():
        done = subprocess.run(["shellcheck", "-"], input=body, capture_output=True, text=True)
        assert done.stdout == "", f"part {key}"
