"""THE table of calls that a step can make: parameters, man page, and how each is encoded.

The order is the wire format: csrc/plan.c has the same table, tests/native compares the two.
Parameter kinds: i integer, f fd (a slot or a number), s string, z string or NULL, b bytes,
v list of strings, x external value (never encoded).
"""

from __future__ import annotations

from nstool.frozen import Frozen


class Call(Frozen):
    """One call: name, parameters as (name, kind), man page, place in the table, the kinds of all parameters."""

    name: str
    params: tuple[tuple[str, str], ...]
    man: str
    opcode: int
    kinds: str


_TABLE = """
openat2          dirfd:f path:s flags:i mode:i resolve:i                openat2(2)
open_tree        dirfd:f path:s flags:i                                 open_tree(2)
move_mount       from_dirfd:f from_path:s to_dirfd:f to_path:s flags:i  move_mount(2)
mount_setattr    dirfd:f path:s flags:i attr_set:i attr_clr:i propagation:i userns_fd:f  mount_setattr(2)
fsopen           fsname:s flags:i                                       fsopen(2)
fsconfig         fd:f cmd:i key:z value:z aux:f                         fsconfig(2)
fsmount          fd:f flags:i attr_flags:i                              fsmount(2)
mount            source:z target:s fstype:z flags:i data:z              mount(2)
umount2          target:s flags:i                                       umount(2)
pivot_root       new_root:s put_old:s                                   pivot_root(2)
chroot           path:s                                                 chroot(2)
chdir            path:s                                                 chdir(2)
fchdir           fd:f                                                   chdir(2)
mkdirat          dirfd:f path:s mode:i                                  mkdir(2)
mknodat          dirfd:f path:s mode:i dev:i                            mknod(2)
symlinkat        target:s dirfd:f path:s                                symlink(2)
unlinkat         dirfd:f path:s flags:i                                 unlink(2)
fchownat         dirfd:f path:s uid:i gid:i flags:i                     chown(2)
fchmodat         dirfd:f path:s mode:i                                  chmod(2)
write_file       dirfd:f path:s data:b flags:i mode:i                   open(2)
write            fd:f data:b                                            write(2)
sethostname      name:b                                                 sethostname(2)
setdomainname    name:b                                                 setdomainname(2)
personality      persona:i                                              personality(2)
setns            fd:f nstype:i                                          setns(2)
unshare          flags:i                                                unshare(2)
socket           domain:i type:i protocol:i                             socket(2)
ioctl            fd:f request:i arg:b                                   ioctl(2)
ioctl_int        fd:f request:i arg:i                                   ioctl(2)
setgroups        list:b                                                 setgroups(2)
setresuid        ruid:i euid:i suid:i                                   setresuid(2)
setresgid        rgid:i egid:i sgid:i                                   setresuid(2)
capset           effective:i permitted:i inheritable:i                  capset(2)
prctl            option:i arg2:i arg3:i arg4:i arg5:i                   prctl(2)
seccomp          flags:i filter:b                                       seccomp(2)
setrlimit        resource:i soft:i hard:i                               getrlimit(2)
setsid                                                                  setsid(2)
umask            mask:i                                                 umask(2)
keyctl           operation:i name:z                                     keyctl(2)
dup3             oldfd:f newfd:i flags:i                                dup(2)
fcntl            fd:f cmd:i arg:i                                       fcntl(2)
close_range      first:i last:i flags:i                                 close_range(2)
close            fd:f                                                   close(2)
pidfd_open       pid:i flags:i                                          pidfd_open(2)
reset_signals                                                           sigaction(2)
own_null                                                                null(4)
raise_ambient    caps:i                                                 capabilities(7)
drop_bounding    keep:i                                                 capabilities(7)
clone3           flags:i cgroup:f set_tid:i owner:i                     clone(2)
wait                                                                    unix(7)
release                                                                 unix(7)
exec_init                                                               execveat(2)
execve           paths:v argv:v envp:v                                  execve(2)
write_proc       file:s data:b                                          user_namespaces(7)
spawn            argv:v                                                 newuidmap(1)
send_fd          fd:f                                                   unix(7)
external         name:s args:x                                          -
futex_wake                                                              futex(2)
futex_wait                                                              futex(2)
attest                                                                  unix(7)
answer_sysinfo   listener:f memory:i swap:i                             seccomp_unotify(2)
landlock_create_ruleset  handled_access_fs:i handled_access_net:i scoped:i  landlock_create_ruleset(2)
landlock_add_rule  ruleset_fd:f rule_type:i allowed_access:i parent_fd:f port:i  landlock_add_rule(2)
landlock_restrict_self  ruleset_fd:f flags:i                            landlock_restrict_self(2)
serve                                                                   accept(2)
receive          fds:i                                                  unix(7)
"""


def _parse() -> dict[str, Call]:
    calls = {}
    for opcode, line in enumerate(_TABLE.strip().splitlines()):
        name, *words = line.split()
        man = words.pop()
        params = tuple((word[:-2], word[-1]) for word in words)
        calls[name] = Call(name, params, man, opcode, "".join([kind for _, kind in params]))
    return calls


CALLS: dict[str, Call] = _parse()
