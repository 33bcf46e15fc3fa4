"""One sentence for each field of the model: read by the JSON Schema and by ``nstool run --help``."""

from __future__ import annotations

DOCS: dict[str, str] = {
    "Spec.command": "The command and its arguments, a list: one word an element.",
    "Spec.name": "Name of the sandbox; absent: one is made up.",
    "Spec.root": 'What is seen as "/": "system" (the host\'s programs), "/" (the host), a directory, a tarball, '
    '"tmpfs", layers "a:b:c".',
    "Spec.hostname": "Host name in the new uts namespace, at most 64 bytes.",
    "Spec.domainname": "NIS domain name in the new uts namespace.",
    "Spec.user": 'Who the command runs as inside: "uid", "uid:gid", or names of the root\'s passwd and group.',
    "Spec.groups": 'Supplementary groups inside; "keep" keeps the caller\'s.',
    "Spec.env": "The whole environment of the command.",
    "Spec.cwd": "Working directory, an absolute path inside.",
    "Spec.umask": "Permission bits that new files lack, umask(2).",
    "Spec.mounts": 'What is mounted where: tables, or "SRC:DST[:OPTION,...]", and "DIR" for the same path inside. SRC '
    'may be "tmpfs", "proc", "mqueue", "devpts" too.',
    "Spec.mount_propagation": "Propagation of all mounts inside, mount_namespaces(7).",
    "Spec.proc": '/proc: "private" (of the new pid namespace), "bind" (the host\'s; so with namespaces.pid = "host"), '
    '"none".',
    "Spec.hidepid": "What a private /proc shows of other users' processes, proc(5).",
    "Spec.proc_subset": '"pid" hides all of /proc but the processes, proc(5).',
    "Spec.proc_show": "Names in /proc that are shown as the host has them, not empty or made of the sandbox's limits; "
    "sys: all settings.",
    "Spec.dev": '/dev: "private" (the few safe nodes, pts, shm and mqueue), "nodes" (without these three), '
    '"bind" (the host\'s), "none".',
    "Spec.tmp_size": "Size of each of the private /tmp, /var/tmp and /run, and of /dev/shm; 0: those of the root.",
    "Spec.mask_paths": "Paths that appear empty inside.",
    "Spec.readonly_paths": "Paths that are read-only inside.",
    "Spec.limits": "Limits on what the sandbox may use.",
    "Spec.net": 'The network: "none", "loopback", "veth", "bridge[:NAME]", "join:TARGET", "host", or a table.',
    "Spec.namespaces": 'For each type "new", "host", or what to join: a pid, a namespace file, a sandbox, or a '
    "directory of nstool pin.",
    "Spec.ipc": "Limits of the new ipc namespace.",
    "Spec.uid_map": 'User ids inside and outside: tables, or "INSIDE:OUTSIDE:COUNT"; absent: unused ones.',
    "Spec.gid_map": 'Group ids inside and outside: tables, or "INSIDE:OUTSIDE:COUNT"; absent: unused ones.',
    "Spec.capabilities": 'The capabilities of the command: names, "all" or a mask as "0x21" (all five sets alike), or '
    "a table of the five sets.",
    "Spec.securebits": "Securebits of the command, capabilities(7).",
    "Spec.no_new_privs": "No program gains privileges by execve(2).",
    "Spec.seccomp": 'The list of system calls: "default", "strict", "none", a file (OCI JSON, kafel, a table as below, '
    "compiled BPF), or a table, seccomp(2).",
    "Spec.landlock": "What the command may still do with files, TCP ports and processes; absent: all, landlock(7).",
    "Spec.apparmor": 'AppArmor profile that the command gets: "PROFILE", "A//&B" for both, "stack PROFILE" for it and '
    "the caller's, apparmor(7).",
    "Spec.selinux": 'SELinux context that the command gets: "user:role:type:level".',
    "Spec.keyring": 'Session keyring: "new" or "keep", session-keyring(7).',
    "Spec.init": "An init reaps orphans and forwards signals; without, the command is PID 1 itself.",
    "Spec.terminal": 'A terminal of its own: "auto" (if the caller has one), "always", "never". Its keys act inside: '
    "^Z stops what a shell there runs, not nstool.",
    "Spec.pass_fds": "File descriptors of the caller that the command gets, from 3 on in this order.",
    "Spec.aslr": "Address-space randomisation; absent: as kernel.randomize_va_space says, personality(2).",
    "Spec.personality": '"linux32" for a 32-bit uname(2), personality(2).',
    "Spec.next_pid": "Pid of the command inside; 0: the next one, clone3(2) set_tid.",
    "Spec.subreaper": "The command is a child subreaper, PR_SET_CHILD_SUBREAPER(2const).",
    "Spec.die_with_parent": "The sandbox ends when its launcher does; false: it runs on; a later command undoes it.",
    "Spec.oom_score_adj": "How soon the kernel kills the command when memory is short, -1000 to 1000, proc(5).",
    "Spec.attest": "Before the command starts it is read back from outside that all is as asked for; a difference "
    "ends the sandbox.",
    "Root.type": "What kind of root.",
    "Root.path": "The directory or the tarball.",
    "Root.lower": "Layers of an overlay, the top one first.",
    "Root.upper": "Layer that keeps what is written; absent: thrown away.",
    "Root.writable": "The root can be written to.",
    "Root.idmap": "Show the owners of the files under the sandbox's ids, mount_setattr(2).",
    "Root.size": "Size of the tmpfs, or of the thrown-away upper layer; of a tarball: what is unpacked, not what is "
    "written later, which lies on the host.",
    "Mount.target": "Absolute path inside.",
    "Mount.source": "Path on the host.",
    "Mount.type": "What is mounted.",
    "Mount.writable": "The mount can be written to.",
    "Mount.recursive": "Bind the mounts below the source too.",
    "Mount.exec": "Programs on it can be executed.",
    "Mount.suid": "Set-user-ID bits and file capabilities on it count.",
    "Mount.dev": "Device nodes on it work.",
    "Mount.symlinks": "Symbolic links on it are followed.",
    "Mount.idmap": "Show the owners of the files under the sandbox's ids, mount_setattr(2).",
    "Mount.propagation": "Propagation of this mount; absent: as mount_propagation.",
    "Mount.size": "Size of a tmpfs; 0: as tmp_size.",
    "Mount.mode": "Permission bits of a tmpfs; 1777: everybody can write, as in /tmp.",
    "Mount.lower": "Layers of an overlay, the top one first.",
    "Mount.upper": "Layer of an overlay that keeps what is written; absent: thrown away.",
    "Publish.host": "Port of the host.",
    "Publish.inside": "Port inside.",
    "Publish.protocol": "Protocol.",
    "Publish.address": "Address of the host, IPv4 or IPv6; absent: all.",
    "Net.mode": "How the sandbox is connected.",
    "Net.target": 'What mode "join" joins: a pid, a namespace file, a netns, a sandbox, or a directory of nstool pin.',
    "Net.address": "IPv4 address inside with the length of its network; absent: allocated.",
    "Net.gateway": "IPv4 address of the host's end; absent: the first of the address's network.",
    "Net.address6": "IPv6 address inside with the length of its network; absent: allocated.",
    "Net.gateway6": "IPv6 address of the host's end; absent: the first of the address's network.",
    "Net.bridge": "Name of the bridge, made if absent.",
    "Net.publish": 'Ports of the host that lead inside: "8080:80", "127.0.0.1:8080:80/udp", "[::1]:8080:80".',
    "Net.dns": "Addresses of name servers for resolv.conf(5).",
    "Net.hosts": 'Further lines of hosts(5): "NAME=ADDRESS" or [ADDRESS, NAME].',
    "Net.routes": 'Further routes: "DESTINATION=GATEWAY" or [DESTINATION, GATEWAY].',
    "Net.nat": "Connections to the outside leave with the host's address.",
    "Net.ipv6": "An IPv6 address too.",
    "Net.mtu": "Largest packet of the device; 0: the kernel's choice.",
    "Net.isolated": "No way to the host and to other sandboxes but the published ports.",
    "Net.sysctls": "net.* settings of the new net namespace.",
    "Limits.memory": "Memory of all tasks together; 0: no limit. Cgroups of version 1 count apart what TCP "
    "sockets buffer, up to as much again.",
    "Limits.swap": "Swap on top of the memory.",
    "Limits.pids": "Number of tasks; 0: no limit.",
    "Limits.cpu": 'Cores: 0.5 or "50%" is half a core; 0: no limit; absent: what the host leaves, at weight 10.',
    "Limits.rlimits": 'Limits of each process: name = [SOFT, HARD], or "SOFT:HARD"; -1 or "unlimited", getrlimit(2).',
    "Limits.ucounts": "What each user in the new user namespace may have: NAME = NUMBER, the names of /proc/sys/user "
    'without max_; -1 or "unlimited": no limit of its own.',
    "Capabilities.effective": "The set that the kernel checks.",
    "Capabilities.permitted": "The set that can be made effective. Sets that execve(2) would change are refused.",
    "Capabilities.inheritable": "The set that execve(2) keeps for files that inherit it.",
    "Capabilities.bounding": "The set that execve(2) can give at most.",
    "Capabilities.ambient": "The set that execve(2) keeps for ordinary files.",
    "Namespaces.user": "user_namespaces(7)",
    "Namespaces.mnt": "mount_namespaces(7)",
    "Namespaces.pid": "pid_namespaces(7)",
    "Namespaces.net": "network_namespaces(7)",
    "Namespaces.uts": "uts_namespaces(7)",
    "Namespaces.ipc": "ipc_namespaces(7)",
    "Namespaces.cgroup": "cgroup_namespaces(7)",
    "Namespaces.time": "time_namespaces(7)",
    "Namespaces.monotonic_offset": "Seconds added to CLOCK_MONOTONIC; absent: what makes it begin at zero.",
    "Namespaces.boottime_offset": "Seconds added to CLOCK_BOOTTIME; absent: what makes it begin at zero.",
    "Ipc.shmmax": "Largest shared memory segment, bytes.",
    "Ipc.shmall": "Shared memory in all, pages.",
    "Ipc.shmmni": "Number of shared memory segments.",
    "Ipc.msgmax": "Longest message, bytes.",
    "Ipc.msgmnb": "Longest message queue, bytes.",
    "Ipc.msgmni": "Number of message queues.",
    "Ipc.sem": 'Semaphores: "SEMMSL SEMMNS SEMOPM SEMMNI".',
    "Ipc.mq_queues_max": "Number of POSIX message queues.",
    "Ipc.mq_msg_max": "Messages in a POSIX queue.",
    "Ipc.mq_msgsize_max": "Longest message in a POSIX queue, bytes.",
    "Landlock.read": "Paths inside at and below which files and directories can be read.",
    "Landlock.write": "Paths inside at and below which files can be written, made, moved, removed; not device nodes.",
    "Landlock.execute": "Paths inside at and below which programs can be executed, and all that read allows.",
    "Landlock.rules": 'Rights by the kernel\'s names: tables, or "PATH=RIGHT,...".',
    "Landlock.tcp_bind": "The only TCP ports that can be bound; an empty list: none. Linux 6.7.",
    "Landlock.tcp_connect": "The only TCP ports that can be connected to; an empty list: none. Linux 6.7.",
    "Landlock.scope": "What does not reach processes that are not confined with the command. Linux 6.12.",
    "Landlock.flags": "What the audit log says of refusals, landlock_restrict_self(2). Linux 6.15.",
    "LandlockRule.path": "Absolute path inside.",
    "LandlockRule.allow": "Rights, landlock(7), without LANDLOCK_ACCESS_FS_ and in lower case.",
    "Seccomp.base": 'The list that is changed: "default", "strict", "none" (all are allowed), "empty" (none is), or a '
    "file.",
    "Seccomp.allow": 'What it allows more: "CALL", "@GROUP", "CALL(ARG == VALUE, ARG & MASK == VALUE)", or tables. '
    "`nstool seccomp show default` lists calls and groups.",
    "Seccomp.refuse": "What it refuses more, written alike. The narrower word counts: conditions before calls before "
    "groups, and of two alike the one that refuses.",
    "Seccomp.action": 'What refused calls get: "errno" (they fail), "kill" (the process), "log" (they are made, and '
    "the kernel logs them); absent: they fail, or what the file says.",
    "Seccomp.errno": "The errno of refused calls; absent: EPERM.",
    "SeccompCall.call": 'A system call, or a group: "@mount".',
    "SeccompCall.where": "Conditions on its arguments; all must be true.",
    "SeccompWhere.arg": "The argument: its number from 0, or in text its name.",
    "SeccompWhere.op": "How it is compared, without sign.",
    "SeccompWhere.value": 'With what: a number, or constants of the kernel: "SOCK_STREAM|SOCK_CLOEXEC".',
    "SeccompWhere.mask": "The bits of the argument that are compared; 0: those that the kernel looks at.",
    "IdMap.inside": "First id inside.",
    "IdMap.outside": "First id on the host.",
    "IdMap.count": "Number of ids.",
    "Service.listen": 'Where connections come in: "tcp:ADDRESS:PORT", "udp:ADDRESS:PORT", "unix:PATH" ("unix:@NAME" '
    'without a file), "seqpacket:PATH", "systemd" for the sockets that it passes. Port 0 is one that is free.',
    "Service.socket_mode": 'Permission bits of the file of a Unix socket in listen: "0660" lets its owner and group '
    "connect. Absent: what the umask leaves of 0777.",
    "Service.socket_owner": 'Whose that file is: "USER:GROUP", "USER" (and its first group) or ":GROUP", names or '
    "numbers. Empty: of who runs the service.",
    "Service.shape": 'How the command gets a connection: "stdio" (as standard input and output), "socket" (as fd 3, '
    'LISTEN_FDS), "port" (it listens on a port of its own loopback, and connections are relayed to it), "python" '
    '(there is no command, but a function), "listener" (it has the listening sockets from fd 3 on, and accepts).',
    "Service.handler": 'The Python file whose function is called with each connection, of shape "python": @handler of '
    "nstool.service.",
    "Service.life": 'Of a sandbox: "connection"; with shape "port" also "client" (all connections of one client: an '
    'address, or a user of a Unix socket) and "shared" (all connections of all).',
    "Service.life_connections": "Connections after which a life has had enough, and the next begins; 0: any number.",
    "Service.port": 'The port that the command listens on, inside; of shape "port". {port} and {address} in the words '
    "of command, but the first, and in the values of env are this port and the address.",
    "Service.idle": "Seconds without a connection after which the life of a client ends; of datagrams, without one.",
    "Service.start_timeout": "Seconds for the command to listen, or for the file of a handler to be imported.",
    "Service.stop_signal": "The signal that asks a command to end.",
    "Service.stderr": 'Where standard error goes: "log" (what nstool serve says), "connection", "null".',
    "Service.places": "Sandboxes at once.",
    "Service.ready": 'Sandboxes that are made before there is a connection, and wait for one; of shape "listener", '
    "that accept at the same time.",
    "Service.queue": "Connections that wait for a place, where there is none; more are refused. 0: the kernel's "
    "backlog keeps them.",
    "Service.queue_timeout": "Seconds after which one that waits is refused; 0: never.",
    "Service.busy": "What a refused client is sent before the connection is closed.",
    "Service.wall": "Seconds after which a sandbox is told to end; 0: never.",
    "Service.grace": "Seconds from being told to end to SIGKILL.",
    "Service.client_most": "Sandboxes of one client at once; 0: any number.",
    "Service.client_rate": "Connections of one client in a second, after a first client_burst; 0: any number.",
    "Service.client_burst": "Connections that a client may have at once before client_rate holds.",
    "Service.client_prefix4": "Bits of an IPv4 address that are one client.",
    "Service.client_prefix6": "Bits of an IPv6 address that are one client.",
    "Service.bandwidth": 'Bytes a second that are relayed to a sandbox, and as many from it, of shape "port"; 0: no '
    "limit.",
    "Service.renew_after": "Seconds after which the next generation takes over; 0: never by itself.",
    "Service.renew_lives": "Sandboxes with a connection after which the next generation takes over; 0: no limit.",
    "Service.vary": 'What differs from each sandbox to the next: "ids", "hostname", "pid", "machine-id", "boot-id", '
    '"canary" (a random word in NSTOOL_CANARY), "port", "address" (where the command of shape "port" listens), "clock" '
    "(when the clocks that count from the start of the system began).",
    "Service.lease_net": "A place keeps its network namespace for the next sandbox, while none has used it.",
    "Service.roots": "Roots, as of the key root, of which each generation has one; absent: that of the spec.",
    "Service.commands": "Commands, as of the key command and in its stead, of which each generation has one. With "
    "roots too there are as many of both: each command is that of the root at its place.",
    "Service.variant_order": 'Which of roots and commands the next generation has: "turn" (one after the other), '
    '"random" (never the same twice in a row).',
    "Service.attest": 'Which sandboxes are attested: "generation" (one of each, before it gets connections), "each", '
    '"never".',
    "Service.alarms": 'What ends a sandbox and lets the next generation take over: "oom" (a process in it was killed '
    'for lack of memory), "violation" (its command ended by SIGSYS, seccomp(2)), "files" (what watch names has '
    "changed).",
    "Service.watch": 'Paths inside that are not to change, with alarms = ["files"]: files, and directories with what '
    "is below them.",
    "Service.health_interval": "Seconds between two health checks, connections that the service makes to its first "
    "listener for streams; 0: none.",
    "Service.health_timeout": "Seconds in which a health check must have its answer.",
    "Service.health_failures": "Health checks that fail in a row before the next generation takes over.",
    "Service.health_send": "What a health check says.",
    "Service.health_expect": "What must come in the answer to a health check. Empty: anything.",
    "Service.backlog": "Connections that the kernel keeps until they are taken, listen(2).",
    "Service.proxy": "Each connection begins with a PROXY header, version 2, which says from where it is: of a load "
    "balancer or a TLS terminator, which alone may connect.",
    "Service.client_by": 'What tells clients apart: "address", or with proxy "certificate": the common name of the one '
    "that they have shown to the TLS terminator.",
    "Service.shards": "Templates that take connections at the same time, to use several processors; they share "
    "the places.",
    "Service.metrics": 'Where HTTP tells of the service: "tcp:ADDRESS:PORT" or "unix:PATH" has /metrics for '
    "Prometheus, /status.json, and a page that shows it live. Empty: nowhere.",
}

# The words behind "SRC:DST:" of a mount, each with the key of [[mounts]] that it sets, and how.
MOUNT_OPTIONS: dict[str, str] = {
    "ro": "writable = false, the default of a bind",
    "rw": "writable = true",
    "exec": "exec = true, the default",
    "noexec": "exec = false",
    "suid": "suid = true",
    "nosuid": "suid = false, the default",
    "dev": "dev = true",
    "nodev": "dev = false, the default",
    "rbind": "recursive = true, the default",
    "norbind": "recursive = false",
    "symfollow": "symlinks = true, the default",
    "nosymfollow": "symlinks = false",
    "idmap": "idmap = true",
    "private": 'propagation = "private"',
    "slave": 'propagation = "slave"',
    "shared": 'propagation = "shared"',
    "unbindable": 'propagation = "unbindable"',
    "size=SIZE": "size, of a tmpfs",
    "mode=OCTAL": "mode, of a tmpfs",
}


def doc(key: str) -> str:
    """Return the sentence for a key path of options and files, as "limits.memory"."""
    owner, _, field = key.rpartition(".")
    return DOCS[f"{(owner or 'spec').capitalize()}.{field}"]
