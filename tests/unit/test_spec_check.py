"""Every impossible combination has a message that names both halves, at the right key."""

from __future__ import annotations

import pytest

from nstool.errors import SpecError
from nstool.spec import check as module
from nstool.spec.check import CHECKS, check, key_path
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

OK = Spec(command=("true",))
VETH = OK.replace(net=Net(mode="veth"))


WRONG_TYPES = [
    (Spec(command=["true"]), "command: must be of type tuple[str, ...], not list"),
    (Spec(command="true"), "command: must be of type tuple[str, ...], not str"),
    (Spec(command=("true", 1)), "command[1]: must be of type str, not int"),
    (OK.replace(root="/"), "root: must be of type Root, not str"),
    (OK.replace(mounts=[Mount("/a", "/b")]), "mounts: must be of type tuple[Mount, ...], not list"),
    (OK.replace(mounts=("/a:/b",)), "mounts[0]: must be of type Mount, not str"),
    (OK.replace(mounts=(Mount("/a", None),)), "mounts[0].source: must be of type str, not NoneType"),
    (VETH.replace(net=Net(mode="veth", dns=["::1"])), "net.dns: must be of type tuple[str, ...], not list"),
    (VETH.replace(net=Net(hosts=(("::1",),))), "net.hosts[0]: must be two values, not 1"),
    (OK.replace(env={"A": 1}), "env.A: must be of type str, not int"),
    (OK.replace(env={1: "A"}), "env: must be of type str, not int"),
    (OK.replace(env=None), "env: must be of type dict[str, str], not NoneType"),
    (OK.replace(init=1), "init: must be of type bool, not int"),
    (OK.replace(umask=True), "umask: must be of type int, not bool"),
    (OK.replace(limits=Limits(cpu="1")), "limits.cpu: must be of type float, not str"),
    (OK.replace(limits=Limits(rlimits={"core": 0})), "limits.rlimits.core: must be of type tuple[int, int], not int"),
    (OK.replace(uid_map=(IdMap(None, 1, 1),)), "uid_map[0].inside: must be of type int, not NoneType"),
]


@pytest.mark.parametrize(("spec", "message"), WRONG_TYPES)
def test_a_value_of_the_wrong_type_is_refused_by_its_key(spec, message):
    """A program can put anything into a record; nothing of it gets as far as the plan."""
    with pytest.raises(SpecError) as refused:
        check(spec)
    assert str(refused.value).startswith(message)


def test_every_annotation_of_the_model_is_known():
    """A spec with every record and a value in every field passes."""
    full = Limits(cpu=1, rlimits={"core": (0, 0)}), Namespaces(monotonic_offset=0), Net(mode="veth", dns=("::1",))
    check(OK.replace(limits=full[0], namespaces=full[1], net=full[2], ipc=Ipc(shmmax=1), mounts=(bind(),)))


def net(**keys):
    return OK.replace(net=Net(**keys))


def veth(**keys):
    return net(mode="veth", **keys)


def without(*kinds, **keys):
    """A spec that shares namespaces and has nothing of its own that would need them."""
    values = {**dict.fromkeys(kinds, "host"), **{k: keys.pop(k) for k in list(keys) if _kind(k, keys[k])}}
    mine = {"proc": "none", "dev": "none", "tmp_size": 0} if "mnt" in kinds else {}
    mine = {"proc": "none"} if "pid" in kinds and not mine else mine
    return OK.replace(namespaces=Namespaces(**values), **{**mine, **keys})


def _kind(key, value):
    return key in Namespaces.__fields__ and not isinstance(value, (Net, Ipc))


def mounts(*many, **keys):
    return OK.replace(mounts=many, **keys)


def bind(target="/a", **keys):
    return Mount(**{"target": target, "source": "/src", **keys})


def caps(**sets):
    return OK.replace(capabilities=Capabilities(**{key: tuple(value.split()) for key, value in sets.items()}))


def ids(*lines, **keys):
    return OK.replace(**{"uid_map": tuple(IdMap(*line) for line in lines), "user": "0", **keys})


def landlock(**keys):
    return OK.replace(landlock=Landlock(**keys))


