"""THE catalogue of refusals: which call, which errno, a detector, the cause, the remedy, the source.

Imported when a step has failed, and by preflight. A row's sentences may have words in braces, which
its detector fills in. docs/errors.md is made of this table: ``python -m nstool.plan.hints > docs/errors.md``.
"""

from __future__ import annotations

import sys

from nstool.detectors import confining, creation, executing, files, ids, listening, mounting
from nstool.detectors.scene import Scene
from nstool.errors import errno_number
from nstool.frozen import Frozen
from nstool.plan.steps import Plan, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nstool.detectors.scene import Answer

    Detector = Callable[[Scene], Answer]

ANY = "*"  # in a row's calls: every call


class Row(Frozen):
    """One cause. calls, errnos: what it explains, as words; "*" is any call.

    detector: of nstool.detectors. cause, remedy: sentences, with {words} of the detector's answer.
    source: man page, kernel source or issue. predicts: a detector that says True before anything is
    done means that the step will fail, so preflight asks it too.
    """

    calls: tuple[str, ...]
    errnos: tuple[str, ...]
    detector: Detector
    cause: str
    remedy: str
    source: str
    predicts: bool = False

    @property
    def name(self) -> str:
        """The detector's name, which names the row."""
        return self.detector.__name__

    def explains(self, call: str, errno: int) -> bool:
        """Whether the row is about this call and errno."""
        # By number: ENOTSUP and EOPNOTSUPP are two names of one.
        return (call in self.calls or ANY in self.calls) and any(errno_number(name) == errno for name in self.errnos)


def _row(
    calls: str, errnos: str, detector: Detector, cause: str, remedy: str, source: str, predicts: bool = False
) -> Row:
    return Row(tuple(calls.split()), tuple(errnos.split()), detector, cause, remedy, source, predicts)


_MAKES = "clone3 unshare"
_MOUNTS = "mount fsopen fsconfig fsmount open_tree move_mount mount_setattr pivot_root umount2"

