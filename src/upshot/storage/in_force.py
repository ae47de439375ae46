"""The triggers in force at the evaluator's cursor, as the log's own entries have made them."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg


async def load(conn: asyncpg.Connection) -> list[asyncpg.Record]:
    """Every trigger in force: `id`, `number`, `version`, `since`, `document` (JSON text)."""
    rows: list[asyncpg.Record] = await conn.fetch(
        "SELECT id, number, version, since, document FROM triggers_in_force ORDER BY number"
    )
    return rows


async def put_if_newer(
    conn: asyncpg.Connection,
    *,
    trigger_id: UUID,
    number: int,
    version: int,
    document: Mapping[str, Any],
    at: datetime,
) -> datetime | None:
    """From `at` on this version is in force, unless a later one is already: then None.

    Answers since when it has been enabled without a break: what it sees was received from then on.
    """
    since: datetime | None = await conn.fetchval(
        "INSERT INTO triggers_in_force AS f (id, number, version, document, since) "
        "VALUES ($1, $2, $3, $4, $5) ON CONFLICT (id) DO UPDATE "
        "SET version = excluded.version, document = excluded.document, "
        "since = CASE WHEN (f.document->>'enabled')::boolean THEN f.since ELSE excluded.since END "
        "WHERE f.version < excluded.version RETURNING since",
        trigger_id,
        number,
        version,
        json.dumps(document),
        at,
    )
    return since


async def remove(conn: asyncpg.Connection, trigger_id: UUID) -> None:
    await conn.execute("DELETE FROM triggers_in_force WHERE id = $1", trigger_id)
