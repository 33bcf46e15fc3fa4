"""Words for steps: the call as a person would write it, with names instead of numbers."""

from __future__ import annotations

from nstool import uapi
from nstool.plan.calls import CALLS
from nstool.plan.steps import Fd, Step

# (call, parameter) → family of flag names in uapi; uapi.names(family, value) prints them.
_FAMILIES = {
    ("clone3", "flags"): "CLONE",
    ("unshare", "flags"): "CLONE",
    ("setns", "nstype"): "CLONE",
    ("openat2", "flags"): "O",
    ("openat2", "resolve"): "RESOLVE",
    ("write_file", "flags"): "O",
    ("open_tree", "flags"): "OPEN_TREE",
    ("move_mount", "flags"): "MOVE_MOUNT",
    ("mount_setattr", "flags"): "AT",
    ("mount_setattr", "attr_set"): "MOUNT_ATTR",
    ("mount_setattr", "attr_clr"): "MOUNT_ATTR",
    ("mount_setattr", "propagation"): "MS",
    ("fsmount", "attr_flags"): "MOUNT_ATTR",
    ("mount", "flags"): "MS",
    ("umount2", "flags"): "UMOUNT",
    ("close_range", "flags"): "CLOSE_RANGE",
}
_OCTAL = {"mode", "mask"}
_HEX = {"caps", "keep", "effective", "permitted", "inheritable", "request", "persona"}
_INNER = {"write_file": ("open", "write", "close"), "write_proc": ("open", "write", "close")}
_LONGEST = 100


def call_text(step: Step, detail: int = 0) -> str:
    """Return the call with its arguments: ``mount("proc", "/proc", …)``. detail: the call inside the step."""
    call = CALLS[step.call]
    if step.call == "external":
        name, args = step.args
        assert isinstance(args, dict)
        return f"{name}({', '.join(f'{k}={v!r}' for k, v in args.items())})"
    words = [_argument(step.call, name, kind, value) for (name, kind), value in zip(call.params, step.args)]
    inner = _INNER.get(step.call, ())
    prefix = f"{inner[detail]} in " if 0 < detail < len(inner) else ""
    result = f"{step.result} = " if step.result else ""
    return f"{prefix}{result}{step.call}({', '.join(words)})"


def _argument(call: str, name: str, kind: str, value: object) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, Fd):
        return f"<{value.name}>"
    if isinstance(value, tuple):
        return "[" + ", ".join(_text(v) for v in value) + "]"
    if isinstance(value, (str, bytes)):
        if call == "seccomp":
            return f"<{len(value) // 8} instructions>"
        return _text(value)
    assert isinstance(value, int)
    if kind == "f":
        return "AT_FDCWD" if value == uapi.AT_FDCWD else str(value)
    if family := _FAMILIES.get((call, name)):
        return uapi.names(family, value)
    if call == "prctl" and name == "option":
        return uapi.name("PR", value)
    if name in _OCTAL:
        return f"0{value:o}" if value else "0"
    if name in _HEX:
        return f"{value:#x}"
    return str(value)


def _text(value: str | bytes) -> str:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    shown = "".join(c if c.isprintable() else {"\n": "\\n", "\0": "\\0"}.get(c, f"\\x{ord(c):02x}") for c in text)
    shown = shown.replace('"', '\\"')
    return f'"{shown}"' if len(shown) <= _LONGEST else f'"{shown[:_LONGEST]}"…'


def man(step: Step) -> str:
    """Return the man page that says most about a step."""
    return step.man or CALLS[step.call].man