CREATION: tuple[Row, ...] = (
    _row(
        _MAKES,
        "EPERM",
        creation.no_privilege,
        "no user namespace is asked for, and this process has no CAP_SYS_ADMIN",
        'keep the new user namespace (namespaces.user = "new"), or run as root',
        "namespaces(7); util-linux/util-linux#3851",
        predicts=True,
    ),
    _row(
        _MAKES,
        "EPERM",
        creation.userns_sysctl,
        "ordinary users may not make user namespaces on this host: sysctl kernel.unprivileged_userns_clone is 0",
        "as root: sysctl -w kernel.unprivileged_userns_clone=1 (and in /etc/sysctl.d to keep it), or run as root",
        "Debian's kernel; nsjail#78",
        predicts=True,
    ),
    _row(
        f"{_MAKES} {_MOUNTS} write_proc sethostname setdomainname setresuid setresgid setgroups ioctl",
        "EPERM EACCES",
        creation.apparmor_userns,
        "AppArmor takes all capabilities in new user namespaces from programs that have no profile of their own: "
        "sysctl kernel.apparmor_restrict_unprivileged_userns is 1",
        'give the program a profile with "userns,", or as root: '
        "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or run as root",
        "Ubuntu 24.04; google/nsjail#236, #243",
        predicts=True,
    ),
    _row(
        _MAKES,
        "EPERM",
        creation.chrooted,
        "this process lives in a chroot, where the kernel makes no user namespace",
        "enter the tree by pivot_root (as nstool does) rather than chroot, or run outside of it",
        "user_namespaces(7), current_chrooted() in kernel/user_namespace.c",
        predicts=True,
    ),
    _row(
        ANY,
        "ENOSYS",
        creation.kernel_too_old,
        "this kernel, {release}, is older than the call, which came with {since}",
        "run a newer kernel: nstool needs Linux 5.12",
        "the call's man page",
        predicts=True,
    ),
    _row(
        ANY,
        "ENOSYS EPERM EACCES",
        creation.outer_filter,
        "a seccomp filter from outside refuses {name}: the container or service that this process runs in sets it",
        "run the outer container with --security-opt seccomp=unconfined or a profile that allows it, "
        "or take SystemCallFilter= out of the unit",
        "seccomp(2); multikernel/sandlock#47, containers/bubblewrap#505",
    ),
    _row(
        ANY,
        "EPERM EACCES",
        creation.security_module,
        "a security module (SELinux, AppArmor or Smack) may have refused it",
        "look for the refusal in the audit log: journalctl -k -g 'apparmor|avc' or ausearch -m AVC -ts recent",
        "credentials(7)",
    ),
    _row(
        _MAKES,
        "ENOSPC EUSERS EPERM",
        creation.namespace_limit_zero,
        "sysctl {limit} is 0: namespaces of this type are switched off",
        "as root: sysctl -w {limit}=10000, or share this type with the host (--share)",
        "namespaces(7), /proc/sys/user",
        predicts=True,
    ),
    _row(
        _MAKES,
        "ENOSPC EUSERS",
        creation.namespace_limit_reached,
        "a limit of user.max_*_namespaces is reached, here or in an outer user namespace ({limit} allows {allowed})",
        "end what holds namespaces (lsns lists it), or raise the limit as root: sysctl -w {limit}=NUMBER",
        "namespaces(7), /proc/sys/user",
    ),
    _row(
        _MAKES,
        "ENOSPC EUSERS",
        creation.nested_too_deep,
        "user or pid namespaces are nested more than 32 deep",
        "run nstool further outside",
        "user_namespaces(7), pid_namespaces(7)",
    ),
    _row(
        f"{_MAKES} spawn external setresuid execve",
        "EAGAIN",
        creation.process_limit,
        "uid {uid} has {used} processes and threads and needs {needed} more, and its RLIMIT_NPROC is {limit}",
        "end some, or raise the limit: ulimit -u, /etc/security/limits.conf, LimitNPROC= of a unit",
        "getrlimit(2), RLIMIT_NPROC",
        predicts=True,
    ),
    _row(
        "clone3",
        "EAGAIN",
        creation.sandbox_process_limit,
        "RLIMIT_NPROC is {limit}, and init and the command are two processes in a user namespace of their own, where "
        "no capability of the caller lifts it",
        "raise the limit to 2 at least: ulimit -u, /etc/security/limits.conf, LimitNPROC= of a unit",
        "getrlimit(2), RLIMIT_NPROC; user_namespaces(7)",
        predicts=True,
    ),
    _row(
        f"{_MAKES} spawn external",
        "EAGAIN",
        creation.pids_limit,
        "the cgroup {cgroup} has as many tasks as its pids.max allows ({allowed})",
        "raise pids.max there (TasksMax= of the unit), or end what runs in it",
        "cgroups(7), pids controller",
        predicts=True,
    ),
    _row(
        "clone3",
        "EAGAIN",
        creation.sandbox_pids_limit,
        "limits.pids is {allowed}, and init and the command need one task each",
        "raise limits.pids (--pids) to 2 at least",
        "cgroups(7), pids controller",
        predicts=True,
    ),
    _row(
        f"{_MAKES} spawn external",
        "EAGAIN",
        creation.host_task_limit,
        "the host has as many tasks as {limit} allows ({allowed})",
        "end some, or as root: sysctl -w {limit}=NUMBER",
        "proc_sys_kernel(5)",
    ),
    _row(
        ANY,
        "ENOMEM",
        creation.out_of_memory,
        "this host has {available} MiB of memory left",
        "free memory, or run fewer sandboxes",
        "proc_meminfo(5)",
    ),
    _row(
        "clone3 spawn",
        "ENOMEM",
        creation.pidns_dead,
        "the pid namespace that the new process would be in has lost {what}: nothing can be made in it any more",
        "join another pid namespace, or make a new one",
        "pid_namespaces(7), section on the init process",
        predicts=True,
    ),
    _row(
        ANY,
        "EMFILE",
        creation.fd_limit,
        "this process has as many files open as its RLIMIT_NOFILE allows ({limit})",
        "close some, or raise the limit: ulimit -n, LimitNOFILE= of a unit",
        "getrlimit(2), RLIMIT_NOFILE",
    ),
    _row(
        ANY,
        "EMFILE",
        creation.spec_fd_limit,
        "limits.rlimits.nofile, which is {limit}, holds already, and leaves no room for the fds of this step",
        "raise it by some (--rlimit nofile=NUMBER): Landlock's rules take four or more",
        "getrlimit(2), RLIMIT_NOFILE",
    ),
    _row(
        ANY,
        "ENFILE",
        creation.host_fd_limit,
        "the host has as many files open as fs.file-max allows ({allowed})",
        "as root: sysctl -w fs.file-max=NUMBER",
        "proc_sys_fs(5)",
    ),
    _row(
        ANY,
        "EFBIG",
        creation.file_size_limit,
        "its RLIMIT_FSIZE lets this process make no file larger than {limit} bytes, on disk or in memory",
        "raise the limit: ulimit -f, LimitFSIZE= of a unit",
        "getrlimit(2), RLIMIT_FSIZE",
    ),
    _row(
        f"{_MAKES} setns",
        "EINVAL",
        creation.type_not_built,
        "this kernel has no {type} namespaces (built without {option})",
        "share it with the host (--share {type}), or run a kernel with {option}",
        "namespaces(7)",
        predicts=True,
    ),
    _row(
        "clone3",
        "EEXIST",
        creation.pid_taken,
        "pid {pid}, which next_pid asks for, belongs to {holder}",
        "choose another next_pid, or 0 for the kernel's choice",
        "clone(2), set_tid",
        predicts=True,
    ),
    _row(
        "clone3",
        "EPERM",
        creation.set_tid_not_allowed,
        "choosing a pid needs CAP_CHECKPOINT_RESTORE in the user namespace that owns the pid namespace",
        'keep a new pid namespace beside the new user namespace (namespaces.pid = "new"), or leave next_pid out',
        "clone(2), set_tid",
        predicts=True,
    ),
    _row(
        "clone3",
        "EINVAL",
        creation.set_tid_too_high,
        "next_pid {pid} is not below kernel.pid_max, {highest}",
        "choose a smaller one",
        "clone(2), set_tid",
        predicts=True,
    ),
    _row(
        "clone3",
        "ENODEV ENOENT",
        creation.cgroup_gone,
        "the cgroup {cgroup} has been removed meanwhile, by somebody else",
        "start the sandbox again; keep other cgroup managers out of nstool's cgroups",
        "clone(2), CLONE_INTO_CGROUP",
    ),
    _row(
        "clone3",
        "EBUSY",
        creation.cgroup_has_controllers,
        "the cgroup {cgroup} has controllers switched on for its children ({controllers}), so it takes no process",
        "switch them off in its cgroup.subtree_control, or choose another cgroup",
        "cgroups(7), no internal processes rule; clone(2), CLONE_INTO_CGROUP",
    ),
    _row(
        "clone3",
        "EACCES",
        creation.cgroup_not_delegated,
        "{cgroup}/cgroup.procs is not yours to write, which is needed to put a process into a cgroup below",
        "start in a cgroup that is delegated to you: systemd-run --user --scope -p Delegate=yes nstool run ...",
        "cgroups(7), cgroup delegation; lxc/lxc#4347",
    ),
    _row(
        "exec_init memfd_create",
        "EACCES",
        creation.memfd_noexec,
        "this host does not execute what lies in memory: sysctl vm.memfd_noexec is {value}",
        "as root: sysctl -w vm.memfd_noexec=0, or make a pid namespace in which it is 0 and run nstool there",
        "memfd_create(2), MFD_NOEXEC_SEAL",
        predicts=True,
    ),
    _row(
        "write_file write",
        "ERANGE",
        creation.timens_offset_range,
        "{offset} s take the {clock} clock, now at {uptime} s, below zero",
        "choose an offset that leaves it positive",
        "time_namespaces(7)",
        predicts=True,
    ),
    _row(
        "setns",
        "EINVAL",
        creation.not_a_namespace,
        "{path} is {is}, not a {type} namespace",
        "name a file such as /proc/PID/ns/{type}; lsns -t {type} lists them",
        "setns(2)",
        predicts=True,
    ),
    _row(
        "setns",
        "EPERM",
        creation.owned_elsewhere,
        "joining {path} takes CAP_SYS_ADMIN in the user namespace that it belongs to, and in one's own",
        "{do}",
        "setns(2), user_namespaces(7); systemd/systemd#36363",
        predicts=True,
    ),
    _row(
        "setns",
        "EINVAL",
        creation.own_userns_joined,
        "the user namespace to join is the one that this process lives in already",
        'leave namespaces.user at "host"',
        "setns(2)",
        predicts=True,
    ),
    _row(
        "openat2",
        "ENOENT ESRCH ENOTDIR",
        creation.namespace_gone,
        "{path} is not there: no such process, or no such named namespace",
        "lsns and ip netns list those that there are",
        "namespaces(7)",
        predicts=True,
    ),
    _row(
        "openat2",
        "EACCES",
        creation.process_hidden,
        "you may not look into process {pid}: {why}, ptrace(2)",
        "{do}",
        "ptrace(2), access mode check",
        predicts=True,
    ),
)

