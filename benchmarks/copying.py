"""What storing is compared to: raw COPY of the same rows into the same table, by one connection."""

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import asyncpg

from benchmarks import story
from benchmarks.processes import expect
from benchmarks.product import Upshot
from benchmarks.story import Chapter
from upshot.core.intake import Ids, NewEvent, read_json
from upshot.core.limits import COMMIT_EVENTS_MAX
from upshot.storage import partitions
from upshot.storage.database import Database

DATABASE = "copied"
COLUMNS = (
    "occurred_at", "id", "follows", "size", "name", "resource_id", "labels", "related", "payload",
)  # fmt: skip

_ids = Ids(random=os.urandom, clock=time.time_ns)


class Copying:
    """A database of the product's schema that no server uses, in the same Postgres."""

    def __init__(self, conn: asyncpg.Connection) -> None:
        self._conn = conn
        self._copied = 0

    async def copy(self, chapter: Chapter) -> float:
        """Rows a second. A commit holds as many as the server's greatest."""
        rows = [_row(event, datetime.now(UTC)) for _, event in story.events(chapter)]
        parts = [rows[at : at + COMMIT_EVENTS_MAX] for at in range(0, len(rows), COMMIT_EVENTS_MAX)]
        started_at = time.monotonic()
        for part in parts:
            await self._conn.copy_records_to_table("events", columns=COLUMNS, records=part)
        seconds = time.monotonic() - started_at
        self._copied += len(rows)
        stored = await self._conn.fetchval("SELECT count(*) FROM events")
        expect(stored, self._copied, "rows copied")
        return len(rows) / seconds


def _row(event: bytes, now: datetime) -> tuple[object, ...]:
    """What ingest would store."""
    (new,) = read_json(event, now=now, new_id=_ids).verdicts
    assert isinstance(new, NewEvent)
    return (
        new.occurred, new.id, new.follows, new.size, new.name, new.resource_id,
        new.labels_json, new.related_json, new.payload_json,
    )  # fmt: skip


async def copy_history(upshot: Upshot, numbers: range) -> None:
    """COPY events of these numbers into the server's own log; every two are of another user.

    A commit holds as many as the server's greatest. The server evaluates them as any others.
    """
    sent = [event for _, event in story.events(Chapter(users=1, opened=0, completed=0))]
    models = [_row(event, datetime.now(UTC)) for event in sent]
    before = await upshot.events()
    for at in range(0, len(numbers), COMMIT_EVENTS_MAX):
        commit = numbers[at : at + COMMIT_EVENTS_MAX]
        part = [_like(models[number % 2], user=number // 2) for number in commit]
        await upshot.sql.copy_records_to_table("events", columns=COLUMNS, records=part)
    await upshot.settle()
    expect(await upshot.events() - before, len(numbers), "rows copied")


def _like(row: tuple[object, ...], *, user: int) -> tuple[object, ...]:
    """Another user's, and another event."""
    occurred, _, follows, size, name, _, labels, related, payload = row
    user_id = story.user_id(user)
    return occurred, _ids(), follows, size, name, user_id, labels, related, payload


@asynccontextmanager
async def copying(upshot: Upshot) -> AsyncIterator[Copying]:
    """A freshly migrated database beside the server's own."""
    await upshot.sql.execute(f"CREATE DATABASE {DATABASE}")
    database = Database(lambda: upshot.postgres.replace("/postgres?", f"/{DATABASE}?"))
    await database.migrate()
    conn = await database.connect()
    try:
        await partitions.ensure_partitions(conn)
        yield Copying(conn)
    finally:
        await conn.close(timeout=5)
        await database.close()
