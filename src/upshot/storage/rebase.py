"""Rebase: make the log readable again after a dump was restored into another cluster."""

from dataclasses import dataclass

import asyncpg

from upshot.core.errors import Conflict
from upshot.core.limits import REBASE_WAIT_MAX, REBASE_WITHIN
from upshot.storage.log import EVALUATE, EVALUATING

_BEFORE_EVERYTHING = "3"  # the first transaction id there ever is: in every snapshot


@dataclass(frozen=True, slots=True)
class Rebased:
    """How many events of the log were evaluated before the move, and how many are still to be."""

    evaluated: int
    waiting: int


async def rebase(conn: asyncpg.Connection) -> Rebased | None:
    """Renumber the log's transactions so that exactly what was not evaluated is read next.

    One transaction; None when the database is still in the cluster it was evaluated in.

    Raises:
        Conflict: a server evaluates or writes events meanwhile.
    """
    async with conn.transaction():
        await _refuse_company(conn)
        if not await _has_moved(conn):
            return None
        # Taken before this transaction has an id of its own, so that its id is not in it.
        snapshot = await conn.fetchval("SELECT pg_current_snapshot()::text")
        await _put_evaluated_first(conn)
        await _put_waiting_last(conn)
        await _move_cursor(conn, snapshot)
        return await _count(conn)


async def _refuse_company(conn: asyncpg.Connection) -> None:
    """Keep evaluators and writers away until the transaction ends."""
    if not await conn.fetchval("SELECT pg_try_advisory_xact_lock($1)", EVALUATING):
        raise Conflict("A server evaluates this database. Stop every server, then rebase.")
    milliseconds = int(REBASE_WAIT_MAX.total_seconds() * 1000)
    await conn.execute(f"SET LOCAL lock_timeout = {milliseconds}")
    try:
        await conn.execute("LOCK TABLE events IN EXCLUSIVE MODE")
    except asyncpg.LockNotAvailableError:
        raise Conflict("Something is writing events. Stop every server, then rebase.") from None


async def _has_moved(conn: asyncpg.Connection) -> bool:
    """Whether there is a cursor, and it belongs to another cluster."""
    return bool(
        await conn.fetchval(
            "SELECT cluster <> (SELECT system_identifier FROM pg_control_system()) "
            "FROM cursors WHERE name = $1",
            EVALUATE,
        )
    )


async def _put_evaluated_first(conn: asyncpg.Connection) -> None:
    await conn.execute(
        "UPDATE events AS e SET xid = $2::text::xid8 FROM cursors AS c "
        "WHERE c.name = $1 AND e.xid <> $2::text::xid8 "
        "AND (pg_visible_in_snapshot(e.xid, c.snapshot) OR coalesce("
        "pg_visible_in_snapshot(e.xid, c.page_snapshot) "
        "AND (e.xid, e.position) <= (c.page_xid, c.page_position), false))",
        EVALUATE,
        _BEFORE_EVERYTHING,
        timeout=REBASE_WITHIN.total_seconds(),
    )


async def _put_waiting_last(conn: asyncpg.Connection) -> None:
    """In this very transaction, which the cursor's new snapshot does not hold."""
    await conn.execute(
        "UPDATE events SET xid = pg_current_xact_id() WHERE xid <> $1::text::xid8",
        _BEFORE_EVERYTHING,
        timeout=REBASE_WITHIN.total_seconds(),
    )


async def _move_cursor(conn: asyncpg.Connection, snapshot: str) -> None:
    await conn.execute(
        "UPDATE cursors SET snapshot = $2::text::pg_snapshot, page_snapshot = NULL, "
        "page_xid = NULL, page_position = NULL, version = version + 1, "
        "cluster = (SELECT system_identifier FROM pg_control_system()) WHERE name = $1",
        EVALUATE,
        snapshot,
    )


async def _count(conn: asyncpg.Connection) -> Rebased:
    row = await conn.fetchrow(
        "SELECT count(*) FILTER (WHERE xid = $1::text::xid8) AS evaluated, "
        "count(*) FILTER (WHERE xid <> $1::text::xid8) AS waiting FROM events",
        _BEFORE_EVERYTHING,
        timeout=REBASE_WITHIN.total_seconds(),
    )
    return Rebased(evaluated=row["evaluated"], waiting=row["waiting"])
