"""The open windows of every trigger's keys: read, written, due and forgotten in batches."""

from collections.abc import Sequence
from datetime import datetime
from operator import attrgetter
from uuid import UUID

import asyncpg
from msgspec import Struct
from msgspec.structs import astuple


class StoredWindow(Struct, frozen=True, kw_only=True, gc=False):
    """A row of `windows`. `key` is the JSON array of its values, `state` what the core encoded.

    `started_at` None: nothing is open, the row only remembers what closed it. `alarms`: the
    evaluator has to decide it at `deadline_at`. A Struct and not a dataclass: one is made for
    every event that is evaluated.
    """

    trigger_number: int
    node: int
    key_hash: UUID
    key: str
    state: str
    started_at: datetime | None
    deadline_at: datetime | None
    alarms: bool
    forgotten_at: datetime


_COLUMNS = StoredWindow.__struct_fields__

# By their keys, so that neighbours in the index are written one after the other.
_in_order = attrgetter("trigger_number", "node", "key_hash.int")

LOAD = """
SELECT asked.place, w.state, w.deadline_at
FROM unnest($1::int[], $2::smallint[], $3::uuid[]) WITH ORDINALITY
     AS asked (trigger_number, node, key_hash, place)
JOIN windows AS w USING (trigger_number, node, key_hash)
"""

SAVE = f"""
INSERT INTO windows ({", ".join(_COLUMNS)})
SELECT * FROM unnest($1::int[], $2::smallint[], $3::uuid[], $4::text[], $5::text[],
                     $6::timestamptz[], $7::timestamptz[], $8::boolean[], $9::timestamptz[])
ON CONFLICT (trigger_number, node, key_hash) DO UPDATE
SET state = excluded.state, started_at = excluded.started_at, deadline_at = excluded.deadline_at,
    alarms = excluded.alarms, forgotten_at = excluded.forgotten_at
"""

DUE = """
SELECT trigger_number, node, key_hash, key, state, deadline_at
FROM windows WHERE alarms AND deadline_at <= $1 ORDER BY deadline_at LIMIT $2
"""

DUE_OF = """
SELECT trigger_number, node, key_hash, key, state, deadline_at
FROM windows WHERE trigger_number = $1 AND deadline_at <= $2 AND alarms
ORDER BY deadline_at LIMIT $3
"""


async def load(
    conn: asyncpg.Connection,
    *,
    numbers: Sequence[int],
    nodes: Sequence[int],
    hashes: Sequence[UUID],
) -> list[asyncpg.Record]:
    """The windows of these keys: `place` among those asked for (from 1), `state`, `deadline_at`.

    By primary key (windows_pkey), one probe a key.
    """
    rows: list[asyncpg.Record] = await conn.fetch(LOAD, numbers, nodes, hashes)
    return rows


async def due(conn: asyncpg.Connection, *, before: datetime, limit: int) -> list[asyncpg.Record]:
    """Windows to be decided by `before`, the longest overdue first (windows_due): their
    `trigger_number`, `node`, `key_hash`, `key`, `state`, `deadline_at`.
    """
    rows: list[asyncpg.Record] = await conn.fetch(DUE, before, limit)
    return rows


async def due_of(
    conn: asyncpg.Connection, number: int, *, before: datetime, limit: int
) -> list[asyncpg.Record]:
    """Likewise those of one trigger (windows_by_deadline)."""
    rows: list[asyncpg.Record] = await conn.fetch(DUE_OF, number, before, limit)
    return rows


async def create(conn: asyncpg.Connection, windows: Sequence[StoredWindow]) -> None:
    """COPY windows of which none is stored.

    Raises:
        asyncpg.UniqueViolationError: one is there already.
    """
    await conn.copy_records_to_table(
        "windows", columns=_COLUMNS, records=map(astuple, sorted(windows, key=_in_order))
    )


async def save(conn: asyncpg.Connection, windows: Sequence[StoredWindow]) -> None:
    """Write windows, new or changed."""
    rows = map(astuple, sorted(windows, key=_in_order))
    await conn.execute(SAVE, *zip(*rows, strict=True))


async def close(
    conn: asyncpg.Connection,
    *,
    numbers: Sequence[int],
    nodes: Sequence[int],
    hashes: Sequence[UUID],
) -> None:
    """Remove the windows of these keys."""
    await conn.execute(
        "DELETE FROM windows AS w USING unnest($1::int[], $2::smallint[], $3::uuid[]) "
        "AS closed (trigger_number, node, key_hash) "
        "WHERE w.trigger_number = closed.trigger_number AND w.node = closed.node "
        "AND w.key_hash = closed.key_hash",
        numbers,
        nodes,
        hashes,
    )


async def calm(
    conn: asyncpg.Connection,
    *,
    numbers: Sequence[int],
    nodes: Sequence[int],
    hashes: Sequence[UUID],
) -> None:
    """Nobody can decide these any more: they are due no longer, and forgotten in their time."""
    await conn.execute(
        "UPDATE windows AS w SET alarms = false "
        "FROM unnest($1::int[], $2::smallint[], $3::uuid[]) "
        "AS calmed (trigger_number, node, key_hash) "
        "WHERE w.trigger_number = calmed.trigger_number AND w.node = calmed.node "
        "AND w.key_hash = calmed.key_hash",
        numbers,
        nodes,
        hashes,
    )


async def look_again(conn: asyncpg.Connection, number: int, *, at: datetime) -> None:
    """The condition has changed under its open keys: when each is due has to be found anew."""
    await conn.execute(
        "UPDATE windows SET deadline_at = $2 WHERE trigger_number = $1 AND alarms", number, at
    )


async def close_key(conn: asyncpg.Connection, number: int, key_hash: UUID) -> int:
    """Remove a key's windows, in all of a trigger's conditions; answers how many there were."""
    status = await conn.execute(
        "DELETE FROM windows WHERE trigger_number = $1 AND key_hash = $2", number, key_hash
    )
    return _count_of(status)


async def close_all_of(conn: asyncpg.Connection, number: int) -> int:
    """Remove every window of a trigger; answers how many there were."""
    status = await conn.execute("DELETE FROM windows WHERE trigger_number = $1", number)
    return _count_of(status)


async def close_nodes_of(conn: asyncpg.Connection, number: int, nodes: Sequence[int]) -> int:
    """Remove every window of some of a trigger's conditions; answers how many there were."""
    status = await conn.execute(
        "DELETE FROM windows WHERE trigger_number = $1 AND node = ANY($2::smallint[])",
        number,
        nodes,
    )
    return _count_of(status)


async def forget(conn: asyncpg.Connection, *, limit: int) -> int:
    """Remove windows past their time, as far as the log is evaluated; answers how many.

    A window that a backlog could still complete is kept, however late the evaluator is, and so is
    one that has an alarm to give.
    """
    status = await conn.execute(
        "DELETE FROM windows WHERE ctid = ANY (ARRAY("
        "SELECT ctid FROM windows WHERE NOT alarms AND forgotten_at < "
        "(SELECT least(evaluated_until, now()) FROM cursors WHERE name = 'evaluate') LIMIT $1))",
        limit,
    )
    return _count_of(status)


def _count_of(status: str) -> int:
    """How many rows a statement touched, from what Postgres says of it."""
    return int(status.split()[1])
