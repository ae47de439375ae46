"""Renders the parameters that could cost too much in processes of their own, which may be killed.

Each renderer answers one render at a time over its standard input and output, in JSON, each
message with its length before it. It ends when its input does, so it never outlives the server.
"""

import asyncio
import contextlib
import functools
import os
import resource
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Self

import msgspec

from upshot.core.errors import Overloaded, Problem, UpshotError
from upshot.core.limits import (
    MIB,
    RENDER_MEMORY_BYTES_MAX,
    RENDER_SECONDS_MAX,
    RENDER_WAIT_SECONDS_MAX,
    RENDERER_PARAMETERS_CACHED_MAX,
    RENDERER_START_SECONDS_MAX,
    RENDERERS_MAX,
)
from upshot.core.templates import Parameters, RenderFailed, compile_parameters

_LENGTH_BYTES = 4
_HAS_ENDED = os.WEXITED | os.WNOHANG | os.WNOWAIT
_PASSED_ON = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
"""The environment of a renderer: enough to start, and none of the server's secrets."""


class _Answer(msgspec.Struct, omit_defaults=True):
    """What a renderer says: the parameters, or why there are none."""

    parameters: dict[str, Any] | None = None
    failed: str = ""
    problems: list[tuple[list[str | int], str]] = []


class Renderers:
    """A few child processes, started when first needed, replaced when killed.

    A render may take `seconds` of its process's CPU time (so that neither a busy machine nor a
    busy server makes a template fail) and `memory_bytes` more than the process has at rest.
    """

    def __init__(
        self,
        *,
        size: int = RENDERERS_MAX,
        seconds: float = RENDER_SECONDS_MAX,
        memory_bytes: int = RENDER_MEMORY_BYTES_MAX,
    ) -> None:
        self._size = size
        self._seconds = seconds
        self._memory_bytes = memory_bytes
        self._free = asyncio.Semaphore(size)
        self._all: set[_Renderer] = set()
        self._idle: list[_Renderer] = []
        self._stopped = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    async def render(self, source: Mapping[str, Any], context: Mapping[str, Any]) -> dict[str, Any]:
        """What `compile_parameters(source).render(context)` gives, or `RenderFailed`."""
        request = _message(_encoded(source)) + _message(_encoded(context))
        async with self._free:
            renderer = await self._take()
            try:
                async with asyncio.timeout(RENDER_WAIT_SECONDS_MAX):
                    answer = await renderer.ask(request)
            except (asyncio.IncompleteReadError, ConnectionError):
                raise self._failed(self._why(await self._end(renderer))) from None
            except TimeoutError:
                await self._end(renderer)
                raise self._failed(self._too_slow()) from None
            except BaseException:
                # Cancelled half-way: the answer would be taken for the next one's.
                await self._end(renderer)
                raise
            self._idle.append(renderer)
        if answer.parameters is None:
            problems = [Problem(tuple(loc), msg) for loc, msg in answer.problems]
            raise RenderFailed(answer.failed, problems)
        return answer.parameters

    def process_ids(self) -> list[int]:
        """Of the processes there are now, busy or idle."""
        return sorted(renderer.process_id for renderer in self._all)

    async def stop(self) -> None:
        """Wait for the renders under way, then end the processes."""
        if self._stopped:
            return
        self._stopped = True
        for _ in range(self._size):
            await self._free.acquire()
        while self._idle:
            await self._end(self._idle.pop())
        for _ in range(self._size):
            self._free.release()

    async def _take(self) -> "_Renderer":
        if self._stopped:
            raise Overloaded("The server is stopping; nothing is rendered any more.")
        while self._idle:
            renderer = self._idle.pop()
            if renderer.is_alive():
                return renderer
            await self._end(renderer)
        renderer = await _start(self._seconds, self._memory_bytes)
        self._all.add(renderer)
        return renderer

    async def _end(self, renderer: "_Renderer") -> int:
        self._all.discard(renderer)
        return await renderer.end()

    def _why(self, status: int) -> str:
        if status == -signal.SIGPROF:
            return self._too_slow()
        if status < 0:
            return f"the renderer was ended by {signal.Signals(-status).name}"
        return f"the renderer ended with status {status}"

    def _too_slow(self) -> str:
        return f"rendering took longer than {self._seconds:g} s"

    def _failed(self, reason: str) -> RenderFailed:
        return RenderFailed(
            f"The parameters could not be rendered: {reason}.", [Problem((), reason)]
        )


