"""The options of run: the same names as the keys of a spec, read without click, errors by option."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from nstool.cli import foreign
from nstool.cli.init_ import init
from nstool.cli.main import COMMANDS
from nstool.cli.options import _OPPOSITES, BY_NAME, OPTIONS, click_options, get, parse, split
from nstool.cli.run import OTHERS
from nstool.cli.schema import schema as schema_command
from nstool.errors import SpecError
from nstool.frozen import Frozen
from nstool.spec import schema, values
from nstool.spec.docs import MOUNT_OPTIONS
from nstool.spec.load import load
from nstool.spec.model import (
    Capabilities,
    IdMap,
    Ipc,
    Landlock,
    LandlockRule,
    Limits,
    Mount,
    Namespaces,
    Net,
    Publish,
    Root,
    Spec,
)


def spec_of(*argv):
    return parse([*argv, "--", "true"])[0]


@pytest.mark.parametrize("key", ["root", "name", "hostname", "user", "env", "cwd", "net", "publish"])
def test_fixed_names(key):
    assert f"--{key}" in BY_NAME


@pytest.mark.parametrize("key", ["memory", "pids", "cpu"])
def test_fixed_names_of_limits(key):
    assert BY_NAME[f"--{key}"].key == f"limits.{key}"


def test_every_key_of_the_spec_can_be_set_by_an_option():
    """Tables whose option takes "KEY=VALUE" or a short form count as a whole."""
    whole = {"root", "mounts", "net.publish", "uid_map", "gid_map", "namespaces", "ipc"}
    keys = {option.key for option in OPTIONS}

    def leaves(cls, prefix=""):
        for name, hint in schema.hints(cls).items():
            key = prefix + name
            if key not in whole and isinstance(hint, type) and issubclass(hint, Frozen):
                yield from leaves(hint, key + ".")
            else:
                yield key

    assert set(leaves(Spec)) - keys == {"command", "net.mode", "net.target"}  # "--", --net, --net join:TARGET


def test_every_option_names_a_key_and_has_help():
    for option in OPTIONS:
        get(Spec(), option.path)
        assert option.description
        assert (option.metavar == "") == (option.how == "flag")


def test_help_speaks_of_a_command_line():
    """What may be repeated says so, and nothing speaks of the tables and lists of a file."""
    for option in OPTIONS:
        assert option.description.endswith(" May be repeated.") is option.repeated
        assert not re.search(r"\btables?\b|\[[A-Z]+, [A-Z]+\]|; empty:|; false:", option.description), option.name


def test_every_mount_option_is_documented():
    """With the key that it sets, as a mount that has it shows; --help names all of them."""
    assert set(MOUNT_OPTIONS) == {*values._MOUNT_WORDS, "size=SIZE", "mode=OCTAL"}
    for word, sets in MOUNT_OPTIONS.items():
        assert re.search(rf"\b{word}\b", BY_NAME["--mount"].description)
        if "=" not in word:
            key, value = re.match(r"(\w+) = ([^,]*)", sets).groups()
            mount = values.mount(f"/a:/b:{word}")
            assert getattr(mount, key) == tomllib.loads(f"x = {value}")["x"]
            assert (mount == values.mount("/a:/b")) is ("the default" in sets)


def test_a_bare_command_is_the_default():
    assert parse(["--", "ls", "-l", "--", "x"])[:2] == (Spec(command=("ls", "-l", "--", "x")), {})


NAMES = ("net_raw", "kill")
SET = [
    (["--landlock-read=/a", "--landlock-read", "/b"], {"landlock": Landlock(read=("/a", "/b"))}),
    (["--landlock-write=none", "--landlock-tcp-bind=none"], {"landlock": Landlock(write=(), tcp_bind=())}),
    (["--landlock-tcp-connect=80", "--landlock-tcp-connect=443"], {"landlock": Landlock(tcp_connect=(80, 443))}),
    (
        ["--landlock-rule=/a=read_file,LANDLOCK_ACCESS_FS_EXECUTE"],
        {"landlock": Landlock(rules=(LandlockRule("/a", ("read_file", "execute")),))},
    ),
    (
        ["--landlock-scope", "signal", "--landlock-flags=log_new_exec_on"],
        {"landlock": Landlock(scope=("signal",), flags=("log_new_exec_on",))},
    ),
    (["--apparmor", "a//&b", "--selinux=u:r:t:s0"], {"apparmor": "a//&b", "selinux": "u:r:t:s0"}),
    (["--name", "web"], {"name": "web"}),
    (["--name=a", "--name=b"], {"name": "b"}),
    (["--root", "/srv/r", "--writable"], {"root": Root(type="directory", path="/srv/r", writable=True)}),
    (["--root", "/a:/b", "--root-size=1M"], {"root": Root(type="overlay", lower=("/a", "/b"), size=1 << 20)}),
    (["--env", "A=1", "--env=B=2=3"], {"env": {"A": "1", "B": "2=3"}}),
    (["--umask", "077"], {"umask": 0o077}),
    (["--memory=64M", "--pids", "9", "--cpu=50%"], {"limits": Limits(memory=64 << 20, pids=9, cpu=0.5)}),
    (["--rlimit", "core=1"], {"limits": Limits(rlimits={**Limits().rlimits, "core": (1, 1)})}),
    (
        ["--mount", "/a:/b:rw", "--tmpfs=/t"],
        {"mounts": (Mount("/b", "/a", writable=True), Mount("/t", type="tmpfs", writable=True))},
    ),
    (["--net", "veth", "--publish", "80:81"], {"net": Net(mode="veth", publish=(Publish(80, 81),))}),
    (["--net=bridge:lab", "--no-ipv6"], {"net": Net(mode="bridge", bridge="lab", ipv6=False)}),
    (["--net=join:lab"], {"net": Net(mode="join", target="lab")}),
    (["--net", "host"], {"net": Net(mode="host"), "namespaces": Namespaces(net="host")}),
    (["--share", "net,uts"], {"net": Net(mode="host"), "namespaces": Namespaces(net="host", uts="host")}),
    (["--namespaces", "net=/n"], {"net": Net(mode="join", target="/n"), "namespaces": Namespaces(net="/n")}),
    (["--net=host", "--share=net"], {"net": Net(mode="host"), "namespaces": Namespaces(net="host")}),
    (["--bridge=lab", "--net=bridge:lab"], {"net": Net(mode="bridge", bridge="lab")}),
    (["--namespaces=uts=new", "--namespaces=uts=host"], {"namespaces": Namespaces(uts="host")}),
    (["--share=pid"], {"namespaces": Namespaces(pid="host"), "proc": "bind"}),
    (["--time-offset", "1h"], {"namespaces": Namespaces(monotonic_offset=3600, boottime_offset=3600)}),
    (["--time-offset=boottime=-5"], {"namespaces": Namespaces(boottime_offset=-5)}),
    (["--cap", "CAP_NET_RAW,kill"], {"capabilities": Capabilities(NAMES, NAMES, NAMES, NAMES, NAMES)}),
    (["--cap-bounding", "kill"], {"capabilities": Capabilities(bounding=("kill",))}),
    (["--uid-map", "0:1000:1", "--user", "0"], {"uid_map": (IdMap(0, 1000, 1),), "user": "0"}),
    (["--no-init"], {"init": False}),
    (["--no-init", "--init"], {}),
    (["--new-privs", "--seccomp=none"], {"no_new_privs": False, "seccomp": "none"}),
    (["--pass-fd", "5", "--pass-fd=3"], {"pass_fds": (5, 3)}),
    (["--oom-score-adj", "-5"], {"oom_score_adj": -5}),
    (["--groups", "44,video"], {"groups": ("44", "video")}),
    (["--ipc", "shmmax=1M", "--ipc", "sem=1 2 3 4"], {"ipc": Ipc(shmmax=1 << 20, sem="1 2 3 4")}),
    (["--hosts", "db=::1", "--dns", "::1"], {"net": Net(hosts=(("::1", "db"),), dns=("::1",))}),
]


@pytest.mark.parametrize(("argv", "changes"), SET, ids=[" ".join(argv) for argv, _ in SET])
def test_options_set_keys(argv, changes):
    assert spec_of(*argv) == Spec(command=("true",), **changes)


WRONG = [
    (["--landlock-read", "usr", "--", "x"], '--landlock-read: path "usr" is relative'),
    (["--landlock-tcp-bind", "http", "--", "x"], '--landlock-tcp-bind: "http" is not an integer'),
    (["--landlock-tcp-bind", "none", "--landlock-tcp-bind", "80", "--", "x"], '--landlock-tcp-bind: "none" allows'),
    (["--landlock-rule", "/usr", "--", "x"], '--landlock-rule: "/usr" is not of the form PATH=RIGHT,...'),
    (["--landlock-scope", "signals", "--", "x"], '--landlock-scope: "signals" is no scope of Landlock'),
    (["--apparmor", " a", "--", "x"], '--apparmor: " a" is no profile'),
    (["--foo", "--", "x"], "--foo: unknown option; --help lists them"),
    (["--umask", "999", "--", "x"], '--umask: "999" is not octal; write digits from 0 to 7, as "0755" or "022"'),
    (["--new-privs", "--", "x"], "--new-privs: a filter needs no_new_privs = true"),
    (["--uid-map", "0:300000:1000", "--", "x"], "--uid-map: user 1000 is not in uid_map; map it"),
    (["--memry", "1", "--", "x"], '--memry: unknown option; did you mean "--memory"?'),
    (["--zzz", "--", "x"], "--zzz: unknown option; --help lists them"),
    (["--memory", "64X", "--", "x"], '--memory: "64X" is not a size'),
    (["--memory"], "--memory: needs a value: --memory SIZE"),
    (["--memory", "--", "x"], "--memory: needs a value"),
    (["--init=no", "--", "x"], "--init: takes no value"),
    (["--publish", "80:80", "--", "x"], "--publish: a published port needs net mode"),
    (["--net", "veth", "--publish=80:0", "--", "x"], "--publish: a port must lie"),
    (["--hidepid", "invisble", "--", "x"], '--hidepid: "invisble" is no known hidepid; did you mean "invisible"?'),
    (["--share", "ust", "--", "x"], '--share: "ust" is no namespace type, namespaces(7); did you mean "uts"?'),
    (["--share=uts", "--hostname=b", "--", "x"], "--hostname: hostname needs a new uts namespace, uts_namespaces(7)"),
    (["--cap", "net_rw", "--", "x"], '--cap: "net_rw" is no capability'),
    (["-v", "/a:/b", "--", "x"], "-v: unknown option; here it is --mount SRC:DST[:rw]"),
    (["-p80:80", "--", "x"], "-p80:80: unknown option; here it is --publish [ADDRESS:]HOST:INSIDE"),
    (["-it", "--", "x"], "-it: unknown option; leave it out: the command has a terminal when you have one"),
    (["--cpus=1", "--", "x"], "--cpus: unknown option; here it is --cpu CORES"),
    (["--unshare-pid", "--", "x"], "--unshare-pid: unknown option; leave it out: every namespace is a new one"),
    (["-d", "--", "x"], "-d: unknown option; --help lists them"),  # no command but run has --detach
    (["--mount", "out", "--", "x"], '--mount: "out" does not say where: write "out:DST"; a path alone begins with a /'),
    (["--mount", "proc", "--", "x"], '--mount: "proc" does not say where: write "proc:DST"'),
    (["--mount", "src=/a,dst=/b", "--", "x"], '--mount: "src=/a,dst=/b" is written otherwise here: "/a:/b:rw"'),
    (["--mount", "source=a,target=/b,ro"], '--mount: "source=a,target=/b,ro" is written otherwise here: "a:/b"'),
    (["--mount", "/a:/b", "--mount", "/c:/b", "--", "x"], "--mount: mounts[0] is on /b already"),
    (["--mount", "/a:/b", "--tmpfs", "/b", "--", "x"], "--tmpfs: contradicts --mount: both set mounts[0]"),
    (["--namespaces=net=host", "--net=veth", "--", "x"], "--net: contradicts --namespaces: both set net.mode"),
    (["--net=veth", "--share=net", "--", "x"], "--share: contradicts --net: both set namespaces.net"),
    (["--share=uts", "--namespaces=uts=new", "--", "x"], "--namespaces: contradicts --share: both set namespaces.uts"),
    (["--bridge=lab", "--net=veth", "--", "x"], "--net: contradicts --bridge: both set net.bridge"),
    (["--net=bridge:a", "--bridge=b", "--", "x"], "--bridge: contradicts --net: both set net.bridge"),
    (["--namespaces=uts=host,uts=new", "--", "x"], '--namespaces: "uts" twice; write it once'),
    (["--time-offset=boottime=1,boottime=2", "--", "x"], '--time-offset: "boottime" twice'),
    (["--env", "A", "--", "x"], '--env: "A" is not of the form NAME=VALUE'),
    (["--time-offset", "cpu=5", "--", "x"], '--time-offset: "cpu" has no offset'),
    (["--ipc", "shmax=5", "--", "x"], '--ipc: "shmax" is no limit of an ipc namespace; did you mean "shmmax"?'),
    (["--rlimit=nofil=5", "--", "x"], '--rlimit: "nofil" is no resource limit'),
    (["--net=veht", "--", "x"], '--net: "veht" is no known mode; did you mean "veth"?'),
    (["ls", "-l"], "ls: neither an option nor a spec file"),
    (["-x"], "-x: unknown option"),
    ([], "command: no command; write command = [...] or -- CMD ARGS"),
    (["--"], "command: no command"),
    (["a.toml", "b.toml"], "b.toml: a second spec file"),
    (["absent/a.toml"], "absent/a.toml: No such file or directory"),
    (["--\x1b[31m"], "--\\x1b[31m: unknown option"),
]


@pytest.mark.parametrize(("argv", "message"), WRONG, ids=[" ".join(argv) for argv, _ in WRONG])
def test_errors_name_the_option(argv, message):
    with pytest.raises(SpecError) as caught:
        parse(argv)
    assert str(caught.value).startswith(message)


def test_options_of_other_tools_lead_to_ours():
    """What is said to be an option here is one, and no option of ours is taken for another tool's."""
    ours = {*BY_NAME, *_OPPOSITES, *OTHERS}
    assert not ours & set(foreign.OPTIONS)
    for name, here in foreign.OPTIONS.items():
        assert foreign.option(name, ours) == (f"here it is {here}" if here.startswith("--") else here)
        assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", here)) <= ours
    assert {here.split()[1] for here in foreign.COMMANDS.values() if here.startswith("nstool ")} <= set(COMMANDS)
    assert not set(foreign.COMMANDS) & set(COMMANDS)


