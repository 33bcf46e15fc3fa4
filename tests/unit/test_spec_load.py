"""Loading is strict: every file either gives a checked Spec or one SpecError with its place."""

from __future__ import annotations

import json
import sys
from io import BytesIO, TextIOWrapper

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nstool.errors import SpecError
from nstool.plan.encode import encode
from nstool.plan.steps import Plan, Step
from nstool.spec import schema
from nstool.spec.check import check
from nstool.spec.check_service import RANGES
from nstool.spec.docs import DOCS
from nstool.spec.load import from_dict, load, loads, read_service
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
    Seccomp,
    SeccompCall,
    SeccompWhere,
    Spec,
)
from nstool.spec.service import SECONDS, Service

RECORDS = (
    *(Spec, Root, Mount, Publish, Net, Limits, Capabilities, Namespaces, Ipc, IdMap),
    *(Landlock, LandlockRule, Seccomp, SeccompCall, SeccompWhere),
)

WRONG = [
    ('command = ["a"]\n[landlock]', "w.toml:2: landlock: an empty table restricts nothing"),
    (
        'command = ["a"]\n[landlock]\nraed = []',
        'w.toml:3: landlock.raed: unknown key "raed"; did you mean "read"?',
    ),
    (
        'command = ["a"]\n[landlock]\nread = "/usr"',
        "w.toml:3: landlock.read: expected an array",
    ),
    (
        'command = ["a"]\n[landlock]\nrules = [{ path = "/usr", allow = ["read_fil"] }]',
        'w.toml:3: landlock.rules[0].allow[0]: "read_fil" is no right of Landlock, landlock(7); did you mean',
    ),
    (
        'command = ["a"]\n[landlock]\nrules = ["/usr"]',
        'w.toml:3: landlock.rules[0]: "/usr" is not of the form PATH=RIGHT,...',
    ),
    ('command = ["a"]\n[limits]\nmemroy = 1', 'w.toml:3: limits.memroy: unknown key "memroy"; did you mean "memory"?'),
    ('comand = ["a"]', 'w.toml:1: comand: unknown key "comand"; did you mean "command"?'),
    ('memory = "64M"', 'w.toml:1: memory: unknown key "memory": it belongs to [limits]: limits.memory'),
    ('listen = ["systemd"]', 'w.toml:1: listen: unknown key "listen": it belongs to [service]: service.listen'),
    (
        "[limits]\nenv = {}",
        'w.toml:2: limits.env: unknown key "env": it belongs to the spec itself, above [limits]',
    ),
    (
        '[[mounts]]\ntarget = "/a"\nhostname = "a"',
        'w.toml:3: mounts[0].hostname: unknown key "hostname": it belongs to the spec itself, above [[mounts]]',
    ),
    (
        "[limits]\nhostnam = 1",
        'w.toml:2: limits.hostnam: unknown key "hostnam"; did you mean "hostname", which belongs to the spec itself, '
        "above [limits]?",
    ),
    ("hostname = web", 'w.toml:1: no TOML: Invalid value; write "web", for text stands in quotes'),
    (
        'command = ["a"]\nroot = /srv/a  # b',
        'w.toml:2: no TOML: Invalid value; write "/srv/a", for text stands in quotes',
    ),
    (
        "[limits]\nmemory = 64M",
        "w.toml:2: no TOML: Expected newline or end of document after a statement; "
        'write "64M", for text stands in quotes',
    ),
    ("init = True", "w.toml:1: no TOML: Invalid value; write true"),
    ("[limits]\nx = 1", 'w.toml:2: limits.x: unknown key "x"; known: cpu, '),
    ('command = "ls -l"', 'w.toml:1: command: write a list, one word an element: ["sh", "-c", "ls -l"]'),
    ('command = ["a", 5]', "w.toml:1: command: expected an array of strings, got an integer"),
    ('command = ["a"]\n\ninit = "yes"', "w.toml:3: init: expected true or false, got a string"),
    ('command = ["a"]\n[limits]\n\npids = "x"', "w.toml:4: limits.pids: expected an integer, got a string"),
    ('command = ["a"]\nlimits = 5', "w.toml:2: limits: expected a table, got an integer"),
    ('command = ["a"]\n[mounts]\nb = 1', "w.toml:2: mounts: expected an array of tables: write [[mounts]]"),
    ('command = ["a"]\n[mask_paths]\nb = 1', "w.toml:2: mask_paths: expected an array, got a table"),
    ('command = ["a"]\nmounts = "/a"', "w.toml:2: mounts: expected an array, got a string"),
    ('command = ["a"]\n[[mounts]]\nsource = "/a"', 'w.toml:2: mounts[0]: lacks the key "target"'),
    (
        'command = ["a"]\n[[mounts]]\ntarget = "/a"\nsource = "/a"\n[[mounts]]\ntarget = "b"\nsource = "/a"',
        'w.toml:6: mounts[1].target: target "b" is relative',
    ),
    ('command = ["a"]\nmounts = [\n"/a",\n"/b:/b:rx"]', 'w.toml:4: mounts[1]: "rx" in "/b:/b:rx" is no mount option'),
    ('command = ["a"]\n[net]\nmode = "veth"\npublish = ["8080"\n,"x"]', "w.toml:5: net.publish[1]: "),
    ('command = ["a"]\n[net]\npublish = [80]', "w.toml:3: net.publish[0]: a published port needs net mode"),
    ('command = ["a"]\n[limits]\nmemory = "64X"', 'w.toml:3: limits.memory: "64X" is not a size'),
    ('command = ["a"]\nenv.PORT = 80', 'w.toml:2: env: the value of "PORT" must be a string, got an integer'),
    ('command = ["a"]\nenv = ["A=1", "B=1",\n"A=2"]', 'w.toml:2: env: "A" twice; write it once'),
    ('command = ["a"]\n[limits.rlimits]\nnofil = 5', 'w.toml:3: limits.rlimits.nofil: "nofil" is no resource limit'),
    ('command = ["a"]\numask = "9"', 'w.toml:2: umask: "9" is not octal'),
    (
        'command = ["a"]\numask = 77',
        'w.toml:2: umask: 77 is not octal, its bits are 0o115: write octal text, "077", or 0o77',
    ),
    (
        'command = ["a"]\numask = 0x1ff',
        'w.toml:2: umask: 0x1ff is not octal, its bits are 0o777: write octal text, "0777"',
    ),
    (
        'command = ["a"]\numask = 1_8 # x',
        'w.toml:2: umask: 1_8 is not octal, its bits are 0o22: write octal text, "022"',
    ),
    (
        'command = ["a"]\nmounts = ["/a", { target = "/b", type = "tmpfs", mode = 755 }]',
        "w.toml:2: mounts[1].mode: 755 is not octal, its bits are 0o1363: ",
    ),
    ('command = ["a"]\nuid_map = ["0:1"]', 'w.toml:2: uid_map[0]: "0:1" is not an id map'),
    ('command = ["a"]\nname = 1979-05-27', "w.toml:2: name: expected a string, got "),
    ('command = ["a"]\n[namespaces]\nuts="host"\n\n[x]', 'w.toml:5: x: unknown key "x"'),
    ('hostname = "b"\ncommand = ["a"]\nnamespaces.uts="host"', "w.toml:1: hostname: hostname needs a new uts"),
    ("", "w.toml: command: no command"),
    ('command = ["a"]\nname = "x', "w.toml:2: no TOML: Unterminated string"),
    ('command = ["a"]\n\nname = = 2', "w.toml:3: no TOML: Invalid value"),
    ("a = 1\na = 2", "w.toml:2: no TOML: a is written twice; the first time in line 1"),
    ('a = 1\n\n"a" = [\n2,\n]\nb = ]', "w.toml:3: no TOML: a is written twice; the first time in line 1"),
    (
        "[limits]\npids = 1\r\n[net]\r\n[limits]\n",
        "w.toml:4: no TOML: limits is written twice; the first time in line 1",
    ),
    ("[a]\nb = 1\n[a.b]\n", "w.toml:3: no TOML: a.b is written twice; the first time in line 2"),
    (
        'net = { mode = "none",\tmode = "veth" }',
        "w.toml:1: no TOML: net.mode is written twice; the first time in line 1",
    ),
    ("[[a]]\nb = 1\n[[a]]\nb = 1\nb = 2", "w.toml:5: no TOML: a[1].b is written twice; the first time in line 4"),
    ("a.b = 1\n[a]\n", "w.toml:2: no TOML: Cannot declare ('a',) twice"),
    ("a = " + "[" * 4000, "w.toml: nested too deep"),
    ("b = 1\na = " + "9" * 5000, "w.toml:2: a number of 5000 digits; 64 bits hold 19"),
]