class _Renderer:
    """One child process, seen from the server."""

    def __init__(self, process: Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process_id = process.pid
        self._process = process
        self._stdin = process.stdin
        self._stdout = process.stdout

    def is_alive(self) -> bool:
        """Asked of the kernel, since the event loop learns of a death later."""
        try:
            return os.waitid(os.P_PID, self.process_id, _HAS_ENDED) is None
        except ChildProcessError:
            return False

    async def ready(self) -> None:
        await self._stdout.readexactly(_LENGTH_BYTES)

    async def ask(self, request: bytes) -> _Answer:
        self._stdin.write(request)
        await self._stdin.drain()
        length = int.from_bytes(await self._stdout.readexactly(_LENGTH_BYTES))
        return msgspec.json.decode(await self._stdout.readexactly(length), type=_Answer)

    async def end(self) -> int:
        """Kill it if it lives, and say what it died of."""
        if self._stdout.at_eof():
            # It is ending by itself; a kill now could hide the reason.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), timeout=1)
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._stdin.close()
        return await self._process.wait()


async def _start(seconds: float, memory_bytes: int) -> _Renderer:
    process = await asyncio.create_subprocess_exec(
        # -P: whatever lies in the working directory is not imported.
        *(sys.executable, "-P", "-m", "upshot.pipeline.render", str(seconds), str(memory_bytes)),
        stdin=PIPE,
        stdout=PIPE,
        env={name: os.environ[name] for name in _PASSED_ON if name in os.environ},
    )
    renderer = _Renderer(process)
    try:
        async with asyncio.timeout(RENDERER_START_SECONDS_MAX):
            await renderer.ready()
    except (asyncio.IncompleteReadError, TimeoutError):
        status = await renderer.end()
        raise Overloaded(f"A renderer could not be started: status {status}.") from None
    except BaseException:
        await renderer.end()
        raise
    return renderer


def _encoded(value: Any) -> bytes:
    return msgspec.json.encode(value, enc_hook=_plain_mapping)


def _plain_mapping(value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is no JSON")


def _message(body: bytes) -> bytes:
    return len(body).to_bytes(_LENGTH_BYTES) + body


# The child's side.


def _serve(seconds: float, memory_bytes: int) -> None:
    """Answer until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's to act on.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    _limit_memory(memory_bytes)
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    _write(answers, b"")
    while (source := _read(requests)) is not None and (context := _read(requests)) is not None:
        # The kernel ends the process when its time is over; nothing in it can prevent that.
        signal.setitimer(signal.ITIMER_PROF, seconds)
        answer = msgspec.json.encode(_answer(source, context, memory_bytes))
        signal.setitimer(signal.ITIMER_PROF, 0)
        _write(answers, answer)


def _limit_memory(more_bytes: int) -> None:
    """Where the system says how much is in use already; elsewhere time alone is limited."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        limit = int(statm.read_text().split()[0]) * resource.getpagesize() + more_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _answer(source: bytes, context: bytes, memory_bytes: int) -> _Answer:
    try:
        return _Answer(parameters=_compiled(source).render(msgspec.json.decode(context)))
    except MemoryError:
        reason = f"rendering needs more memory than {memory_bytes // MIB} MiB"
        return _Answer(
            failed=f"The parameters could not be rendered: {reason}.", problems=[([], reason)]
        )
    except UpshotError as error:
        problems = [(list(problem.loc), problem.msg) for problem in error.problems]
        return _Answer(failed=error.message, problems=problems)


@functools.lru_cache(maxsize=RENDERER_PARAMETERS_CACHED_MAX)
def _compiled(source: bytes) -> Parameters:
    return compile_parameters(msgspec.json.decode(source))


def _read(stream: BinaryIO) -> bytes | None:
    length = stream.read(_LENGTH_BYTES)
    return stream.read(int.from_bytes(length)) if len(length) == _LENGTH_BYTES else None


def _write(stream: BinaryIO, body: bytes) -> None:
    stream.write(_message(body))
    stream.flush()


if __name__ == "__main__":
    _serve(float(sys.argv[1]), int(sys.argv[2]))
