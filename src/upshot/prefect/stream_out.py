"""The WebSocket that tells of events: first what there was, then what comes."""

import asyncio
from typing import Final, cast

from pydantic import ValidationError
from starlette.types import Receive, Scope, Send

from upshot.api.problems import problems_of, summary_of
from upshot.core.events import event_json
from upshot.core.limits import (
    BACKFILL_ROWS_MAX,
    SOCKET_AUTHENTICATED_WITHIN,
    SOCKET_CLOSED_WITHIN,
)
from upshot.prefect.event_filters import FilterSent, Wanted, wanted_of
from upshot.prefect.looking import look, narrowed_of
from upshot.prefect.routing import new_router
from upshot.prefect.sockets import (
    PROTOCOL_ERROR,
    TRY_AGAIN_LATER,
    Closed,
    Gone,
    Ping,
    Socket,
    Sockets,
    document_of,
)
from upshot.prefect.tail import Subscriber, Tail
from upshot.storage import event_stream
from upshot.storage.database import Database

TOO_SLOW: Final = "More events waited for this client than are kept. Connect again."

router = new_router()


class _Refused(Exception):
    """What the client said is not what was expected."""


async def events_out(scope: Scope, receive: Receive, send: Send) -> None:
    """Tell of the events that a filter lets through, until the client closes.

    The client sends `{"type": "filter", "filter": {...}, "backfill": true}`. It is told of what the
    log has (the newest, in the log's order), then of what comes, none missing and none twice.
    """
    state = scope["app"].state
    database = cast(Database, state.services.database)
    opening = cast(Sockets, state.sockets).opened(scope, receive, send, needs="read", holds=False)
    async with opening as socket:
        if socket is None:
            return
        try:
            wanted, backfill = await _asked(socket)
        except _Refused as refused:
            await socket.close(PROTOCOL_ERROR, str(refused))
            return
        async with cast(Tail, state.tail).subscribed(wanted) as subscriber:
            telling = asyncio.create_task(_tell(socket, subscriber, database, backfill=backfill))
            leaving = asyncio.create_task(_gone(socket))
            overrun = asyncio.create_task(subscriber.overrun.wait())
            tasks = {telling, leaving, overrun}
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
            if subscriber.overrun.is_set():
                await _close_slow(socket)
            elif telling.done() and not telling.cancelled():
                telling.result()


class _EventsOut:
    """The application at the path; Starlette takes a function for one of a WebSocket object."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await events_out(scope, receive, send)


router.add_websocket_route("/events/out", _EventsOut(), name="events_out")  # type: ignore[arg-type]


async def _asked(socket: Socket) -> tuple[Wanted, bool]:
    """What the client wants to hear of, and whether also of what there was."""
    try:
        async with asyncio.timeout(SOCKET_AUTHENTICATED_WITHIN.total_seconds()):
            while isinstance(arrived := await socket.next(), Ping):
                await socket.pong(arrived)
    except TimeoutError:
        raise _Refused("A 'filter' message was expected.") from None
    if isinstance(arrived, Gone):
        raise Closed
    match document_of(arrived):
        case {"type": "filter", "filter": dict() | None as sent, **more}:
            try:
                wanted = wanted_of(FilterSent.model_validate(sent or {}))
            except ValidationError as error:
                found = problems_of(error.errors(include_url=False, include_context=False))
                raise _Refused(f"The filter is not valid: {summary_of(found)}") from None
            return wanted, more.get("backfill") is not False
    raise _Refused("A 'filter' message was expected.")


async def _tell(
    socket: Socket, subscriber: Subscriber, database: Database, *, backfill: bool
) -> None:
    wanted = subscriber.wanted
    if backfill:
        narrowed = narrowed_of(wanted)
        async with database.driver() as conn:
            newest = await event_stream.newest(conn, narrowed, rows_max=BACKFILL_ROWS_MAX)
        async for events in look(database, wanted, newest, passed=subscriber.since):
            for _, event in events:
                await _say(socket, event_json(event))
    while True:
        await _say(socket, await subscriber.next())


async def _say(socket: Socket, event: str) -> None:
    await socket.send({"type": "websocket.send", "text": f'{{"type":"event","event":{event}}}'})


async def _gone(socket: Socket) -> None:
    """Wait until the client leaves; what it says until then means nothing."""
    while not isinstance(arrived := await socket.next(), Gone):
        if isinstance(arrived, Ping):
            await socket.pong(arrived)


async def _close_slow(socket: Socket) -> None:
    """One that reads nothing at all does not read either why it is cut off."""
    try:
        async with asyncio.timeout(SOCKET_CLOSED_WITHIN.total_seconds()):
            await socket.close(TRY_AGAIN_LATER, TOO_SLOW)
    except TimeoutError:
        await socket.abort()