@pytest.mark.parametrize(("text", "message"), WRONG, ids=[message for _, message in WRONG])
def test_every_error_names_line_and_key(text, message):
    with pytest.raises(SpecError) as caught:
        loads(text, "w.toml", "toml")
    assert str(caught.value).startswith(message)


def test_all_seconds_of_a_service_are_known_as_such():
    """A key that is checked as seconds is read as a time."""
    assert {name for name, (_, _, what) in RANGES.items() if what == "seconds"} == set(SECONDS)


@pytest.mark.parametrize("name", SECONDS)
def test_seconds_of_a_service_are_written_as_a_time(tmp_path, name):
    """As number and as text, with what each needs to mean anything."""
    needs = {
        "queue_timeout": "queue = 1",
        "health_interval": 'health_expect = "x"',
        "health_timeout": 'health_interval = 1\nhealth_expect = "x"',
    }
    file = tmp_path / "w.toml"
    text = f"[service]\nlisten = ['tcp:127.0.0.1:1', 'udp:127.0.0.1:1']\n{needs.get(name, '')}\n"
    file.write_text(f'{text}{name} = "1.5m"\n')
    assert getattr(read_service(file)[1], name) == 90.0
    file.write_text(f'{text}{name} = "soon"\n')
    with pytest.raises(SpecError, match=f'service.{name}: "soon" is not a time'):
        read_service(file)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("mounts = []", ": it belongs to the spec itself, above [service]"),
        ('memory = "64M"', ": it belongs to [limits]: limits.memory"),
        ("memry = 1", '; did you mean "memory", which belongs to [limits]: limits.memory?'),
        ("plces = 2", '; did you mean "places"?'),
    ],
)
def test_a_key_below_service_is_told_where_it_belongs(tmp_path, line, message):
    file = tmp_path / "w.toml"
    file.write_text(f'[service]\nlisten = ["systemd"]\n{line}\n')
    key = line.split()[0]
    with pytest.raises(SpecError) as caught:
        read_service(file)
    assert str(caught.value) == f'{file}:3: service.{key}: unknown key "{key}"{message}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"command": ["a"],\n "limits": {\n"pids": "x"}}', "w.json:3: limits.pids: expected an integer, got a string"),
        ('{"command": ["a"],\n "nam": 1}', 'w.json:2: nam: unknown key "nam"; did you mean "name"?'),
        ('{"command": ["a"],\n}', "w.json:2: no JSON: "),
        ('{"name": "a",\n"name": "b"}', 'w.json: no JSON: key "name" twice in one object, in lines 1 and 2'),
        ('{"a": 1,\n"a": {"b": 1,"b": 2}}', 'w.json: no JSON: key "a" twice in one object, in lines 1 and 2'),
        ('{"a": [{"b": 1,\n\n"b": 2} }', 'w.json: no JSON: key "b" twice in one object, in lines 1 and 3'),
        ('{"name":\n' + "9" * 5000, "w.json:2: a number of 5000 digits; 64 bits hold 19"),
        ('{"limits": {"cpu": NaN}}', "w.json: no JSON: NaN is no number"),
        ('["a"]', "w.json: a spec is a table, not an array"),
        ("[" * 100000, "w.json: nested too deep"),
    ],
)
def test_json_errors_name_line_and_key(text, message):
    with pytest.raises(SpecError) as caught:
        loads(text, "w.json", "json")
    assert str(caught.value).startswith(message)


