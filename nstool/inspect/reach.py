"""THE table of what a difference between two processes means for what each can reach: a sentence each.

``{one}`` and ``{other}`` stand for the processes; where only one of them has something, ``{one}`` has it.
"""

from __future__ import annotations

# Two namespaces of a type, whichever way they lie.
NAMESPACES: dict[str, str] = {
    "user": "ids and capabilities of one mean nothing to what belongs to the other's user namespace",
    "mnt": "neither sees what the other mounts, except where propagation carries it over",
    "pid": "neither sees, signals or traces the other's processes",
    "net": "neither reaches the other's devices, ports and abstract UNIX sockets, but over a link between them",
    "uts": "each has a host name of its own",
    "ipc": "neither sees the other's System V objects and POSIX queues",
    "cgroup": "each sees cgroup paths from another root, and cannot name what is above its own",
    "time": "monotonic and boot time clocks of the two may differ: times of one mean others to the other",
}

# Where ``{one}`` is in the namespace above that of ``{other}``.
NESTED: dict[str, str] = {
    "user": "capabilities of {one} hold over {other}'s user namespace, which lies below; not the other way",
    "pid": "{one} sees {other}'s processes, whose namespace lies below, and may signal them as its ids allow; "
    "{other} sees none of {one}'s",
}

IDS: dict[str, str] = {
    "uid": "files, processes and quotas are open to each as its own user, not as the other's",
    "gid": "files are open to each as its own group",
    "groups": "files are open to each as its own supplementary groups",
    "uid map": "an id inside is another user outside: files that they share show other owners",
    "gid map": "an id inside is another group outside: files that they share show other groups",
    "setgroups": "{one} may set supplementary groups with CAP_SETGID, and so drop one that a file's mode shuts out",
}

# What an effective capability lets ``{one}`` do. capabilities(7)
CAPABILITIES: dict[str, str] = {
    "chown": "give files to anybody",
    "dac_override": "read, write and execute files whatever their mode",
    "dac_read_search": "read files and search directories whatever their mode",
    "fowner": "change mode, times and attributes of files that are not its own",
    "fsetid": "keep set-user-ID and set-group-ID bits of files that it changes",
    "kill": "signal processes of other users",
    "setgid": "take any group id, and tell any",
    "setuid": "take any user id, and tell any",
    "setpcap": "change its bounding set and securebits, and inherit what that has",
    "linux_immutable": "set and clear the immutable and append-only attributes of files",
    "net_bind_service": "listen on ports below 1024",
    "net_broadcast": "send broadcasts (the kernel asks for it nowhere)",
    "net_admin": "configure devices, addresses, routes and firewall",
    "net_raw": "read and forge packets on the wire",
    "ipc_lock": "lock any amount of memory",
    "ipc_owner": "use System V objects whatever their mode",
    "sys_module": "load code into the kernel",
    "sys_rawio": "reach ports, memory and disks of the machine directly",
    "sys_chroot": "change its root directory, and join mount namespaces",
    "sys_ptrace": "trace processes of other users, and read and write their memory",
    "sys_pacct": "switch process accounting on and off",
    "sys_admin": "mount, make and join namespaces, and much more that is nearly all of root's power",
    "sys_boot": "restart the machine and load another kernel",
    "sys_nice": "raise priorities, and bind processes of others to processors",
    "sys_resource": "go beyond limits, quotas and reserved space",
    "sys_time": "set the clocks of the machine",
    "sys_tty_config": "hang up and configure terminals of others",
    "mknod": "make device files",
    "lease": "take leases on files of others",
    "audit_write": "write to the audit log",
    "audit_control": "switch auditing and change its rules",
    "setfcap": "give files capabilities, and map id 0 into user namespaces",
    "mac_override": "go round Smack",
    "mac_admin": "change the policy of Smack and AppArmor",
    "syslog": "read kernel messages and addresses",
    "wake_alarm": "wake the machine by a timer",
    "block_suspend": "keep the machine from sleeping",
    "audit_read": "read the audit log as it is written",
    "perfmon": "measure all of the system, with its secrets' traces",
    "bpf": "load eBPF programs",
    "checkpoint_restore": "choose pids, and read the memory maps' files of others",
}
# Those that the kernel asks for over the first user namespace only, because what they are about belongs to no other:
# in any other they let a process do nothing. user_namespaces(7), "Interaction of user namespaces and other types".
FIRST_ONLY: frozenset[str] = frozenset(
    (
        *("audit_control", "audit_read", "audit_write", "block_suspend", "lease", "linux_immutable", "mac_override"),
        *("mknod", "sys_module", "sys_pacct", "sys_rawio", "sys_tty_config", "syslog", "wake_alarm"),
    )
)
NOTHING = "has it in a user namespace where it lets it do nothing: the kernel asks for it over the first one"
# Those of which another user namespace gives a small part only, and which. ``{one}`` has it there.
ELSEWHERE: dict[str, str] = {
    # shmctl_do_lock of ipc/shm.c; the amount is still that of RLIMIT_MEMLOCK
    "ipc_lock": "lock and unlock System V segments of others in ipc namespaces that belong to its user namespace",
    "mac_admin": "change the policy of an AppArmor namespace, if one was made for its user namespace",
    # reboot_pid_ns: reboot(2), "Behavior inside PID namespaces"
    "sys_boot": "end pid namespaces that belong to its user namespace, by reboot(2) from within",
    # proc_timens_set_offset: time_namespaces(7)
    "sys_time": "set the clock offsets of time namespaces that belong to its user namespace, while nobody is in them",
}
NEW_CAPABILITY = "use a capability that is newer than this table"