IDS: tuple[Row, ...] = (
    _row(
        "write_proc",
        "EPERM",
        ids.map_written_twice,
        "the map has been written before: it can be written once",
        "write all ranges at once",
        "user_namespaces(7); google/nsjail#97",
        predicts=True,
    ),
    _row(
        "write_proc",
        "EPERM",
        ids.map_needs_privilege,
        "without {capability} an ordinary user maps nothing but the own id, {own}, in one line of one id",
        "map that id alone, or install newuidmap and newgidmap (package uidmap) with ranges in /etc/subuid, "
        "/etc/subgid, or run as root",
        "user_namespaces(7), defining mappings",
        predicts=True,
    ),
    _row(
        "write_proc",
        "EPERM",
        ids.setgroups_not_denied,
        "without CAP_SETGID gid_map is taken only after deny has been written to setgroups",
        "let nstool choose the maps (leave uid_map and gid_map out)",
        "user_namespaces(7), /proc/PID/setgroups",
        predicts=True,
    ),
    _row(
        "write_proc",
        "EPERM",
        ids.setgroups_too_late,
        "setgroups cannot be denied any more once gid_map has been written",
        "deny it first",
        "user_namespaces(7), /proc/PID/setgroups",
        predicts=True,
    ),
    _row(
        "write_proc",
        "EPERM",
        ids.map_of_root,
        "host uid 0 is in the map, and this process has no CAP_SETFCAP",
        "leave host id 0 out of the map, or give CAP_SETFCAP",
        "user_namespaces(7), Linux 5.12",
        predicts=True,
    ),
    _row(
        "write_proc",
        "EPERM",
        ids.map_outside_own,
        "{file} names host ids {first} to {last}, which this process's own user namespace does not have",
        "choose ids that /proc/self/{file} has: an outer container gives these only",
        "user_namespaces(7); containers/podman#3421",
        predicts=True,
    ),
    _row(
        "write_proc",
        "EINVAL",
        ids.map_malformed,
        "{problem}",
        "correct uid_map and gid_map in the spec",
        "user_namespaces(7), defining mappings",
        predicts=True,
    ),
    _row(
        "write_proc write_file spawn",
        "EPERM ENOENT EACCES",
        ids.hidepid,
        "/proc is mounted with {option}, so the new process's files are not to be seen",
        "run as root, join the group of its gid= option, or as root: mount -o remount,hidepid=0 /proc",
        "proc(5), hidepid; containers/bubblewrap#198",
    ),
    _row(
        "write_proc write_file",
        "EACCES EPERM",
        ids.not_dumpable,
        "this process is not dumpable (it has changed ids, or runs a file that it cannot read), "
        "so root owns its files in /proc",
        "start nstool afresh from a shell, or call prctl(PR_SET_DUMPABLE, 1) before",
        "PR_SET_DUMPABLE(2const)",
        predicts=True,
    ),
    _row(
        "write_proc",
        "ESRCH",
        ids.child_gone,
        "the new process had ended by then, killed from outside",
        "look at dmesg for the OOM killer, and start it again",
        "proc(5)",
    ),
    _row(
        "spawn",
        "ENOENT EPERM",
        ids.helper_missing,
        "{helper} is not there",
        "install it (package uidmap or shadow-utils), or map your own id alone",
        "newuidmap(1); containers/crun#346",
        predicts=True,
    ),
    _row(
        "spawn",
        "EPERM",
        ids.helper_not_setuid,
        "{helper} is neither set-user-ID root nor has file capabilities",
        "as root: chmod u+s {helper}, or setcap cap_setuid=ep (newuidmap) and cap_setgid=ep (newgidmap)",
        "newuidmap(1); containers/podman#12637",
        predicts=True,
    ),
    _row(
        "spawn",
        "EPERM",
        ids.helper_nosuid,
        "{helper} lies on a mount with nosuid, so it gains no privilege",
        "put it on a mount without nosuid, or map your own id alone",
        "mount(8), nosuid",
        predicts=True,
    ),
    _row(
        "spawn",
        "EPERM",
        ids.helper_no_new_privs,
        "this process has no_new_privs, so set-user-ID helpers gain no privilege",
        "start nstool outside of what set it (NoNewPrivileges= of a unit, an outer sandbox), or map your own id alone",
        "PR_SET_NO_NEW_PRIVS(2const)",
        predicts=True,
    ),
    _row(
        "spawn",
        "EPERM",
        ids.ids_not_subordinate,
        "{file} gives user {user} no range with {range}",
        "as root: usermod --add-subuids FIRST-LAST --add-subgids FIRST-LAST {user}, or map your own id alone",
        "subuid(5), newuidmap(1); containers/podman#3421",
        predicts=True,
    ),
    _row(
        "spawn",
        "EPERM",
        ids.user_has_no_account,
        "uid {uid} has no account, and newuidmap wants one",
        "add it to /etc/passwd, or map the own id alone",
        "newuidmap(1)",
        predicts=True,
    ),
    _row(
        "spawn",
        "EPERM",
        ids.helper_killed,
        "the helper was ended by signal {signal}",
        "look at dmesg for why",
        "newuidmap(1)",
    ),
    _row(
        "setresuid setresgid setgroups fchownat",
        "EINVAL",
        ids.id_not_mapped,
        "id {id} is not in the {map} of the user namespace",
        "map it, or choose another user (--user) and other groups",
        "user_namespaces(7), setresuid(2)",
        predicts=True,
    ),
    _row(
        "setgroups",
        "EPERM",
        ids.setgroups_denied,
        "setgroups(2) is denied in this user namespace, for good",
        'keep the groups (groups = ["keep"]), or map several ids by newgidmap, which leaves setgroups allowed',
        "user_namespaces(7), /proc/PID/setgroups",
        predicts=True,
    ),
    _row(
        "setgroups",
        "EPERM",
        ids.joined_setgroups_denied,
        "setgroups(2) is denied in the user namespace that is joined",
        'keep the groups (groups = ["keep"])',
        "user_namespaces(7); util-linux/util-linux#1006",
        predicts=True,
    ),
    _row(
        "setresuid setresgid setgroups",
        "EPERM",
        ids.ids_need_capability,
        "without a user namespace of its own a change of ids needs {capability}",
        'keep namespaces.user = "new", or run as root',
        "setresuid(2), setgroups(2)",
        predicts=True,
    ),
    _row(
        "mkdirat mknodat symlinkat write_file openat2",
        "EOVERFLOW",
        ids.fsid_not_mapped,
        "who makes it has ids that the user namespace has no number for",
        "put id 0 into uid_map and gid_map, or choose a root that has all directories",
        "user_namespaces(7); containers/bubblewrap#518",
    ),
    _row(
        "capset prctl raise_ambient",
        "EPERM",
        ids.not_permitted,
        "this process does not have {capabilities}, and without a new user namespace nothing gives it",
        'keep namespaces.user = "new", or run as root',
        "capabilities(7), capset(2)",
        predicts=True,
    ),
    _row(
        "capset raise_ambient",
        "EPERM",
        ids.not_in_bounding,
        "{capabilities} is outside of this process's bounding set",
        "leave it out of capabilities.inheritable, or start nstool where the bounding set has it",
        "capabilities(7), bounding set",
        predicts=True,
    ),
    _row(
        "drop_bounding prctl",
        "EPERM",
        ids.no_setpcap,
        "bounding set and securebits need CAP_SETPCAP, which this process has not",
        'keep namespaces.user = "new", or run as root',
        "capabilities(7)",
        predicts=True,
    ),
    _row(
        "prctl",
        "EPERM",
        ids.securebits_locked,
        "this process's securebits ({have}) are locked in another state",
        "start nstool outside of what locked them, or ask for no other securebits",
        "capabilities(7), securebits",
        predicts=True,
    ),
)