def test_a_byte_order_mark_is_no_part_of_a_spec(tmp_path):
    """Some editors begin UTF-8 with one."""
    for name, text in (("a.toml", 'name = "x"\ncommand = [5]'), ("a.json", '{"name": "x",\n"command": [5]}')):
        (tmp_path / name).write_text(text, "utf-8-sig")
        with pytest.raises(SpecError, match=f"{name}:2: command: "):
            load(tmp_path / name)
        (tmp_path / name).write_text(text.replace("5", '"a"'), "utf-8-sig")
        assert load(tmp_path / name) == Spec(command=("a",), name="x")


@pytest.mark.parametrize("before", [b"", b"#!/usr/bin/nsexec\n"])
def test_a_compiled_plan_is_told_from_a_spec(tmp_path, before):
    data = before + encode(Plan((Step("payload", "execve", (("a",), ("a",), ()), ""),), ()))
    (tmp_path / "a.plan").write_bytes(data)
    with pytest.raises(SpecError, match=r"a\.plan: a compiled plan, not a spec; `nsexec FILE` runs it"):
        load(tmp_path / "a.plan")


def test_human_forms_in_a_file():
    text = """
        command = ["a"]
        root = "/r:/s"
        user = 33
        env = ["A=1", "B=x=y"]
        groups = [44, "video"]
        umask = "027"
        mounts = ["/a:/b:rw", { target = "/t", type = "tmpfs", size = "1M", mode = "1777" }]
        uid_map = ["0:1000:1", [33, 5000, 1], { inside = 50, outside = 6000, count = 2 }]
        capabilities = ["CAP_NET_RAW"]
        net = { mode = "veth", publish = ["80:80", 443], hosts = ["db=10.0.0.9"], routes = ["default=10.0.0.1"] }
        [limits]
        memory = "64M"
        cpu = "150%"
        rlimits = { nofile = "5:6" }
        [namespaces]
        boottime_offset = "1h"
    """
    names = ("net_raw",)
    assert loads(text) == Spec(
        command=("a",),
        root=Root(type="overlay", lower=("/r", "/s")),
        user="33",
        env={"A": "1", "B": "x=y"},
        groups=("44", "video"),
        umask=0o027,
        mounts=(
            Mount("/b", "/a", writable=True),
            Mount("/t", type="tmpfs", size=1 << 20, mode=0o1777),
        ),
        uid_map=(IdMap(0, 1000, 1), IdMap(33, 5000, 1), IdMap(50, 6000, 2)),
        capabilities=Capabilities(names, names, names, names, names),
        net=Net(
            mode="veth",
            publish=(Publish(80, 80), Publish(443, 443)),
            hosts=(("10.0.0.9", "db"),),
            routes=(("default", "10.0.0.1"),),
        ),
        limits=Limits(memory=64 << 20, cpu=1.5, rlimits={**Limits().rlimits, "nofile": (5, 6)}),
        namespaces=Namespaces(boottime_offset=3600),
    )


