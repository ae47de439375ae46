"""The end of the log, read once for all who listen in this process."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import structlog

from upshot.core.events import Event, event_json
from upshot.core.limits import (
    BATCH_BYTES_MAX,
    SUBSCRIBER_BYTES_MAX,
    SUBSCRIBER_EVENTS_MAX,
    TAIL_EVENTS_MAX,
    TAIL_LOOKED_AT_MAX,
    TAIL_NAMES_RESOLVED_MAX,
)
from upshot.prefect.event_filters import Wanted
from upshot.storage import event_stream
from upshot.storage import log as event_log
from upshot.storage.database import AWAY, reason_of
from upshot.storage.log import Cursor
from upshot.workers import loops

log = structlog.get_logger()


@dataclass(eq=False, slots=True)
class Subscriber:
    """Who listens: what it wants, and what it has not been sent yet, as JSON texts."""

    wanted: Wanted
    since: Cursor
    """What the tail had passed when this one began to listen: it hears all that comes after."""
    number: int
    """Later ones have higher numbers."""
    overrun: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when more waited than fits; it is dropped."""
    _waiting: deque[str] = field(default_factory=deque)
    _size: int = 0
    _told: asyncio.Event = field(default_factory=asyncio.Event)

    async def next(self) -> str:
        """The next event; waits for one."""
        while not self._waiting:
            self._told.clear()
            await self._told.wait()
        text = self._waiting.popleft()
        self._size -= len(text)
        return text

    def tell(self, text: str) -> None:
        if self.overrun.is_set():
            return
        self._waiting.append(text)
        self._size += len(text)
        if len(self._waiting) > SUBSCRIBER_EVENTS_MAX or self._size > SUBSCRIBER_BYTES_MAX:
            self._waiting.clear()
            self.overrun.set()
        self._told.set()


class Tail:
    """Reads what is appended to the log, in its order, as long as anybody listens.

    It reads as the evaluator does, by the difference of two snapshots, so that nothing is missed
    because an earlier transaction committed later; its cursor is in memory.
    """

    def __init__(self, line: loops.Line) -> None:
        self._line = line
        self._subscribers: dict[Subscriber, None] = {}
        self._interested: dict[str, tuple[Subscriber, ...]] = {}
        self._cursor: Cursor | None = None
        self._reading: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()
        self._number = 0

    @asynccontextmanager
    async def subscribed(self, wanted: Wanted) -> AsyncIterator[Subscriber]:
        """Listen for the length of the block."""
        async with self._starting:
            if self._cursor is None:
                async with self._line.database.driver() as conn:
                    self._cursor = await event_stream.cursor_now(conn)
                self._reading = asyncio.create_task(self._read())
        self._number += 1
        subscriber = Subscriber(wanted, self._cursor, self._number)
        self._subscribers[subscriber] = None
        self._interested.clear()
        try:
            yield subscriber
        finally:
            del self._subscribers[subscriber]
            self._interested.clear()
            if not self._subscribers and self._reading is not None:
                self._reading.cancel()
                self._reading = self._cursor = None

    async def _read(self) -> None:
        """Read until cancelled; a connection that is lost is made anew, and none is missed."""
        pause = 0.05
        while not self._line.stopping.is_set():
            try:
                async with loops.connection(
                    self._line, application_name="upshot tail", **event_log.READER_SETTINGS
                ) as conn:
                    with self._line.signals.listening(loops.TAIL) as hint:
                        while self._cursor is not None:
                            hint.clear()
                            batch = await event_log.read_batch(
                                conn,
                                self._cursor,
                                events_max=TAIL_EVENTS_MAX,
                                bytes_max=BATCH_BYTES_MAX,
                                is_wanted=lambda name: bool(self._interested_in(name)),
                            )
                            pause = 0.05
                            self._cursor = batch.after
                            await self._tell(batch.events, self._number)
                            if batch.after.page is None:
                                await loops.wait_for_hint(hint, loops.POLL_SECONDS)
            except AWAY as error:
                log.warning("database_away", loop="tail", error=reason_of(error))
            except Exception:
                log.exception("loop_failed", loop="tail")
            await loops.pause_or_stop(self._line.stopping, pause)
            pause = min(pause * 2, loops.RECONNECT_SECONDS_MAX)

    async def _tell(self, events: Sequence[Event], last: int) -> None:
        """Tell those up to the last number: who has come since then has passed these events."""
        looked_at = 0
        for event in events:
            text = None
            for subscriber in self._interested_in(event.name):
                looked_at += 1
                if subscriber.number <= last and subscriber.wanted.includes(event):
                    text = text or event_json(event)
                    subscriber.tell(text)
            if looked_at >= TAIL_LOOKED_AT_MAX:
                looked_at = 0
                await asyncio.sleep(0)

    def _interested_in(self, name: str) -> tuple[Subscriber, ...]:
        """Who may want events of that name."""
        found = self._interested.get(name)
        if found is None:
            if len(self._interested) >= TAIL_NAMES_RESOLVED_MAX:
                self._interested.clear()
            found = tuple(one for one in self._subscribers if one.wanted.includes_name(name))
            self._interested[name] = found
        return found
