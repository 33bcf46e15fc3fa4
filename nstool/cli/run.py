"""``nstool run``: a sandbox in the foreground."""

from __future__ import annotations

import sys

from nstool.cli import options
from nstool.cli.forward import FORWARDED, Forward, Interrupted
from nstool.cli.priority import give_up
from nstool.errors import KernelError, NotSupported, NstoolError, SpecError, visible
from nstool.sandbox import journal
from nstool.sandbox.launch import Prepared, own_terminals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    import click

    from nstool.cli.supervise import Log
    from nstool.spec.check import Place
    from nstool.spec.model import Spec

    command: click.Command


OTHERS = {"--detach": False, "--log": True, "--log-size": True}
LOG_SIZE = "64M"


def main(argv: list[str]) -> int:
    """Run ``nstool run`` with these words after it; the exit status."""
    spec, others, place = options.parse(argv, OTHERS)
    clean_up()
    if not others:
        return _supervised(spec, place, lambda name: None)
    from nstool.cli.detach import detached
    from nstool.cli.main import report

    if "--detach" not in others:
        option = next(iter(others))
        raise SpecError("goes with --detach; in the foreground redirect the output", option)
    size = _log_size(spec, others)
    if spec.terminal == "always":
        raise SpecError("a detached sandbox has no terminal to relay", "--terminal")

    def run(stderr: int, started: Callable[[str], None], log: Log | None) -> int:
        try:
            return _supervised(spec.replace(terminal="never"), place, started, stderr, log)
        except Exception as error:
            return report(error)

    return detached(str(others.get("--log", "/dev/null")), size, run)


def _log_size(spec: Spec, others: dict[str, str | bool]) -> int:
    """Return how many bytes a log file may have, 0 for no limit. Raises SpecError."""
    from nstool.spec.values import size

    if "--log-size" in others and "--log" not in others:
        raise SpecError("goes with --log", "--log-size")
    try:
        wanted = size(others.get("--log-size", LOG_SIZE))
    except SpecError as error:
        raise SpecError(str(error), "--log-size") from None
    if wanted >= 1 << 63:
        raise SpecError("no file is that large; 0 is no limit", "--log-size")
    if spec.die_with_parent:
        return wanted
    if wanted and "--log-size" in others:
        why = (
            "a command that outlives its supervisor writes to the log itself: leave out --no-die-with-parent, or say 0"
        )
        raise SpecError(why, "--log-size")
    return 0


def clean_up() -> None:
    """Undo what killed launchers have left; what cannot be undone now does not keep anybody from working."""
    try:
        if journal.stale():
            journal.cleanup()
    except SpecError:  # NSTOOL_RUN_DIR
        raise
    except (NotSupported, KernelError):  # the run directory cannot be used: the launch says so if it needs it
        return
    except NstoolError as error:
        sys.stderr.write(f"nstool: warning: leftovers of another sandbox: {visible(str(error))}\n")


def _supervised(
    spec: Spec, place: Place, started: Callable[[str], None], stderr: int | None = None, log: Log | None = None
) -> int:
    """Launch, then become the supervisor. stderr: of a detached one, its log, or what leads to that log."""
    give_up(spec.limits.rlimits)
    with Forward() as forward:
        try:
            with forward.interruptible:  # nothing is made yet
                prepared = Prepared(spec, own_terminals(spec), listed=True)
            sandbox = prepared.launch(stderr=stderr, interruptible=forward.interruptible)
        except Interrupted as interrupted:
            return 128 + interrupted.number
        except (SpecError, NotSupported) as error:
            from nstool.spec.places import located  # late: most launches need no words

            raise located(error, place) from None
        try:
            started(sandbox.name)
            from nstool.cli.supervise import become

            become(sandbox, FORWARDED - forward.ignored, forward.pending, detached=stderr is not None, log=log)
        except BaseException:
            sandbox.close()
            raise
    raise AssertionError("exec returns only by an error")


def __getattr__(name: str) -> object:
    # For --help and completion only: the running itself does without click.
    if name != "command":
        raise AttributeError(name)
    import click

    own = [
        click.Option(["--detach"], is_flag=True, help="Go into the background once the command runs; print the name."),
        click.Option(["--log"], metavar="FILE", help="With --detach: append the command's output to FILE."),
        click.Option(
            ["--log-size"],
            metavar="SIZE",
            help=f"With --log: FILE grows no further, but for notes of nstool; {LOG_SIZE} by default, 0: no limit.",
        ),
    ]

    @click.command("run", params=[*own, *options.click_options()], context_settings={"ignore_unknown_options": True})
    @click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[SPEC] -- COMMAND [ARGS]")
    def run(words: tuple[str, ...], **_: object) -> int:
        """Run a command in a sandbox, in the foreground.

        nstool run [OPTIONS] -- COMMAND [ARGS], or nstool run [OPTIONS] SPEC.toml [-- ARGS].
        With neither file nor options the sandbox is the strictest that a normal service still runs in; an option
        loosens one thing, or, as --seccomp strict, --landlock-read and --net none do, tightens it.
        """
        return main(sys.argv[2:])

    return run
