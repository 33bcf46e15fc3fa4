"""Why the command cannot be executed, looked at from outside: what its files are in the sandbox's root."""

from __future__ import annotations

import os

from nstool import uapi
from nstool.detectors import rights
from nstool.detectors.scene import Scene
from nstool.detectors.view import Place, View
from nstool.plan.steps import PAYLOAD, Fd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nstool.detectors.scene import Answer

ST_NOEXEC = 8  # statvfs(3)
MAX_STRING = 131072  # MAX_ARG_STRLEN: bytes of one argument, its NUL included. execve(2)
EM_X86_64, EM_386 = 62, 3
PT_INTERP = 3
MAX_DEPTH = 5  # scripts whose interpreters are scripts. execve(2)


def _candidates(scene: Scene) -> tuple[str, ...]:
    paths = scene.arg("paths")
    return paths if isinstance(paths, tuple) else ()


def _cwd(scene: Scene) -> str:
    found = [s.args[0] for s in scene.before if s.call == "chdir"]
    if not found and not scene.view.own_root:  # as `nstool enter --types net`: where the caller is
        return os.getcwd()
    return str(found[-1]) if found else "/"


def _absolute(scene: Scene, path: str) -> str:
    return path if path.startswith("/") else os.path.normpath(os.path.join(_cwd(scene), path))


def _found(scene: Scene) -> tuple[str, Place] | None:
    """Return the first candidate that is there, and where it leads."""
    for path in _candidates(scene):
        place = scene.view.locate(_absolute(scene, path))
        if place.kind in ("file", "dir", "other"):
            return path, place
    return None


def _unknown(scene: Scene) -> bool:
    return any(scene.view.locate(_absolute(scene, path)).kind == "unknown" for path in _candidates(scene))


def _command(scene: Scene) -> str:
    argv = scene.arg("argv")
    return argv[0] if isinstance(argv, tuple) and argv else ""


# ---- not there ----


def covered(scene: Scene) -> Answer:
    """No candidate, or not the working directory, is inside, for a mount lies over a directory of the host that has it.

    Of the root that is the host's: what is private there is covered, and whoever looks sees the path on the host.
    """
    chdir = scene.step.call == "chdir"
    if not chdir and (_found(scene) or _unknown(scene)):
        return False
    for path in (scene.path,) if chdir else _candidates(scene):
        there = path.startswith("/") and (os.path.isdir(path) if chdir else os.path.isfile(path))
        if there and scene.view.locate(path).kind == "absent" and (directory := scene.view.covering(path)):
            return {"path": path, "directory": directory, "real": os.path.realpath(path)}
    return False


def command_relative(scene: Scene) -> Answer:
    """The command is a relative path, and the working directory inside has it not; the caller's may have it."""
    command = _command(scene)
    if "/" not in command or command.startswith("/") or _found(scene) or _unknown(scene) or directory_on_path(scene):
        return False
    do = 'write its path inside from "/" on, or say from where it counts: cwd = "DIR" (--cwd DIR)'
    if os.path.isfile(command) and not command.startswith("../"):
        here = os.getcwd()
        do = f"bind yours when the sandbox is made, and start in it: --mount {here} --cwd {here}"
    return {"command": command, "path": _absolute(scene, command), "cwd": _cwd(scene), "do": do}


def command_on_host_only(scene: Scene) -> Answer:
    """No candidate is in the sandbox's root, and the host has one of them at the same path."""
    if _found(scene) or _unknown(scene) or covered(scene):
        return False
    for path in _candidates(scene):
        if path.startswith("/") and os.path.isfile(path):
            return {"command": _command(scene), "path": path, "real": os.path.realpath(path)}
    return False


def command_nowhere(scene: Scene) -> Answer:
    """No candidate is in the sandbox's root, nor on the host at the same path."""
    if not _candidates(scene) or _found(scene) or _unknown(scene):
        return False
    if any(other(scene) for other in (command_on_host_only, directory_on_path, covered, command_relative)):
        return False
    return {"command": _command(scene), "searched": ", ".join(_candidates(scene))}