MOUNTING: tuple[Row, ...] = (
    _row(
        "open_tree mount openat2",
        "ENOENT ENOTDIR",
        mounting.source_missing,
        "{path} is not on this host ({missing} is missing)",
        "make it, or correct the spec",
        "open_tree(2)",
        predicts=True,
    ),
    _row(
        "open_tree mount openat2",
        "ELOOP",
        mounting.source_loop,
        "symlinks on the way to the source lead in a circle",
        "name a path without the circle",
        "path_resolution(7)",
        predicts=True,
    ),
    _row(
        "open_tree mount openat2",
        "EACCES ENOENT",
        mounting.source_closed,
        "{directory}, above {path}, cannot be searched by uid {uid}",
        "chmod o+x {directory}, or take a source elsewhere",
        "path_resolution(7)",
        predicts=True,
    ),
    _row(
        "open_tree mount",
        "EINVAL",
        mounting.source_unbindable,
        "{point} is an unbindable mount",
        "mount --make-private {point}, or take another source",
        "mount_namespaces(7), MS_UNBINDABLE",
        predicts=True,
    ),
    _row(
        "open_tree mount",
        "EINVAL EPERM",
        mounting.source_locked,
        "{path} has mounts below it ({below}) that a user namespace may not uncover",
        "bind it with them: recursive = true",
        "mount_namespaces(7), locked mounts",
        predicts=True,
    ),
    _row(
        "openat2",
        "ENOENT",
        mounting.target_missing,
        "{missing} is not in the sandbox's root (on the host: {host})",
        'make it in the root, or take a root in which nstool makes it: root.type "tmpfs" or "overlay", '
        "or a target below /tmp, /run or /var/tmp",
        "openat2(2)",
        predicts=True,
    ),
    _row(
        "openat2",
        "ELOOP",
        mounting.target_symlink,
        "{link} is a symlink to {to}, and no symlink is followed where something is mounted",
        "name the path that it leads to, {real}, or make {link} a directory of the root",
        "openat2(2), RESOLVE_NO_SYMLINKS",
        predicts=True,
    ),
    _row(
        "openat2 mkdirat mknodat symlinkat write_file",
        "ENOTDIR",
        mounting.target_not_directory,
        "{file} is no directory, so nothing is below it",
        "correct the target, or make {file} a directory of the root",
        "openat2(2)",
        predicts=True,
    ),
    _row(
        "openat2",
        "EACCES",
        executing.directory_closed,
        "{directory} cannot be searched by host uid {uid}, which the sandbox's root is",
        "chmod o+x it, or use an id-mapped root (root.idmap = true, --root-idmap)",
        "path_resolution(7)",
    ),
    _row(
        "fchdir",
        "EACCES",
        executing.root_closed,
        "{directory} cannot be searched by host uid {uid}, which the sandbox's root is",
        "chmod o+x it, or use an id-mapped root (root.idmap = true)",
        "path_resolution(7)",
    ),
    _row(
        "move_mount",
        "EINVAL ENOTDIR",
        mounting.kinds_differ,
        "the source is {source} and {target} is {is}: a mount covers its like",
        "mount a file on a file and a directory on a directory",
        "mount(2), move_mount(2)",
        predicts=True,
    ),
    _row(
        "move_mount mount open_tree",
        "ENOSPC",
        mounting.mount_limit,
        "the mount namespace would have more mounts than fs.mount-max allows ({most}; {count} are the host's)",
        "as root: sysctl -w fs.mount-max=NUMBER, or bind without recursion",
        "proc_sys_fs(5)",
    ),
    _row(
        "mount move_mount",
        "EINVAL",
        mounting.target_shared,
        "{target} lies on a shared mount ({point}), where a mount namespace cannot be pinned",
        "bind its directory to itself and make it private: mount --bind DIR DIR; mount --make-private DIR",
        "unshare(1); mount_namespaces(7)",
        predicts=True,
    ),
    _row(
        "mount umount2",
        "EINVAL",
        mounting.not_a_mount_point,
        "what is to be changed is no mount point here; in a chroot not even / is one",
        "run outside the chroot, or bind the directory on itself first",
        "mount(2)",
        predicts=True,
    ),
    _row(
        "fsopen mount",
        "ENODEV",
        mounting.filesystem_absent,
        "this kernel has no {fstype}: it is not in /proc/filesystems, and no module could be loaded",
        "as root: modprobe {fstype}, or run a kernel with it",
        "filesystems(5)",
    ),
    _row(
        "fsmount fsconfig mount",
        "EPERM",
        mounting.proc_too_revealing,
        "{what}, and the kernel gives a user namespace no fresh /proc that would uncover it",
        'run the outer container with --security-opt unmask=ALL, or use proc = "bind"',
        "mount_too_revealing() in fs/namespace.c; containers/bubblewrap#738",
        predicts=True,
    ),
    _row(
        "fsmount fsconfig mount",
        "EPERM",
        mounting.proc_of_foreign_pidns,
        "a fresh /proc needs a new pid namespace beside the new user namespace",
        'namespaces.pid = "new", or proc = "bind"',
        "proc(5); containers/bubblewrap#284",
        predicts=True,
    ),
    _row(
        "fsopen fsmount fsconfig mount",
        "EPERM",
        mounting.sysfs_of_foreign_netns,
        "a fresh /sys needs a new network namespace beside the new user namespace",
        'namespaces.net = "new", or bind /sys',
        "sysfs(5); opencontainers/runc#3970",
        predicts=True,
    ),
    _row(
        "fsmount fsconfig mount",
        "EPERM",
        mounting.sysfs_too_revealing,
        "{what}, and the kernel gives a user namespace no fresh /sys that would uncover it",
        "bind /sys instead",
        "mount_too_revealing() in fs/namespace.c; opencontainers/runc#3970",
        predicts=True,
    ),
    _row(
        "fsmount fsconfig mount",
        "EPERM EACCES",
        mounting.mqueue_of_foreign_ipcns,
        "an mqueue filesystem needs a new ipc namespace beside the new user namespace",
        'namespaces.ipc = "new"',
        "mq_overview(7)",
        predicts=True,
    ),
    _row(
        "fsconfig mount",
        "EINVAL",
        mounting.option_id_unmapped,
        "{option} is not in the {map} of the user namespace",
        "map that id, or leave the option out",
        "user_namespaces(7); containers/crun#166",
        predicts=True,
    ),
    _row(
        "fsconfig mount",
        "EINVAL",
        mounting.joined_option_id_unmapped,
        "{option} is not in the {map} of the user namespace that is joined",
        'map that id there, or where it is that of the terminals: dev = "nodes" (--dev nodes), which has none',
        "user_namespaces(7); devpts in Documentation/filesystems/devpts.rst",
        predicts=True,
    ),
    _row(
        "fsconfig mount",
        "EINVAL",
        mounting.proc_option_unknown,
        "this kernel's proc does not know {option}, which came with Linux 5.8",
        'hidepid = "off" and no proc_subset, or a newer kernel',
        "proc(5)",
        predicts=True,
    ),
    _row(
        "fsconfig mount",
        "EINVAL EPERM EOPNOTSUPP",
        mounting.overlay_upper_unfit,
        "{path} lies on {fstype}, which overlayfs does not take as upper layer",
        "put root.upper on a filesystem such as ext4, xfs, btrfs or tmpfs",
        "Documentation/filesystems/overlayfs.rst",
        predicts=True,
    ),
    _row(
        "fsconfig mount",
        "ELOOP",
        mounting.overlay_layers_overlap,
        "the layer {inner} lies in the layer {outer}, and overlayfs takes no directory twice",
        "leave one of them out",
        "ovl_check_layer() in fs/overlayfs/super.c",
    ),
    _row(
        "fsopen fsconfig fsmount mount",
        "EPERM EINVAL",
        mounting.overlay_in_userns,
        "user namespaces mount overlayfs since Linux 5.11 only",
        "run a newer kernel, or another root.type",
        "Linux 5.11, Documentation/filesystems/overlayfs.rst",
        predicts=True,
    ),
    _row(
        "fsopen fsconfig fsmount mount",
        "EPERM",
        mounting.filesystem_not_in_userns,
        "a user namespace may not mount {fstype}",
        "mount it on the host and bind it",
        "user_namespaces(7), FS_USERNS_MOUNT",
        predicts=True,
    ),
    _row(
        "fsconfig",
        "EINVAL",
        mounting.option_value,
        "{fstype} does not take the option {option}",
        "correct the value in the spec",
        "fsconfig(2)",
    ),
    _row(
        _MOUNTS,
        "EPERM",
        mounting.no_mount_privilege,
        "mounting needs CAP_SYS_ADMIN, which this process has not",
        'keep namespaces.user = "new", or run as root',
        "mount(2), mount_namespaces(7)",
        predicts=True,
    ),
    _row(
        "mount_setattr",
        "EINVAL",
        mounting.idmap_not_supported,
        "{fstype}, mounted on {point}, has no id-mapped mounts",
        "bind without idmap, or without what is mounted below (recursive = false)",
        "mount_setattr(2), MOUNT_ATTR_IDMAP",
        predicts=True,
    ),
    _row(
        "mount_setattr",
        "EPERM",
        mounting.idmap_needs_privilege,
        "mapping the ids of a mount needs CAP_SYS_ADMIN over its filesystem, which belongs to the host",
        "run as root, or bind without idmap",
        "mount_setattr(2), MOUNT_ATTR_IDMAP",
        predicts=True,
    ),
    _row(
        "mount_setattr",
        "EPERM",
        mounting.idmapped_already,
        "{point} is id-mapped already, which can be done once",
        "take the source from before it was mapped",
        "mount_setattr(2), MOUNT_ATTR_IDMAP",
        predicts=True,
    ),
    _row(
        "mount_setattr mount",
        "EPERM",
        mounting.locked_flags,
        "{point} has {flags}, which is locked: it came with the mount from outside",
        "leave {flags} on, or run as root without a user namespace of its own",
        "mount_namespaces(7), locked flags; opencontainers/runc#4734",
        predicts=True,
    ),
    _row(
        "pivot_root",
        "EINVAL",
        mounting.root_is_rootfs,
        "the root of this host is the initial ramfs, which cannot be pivoted away",
        "switch to a real root first: switch_root(8)",
        "pivot_root(2)",
        predicts=True,
    ),
    _row(
        "mkdirat mknodat symlinkat write_file",
        "EROFS",
        mounting.root_read_only,
        "{path} is read-only in the sandbox's root",
        "make it in the root beforehand, or root.writable = true (--writable)",
        "mount_setattr(2)",
    ),
    _row(
        "mkdirat",
        "EACCES",
        mounting.upper_not_writable,
        "the upper layer {path} is not writable for host uid {uid}, which the sandbox's root is",
        "take a directory of your own, and leave uid_map and gid_map out: then the sandbox's root is you there",
        "path_resolution(7), Documentation/filesystems/overlayfs.rst",
        predicts=True,
    ),
    _row(
        "mkdirat mknodat symlinkat write_file",
        "EACCES EPERM",
        mounting.root_not_writable,
        "{path} ({host} on the host) is not writable for host uid {uid}, which the sandbox's root is",
        "make it in the root beforehand, or use an id-mapped root (root.idmap = true, --root-idmap)",
        "path_resolution(7)",
    ),
    _row(
        "mknodat",
        "EPERM",
        mounting.no_mknod,
        "device nodes are made with CAP_MKNOD in the first user namespace, which this process has not",
        "give CAP_MKNOD to the outer container, or run nstool as an ordinary user, where it binds the host's nodes",
        "mknod(2), user_namespaces(7)",
        predicts=True,
    ),
    _row(
        "mknodat",
        "EPERM",
        mounting.device_cgroup,
        "the devices cgroup of this process does not let it make device {device}",
        'allow "c {device} m" in its devices.allow',
        "Documentation/admin-guide/cgroup-v1/devices.rst",
        predicts=True,
    ),
)

