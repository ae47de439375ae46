"""The WebSocket that tells of the lines of logs; `prefect deployment run --watch` reads it."""

import asyncio
from collections.abc import Container
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final, cast

from pydantic import ValidationError
from starlette.types import Receive, Scope, Send

from upshot.api.problems import problems_of, summary_of
from upshot.core.limits import PREFECT_PAGE_MAX, SOCKET_AUTHENTICATED_WITHIN
from upshot.prefect.logs import LogFilter, shown
from upshot.prefect.routing import new_router
from upshot.prefect.sockets import (
    PROTOCOL_ERROR,
    Closed,
    Gone,
    Ping,
    Socket,
    Sockets,
    document_of,
)
from upshot.storage import flow_run_logs
from upshot.storage.database import Database
from upshot.storage.flow_run_logs import Line, LinesWanted

router = new_router()

_LOOK_EVERY_SECONDS: Final = 1.0
_COMMITS_WITHIN: Final = timedelta(seconds=10)
"""Lines of that age may still arrive after younger ones."""


class _Refused(Exception):
    """What the client said is not what was expected."""


class _LogsOut:
    """The application at the path: tells of the lines of some runs until the client closes.

    The client sends `{"type": "filter", "filter": {...}}`, which has to name the runs. It is told
    of the lines there are, then of what comes, looked for every second.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = scope["app"].state
        sockets, database = cast(Sockets, state.sockets), cast(Database, state.services.database)
        opening = sockets.opened(scope, receive, send, needs="read", holds=False)
        async with opening as socket:
            if socket is None:
                return
            try:
                wanted = await _asked(socket)
            except _Refused as refused:
                await socket.close(PROTOCOL_ERROR, str(refused))
                return
            telling = asyncio.create_task(_tell(socket, database, wanted))
            leaving = asyncio.create_task(_gone(socket))
            try:
                await asyncio.wait({telling, leaving}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (telling, leaving):
                    task.cancel()
                await asyncio.wait({telling, leaving})
            if not telling.cancelled():
                telling.result()


router.add_websocket_route("/logs/out", _LogsOut(), name="logs_out")  # type: ignore[arg-type]


async def _asked(socket: Socket) -> LinesWanted:
    try:
        async with asyncio.timeout(SOCKET_AUTHENTICATED_WITHIN.total_seconds()):
            while isinstance(arrived := await socket.next(), Ping):
                await socket.pong(arrived)
    except TimeoutError:
        raise _Refused("A 'filter' message was expected.") from None
    if isinstance(arrived, Gone):
        raise Closed
    match document_of(arrived):
        case {"type": "filter", "filter": dict() as sent}:
            try:
                wanted = LogFilter.model_validate(sent).wanted()
            except ValidationError as error:
                found = problems_of(error.errors(include_url=False, include_context=False))
                raise _Refused(f"The filter is not valid: {summary_of(found)}") from None
            if not wanted.run_ids or wanted.either:
                raise _Refused("Name the runs whose lines you want: `flow_run_id`.")
            return wanted
    raise _Refused("A 'filter' message was expected.")


async def _tell(socket: Socket, database: Database, wanted: LinesWanted) -> None:
    told: dict[int, datetime] = {}
    while True:
        lines = await _next_lines(database, wanted, told.keys())
        for line in lines:
            await socket.say({"type": "log", "log": shown(line)})
            told[line.number] = line.at
        if lines:
            since = lines[-1].at - _COMMITS_WITHIN
            since = max(since, wanted.since or since)
            wanted = replace(wanted, since=since)
            told = {number: at for number, at in told.items() if at >= since}
        else:
            await asyncio.sleep(_LOOK_EVERY_SECONDS)


async def _next_lines(database: Database, wanted: LinesWanted, told: Container[int]) -> list[Line]:
    """Lines that were not told of yet, the first ones first; none: there are no more now."""
    offset = 0
    while True:
        async with database.begin() as conn:
            page = await flow_run_logs.page(
                conn, wanted, newest_first=False, limit=PREFECT_PAGE_MAX, offset=offset
            )
        new = [line for line in page if line.number not in told]
        if new or len(page) < PREFECT_PAGE_MAX:
            return new
        offset += len(page)


async def _gone(socket: Socket) -> None:
    """Wait until the client leaves; what it says until then means nothing."""
    while not isinstance(arrived := await socket.next(), Gone):
        if isinstance(arrived, Ping):
            await socket.pong(arrived)
