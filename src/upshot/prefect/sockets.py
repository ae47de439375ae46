"""What the WebSockets have in common: how they open, are admitted, read, and closed."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, cast

import msgspec
import structlog
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.requests import HTTPConnection
from starlette.types import Receive, Send
from starlette.types import Scope as Conversation

from upshot.api.auth import Guard, key_of_pair, token_of
from upshot.api.problems import answer_to
from upshot.api.services import Services
from upshot.core.errors import Unauthenticated, UpshotError
from upshot.core.limits import (
    SOCKET_AUTHENTICATED_WITHIN,
    SOCKET_OPENED_WITHIN,
    SOCKET_REASON_BYTES_MAX,
    SOCKETS_MAX,
)
from upshot.prefect.protocol import HOLDS
from upshot.storage.api_keys import Scope
from upshot.storage.database import is_away

POLICY_VIOLATION: Final = 1008
MISTAKE: Final = 1011
TRY_AGAIN_LATER: Final = 1013
PROTOCOL_ERROR: Final = 1002

_SUBPROTOCOL: Final = "prefect"
_LOOK_EVERY_SECONDS: Final = 0.1
_NO_KEY: Final = (
    "An API key is needed: set PREFECT_API_AUTH_STRING, "
    "since PREFECT_API_KEY is not sent on this socket."
)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Ping:
    """The client wants to hear that all it sent before has been seen to."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Gone:
    """Nothing more comes: the client closes, or is away, or the server stops."""


Arrived = bytes | Ping | Gone


class Closed(Exception):
    """The socket is closed, and there is nothing more to say on it."""


class Socket:
    """One connection. What has been received and not been taken yet waits here."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._arrived: deque[Arrived] = deque()

    async def next(self) -> Arrived:
        if not self._arrived:
            await self._wait()
        return self._arrived.popleft()

    async def all(self) -> list[Arrived]:
        """All that has arrived, at least one; where pings are held, as much as was read at once."""
        if not self._arrived:
            await self._wait()
        arrived = list(self._arrived)
        self._arrived.clear()
        return arrived

    async def _wait(self) -> None:
        message = await self._receive()
        for one in message.get("messages", (message,)):
            match one["type"]:
                case "websocket.receive":
                    text = one.get("text")
                    self._arrived.append(text.encode() if text is not None else one["bytes"])
                case "websocket.ping":
                    self._arrived.append(Ping(one["bytes"]))
                case "websocket.disconnect":
                    self._arrived.append(Gone())

    async def say(self, document: Any) -> None:
        await self.send({"type": "websocket.send", "text": msgspec.json.encode(document).decode()})

    async def pong(self, ping: Ping) -> None:
        await self.send({"type": "websocket.pong", "bytes": ping.payload})

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close, or answer the client's closing."""
        short = reason.encode()[:SOCKET_REASON_BYTES_MAX].decode(errors="ignore")
        await self.send({"type": "websocket.close", "code": code, "reason": short})

    async def abort(self) -> None:
        """Drop the connection, and what is not sent yet."""
        await self.send({"type": "upshot.abort"})

    async def send(self, message: Any) -> None:
        """Raises Closed where it is too late."""
        try:
            await self._send(message)
        except (OSError, RuntimeError) as error:
            raise Closed from error


class Sockets:
    """The sockets of this process, which are bounded."""

    def __init__(self) -> None:
        self.count = 0

    @asynccontextmanager
    async def opened(
        self, scope: Conversation, receive: Receive, send: Send, *, needs: Scope, holds: bool
    ) -> AsyncIterator[Socket | None]:
        """A socket whose client may do what it asks for; None: it was refused, and told why.

        What is raised in the block closes the socket. A client that is refused for the moment is
        let in first and then told to try again later (1013), since it takes a refused handshake for
        final.
        """
        await receive()
        socket = Socket(receive, send)
        self.count += 1
        try:
            admitted = await _admit(scope, receive, socket, needs=needs, holds=holds, room=self)
            yield socket if admitted else None
        except Closed:
            pass
        except Exception as error:
            await _close_for(error, socket)
        finally:
            self.count -= 1


async def _close_for(error: Exception, socket: Socket) -> None:
    code, reason = MISTAKE, "Upshot made a mistake; its log says more."
    if _is_passing(error):
        code, reason = TRY_AGAIN_LATER, "The database is away. Try again."
    else:
        log.error("socket_raised", exc_info=error)
    try:
        await socket.close(code, reason)
    except Closed:
        return


async def _admit(
    scope: Conversation,
    receive: Receive,
    socket: Socket,
    *,
    needs: Scope,
    holds: bool,
    room: Sockets,
) -> bool:
    connection = HTTPConnection(scope)
    services = cast(Services, scope["app"].state.services)
    guard = cast(Guard, scope["app"].state.guard)
    speaks = _SUBPROTOCOL in scope["subprotocols"]
    later = None
    is_open = False
    try:
        await _until_ready(services)
        is_open = await guard.is_open_to(connection)
        if not is_open and not speaks:
            await guard.admit_token(token_of(connection.headers), needs)
    except UpshotError as error:
        await answer_to(error)(scope, receive, socket.send)
        return False
    except Exception as error:
        if not _is_passing(error):
            raise
        later = "The database is away. Try again."
    if room.count > SOCKETS_MAX:
        later = f"{SOCKETS_MAX:,} sockets are open; no more are taken."
    accepting = {"type": "websocket.accept", "subprotocol": _SUBPROTOCOL if speaks else None}
    await socket.send({**accepting, HOLDS: holds})
    if later is not None:
        await socket.close(TRY_AGAIN_LATER, later)
        return False
    return not speaks or await _is_authenticated(
        socket, guard, needs, token_of(connection.headers), is_open=is_open
    )


async def _until_ready(services: Services) -> None:
    """A server that starts is waited for, since clients give up after a few attempts."""
    clock = asyncio.get_running_loop().time
    until = clock() + SOCKET_OPENED_WITHIN.total_seconds()
    while services.not_ready() is not None:
        if clock() > until:
            raise ConnectionError(services.not_ready())
        await asyncio.sleep(_LOOK_EVERY_SECONDS)


async def _is_authenticated(
    socket: Socket, guard: Guard, needs: Scope, by_header: str | None, *, is_open: bool
) -> bool:
    """The conversation of the subprotocol: the client's first message says who it is."""
    try:
        async with asyncio.timeout(SOCKET_AUTHENTICATED_WITHIN.total_seconds()):
            token = await _token_said(socket)
            if not is_open and token is None and by_header is None:
                raise Unauthenticated(_NO_KEY)
            if not is_open:
                await guard.admit_token(token or by_header, needs)
    except TimeoutError:
        await socket.close(POLICY_VIOLATION, "The first message has to be an 'auth' message.")
        return False
    except UpshotError as error:
        await socket.close(POLICY_VIOLATION, error.message)
        return False
    await socket.say({"type": "auth_success"})
    return True


async def _token_said(socket: Socket) -> str | None:
    while True:
        match await socket.next():
            case Ping() as ping:
                await socket.pong(ping)
            case Gone():
                await socket.close()
                raise Closed
            case bytes() as text:
                match document_of(text):
                    case {"type": "auth", "token": str(token)} if token:
                        return key_of_pair(token)
                    case {"type": "auth"}:
                        return None
                raise Unauthenticated("The first message has to be an 'auth' message.")


def document_of(text: bytes) -> Any:
    """The JSON that a message is; None where it is none."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _is_passing(error: Exception) -> bool:
    return is_away(error) or isinstance(error, PoolTimeoutError)
