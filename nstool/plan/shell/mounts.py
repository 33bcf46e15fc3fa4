"""The steps that make and attach mounts as mount(8) does them. Pure."""

from __future__ import annotations

import shlex

from nstool import uapi
from nstool.plan import describe
from nstool.plan.shell.place import Place
from nstool.plan.shell.words import Lines, numbers
from nstool.plan.steps import LAUNCHER, Fd, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nstool.plan.shell.script import Script


_ATTRIBUTES = {
    uapi.MOUNT_ATTR_RDONLY: "ro",
    uapi.MOUNT_ATTR_NOSUID: "nosuid",
    uapi.MOUNT_ATTR_NODEV: "nodev",
    uapi.MOUNT_ATTR_NOEXEC: "noexec",
    uapi.MOUNT_ATTR_NOATIME: "noatime",
    uapi.MOUNT_ATTR_STRICTATIME: "strictatime",
    uapi.MOUNT_ATTR_NODIRATIME: "nodiratime",
    uapi.MOUNT_ATTR_NOSYMFOLLOW: "nosymfollow",
}
_PROPAGATION = {
    uapi.MS_PRIVATE: "private",
    uapi.MS_SLAVE: "slave",
    uapi.MS_SHARED: "shared",
    uapi.MS_UNBINDABLE: "unbindable",
}

_RESOLVE = "mount targets are opened by path: openat2 would refuse a symlink in the new root, mount follows it"


def openat2(s: Script, step: Step) -> Lines:
    # What opens a file for later is an fd of the shell too; the rest is a path.
    directory, path = step.args[:2]
    flags, resolve = numbers(step, 2, 4)
    place = s.at(directory, path)
    s.places[step.result] = place
    if step.who == LAUNCHER and not flags & uapi.O_PATH:
        place.digit = s.digit()
        return [f"exec {place.digit}{'>' if flags & uapi.O_ACCMODE else '<'}{s.show(place)}"]
    if resolve & uapi.RESOLVE_NO_SYMLINKS:
        s.no(_RESOLVE)
    return []


def open_tree(s: Script, step: Step) -> Lines:
    directory, path = step.args[:2]
    (flags,) = numbers(step, 2)
    source = s.at(directory, path)
    place = Place(step.who)
    place.recursive = bool(flags & uapi.AT_RECURSIVE)
    place.old = True
    s.places[step.result] = place
    if s.pivoted:
        place.source = source
        return []
    place.staged = s.name(step.result)
    kind = source if not source.staged else Place("", _real(s, directory, path))
    s.functions.add("place")
    s.staging.append(f"place {shlex.quote(kind.path)} {place.staged}")
    place.path = kind.path
    bind = "--rbind" if place.recursive else "--bind"
    return [f"{s.mount()} {bind} {s.show(source)} {s.show(place)}"]


def _real(s: Script, directory: object, path: object) -> str:
    """The host path of a path in a tree that is staged: where its kind can be looked up before."""
    return f"{s.place(directory).path.rstrip('/')}/{path}"


def mount_setattr(s: Script, step: Step) -> Lines:
    fd, path = step.args[:2]
    flags, set_, clear, propagation = numbers(step, 2, 3, 4, 5)
    place = s.at(fd, path) if path else s.place(fd)
    notes: Lines = []
    if set_ & uapi.MOUNT_ATTR_IDMAP:
        notes = s.no("id-mapped mounts: mount has them from util-linux 2.39 on (X-mount.idmap=)")
    if propagation == uapi.MS_SHARED and place.who == LAUNCHER:
        notes += s.no("sharing with the host's mount, where that is shared: what is mounted on one is not on the other")
    words = [word for bit, word in _ATTRIBUTES.items() if set_ & bit]
    words += [_opposite(word) for bit, word in _ATTRIBUTES.items() if clear & bit]
    if propagation:
        place.propagation = propagation
    if place.source is not None:  # not bound yet: with the mount
        place.later += words
        return notes
    lines = _make(s, place, propagation, bool(flags & uapi.AT_RECURSIVE))
    if not words:
        return notes + lines
    if place.flags is not None:
        place.flags += [word for word in words if word not in place.flags]
        lines.append(f"{s.mount()} -o remount,bind,{','.join(place.flags)} none {s.show(place)}")
        return notes + lines
    s.functions.add("attributes")
    s.old_tools |= {"mount", "stat"}
    below = " below" if flags & uapi.AT_RECURSIVE else ""
    if below:
        notes += s.no(
            "flags of mounts that others on the same place hide, or that lie in a directory that may not be entered: "
            "no path leads to them"
        )
    return [*notes, *lines, f"attributes {s.show(place)} {','.join(words)}{below}"]


def _opposite(word: str) -> str:
    return {"ro": "rw"}.get(word, word.removeprefix("no"))


