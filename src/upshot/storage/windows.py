"""The open windows of every trigger's keys: read, written and forgotten in batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg


@dataclass(frozen=True, slots=True)
class StoredWindow:
    """A row of `windows`. `key` is the JSON array of its values, `state` what the core encoded."""

    trigger_number: int
    key_hash: UUID
    key: str
    state: str
    forgotten_at: datetime


async def load(
    conn: asyncpg.Connection, numbers: Sequence[int], hashes: Sequence[UUID]
) -> list[asyncpg.Record]:
    """The windows of these (trigger, key) pairs: `trigger_number`, `key_hash`, `state`.

    By primary key (windows_pkey), one probe a pair.
    """
    rows: list[asyncpg.Record] = await conn.fetch(
        "SELECT w.trigger_number, w.key_hash, w.state "
        "FROM unnest($1::int[], $2::uuid[]) AS asked (trigger_number, key_hash) "
        "JOIN windows AS w USING (trigger_number, key_hash)",
        numbers,
        hashes,
    )
    return rows


async def save(conn: asyncpg.Connection, windows: Sequence[StoredWindow]) -> None:
    """Write windows, new or changed."""
    await conn.execute(
        "INSERT INTO windows (trigger_number, key_hash, key, state, forgotten_at) "
        "SELECT * FROM unnest($1::int[], $2::uuid[], $3::text[], $4::text[], $5::timestamptz[]) "
        "ON CONFLICT (trigger_number, key_hash) "
        "DO UPDATE SET state = excluded.state, forgotten_at = excluded.forgotten_at",
        [window.trigger_number for window in windows],
        [window.key_hash for window in windows],
        [window.key for window in windows],
        [window.state for window in windows],
        [window.forgotten_at for window in windows],
    )


async def close(conn: asyncpg.Connection, numbers: Sequence[int], hashes: Sequence[UUID]) -> None:
    """Remove the windows of these (trigger, key) pairs."""
    await conn.execute(
        "DELETE FROM windows AS w "
        "USING unnest($1::int[], $2::uuid[]) AS closed (trigger_number, key_hash) "
        "WHERE w.trigger_number = closed.trigger_number AND w.key_hash = closed.key_hash",
        numbers,
        hashes,
    )


async def close_all_of(conn: asyncpg.Connection, number: int) -> int:
    """Remove every window of a trigger; answers how many there were."""
    status = await conn.execute("DELETE FROM windows WHERE trigger_number = $1", number)
    return int(status.split()[1])


async def forget(conn: asyncpg.Connection, *, limit: int) -> int:
    """Remove windows past their time, as far as the log is evaluated; answers how many.

    A window that a backlog could still complete is kept, however late the evaluator is.
    """
    status = await conn.execute(
        "DELETE FROM windows WHERE ctid = ANY (ARRAY("
        "SELECT ctid FROM windows WHERE forgotten_at < "
        "(SELECT least(evaluated_until, now()) FROM cursors WHERE name = 'evaluate') LIMIT $1))",
        limit,
    )
    return int(status.split()[1])