FILES: tuple[Row, ...] = (
    _row(
        "write_file",
        "EBUSY",
        files.inner_processes,
        "processes ({pids}) live in {cgroup}, and controllers are not switched on for the children of such a cgroup",
        "move them into a child of it first: systemd-run --user --scope -p Delegate=yes nstool run ...",
        "cgroups(7), no internal processes rule; google/nsjail#196",
        predicts=True,
    ),
    _row(
        "write_file",
        "ENOENT EINVAL",
        files.controller_not_delegated,
        "{cgroup} does not have {controllers}: its parent has not switched it on",
        'systemctl edit user@.service, "[Service] Delegate=cpu cpuset io memory pids", then log in again',
        "cgroups(7); containers/crun#704",
        predicts=True,
    ),
    _row(
        "write_file openat2",
        "ENOENT EINVAL EBUSY",
        files.controller_in_version1,
        "{controllers} is used by a hierarchy of cgroup version 1 on this host, so version 2 does not have it",
        "boot with systemd.unified_cgroup_hierarchy=1, or let nstool use version 1 (it finds it by itself)",
        "cgroups(7); google/nsjail#219",
        predicts=True,
    ),
    _row(
        "write_file openat2",
        "ENOENT EINVAL",
        files.controller_absent,
        "this kernel has no {controllers} controller, or it is switched off at boot (cgroup_disable=)",
        "run without that limit, or boot without cgroup_disable=",
        "cgroups(7); ioi/isolate#153",
        predicts=True,
    ),
    _row(
        "write_file openat2",
        "ENOENT",
        files.cgroup_file_missing,
        "cgroups in {cgroup} have no {file}: its controller is not switched on in {cgroup}/cgroup.subtree_control",
        "switch it on there, or run without that limit",
        "cgroups(7)",
    ),
    _row(
        "mkdirat",
        "EAGAIN",
        files.cgroup_depth,
        "{cgroup}/{file} is {allowed}, so no more cgroups are made below it",
        "raise it, or remove cgroups that nobody uses",
        "cgroups(7), cgroup.max.depth",
        predicts=True,
    ),
    _row(
        "write write_file",
        "ENOSPC",
        files.cpuset_empty,
        "{cgroup} has an empty {file}, so it takes no process",
        "write to it what its parent has, or set cgroup.clone_children there",
        "cpuset(7); ioi/isolate#24",
    ),
    _row(
        "write_file",
        "EBUSY EINVAL",
        files.limit_below_use,
        "the limit is below what the cgroup uses already",
        "raise limits.memory",
        "Documentation/admin-guide/cgroup-v1/memory.rst",
    ),
    _row(
        "write_file",
        "EINVAL ERANGE",
        files.cgroup_value,
        "the kernel does not take {value} for {file}",
        "choose another limit",
        "cgroups(7)",
    ),
    _row(
        "mkdirat openat2 write_file unlinkat",
        "ENOENT ENOTDIR",
        files.parent_missing,
        "{directory} is not there",
        "make it, or start the sandbox again if somebody removed it meanwhile",
        "path_resolution(7)",
        predicts=True,
    ),
    _row(
        "mkdirat symlinkat unlinkat",
        "EACCES EPERM",
        files.not_writable,
        "{directory} is not yours to write in",
        "for a cgroup: start in one that is delegated to you "
        "(systemd-run --user --scope -p Delegate=yes nstool run ...), or without limits: --memory 0 --pids 0 --cpu 0",
        "path_resolution(7), cgroups(7); containers/crun#223",
        predicts=True,
    ),
    _row(
        "mkdirat symlinkat unlinkat write_file mknodat",
        "EROFS",
        files.read_only_host,
        "{directory} is mounted read-only, as outer containers do with /sys/fs/cgroup",
        "mount it writable (--privileged or a cgroup namespace for the outer container), or run without limits",
        "mount(8), ro",
        predicts=True,
    ),
    _row(
        "openat2 write_file",
        "EACCES EPERM",
        files.not_ours_to_open,
        "{path} is not yours to open so",
        "run as root, or as the file's owner",
        "path_resolution(7)",
    ),
    _row(
        "mkdirat symlinkat mknodat",
        "EEXIST",
        files.already_there,
        "{path} is there already",
        "`nstool cleanup` removes what a dead launcher has left; anything else is somebody else's",
        "mkdir(2)",
        predicts=True,
    ),
    _row(
        "mkdirat symlinkat mknodat write_file",
        "ENOSPC EDQUOT",
        files.no_space,
        "the filesystem of {directory} has no free block or inode",
        "make room there",
        "statvfs(3)",
    ),
    _row(
        "write_file",
        "ENOENT",
        files.sysctl_absent,
        "this kernel has no sysctl {name} (a module may be missing)",
        "correct its name, or load the module that brings it",
        "sysctl(8)",
        predicts=True,
    ),
    _row(
        "write_file",
        "EACCES EPERM ENOENT",
        files.sysctl_not_namespaced,
        "sysctl {name} belongs to the host: a namespace has none of its own, or may not write it",
        "set it on the host as root, or leave it out",
        "namespaces(7), sysctl(8)",
    ),
    _row(
        "write_file",
        "EINVAL ERANGE EDOM",
        files.sysctl_value,
        "the kernel does not take {value} for sysctl {name}",
        "choose a value in its range",
        "sysctl(8)",
    ),
    _row(
        "write_file",
        "EROFS EACCES",
        files.proc_sys_read_only,
        "/proc/sys is mounted read-only here, as outer containers do",
        "run the outer container with --security-opt unmask=ALL, or leave sysctls out; what each user may have is one "
        'too: limits.ucounts = { inotify_instances = "unlimited", inotify_watches = "unlimited" }',
        "proc(5)",
    ),
    _row(
        "write_file write_proc",
        "EACCES",
        files.oom_score_lower,
        "without CAP_SYS_RESOURCE the score does not fall below what a privileged process has set: "
        "this process has {own}, and {wanted} is asked for",
        "oom_score_adj = {own} or more",
        "proc_pid_oom_score_adj(5)",
    ),
    _row(
        "setrlimit",
        "EPERM",
        files.hard_limit,
        "the hard limit of {limit} is {own}, and CAP_SYS_RESOURCE on the host would be needed to raise it",
        "ask for no more, or raise it before: ulimit -H, /etc/security/limits.conf, Limit...= of a unit",
        "getrlimit(2)",
        predicts=True,
    ),
    _row(
        "setrlimit",
        "EPERM",
        files.above_nr_open,
        "fs.nr_open lets nobody have more than {most} open files",
        "ask for no more, or as root: sysctl -w fs.nr_open=NUMBER",
        "getrlimit(2), proc_sys_fs(5)",
        predicts=True,
    ),
    _row(
        "setrlimit",
        "EINVAL",
        files.soft_above_hard,
        "the soft limit is above the hard one",
        "lower the soft limit",
        "getrlimit(2)",
        predicts=True,
    ),
    _row(
        "keyctl",
        "EDQUOT",
        files.key_quota,
        "uid {uid} has all the {what} that it may have ({most})",
        'raise kernel.keys.maxkeys or maxbytes, or keyring = "keep"',
        "keyrings(7), /proc/key-users",
    ),
    _row(
        "keyctl",
        "ENOSYS EOPNOTSUPP",
        files.keys_absent,
        "this kernel has no keyrings (built without CONFIG_KEYS)",
        'keyring = "keep"',
        "keyrings(7)",
        predicts=True,
    ),
    _row(
        "seccomp",
        "EINVAL ENOSYS",
        files.seccomp_absent,
        "this kernel has no seccomp filters (built without CONFIG_SECCOMP_FILTER)",
        'seccomp = "none", or another kernel',
        "seccomp(2)",
        predicts=True,
    ),
    _row(
        "seccomp",
        "EACCES",
        files.filter_without_privilege,
        "a filter needs no_new_privs, or CAP_SYS_ADMIN in the user namespace",
        "keep no_new_privs",
        "seccomp(2)",
        predicts=True,
    ),
    _row(
        "seccomp",
        "EBUSY",
        files.listener_outside,
        "this process has a filter with a listener already, from an outer container, and there is one at most: so init "
        "cannot be asked for sysinfo(2)",
        'show the host\'s memory: proc_show = ["meminfo"] (--proc-show meminfo)',
        "seccomp_unotify(2)",
    ),
    _row(
        "seccomp",
        "ENOTSUPP",
        files.no_room_for_filters,
        "the memory for compiled filters, which this host has for all that have no CAP_BPF ({most}), is used up by "
        "filters of other processes",
        "end who attaches so many, or as root: sysctl -w net.core.bpf_jit_limit=BYTES (more)",
        "Documentation/admin-guide/sysctl/net.rst; bpf_jit_charge_modmem() in kernel/bpf/core.c",
    ),
    _row(
        "wait release send_fd",
        "EPIPE ECONNRESET",
        files.other_end_gone,
        "the other process of the launch was killed from outside",
        "look at dmesg for the OOM killer, and start it again",
        "unix(7)",
    ),
    _row(
        "renameat2 rename link linkat",
        "EXDEV",
        files.same_filesystem,
        "both paths lie on one mount, so Landlock refuses: a rule lacks LANDLOCK_ACCESS_FS_REFER",
        "allow REFER in every ruleset of the process, or copy and remove",
        "landlock(7); Zouuup/landrun#48",
    ),
)

