"""The same for asyncio: the loop is never blocked, not by a launch and not by waiting."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from nstool.sandbox.launch import Exit, Sandbox, check_timeout, ends_within, launch, still_runs
from nstool.spec.model import Spec

if TYPE_CHECKING:
    from types import TracebackType

    from nstool.network.facts import Addresses


class AsyncSandbox:
    """A sandbox for asyncio: an asynchronous context manager; leaving it ends the sandbox and undoes it.

    sandbox: the same one for synchronous use.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox

    async def wait(self, timeout: float | None = None) -> Exit:
        """Wait for the end, undo what was made, and return how the command ended.

        timeout: seconds; raises TimeoutError. Called again, it returns the same.
        """
        check_timeout(timeout)
        if not self.sandbox.ended and not ends_within(self.pidfd, 0):
            try:
                async with asyncio.timeout(timeout):
                    await _readable(self.pidfd)
            except TimeoutError:
                raise still_runs(f"sandbox {self.name!r}", timeout) from None
        return await asyncio.to_thread(self.sandbox.wait)

    def signal(self, number: int) -> None:
        """Send a signal to the command. Raises SandboxGone when it has ended."""
        self.sandbox.signal(number)

    def kill(self) -> None:
        """End everything in it at once."""
        self.sandbox.kill()

    @property
    def name(self) -> str:
        """The name by which `nstool exec` and others find it."""
        return self.sandbox.name

    @property
    def pid(self) -> int:
        """Pid of the command as the caller sees it. Raises SandboxGone when it has ended."""
        return self.sandbox.pid

    @property
    def pidfd(self) -> int:
        """Pidfd of init; poll it for readability to learn of the end. pidfd_open(2)."""
        return self.sandbox.pidfd

    async def addresses(self) -> Addresses:
        """Return the links, addresses and routes of its network namespace, read from there by a thread."""
        return await asyncio.to_thread(lambda: self.sandbox.addresses)

    async def exec(
        self,
        *command: str,
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
        user: str | None = None,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
    ) -> Exit:
        """Run another command in the sandbox and wait for its end; arguments and errors as ``Sandbox.exec``."""
        joined = await asyncio.to_thread(
            self.sandbox.exec, *command, stdin=stdin, stdout=stdout, stderr=stderr, user=user, cwd=cwd, env=env
        )
        try:
            await _readable(joined.pidfd)
            return await asyncio.to_thread(joined.wait)
        finally:
            await asyncio.to_thread(joined.close)

    async def close(self) -> None:
        """End the sandbox if it runs, and undo what was made."""
        await asyncio.to_thread(self.sandbox.close)

    async def __aenter__(self) -> AsyncSandbox:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


async def launch_async(
    spec: Spec,
    *,
    stdin: int | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
    pass_fds: tuple[int, ...] | None = None,
) -> AsyncSandbox:
    """Make the sandbox of a spec in a thread of the loop's pool; arguments and errors as ``launch``.

    When the task is cancelled meanwhile, the sandbox that comes of it is ended at once.
    """
    making = asyncio.to_thread(launch, spec, stdin=stdin, stdout=stdout, stderr=stderr, pass_fds=pass_fds)
    task = asyncio.ensure_future(making)
    try:
        return AsyncSandbox(await asyncio.shield(task))
    except asyncio.CancelledError:
        task.add_done_callback(_end)
        raise


def _end(task: asyncio.Future[Sandbox]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()


async def _readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def ready() -> None:
        loop.remove_reader(fd)
        if not future.done():
            future.set_result(None)

    loop.add_reader(fd, ready)
    try:
        await future
    finally:
        loop.remove_reader(fd)
