"""How far the line has got, and how much there is of everything."""

from dataclasses import dataclass
from datetime import datetime

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from upshot.core.runs import RunState
from upshot.storage.log import EVALUATE, READ_BATCH, Cursor, load_cursor

_FIRST = f"SELECT received_at FROM ({READ_BATCH}) AS waiting"


@dataclass(frozen=True, slots=True)
class Lag:
    """`head` is the last position handed out, `evaluated` the highest that is evaluated.

    Positions are handed out before commits, so only `seconds` 0 says that all is evaluated.
    """

    head: int
    evaluated: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    open_runs: dict[str, int]
    triggers: int
    deployments: int
    open_keys: int
    evaluation_errors: int
    postgres: str


async def lag(conn: AsyncConnection) -> Lag:
    """Reads one event behind the cursor, by the same index ranges as the evaluator."""
    raw = (await conn.get_raw_connection()).driver_connection
    assert isinstance(raw, asyncpg.Connection)
    row = await raw.fetchrow(
        "SELECT CASE WHEN is_called THEN last_value ELSE 0 END AS head, now() AS now "
        "FROM events_position"
    )
    cursor = await load_cursor(raw, EVALUATE)
    oldest = await _oldest_waiting(raw, cursor)
    seconds = max((row["now"] - oldest).total_seconds(), 0.0) if oldest else 0.0
    return Lag(head=row["head"], evaluated=cursor.position, seconds=seconds)


async def _oldest_waiting(conn: asyncpg.Connection, cursor: Cursor) -> datetime | None:
    snapshot = await conn.fetchval("SELECT pg_current_snapshot()::text")
    page = cursor.page
    if page is None:
        return await _first(conn, cursor.snapshot, snapshot, xid=0, position=0)
    of_page = await _first(
        conn, cursor.snapshot, page.snapshot, xid=page.xid, position=page.position
    )
    # When its page is done, what came after it waits.
    return of_page or await _first(conn, page.snapshot, snapshot, xid=0, position=0)


async def _first(
    conn: asyncpg.Connection, old: str, new: str, *, xid: int, position: int
) -> datetime | None:
    received_at: datetime | None = await conn.fetchval(_FIRST, old, new, xid, position, 1, 1, None)
    return received_at


async def counts(conn: AsyncConnection) -> Counts:
    """Reads small tables whole: ask now and then, not with every request."""
    row = (
        await conn.execute(
            text(
                "SELECT (SELECT count(*) FROM triggers) AS triggers, "
                "(SELECT count(*) FROM deployments) AS deployments, "
                "(SELECT count(*) FROM windows WHERE started_at IS NOT NULL AND "
                "(alarms OR deadline_at IS NULL OR deadline_at > now())) AS open_keys, "
                "(SELECT count(*) FROM evaluation_errors) AS evaluation_errors, "
                "current_setting('server_version') AS postgres"
            )
        )
    ).one()
    states = await conn.execute(
        text("SELECT state, count(*) AS open FROM run_queue GROUP BY state")
    )
    found: dict[str, int] = {row.state: row.open for row in states}
    open_states = (RunState.SCHEDULED, RunState.RUNNING, RunState.RETRYING)
    return Counts(
        open_runs={state.value: found.get(state.value, 0) for state in open_states},
        triggers=row.triggers,
        deployments=row.deployments,
        open_keys=row.open_keys,
        evaluation_errors=row.evaluation_errors,
        postgres=row.postgres,
    )