EXECUTING: tuple[Row, ...] = (
    _row(
        "execve",
        "ENOENT",
        executing.command_on_host_only,
        "{command} is on this host as {path}, and not in the command's root",
        'bind it when the sandbox is made, with what it needs: mounts = ["{real}:{path}"] (--mount {real}:{path})',
        "execve(2)",
        predicts=True,
    ),
    _row(
        "execve chdir",
        "ENOENT",
        executing.covered,
        "{path} is on this host, but the sandbox covers {directory}: nothing of it is inside",
        'bind it when the sandbox is made, with what it needs: mounts = ["{real}:{path}"] (--mount {real}:{path})',
        "execve(2)",
        predicts=True,
    ),
    _row(
        "execve",
        "ENOENT",
        executing.command_relative,
        "{command} is relative to the working directory, which is {cwd} inside, and there is no {path}",
        "{do}",
        "execve(2)",
        predicts=True,
    ),
    _row(
        "execve",
        "ENOENT",
        executing.command_nowhere,
        "{command} is not in the command's root; looked for: {searched}",
        'install it in the root, correct its name, or set PATH: env = {{PATH = "..."}} (--env PATH=...)',
        "execvp(3)",
        predicts=True,
    ),
    _row(
        "execve",
        "ENOENT ELOOP",
        executing.dangling_link,
        "{link} is a symlink to {target}, which leads nowhere inside ({missing})",
        "bind what it points to, or name the file itself",
        "path_resolution(7)",
        predicts=True,
    ),
    _row(
        "execve",
        "ENOENT",
        executing.interpreter_missing,
        "{file} is a script for {interpreter}, which is not in the command's root",
        "put {interpreter} into the root (--mount {interpreter}:{interpreter}), or correct the script's first line",
        "execve(2), interpreter scripts; opencontainers/runc#4713",
        predicts=True,
    ),
    _row(
        "execve",
        "ENOENT",
        executing.dos_line_ends,
        "the first line of {file} ends in a carriage return, so the kernel looks for an interpreter of that name",
        "give the script Unix line ends: sed -i 's/\\r$//' on it",
        "execve(2), interpreter scripts",
        predicts=True,
    ),
    _row(
        "execve",
        "ENOENT",
        executing.loader_missing,
        "{file} needs the loader {loader}, which is not in the command's root",
        "put the loader and the libraries into the root (ldd lists them), or use a static program",
        "execve(2), ld.so(8); google/nsjail#229",
        predicts=True,
    ),
    _row(
        "execve",
        "ENOTDIR ENOENT",
        executing.directory_on_path,
        "{file}, on the way to {path}, is a file",
        "correct the command",
        "execve(2)",
        predicts=True,
    ),
    _row(
        "execve",
        "EACCES",
        executing.noexec_mount,
        "{file} lies on a mount with noexec ({how})",
        "exec = true for that mount, or put the program elsewhere",
        "execve(2); opencontainers/runc#3520",
        predicts=True,
    ),
    _row(
        "execve",
        "EACCES",
        executing.not_executable,
        "{file} has mode {mode}, which does not let {uid} execute it",
        "chmod +x on it",
        "execve(2)",
        predicts=True,
    ),
    _row(
        "execve",
        "EACCES",
        executing.not_a_file,
        "{path} is {kind}",
        "name a program",
        "execve(2)",
        predicts=True,
    ),
    _row(
        "execve",
        "EACCES ENOENT",
        executing.parent_closed,
        "{directory} ({host} on the host) cannot be searched by host uid {uid}, which the command runs as",
        "chmod o+x {host}, use an id-mapped root (root.idmap = true, --root-idmap), or another --user",
        "path_resolution(7); opencontainers/runc#3520",
        predicts=True,
    ),
    _row(
        "execve",
        "ENOEXEC",
        executing.no_format,
        "{file} is {what}",
        "start a script with #!/bin/sh, or run it by its interpreter: -- sh {file}",
        "execve(2)",
    ),
    _row(
        "execve",
        "ENOEXEC",
        executing.other_machine,
        "{file} is a program for another machine (e_machine {machine}), or a 32-bit one that this kernel does not run",
        "use a program for x86-64, or install a handler (qemu-user with binfmt_misc)",
        "elf(5), execve(2)",
    ),
    _row(
        "execve",
        "E2BIG",
        executing.argument_too_long,
        "{what} has {size} bytes, and one string may have {most}",
        "pass it in a file or on standard input",
        "execve(2), limits on size of arguments and environment",
        predicts=True,
    ),
    _row(
        "execve",
        "E2BIG",
        executing.arguments_too_long,
        "arguments and environment have {size} bytes, and {most} are a quarter of RLIMIT_STACK",
        "pass less, or raise the limit: --rlimit stack=",
        "execve(2), limits on size of arguments and environment",
        predicts=True,
    ),
    _row(
        "execve",
        "ETXTBSY",
        executing.being_written,
        "{file} is open for writing (process {pid})",
        "wait until it is closed",
        "execve(2)",
    ),
    _row(
        "execve",
        "ELOOP",
        executing.interpreter_loop,
        "{file} is a script whose interpreter is a script, more than 4 deep",
        "use a program as interpreter",
        "execve(2)",
        predicts=True,
    ),
    _row(
        "execve",
        "EACCES",
        executing.unreadable_script,
        "host uid {uid}, which the command runs as, cannot read the script {file}",
        "chmod +r on it",
        "execve(2), interpreter scripts",
    ),
    _row(
        "chdir",
        "ENOENT",
        executing.directory_on_host_only,
        "{path} is on this host, and not in the command's root",
        "bind it when the sandbox is made (--mount {path}), or show all of the host: --root /",
        "chdir(2)",
        predicts=True,
    ),
    _row(
        "chdir",
        "ENOENT",
        executing.directory_missing,
        "{missing} is not in the command's root",
        "choose another cwd (--cwd), or make the directory in the root",
        "chdir(2)",
        predicts=True,
    ),
    _row(
        "chdir",
        "ENOTDIR",
        executing.directory_is_file,
        "{file} is no directory",
        "choose another cwd (--cwd)",
        "chdir(2)",
        predicts=True,
    ),
    _row(
        "chdir",
        "EACCES",
        executing.directory_closed,
        "{directory} cannot be searched by host uid {uid}, which the command runs as",
        "choose another cwd (--cwd) or user (--user), or chmod o+x it",
        "path_resolution(7)",
        predicts=True,
    ),
)

