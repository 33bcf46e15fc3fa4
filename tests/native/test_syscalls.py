"""The compiled system calls: structs as the kernel's, errors, and what is refused before any call."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import threading
from pathlib import Path

import pytest

pytest.importorskip("nstool._native", reason="nstool._native is not built; run make build")

from nstool import syscalls, uapi
from nstool._native import ffi, lib
from nstool.errors import KernelError, NotSupported, SpecError

ALLOW = bytes.fromhex("060000000000ff7f")  # one instruction of BPF: return SECCOMP_RET_ALLOW
CSRC = Path(__file__).resolve().parents[2] / "csrc"


def test_statmount_record_has_the_size_of_the_kernels() -> None:
    """struct nst_statmount is the 512 bytes after which the kernel puts the strings."""
    assert ffi.sizeof("struct nst_statmount") == 512
    assert ffi.offsetof("struct nst_statmount", "mnt_gidmap") == 164


@pytest.mark.needs("gcc")
def test_structs_agree_with_the_headers(tmp_path: Path) -> None:
    """The structs that are written out in syscalls.c have their fields where the headers have them."""
    pairs = {
        ("<linux/sched.h>", "clone_args", "nst_clone_args"): "flags pidfd child_tid parent_tid exit_signal stack "
        "stack_size tls set_tid set_tid_size cgroup",
        ("<linux/mount.h>", "mount_attr", "nst_mount_attr"): "attr_set attr_clr propagation userns_fd",
    }
    source = (CSRC / "syscalls.c").read_text()
    for number, ((header, theirs, ours), fields) in enumerate(pairs.items()):
        definition = re.search(rf"struct {ours} {{.*?}};", source, re.DOTALL)
        assert definition is not None
        lines = [f"#include {header}", "#include <stddef.h>", "#include <stdint.h>", definition[0]]
        lines += [
            f'_Static_assert(offsetof(struct {theirs}, {field}) == offsetof(struct {ours}, {field}), "{field}");'
            for field in fields.split()
        ]
        file = tmp_path / f"{number}.c"
        file.write_text("\n".join(lines) + "\n")
        done = subprocess.run(["gcc", "-std=gnu11", "-fsyntax-only", file], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_every_compiled_call_has_a_wrapper() -> None:
    """Each nst_ function of syscalls.cdef is used in syscalls.py, which uses none that is not compiled."""
    declared = set(re.findall(r"\b(nst_\w+)\(", (CSRC / "syscalls.cdef").read_text()))
    used = set(re.findall(r"\blib\.(nst_\w+)", Path(syscalls.__file__).read_text()))
    assert declared <= used <= set(dir(lib))


def test_every_declaration_is_that_of_the_header() -> None:
    """syscalls.cdef and syscalls.h declare the same functions in the same words."""

    def declarations(name: str) -> list[str]:
        text = re.sub(r"/\*.*?\*/", "", (CSRC / name).read_text(), flags=re.DOTALL)
        return [" ".join(words.split()) for words in re.findall(r"^(?:int|long) nst_\w+\(.*?\);", text, re.M | re.S)]

    assert declarations("syscalls.cdef") == declarations("syscalls.h")


def test_refusal_is_a_negative_errno() -> None:
    """C returns -errno, leaves out parameters alone, and check makes it a KernelError."""
    waited = ffi.new("struct nst_waited *", {"pid": 77})
    result = lib.nst_waitid(uapi.P_PID, os.getpid(), uapi.WEXITED, waited)
    assert (result, waited.pid) == (-10, 77)  # ECHILD
    with pytest.raises(KernelError) as caught:
        syscalls.check("waitid", result)
    assert caught.value.errno == 10


def test_success_is_returned_unchanged() -> None:
    """check gives back what is not negative."""
    assert syscalls.check("x", 7) == 7
    assert syscalls.check("x", 0) == 0


def test_refusal_shows_the_call_in_words() -> None:
    """An error names the call and each argument as a person would write it."""
    call = 'mount(NULL, "/x", "proc", MS_REC|MS_PRIVATE, NULL)'
    with pytest.raises(KernelError) as caught:
        syscalls.check("mount", -1, None, Path("/x"), b"proc", ("MS", uapi.MS_REC | uapi.MS_PRIVATE), None)
    assert caught.value.call == call
    assert str(caught.value) == f"{call}: Operation not permitted (EPERM)"
    words = {
        uapi.AT_FDCWD: "AT_FDCWD",
        ("o", 0o644): "0644",
        ("x", 255): "0xff",
        ("FSCONFIG", uapi.FSCONFIG_CMD_CREATE): "FSCONFIG_CMD_CREATE",
        3: "3",
    }
    for arg, word in words.items():
        with pytest.raises(KernelError, match=re.escape(f"call({word}): ")):
            syscalls.check("call", -1, arg)


def test_refusals_survive_pickling() -> None:
    """A KernelError of a wrapper comes through a pipe as it was."""
    with pytest.raises(KernelError) as caught:
        syscalls.setns(-1, uapi.CLONE_NEWNET)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.call, again.errno) == ("setns(-1, CLONE_NEWNET)", 9)


def test_zero_byte_in_a_string_is_refused() -> None:
    """A path that C would see shorter never reaches the kernel."""
    for path in ("/tmp\0x", b"/tmp\0x", Path("/tmp\0x")):
        with pytest.raises(SpecError, match="zero byte"):
            syscalls.chroot(path)
    with pytest.raises(SpecError, match="zero byte"):
        syscalls.fsconfig(-1, uapi.FSCONFIG_SET_STRING, "source", "a\0b")


@pytest.mark.parametrize("flag", ["VM", "THREAD", "SIGHAND", "SETTLS", "PARENT_SETTID", "CHILD_SETTID"])
def test_flags_that_no_python_child_survives_are_refused(flag: str) -> None:
    """clone3 and clone refuse, before any call, what would share Python's memory or needs an address."""
    name = f"CLONE_{flag}"
    for call in (syscalls.clone3, syscalls.clone):
        with pytest.raises(SpecError, match=name):
            call(getattr(uapi, name))


def test_flags_that_only_clone3_has_are_refused_by_clone() -> None:
    """clone has no flags above 32 bits, and would drop them silently."""
    with pytest.raises(SpecError, match="CLONE_INTO_CGROUP needs clone3"):
        syscalls.clone(uapi.CLONE_INTO_CGROUP | uapi.SIGCHLD)


def test_clone_is_refused_in_a_process_with_threads() -> None:
    """A second thread may hold a lock of libc that the child could never take."""
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        assert not syscalls.single_threaded()
        for call in (syscalls.clone3, syscalls.clone):
            with pytest.raises(NotSupported, match="more than one thread"):
                call()
    finally:
        done.set()
        thread.join()


def test_a_program_that_is_cut_off_is_refused() -> None:
    """A seccomp program has 8 bytes an instruction; C's count of 16 bits cannot overflow."""
    with pytest.raises(SpecError, match="8 byte"):
        syscalls.seccomp_set_mode_filter(b"\0" * 9)
    with pytest.raises(KernelError) as caught:
        syscalls.seccomp_set_mode_filter(ALLOW * 65537)
    assert caught.value.errno == 22  # EINVAL
