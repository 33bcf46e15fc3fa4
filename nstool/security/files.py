"""What the kernel asks before a process opens, runs, deletes or changes a file. Pure; see ``verdict``.

path_resolution(7), inode(7), acl(5), access(2), open(2), execve(2), chown(2), chmod(2), unlink(2).
"""

from __future__ import annotations

import stat

from nstool.frozen import Frozen
from nstool.security import access
from nstool.security.access import EXECUTE, READ, WRITE, AclEntry
from nstool.security.verdict import (
    IDS,
    Check,
    Host,
    Rule,
    Task,
    Verdict,
    acting,
    capable,
    either,
    every,
    module,
    seccomp,
    verdict,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

CHATTR = "FS_IOC_SETFLAGS(2const)"
_OVERFLOW = 65534  # the id that stands for one which a mount's id map lacks

_BITS = {"read": READ, "write": WRITE, "exec": EXECUTE, "search": EXECUTE, "write and search": WRITE | EXECUTE}

# Filesystems whose permissions are generic_permission and no more.
GENERIC = {
    *("ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "bcachefs", "zfs", "tmpfs", "ramfs", "rootfs", "devtmpfs"),
    *("devpts", "mqueue", "hugetlbfs", "bpf", "overlay", "squashfs", "erofs", "iso9660", "udf", "vfat", "exfat"),
    *("ntfs3", "minix"),
}
# Those that ask it too, but may refuse more when a file is opened.
STRICTER = {
    *("sysfs", "cgroup", "cgroup2", "debugfs", "tracefs", "securityfs", "configfs", "efivarfs", "binfmt_misc"),
    *("pstore",),
}


class Inode(Frozen):
    """A file, directory or symlink on the way. inode(7).

    uid, gid: as the reader sees them through this mount, an id-mapped one included. acl: empty if it has none.
    immutable, append: FS_IOC_GETFLAGS, None if unknown. fstype: empty if unknown. read_only, noexec, nodev,
    nosymfollow: of the mount; sb_read_only: of the filesystem. trailing: the symlink that the whole path is. magic: a
    link of /proc/PID that leads into the process.
    """

    path: str
    mode: int
    uid: int
    gid: int
    acl: tuple[AclEntry, ...] = ()
    immutable: bool | None = False
    append: bool | None = False
    fstype: str = "ext4"
    read_only: bool = False
    sb_read_only: bool = False
    noexec: bool = False
    nodev: bool = False
    nosymfollow: bool = False
    idmapped: bool = False
    trailing: bool = False
    magic: bool = False

    @property
    def kind(self) -> int:
        """S_IFREG and so on."""
        return stat.S_IFMT(self.mode)

    def __str__(self) -> str:
        return f"{self.path} ({stat.filemode(self.mode)}{'+' if self.acl else ''} {self.uid}:{self.gid})"


class Walk(Frozen):
    """The way of a path through A's root: directories that are searched and symlinks that are followed, in order.

    last: what is at its end, None if the reader could not get there. blocked: then, why.
    """

    path: str
    steps: tuple[Inode, ...]
    last: Inode | None
    blocked: str = ""


def permission(a: Task, inode: Inode, want: str, host: Host, *, aside: bool = False) -> Check:
    """Whether mode, ACL or a capability let A do this: generic_permission. want: a key of _BITS."""
    question = f"may A {want} {inode}?"
    function = "generic_permission"
    if inode.fstype not in GENERIC | STRICTER and not (inode.fstype == "proc" and want in ("search", "read")):
        own = f"{inode.fstype or 'an unknown filesystem'}: it has rules of its own"
        needs = f"trying it: {inode.fstype or 'this filesystem'} decides by itself"
        rule = Rule("i_op->permission", "does the filesystem allow it?", None, (own,), needs)
        return Check("inode_permission", question, "path_resolution(7)", "EACCES", (rule,))
    bits = _BITS[want]
    holds, facts = _mode_or_acl(a, inode, bits, host)
    needs = IDS if holds is None else ""
    rules = [Rule("acl_permission_check", f"does the mode or ACL of {inode.path} let A {want}?", holds, facts, needs)]
    if bits in (READ, EXECUTE) and (bits == READ or inode.kind == stat.S_IFDIR):
        rules.append(over_inode(a, inode, "dac_read_search", host))
    if inode.kind == stat.S_IFDIR or not bits & EXECUTE or inode.mode & 0o111:
        rules.append(over_inode(a, inode, "dac_override", host))
    return Check(function, question, "path_resolution(7)", "EACCES", tuple(rules), aside=aside)


def over_inode(a: Task, inode: Inode, name: str, host: Host, *, both: bool = True) -> Rule:
    """Whether A has a capability that counts for this file: capable_wrt_inode_uidgid.

    It is A's own user namespace in which it is needed, and the file's owner and group must have ids there.
    both: False for inode_owner_or_capable, which asks for the owner's alone.
    """
    rule = capable(a.cred, a.cred.user_ns, name, host, which="A's own user namespace")
    ids = [("owner", inode.uid, a.uids), ("group", inode.gid, a.gids)][: 2 if both else 1]
    mapped = [_within(number, ranges, host) for _, number, ranges in ids]
    facts = tuple(
        f"{what} {number} {'has an id' if there else 'has no id' if there is False else 'has perhaps an id'} there"
        for (what, number, _), there in zip(ids, mapped)
    )
    holds = every((rule.holds, *mapped))
    needs = rule.needs or IDS
    question = (
        f"has A CAP_{name.upper()}, and the file's owner{' and group' if both else ''} an id in A's user namespace?"
    )
    function = "capable_wrt_inode_uidgid" if both else "inode_owner_or_capable"
    return Rule(function, question, holds, (*rule.facts[1:], *facts), needs if holds is None else "", rule.why)


def _within(number: int, ranges: Iterable[tuple[int, int]] | None, host: Host) -> bool | None:
    if ranges is None or number in host.blurred:
        return None
    return any(first <= number < first + count for first, count in ranges)


def _mode_or_acl(a: Task, inode: Inode, bits: int, host: Host) -> tuple[bool | None, tuple[str, ...]]:
    who = f"A: fsuid {a.cred.fsuid}, groups {' '.join(map(str, _groups(a)))}"
    modes = access.Inode(inode.mode, inode.uid, inode.gid, inode.acl)
    holds, fact = access.by_mode(
        modes, bits, lambda uid: host.same(a.cred.fsuid, uid), lambda gid: _in_group(a, gid, host)
    )
    return holds, (who, fact)


def _groups(a: Task) -> tuple[int, ...]:
    return tuple(dict.fromkeys((a.cred.fsgid, *a.cred.groups)))


def _in_group(a: Task, gid: int, host: Host) -> bool | None:
    return either(host.same(gid, group) for group in _groups(a))


# The way to the file


def way(a: Task, walk: Walk, host: Host) -> Iterator[Check]:
    """Yield what the way to a file asks: that each directory may be searched, each symlink followed."""
    above: Inode | None = None
    for step in walk.steps:
        if step.kind == stat.S_IFLNK:
            yield _follow(a, step, above, host)
        else:
            yield permission(a, step, "search", host, aside=True)
            above = step
    if walk.last is None:
        rule = Rule("link_path_walk", "does the path lead on?", None, (walk.blocked,), "a look by root")
        yield Check("link_path_walk", f"what is {walk.path}?", "path_resolution(7)", "EACCES", (rule,))


def _follow(a: Task, link: Inode, above: Inode | None, host: Host) -> Check:
    if link.nosymfollow:
        rule = Rule("MNT_NOSYMFOLLOW", "is the mount not nosymfollow?", False, (f"{link.path} is on such a mount",))
        return Check("pick_link", f"may {link.path} be followed?", "mount(2)", "ELOOP", (rule,), aside=True)
    if link.magic:
        fact = "a link of /proc leads where it leads only for who may look into the process"
        rule = Rule("proc_pid_get_link", "is it A's to follow?", None, (fact,), "trying it, or nstool can A read B")
        return Check("pick_link", f"may {link.path} be followed?", "proc_pid_root(5)", "EACCES", (rule,))
    sticky = above is not None and above.mode & (stat.S_ISVTX | stat.S_IWOTH) == stat.S_ISVTX | stat.S_IWOTH
    if not (link.trailing and host.protected_symlinks and sticky) or above is None:
        rule = Rule("may_follow_link", "is the symlink in no sticky directory of everybody's?", True)
    else:
        mine = either((host.same(link.uid, a.cred.fsuid), host.same(link.uid, above.uid)))
        facts = (f"link of uid {link.uid}, directory of uid {above.uid}, A's fsuid {a.cred.fsuid}",)
        rule = Rule("may_follow_link", "is the symlink A's, or the directory owner's?", mine, facts)
    question = f"may A follow {link.path}?"
    return Check("may_follow_link", question, "proc_sys_fs(5)", "EACCES", (rule,), aside=True)


# Questions


def may_open(a: Task, walk: Walk, want: str, host: Host) -> Verdict:
    """May A open the file to read or write, or execute it? want: "read", "write" (without O_APPEND) or "exec"."""

    def checks() -> Iterator[Check]:
        yield acting(a)
        yield from way(a, walk, host)
        if walk.last is not None:
            yield from _last(a, walk.last, want, host)
            yield module("file_open" if want != "exec" else "bprm_check", (a,), host)
        yield seccomp(a)

    verb = {"read": "open", "write": "write", "exec": "execute"}[want]
    notes = (_CREATING,) if want == "write" and _in_sticky(a, walk, host) else ()
    return _verdict(a, verb, walk, checks(), host, changes=want == "write", notes=notes, unless=_busy(walk.last, want))


_CREATING = "by open(2) with O_CREAT, as of a shell's >, fs.protected_regular or protected_fifos may refuse it: EACCES"


def _in_sticky(a: Task, walk: Walk, host: Host) -> bool:
    # may_create_in_sticky: of a file that is neither A's nor the directory's owner's. proc_sys_fs(5)
    above, last = _above(walk), walk.last
    if above is None or last is None or last.kind not in (stat.S_IFREG, stat.S_IFIFO):
        return False
    owned = either((host.same(last.uid, a.cred.fsuid), host.same(last.uid, above.uid)))
    return bool(above.mode & stat.S_ISVTX and above.mode & (stat.S_IWOTH | stat.S_IWGRP)) and not owned


def _busy(last: Inode | None, want: str) -> Iterator[str]:
    if last is None or last.kind != stat.S_IFREG:
        return
    if want == "exec":
        yield "the file is open for writing: ETXTBSY, execve(2)"
    if want == "write" and last.mode & 0o111:
        yield "the file is being executed: ETXTBSY, open(2)"


def _above(walk: Walk) -> Inode | None:
    return next((step for step in reversed(walk.steps) if step.kind == stat.S_IFDIR), None)


def _last(a: Task, inode: Inode, want: str, host: Host) -> Iterator[Check]:
    yield _right_kind(inode, want)
    if inode.kind in (stat.S_IFBLK, stat.S_IFCHR):
        yield _yes_or_no("may_open_dev", "is the mount not nodev?", "mount(2)", "EACCES", not inode.nodev, "nodev")
    if want == "exec":
        yield _yes_or_no("path_noexec", "is the mount not noexec?", "mount(2)", "EACCES", not inode.noexec, "noexec")
    if want == "write":
        yield from _changeable(inode)
    yield permission(a, inode, want, host)
    if inode.kind == stat.S_IFSOCK and want != "exec":
        rule = Rule("no_open", "is it something else than a socket?", False, ("sockets are connected to, not opened",))
        yield Check("no_open", "can it be opened?", "unix(7)", "ENXIO", (rule,), aside=True)
    if inode.fstype in STRICTER or inode.fstype == "proc":
        needs = f"trying it: {inode.fstype} checks more when a file is opened"
        if inode.fstype == "proc":
            needs = "trying it; for files of a process: nstool can A read B"
        rule = Rule("f_op->open", "does the file open?", None, (f"it is on {inode.fstype}",), needs)
        yield Check("f_op->open", "does the filesystem agree?", "proc(5)", "EACCES", (rule,))
    if want == "write":
        yield _yes_or_no("IS_APPEND", "is it not append-only?", CHATTR, "EPERM", not inode.append, "+a")
        if inode.kind == stat.S_IFREG:
            yield _yes_or_no("mnt_want_write", "is the mount writable?", "mount(2)", "EROFS", not inode.read_only, "ro")


def _right_kind(inode: Inode, want: str) -> Check:
    kind = stat.filemode(inode.mode)[0]
    if want == "exec":
        fits, errno = inode.kind == stat.S_IFREG, "EACCES"
    else:
        fits, errno = not (want == "write" and inode.kind == stat.S_IFDIR), "EISDIR"
    rule = Rule("may_open", f"is it of a kind that can be opened to {want}?", fits, (f"its kind is {kind}",))
    return Check("may_open", "is it the right kind of file?", "open(2)", errno, (rule,), aside=True)


def _changeable(inode: Inode) -> Iterator[Check]:
    # Devices, fifos and sockets can be written to on a read-only filesystem.
    if inode.kind in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
        writable = not inode.sb_read_only
        yield _yes_or_no("sb_permission", "is the filesystem writable?", "mount(2)", "EROFS", writable, "ro")
    question = "is it not immutable?"
    yield _yes_or_no("IS_IMMUTABLE", question, CHATTR, "EPERM", not inode.immutable, "+i")
    if inode.idmapped and _OVERFLOW in (inode.uid, inode.gid):
        needs = "the id map of the mount, which nothing shows"
        rule = Rule(
            "HAS_UNMAPPED_ID", "does the id-mapped mount map its owner?", None, ("its owner shows as 65534",), needs
        )
        yield Check("HAS_UNMAPPED_ID", "has the file an owner here?", "mount_setattr(2)", "EACCES", (rule,), aside=True)


def _yes_or_no(function: str, question: str, man: str, errno: str, holds: bool, flag: str) -> Check:
    rule = Rule(function, question, holds, () if holds else (f"it is: {flag}",))
    return Check(function, question, man, errno, (rule,), aside=True)


def chown(a: Task, walk: Walk, host: Host, uid: int | None = None, gid: int | None = None) -> Verdict:
    """May A give the file to another? uid, gid: whose, as the reader sees ids; None for both: anybody's. chown(2)."""

    def checks() -> Iterator[Check]:
        yield acting(a)
        yield from way(a, walk, host)
        if walk.last is not None:
            yield from _named(a, uid, gid, host)
            yield from _attributes(walk.last)
            if uid is not None or gid is None:
                yield _chown_ok(a, walk.last, uid, host)
            if gid is not None:
                yield _chgrp_ok(a, walk.last, gid, host)
            yield module("path_chown", (a,), host)
        yield seccomp(a)

    whom = ":".join("" if number is None else str(number) for number in (uid, gid)).removesuffix(":")
    return _verdict(a, f"chown to {whom}" if whom else "chown to any", walk, checks(), host, changes=True)


def _named(a: Task, uid: int | None, gid: int | None, host: Host) -> Iterator[Check]:
    for what, number, ranges in (("uid", uid, a.uids), ("gid", gid, a.gids)):
        if number is not None:
            holds = _within(number, ranges, host)
            rule = Rule(f"make_k{what}", f"has {what} {number} an id in A's user namespace?", holds)
            yield Check(
                f"make_k{what}", "can A name the new owner?", "user_namespaces(7)", "EINVAL", (rule,), aside=True
            )


def _attributes(inode: Inode) -> Iterator[Check]:
    writable = not (inode.read_only or inode.sb_read_only)
    yield _yes_or_no("mnt_want_write", "are mount and filesystem writable?", "mount(2)", "EROFS", writable, "ro")
    free = not (inode.immutable or inode.append)
    yield _yes_or_no("may_setattr", "is it neither immutable nor append-only?", "chown(2)", "EPERM", free, "+i or +a")


def _chown_ok(a: Task, inode: Inode, uid: int | None, host: Host) -> Check:
    own = host.same(a.cred.fsuid, inode.uid)
    same = False if uid is None else every((own, host.same(uid, inode.uid)))
    facts = (f"A's fsuid {a.cred.fsuid}, the owner {inode.uid}, the new one {'any' if uid is None else uid}",)
    rules = (
        Rule("chown_ok", "is it A's, and stays so?", same, facts, _ids_needed(same)),
        over_inode(a, inode, "chown", host),
    )
    return Check("chown_ok", f"may A change the owner of {inode}?", "chown(2)", "EPERM", rules)


def _chgrp_ok(a: Task, inode: Inode, gid: int, host: Host) -> Check:
    own = host.same(a.cred.fsuid, inode.uid)
    theirs = either((host.same(gid, inode.gid), _in_group(a, gid, host)))
    facts = (
        f"A: fsuid {a.cred.fsuid}, groups {' '.join(map(str, _groups(a)))}",
        f"owner {inode.uid}, group {inode.gid}, new group {gid}",
    )
    holds = every((own, theirs))
    rules = (
        Rule(
            "chgrp_ok", "is it A's, and the new group one of A's, or its own already?", holds, facts, _ids_needed(holds)
        ),
        over_inode(a, inode, "chown", host),
    )
    return Check("chgrp_ok", f"may A change the group of {inode}?", "chown(2)", "EPERM", rules)


def _ids_needed(holds: bool | None) -> str:
    return IDS if holds is None else ""


def chmod(a: Task, walk: Walk, host: Host) -> Verdict:
    """May A change the mode of the file? chmod(2)."""

    def checks() -> Iterator[Check]:
        yield acting(a)
        yield from way(a, walk, host)
        if walk.last is not None:
            yield from _attributes(walk.last)
            own = host.same(a.cred.fsuid, walk.last.uid)
            facts = (f"A's fsuid {a.cred.fsuid}, the owner {walk.last.uid}",)
            rules = (
                Rule("inode_owner_or_capable", "is it A's?", own, facts, _ids_needed(own)),
                over_inode(a, walk.last, "fowner", host, both=False),
            )
            yield Check("inode_owner_or_capable", f"may A change {walk.last}?", "chmod(2)", "EPERM", rules)
            yield module("path_chmod", (a,), host)
        yield seccomp(a)

    return _verdict(a, "chmod", walk, checks(), host, changes=True)


def delete(a: Task, walk: Walk, host: Host) -> Verdict:
    """May A remove this name? The directory is asked, and of a sticky one the file, itself a symlink. unlink(2)."""

    def checks() -> Iterator[Check]:
        yield acting(a)
        yield from way(a, walk, host)
        above = _above(walk)
        if walk.last is not None and above is not None:
            yield from _deletable(a, above, walk.last, host)
            yield module("path_unlink", (a,), host)
        yield seccomp(a)

    notes = ("a directory must be empty moreover, and nothing may be mounted there",)
    return _verdict(a, "delete", walk, checks(), host, changes=True, notes=notes)


def _deletable(a: Task, above: Inode, inode: Inode, host: Host) -> Iterator[Check]:
    writable = not (above.read_only or above.sb_read_only)
    yield _yes_or_no("mnt_want_write", "are mount and filesystem writable?", "mount(2)", "EROFS", writable, "ro")
    question = "is the directory not immutable?"
    yield _yes_or_no("IS_IMMUTABLE", question, CHATTR, "EPERM", not above.immutable, "+i")
    yield permission(a, above, "write and search", host)
    question = "is the directory not append-only?"
    yield _yes_or_no("IS_APPEND", question, CHATTR, "EPERM", not above.append, "+a")
    if above.mode & stat.S_ISVTX:
        facts = (f"A's fsuid {a.cred.fsuid}, the file's owner {inode.uid}, the directory's {above.uid}",)
        own = either((host.same(a.cred.fsuid, inode.uid), host.same(a.cred.fsuid, above.uid)))
        rules = (
            Rule("check_sticky", "is the file A's, or the directory?", own, facts, _ids_needed(own)),
            over_inode(a, inode, "fowner", host),
        )
        yield Check("check_sticky", f"may A remove {inode} from a sticky directory?", "unlink(2)", "EPERM", rules)
    free = not (inode.immutable or inode.append)
    yield _yes_or_no("may_delete", "is it neither immutable nor append-only?", "unlink(2)", "EPERM", free, "+i or +a")


def _verdict(
    a: Task,
    action: str,
    walk: Walk,
    checks: Iterable[Check],
    host: Host,
    *,
    changes: bool,
    notes: tuple[str, ...] = (),
    unless: Iterable[str] = (),
) -> Verdict:
    unless = [*unless]
    last = walk.last
    if last is not None:
        if changes and None in (last.immutable, last.append):
            unless.append("the file is immutable or append-only, chattr(1): you may not read its flags")
        if changes and last.fstype == "btrfs":
            unless.append("its btrfs subvolume is read-only: EROFS, btrfs-property(8)")
        if last.fstype == "overlay":
            unless.append("who mounted the overlay may not do it with the layer below")
        if last.kind in (stat.S_IFBLK, stat.S_IFCHR):
            unless.append("the device controller of A's cgroup refuses the device, cgroups(7)")
    return verdict(a, action, walk.path, checks, host, notes=notes, landlock="files", unless=unless)