def dangling_link(scene: Scene) -> Answer:
    """The command is a symlink that leads nowhere inside the root."""
    for path in _candidates(scene):
        place = scene.view.locate(_absolute(scene, path))
        itself = scene.view.locate(_absolute(scene, path), follow=False)
        if place.kind in ("absent", "loop") and itself.kind == "link":
            link, target = place.links[-1]
            return {"link": link, "target": target, "missing": place.missing or "an endless loop"}
    return False


def interpreter_missing(scene: Scene) -> Answer:
    """The script's first line names an interpreter that is not in the root."""
    found = _found(scene)
    if found is None:
        return False
    words = _interpreter(found[1].host)
    if not words or words.endswith("\r"):
        return False
    place = scene.view.locate(_absolute(scene, words))
    if place.kind not in ("absent", "loop"):
        return None if place.kind == "unknown" else False
    return {"file": found[0], "interpreter": words}


def dos_line_ends(scene: Scene) -> Answer:
    """The script's first line ends in a carriage return, which belongs to the interpreter's name then."""
    found = _found(scene)
    words = _interpreter(found[1].host) if found else ""
    return {"file": found[0], "interpreter": words.rstrip("\r")} if found and words.endswith("\r") else False


def loader_missing(scene: Scene) -> Answer:
    """The program, or its script's interpreter, asks for an ELF loader that is not in the root."""
    for name, place in _chain(scene):
        loader = elf_interpreter(place.host)
        if not loader:
            continue
        where = scene.view.locate(loader)
        if where.kind in ("absent", "loop"):
            return {"file": name, "loader": loader, "host": "yes" if os.path.exists(loader) else "no"}
    return False


def _chain(scene: Scene) -> list[tuple[str, Place]]:
    """Return the command and the interpreters that it leads to, as (path inside, place)."""
    found = _found(scene)
    chain = [found] if found else []
    while chain and len(chain) <= MAX_DEPTH:
        words = _interpreter(chain[-1][1].host)
        place = scene.view.locate(_absolute(scene, words)) if words else None
        if place is None or place.kind != "file":
            break
        chain.append((words, place))
    return chain


def executed(scene: Scene) -> tuple[str, ...]:
    """Return what the kernel executes for the command: it, the interpreters of scripts, the loaders. Paths inside."""
    chain = _chain(scene)
    loaders = (elf_interpreter(place.host) for _, place in chain)
    return tuple(dict.fromkeys((*(_absolute(scene, name) for name, _ in chain), *filter(None, loaders))))


def _head(path: str, size: int = 256) -> bytes | None:
    if not path or not os.path.isfile(path):  # what the plan makes has no content to look at; no pipe is opened
        return None
    try:
        with open(path, "rb") as file:
            return file.read(size)
    except OSError:  # not ours to read
        return None


def _interpreter(path: str) -> str:
    """Return the interpreter in a script's first line, with a carriage return if it ends in one; or ""."""
    head = _head(path)
    if not head or not head.startswith(b"#!"):
        return ""
    line = head[2:].split(b"\n")[0].strip(b" \t").decode("utf-8", "surrogateescape")
    return line.replace("\t", " ").split(" ")[0] if line else ""


def elf_interpreter(path: str) -> str:
    """Return the loader that a 64-bit ELF file asks for (PT_INTERP), or "". elf(5)."""
    head = _head(path, 4096)
    if not head or not head.startswith(b"\x7fELF") or head[4] != 2:
        return ""
    offset, size, count = (int.from_bytes(head[a:b], "little") for a, b in ((32, 40), (54, 56), (56, 58)))
    for entry in (head[offset + n * size : offset + n * size + 56] for n in range(count)):
        if len(entry) == 56 and int.from_bytes(entry[:4], "little") == PT_INTERP:
            start, length = int.from_bytes(entry[8:16], "little"), int.from_bytes(entry[32:40], "little")
            with open(path, "rb") as file:
                file.seek(start)
                return file.read(length).rstrip(b"\0").decode("utf-8", "surrogateescape")
    return ""


def directory_on_path(scene: Scene) -> Answer:
    """A component of the path is a file, not a directory."""
    for path in _candidates(scene):
        place = scene.view.locate(_absolute(scene, path))
        if place.kind == "absent" and place.missing and scene.view.locate(place.missing).kind == "file":
            return {"path": path, "file": place.missing}
    return False


# ---- there, and refused ----


