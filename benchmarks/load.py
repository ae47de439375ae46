"""The load generator: a process that posts requests built beforehand, and does little else.

It shares the machine with what it measures, so it reads of an answer only the status and where it
ends, and says how much of a core it took.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import cast

import aiohttp
import msgspec
import uvloop

from benchmarks import story
from benchmarks.processes import Failed, answer_commands
from benchmarks.story import Chapter

HOST = "127.0.0.1"
CREATED_STATUS = b"201"


class Post(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Post a chapter as fast as it goes, `batch` events a request."""

    port: int
    connections: int
    batch: int
    chapter: Chapter


class Pace(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Post a chapter's events one by one, so many a second, however long the answers take."""

    port: int
    connections: int
    per_second: int
    chapter: Chapter


class Register(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Register the shop's trigger, once for each kind of events."""

    port: int
    connections: int
    deployment: str
    kinds: int


class Call(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Call a runner with a bare aiohttp client."""

    url: str
    body: str
    calls: int
    concurrency: int


class Worked(msgspec.Struct, frozen=True, kw_only=True):
    """When the work began and ended, by the machine's monotonic clock, and what it cost here."""

    started_at: float
    ended_at: float
    cpu_seconds: float

    @property
    def seconds(self) -> float:
        return self.ended_at - self.started_at


class Paced(msgspec.Struct, frozen=True, kw_only=True):
    """When each user's order was due to be completed, by the machine's monotonic clock."""

    completed_at: dict[str, float]


async def answer(command: Post | Pace | Register | Call) -> msgspec.Struct:
    match command:
        case Post():
            bodies = story.bodies(command.chapter, batch=command.batch)
            requests = [_request("POST", "/v1/events", body) for body in bodies]
            return await _send_all(requests, command.port, command.connections)
        case Register():
            return await _send_all(_registrations(command), command.port, command.connections)
        case Pace():
            return await _pace(command)
        case Call():
            return await _call(command)


def _request(method: str, path: str, body: bytes) -> bytes:
    head = (
        f"{method} {path} HTTP/1.1\r\nhost: {HOST}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _registrations(command: Register) -> list[bytes]:
    return [
        _request(
            "PUT",
            f"/v1/triggers/order-complete-{kind}",
            msgspec.json.encode(story.trigger(deployment=command.deployment, kind=kind)),
        )
        for kind in range(command.kinds)
    ]


async def _send_all(requests: Iterable[bytes], port: int, connections: int) -> Worked:
    waiting = iter(requests)
    async with _connected(port, connections) as connected:
        return await _timed(lambda: _each(connected, waiting))


async def _each(connected: "list[_Connection]", waiting: Iterator[bytes]) -> None:
    async def send_in_turn(connection: _Connection) -> None:
        for request in waiting:
            await connection.send(request)

    await asyncio.gather(*map(send_in_turn, connected))


async def _pace(command: Pace) -> Paced:
    """Time runs from when a post is due, so that a slow answer cannot hide the next one's delay."""
    posts = list(story.events(command.chapter))
    completed_at: dict[str, float] = {}
    async with _connected(command.port, command.connections) as connected:
        free: asyncio.Queue[_Connection] = asyncio.Queue()
        for connection in connected:
            free.put_nowait(connection)

        async def send(connection: _Connection, event: bytes) -> None:
            await connection.send(_request("POST", "/v1/events", event))
            free.put_nowait(connection)

        started_at = time.monotonic()
        async with asyncio.TaskGroup() as sending:
            for index, (user, event) in enumerate(posts):
                due_at = started_at + index / command.per_second
                await asyncio.sleep(max(0.0, due_at - time.monotonic()))
                if story.COMPLETE.encode() in event:
                    completed_at[story.user_id(user)] = due_at
                sending.create_task(send(await free.get(), event))
    return Paced(completed_at=completed_at)


async def _call(command: Call) -> Worked:
    body = command.body.encode()
    calls = iter(range(command.calls))
    connector = aiohttp.TCPConnector(limit=command.concurrency)
    headers = {"content-type": "application/json"}
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:

        async def call_in_turn() -> None:
            for _ in calls:
                async with session.post(command.url, data=body) as response:
                    await response.read()
                    if response.status != 200:
                        raise Failed(f"the runner answered {response.status}")

        async def call_all() -> None:
            await asyncio.gather(*(call_in_turn() for _ in range(command.concurrency)))

        return await _timed(call_all)


async def _timed(work: Callable[[], Awaitable[None]]) -> Worked:
    cpu_before, started_at = time.process_time(), time.monotonic()
    await work()
    return Worked(
        started_at=started_at,
        ended_at=time.monotonic(),
        cpu_seconds=time.process_time() - cpu_before,
    )


@asynccontextmanager
async def _connected(port: int, count: int) -> AsyncIterator["list[_Connection]"]:
    loop = asyncio.get_running_loop()
    connected = []
    try:
        for _ in range(count):
            _, connection = await loop.create_connection(_Connection, HOST, port)
            connected.append(connection)
        yield connected
    finally:
        for connection in connected:
            connection.close()


class _Connection(asyncio.Protocol):
    """One request at a time on one connection that is kept."""

    def __init__(self) -> None:
        self._answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._received = bytearray()
        self._missing: int | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods and not the class.
        self._transport = cast(asyncio.WriteTransport, transport)

    async def send(self, request: bytes) -> None:
        """Send it, and wait until it is answered.

        Raises:
            Failed: it is answered with anything but 201.
        """
        self._answered = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        await self._answered

    def data_received(self, data: bytes) -> None:
        if self._missing is not None:
            self._missing -= len(data)
        else:
            self._received += data
            head_ends = self._received.find(b"\r\n\r\n")
            if head_ends < 0:
                return
            head = bytes(self._received[:head_ends])
            self._missing = head_ends + 4 + _content_length(head) - len(self._received)
            if head[9:12] != CREATED_STATUS:
                said = self._received[head_ends + 4 :].decode(errors="replace")
                self._fail(f"HTTP {head[9:12].decode()}: {said[:300]}")
        if self._missing <= 0:
            self._missing = None
            self._received.clear()
            if not self._answered.done():
                self._answered.set_result(None)

    def connection_lost(self, _: Exception | None) -> None:
        self._fail("the server closed the connection")

    def close(self) -> None:
        self._answered.cancel()
        self._transport.close()

    def _fail(self, why: str) -> None:
        if not self._answered.done():
            self._answered.set_exception(Failed(why))


def _content_length(head: bytes) -> int:
    _, _, after = head.lower().partition(b"content-length:")
    return int(after.partition(b"\r\n")[0])


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(answer_commands(Post | Pace | Register | Call, answer, port=0))