# spec, key path of the error, words of the message
WRONG = [
    (landlock(read=("usr",)), "landlock.read[0]", "relative"),
    (landlock(write=("/a", "/a/../b")), "landlock.write[1]", '".."'),
    (landlock(execute=("/" + "x" * 300,)), "landlock.execute[0]", "too long"),
    (landlock(rules=(LandlockRule("usr", ("execute",)),)), "landlock.rules[0].path", "relative"),
    (landlock(rules=(LandlockRule("/usr", ()),)), "landlock.rules[0].allow", "allows nothing"),
    (landlock(rules=(LandlockRule("/usr", ("exec",)),)), "landlock.rules[0].allow[0]", 'did you mean "execute"'),
    (landlock(rules=(LandlockRule("/usr", ("refer", "refer")),)), "landlock.rules[0].allow[1]", "refer twice"),
    (landlock(tcp_bind=(80, 65536)), "landlock.tcp_bind[1]", "between 0 and 65535"),
    (landlock(tcp_connect=(-1,)), "landlock.tcp_connect[0]", "between 0 and 65535"),
    (landlock(scope=("signals",)), "landlock.scope[0]", 'did you mean "signal"'),
    (landlock(scope=("signal", "signal")), "landlock.scope[1]", "signal twice"),
    (landlock(flags=("log_new_exec_on",)), "landlock.flags", "restrict nothing"),
    (landlock(read=(), flags=("log_off",)), "landlock.flags[0]", "landlock_restrict_self(2)"),
    (landlock(read=()).replace(no_new_privs=False, seccomp="none"), "no_new_privs", "landlock needs no_new_privs"),
    (OK.replace(apparmor="stack "), "apparmor", "no profile"),
    (OK.replace(apparmor="a\nb"), "apparmor", "no profile"),
    (OK.replace(selinux="user_u:user_r"), "selinux", "user:role:type:level"),
    (OK.replace(selinux="u:r:t:s0 c1"), "selinux", "user:role:type:level"),
    (Spec(), "command", "no command"),
    (OK.replace(command=("",)), "command[0]", "empty"),
    (OK.replace(command=("a", "b\0")), "command[1]", "NUL"),
    (OK.replace(env={"A": "\0"}), "env.A", "NUL"),
    (OK.replace(env={"A\0": ""}), 'env."A\\x00"', "NUL"),
    (mounts(bind("/a\0")), "mounts[0].target", "NUL"),
    (OK.replace(hostname="\ud800"), "hostname", "surrogate"),
    (OK.replace(oom_score_adj=1 << 70), "oom_score_adj", "64 bits"),
    (OK.replace(name="-x"), "name", "begin with a letter"),
    (OK.replace(name="../x"), "name", "letters"),
    (OK.replace(name="x" * 64), "name", "63"),
    (OK.replace(name="Web"), "name", "lower case"),
    (without("uts", hostname="box"), "hostname", "new uts namespace, uts_namespaces(7)"),
    (without("uts", domainname="box"), "domainname", "new uts namespace, uts_namespaces(7)"),
    (OK.replace(hostname="é" * 33), "hostname", "66 bytes; a hostname has at most 64"),
    (OK.replace(domainname="d" * 65), "domainname", "at most 64"),
    (OK.replace(hostname="a\nb"), "hostname", "white space"),
    (without(uts="Host"), "namespaces.uts", 'did you mean "host"'),
    (without(uts="0"), "namespaces.uts", "pid"),
    (without(uts="9" * 5000), "namespaces.uts", "pid"),
    (without(uts="²"), "namespaces.uts", "pid"),
    (OK.replace(root=Root(type="dirctory")), "root.type", 'did you mean "directory"'),
    (OK.replace(root=Root(path="/x")), "root.path", "has no path"),
    (OK.replace(root=Root(type="directory")), "root.path", "needs a path"),
    (OK.replace(root=Root(type="tarball", path="x.tar")), "root.path", "relative"),
    (OK.replace(root=Root(type="directory", path="/a/../b")), "root.path", '".."'),
    (OK.replace(root=Root(type="directory", path="//.")), "root.path", 'type = "host"'),
    (OK.replace(root=Root(type="overlay")), "root.lower", "at least one lower"),
    (OK.replace(root=Root(type="overlay", lower=("a",))), "root.lower[0]", "relative"),
    (OK.replace(root=Root(lower=("/a",))), "root.lower", 'type = "overlay"'),
    (OK.replace(root=Root(upper="/a")), "root.upper", 'type = "overlay"'),
    (OK.replace(root=Root(type="overlay", lower=("/a",), upper="/b")), "root.upper", "writable = true"),
    (OK.replace(root=Root(type="overlay", lower=("/a",), upper="/a/", writable=True)), "root.upper", "also a lower"),
    (OK.replace(root=Root(type="tmpfs", idmap=True)), "root.idmap", "tmpfs"),
    (OK.replace(root=Root(type="tmpfs", size=0)), "root.size", "without limit"),
    (OK.replace(root=Root(size=-1)), "root.size", "between"),
    (OK.replace(root=Root(size=1 << 20)), "root.size", "nothing is written to a read-only root"),
    (OK.replace(root=Root(type="host", size=1 << 20)), "root.size", "a root of type host has no size"),
    (OK.replace(root=Root(type="directory", path="/r", size=1 << 20)), "root.size", "of type directory has no size"),
    (
        OK.replace(root=Root(type="overlay", lower=("/a",), upper="/b", writable=True, size=1 << 20)),
        "root.size",
        "a root with an upper layer has no size",
    ),
    (without("user", root=Root(type="directory", path="/r", idmap=True)), "root.idmap", "user_namespaces(7)"),
    (without("mnt", root=Root(type="tmpfs")), "root", "new mnt namespace, mount_namespaces(7)"),
    (without("mnt", root=Root(writable=True)), "root.writable", "mount_namespaces(7)"),
    (without("mnt", mounts=(bind(),)), "mounts[0]", "mount_namespaces(7)"),
    (without("mnt", proc="bind"), "proc", "mount_namespaces(7)"),
    (without("mnt", dev="private"), "dev", "mount_namespaces(7)"),
    (without("mnt", tmp_size=1), "tmp_size", "mount_namespaces(7)"),
    (without("mnt", mask_paths=("/x",)), "mask_paths[0]", "mount_namespaces(7)"),
    (
        Spec(command=("true",), net=Net(hosts=(("::1", "db"),)), mounts=(Mount("/etc/hosts", "/etc/hosts"),)),
        "net.hosts[0]",
        "mounts[0] is on /etc/hosts",
    ),
    (without("mnt", net=Net(dns=("::1",))), "net.dns[0]", "mount_namespaces(7)"),
    (without("pid", proc="private"), "proc", "new pid namespace, pid_namespaces(7)"),
    (mounts(bind("a")), "mounts[0].target", "relative"),
    (mounts(bind("/a/../..")), "mounts[0].target", '".."'),
    (mounts(bind("/./")), "mounts[0].target", "is the root"),
    (mounts(bind("/a"), bind("/b"), bind("//a/")), "mounts[2].target", "mounts[0] is on /a already"),
    (mounts(bind("/a/b"), bind("/a")), "mounts[1].target", "would hide mounts[0]"),
    (mounts(bind(source="")), "mounts[0].source", "needs a source"),
    (mounts(bind(source="x")), "mounts[0].source", "relative"),
    (mounts(bind(type="tmpfs")), "mounts[0].source", "tmpfs has no source"),
    (mounts(bind(type="blind")), "mounts[0].type", 'did you mean "bind"'),
    (mounts(bind(propagation="salve")), "mounts[0].propagation", 'did you mean "slave"'),
    (mounts(Mount("/a", type="overlay")), "mounts[0].lower", "at least one lower"),
    (mounts(bind(lower=("/l",))), "mounts[0].lower", 'type = "overlay"'),
    (mounts(Mount("/a", type="overlay", lower=("/l",), upper="/u")), "mounts[0].upper", "writable = true"),
    (mounts(Mount("/a", type="tmpfs", idmap=True)), "mounts[0].idmap", "bind mounts"),
    (mounts(bind(size=5)), "mounts[0].size", "tmpfs"),
    (mounts(Mount("/a", type="tmpfs", size=-5)), "mounts[0].size", "between"),
    (mounts(bind(mode=0o10000)), "mounts[0].mode", "permission bits"),
    (mounts(bind(mode=0o700)), "mounts[0].mode", "mode is for tmpfs, not for bind"),
    (without("user", mounts=(bind(idmap=True),)), "mounts[0].idmap", "user_namespaces(7)"),
    (without("pid", mounts=(Mount("/p", type="proc"),)), "mounts[0]", "pid_namespaces(7)"),
    (without("ipc", mounts=(Mount("/q", type="mqueue"),)), "mounts[0]", "ipc_namespaces(7)"),
    (OK.replace(mount_propagation="none"), "mount_propagation", "known"),
    (OK.replace(proc="privat"), "proc", 'did you mean "private"'),
    (OK.replace(hidepid="2"), "hidepid", "invisible"),
    (OK.replace(proc_subset="pids"), "proc_subset", 'did you mean "pid"'),
    (OK.replace(proc="none", proc_subset="pid"), "proc_subset", 'proc = "none"'),
    (OK.replace(proc="bind", hidepid="off"), "hidepid", 'proc = "bind"'),
    (without("mnt", mount_propagation="slave"), "mount_propagation", "mount_namespaces(7)"),
    (OK.replace(dev="full"), "dev", "known"),
    (OK.replace(tmp_size=-1), "tmp_size", "between"),
    (OK.replace(mask_paths=("x",)), "mask_paths[0]", "relative"),
    (OK.replace(readonly_paths=("/ok", "/")), "readonly_paths[1]", '"/"'),
    (OK.replace(seccomp="strikt"), "seccomp", "strict"),
    (OK.replace(seccomp="lists/web.json"), "seccomp", "relative"),
    (OK.replace(keyring="nwe"), "keyring", 'did you mean "new"'),
    (OK.replace(terminal="on"), "terminal", "always"),
    (OK.replace(aslr="no"), "aslr", "known"),
    (OK.replace(personality="linux64"), "personality", 'did you mean "linux32"'),
    (OK.replace(cwd="tmp"), "cwd", "relative"),
    (OK.replace(cwd="/a/.."), "cwd", '".."'),
    (OK.replace(env={"": "x"}), 'env.""', "must not be empty"),
    (OK.replace(env={"A=B": "x"}), 'env."A=B"', '"="'),
    (OK.replace(umask=0o1000), "umask", "0o777"),
    (OK.replace(umask=-1), "umask", "umask(2)"),
    (OK.replace(oom_score_adj=1001), "oom_score_adj", "1000"),
    (OK.replace(pass_fds=(-1,)), "pass_fds[0]", "between"),
    (OK.replace(pass_fds=(3, 4, 3)), "pass_fds[2]", "passed twice"),
    (OK.replace(limits=Limits(memory=-1)), "limits.memory", "between"),
    (OK.replace(limits=Limits(ucounts={"inotify": 5})), "limits.ucounts.inotify", "did you mean"),
    (OK.replace(limits=Limits(ucounts={"inotify_watches": -2})), "limits.ucounts.inotify_watches", "between 0 and"),
    (
        OK.replace(limits=Limits(ucounts={"fanotify_marks": 5}), namespaces=Namespaces(user="host")),
        "limits.ucounts.fanotify_marks",
        "needs a new user namespace",
    ),
    (OK.replace(limits=Limits(memory=1024)), "limits.memory", 'write at least "128K", or 0 for no limit'),
    (OK.replace(limits=Limits(memory=1)), "limits.memory", "1 byte is too few"),
    (OK.replace(limits=Limits(memory=0, swap=5)), "limits.swap", "limits.memory"),
    (OK.replace(limits=Limits(pids=-1)), "limits.pids", "between"),
    (OK.replace(limits=Limits(pids=1)), "limits.pids", "init = false"),
    (OK.replace(limits=Limits(cpu=4097)), "limits.cpu", "4096"),
    (OK.replace(limits=Limits(cpu=0.001)), "limits.cpu", "0.01"),
    (OK.replace(limits=Limits(cpu=float("nan"))), "limits.cpu", "between"),
    (OK.replace(limits=Limits(rlimits={"nofil": (1, 1)})), "limits.rlimits.nofil", 'did you mean "nofile"'),
    (OK.replace(limits=Limits(rlimits={"core": (2, 1)})), "limits.rlimits.core", "above the hard"),
    (OK.replace(limits=Limits(rlimits={"core": (-1, 1)})), "limits.rlimits.core", "above the hard"),
    (OK.replace(limits=Limits(rlimits={"core": (0, -2)})), "limits.rlimits.core", "at least 0"),
    (net(mode="vet"), "net.mode", 'did you mean "veth"'),
    (net(mode="host"), "net.mode", "contradicts namespaces.net"),
    (without("net"), "namespaces.net", "contradicts"),
    (without(net="/run/netns/x"), "namespaces.net", 'mode = "join"'),
    (net(mode="join"), "net.target", "needs a target"),
    (veth(target="x"), "net.target", 'not for "veth"'),
    (veth(bridge="br"), "net.bridge", 'not for "veth"'),
    (net(mode="bridge", bridge="x" * 16), "net.bridge", "15 bytes"),
    (net(mode="bridge", bridge="a/b"), "net.bridge", "device name"),
    (net(address="10.0.0.2/30"), "net.address", 'needs mode "veth"'),
    (net(routes=(("default", "10.0.0.1"),)), "net.routes", 'needs mode "veth"'),
    (net(nat=False), "net.nat", 'needs mode "veth" or "bridge", not "loopback"'),
    (net(mode="none", ipv6=False), "net.ipv6", 'not "none"'),
    (without("net", net=Net(mode="host", isolated=False)), "net.isolated", 'not "host"'),
    (veth(address="10.0.0.2"), "net.address", "length of its network"),
    (veth(address="10.0.0.x/30"), "net.address", "not an address"),
    (veth(address="fd00::2/64"), "net.address", "not an IPv4"),
    (veth(address6="10.0.0.2/30"), "net.address6", "not an IPv6"),
    (veth(address="10.0.0.2/32"), "net.address", "no room for the host's end"),
    (veth(gateway="10.0.0.1"), "net.gateway", "write address too"),
    (veth(address="10.0.0.2/30", gateway="10.1.0.1"), "net.gateway", "not on the network"),
    (veth(mtu=1000), "net.mtu", "1280"),
    (veth(mtu=70000, ipv6=False), "net.mtu", "68 and 65535"),
    (veth(routes=(("10.0.0.1/8", "10.0.0.1"),)), "net.routes[0]", "not a network"),
    (veth(routes=(("10.0.0.0/8", "x"),)), "net.routes[0]", "gateway"),
    (net(publish=(Publish(80, 80),)), "net.publish[0]", 'needs net mode "veth" or "bridge", not "loopback"'),
    (veth(publish=(Publish(0, 80),)), "net.publish[0].host", "between 1 and 65535"),
    (veth(publish=(Publish(80, 65536),)), "net.publish[0].inside", "between 1 and 65535"),
    (veth(publish=(Publish(80, 80, "sctp"),)), "net.publish[0].protocol", "known"),
    (veth(publish=(Publish(80, 80, "tcp", "localhost"),)), "net.publish[0].address", "IP address"),
    (veth(publish=(Publish(80, 1), Publish(80, 2, "tcp", "::1"))), "net.publish[1]", "80/tcp of the host is published"),
    (net(dns=("ns.example",)), "net.dns[0]", "name server"),
    (net(hosts=(("x", "y"),)), "net.hosts[0]", "address"),
    (net(hosts=(("::1", "a b"),)), "net.hosts[0]", "host name"),
    (net(sysctls={"kernel.x": "1"}), 'net.sysctls."kernel.x"', "only net.*"),
    (net(sysctls={"net/../kernel": "1"}), 'net.sysctls."net/../kernel"', "only net.*"),
    (net(sysctls={"net.x": "1\n2"}), 'net.sysctls."net.x"', "line break"),
    (net(mode="join", target="1", sysctls={"net.x": "1"}), 'net.sysctls."net.x"', "new net namespace"),
    (without("user", uid_map=(IdMap(0, 1000, 1),)), "uid_map[0]", "user_namespaces(7)"),
    (ids((0, 1000, 0)), "uid_map[0]", "count is at least 1"),
    (ids((-1, 1000, 1)), "uid_map[0].inside", "between"),
    (ids((0, 4294967295, 1)), "uid_map[0].outside", "between"),
    (ids((0, 4294967290, 10)), "uid_map[0].count", "ends above"),
    (ids((0, 0, 1000)), "uid_map[0]", "includes host id 0"),
    (ids((0, 1000, 10), (9, 5000, 10)), "uid_map[1]", "overlaps line 1 of the map inside"),
    (ids((0, 1000, 10), (100, 1009, 10)), "uid_map[1]", "overlaps line 1 of the map outside"),
    (ids(*((i, i + 1000, 1) for i in range(341))), "uid_map[340]", "at most 340"),
    (ids((0, 1000, 10), user="10"), "user", "user 10 is not in uid_map; map it, or choose another (--user)"),
    (ids((0, 300000, 1000), user="1000:1000"), "uid_map[0]", "user 1000 is not in uid_map"),
    (ids(gid_map=(IdMap(0, 1000, 10),), user="0:10"), "user", "group 10 is not in gid_map"),
    (ids(gid_map=(IdMap(0, 1000, 10),), groups=("11",)), "groups[0]", "not in gid_map"),
    (OK.replace(user=""), "user", "form"),
    (OK.replace(user="1:"), "user", "form"),
    (OK.replace(user="1:2:3"), "user", "form"),
    (OK.replace(user="-1"), "user", "no id"),
    (OK.replace(user="--5"), "user", "neither an id nor a name"),
    (OK.replace(user="4294967295"), "user", "no id"),
    (OK.replace(user="0" * 5000), "user", "no id"),
    (OK.replace(user="a b"), "user", "neither an id nor a name"),
    (OK.replace(groups=("keep", "1")), "groups", "stands alone"),
    (OK.replace(groups=("1", "1")), "groups[1]", "twice"),
    (OK.replace(groups=("keep",), gid_map=(IdMap(1000, 1000, 5),)), "groups[0]", "gid_map gives ranges"),
    (caps(bounding="net_rw"), "capabilities.bounding[0]", 'did you mean "net_raw"'),
    (caps(bounding="kill kill"), "capabilities.bounding[1]", "twice"),
    (caps(effective="kill"), "capabilities.effective[0]", "effective kill must be permitted too"),
    (caps(inheritable="kill"), "capabilities.inheritable[0]", "must be bounding too"),
    (caps(ambient="kill", inheritable="kill", bounding="kill"), "capabilities.ambient[0]", "must be permitted too"),
    (caps(ambient="kill", permitted="kill"), "capabilities.ambient[0]", "must be inheritable too"),
    (
        caps(permitted="kill"),
        "capabilities.permitted[0]",
        "leaves uid 1000 only what is ambient: write kill in ambient",
    ),
    (
        caps(permitted="kill", inheritable="kill", bounding="kill", ambient="kill"),
        "capabilities.ambient[0]",
        "effective",
    ),
    (caps(bounding="kill").replace(user="0", securebits=(), no_new_privs=False), "capabilities.bounding[0]", "not in"),
    (OK.replace(securebits=("norot",)), "securebits[0]", 'did you mean "noroot"'),
    (OK.replace(securebits=("noroot", "noroot")), "securebits[1]", "twice"),
    (OK.replace(securebits=("noroot_locked",)), "securebits[0]", "add noroot"),
    (OK.replace(securebits=("keep_caps",)), "securebits[0]", "execve(2) clears"),
    (OK.replace(no_new_privs=False), "no_new_privs", "no_new_privs = true"),
    (without("time", boottime_offset=5), "namespaces.boottime_offset", "time_namespaces(7)"),
    (without(monotonic_offset=1 << 40), "namespaces.monotonic_offset", "between"),
    (without("ipc", ipc=Ipc(shmmax=5)), "ipc.shmmax", "ipc_namespaces(7)"),
    (OK.replace(ipc=Ipc(msgmax=-1)), "ipc.msgmax", "between"),
    (OK.replace(ipc=Ipc(msgmni=1 << 31)), "ipc.msgmni", "between"),
    (OK.replace(ipc=Ipc(sem="1 2 3")), "ipc.sem", "four numbers"),
    (without("pid", next_pid=5), "next_pid", "pid_namespaces(7)"),
    (OK.replace(namespaces=Namespaces(pid="77", time="host")), "namespaces.pid", 'write proc = "none", or "bind"'),
    (OK.replace(namespaces=Namespaces(pid="hst")), "namespaces.pid", 'did you mean "host"?'),
    (OK.replace(next_pid=1), "next_pid", "pid 1 is init"),
    (OK.replace(next_pid=5, init=False), "next_pid", "has pid 1"),
    (OK.replace(next_pid=-5), "next_pid", "between"),
]

