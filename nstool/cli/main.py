"""The command ``nstool``: finds the sub-command, turns exceptions into messages and exit statuses."""

from __future__ import annotations

import _signal
import os
import sys
from errno import ENOSPC

from nstool.errors import KernelError, NstoolError, SandboxGone, SpecError, visible
from nstool.sandbox import spare

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

BAD_REQUEST = 2
CANNOT = 125
NOT_EXECUTABLE = 126
NOT_FOUND = 127
READER_GONE = 128 + 13  # as of a program that SIGPIPE ends

FILES = 28  # that a command may have open at once, besides the standard streams: a launch has most

# Sub-command to (module, one sentence). A module is imported when its command is called.
COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("nstool.cli.run", "Run a command in a sandbox."),
    "serve": ("nstool.cli.serve", "Give each connection to a service a sandbox of its own."),
    "service": ("nstool.cli.service", "See and steer a running service."),
    "plan": ("nstool.cli.plan", "Show the exact steps that run would take."),
    "check": ("nstool.cli.check", "Say what this host cannot do, of a spec or at all."),
    "compile": ("nstool.cli.compile", "Write a plan that nsexec runs without Python."),
    "init": ("nstool.cli.init_", "Write a commented starter spec."),
    "schema": ("nstool.cli.schema", "Print the JSON Schema of a spec file."),
    "ps": ("nstool.cli.ps", "List the running sandboxes."),
    "ls": ("nstool.cli.ls", "List every namespace of the host, and what keeps it."),
    "map": ("nstool.cli.map", "Draw the namespaces and processes of the host."),
    "show": ("nstool.cli.show", "Show what isolates a sandbox or a process."),
    "mounts": ("nstool.cli.mounts", "Show the mounts of a process: reached, covered, shared with whom."),
    "path": ("nstool.cli.path", "Say what a path of a process is here, or a file of yours is there."),
    "ipc": ("nstool.cli.ipc", "List, remove and limit the objects of an IPC namespace."),
    "cgroups": ("nstool.cli.cgroups", "Show cgroups: which limits hold, who set them, what is used."),
    "pid": ("nstool.cli.pid", "Show the numbers of a process in nested pid namespaces."),
    "creds": ("nstool.cli.creds", "Show whose a process is, inside and outside."),
    "task": ("nstool.cli.task", "Show all that the kernel tells of a process."),
    "net": ("nstool.cli.net", "Show the network of a process, with its other ends."),
    "aslr": ("nstool.cli.aslr", "Measure how addresses are randomised."),
    "attest": ("nstool.cli.attest", "Check that a sandbox or a process still is what its spec asks for."),
    "diff": ("nstool.cli.diff", "Say in what two processes differ, and what that means."),
    "caps": ("nstool.cli.caps", "Explain capabilities of processes and files."),
    "can": ("nstool.cli.can", "Say whether a process may act on another, and why."),
    "seccomp": ("nstool.cli.seccomp", "Show, ask, convert and learn lists of system calls."),
    "exec": ("nstool.cli.exec_", "Run a command in a running sandbox."),
    "signal": ("nstool.cli.signal_", "Send a signal to a sandbox's command."),
    "wait": ("nstool.cli.wait", "Wait for the end of a sandbox; exit with its command's status."),
    "stop": ("nstool.cli.stop", "End a sandbox: SIGTERM, later SIGKILL."),
    "enter": ("nstool.cli.enter", "Run a command in the namespaces of a process or file."),
    "pin": ("nstool.cli.pin", "Keep the namespaces of a process alive as files."),
    "unpin": ("nstool.cli.unpin", "Let pinned namespaces go."),
    "cleanup": ("nstool.cli.cleanup", "Undo what killed launchers have left."),
}


def main() -> None:
    """Run the command line and exit."""
    status = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except OSError:  # said already; Python would say it once more, with a status of its own
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(status)


def run(argv: list[str]) -> int:
    """Run the command line; the exit status."""
    _open_streams()
    try:
        spare.need(FILES)
    except KernelError as error:
        return report(error)
    _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)  # ignored by who started us, it would reap our children
    try:
        if argv and argv[0] == "run" and not _asks_help(argv[1:]):
            import gc

            gc.disable()  # looking for garbage takes a twentieth of the time, and this process soon execs
            from nstool.cli.run import main as fast

            interrupts()
            status = fast(argv[1:])
        else:
            status = _click(argv)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader of our output has gone; what it wanted, it has
        status = READER_GONE
    except (Exception, KeyboardInterrupt) as error:
        status = report(error)
    _flush(sys.stdout)
    return status


def interrupts() -> None:
    """From here on SIGINT raises KeyboardInterrupt, so that what was begun is undone; an ignored one stays so."""
    if _signal.getsignal(_signal.SIGINT) == _signal.SIG_DFL:
        _signal.signal(_signal.SIGINT, _signal.default_int_handler)


def _open_streams() -> None:
    """Open /dev/null for standard streams that are closed, or the next file that is opened would be one."""
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
            setattr(sys, name, os.fdopen(fd, "w" if fd else "r", closefd=False))


def _flush(stream: TextIO) -> None:
    """Write what is left, or drop it: at the end the interpreter would try again, with a traceback and status 120."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _asks_help(words: list[str]) -> bool:
    for word in words:
        if word == "--":
            return False
        if word in ("--help", "-h"):
            return True
    return False


def report(error: BaseException) -> int:
    """Print an error as one message; the exit status that goes with it. A bug of ours is said to be one."""
    if isinstance(error, KeyboardInterrupt):
        return 130
    text = str(error)
    status = CANNOT
    if isinstance(error, (SpecError, SandboxGone)):
        status = BAD_REQUEST
    elif isinstance(error, KernelError) and error.call.startswith("execve("):
        status = NOT_FOUND if error.errno in (2, 20) else NOT_EXECUTABLE
    elif isinstance(error, OSError) and not isinstance(error, KernelError):
        # Who writes to a file of ours names it; what has no name is a stream that we were given.
        name = error.filename or ("standard output" if error.errno == ENOSPC else "")
        text = f"{name}: {error.strerror}" if name else str(error.strerror or error)
    elif isinstance(error, MemoryError):
        text = "out of memory"
    elif not isinstance(error, (NstoolError, OSError)):
        if os.environ.get("NSTOOL_DEBUG"):
            raise error
        text = f"a bug of nstool: {type(error).__name__}: {error}; NSTOOL_DEBUG=1 shows where, please report it"
    _say(text)
    return status


def _say(text: str) -> None:
    try:
        print(f"nstool: {visible(text)}", file=sys.stderr)
    except OSError:  # nobody can be told; the status says it
        _flush(sys.stderr)


def _click(argv: list[str]) -> int:
    import click

    from nstool.cli import watch
    from nstool.cli.group import group

    if argv and argv[0] in watch.COMMANDS:
        watch.watch()
    try:
        result = group.main(args=argv, prog_name="nstool", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.Abort:
        return 130
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return BAD_REQUEST
    except click.ClickException as error:
        where = error.ctx if isinstance(error, click.UsageError) else None
        said = ""
        if where and isinstance(error, click.NoSuchOption):
            from nstool.cli import foreign

            said = foreign.option(error.option_name, [name for param in where.command.params for name in param.opts])
        said = said or (f"see {where.command_path} --help" if where else "")
        text = error.format_message()
        if isinstance(error, click.MissingParameter):  # with what can be chosen, a line each
            text = " ".join(text.split())
        _say(text.rstrip(".") + (f"; {said}" if said else ""))
        return BAD_REQUEST


if __name__ == "__main__":
    main()
