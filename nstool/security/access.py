"""Whether the mode and access control list of a file let a thread do something with it. path_resolution(7), acl(5)."""

from __future__ import annotations

import stat
import struct

from nstool import uapi
from nstool.errors import SpecError
from nstool.frozen import Frozen
from nstool.security.credentials import Credentials

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Answer = bool | None

READ, WRITE, EXECUTE = 4, 2, 1  # MAY_READ, MAY_WRITE, MAY_EXEC: the bits of one class in a mode


class AclEntry(Frozen):
    """One line of an access control list. tag: ACL_*. perm: bits of rwx. id: of a user or group, as the reader's."""

    tag: int
    perm: int
    id: int


class Inode(Frozen):
    """What access to a file is decided by. mode: st_mode, the type included. uid, gid: as the reader's."""

    mode: int
    uid: int
    gid: int
    acl: tuple[AclEntry, ...] = ()


def parse_acl(data: bytes) -> tuple[AclEntry, ...]:
    """Read the attribute system.posix_acl_access. Raises SpecError for what is no list."""
    header, entry = struct.Struct("<I"), struct.Struct("<HHI")
    if len(data) < header.size or (len(data) - header.size) % entry.size:
        raise SpecError(f"an access control list has 4 bytes and 8 for each entry, this one {len(data)}")
    (version,) = header.unpack_from(data)
    if version != uapi.POSIX_ACL_XATTR_VERSION:
        raise SpecError(f"an access control list of version {version}; only {uapi.POSIX_ACL_XATTR_VERSION} is known")
    return tuple(AclEntry(*fields) for fields in entry.iter_unpack(data[header.size :]))


def may(who: Credentials, inode: Inode, want: int) -> bool:
    """Return whether the thread may do this with the file: READ or EXECUTE, which is search for a directory.

    The file's owner, its list, its group and the others are asked as path_resolution(7) has it; then CAP_DAC_OVERRIDE
    and CAP_DAC_READ_SEARCH, which count only over files whose owner and group are mapped in the thread's user
    namespace. Execution needs one execute bit whatever the capabilities. Security modules are not asked.
    """
    allowed, _ = by_mode(inode, want, lambda uid: uid == who.uids.filesystem, who.in_group)
    return bool(allowed) or _by_capability(who, inode, want)


def by_mode(
    inode: Inode, want: int, is_user: Callable[[int], Answer], in_group: Callable[[int], Answer]
) -> tuple[Answer, str]:
    """Return whether mode or list let somebody do this, None if that is not known, and why: acl_permission_check.

    want: bits, of which all are needed. is_user, in_group: whether an id is the one, or one of those, that count.
    """
    is_owner = is_user(inode.uid)
    if is_owner is None:
        return None, "A is perhaps the owner"
    if is_owner:
        return _allows(inode.mode >> 6, want), f"the owner's bits count, {_rwx(inode.mode >> 6)}"
    # Without a bit for the group, which is the ACL's mask, the kernel does not look into the ACL.
    if inode.acl and inode.mode & stat.S_IRWXG:
        return _by_list(inode, want, is_user, in_group)
    is_group = in_group(inode.gid)
    if is_group is None:
        both = {_allows(inode.mode >> 3, want), _allows(inode.mode, want)}
        return both.pop() if len(both) == 1 else None, "A is perhaps in the group"
    mode = inode.mode >> 3 if is_group else inode.mode
    return _allows(mode, want), f"the {'group' if is_group else 'other'} bits count, {_rwx(mode)}"


def _by_list(
    inode: Inode, want: int, is_user: Callable[[int], Answer], in_group: Callable[[int], Answer]
) -> tuple[Answer, str]:
    # posix_acl_permission: a named user is masked; of the groups that A is in, one must have all the bits.
    mask = next((entry.perm for entry in inode.acl if entry.tag == uapi.ACL_MASK), 7)
    in_one = False
    for entry in inode.acl:
        if entry.tag == uapi.ACL_USER:
            named = is_user(entry.id)
            if named is None:
                return None, "A is perhaps a user that the ACL names"
            if named:
                return _allows(entry.perm & mask, want), f"ACL user:{entry.id}:{_rwx(entry.perm)}, mask {_rwx(mask)}"
        elif entry.tag in (uapi.ACL_GROUP_OBJ, uapi.ACL_GROUP):
            gid = inode.gid if entry.tag == uapi.ACL_GROUP_OBJ else entry.id
            there = in_group(gid)
            if there is None:
                return None, "A is perhaps in a group that the ACL names"
            in_one |= there
            if there and _allows(entry.perm, want):
                return _allows(entry.perm & mask, want), f"ACL group:{gid}:{_rwx(entry.perm)}, mask {_rwx(mask)}"
    if in_one:
        return False, "ACL: no group that A is in has it"
    other = next((entry.perm for entry in inode.acl if entry.tag == uapi.ACL_OTHER), 0)
    return _allows(other, want), f"ACL other::{_rwx(other)}"


def _allows(mode: int, bits: int) -> bool:
    return mode & bits == bits


def _rwx(mode: int) -> str:
    return "".join(letter if mode & bit else "-" for letter, bit in (("r", READ), ("w", WRITE), ("x", EXECUTE)))


def _by_capability(who: Credentials, inode: Inode, want: int) -> bool:
    if not who.maps(inode.uid, inode.gid):
        return False
    override, read_search = (who.sets.effective >> bit & 1 for bit in (uapi.CAP_DAC_OVERRIDE, uapi.CAP_DAC_READ_SEARCH))
    if stat.S_ISDIR(inode.mode) or want == READ:
        return bool(override or read_search)
    return bool(override and inode.mode & (stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH))
