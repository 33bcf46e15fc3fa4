"""Write real plans as inputs for plan_fuzzer: ``python tests/fuzz/make_corpus.py DIRECTORY``."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from pathlib import Path

from nstool.errors import NotSupported, SpecError
from nstool.plan import build, join
from nstool.plan.encode import encode
from nstool.plan.host import Host, SubIds
from nstool.plan.lease import Lease
from nstool.plan.steps import CHILD, INIT, LAUNCHER, PAYLOAD, UNDO, Fd, Plan, Step
from nstool.spec.model import Capabilities, Limits, Mount, Net, Root, Spec
from nstool.uapi import SIOCSIFFLAGS

LEASE = Lease("web", 100000, 100000, 65536, "nstool-web", "ns-0ad50002", "10.213.0.2/30", "10.213.0.1/30")
NO_LIMITS = Limits(memory=0, pids=0, cpu=0)
SPEC = Spec(command=("true",), limits=NO_LIMITS, seccomp="none", terminal="never")
USER = {"uid": 1000, "gid": 1000, "groups": (1000,), "capabilities": 0, "privileged": False}
RANGE = (SubIds(100000, 65536),)
HELPERS = {"newuidmap": "/usr/bin/newuidmap", "newgidmap": "/usr/bin/newgidmap", "subuid": RANGE, "subgid": RANGE}
ROOT = frozenset({"/proc", "/dev", "/tmp"})

SPECS = {
    "default": SPEC,
    "filtered": SPEC.replace(seccomp="default"),
    "no-init": SPEC.replace(init=False),
    "tmpfs": SPEC.replace(root=Root("tmpfs"), mounts=(Mount("/bin", "/bin"), Mount("/d", type="tmpfs"))),
    "overlay": SPEC.replace(root=Root("overlay", lower=("/a", "/b"))),
    "veth": SPEC.replace(net=Net("veth")),
    "terminal": SPEC.replace(terminal="always"),
    "powers": SPEC.replace(capabilities=Capabilities(*[("kill", "chown")] * 5), securebits=(), pass_fds=(5, 6)),
}
HOSTS = {
    "root": Host(root=ROOT, proc_files={"kcore": False, "fs": True}, covered=("/root",), scratch=("/tmp",)),
    "user": Host(root=ROOT, **USER),  # type: ignore[arg-type]
    "helper": Host(root=ROOT, **USER, **HELPERS),  # type: ignore[arg-type]
}
# mode, fail, error, shorter, args, told, seed: struct behaviour of plan_fuzzer.c
BEHAVIOURS = (
    (0, 0, 0, 0, 0, 0, 0),
    (3, 0, 0, 9, 3, 17, 1),
    (1, 7, 17, 0, 0, 16, 2),
    (5, 31, 2, 1, 1, 2, 7),
    (1, 0, 0, 0, 7, 16, 60000),
)


def _plans() -> Iterator[tuple[str, Plan]]:
    for spec_name, spec in SPECS.items():
        for host_name, host in HOSTS.items():
            try:
                yield f"{spec_name}-{host_name}", build.plan(spec, host, LEASE)
            except (SpecError, NotSupported):  # not on this host
                continue
    target = join.Target(frozenset({"user", "mnt", "pid"}), {"pids": "/sys/fs/cgroup/pids/x"})
    yield "join", join.into_sandbox(SPEC, HOSTS["root"], target)
    yield "enter", join.into_namespaces(("sh",), {"net": "/run/netns/x"}, {"A": "b"}, ids=(0, 0), cwd="/")
    yield "every-call", _every_call()
    yield "large", _large()


def _every_call() -> Plan:
    """A plan with the calls that the others lack."""
    steps = (
        Step(LAUNCHER, "mkdirat", (-100, "/sys/fs/cgroup/x", 0o755), ""),
        Step(LAUNCHER, "external", ("x", {}), ""),
        Step(LAUNCHER, "clone3", (0, -1, 7, 0), ""),
        Step(CHILD, "raise_ambient", ((1 << 41) - 1,), ""),
        Step(CHILD, "exec_init", (), ""),
        Step(LAUNCHER, "spawn", (("/usr/bin/newuidmap", "{pid}", "0", "1", "1"),), ""),
        Step(LAUNCHER, "write_proc", ("uid_map", "0 0 1\n"), ""),
        Step(LAUNCHER, "release", (), ""),
        Step(INIT, "wait", (), ""),
        Step(INIT, "mount", ("a", "/", None, 0, None), ""),
        Step(INIT, "chroot", (".",), ""),
        Step(INIT, "mknodat", (-100, "/null", 0o20666, 259), ""),
        Step(INIT, "fchmodat", (-100, "/null", 0o666), ""),
        Step(INIT, "personality", (8,), ""),
        Step(INIT, "pidfd_open", (1, 0), "", "self"),
        Step(INIT, "send_fd", (0,), ""),
        Step(INIT, "seccomp", (0x28, bytes(8)), "", "listener"),
        Step(INIT, "answer_sysinfo", (Fd("listener"), 1 << 20, 0), ""),
        Step(INIT, "clone3", (0, -1, 0, 0), ""),
        Step(INIT, "futex_wake", (), ""),
        Step(PAYLOAD, "futex_wait", (), ""),
        Step(PAYLOAD, "setrlimit", (7, 10, -1), ""),
        Step(PAYLOAD, "drop_bounding", (1,), ""),
        Step(PAYLOAD, "landlock_create_ruleset", (0xFFFF, 3, 3), "", "ruleset"),
        Step(PAYLOAD, "landlock_add_rule", (Fd("ruleset"), 1, 4, 0, 0), ""),
        Step(PAYLOAD, "landlock_add_rule", (Fd("ruleset"), 2, 1, -1, 443), ""),
        Step(PAYLOAD, "landlock_restrict_self", (Fd("ruleset"), 7), ""),
        Step(PAYLOAD, "attest", (), ""),
        Step(PAYLOAD, "execve", (("/bin/a", "/bin/b"), ("a", "", "b"), ("A=b", "")), ""),
        Step(UNDO, "unlinkat", (-100, "/sys/fs/cgroup/x", 0x200), ""),
        Step(UNDO, "ioctl", (0, SIOCSIFFLAGS, bytes(range(64))), ""),
    )
    return Plan(steps, ("stdin", "stdout", "stderr"))


def _large() -> Plan:
    """A plan with more strings than the launcher has room for, a long command, and bytes at the very end."""
    steps = (
        Step(LAUNCHER, "clone3", (0, -1, 0, 0), ""),
        Step(CHILD, "exec_init", (), ""),
        Step(LAUNCHER, "spawn", (("",) * 2500,), ""),
        Step(PAYLOAD, "execve", (("/x",), ("x" * 3000, ""), ("",) * 3000), ""),
        Step(UNDO, "ioctl", (0, SIOCSIFFLAGS, bytes(range(64))), ""),
    )
    return Plan(steps, (), init=False)


def _near_misses(data: bytes) -> Iterator[bytes]:
    """The plan with one string a byte too long, shifted, or at the end of the pool: one step from harm."""
    steps, pool_size = struct.unpack_from("<I", data, 12)[0], struct.unpack_from("<I", data, 24)[0]
    for at in range(64, 64 + 64 * steps, 8):
        offset, length = struct.unpack_from("<II", data, at)
        if at % 64 and 0 < length < pool_size:
            for word in ((offset, length + 1), (offset + 1, length), (pool_size - 1, 1)):
                yield data[:at] + struct.pack("<II", *word) + data[at + 8 :]


def main() -> None:
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for number, damaged in enumerate(_near_misses(encode(_every_call()))):
        (directory / f"near-miss-{number}").write_bytes(bytes(8) + damaged)
    for name, plan in _plans():
        data = encode(plan)
        for number, behaviour in enumerate(BEHAVIOURS):
            (directory / f"{name}-{number}").write_bytes(struct.pack("<6BH", *behaviour) + data)


if __name__ == "__main__":
    main()
