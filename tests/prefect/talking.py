"""A WebSocket client that says exactly what a test wants."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import wsproto
from wsproto import events

WITHIN_SECONDS = 30.0
CHUNK_BYTES = 64 * 1024


class Refused(Exception):
    """The handshake was answered with a status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Talk:
    """One connection. Pings of the server are answered by themselves."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.conn = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        self.subprotocol: str | None = None
        self._reader = reader
        self._writer = writer
        self._heard: list[events.Event] = []

    async def send(self, *documents: Any) -> None:
        """Each as a message: text as it is, anything else as JSON."""
        for document in documents:
            text = document if isinstance(document, str | bytes) else json.dumps(document)
            message: Any = events.Message(data=text)
            self._writer.write(self.conn.send(message))
        await self._writer.drain()

    async def ping(self, payload: bytes = b"?") -> None:
        self._writer.write(self.conn.send(events.Ping(payload=payload)))
        await self._writer.drain()

    async def pong(self) -> bytes:
        """The payload of the next pong."""
        return bytes((await self._next(events.Pong)).payload)

    async def document(self) -> Any:
        """The next message."""
        text = ""
        while True:
            message = await self._next(events.TextMessage)
            text += message.data
            if message.message_finished:
                return json.loads(text)

    async def closed(self) -> tuple[int, str]:
        """The code and the reason with which the server closes."""
        found = await self._next(events.CloseConnection)
        return found.code, found.reason or ""

    async def close(self) -> tuple[int, str]:
        """Close, and wait for the answer."""
        self._writer.write(self.conn.send(events.CloseConnection(code=1000)))
        return await self.closed()

    async def _next(self, kind: Any) -> Any:
        async with asyncio.timeout(WITHIN_SECONDS):
            while True:
                for index, event in enumerate(self._heard):
                    if isinstance(event, kind):
                        del self._heard[index]
                        return event
                try:
                    read = await self._reader.read(CHUNK_BYTES)
                except ConnectionResetError:
                    read = b""
                self._hear(read)

    def _hear(self, read: bytes) -> None:
        self.conn.receive_data(read or None)
        for event in self.conn.events():
            if isinstance(event, events.Ping):
                self._writer.write(self.conn.send(event.response()))
            elif isinstance(event, events.AcceptConnection):
                self.subprotocol = event.subprotocol
            elif isinstance(event, events.RejectConnection):
                raise Refused(event.status_code)
            self._heard.append(event)

    async def opened(self, request: events.Request) -> None:
        self._writer.write(self.conn.send(request))
        await self._next(events.AcceptConnection)


@asynccontextmanager
async def talking(
    url: str,
    path: str,
    *,
    subprotocols: Sequence[str] = ("prefect",),
    headers: dict[str, str] | None = None,
) -> AsyncIterator[Talk]:
    """An open connection to `url`, which is the server's; dropped at the end as it is.

    Raises:
        Refused: the server does not open one.
    """
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    talk = Talk(reader, writer)
    given = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    try:
        await talk.opened(
            events.Request(
                host=parts.netloc,
                target=path,
                subprotocols=list(subprotocols),
                extra_headers=given,
            )
        )
        yield talk
    finally:
        writer.close()


@asynccontextmanager
async def authenticated(url: str, path: str, token: str | None = None) -> AsyncIterator[Talk]:
    """A connection on which the first messages are exchanged."""
    async with talking(url, path) as talk:
        await talk.send({"type": "auth", "token": token})
        assert await talk.document() == {"type": "auth_success"}
        yield talk
