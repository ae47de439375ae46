"""The WebSocket that takes events: a ping is answered once all before it is stored."""

import asyncio
import os
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, cast

import structlog
from starlette.types import Receive, Scope, Send

from upshot import metrics
from upshot.api.services import Ingest, Services
from upshot.core.errors import Overloaded
from upshot.core.intake import Ids, NewEvent, Refused
from upshot.core.limits import (
    COMMIT_BYTES_MAX,
    COMMIT_EVENTS_MAX,
    SOCKET_LAST_STORED_WITHIN,
    SOCKET_STORED_WITHIN,
)
from upshot.pipeline.ingest import Conflicting, Duplicate, Result
from upshot.prefect.incoming import read_sent
from upshot.prefect.routing import new_router
from upshot.prefect.sockets import TRY_AGAIN_LATER, Gone, Ping, Sockets

RETRY_SECONDS_MAX: Final = 1.0

router = new_router()
log = structlog.get_logger()

_ids = Ids(random=os.urandom, clock=time.time_ns)
_accepted = metrics.EVENTS.labels("accepted")
_duplicates = metrics.EVENTS.labels("duplicate")
_rejected = metrics.EVENTS.labels("rejected")


@dataclass(slots=True, eq=False)
class _Waiting:
    """What one socket has to store."""

    events: Sequence[NewEvent]
    done: asyncio.Future[list[Result]]


class Intake:
    """Stores what all sockets of this process receive, one commit after the other.

    A client that was cut off sends again on a new connection what it cannot be sure of, while the
    rest of the old one may still be on its way here. Each connection alone tells everything in its
    order from something that was stored on; so do both together, as long as commits do not overlap.
    """

    def __init__(self, ingest: Ingest) -> None:
        self._ingest = ingest
        self._waiting: deque[_Waiting] = deque()
        self._turn = asyncio.Lock()

    async def append(self, events: Sequence[NewEvent]) -> list[Result]:
        """As `Ingest.append`; what several sockets wait with shares a commit."""
        waiting = _Waiting(events, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        async with self._turn:
            while not waiting.done.done():
                await self._store(self._take())
        return waiting.done.result()

    def _take(self) -> list[_Waiting]:
        taken: list[_Waiting] = []
        events = size = 0
        while self._waiting and events < COMMIT_EVENTS_MAX and size < COMMIT_BYTES_MAX:
            taken.append(self._waiting.popleft())
            events += len(taken[-1].events)
            size += sum(event.size for event in taken[-1].events)
        return taken

    async def _store(self, taken: Sequence[_Waiting]) -> None:
        try:
            results = await self._ingest.append([one for each in taken for one in each.events])
        except BaseException as error:
            told = error if isinstance(error, Overloaded) else Overloaded("Nothing was stored.")
            for each in taken:
                each.done.set_exception(told)
                each.done.exception()  # Not every socket still waits to be told.
            if told is error:
                return
            raise
        at = 0
        for each in taken:
            each.done.set_result(results[at : at + len(each.events)])
            at += len(each.events)


async def events_in(scope: Scope, receive: Receive, send: Send) -> None:
    """Take events until the client closes.

    A message is an event. There is no answer to it: what is rejected is counted and logged. The
    client keeps what it sent until a ping is answered, and after a reconnect sends it again.
    """
    state = scope["app"].state
    services = cast(Services, state.services)
    opening = cast(Sockets, state.sockets).opened(
        scope, receive, send, needs="events:write", holds=True
    )
    async with opening as socket:
        is_gone = socket is None
        while socket is not None and not is_gone:
            arrived = await socket.all()
            is_gone = any(isinstance(one, Gone) for one in arrived)
            texts = (one for one in arrived if isinstance(one, bytes))
            within = SOCKET_LAST_STORED_WITHIN if is_gone else SOCKET_STORED_WITHIN
            try:
                await _store(texts, services, cast(Intake, state.intake), within=within)
            except Overloaded as error:
                # A client that is still there sends them again.
                log.warning("events_not_stored", is_gone=is_gone, reason=error.message)
                await socket.close(TRY_AGAIN_LATER, error.message)
                return
            for one in arrived:
                if isinstance(one, Ping):
                    await socket.pong(one)
        if socket is not None:
            await socket.close()


class _EventsIn:
    """The application at the path; Starlette takes a function for one of a WebSocket object."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await events_in(scope, receive, send)


router.add_websocket_route("/events/in", _EventsIn(), name="events_in")  # type: ignore[arg-type]


async def _store(
    texts: Iterable[bytes], services: Services, intake: Intake, *, within: timedelta
) -> None:
    now = services.now()
    verdicts = [read_sent(text, now=now, new_id=_ids) for text in texts]
    new = [verdict for verdict in verdicts if isinstance(verdict, NewEvent)]
    refused = [verdict for verdict in verdicts if isinstance(verdict, Refused)]
    results = await _append(new, intake, within=within) if new else []
    conflicts = [result for result in results if isinstance(result, Conflicting)]
    duplicates = sum(isinstance(result, Duplicate) for result in results)
    _accepted.inc(len(results) - len(conflicts) - duplicates)
    _duplicates.inc(duplicates)
    _rejected.inc(len(refused) + len(conflicts))
    if refused:
        first = refused[0]
        where = ".".join(map(str, first.problems[0].loc))
        reason = f"{where}: {first.problems[0].msg}" if where else first.problems[0].msg
        log.warning("events_rejected", count=len(refused), id=first.id, reason=reason)
    if conflicts:
        log.warning("events_rejected", count=len(conflicts), reason=conflicts[0].reason)


async def _append(
    new: Sequence[NewEvent], intake: Intake, *, within: timedelta
) -> Sequence[Result]:
    """Store them, trying again for so long while the database is away or busy.

    Events have ids, so none is stored twice. Raises Overloaded when the time is over.
    """
    clock = asyncio.get_running_loop().time
    until = clock() + within.total_seconds()
    pause = 0.05
    while True:
        try:
            return await intake.append(new)
        except Overloaded:
            if clock() + pause > until:
                raise
        await asyncio.sleep(pause)
        pause = min(pause * 2, RETRY_SECONDS_MAX)
