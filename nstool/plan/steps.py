"""A Plan: the ordered steps that make a sandbox. Pure data; the executor runs them as they come."""

from __future__ import annotations

from nstool.frozen import Frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    Arg: TypeAlias = "int | str | bytes | Fd | tuple[str, ...] | dict[str, object] | None"

# Who acts. The launcher is outside; the child is the new process before it becomes init (it
# borrows the launcher's memory); init is nsexec, PID 1 inside; the payload is the user's command.
# "undo" steps are the launcher's, in reverse order, when the sandbox has ended or failed.
LAUNCHER, CHILD, INIT, PAYLOAD, UNDO = "launcher", "child", "init", "payload", "undo"
WHO: tuple[str, ...] = (LAUNCHER, CHILD, INIT, PAYLOAD, UNDO)


class Fd(Frozen):
    """A file descriptor that an earlier step opened, or that the caller gave, by name."""

    name: str

    def __init__(self, name: str) -> None:
        self.__dict__["name"] = name


class Step(Frozen):
    """One call: who makes it, with which arguments, why.

    result: name under which later steps know the fd that the call returns. ignore: an errno that
    is no failure here (then ``result`` stays empty and the steps that use it are left out).
    man: the page that says most about this use, when it is not the call's own.
    call "external" is made by Python in the launcher: args are (name, {arguments}).
    """

    who: str
    call: str
    args: tuple[Arg, ...]
    why: str
    result: str = ""
    ignore: int = 0
    man: str = ""

    # A plan has hundreds: written out it takes a third of the time of the general one.
    def __init__(
        self, who: str, call: str, args: tuple[Arg, ...], why: str, result: str = "", ignore: int = 0, man: str = ""
    ) -> None:
        fields = self.__dict__
        fields["who"] = who
        fields["call"] = call
        fields["args"] = args
        fields["why"] = why
        fields["result"] = result
        fields["ignore"] = ignore
        fields["man"] = man


class Plan(Frozen):
    """The steps of one launch. given: names of fds that the caller brings. init: as the spec."""

    steps: tuple[Step, ...]
    given: tuple[str, ...] = ()
    init: bool = True
    die_with_parent: bool = True
    name: str = ""
