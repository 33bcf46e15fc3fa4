"""Ask checks in one sandbox: the probe is its command, and answers line by line; what is outside is read meanwhile."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from nstool.sandbox.launch import Sandbox, launch
from nstool.spec.model import Spec
from tests.kernel.adversary.base import Answer, Check, answer

HERE = Path(__file__).parent
SOURCES = ("probe.c", "special.c", "used_up.c")
INHERITED = 50  # an fd that the launcher has open, for a child to inherit


def build(directory: Path) -> str:
    """Compile the probe, without libraries that a root would have to have; return its path."""
    program = directory / "adversary-probe"
    sources = [str(HERE / name) for name in SOURCES]
    subprocess.run(["gcc", "-Wall", "-Wextra", "-Werror", "-static", "-o", program, *sources], check=True)
    secret = directory / "adversary-secret"
    secret.write_text("everybody may read this\n")
    secret.chmod(0o644)
    return str(program)


class View:
    """What the outside can look at, and ask, while the sandbox stands.

    secret: a file of the host, readable by all. environment: a variable that the launcher has.
    """

    def __init__(self, sandbox: Sandbox, program: str, secret: str, to: TextIO, answers: TextIO) -> None:
        self.sandbox = sandbox
        self.pid = sandbox.pid
        self.program = program
        self.secret = secret
        self._to = to
        self._answers = answers

    def file(self, path: str) -> Answer:
        """The content of a file outside."""
        return Answer(text=Path(path).read_text())

    def ask(self, *words: str, meanwhile: Callable[[], object] = lambda: None) -> Answer:
        """What comes of a question inside. meanwhile: is called when it has been asked."""
        self._to.write("\t".join(words) + "\n")
        self._to.flush()
        meanwhile()
        line = self._answers.readline()
        if not line and self.sandbox.wait(20).oom:  # the kernel has taken more than the child
            return Answer(signal="SIGKILL")
        assert line, f"{words}: the probe has ended"
        return answer(json.loads(line))

    def beside(self, words: tuple[str, ...], user: str | None = None) -> Answer:
        """What comes of a question in another command of the sandbox."""
        inner_in, to = os.pipe()
        answers, inner_out = os.pipe()
        with open(answers) as reader:
            try:
                joined = self.sandbox.exec(self.program, stdin=inner_in, stdout=inner_out, stderr=inner_out, user=user)
            finally:
                os.close(inner_in)
                os.close(inner_out)
            with open(to, "w") as writer:
                writer.write("\t".join(words) + "\n")
            line = reader.readline()
            joined.wait()
        return answer(json.loads(line))


@contextmanager
def launched(program: str, words: dict[str, Any]) -> Iterator[View]:
    """A sandbox of the defaults whose command is the probe. words: changes of the spec.

    The launcher has what must not get inside: an inheritable directory, a variable, a file that all may read.
    """
    spec = Spec(**{"command": (program,), **words})
    directory = Path(program).parent
    secret = directory / "adversary-secret"
    inner_in, to = os.pipe()
    answers, inner_out = os.pipe()
    log = os.open(f"/tmp/nst-adversary-{os.getpid()}", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
    os.unlink(f"/tmp/nst-adversary-{os.getpid()}")
    os.dup2(os.open("/", os.O_PATH | os.O_DIRECTORY), INHERITED, inheritable=True)
    os.environ["ADVERSARY_SECRET"] = "of the launcher"
    with open(answers) as reader, open(to, "w") as writer:
        try:
            sandbox = launch(spec, stdin=inner_in, stdout=inner_out, stderr=log)
        finally:
            for fd in (inner_in, inner_out, log):
                os.close(fd)
        with sandbox:
            yield View(sandbox, program, str(secret), writer, reader)
            writer.close()
            ended = sandbox.wait(20)
            assert ended.status == 0 or ended.oom


def measure(checks: Iterable[Check], program: str, words: dict[str, Any]) -> dict[str, Answer]:
    """Return what comes of each check in one sandbox. In a child: the launcher's own fds are changed."""
    with launched(program, words) as view:
        return {check.name: check.ask(view) if callable(check.ask) else view.ask(*check.ask) for check in checks}


def red(checks: Iterable[Check], found: dict[str, Answer]) -> dict[str, str]:
    """Return the checks that do not hold: name to what came instead."""
    return {
        check.name: f"{found[check.name]}, but it {check.expected.words}"
        for check in checks
        if check.name in found and not check.expected.test(found[check.name])
    }
