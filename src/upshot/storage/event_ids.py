"""The ids that clients sent, remembered so that an event is not stored twice."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import asyncpg


async def remember(
    conn: asyncpg.Connection, ids: Sequence[UUID], digests: Sequence[UUID]
) -> set[UUID]:
    """Claim ids; answers those that are new. Sorted, so that two writers never deadlock."""
    pairs = sorted(zip(ids, digests, strict=True))
    rows = await conn.fetch(
        "INSERT INTO event_ids (id, digest) SELECT * FROM unnest($1::uuid[], $2::uuid[]) "
        "ON CONFLICT DO NOTHING RETURNING id",
        [pair[0] for pair in pairs],
        [pair[1] for pair in pairs],
    )
    return {row["id"] for row in rows}


async def digests_of(conn: asyncpg.Connection, ids: Sequence[UUID]) -> dict[UUID, UUID]:
    """What was sent before under these ids."""
    rows = await conn.fetch("SELECT id, digest FROM event_ids WHERE id = ANY($1::uuid[])", ids)
    return {row["id"]: row["digest"] for row in rows}


async def forget(conn: asyncpg.Connection, *, before: datetime, limit: int) -> int:
    """Remove up to `limit` ids that came before; answers how many."""
    status = await conn.execute(
        "DELETE FROM event_ids WHERE id = ANY (ARRAY("
        "SELECT id FROM event_ids WHERE received_at < $1 ORDER BY received_at LIMIT $2))",
        before,
        limit,
    )
    return int(status.split()[1])