@pytest.mark.parametrize(
    ("text", "mode", "target", "namespace"),
    [
        ('net = "host"', "host", "", "host"),
        ('namespaces.net = "host"', "host", "", "host"),
        ('namespaces.net = "/run/netns/x"', "join", "/run/netns/x", "/run/netns/x"),
        ('net = "join:x"', "join", "x", "new"),
        ("", "loopback", "", "new"),
    ],
)
def test_the_other_half_of_a_shared_network_is_implied(text, mode, target, namespace):
    spec = loads(f'command = ["a"]\n{text}')
    assert (spec.net.mode, spec.net.target, spec.namespaces.net) == (mode, target, namespace)


def test_a_contradiction_that_was_written_is_not_smoothed_over():
    for text in ('net = "loopback"\nnamespaces.net = "host"', 'proc = "private"\nnamespaces.pid = "host"'):
        with pytest.raises(SpecError):
            loads(f'command = ["a"]\n{text}')


def test_without_a_mount_namespace_there_is_no_proc_dev_tmp():
    spec = loads('command = ["a"]\nnamespaces.mnt = "host"')
    assert (spec.proc, spec.dev, spec.tmp_size) == ("none", "none", 0)


def test_one_limit_keeps_the_others():
    """Naming nofile must not let core dumps through."""
    assert loads('command = ["a"]\nlimits.rlimits.nofile = 9').limits.rlimits["core"] == (1, 1)


def test_relative_paths_count_from_the_file(tmp_path):
    file = tmp_path / "web.toml"
    file.write_text('command = ["a"]\nroot = "x.tar"\nmounts = ["../site:/srv"]')
    spec = load(file)
    assert spec.root.path == str(tmp_path / "x.tar")
    assert spec.mounts[0].source == str(tmp_path.parent / "site")


def test_files(tmp_path, monkeypatch):
    """The suffix decides, or the text itself; "-" is standard input."""
    data = '{"command": ["a"]}'
    for name, text in {"a.json": data, "b": data, "c.toml": 'command = ["a"]', "d": 'command = ["a"]'}.items():
        (tmp_path / name).write_text(text)
        assert load(tmp_path / name).command == ("a",)
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(b'command = ["b"]')))
    assert load("-").command == ("b",)
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(b"\nname = 5")))
    with pytest.raises(SpecError, match=r"^<stdin>:2: name: expected a string"):
        load("-")
    (tmp_path / "x.toml").write_bytes(b"# ok\nname = '\xff'")
    for name, message in {
        "x.toml": "x.toml:2: not UTF-8 text",
        "absent.toml": "No such file or directory",
        "": "Is a directory",
        "a\0b": "null byte",
    }.items():
        with pytest.raises(SpecError, match=message):
            load(f"{tmp_path}/{name}")
    with pytest.raises(SpecError, match=r"^SPEC: No such file or directory$"):
        load("")