SETS: dict[str, str] = {
    "permitted": "{one} may make these effective whenever it wants to",
    "inheritable": "{one} passes these on to programs whose files ask for them",
    "bounding": "{one} may gain these by executing a file that gives them",
    "ambient": "{one} keeps these when it executes a plain program",
}

CONFINEMENT: dict[str, str] = {
    "no_new_privs": "{one} gains nothing from set-user-ID files and file capabilities; {other} may",
    "seccomp": "the kernel refuses one of them system calls that it lets the other make",
    "LSM label": "the security module may refuse one of them what it allows the other",
    "randomised addresses": "an attacker who finds a hole knows the addresses of one of them better",
    "root directory": "absolute paths of one lead somewhere else than those of the other",
    "oom_score_adj": "when memory runs out, {one} is killed before {other} of the same size",
}

MOUNTS: dict[str, str] = {
    "only": "{one} sees what is mounted there; {other} sees what its own file system has, if anything",
    "other": "the same path leads to other files",
    "ro": "{one} can only read what lies there, {other} may change it",
    "nosuid": "set-user-ID files and file capabilities there work for {other}, not for {one}",
    "nodev": "device files there work for {other}, not for {one}",
    "noexec": "programs there can be executed by {other}, not by {one}",
    "nosymfollow": "symbolic links there are followed for {other}, not for {one}",
    "propagation": "what is mounted below on one side of the propagation shows, or does not show, on the other",
}

CGROUPS: dict[str, str] = {
    "path": "what they use is counted and limited apart",
    "memory": "{one} is stopped, or killed, at less memory than {other}",
    "memory and swap": "{one} is stopped, or killed, at less memory than {other}",
    "memory high": "{one} is slowed down at less memory than {other}",
    "swap": "less of {one} may be swapped out than of {other}",
    "pids": "the cgroup of {one} may have fewer processes and threads than that of {other}",
    "cpu": "{one} may use less processor time than {other}",
    "cpu weight": "{one} gets less processor time than {other} when both want it",
    "processors": "they may run on different processors",
    "devices": "the cgroup lets one of them open devices that it shuts to the other",
}

DEVICE = "{one} may open it, if its mode and cgroup let it; {other} has no such file"

RLIMITS: dict[str, str] = {
    "cpu": "{one} is ended after less processor time",
    "fsize": "{one} can write only smaller files",
    "data": "{one} can allocate less memory",
    "stack": "the stack of {one} may grow less",
    "core": "{one} leaves smaller core dumps, or none",
    "rss": "nothing: the kernel does not enforce it",
    "nproc": "the user of {one} may have fewer processes",
    "nofile": "{one} may have fewer files open",
    "memlock": "{one} may lock less memory",
    "as": "{one} may have less address space",
    "locks": "nothing: the kernel does not enforce it",
    "sigpending": "the user of {one} may have fewer signals queued",
    "msgqueue": "the user of {one} may have less in POSIX queues",
    "nice": "{one} may raise its priority less",
    "rtprio": "{one} may ask for less real time priority",
    "rttime": "{one} may run less long without a pause at real time priority",
}

SETTINGS: dict[str, str] = {
    "host name": "programs of each see another name",
    "NIS domain name": "programs of each see another name",
    "monotonic": "times since boot differ between the two",
    "boottime": "times since boot differ between the two",
    "ipc": "each has other limits for what it shares by System V objects and POSIX queues",
    "net": "their network stacks behave differently in this",
    "net/ipv4/ip_forward": "{one} forwards packets between its devices, {other} does not",
    "net/ipv4/ip_unprivileged_port_start": "from another port on no CAP_NET_BIND_SERVICE is needed",
    "net/ipv4/ping_group_range": "groups that may ping without CAP_NET_RAW for one may not for the other",
}
