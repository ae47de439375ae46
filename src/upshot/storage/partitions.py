"""The log's partitions, one a day: made ahead, dropped when they are old and evaluated."""

from datetime import UTC, date, datetime, timedelta

import asyncpg

DAYS_AHEAD = 3
_ATTACHED, _DETACHING, _DETACHED = "attached", "detaching", "detached"
_LOCK = 0x7570_7061  # the advisory lock of whoever makes or drops partitions: "uppa"


async def ensure_partitions(conn: asyncpg.Connection) -> list[str]:
    """Make what is missing of today's and the next days' partitions; answers their names.

    Each is made as a plain table and attached, which does not wait for readers of the log.
    """
    made = []
    async with conn.transaction():
        await conn.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
        today = (await conn.fetchval("SELECT now()")).date()
        existing = set(await names(conn))
        for ahead in range(-1, DAYS_AHEAD + 1):
            day = today + timedelta(days=ahead)
            if name_of(day) not in existing:
                await _make(conn, day)
                made.append(name_of(day))
    return made


async def drop_partitions(conn: asyncpg.Connection, *, before: datetime) -> list[str]:
    """Drop the days that ended before `before` and that the evaluator has passed.

    Detaching concurrently keeps inserts going while somebody reads. One that cannot be had now
    is left for the next time.
    """
    dropped = []
    for name, state in (await _states(conn)).items():
        if _day_of(name) + timedelta(days=1) > before.astimezone(UTC).date():
            continue
        if state == _ATTACHED and not await _is_evaluated(conn, name):
            continue
        if state == _ATTACHED:
            await conn.execute(f"ALTER TABLE events DETACH PARTITION {name} CONCURRENTLY")
        elif state == _DETACHING:
            await conn.execute(f"ALTER TABLE events DETACH PARTITION {name} FINALIZE")
        await conn.execute(f"DROP TABLE {name}")
        dropped.append(name)
    return dropped


async def names(conn: asyncpg.Connection) -> list[str]:
    """The days there are, oldest first."""
    return list(await _states(conn))


async def _states(conn: asyncpg.Connection) -> dict[str, str]:
    """Each day's table, oldest first, and how far its dropping has got, should it be cut off."""
    rows = await conn.fetch(
        "SELECT c.relname AS name, CASE WHEN i.inhrelid IS NULL THEN $1 "
        "WHEN i.inhdetachpending THEN $2 ELSE $3 END AS state "
        "FROM pg_class AS c LEFT JOIN pg_inherits AS i "
        "ON i.inhrelid = c.oid AND i.inhparent = 'events'::regclass "
        "WHERE c.relkind = 'r' AND c.relname ~ '^events_[0-9]{8}$' "
        "AND c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'events'::regclass) "
        "ORDER BY 1",
        _DETACHED,
        _DETACHING,
        _ATTACHED,
    )
    return {row["name"]: row["state"] for row in rows}


def name_of(day: date) -> str:
    return f"events_{day:%Y%m%d}"


def _day_of(name: str) -> date:
    return datetime.strptime(name, "events_%Y%m%d").replace(tzinfo=UTC).date()


async def _make(conn: asyncpg.Connection, day: date) -> None:
    name, end = name_of(day), day + timedelta(days=1)
    bounds = f"received_at >= '{day}T00:00:00Z' AND received_at < '{end}T00:00:00Z'"
    await conn.execute(f"CREATE TABLE {name} (LIKE events INCLUDING DEFAULTS INCLUDING INDEXES)")
    # With the same bounds as a constraint, attaching need not read the table.
    await conn.execute(f"ALTER TABLE {name} ADD CONSTRAINT bounds CHECK ({bounds})")
    await conn.execute(
        f"ALTER TABLE events ATTACH PARTITION {name} "
        f"FOR VALUES FROM ('{day}T00:00:00Z') TO ('{end}T00:00:00Z')"
    )
    await conn.execute(f"ALTER TABLE {name} DROP CONSTRAINT bounds")


async def _is_evaluated(conn: asyncpg.Connection, name: str) -> bool:
    return bool(
        await conn.fetchval(
            f"""
            SELECT NOT EXISTS (
                SELECT FROM {name} AS e, cursors AS c
                 WHERE (e.xid >= pg_snapshot_xmax(c.snapshot)
                        OR e.xid = ANY (ARRAY(SELECT pg_snapshot_xip(c.snapshot))))
                   AND c.page_snapshot IS NULL
            ) AND EXISTS (SELECT FROM cursors WHERE page_snapshot IS NULL)
            """
        )
    )
