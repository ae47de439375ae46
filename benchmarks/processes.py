"""Processes of our own: started, asked over their standard input, and always ended."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec

ROOT = Path(__file__).parent.parent
ANSWER_BYTES_MAX = 64 * 1024 * 1024
ENDS_WITHIN_SECONDS = 40.0

Answer = TypeVar("Answer")
Command = TypeVar("Command")


class Failed(Exception):
    """The benchmark cannot go on, or what it counted is not what it should be."""


def expect(found: object, wanted: object, what: str) -> None:
    """A figure of work that was not done is worth nothing.

    Raises:
        Failed: they differ.
    """
    if found != wanted:
        raise Failed(f"{what}: {wanted} expected, {found} found")


def end_in_order() -> None:
    """SIGINT and SIGTERM end the processes and remove the directories; a second one is ignored."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    ending = False

    def end() -> None:
        nonlocal ending
        if not ending:
            ending = True
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end)


class Ready(msgspec.Struct, frozen=True):
    """The first thing a child says; the port is 0 for one that does not listen."""

    port: int


class Done(msgspec.Struct, frozen=True):
    """The answer to a command that asks nothing."""


class Child:
    """A module of ours that runs in a process of its own."""

    def __init__(self, process: Process, name: str) -> None:
        self._process = process
        self._name = name
        self.port = 0

    async def ready(self) -> None:
        self.port = (await self._answer(Ready)).port

    async def ask(self, command: msgspec.Struct, answer: type[Answer]) -> Answer:
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(command) + b"\n")
        await self._process.stdin.drain()
        return await self._answer(answer)

    async def _answer(self, answer: type[Answer]) -> Answer:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise Failed(f"{self._name} ended with status {await self._process.wait()}")
        return msgspec.json.decode(line, type=answer)


@asynccontextmanager
async def child(module: str) -> AsyncIterator[Child]:
    """Run `module` until the block ends."""
    async with running(
        [sys.executable, "-m", module],
        env=os.environ,
        cwd=ROOT,
        stdin=PIPE,
        stdout=PIPE,
        limit=ANSWER_BYTES_MAX,
    ) as process:
        started = Child(process, module)
        await started.ready()
        yield started


@asynccontextmanager
async def running(
    command: list[str], *, env: Mapping[str, str], cwd: Path, **options: Any
) -> AsyncIterator[Process]:
    """A process that is asked to end with the block, and killed if it does not.

    It is out of reach of the terminal's Ctrl-C: who started it ends it, in order.
    """
    process = await asyncio.create_subprocess_exec(
        *command, env=dict(env), cwd=cwd, start_new_session=True, **options
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), ENDS_WITHIN_SECONDS)
        finally:
            with suppress(ProcessLookupError):
                process.kill()


async def answer_commands(
    commands: type[Command] | Any, answer: Callable[[Command], Awaitable[msgspec.Struct]], port: int
) -> None:
    """The child's side: say that it is ready, then answer until nobody is there to ask."""
    reader = asyncio.StreamReader(limit=ANSWER_BYTES_MAX)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    decoder = msgspec.json.Decoder(commands)
    _say(Ready(port))
    while line := await reader.readline():
        _say(await answer(decoder.decode(line)))


def _say(message: msgspec.Struct) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(message) + b"\n")
    sys.stdout.buffer.flush()