def test_from_dict_says_where():
    with pytest.raises(SpecError) as caught:
        from_dict({"command": ["a"], "limits": {"pids": None}}, "request 5")
    assert str(caught.value) == "request 5: limits.pids: expected an integer, got null"
    for data in (None, [], {1: 2}, {"env": {1: "a"}}, {"limits": {"rlimits": {1: 2}}}, {"name": {}}, {"command": {1}}):
        with pytest.raises(SpecError):
            from_dict(data)


# --- anything loads or is refused -------------------------------------------------------------

NAMES = sorted({name for cls in RECORDS for name in cls.__fields__})
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(["/", "/a", "/a:/b", "host", "new", "veth", "tmpfs", "80:80", "64M", "0:0:1", "A=1", "keep"])
)
JSON = st.recursive(
    LEAVES,
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=4), v, max_size=4),
    max_leaves=8,
)


@st.composite
def nearly(draw, cls=Spec):
    """A dict with fields of a record, each with a value that may or may not fit."""
    data = {"command": ["a"]} if cls is Spec else {}
    for name in draw(st.lists(st.sampled_from(cls.__fields__), max_size=4)):
        hint = schema.hints(cls)[name]
        inner = next((c for c in RECORDS if c.__name__ in str(hint)), None)
        values = JSON
        if inner and draw(st.booleans()):
            values = nearly(inner) if not str(hint).startswith("tuple") else st.lists(nearly(inner), max_size=2)
        data[name] = draw(values)
    return data


def refusal(load, *args):
    """The SpecError of a call, or None; what loads must be checked."""
    try:
        check(load(*args))
    except SpecError as error:
        return error
    return None


@given(nearly() | JSON)
def test_any_data_loads_or_is_refused(data):
    error = refusal(from_dict, data)
    assert error is None or error.message


@given(nearly())
def test_any_json_text_loads_or_is_refused(data):
    error = refusal(loads, json.dumps(data), "x.json", "json")
    assert error is None or error.place.startswith("x.json")


TOML = st.lists(
    st.sampled_from([*NAMES, "[", "]", "[[", "]]", "=", "{", "}", ".", ",", "\n", '"', "'", '"""', "'''", "#", " "])
    | st.text(max_size=3)
    | st.sampled_from(['command = ["a"]\n', '"x"', "5", "true", "0x1", "1979-05-27", "nan", "\\", "\r\n", "\ufeff"]),
    max_size=20,
).map("".join)


@given(TOML)
def test_any_toml_text_loads_or_is_refused(text):
    error = refusal(loads, text, "x.toml", "toml")
    assert error is None or error.place.startswith("x.toml")


# --- round trip -------------------------------------------------------------------------------

PATHS = st.text("abc/.: é", min_size=1, max_size=6).map(lambda p: "/x" + p).filter(lambda p: "/.." not in p + "/")
IDS = st.integers(0, 60000)
SETS = st.lists(st.sampled_from(["kill", "net_raw", "chown"]), max_size=2, unique=True).map(tuple)
PORTS = st.builds(
    Publish, host=st.integers(1, 65535), inside=st.integers(1, 65535), protocol=st.sampled_from(["tcp", "udp"])
)


