"""The exceptions of nstool; all survive pickling. How a message is made fit for a terminal."""

from __future__ import annotations

import errno as _errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


# That come from system calls although they are the kernel's own, with no name and no text in user space: number, text.
_OF_THE_KERNEL = {"ENOTSUPP": (524, "Not supported by the kernel as it is")}


def errno_number(name: str) -> int:
    """Return the errno of a name, as EPERM. errno(3)"""
    return _OF_THE_KERNEL[name][0] if name in _OF_THE_KERNEL else int(getattr(_errno, name))


def errno_name(number: int) -> str:
    """Return the symbolic errno, as EPERM; the digits of one without a name."""
    own = (name for name, (code, _) in _OF_THE_KERNEL.items() if code == number)
    return _errno.errorcode.get(number) or next(own, str(number))


def errno_text(number: int) -> str:
    """Return what an errno says. strerror(3)"""
    return next((text for code, text in _OF_THE_KERNEL.values() if code == number), os.strerror(number))


class NstoolError(Exception):
    """Base of everything that nstool raises on purpose."""


class SpecError(NstoolError, ValueError):
    """What was asked for is wrong. Nothing has been done. Exit status 2.

    message: what is wrong and what to do. place: where, as the user wrote it:
    ``web.toml:12: limits.memory`` or ``--memory``; empty when made by a program.
    """

    def __init__(self, message: str, place: str = "") -> None:
        super().__init__(message, place)
        self.message = message
        self.place = place

    def __str__(self) -> str:
        return f"{self.place}: {self.message}" if self.place else self.message


class KernelError(NstoolError, OSError):
    """The kernel refused a call. Exit status 125 (126 and 127 for the last exec).

    call: the system call and its arguments as printed by the plan. errno: positive.
    step: "step 7 of 23", counted from 1, or empty outside a plan. why: what the step was for.
    causes: sentences that a detector has *checked* on this host, or that remain possible
    (then ``checked`` is False). remedy: what to do, one sentence a cause.
    """

    def __init__(
        self,
        call: str,
        errno: int,
        step: str = "",
        why: str = "",
        causes: tuple[str, ...] = (),
        remedies: tuple[str, ...] = (),
        checked: bool = False,
    ) -> None:
        super().__init__(errno, errno_text(errno))
        self.call = call
        self.step = step
        self.why = why
        self.causes = causes
        self.remedies = remedies
        self.checked = checked

    @property
    def cause(self) -> str:
        """The checked cause, or the possible ones joined by "; or "."""
        return "; or ".join(self.causes)

    @property
    def remedy(self) -> str:
        """What to do about it."""
        return "; or ".join(self.remedies)

    @property
    def errno_name(self) -> str:
        """The symbolic errno, as EPERM."""
        return errno_name(self.errno or 0)

    def __str__(self) -> str:
        where = f"{self.step}, " if self.step else ""
        lines = [f"{where}{self.call}: {errno_text(self.errno or 0)} ({self.errno_name})"]
        if self.why:
            lines.append(f"purpose: {self.why}")
        if self.causes:
            lines.append(f"{'cause' if self.checked else 'possible cause'}: {self.cause}")
        if self.remedies:
            lines.append(f"remedy: {self.remedy}")
        return "\n".join(lines)

    def asdict(self) -> dict[str, Any]:
        """The error as plain JSON values."""
        return {
            "step": self.step,
            "call": self.call,
            "errno": self.errno,
            "errno_name": self.errno_name,
            "why": self.why,
            "causes": list(self.causes),
            "remedies": list(self.remedies),
            "checked": self.checked,
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (
            self.call,
            self.errno,
            self.step,
            self.why,
            self.causes,
            self.remedies,
            self.checked,
        )


class NotSupported(NstoolError):
    """This host cannot do what was asked for: checked, before anything is done. Exit status 125.

    what: the part of the spec: its key path first, where there is one. cause, remedy: sentences.
    """

    def __init__(self, what: str, cause: str, remedy: str) -> None:
        super().__init__(what, cause, remedy)
        self.what = what
        self.cause = cause
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.what}: not possible on this host\ncause: {self.cause}\nremedy: {self.remedy}"


class NotAttested(NstoolError):
    """A sandbox is not what its spec asks for; it was ended before its command ran. Exit status 125.

    differences: for each property the key of the spec, what it asks for, and what the kernel says.
    """

    def __init__(self, differences: tuple[tuple[str, str, str], ...]) -> None:
        super().__init__(differences)
        self.differences = differences

    def __str__(self) -> str:
        lines = [f"{name}: wanted {wanted}, found {found}" for name, wanted, found in self.differences]
        return (
            "the sandbox is not what was asked for, and was ended before its command ran\n"
            + "\n".join(lines)
            + "\nremedy: report it, with what nstool plan prints; attest = false (--no-attest) starts it all the same"
        )


class SandboxGone(NstoolError):
    """The sandbox that was named does not exist or has ended. Exit status 2."""


def plural(number: int, what: str) -> str:
    """Return a number of things in words: "1 process", "2 processes", "3 directories", "2 sandboxes"."""
    if number == 1:
        return f"1 {what}"
    if what.endswith("y"):
        return f"{number} {what[:-1]}ies"
    return f"{number} {what}{'es' if what.endswith(('s', 'x')) else 's'}"


def no_process(what: object) -> str:
    """Return what every command says of a process that is not there. what: its pid, or "thread 7 of process 5"."""
    who = what if " " in str(what) else f"process {what}"
    return f"there is no {who}, or it has ended; ps -e lists those that there are"


def visible(text: str) -> str:
    """Return a message with every character escaped that does not print; its lines, and what is escaped, stay."""
    return "".join(c if c.isprintable() or c == "\n" else escaped(c) for c in text)


def escaped(char: str) -> str:
    """Return a character as an escape sequence; a byte that is no UTF-8, as os.fsdecode carries it, as \\xNN."""
    number = ord(char)
    if 0xDC80 <= number <= 0xDCFF:
        number -= 0xDC00
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
