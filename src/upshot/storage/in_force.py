"""The triggers in force at the evaluator's cursor, as the log's own entries have made them."""

import json
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import asyncpg


async def load(conn: asyncpg.Connection) -> list[asyncpg.Record]:
    """Every trigger in force: `id`, `number`, `version`, `document` (JSON text)."""
    rows: list[asyncpg.Record] = await conn.fetch(
        "SELECT id, number, version, document FROM triggers_in_force ORDER BY number"
    )
    return rows


async def put_if_newer(
    conn: asyncpg.Connection,
    *,
    trigger_id: UUID,
    number: int,
    version: int,
    document: Mapping[str, Any],
) -> bool:
    """From here on this version is in force, unless a later one is already."""
    status = await conn.execute(
        "INSERT INTO triggers_in_force AS f (id, number, version, document) "
        "VALUES ($1, $2, $3, $4) ON CONFLICT (id) DO UPDATE "
        "SET version = excluded.version, document = excluded.document "
        "WHERE f.version < excluded.version",
        trigger_id,
        number,
        version,
        json.dumps(document),
    )
    return str(status) == "INSERT 0 1"


async def remove(conn: asyncpg.Connection, trigger_id: UUID) -> None:
    await conn.execute("DELETE FROM triggers_in_force WHERE id = $1", trigger_id)
