"""An IPC namespace is listed as tools inside it list it; what is removed and limited is so there, and nowhere else."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nstool import syscalls, uapi
from nstool.errors import KernelError
from nstool.inspect.ipc import Ipc, ipc
from nstool.inspect.proc import ProcessGone
from nstool.sandbox.ipc import Object, limit, remove
from nstool.sandbox.launch import launch
from nstool.spec.model import Spec
from tests.kernel.inspect.test_mounts import nstool, tmpfs
from tests.kernel.rows import boxes
from tests.support import kernel
from tests.support.held import held, own_user_namespace, private_mounts

Act = Callable[..., Any]

CLONE_NEWIPC = 0x08000000
IPC_CREAT = 0o1000
LIBC = ctypes.CDLL(None, use_errno=True)


class Mq(ctypes.Structure):
    """struct mq_attr."""

    _fields_ = [(name, ctypes.c_long) for name in ("flags", "maxmsg", "msgsize", "curmsgs", "a", "b", "c", "d")]


def make_queue(name: str, maxmsg: int = 4, msgsize: int = 100, messages: int = 0) -> int:
    """Make a POSIX queue with messages in it, by libc."""
    attr = Mq(0, maxmsg, msgsize, 0)
    fd = LIBC.mq_open(name.encode(), os.O_CREAT | os.O_RDWR, 0o640, ctypes.byref(attr))
    assert fd >= 0, os.strerror(ctypes.get_errno())
    for number in range(messages):
        assert LIBC.mq_send(fd, b"x" * (number + 1), ctypes.c_size_t(number + 1), 0) == 0
    return fd


def some_objects() -> None:
    """Enter a new ipc namespace and make objects of all kinds in it."""
    kernel.unshare(CLONE_NEWIPC)
    os.umask(0o022)
    shm = LIBC.shmget(0x1234, ctypes.c_size_t(10000), IPC_CREAT | 0o640)
    LIBC.shmget(0, ctypes.c_size_t(5000), IPC_CREAT | 0o600)
    LIBC.shmat.restype = ctypes.c_void_p
    address = LIBC.shmat(shm, None, 0)
    ctypes.memset(address, 1, 10000)
    LIBC.semget(0x77, 5, IPC_CREAT | 0o604)
    queue = LIBC.msgget(-0x7FFFFFFF, IPC_CREAT | 0o666)
    LIBC.msgsnd(queue, b"\1" + b"\0" * 7 + b"hello", ctypes.c_size_t(5), 0)
    make_queue("/jobs", 4, 100, 3)
    make_queue("/a b\x1b", 2, 50)


def inside(pid: int, *command: str) -> str:
    """Run a command in the ipc namespace of a process. nsenter(1)."""
    done = subprocess.run(["nsenter", "-t", str(pid), "-i", *command], capture_output=True, text=True, check=True)
    return done.stdout


def rows(pid: int, what: str) -> list[dict[str, str]]:
    """Return what lsipc(1) lists in the namespace."""
    columns = {"m": "SIZE,NATTCH,CPID", "s": "NSEMS", "q": "USEDBYTES,MSGS,LSPID"}[what]
    text = inside(pid, "lsipc", f"-{what}", "-b", "-J", "-P", "-o", f"KEY,ID,PERMS,CUID,CGID,{columns}")
    table: list[dict[str, str]] = next(iter(json.loads(text).values())) if text.strip() else []
    return table


@pytest.mark.needs("root")
def test_a_segment_that_is_locked(in_child: Act) -> None:
    """Into memory, shmctl(2); as ipcs(1) says."""

    def enter() -> None:
        kernel.unshare(CLONE_NEWIPC)
        for lock in (11, 12):  # SHM_LOCK, SHM_UNLOCK
            LIBC.shmctl(LIBC.shmget(0, ctypes.c_size_t(4096), IPC_CREAT | 0o600), lock, None)

    def act() -> Any:
        with held(enter) as pid:
            listed = [line.split()[1:] for line in inside(pid, "ipcs", "-m").splitlines() if line.startswith("0x")]
            return {one.id: one.locked for one in ipc(pid).segments}, {int(row[0]): "locked" in row for row in listed}

    ours, theirs = in_child(act)
    assert ours == theirs
    assert sorted(ours.values()) == [False, True]


@pytest.mark.needs("root")
def test_system_v_objects_agree_with_lsipc(in_child: Act) -> None:
    def act() -> Any:
        with held(some_objects) as pid:
            found = ipc(pid)
            ours = {
                "m": [
                    (
                        f"0x{s.key:08x}",
                        s.id,
                        f"{s.mode:04o}",
                        s.size,
                        s.attached,
                        s.creator,
                        s.owner.uid,
                        s.owner.creator_gid,
                    )
                    for s in found.segments
                ],
                "s": [(f"0x{s.key:08x}", s.id, f"{s.mode:04o}", s.count, s.owner.gid) for s in found.semaphores],
                "q": [
                    (f"0x{s.key:08x}", s.id, f"{s.mode:04o}", s.bytes, s.messages, s.last_send) for s in found.queues
                ],
            }
            theirs = {
                "m": [
                    (
                        r["key"],
                        int(r["id"]),
                        r["perms"],
                        int(r["size"]),
                        int(r["nattch"]),
                        int(r["cpid"]),
                        int(r["cuid"]),
                        int(r["cgid"]),
                    )
                    for r in rows(pid, "m")
                ],
                "s": [(r["key"], int(r["id"]), r["perms"], int(r["nsems"]), int(r["cgid"])) for r in rows(pid, "s")],
                "q": [
                    (r["key"], int(r["id"]), "0666", int(r["usedbytes"]), int(r["msgs"]), int(r["lspid"]))
                    for r in rows(pid, "q")
                ],
            }
            return ours, theirs, found.segments[0].resident, pid

    ours, theirs, resident, pid = in_child(act)
    assert ours == theirs
    assert [len(ours[kind]) for kind in "msq"] == [2, 1, 1]
    assert resident == 12288
    assert ours["m"][0][5] == ours["q"][0][5] == pid


@pytest.mark.needs("root")
def test_posix_queues_agree_with_an_mqueue_file_system(in_child: Act) -> None:
    """One that the process mounts itself, and mq_getattr(3) there."""

    def act() -> Any:
        reader, writer = os.pipe()

        def inside_it() -> None:
            some_objects()
            private_mounts()
            kernel.mount("mqueue", "/tmp", "mqueue")
            lines = [
                f"{n!r} {Path('/tmp', n).read_text().split()[0]} {os.stat(f'/tmp/{n}').st_mode & 0o777:o}"
                for n in os.listdir("/tmp")
            ]
            os.write(writer, "\n".join(sorted(lines)).encode())

        with held(inside_it) as pid:
            os.close(writer)
            theirs = os.read(reader, 4096).decode().split("\n")
            found = ipc(pid).posix_queues or ()
            ours = sorted(f"{queue.name[1:]!r} QSIZE:{queue.bytes} {queue.mode:o}" for queue in found)
            sizes = [
                (q.name, q.max_messages, q.max_size, q.messages, q.notified, q.owner.uid, q.owner.creator_uid)
                for q in found
            ]
            return ours, theirs, sizes

    ours, theirs, sizes = in_child(act)
    assert ours == theirs
    assert sizes == [("/a b\x1b", 2, 50, 0, 0, 0, None), ("/jobs", 4, 100, 3, 0, 0, None)]


@pytest.mark.needs("root")
def test_limits_agree_with_the_files_inside(in_child: Act) -> None:
    """Read by another process in the namespace; the host's are others."""

    def act() -> Any:
        def other() -> None:
            kernel.unshare(CLONE_NEWIPC)
            Path("/proc/sys/kernel/shmmni").write_text("77")
            Path("/proc/sys/fs/mqueue/msg_max").write_text("9")

        with held(other) as pid:
            found = ipc(pid).limits
            names = ("kernel/shmmni", "kernel/sem", "kernel/msgmnb", "fs/mqueue/msg_max", "fs/mqueue/msgsize_default")
            theirs = [" ".join(inside(pid, "cat", f"/proc/sys/{name}").split()) for name in names]
            ours = [found[name] for name in ("shmmni", "sem", "msgmnb", "mq_msg_max", "mq_msgsize_default")]
            return ours, theirs, ipc(os.getpid()).limits["shmmni"], Path("/proc/sys/kernel/shmmni").read_text().strip()

    ours, theirs, own, host = in_child(act)
    assert ours == theirs
    assert ours[0] == "77"
    assert own == host != "77"


