"""Whether the mode and access control list of a file let a thread read or execute it. path_resolution(7), acl(5)."""

from __future__ import annotations

import stat
import struct

from nstool import uapi
from nstool.errors import SpecError
from nstool.frozen import Frozen
from nstool.security.credentials import Credentials

READ, EXECUTE = 4, 1


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
    return _by_mode(who, inode, want) or _by_capability(who, inode, want)


def _by_mode(who: Credentials, inode: Inode, want: int) -> bool:
    if inode.uid == who.uids.filesystem:
        return bool(inode.mode >> 6 & want)
    if inode.acl and inode.mode & stat.S_IRWXG:
        return _by_list(who, inode, want)
    return bool(inode.mode >> (3 if who.in_group(inode.gid) else 0) & want)


def _by_list(who: Credentials, inode: Inode, want: int) -> bool:
    # A named user is decided by the entry that is about it; of groups one that allows is enough.
    mask = next((entry.perm for entry in inode.acl if entry.tag == uapi.ACL_MASK), 7)
    in_a_group = False
    for entry in inode.acl:
        if entry.tag == uapi.ACL_USER and entry.id == who.uids.filesystem:
            return bool(entry.perm & mask & want)
        group = {uapi.ACL_GROUP_OBJ: inode.gid, uapi.ACL_GROUP: entry.id}.get(entry.tag)
        if group is not None and who.in_group(group):
            in_a_group = True
            if entry.perm & want:
                return bool(mask & want)
        if entry.tag == uapi.ACL_OTHER:
            return not in_a_group and bool(entry.perm & want)
    return False


def _by_capability(who: Credentials, inode: Inode, want: int) -> bool:
    if not who.maps(inode.uid, inode.gid):
        return False
    override, read_search = (who.sets.effective >> bit & 1 for bit in (uapi.CAP_DAC_OVERRIDE, uapi.CAP_DAC_READ_SEARCH))
    if stat.S_ISDIR(inode.mode) or want == READ:
        return bool(override or read_search)
    return bool(override and inode.mode & (stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH))
