"""Events that could not be evaluated for a trigger, and why."""

from collections.abc import Sequence
from datetime import datetime

import asyncpg

from upshot.core.timeline import SetAside


async def record(conn: asyncpg.Connection, set_aside: Sequence[SetAside]) -> None:
    """Keep what was set aside, to be shown with the event."""
    told = [(one.event, one) for one in set_aside if one.event is not None]
    await conn.execute(
        "INSERT INTO evaluation_errors (event_id, trigger_id, trigger, error) "
        "SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[])",
        [event.id for event, _ in told],
        [one.trigger and one.trigger.id for _, one in told],
        [one.trigger and one.trigger.name for _, one in told],
        [one.reason.replace("\0", "\\0") for _, one in told],
    )


async def forget(conn: asyncpg.Connection, *, before: datetime, limit: int) -> int:
    """Remove up to `limit` of those from before; answers how many."""
    status = await conn.execute(
        "DELETE FROM evaluation_errors WHERE ctid = ANY (ARRAY("
        "SELECT ctid FROM evaluation_errors WHERE at < $1 ORDER BY at LIMIT $2))",
        before,
        limit,
    )
    return int(status.split()[1])