@pytest.mark.needs("root")
def test_owners_on_both_sides(in_child: Act) -> None:
    """In a user namespace: the ids that its map gives, unmapped ones too; as the caller sees them outside."""

    def act() -> Any:
        def other() -> None:
            some_objects()
            shm = LIBC.shmget(0, ctypes.c_size_t(1), IPC_CREAT | 0o600)
            values = (ctypes.c_int * 32)()
            LIBC.shmctl(shm, 2, values)  # IPC_STAT; struct ipc_perm: key, uid, gid, cuid, cgid
            values[1], values[2] = 100005, 100006
            assert LIBC.shmctl(shm, 1, values) == 0  # IPC_SET
            kernel.unshare(kernel.CLONE_NEWUSER)

        with held(other) as pid:
            for kind in ("uid", "gid"):
                Path(f"/proc/{pid}/{kind}_map").write_text("0 100000 10\n")
            found = ipc(pid)
            last = found.segments[-1]
            assert found.posix_queues is not None
            return last.owner.asdict(), last.inside.asdict(), found.posix_queues[0].inside.uid

    outside, inner, queue = in_child(act)
    assert outside == {"uid": 100005, "gid": 100006, "creator_uid": 0, "creator_gid": 0}
    assert inner == {"uid": 5, "gid": 6, "creator_uid": None, "creator_gid": None}
    assert queue is None