CONFINING: tuple[Row, ...] = (
    _row(
        "landlock_create_ruleset",
        "ENOSYS",
        confining.landlock_absent,
        "this kernel has no Landlock (built without CONFIG_SECURITY_LANDLOCK)",
        "take landlock out, or run a kernel that has it",
        "landlock_create_ruleset(2)",
        predicts=True,
    ),
    _row(
        "landlock_create_ruleset",
        "EOPNOTSUPP",
        confining.landlock_off,
        "this kernel has Landlock, but it was not switched on at boot",
        "boot with landlock in lsm= (cat /sys/kernel/security/lsm shows the others), or take landlock out",
        "landlock_create_ruleset(2)",
        predicts=True,
    ),
    _row(
        "landlock_create_ruleset landlock_restrict_self",
        "EINVAL E2BIG",
        confining.landlock_too_old,
        "the plan asks for what version {abi} of Landlock's ABI, this kernel's, does not know",
        "make the plan on this host, or run a newer kernel",
        "landlock(7)",
        predicts=True,
    ),
    _row(
        "openat2",
        "ENOENT ENOTDIR ELOOP",
        confining.landlock_path_missing,
        "landlock has a rule for {path}, which is not in the command's root ({missing} is missing)",
        "correct the path, which is one inside, or mount something there",
        "landlock_add_rule(2)",
        predicts=True,
    ),
    _row(
        "openat2",
        "ELOOP",
        confining.landlock_magic_link,
        "{path} leads through a link of /proc/PID, which is not a path inside and is not followed",
        "name the path itself",
        "openat2(2), RESOLVE_NO_MAGICLINKS",
        predicts=True,
    ),
    _row(
        "openat2",
        "EACCES",
        confining.landlock_path_closed,
        "{directory}, above a path that landlock has a rule for, cannot be searched by host uid {uid}, which the "
        "command runs as",
        "take the rule out: the command cannot reach the path anyway; or chmod o+x the directory",
        "path_resolution(7)",
        predicts=True,
    ),
    _row(
        "landlock_add_rule",
        "EINVAL",
        confining.landlock_right_of_directories,
        "{path} is no directory, and has no {rights}",
        "leave these rights out, or name the directory that it lies in",
        "landlock_add_rule(2)",
        predicts=True,
    ),
    _row(
        "landlock_restrict_self",
        "E2BIG",
        confining.landlock_layers,
        "this process is in {layers} Landlock domains already, the most that there can be",
        "start nstool further outside, or take landlock out",
        "landlock_restrict_self(2)",
    ),
    _row(
        "landlock_restrict_self",
        "EPERM",
        confining.landlock_without_privilege,
        "Landlock needs no_new_privs, or CAP_SYS_ADMIN in the user namespace",
        "keep no_new_privs",
        "landlock_restrict_self(2)",
        predicts=True,
    ),
    _row(
        "execve",
        "EACCES",
        confining.landlock_no_execute,
        "no rule of landlock lets {file} be executed{as}",
        "name it, or a directory above it, in landlock.execute (--landlock-execute {real})",
        "landlock(7), LANDLOCK_ACCESS_FS_EXECUTE",
        predicts=True,
    ),
    _row(
        "write_file",
        "ENOENT",
        confining.apparmor_profile_missing,
        "no AppArmor profile {profile} is loaded",
        "as root: apparmor_parser --add FILE; aa-status lists what is loaded",
        "aa_change_profile(2)",
    ),
    _row(
        "write_file",
        "ENOENT EINVAL",
        confining.apparmor_no_attribute,
        "this kernel has no AppArmor, or it was not switched on at boot",
        "take apparmor out, or boot with apparmor=1 security=apparmor",
        "apparmor(7)",
        predicts=True,
    ),
    _row(
        "write_file",
        "EINVAL",
        confining.selinux_context_unknown,
        "the loaded policy has no context {context}",
        "choose one that it has: ps -eZ shows those in use, seinfo -t the types",
        "setexeccon(3)",
    ),
    _row(
        "write_file",
        "EINVAL ENOENT",
        confining.selinux_absent,
        "this kernel has no SELinux, or it was not switched on at boot",
        "take selinux out, or boot with selinux=1 security=selinux",
        "setexeccon(3)",
        predicts=True,
    ),
    _row(
        "execve",
        "EPERM",
        confining.apparmor_confined_already,
        "nstool runs under AppArmor's {own}, and under no_new_privs execve only stacks profiles: {profile} alone would "
        "be another",
        'apparmor = "stack {profile}", or start nstool unconfined',
        "apparmor_bprm_creds_for_exec() in security/apparmor/domain.c",
        predicts=True,
    ),
    _row(
        "execve",
        "EPERM EACCES",
        confining.selinux_transition,
        "the SELinux policy may not let the command enter its context: by transition and entrypoint, and by "
        "nnp_transition and nosuid_transition under no_new_privs and on mounts with nosuid",
        "look for the refusal in the audit log: ausearch -m AVC,SELINUX_ERR -ts recent",
        "selinux_bprm_creds_for_exec() in security/selinux/hooks.c",
    ),
)

