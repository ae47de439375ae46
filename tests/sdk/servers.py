"""Programs that talk to a server."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

SAID_WITHIN_SECONDS = 60.0
STOPS_WITHIN_SECONDS = 35.0


class Program:
    """A Python program as a user would start it, and the lines it has written."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.lines: list[str] = []
        self._said = asyncio.Condition()
        assert process.stdout is not None
        self._reading = asyncio.create_task(self._read(process.stdout))

    async def said(self, text: str, *, times: int = 1) -> None:
        """Wait until so many lines hold this text."""

        def told() -> bool:
            return self.count(text) >= times or self._reading.done()

        async with asyncio.timeout(SAID_WITHIN_SECONDS), self._said:
            await self._said.wait_for(told)
        assert self.count(text) >= times, self.lines

    def count(self, text: str) -> int:
        return sum(text in line for line in self.lines)

    async def end(self, number: signal.Signals | None = None) -> int:
        """Send it a signal, if one is given, and wait until it has ended and all is read."""
        if number is not None and self.process.returncode is None:
            self.process.send_signal(number)
        async with asyncio.timeout(STOPS_WITHIN_SECONDS):
            status = await self.process.wait()
        await self._reading
        return status

    async def _read(self, stream: asyncio.StreamReader) -> None:
        async for line in stream:
            async with self._said:
                self.lines.append(line.decode().rstrip())
                self._said.notify_all()
        async with self._said:
            self._said.notify_all()


@asynccontextmanager
async def program(*command: str | Path, url: str) -> AsyncIterator[Program]:
    """Run it with the server's address in its environment; killed at the end if it still runs."""
    arguments: Sequence[str] = [str(one) for one in command]
    running = Program(
        await asyncio.create_subprocess_exec(
            sys.executable, *arguments,
            env={**os.environ, "UPSHOT_API_URL": url},
            stdin=DEVNULL, stdout=PIPE, stderr=asyncio.subprocess.STDOUT, limit=2**20,
        )
    )  # fmt: skip
    try:
        yield running
    finally:
        await running.end(signal.SIGKILL)