def test_ordinary_user_in_a_namespace_of_its_own(as_user: Act) -> None:
    """It joins the user namespace too, whose translation of ids is undone; it removes and limits there as well."""

    def act() -> Any:
        def enter() -> None:
            own_user_namespace()
            some_objects()

        with held(enter) as pid:
            found = ipc(pid)
            queues = found.posix_queues or ()
            owners = {
                (one.owner.uid, one.owner.gid, one.inside.uid) for one in (*found.segments, *found.queues, *queues)
            }
            refused = remove([Object("shm", found.segments[0].id), Object("mq", name="/jobs"), Object("sem", 99)], pid)
            changed = limit({"shmmni": "33"}, pid)
            after = ipc(pid)
            return (
                owners,
                (os.getuid(), os.getgid()),
                [(str(one), error.errno) for one, error in refused],
                [(c.name, c.after) for c in changed],
                [one.key for one in after.segments if not one.removed],
                [one.name for one in after.posix_queues or ()],
                after.limits["shmmni"],
                after.unread,
            )

    owners, ids, refused, changed, keys, queues, shmmni, unread = as_user(act)
    assert owners == {(*ids, 0)}
    assert refused == [("sem:99", errno.EINVAL)]
    assert changed == [("shmmni", "33")]
    assert keys == [0]
    assert queues == ["/a b\x1b"]
    assert shmmni == "33"
    assert unread == {}


def test_ordinary_user_in_the_hosts_namespace(as_user: Act) -> None:
    """What needs privilege is unknown, with the reason, and the rest is listed."""

    def act() -> Ipc:
        return ipc(os.getpid())

    found = as_user(act)
    mounted = any(" mqueue " in line for line in Path("/proc/self/mounts").read_text().splitlines())
    assert (found.posix_queues is None) != mounted
    if not mounted:
        assert "no CAP_SYS_ADMIN over the ipc namespace" in found.unread["posix_queues"]
    assert found.limits["shmmax"]
    assert len(found.segments) == len(Path("/proc/sysvipc/shm").read_text().splitlines()) - 1


@pytest.mark.needs("root")
def test_a_mounted_mqueue_serves_who_may_mount_none(in_child: Act) -> None:
    """With a note: it is that of the ipc namespace in which it was mounted; of several the last."""

    def act() -> Any:
        private_mounts()
        os.mkdir("/tmp/before")
        kernel.mount("mqueue", "/tmp/before", "mqueue")
        some_objects()
        os.mkdir("/tmp/own")
        kernel.mount("mqueue", "/tmp/own", "mqueue")

        def as_nobody() -> Any:
            os.setgroups([])
            os.setresgid(4711, 4711, 4711)
            os.setresuid(4711, 4711, 4711)
            kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
            found = ipc(os.getpid())
            return [(queue.name, queue.messages) for queue in found.posix_queues or ()], found.notes

        return in_child(as_nobody)

    queues, notes = in_child(act)
    assert queues == [("/a b\x1b", None), ("/jobs", None)]
    assert len(notes) == 1
    assert "POSIX queues are those on /tmp/own:" in notes[0]