FILE = """\
command = ["sh", "-c"]
name = "web"
mounts = ["/a:/a", "/b:/b"]
[env]
A = "1"
[net]
mode = "veth"
publish = [80]
[limits]
pids = 9
"""


@pytest.fixture
def web(tmp_path):
    file = tmp_path / "web.toml"
    file.write_text(FILE)
    return str(file)


def test_options_override_a_file_wherever_they_stand(web):
    options = ["--name=x", "--mount=/c:/b", "--env", "B=2", "--publish=81", "--memory=1M"]
    spec, *_ = parse([*options, web, "--", "id"])
    assert parse([web, *options, "--", "id"])[0] == spec
    assert parse([*options[:2], web, *options[2:], "--", "id"])[0] == spec
    assert spec == load(web).replace(
        command=("sh", "-c", "id"),
        name="x",
        mounts=(Mount("/a", "/a"), Mount("/b", "/c")),
        env={"A": "1", "B": "2"},
        net=Net(mode="veth", publish=(Publish(80, 80), Publish(81, 81))),
        limits=Limits(pids=9, memory=1 << 20),
    )


def test_what_an_option_spoils_is_found_in_the_file(web):
    """The error is at the file's line, or at the option, whichever gave the wrong half."""
    with pytest.raises(SpecError) as caught:
        parse(["--net", "none", web])
    assert caught.value.place == f"{web}:8: net.publish[0]"
    with pytest.raises(SpecError) as caught:
        parse(["--publish", "80", web])
    assert caught.value.place == "--publish"