LISTENING: tuple[Row, ...] = (
    _row(
        "bind",
        "EADDRINUSE",
        listening.listens_itself,
        "this service has {where} already: another key or word of its spec says the same",
        "leave one of the two out",
        "ip(7), unix(7)",
    ),
    _row(
        "bind",
        "EADDRINUSE",
        listening.left_by_a_service,
        "{generation} still has it, a generation of a service that was killed",
        "start that again, which takes the address over (nstool serve --name {service} SPEC), or "
        "nstool service stop {service}",
        "docs/serve.md",
    ),
    _row(
        "bind",
        "EADDRINUSE",
        listening.taken,
        "{who} has {where}",
        "{what}, or listen elsewhere",
        "ip(7), unix(7)",
    ),
    _row(
        "bind",
        "EADDRINUSE",
        listening.taken_by_hidden,
        "a process that is not to be seen from here has {where}: of another user, or in another pid namespace",
        "as root: ss -lntup tells whose it is; stop that, or listen elsewhere",
        "ip(7)",
    ),
    _row(
        "bind",
        "EADDRINUSE",
        listening.path_is_no_socket,
        "{path} is {kind}",
        "remove it, or name another path",
        "unix(7)",
    ),
    _row(
        "bind",
        "EADDRNOTAVAIL",
        listening.address_of_others,
        "no interface of this host has the address {address}",
        "listen at one that ip address lists, or at {all} for all",
        "ip(7)",
    ),
    _row(
        "bind",
        "EACCES",
        listening.port_for_the_privileged,
        "port {port} is for who has CAP_NET_BIND_SERVICE: sysctl net.ipv4.ip_unprivileged_port_start is {first}",
        "run as root, or listen at a port from {first} on",
        "ip(7)",
    ),
    _row(
        "bind",
        "ENOENT ENOTDIR",
        listening.path_without_directory,
        "{missing} {what}",
        "{do}",
        "unix(7)",
    ),
    _row(
        "bind",
        "EACCES",
        listening.path_in_closed_directory,
        "{directory}, of mode {mode}, does not let uid {uid} make a socket there",
        "chmod it, or name a path in a directory of yours",
        "unix(7)",
    ),
)

CATALOGUE: tuple[tuple[str, tuple[Row, ...]], ...] = (
    ("Processes and namespaces", CREATION),
    ("Ids and capabilities", IDS),
    ("Mounts", MOUNTING),
    ("Cgroups, sysctls, limits", FILES),
    ("The command", EXECUTING),
    ("Landlock, AppArmor, SELinux", CONFINING),
    ("Listeners of services", LISTENING),
)
ROWS: tuple[Row, ...] = tuple(row for _, rows in CATALOGUE for row in rows)


class _Words(dict[str, object]):
    """Words for a sentence: one that the detector did not give stays as <word>."""

    def __missing__(self, key: str) -> str:
        return f"<{key}>"


def sentence(template: str, words: Answer) -> str:
    """Fill a row's sentence with the words of a detector's answer."""
    return template.format_map(_Words(words if isinstance(words, dict) else {}))


def explain(
    step: Step, errno: int, detail: int = 0, plan: Plan | None = None, root: str = ""
) -> tuple[tuple[str, ...], tuple[str, ...], bool]:
    """Return (causes, remedies, whether they were checked on this host) of a refused step.

    The causes whose detectors say yes; if none does, those of which it cannot be told, as possible
    ones. root: put before the paths of /proc and /sys that detectors read.
    """
    scene = Scene(step, errno, detail, plan, root)
    found: list[tuple[Row, Answer]] = [(row, row.detector(scene)) for row in rows_of(step.call, errno)]
    sure: list[tuple[Row, Answer]] = [(row, answer) for row, answer in found if answer]
    chosen = sure or [(row, answer) for row, answer in found if answer is None]
    if not sure:
        path = scene.path or step.call
        known: Answer = {"name": step.call, "path": path, "missing": path}
        chosen = [(row, known) for row, _ in chosen]
    causes = tuple(dict.fromkeys(_without_gaps(sentence(row.cause, answer)) for row, answer in chosen))
    remedies = tuple(dict.fromkeys(_without_gaps(sentence(row.remedy, answer)) for row, answer in chosen))
    return causes, remedies, bool(sure)


def _without_gaps(text: str) -> str:
    """Drop a parenthesis in which a word is not known."""
    before, opened, rest = text.partition(" (")
    inside, closed, after = rest.partition(")")
    return before + after if opened and closed and "<" in inside else text


def rows_of(call: str, errno: int) -> Iterator[Row]:
    """Yield the rows about a call and an errno, in the order of the catalogue."""
    return (row for row in ROWS if row.explains(call, errno))


def markdown() -> str:
    """Return the catalogue as docs/errors.md."""
    lines = [
        "# Refusals, their causes and remedies",
        "",
        "<!-- Made by `python -m nstool.plan.hints > docs/errors.md`; tests/unit/test_hints.py keeps it current. -->",
        "",
        "When a step is refused, nstool looks at this host for each cause that its row names (the detector is in",
        "`nstool/detectors/`) and prints those that hold. Where none holds and some cannot be told, these are printed",
        "as possible. `nstool check SPEC` asks the rows marked *before* without doing anything.",
    ]
    for title, rows in CATALOGUE:
        lines += [
            "",
            f"## {title}",
            "",
            "| call | errno | cause | remedy | source | before |",
            "|---|---|---|---|---|---|",
        ]
        for row in rows:
            calls = "any" if ANY in row.calls else ", ".join(f"`{call}`" for call in row.calls)
            cells = (calls, ", ".join(row.errnos), sentence(row.cause, None), sentence(row.remedy, None), row.source)
            lines.append("| " + " | ".join(_cell(c) for c in cells) + f" | {'yes' if row.predicts else ''} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace(">", "&gt;")


if __name__ == "__main__":
    sys.stdout.write(markdown())