# ---- remove ----


@pytest.mark.needs("root")
def test_objects_are_removed(in_child: Act) -> None:
    """All at once, as ipcs and the mqueue file system show afterwards; a segment that is attached is marked."""

    def act() -> Any:
        with held(some_objects) as pid:
            before = ipc(pid)
            words = [
                *(f"shm:{one.id}" for one in before.segments),
                *(f"sem:{one.id}" for one in before.semaphores),
                *(f"msg:{one.id}" for one in before.queues),
                *(f"mq:{one.name}" for one in before.posix_queues or ()),
            ]
            ran = nstool("ipc", "rm", "--in", str(pid), *words)
            after = ipc(pid)
            left = [len(rows(pid, what)) for what in "sq"]
            marked = [(one.key, one.removed, one.attached) for one in after.segments]
            again = nstool("ipc", "rm", "--in", str(pid), "sem:4711")
            return (*ran, len(words)), left, marked, after.posix_queues, inside(pid, "ipcs", "-m"), (again[2], pid)

    (status, out, err, number), left, marked, posix, text, (again, pid) = in_child(act)
    assert (status, err) == (0, "")
    assert [line.split(":")[0].split()[0] for line in out.splitlines()] == ["removed"] * number
    assert f"remedy: nstool ipc --in {pid} lists those there are" in again
    assert left == [0, 0]
    assert marked == [(0, True, 1)]
    assert posix == ()
    assert "dest" in text


@pytest.mark.needs("root")
def test_what_is_removed_is_of_that_namespace_alone(in_child: Act) -> None:
    """The same ids in the caller's namespace stay."""

    def act() -> Any:
        some_objects()
        own = Path("/proc/sysvipc/sem").read_text()
        with held(some_objects) as pid:
            refused = remove([Object("sem", 0), Object("mq", name="/jobs")], pid)
            queues = [one.name for one in ipc(os.getpid()).posix_queues or ()]
            return refused, len(ipc(pid).semaphores), Path("/proc/sysvipc/sem").read_text() == own, queues

    assert in_child(act) == ((), 0, True, ["/a b\x1b", "/jobs"])


@pytest.mark.needs("root")
def test_what_is_refused_says_why(in_child: Act) -> None:
    """What is not there, and what is another's: each object is tried, each refusal has its cause."""

    def act() -> Any:
        some_objects()
        absent = [Object(kind, 4711) for kind in ("shm", "sem", "msg")] + [Object("mq", name="/absent")]
        there = [Object(kind, 0) for kind in ("shm", "sem", "msg")] + [Object("mq", name="/jobs")]
        told = [(str(one), error.errno, error.cause) for one, error in remove(absent)]
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.setresuid(4711, 4711, 4711)
                refused = remove(there)
                os.write(writer, json.dumps([(str(one), e.errno, e.cause, e.remedy) for one, e in refused]).encode())
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        ran = nstool("ipc", "rm", "sem:4711", "sem:0", "shm:4711")
        return told, json.loads(os.read(reader, 1 << 16)), ran, len(ipc(os.getpid()).semaphores)

    told, others, ran, left = in_child(act)
    assert [(name, number) for name, number, _ in told] == [
        ("shm:4711", errno.EINVAL),
        ("sem:4711", errno.EINVAL),
        ("msg:4711", errno.EINVAL),
        ("mq:/absent", errno.ENOENT),
    ]
    assert all("there is no" in cause and "in this ipc namespace" in cause for _, _, cause in told)
    assert [(name, number) for name, number, _, _ in others] == [
        ("shm:0", errno.EPERM),
        ("sem:0", errno.EPERM),
        ("msg:0", errno.EPERM),
        ("mq:/jobs", errno.EPERM),
    ]
    assert all("is another user's" in cause and "or as root" in remedy for _, _, cause, remedy in others)
    assert ran[:2] == (125, "removed sem:0\n")
    assert ran[2].count("remedy: nstool ipc lists those there are") == 2
    assert left == 0


# ---- limits ----


