"""Events that wait until the one they follow is evaluated; the log has the events themselves."""

from collections.abc import Sequence
from uuid import UUID

import asyncpg

from upshot.core.following import Held


async def load(conn: asyncpg.Connection) -> list[Held]:
    """All of them, at most HELD_EVENTS_MAX, in the order in which they came."""
    rows = await conn.fetch("SELECT id, follows, until FROM held_events ORDER BY until, id")
    return [Held(row["id"], row["follows"], row["until"]) for row in rows]


async def save(conn: asyncpg.Connection, held: Sequence[Held]) -> None:
    if held:
        await conn.execute(
            "INSERT INTO held_events (id, follows, until) "
            "SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[])",
            [one.id for one in held],
            [one.follows for one in held],
            [one.until for one in held],
        )


async def release(conn: asyncpg.Connection, ids: Sequence[UUID]) -> None:
    if ids:
        await conn.execute("DELETE FROM held_events WHERE id = ANY($1::uuid[])", ids)