def _make(s: Script, place: Place, propagation: int, recursive: bool) -> Lines:
    word = _PROPAGATION.get(propagation)
    return [f"{s.mount()} --make-{'r' if recursive else ''}{word} {s.show(place)}"] if word else []


def fsopen(s: Script, step: Step) -> Lines:
    place = Place(step.who)
    place.fstype = str(step.args[0])
    s.places[step.result] = place
    return []


def fsconfig(s: Script, step: Step) -> Lines:
    fd, command, key, value, _ = step.args
    if command in (uapi.FSCONFIG_SET_STRING, uapi.FSCONFIG_SET_FLAG):
        word = f"{key!s}={value!s}" if command == uapi.FSCONFIG_SET_STRING else str(key)
        if "," in word:
            return s.no(f"an option with a comma: {describe.printable(word)}")
        s.place(fd).options.append(word)
    elif command != uapi.FSCONFIG_CMD_CREATE:
        return s.no("an option of a filesystem that is no text")
    return []


def fsmount(s: Script, step: Step) -> Lines:
    context = s.place(step.args[0])
    (attributes,) = numbers(step, 2)
    place = Place(step.who)
    place.fstype, place.options, place.old = context.fstype, context.options, True
    place.flags = [word for bit, word in _ATTRIBUTES.items() if attributes & bit]
    s.places[step.result] = place
    if s.pivoted and _attached_next(s.plan.steps[s.number :], step.result):
        return []
    place.staged = s.name(step.result)
    s.staging.append(f'mkdir "$work/{place.staged}"')
    return [_mount_new(s, place, s.show(place))]


def _attached_next(steps: tuple[Step, ...], name: str) -> bool:
    """Whether a mount is attached before anything is done with it: then one mount command does both."""
    user = next((step for step in steps if Fd(name) in step.args), None)
    return user is not None and user.call == "move_mount"


def _mount_new(s: Script, place: Place, target: str) -> str:
    options = ",".join([*place.options, *(place.flags or [])])
    return f"{s.mount()} -t {shlex.quote(place.fstype)} {f'-o {shlex.quote(options)} ' if options else ''}none {target}"


def move_mount(s: Script, step: Step) -> Lines:
    source, _, to_fd, to_path, _ = step.args
    place = s.place(source)
    target = s.place(to_fd) if isinstance(to_fd, Fd) and not to_path else s.at(to_fd, to_path)
    if not s.pivoted and target.path == "/":
        return _attach_root(s, place)
    mount, where = s.mount(), s.show(target)
    if place.source is not None:
        lines = [f"{mount} --{'r' if place.recursive else ''}bind {s.show(place.source)} {where}"]
        if place.later:
            s.functions.add("attributes")
            s.old_tools.add("stat")
            lines.append(f"attributes {where} {','.join(place.later)}{' below' if place.recursive else ''}")
    elif place.staged and place.who == LAUNCHER:
        # It came with the mount namespace of a more privileged owner: it can be bound, not moved.
        lines = [f"{mount} --rbind {s.show(place)} {where}"]
    elif place.staged:
        lines = [f"{mount} --move {s.show(place)} {where}"]
    else:
        lines = [_mount_new(s, place, where)]
    place.path, place.old, place.staged, place.source = target.path, target.old, target.staged, None
    if place.propagation not in (0, uapi.MS_PRIVATE):
        lines += _make(s, place, place.propagation, place.recursive)
    return lines


def _attach_root(s: Script, place: Place) -> Lines:
    s.root = place.staged
    if place.who != LAUNCHER:
        return ["#   it is a mount already"]
    return [f"{s.mount()} --rbind {s.show(place)} {s.show(place)}"]


def mount(s: Script, step: Step) -> Lines:
    source, target, fstype, _, data = step.args
    (flags,) = numbers(step, 3)
    kinds = [bit for bit in _PROPAGATION if flags & bit]
    if (source, fstype, data) != (None, None, None) or flags & ~uapi.MS_REC not in kinds:
        return s.no("mount(2) in another form than a change of propagation")
    return _make(s, s.at(uapi.AT_FDCWD, target), kinds[0], bool(flags & uapi.MS_REC))


def pivot_root(s: Script, step: Step) -> Lines:
    if step.args != (".", ".") or not s.root:
        return s.no("pivot_root to another place than a mount of this plan")
    s.tools.add("pivot_root")
    root = f'"$work/{s.root}"'
    s.pivoted = True
    for place in s.places.values():
        if place.staged == s.root:
            place.path, place.old, place.staged = "/", False, ""
    return ["cd /usr || exit", f"pivot_root {root} {root}", "old=$old_root proc=../proc"]


def umount2(s: Script, step: Step) -> Lines:
    if step.args != (".", uapi.MNT_DETACH) or not s.pivoted:
        return s.no("umount of another mount than the old root")
    return [f"{s.tool('umount')} -n -l -c .."]