@pytest.mark.needs("root")
def test_limits_are_set_there_and_nowhere_else(in_child: Act) -> None:
    """The kernel then refuses what is above them."""

    def act() -> Any:
        host = Path("/proc/sys/kernel/shmmax").read_text()
        with held(lambda: kernel.unshare(CLONE_NEWIPC)) as pid:
            ran = nstool("ipc", "limit", "--in", str(pid), "shmmax=8k", "kernel.sem=10 20 30 4", "mq_msg_max=11")
            files = ("kernel/shmmax", "kernel/sem", "fs/mqueue/msg_max")
            now = [inside(pid, "cat", f"/proc/sys/{name}").split() for name in files]
            made = subprocess.run(["nsenter", "-t", str(pid), "-i", "ipcmk", "-M", "8193"], capture_output=True)
            return ran, now, made.returncode, Path("/proc/sys/kernel/shmmax").read_text() == host

    ran, now, made, same = in_child(act)
    assert ran[0] == 0, ran
    assert ran[1].splitlines()[0].endswith(" -> 8192")
    assert now == [["8192"], ["10", "20", "30", "4"], ["11"]]
    assert made == 1
    assert same


@pytest.mark.needs("root")
def test_limits_that_the_kernel_refuses(in_child: Act) -> None:
    def act() -> Any:
        kernel.unshare(CLONE_NEWIPC)
        out = nstool("ipc", "limit", "shmmni=12", "mq_msg_max=2147483647", "msgmni=5")
        now = ipc(os.getpid()).limits
        return out, now["shmmni"], now["msgmni"] == "5"

    (status, _, err), shmmni, went_on = in_child(act)
    assert status == 125
    assert "to set mq_msg_max" in err
    assert "2147483647 is out of the range" in err
    assert (shmmni, went_on) == ("12", False)


def test_limits_that_an_ordinary_user_may_not_set(as_user: Act) -> None:
    def act() -> str:
        with pytest.raises(KernelError) as caught:
            limit({"shmmni": "12"})
        return str(caught.value)

    text = as_user(act)
    assert "to set shmmni" in text
    assert "only uid 0 of the user namespace" in text


@pytest.mark.needs("root", "native", "nsexec")
def test_limits_of_a_sandbox_are_set_by_root_of_the_host() -> None:
    """Its ipc namespace belongs to its user namespace, whose uid 0 is another than the host's."""
    with launch(Spec(command=("sleep", "60"), limits=boxes.UNLIMITED)) as sandbox:
        before = inside(sandbox.pid, "cat", "/proc/sys/kernel/shmmax")
        ran = nstool("ipc", "limit", "--in", str(sandbox.pid), "shmmax=64M", "mq_queues_max=5")
        now = inside(sandbox.pid, "cat", "/proc/sys/kernel/shmmax", "/proc/sys/fs/mqueue/queues_max").split()
        assert ran == (0, f"shmmax: {before.strip()} -> 67108864\nmq_queues_max: 256 -> 5\n", ""), ran
        assert now == ["67108864", "5"]


@pytest.mark.needs("native", "nsexec", "user", "userns", "newuidmap")
def test_limits_of_a_sandbox_are_set_by_the_user_who_made_it(as_user: Act) -> None:
    def act() -> Any:
        with launch(Spec(command=("sleep", "60"), limits=boxes.UNLIMITED)) as sandbox:
            return nstool("ipc", "limit", "--in", str(sandbox.pid), "shmmni=7")

    assert as_user(act) == (0, "shmmni: 4096 -> 7\n", "")


# ---- /dev/shm ----


@pytest.mark.needs("root")
def test_dev_shm_is_that_of_the_process(in_child: Act) -> None:
    """A tmpfs of its own; nothing in it is opened or followed."""

    def act() -> Any:
        def enter() -> None:
            private_mounts()
            kernel.mount("tmpfs", "/dev/shm", "tmpfs")
            Path("/dev/shm/plain").write_bytes(b"x" * 5000)
            os.chown("/dev/shm/plain", 100, 200)
            os.symlink("/etc/shadow", "/dev/shm/link")
            os.mkfifo("/dev/shm/fifo", 0o600)

        with held(enter) as pid:
            found = ipc(pid)
            return [
                (f.name, f.kind, f.size, f.allocated, f.owner.uid, f.owner.gid) for f in found.shm_files or ()
            ], found.notes

    files, notes = in_child(act)
    assert [file[:2] for file in files] == [("fifo", "fifo"), ("link", "symlink"), ("plain", "file")]
    assert files[2][2:] == (5000, 8192, 100, 200)
    assert notes == ()