def test_a_file_is_checked_only_with_the_options_over_it(tmp_path):
    file = tmp_path / "a.toml"
    file.write_text('command = ["a"]\nnet.publish = [80]')
    assert parse([str(file), "--net=veth"])[0].net.publish == (Publish(80, 80),)


def test_relative_paths_of_options_count_from_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert spec_of("--root", "r.tar", "--mount", "s:/s").root.path == str(tmp_path / "r.tar")
    os.rmdir(tmp_path)
    assert spec_of("--root", "/r").root.path == "/r"
    with pytest.raises(SpecError, match="no working directory"):
        spec_of("--root", "r")


def test_the_callers_own_options():
    argv = ["--json", "-o", "out", "--name=x", "--", "a"]
    assert parse(argv, {"--json": False, "-o": True, "-h": False})[:2] == (
        Spec(command=("a",), name="x"),
        {"--json": True, "-o": "out"},
    )
    with pytest.raises(SpecError, match=r"^-o: needs a value"):
        split(["-o"], {"-o": True})


WORDS = st.sampled_from([*BY_NAME, "--no-init", "--", "-", "x.toml", "=", "a=b", "host", "veth", "/a:/b", "1", "64M"])


@given(st.lists(WORDS | st.builds("{}={}".format, WORDS, st.text(max_size=5)) | st.text(max_size=5), max_size=6))
def test_any_command_line_is_read_or_refused(argv):
    argv = ["./" + word if word == "-" else word for word in argv]  # not standard input
    try:
        spec, rest, _ = parse(argv)
    except SpecError:
        return
    assert (spec.command, rest) == (tuple(argv[argv.index("--") + 1 :]), {})


