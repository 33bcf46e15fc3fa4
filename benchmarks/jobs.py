"""What is launched: the floor's job as specs of nstool, and as command lines of other tools.

The floor's job: a static program in fresh mnt, pid, net, uts, ipc and cgroup namespaces ("six"), or with a user
namespace too ("seven"), with a read-only root, its own /proc and /dev, lo up, no capabilities, no new privileges.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from measure import OUT, ROOT

from nstool import Capabilities, IdMap, Limits, Namespaces, Net, Publish, Root, Spec, uapi
from nstool.plan.views import SHOWN, SHOWN_IPC

TRUE = "/bin/tiny_true"
NAIVE = {"six": "pbdmhlvkn", "seven": "upbdmhlvkn"}  # steps of floor_spawn
BEST = {"six": "pbdmvhlSn", "seven": "upbdmvhlSn"}  # of floor_launch: one securebits call for 41 bounding set drops


def spec(job: str, program: str = TRUE) -> Spec:
    """The spec of a job: "six" and "seven" as the floor, "default": all that is safe, "veth": and a published port.

    "loose": the default's namespaces, root and init with no hardening at all. The floor reads nothing back, so what
    stands beside it does not either; "attested": seven, read back.
    """
    base = Spec(command=(program,), root=Root(type="directory", path=str(ROOT)), terminal="never")
    if job == "default":
        return base
    if job == "unattested":
        return base.replace(attest=False)
    if job == "loose":
        return base.replace(
            capabilities=Capabilities(*[tuple(uapi.CAPABILITIES)] * 5),
            securebits=(),
            no_new_privs=False,
            seccomp="none",
            keyring="keep",
            limits=Limits(memory=0, pids=0, cpu=0, rlimits={}, ucounts={}),
            tmp_size=0,
            hidepid="off",
            proc_show=(
                "sys",
                *(
                    name
                    for name in os.listdir("/proc")
                    if not name.isdecimal() and name not in (*SHOWN, SHOWN_IPC, "sys")
                ),
            ),
            oom_score_adj=0,
            attest=False,
        )
    if job == "veth":
        return base.replace(net=Net(mode="veth", publish=(Publish(18765, 80),)))
    base = base.replace(
        user="0:0",
        groups=("keep",),
        init=False,
        seccomp="none",
        keyring="keep",
        limits=Limits(memory=0, pids=0, cpu=0, rlimits={}, ucounts={}),
        dev="nodes",
        tmp_size=0,
        hidepid="off",
        proc_subset="pid",
        oom_score_adj=0,
        die_with_parent=False,
        attest=job == "attested",
        namespaces=Namespaces(time="host"),
    )
    if job == "six":
        return base.replace(namespaces=Namespaces(time="host", user="host"))
    one = (IdMap(0, 0, 1),)
    return base.replace(uid_map=one, gid_map=one)


def compiled(job: str, program: str) -> str:
    """Write the compiled plan of a job; its path."""
    from nstool.sandbox.compiled import compile_spec
    from nstool.spec.check import check

    wanted = spec(job, program)
    check(wanted)
    path = OUT / f"{job}-{Path(program).name}.plan"
    path.write_bytes(compile_spec(wanted))
    return str(path)


def peers(program: str) -> dict[str, list[str]]:
    """Command lines of the installed tools that do the floor's job. "@ID@" becomes a fresh name per launch."""
    root = str(ROOT)
    unshare = ["--mount", "--pid", "--fork", "--net", "--uts", "--ipc", "--cgroup", "--mount-proc=/proc"]
    bwrap = f"--ro-bind {root} / --proc /proc --dev /dev --cap-drop ALL --die-with-parent {program}".split()
    nsjail = f"-Mo -Q --chroot {root} -T /dev -B /dev/null -B /dev/zero -B /dev/urandom".split()
    firejail = "--quiet --noprofile --net=none --private-dev --caps.drop=all --read-only=/ --nonewprivs --ipc-namespace"
    lines = {
        "unshare six": ["unshare", *unshare, f"--root={root}", program],
        "unshare seven": ["unshare", "--user", "--map-root-user", *unshare, f"--root={root}", program],
        "bwrap six": [
            "bwrap",
            *(f"--unshare-{kind}" for kind in ("ipc", "pid", "net", "uts", "cgroup")),
            *bwrap,
        ],
        "bwrap seven": ["bwrap", "--unshare-all", "--unshare-user", *bwrap],
        "nsjail six": ["nsjail", *nsjail, "--disable_clone_newuser", "--", program],
        "nsjail seven": ["nsjail", *nsjail, "--", program],
        "firejail (host root)": ["firejail", *firejail.split(), root + program],
        "crun six": ["crun", "--cgroup-manager=disabled", "run", "-b", _bundle(program, False), "@ID@"],
        "crun seven": ["crun", "--cgroup-manager=disabled", "run", "-b", _bundle(program, True), "@ID@"],
        "runc six": ["runc", "run", "-b", _bundle(program, False), "@ID@"],
        "runc seven": ["runc", "run", "-b", _bundle(program, True), "@ID@"],
    }
    return {name: line for name, line in lines.items() if shutil.which(line[0])}


def _bundle(program: str, user: bool) -> str:
    # The directory that crun and runc take: an OCI runtime configuration of the floor's job.
    directory = OUT / f"bundle-{'seven' if user else 'six'}{Path(program).name}"
    directory.mkdir(exist_ok=True)
    kinds = ["pid", "network", "ipc", "uts", "mount", "cgroup", *(["user"] if user else [])]
    process = {
        "user": {"uid": 0, "gid": 0},
        "args": [program],
        "env": ["PATH=/bin"],
        "cwd": "/",
        "capabilities": {name: [] for name in ("bounding", "effective", "inheritable", "permitted", "ambient")},
        "noNewPrivileges": True,
    }
    linux: dict[str, object] = {
        "namespaces": [{"type": kind} for kind in kinds],
        "maskedPaths": [],
        "readonlyPaths": [],
    }
    if user:
        ids = [{"containerID": 0, "hostID": 0, "size": 65536}]
        linux |= {"uidMappings": ids, "gidMappings": ids}
    dev = {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]}
    config = {
        "ociVersion": "1.0.0",
        "process": process,
        "root": {"path": str(ROOT), "readonly": True},
        "hostname": "floor",
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}, dev],
        "linux": linux,
    }
    (directory / "config.json").write_text(json.dumps(config))
    return os.fspath(directory)