def noexec_mount(scene: Scene) -> Answer:
    """The command, or its interpreter, lies on a mount with noexec."""
    for name, place in _chain(scene):
        if place.attributes & uapi.MOUNT_ATTR_NOEXEC:
            return {"file": name, "how": "the plan mounts it so"}
        if place.host and os.path.exists(place.host) and os.statvfs(place.host).f_flag & ST_NOEXEC:
            return {"file": name, "how": f"as {place.host} is on the host"}
    return False


def not_executable(scene: Scene) -> Answer:
    """The command, or its interpreter, has no x bit for the user that it runs as."""
    person = rights.who(scene)
    for name, place in _chain(scene):
        if not place.host or place.kind != "file":
            continue
        mode = os.stat(place.host).st_mode & 0o7777
        if not mode & 0o111:
            return {"file": name, "mode": f"{mode:04o}", "uid": "any user"}
        if person is None or place.attributes & uapi.MOUNT_ATTR_IDMAP:
            continue
        if rights.allowed(scene, person, place.host, rights.EXECUTE) is False:
            return {"file": name, "mode": f"{mode:04o}", "uid": f"host uid {person.uid}"}
    return False


def made_to_be_read(scene: Scene) -> Answer:
    """The command, or its interpreter, is a file that the plan makes, and has no x bit for anybody."""
    for name, place in _chain(scene):
        if place.kind == "file" and place.mode is not None and not place.mode & 0o111:
            return {"file": name, "mode": f"{place.mode:04o}"}
    return False


def not_a_file(scene: Scene) -> Answer:
    """The command is a directory, a device, a socket or a pipe."""
    found = _found(scene)
    if found is None or found[1].kind == "file":
        return False
    return {"path": found[0], "kind": "a directory" if found[1].kind == "dir" else "no regular file"}


def parent_closed(scene: Scene) -> Answer:
    """A directory above the command, or above its interpreter, has no x bit for the user that it runs as."""
    paths = [_absolute(scene, path) for path in _candidates(scene)]
    if not any(scene.view.locate(path).there for path in paths):
        return False
    for path in [p for p in paths if scene.view.locate(p).there] + [p.path for _, p in _chain(scene)]:
        closed = rights.closed_directory(scene, path)
        if closed:
            person = rights.who(scene)
            return {"directory": closed[0], "host": closed[1], "uid": person.uid if person else "?"}
    return False


def unreadable_script(scene: Scene) -> Answer:
    """The interpreter must read the script, and its mode does not let the user do it."""
    found = _found(scene)
    if found is None or not _interpreter(found[1].host) or found[1].attributes & uapi.MOUNT_ATTR_IDMAP:
        return False
    person = rights.who(scene)
    if person is None or rights.allowed(scene, person, found[1].host, rights.READ) is not False:
        return False
    return {"file": found[0], "uid": person.uid}


def no_format(scene: Scene) -> Answer:
    """The file is neither an ELF program nor a script with "#!"."""
    for name, place in _chain(scene)[-1:]:
        head = _head(place.host)
        if head is not None and not head.startswith((b"\x7fELF", b"#!")):
            return {"file": name, "what": "empty" if not head else "neither a program nor a script with #!"}
    return False


def other_machine(scene: Scene) -> Answer:
    """The program is for another machine, and no binfmt_misc handler takes it."""
    for name, place in _chain(scene)[-1:]:
        head = _head(place.host) or b""
        if not head.startswith(b"\x7fELF") or len(head) < 20:
            continue
        machine = int.from_bytes(head[18:20], "little" if head[5] == 1 else "big")
        if machine not in (EM_X86_64, EM_386):
            return {"file": name, "machine": machine}
        if machine == EM_386:
            return None  # the kernel may have been built without IA32_EMULATION, or started with ia32_emulation=0
    return False


def argument_too_long(scene: Scene) -> Answer:
    """One argument or environment string is longer than the kernel takes."""
    for kind in ("argv", "envp"):
        values = scene.arg(kind)
        for number, word in enumerate(values if isinstance(values, tuple) else ()):
            size = len(word.encode("utf-8", "surrogateescape")) + 1
            if size > MAX_STRING:
                return {"what": f"{kind}[{number}]", "size": size, "most": MAX_STRING}
    return False


