"""A real HTTP receiver that answers as it is told, well or badly, and tells what it was sent."""

import asyncio
import gzip
import io
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Self

SIGNAL_WITHIN_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Call:
    """A request that came in. Names of headers are in lower case; `connection` counts from 1."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    connection: int


class Peer:
    """The caller's end of a connection, as a behaviour sees it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.bytes_sent = 0

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()
        self.bytes_sent += len(data)

    async def hung_up(self, *, within: float | None = None) -> bool:
        """Wait until the caller closes the connection; False when it has not by then."""
        try:
            async with asyncio.timeout(within):
                return not await self._reader.read(1)
        except TimeoutError:
            return False

    def close(self) -> None:
        self._writer.close()

    def reset(self) -> None:
        """Close so that the caller sees a reset, not an end."""
        linger_no_time = struct.pack("ii", 1, 0)
        connection = self._writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_no_time)
        self._writer.transport.abort()

    @property
    def closed(self) -> bool:
        return self._writer.is_closing()


Behaviour = Callable[[Peer], Awaitable[None]]


def reply(
    status: int = 200, body: bytes = b"", *, headers: Mapping[str, str] | None = None
) -> Behaviour:
    """A plain answer, after which the connection stays open."""

    async def behave(peer: Peer) -> None:
        await peer.send(_head(status, {"content-length": str(len(body)), **(headers or {})}) + body)

    return behave


def hang() -> Behaviour:
    """Nothing at all, until the caller gives up."""

    async def behave(peer: Peer) -> None:
        await peer.hung_up()
        peer.close()

    return behave


def drip(*, every_seconds: float = 0.02) -> Behaviour:
    """A status, then a byte at a time for as long as the caller waits."""

    async def behave(peer: Peer) -> None:
        await peer.send(_head(200, {"content-length": "1000000"}))
        while not await peer.hung_up(within=every_seconds):
            await peer.send(b".")
        peer.close()

    return behave


def drop(partial: bytes = b"") -> Behaviour:
    """The connection is closed, after these bytes if any."""

    async def behave(peer: Peer) -> None:
        await peer.send(partial)
        peer.close()

    return behave


def flood(*, total_bytes: int) -> Behaviour:
    """A body without end, or as much of it as the caller takes."""

    async def behave(peer: Peer) -> None:
        chunk = bytes(64 * 1024)
        await peer.send(_head(200, {"content-length": str(total_bytes)}))
        for _ in range(total_bytes // len(chunk)):
            await peer.send(chunk)

    return behave


def gzip_bomb(*, total_bytes: int) -> Behaviour:
    """A small body that says it is gzip, and would unpack to this much."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=1) as file:
        for _ in range(total_bytes // 2**20):
            file.write(bytes(2**20))
    return reply(200, packed.getvalue(), headers={"content-encoding": "gzip"})


class Receiver:
    """Answers each call with the next behaviour of the script, and with the last one from then on.

    Use it as an async context manager. Its methods wait for signals, and fail after a while.
    """

    def __init__(self, *script: Behaviour) -> None:
        self._script = deque(script or (reply(),))
        self._changed = asyncio.Condition()
        self._serving: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self.calls: list[Call] = []
        self.connections = 0
        self.connections_closed = 0
        self.bytes_sent = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1_024)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._serving.values():
            writer.transport.abort()
        await asyncio.gather(*self._serving, return_exceptions=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/run"

    async def called(self, times: int = 1) -> list[Call]:
        """Wait until this many calls have come."""
        await self._until(lambda: len(self.calls) >= times)
        return self.calls

    async def left_alone(self) -> None:
        """Wait until every connection is closed."""
        await self._until(lambda: self.connections_closed == self.connections)

    async def _until(self, claim: Callable[[], bool]) -> None:
        async with asyncio.timeout(SIGNAL_WITHIN_SECONDS), self._changed:
            await self._changed.wait_for(claim)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving[task] = writer
        self.connections += 1
        number = self.connections
        peer = Peer(reader, writer)
        try:
            while not peer.closed:
                await self._note(await _read_call(reader, connection=number))
                behave = self._script[0] if len(self._script) == 1 else self._script.popleft()
                await behave(peer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            del self._serving[task]
            self.bytes_sent += peer.bytes_sent
            self.connections_closed += 1
            async with self._changed:
                self._changed.notify_all()

    async def _note(self, call: Call) -> None:
        async with self._changed:
            self.calls.append(call)
            self._changed.notify_all()


async def _read_call(reader: asyncio.StreamReader, *, connection: int) -> Call:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    request_line, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
    method, path, _ = request_line.split(" ", 2)
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Call(method, path, headers, body, connection)


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} Whatever", *(f"{name}: {text}" for name, text in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