def test_click_gets_every_option():
    command = click.Command("run", params=list(click_options()))
    text = CliRunner().invoke(command, ["--help"]).output
    for option in OPTIONS:
        assert option.name in text
        assert option.how != "flag" or option.opposite in text


def test_reading_options_imports_nothing_heavy():
    code = (
        f"import sys, json; sys.path[:0] = {sys.path!r};"
        "before = set(sys.modules); from nstool.cli.options import parse;"
        "parse(['--memory=1M', '--net', 'veth', '--publish=80:80', '--mount', '/a:/b', '--', 'x']);"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    run = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code],
        capture_output=True,
        check=True,
    )
    heavy = {"typing", "enum", "dataclasses", "re", "pathlib", "json", "msgspec", "click", "inspect", "signal"}
    assert heavy & set(json.loads(run.stdout)) == set()


def test_init_writes_once(tmp_path):
    runner = CliRunner()
    file = tmp_path / "a.toml"
    assert "nstool run" in runner.invoke(init, [str(file)], catch_exceptions=False).output
    assert load(file).hostname == "box"
    file.write_text("mine")
    with pytest.raises(SpecError, match="--force"):
        runner.invoke(init, [str(file)], catch_exceptions=False)
    assert file.read_text() == "mine"
    runner.invoke(init, [str(file), "--force"], catch_exceptions=False)
    assert load(file).hostname == "box"
    assert runner.invoke(init, ["-"], catch_exceptions=False).output == file.read_text()
    with pytest.raises(SpecError, match="No such file"):
        runner.invoke(init, [str(tmp_path / "x" / "y")], catch_exceptions=False)


def test_schema_prints_the_schema():
    assert json.loads(CliRunner().invoke(schema_command, catch_exceptions=False).output) == schema.schema()