@pytest.mark.needs("root")
@pytest.mark.parametrize("how", ["symlink out", "none", "fifo", "directory"])
def test_dev_shm_of_a_hostile_root(in_child: Act, how: str) -> None:
    """A symlink leads where it leads the process; what is no directory is none."""

    def act() -> Any:
        private_mounts()
        tmpfs("/tmp/r")
        os.makedirs("/tmp/r/dev")
        os.makedirs("/tmp/r/etc")
        Path("/tmp/r/etc/inside").touch()
        if how == "symlink out":
            os.symlink("../../../../etc", "/tmp/r/dev/shm")
        elif how == "fifo":
            os.mkfifo("/tmp/r/dev/shm")
        elif how == "directory":
            os.mkdir("/tmp/r/dev/shm")

        with held(lambda: os.chroot("/tmp/r")) as pid:
            found = ipc(pid)
            return None if found.shm_files is None else [f.name for f in found.shm_files], found.unread, found.notes

    files, unread, notes = in_child(act)
    if how in ("none", "fifo"):
        assert (files, unread) == (None, {"shm_files": "the process has no /dev/shm"})
    else:
        assert files == (["inside"] if how == "symlink out" else [])
        assert unread == {}
        assert notes == ()  # a tmpfs it is, that of the root


# ---- the command ----


@pytest.mark.needs("root")
def test_the_table_and_json(in_child: Act) -> None:
    """What is shown can be given to rm; no escape sequence of a name comes out."""

    def act() -> Any:
        with held(some_objects) as pid:
            return nstool("ipc", "--in", str(pid)), json.loads(nstool("ipc", "--in", str(pid), "--json")[1]), pid

    (status, out, err), told, pid = in_child(act)
    assert (status, err) == (0, "")
    assert "\x1b" not in out
    assert " shm:0 " in out
    assert "0x00001234" in out
    assert "mq:/jobs" in out
    assert told["pid"] == pid
    assert told["posix_queues"][0]["name"] == "/a b\x1b"
    assert told["segments"][0]["key"] == 0x1234


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rm"], "OBJECT"),
        (["rm", "shm:x"], "no id of a shared memory segment"),
        (["limit", "shmmax"], "write shmmax=VALUE"),
        (["limit", "--in", "no-such-box", "shmmni=5"], "no-such-box"),
        (["--in", "4194305"], "there is no process 4194305"),
        (["--in", "1", "rm", "shm:1"], "write the options after the word"),
        (["frobnicate"], "frobnicate"),
    ],
)
def test_bad_requests(words: list[str], message: str) -> None:
    status, out, err = nstool("ipc", *words)
    assert (status, out) == (2, "")
    assert message in err


def test_who_may_not_be_looked_into(as_user: Act) -> None:
    def act() -> list[str]:
        told = []
        for ask in (lambda: ipc(1), lambda: remove([Object("shm", 0)], 1), lambda: limit({"shmmni": "5"}, 1)):
            with pytest.raises(KernelError) as caught:
                ask()
            told.append(str(caught.value))
        return told

    for text in as_user(act):
        assert "you may not look into process 1" in text


@pytest.mark.needs("root")
def test_who_may_be_looked_into_but_not_joined(in_child: Act, user: Any) -> None:
    """A process of the same user in a namespace that root made: the message says what is missing."""

    def act() -> Any:
        def other() -> None:
            kernel.unshare(CLONE_NEWIPC)
            user.become()

        with held(other) as pid:
            user.become()
            with pytest.raises(KernelError) as caught:
                ipc(pid)
            return str(caught.value)

    text = in_child(act)
    assert f"it belongs to {os.readlink('/proc/self/ns/user')}, in which you have no CAP_SYS_ADMIN" in text


def test_ended_and_ending_processes() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(ProcessGone, match="has ended"):
        ipc(pid)
    os.waitpid(pid, 0)
    with pytest.raises(ProcessGone, match="there is no process"):
        ipc(pid)


def test_constants_are_those_of_the_calls() -> None:
    assert (IPC_CREAT, CLONE_NEWIPC) == (uapi.IPC_CREAT, uapi.CLONE_NEWIPC)
    assert syscalls.MqAttr.__fields__ == ("flags", "maxmsg", "msgsize", "curmsgs")