def arguments_too_long(scene: Scene) -> Answer:
    """Arguments and environment together are more than a quarter of the stack's limit."""
    import resource

    stack = resource.getrlimit(resource.RLIMIT_STACK)[0]
    for step in scene.before:
        if step.call == "setrlimit" and step.args[0] == uapi.RLIMIT_STACK and isinstance(step.args[1], int):
            stack = step.args[1]
    if stack < 0 or stack > 24 << 20:  # RLIM_INFINITY; and three quarters of _STK_LIM (8 MiB) are the most
        stack = 24 << 20
    most, size = max(stack // 4, MAX_STRING), 0
    for kind in ("argv", "envp"):
        values = scene.arg(kind)
        if isinstance(values, tuple):
            size += sum(len(word.encode("utf-8", "surrogateescape")) + 9 for word in values)  # the NUL and a pointer
    return {"size": size, "most": most} if size > most else False


def being_written(scene: Scene) -> Answer:
    """The file is open for writing by a process; whose fds are hidden cannot be told."""
    found = _found(scene)
    if found is None or not found[1].host:
        return False
    target = os.stat(found[1].host)
    for pid in (name for name in os.listdir("/proc") if name.isdecimal()):
        try:
            for fd in os.listdir(f"/proc/{pid}/fd"):
                status = os.stat(f"/proc/{pid}/fd/{fd}")
                if os.path.samestat(status, target) and _writable(f"/proc/{pid}/fdinfo/{fd}"):
                    return {"file": found[0], "pid": pid}
        except OSError:  # ended, or not ours to look at
            continue
    return None


def _writable(path: str) -> bool:
    with open(path) as file:
        flags = next(int(line.split()[1], 8) for line in file if line.startswith("flags:"))
    return flags & uapi.O_ACCMODE != uapi.O_RDONLY


def interpreter_loop(scene: Scene) -> Answer:
    """Scripts name each other as interpreter, deeper than the kernel goes."""
    chain = _chain(scene)
    return {"file": chain[0][0]} if len(chain) > MAX_DEPTH else False


# ---- the working directory ----


def directory_on_host_only(scene: Scene) -> Answer:
    """The directory is not in the sandbox's root, and the host has it at the same path."""
    if scene.step.call != "chdir" or scene.by_launcher or not os.path.isdir(scene.path) or covered(scene):
        return False
    return {"path": scene.path} if scene.view.locate(scene.path).kind == "absent" else False


def directory_missing(scene: Scene) -> Answer:
    """The directory is not in the sandbox's root, nor on the host at the same path."""
    if scene.step.call != "chdir" or scene.by_launcher:
        return False
    place = scene.view.locate(scene.path)
    if place.kind != "absent" or covered(scene) or directory_on_host_only(scene):
        return None if place.kind == "unknown" else False
    return {"path": scene.path, "missing": place.missing}


def directory_is_file(scene: Scene) -> Answer:
    """The path inside is no directory, or one above it is none."""
    if scene.step.call != "chdir":
        return False
    place = scene.view.locate(scene.path)
    file = place.missing or place.path
    return {"file": file} if scene.view.locate(file).kind in ("file", "other") else False


def directory_closed(scene: Scene) -> Answer:
    """The directory, or one above it, has no x bit for who enters it."""
    landlock = scene.step.call == "openat2" and scene.step.who == PAYLOAD
    if scene.step.call not in ("chdir", "openat2") or scene.by_launcher or landlock:
        return False
    closed = rights.closed_directory(scene, scene.path.rstrip("/") + "/x" if scene.step.call == "chdir" else scene.path)
    person = rights.who(scene)
    return {"directory": closed[0], "uid": person.uid} if closed and person else False


def root_closed(scene: Scene) -> Answer:
    """The root itself has no x bit for init, which enters it."""
    fd, person = scene.arg("fd"), rights.who(scene)
    if scene.step.call != "fchdir" or scene.by_launcher or not isinstance(fd, Fd) or person is None:
        return False
    tree = View(scene.before).trees.get(fd.name)
    for host in tree.hosts[:1] if tree else ():
        if rights.allowed(scene, person, host, rights.EXECUTE) is False:
            return {"directory": host, "uid": person.uid}
    return False