@st.composite
def specs(draw):
    """Valid specs of all sorts."""
    text = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=5)
    lines = [IdMap(0, 100000, 60001)] if draw(st.booleans()) else []
    names = draw(SETS)
    targets = draw(st.lists(st.sampled_from(["/m1", "/m2/x", "/m3"]), unique=True))
    mounts = [
        draw(
            st.builds(Mount, target=st.just(t), source=PATHS, writable=st.booleans(), idmap=st.booleans())
            | st.builds(Mount, target=st.just(t), type=st.just("tmpfs"), size=IDS, mode=st.integers(0, 0o7777))
            | st.builds(Mount, target=st.just(t), type=st.just("overlay"), lower=st.tuples(PATHS, PATHS))
        )
        for t in targets
    ]
    rlimits = draw(st.dictionaries(st.sampled_from(["cpu", "nofile"]), st.tuples(IDS, st.just(-1)), max_size=2))
    return Spec(
        command=("a", *draw(st.lists(text, max_size=2))),
        name=draw(st.sampled_from(["", "web-1"])),
        root=draw(
            st.just(Root())
            | st.builds(Root, type=st.sampled_from(["directory", "tarball"]), path=PATHS, writable=st.booleans())
            | st.builds(Root, type=st.just("overlay"), lower=st.tuples(PATHS), writable=st.just(True))
        ),
        hostname=draw(st.sampled_from(["", "box"])),
        user=draw(IDS.map(str) | st.builds("{}:{}".format, IDS, IDS)),
        groups=draw(st.lists(IDS.map(str), max_size=2, unique=True).map(tuple)),
        env=draw(st.dictionaries(text.filter(lambda t: t and "=" not in t), text, max_size=2)),
        umask=draw(st.integers(0, 0o777)),
        mounts=tuple(mounts),
        limits=Limits(
            memory=draw(st.just(0) | st.integers(128 << 10, 1 << 40)),
            pids=draw(st.integers(2, 99)),
            cpu=draw(st.none() | st.floats(0.01, 4096)),
            rlimits={**Limits().rlimits, **rlimits},
        ),
        net=draw(
            st.builds(Net, mode=st.sampled_from(["veth", "bridge"]), publish=st.tuples(PORTS), nat=st.booleans())
            | st.builds(Net, mode=st.sampled_from(["none", "loopback"]), sysctls=st.just({"net.a": "1"}))
            | st.just(Net(mode="join", target="x"))
            | st.just(Net(mode="veth", hosts=(("::1", "a"),), routes=(("default", "10.0.0.1"),)))
        ),
        namespaces=draw(
            st.builds(Namespaces, boottime_offset=st.integers(-9, 9), cgroup=st.sampled_from(["new", "host", "5"]))
        ),
        ipc=draw(st.builds(Ipc, shmmax=IDS, sem=st.sampled_from(["", "1 2 3 4"]))),
        uid_map=tuple(lines),
        gid_map=tuple(lines),
        capabilities=Capabilities(names, names, names, names, names),
        pass_fds=draw(st.lists(st.integers(0, 99), max_size=3, unique=True).map(tuple)),
        oom_score_adj=draw(st.integers(-1000, 1000)),
    )


@given(specs())
def test_a_spec_survives_the_way_through_plain_data(spec):
    check(spec)
    assert from_dict(spec.asdict()) == spec
    assert loads(json.dumps(spec.asdict())) == spec


# --- the schema -------------------------------------------------------------------------------


def test_every_field_is_described():
    records = (*RECORDS, Service)
    assert set(DOCS) == {f"{cls.__name__}.{name}" for cls in records for name in cls.__fields__}


def test_the_shipped_schema_is_current():
    shipped = (schema.__file__ or "").replace("schema.py", "schema.json")
    with open(shipped, encoding="utf-8") as file:
        assert file.read() == schema.text(), "run: python -m nstool.spec.schema > nstool/spec/schema.json"


@pytest.fixture(scope="module")
def validator():
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(schema.schema())
    return jsonschema.Draft202012Validator(schema.schema())


@given(spec=specs())
@settings(max_examples=30)
def test_plain_specs_validate(validator, spec):
    validator.validate(spec.asdict())


@pytest.mark.parametrize(
    ("data", "valid"),
    [
        ({"command": ["a"], "limits": {"memory": "64M", "cpu": "50%"}, "root": "/"}, True),
        ({"net": "veth", "mounts": ["/a:/b:rw"], "uid_map": ["0:1:2"], "env": ["A=1"], "user": 5}, True),
        ({"net": {"publish": ["80:80", 80]}, "capabilities": ["kill"], "namespaces": {"pid": 5}}, True),
        ({"capabilities": "all"}, True),
        ({"capabilities": 33}, True),
        ({"command": "ls"}, False),
        ({"comand": ["ls"]}, False),
        ({"limits": {"memory": "64X"}}, False),
        ({"proc": "privat"}, False),
        ({"mounts": [{"source": "/a"}]}, False),
        ({"root": {"typ": "tmpfs"}}, False),
        ({"net": "vet"}, False),
    ],
)
def test_the_schema_knows_the_human_forms(validator, data, valid):
    assert validator.is_valid(data) is valid


def test_the_starter_loads_as_it_is():
    spec = load((schema.__file__ or "").replace("schema.py", "starter.toml"))
    assert spec.hostname == "box"
