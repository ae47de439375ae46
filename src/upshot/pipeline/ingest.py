"""Ingest: events are appended to the log, and acknowledged once they are committed."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import asyncpg
import structlog

from upshot.core.errors import Overloaded
from upshot.core.intake import NewEvent
from upshot.core.limits import (
    ACKNOWLEDGE_WITHIN,
    COMMIT_BYTES_MAX,
    COMMIT_EVENTS_MAX,
    PENDING_BYTES_MAX,
    PENDING_EVENTS_MAX,
)
from upshot.storage import event_ids, partitions
from upshot.storage import log as event_log
from upshot.storage.database import REFUSED, reason_of

RETRY_AFTER_AWAY = 2

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Stored:
    """The event is in the log."""


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The same event came before under this id; it is not stored again."""


@dataclass(frozen=True, slots=True)
class Conflicting:
    """The event is not stored; `reason` says why."""

    reason: str


Result = Stored | Duplicate | Conflicting

STORED = Stored()
_OTHER_CONTENT = Conflicting("This id was used before for an event with other content.")


@dataclass(slots=True, eq=False)
class _Post:
    """The events of one request, waiting for a commit."""

    events: Sequence[NewEvent]
    done: asyncio.Future[list[Result]]
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.size = sum(event.size for event in self.events)


class Ingest:
    """Requests that wait at the same time share a commit; none waits for others to come.

    A writer takes whatever is waiting when it is free. Run one or more `write` tasks.
    """

    def __init__(self, on_stored: Callable[[], None]) -> None:
        self._on_stored = on_stored
        self._waiting: deque[_Post] = deque()
        self._arrived = asyncio.Event()
        self._pending_events = 0
        self._pending_bytes = 0
        self._writers = 0

    @property
    def is_open(self) -> bool:
        """Whether a writer is connected to the database."""
        return self._writers > 0

    async def append(self, events: Sequence[NewEvent]) -> list[Result]:
        """Store the events; the answer, one result an event, comes after the commit.

        Raises:
            Overloaded: nothing is acknowledged; the database is away or slow, or too many wait.
        """
        if not self._writers:
            raise Overloaded("The database is away; nothing was stored.", RETRY_AFTER_AWAY)
        post = _Post(events, asyncio.get_running_loop().create_future())
        if (
            self._pending_events + len(events) > PENDING_EVENTS_MAX
            or self._pending_bytes + post.size > PENDING_BYTES_MAX
        ):
            raise Overloaded("Too many events wait to be stored; nothing of this was stored.")
        self._pending_events += len(events)
        self._pending_bytes += post.size
        self._waiting.append(post)
        self._arrived.set()
        try:
            async with asyncio.timeout(ACKNOWLEDGE_WITHIN.total_seconds()):
                return await post.done
        except TimeoutError:
            raise Overloaded("The database is slow; the events are not acknowledged.") from None
        finally:
            self._pending_events -= len(events)
            self._pending_bytes -= post.size

    async def write(self, conn: asyncpg.Connection) -> None:
        """Store what waits, until cancelled or the connection is lost (which is raised)."""
        await partitions.ensure_partitions(conn)
        self._writers += 1
        posts: list[_Post] = []
        try:
            while True:
                await self._arrived.wait()
                posts = self._take()
                if posts:
                    await self._store(conn, posts)
        finally:
            self._writers -= 1
            _refuse(posts, "The database went away; the events are not acknowledged.")
            if not self._writers:
                _refuse(self._waiting, "The database is away; nothing was stored.")
                self._waiting.clear()

    def _take(self) -> list[_Post]:
        posts: list[_Post] = []
        events = size = 0
        while self._waiting and events < COMMIT_EVENTS_MAX and size < COMMIT_BYTES_MAX:
            post = self._waiting.popleft()
            # One that has given up is left out: it was told that nothing is stored.
            if not post.done.done():
                posts.append(post)
                events += len(post.events)
                size += post.size
        if not self._waiting:
            self._arrived.clear()
        return posts

    async def _store(self, conn: asyncpg.Connection, posts: list[_Post]) -> None:
        try:
            results = await _append(conn, [event for post in posts for event in post.events])
        except REFUSED as error:
            await self._store_apart(conn, posts, error)
            return
        at = 0
        for post in posts:
            _answer(post, results[at : at + len(post.events)])
            at += len(post.events)
        self._on_stored()

    async def _store_apart(
        self, conn: asyncpg.Connection, posts: list[_Post], error: asyncpg.PostgresError
    ) -> None:
        """Something in the commit was refused: halve it until that stands alone."""
        if len(posts) > 1:
            middle = len(posts) // 2
            await self._store(conn, posts[:middle])
            await self._store(conn, posts[middle:])
            return
        (post,) = posts
        if len(post.events) == 1:
            log.warning("event_refused", id=str(post.events[0].id), error=reason_of(error))
            _answer(post, [Conflicting(f"The database refuses this event: {reason_of(error)}")])
            return
        middle = len(post.events) // 2
        results: list[Result] = []
        for events in (post.events[:middle], post.events[middle:]):
            half = _Post(events, asyncio.get_running_loop().create_future())
            await self._store(conn, [half])
            results += half.done.result()
        _answer(post, results)


async def _append(conn: asyncpg.Connection, events: Sequence[NewEvent]) -> list[Result]:
    """Store the events in one transaction, making a missing partition on the way."""
    try:
        return await _append_new(conn, events)
    except asyncpg.CheckViolationError:
        await partitions.ensure_partitions(conn)
        return await _append_new(conn, events)


async def _append_new(conn: asyncpg.Connection, events: Sequence[NewEvent]) -> list[Result]:
    given = {event.id: event for event in reversed(events) if event.id_given}
    if not given:
        await event_log.append(conn, events)
        return [STORED] * len(events)
    async with conn.transaction():
        digests = {event_id: _digest(event) for event_id, event in given.items()}
        new = await event_ids.remember(conn, list(digests), list(digests.values()))
        if len(new) < len(digests):
            known = [event_id for event_id in digests if event_id not in new]
            digests.update(await event_ids.digests_of(conn, known))
        results: list[Result] = []
        for event in events:
            if not event.id_given or (event.id in new and given[event.id] is event):
                results.append(STORED)
            elif digests[event.id] == _digest(event):
                results.append(Duplicate())
            else:
                results.append(_OTHER_CONTENT)
        stored = [event for event, result in zip(events, results, strict=True) if result is STORED]
        if stored:
            await event_log.append(conn, stored)
    return results


def _digest(event: NewEvent) -> UUID:
    return UUID(bytes=event.digest)


def _answer(post: _Post, results: list[Result]) -> None:
    if not post.done.done():
        post.done.set_result(results)


def _refuse(posts: Sequence[_Post] | deque[_Post], reason: str) -> None:
    for post in posts:
        if not post.done.done():
            post.done.set_exception(Overloaded(reason, RETRY_AFTER_AWAY))