RIGHT = [
    OK,
    VETH,
    without(*Namespaces.__fields__[:8], net=Net(mode="host")),
    without("mnt"),
    without("pid"),
    OK.replace(name="web-1.a_b", hostname="h" * 64),
    OK.replace(groups=("keep",), gid_map=(IdMap(0, 1000, 1),), user="0:0"),
    OK.replace(root=Root(type="overlay", lower=("/a",), size=1 << 20)),
    OK.replace(root=Root(type="tarball", path="/x.tar", size=1 << 30)),
    mounts(Mount("/a", type="tmpfs", mode=0o1777)),
    veth(nat=False, ipv6=False, isolated=False),
    OK.replace(limits=Limits(memory=0, pids=0, cpu=0.01)),
    OK.replace(limits=Limits(pids=1), init=False),
    OK.replace(limits=Limits(rlimits={"core": (5, -1), "cpu": (-1, -1)})),
    OK.replace(next_pid=1, init=False),
    OK.replace(next_pid=2),
    OK.replace(no_new_privs=False, seccomp="none"),
    OK.replace(securebits=()),
    ids((0, 0, 1), (1, 1, 65535)),
    ids((0, 1000, 10), (10, 1010, 10), user="19"),
    ids(*((i, i + 1000, 1) for i in range(340))),
    mounts(bind("/a"), bind("/a/b"), bind("/ab")),
    mounts(Mount("/a", type="overlay", lower=("/l",))),
    net(mode="join", target="lab"),
    without(net="/run/netns/x").replace(net=Net(mode="join", target="/run/netns/x")),
    veth(publish=(Publish(80, 80, "tcp", "127.0.0.1"), Publish(80, 80, "tcp", "::1"), Publish(80, 80, "udp"))),
    veth(address="10.0.0.2/30", gateway="10.0.0.1", address6="fd00::2/64", gateway6="fd00::1/64"),
    veth(routes=(("default", "10.0.0.1"), ("10.1.0.0/16", "10.0.0.1"))),
    net(sysctls={"net.ipv4.ip_forward": "1", "net/ipv4/conf/eth0.1/forwarding": "1"}),
    caps(**dict.fromkeys(Capabilities.__fields__, "net_raw")),
    OK.replace(command=("a", "\udcff")),
]


@pytest.mark.parametrize(("spec", "place", "words"), WRONG, ids=[f"{place}-{words}" for _, place, words in WRONG])
def test_impossible(spec, place, words):
    with pytest.raises(SpecError) as caught:
        check(spec)
    assert caught.value.place == place
    assert words in caught.value.message


@pytest.mark.parametrize("spec", RIGHT)
def test_possible(spec):
    check(spec)


def test_every_check_refuses_something():
    """A check that no case of the table reaches would be one that cannot fail."""
    reached = set()
    for spec in (*(spec for spec, _, _ in WRONG), *(spec for spec, _ in WRONG_TYPES)):
        for rule in CHECKS:
            try:
                rule(spec)
            except module._Wrong:
                reached.add(rule)
                break
    assert {rule.__name__ for rule in CHECKS} == {rule.__name__ for rule in reached}


def test_the_place_is_the_callers():
    with pytest.raises(SpecError) as caught:
        check(OK.replace(umask=-1), lambda path: f"--{key_path(path)}")
    assert str(caught.value).startswith("--umask: umask must lie")
