"""``nstool run``: a sandbox in the foreground."""

from __future__ import annotations

import _signal
import sys

from nstool.cli import options
from nstool.errors import SandboxGone
from nstool.sandbox import journal
from nstool.sandbox.launch import Exit, Sandbox, launch

TYPE_CHECKING = False
if TYPE_CHECKING:
    import click

    command: click.Command

OTHERS = {"--quiet": False}
# Not forwarded: those that cannot be caught, those that speak of this process itself (a fault, a
# child's end, a timer), those of job control, which stop and continue the launcher, and SIGPIPE, which Python ignores.
NOT_FORWARDED = frozenset(
    (
        _signal.SIGKILL,
        _signal.SIGSTOP,
        _signal.SIGCHLD,
        _signal.SIGSEGV,
        _signal.SIGBUS,
        _signal.SIGILL,
        _signal.SIGFPE,
        _signal.SIGTRAP,
        _signal.SIGSYS,
        _signal.SIGPIPE,
        _signal.SIGTSTP,
        _signal.SIGTTIN,
        _signal.SIGTTOU,
        _signal.SIGCONT,
        _signal.SIGWINCH,
        32,  # used by the C library's threads
        33,
    )
)


class Forward:
    """Signal handlers that pass each signal on; what comes before there is a sandbox is kept for it."""

    def __init__(self) -> None:
        self.sandbox: Sandbox | None = None
        self.pending: list[int] = []
        self.ignored = {n for n in range(1, 65) if n not in NOT_FORWARDED and _signal.getsignal(n) == _signal.SIG_IGN}

    def __enter__(self) -> Forward:
        for number in range(1, 65):
            if number not in NOT_FORWARDED and number not in self.ignored:  # nohup's stays ignored
                _signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number in range(1, 65):
            if number not in NOT_FORWARDED and number not in self.ignored:
                _signal.signal(number, _signal.SIG_DFL)

    def _handle(self, number: int, _: object) -> None:
        if self.sandbox is None:
            self.pending.append(number)
            return
        try:
            self.sandbox.signal(number)
        except SandboxGone:  # it has just ended: its status says so
            return

    def to(self, sandbox: Sandbox) -> None:
        """From now on signals go to this sandbox, those that came before first."""
        self.sandbox = sandbox
        for number in self.pending:
            self._handle(number, None)


def main(argv: list[str]) -> int:
    """Run ``nstool run`` with these words after it; the exit status."""
    spec, _ = options.parse(argv, OTHERS)
    if journal.stale():
        journal.cleanup()
    with Forward() as forward, launch(spec) as sandbox:
        forward.to(sandbox)
        if sandbox.terminal >= 0:
            from nstool.cli.relay import relay

            relay(sandbox)
        ended = sandbox.wait()
    explain(spec.limits.memory, ended)
    return ended.status


def explain(memory: int, ended: Exit) -> None:
    """Say on stderr what an exit status cannot say."""
    if ended.oom:
        print(f"nstool: something in the sandbox was killed for lack of memory (limits.memory = {memory} bytes)", file=sys.stderr)
    elif ended.init_killed:
        print("nstool: the sandbox's init was killed from outside", file=sys.stderr)


def __getattr__(name: str) -> object:
    # For --help and completion only: the running itself does without click.
    if name != "command":
        raise AttributeError(name)
    import click

    @click.command("run", params=options.click_options(), context_settings={"ignore_unknown_options": True})
    @click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[SPEC] -- COMMAND [ARGS]")
    def run(words: tuple[str, ...], **_: object) -> int:
        """Run a command in a sandbox, in the foreground.

        nstool run [OPTIONS] -- COMMAND [ARGS], or nstool run [OPTIONS] SPEC.toml [-- ARGS].
        With neither file nor options the sandbox is the strictest there is; each option loosens one thing.
        """
        return main(sys.argv[2:])

    return run
