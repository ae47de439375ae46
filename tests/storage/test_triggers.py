"""Triggers in the database, and what the log is told of them."""

import json
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from tests.storage.test_deployments import make as make_deployment
from upshot.storage import partitions, triggers
from upshot.storage.database import Database
from upshot.storage.triggers import StoredTrigger

pytestmark = pytest.mark.anyio

DOCUMENT: dict[str, Any] = {"deployment": "d", "enabled": True, "expect": ["x"]}


async def make(conn: AsyncConnection, name: str = "t") -> StoredTrigger:
    made = await triggers.create(conn, trigger_id=uuid4(), name=name, document=DOCUMENT)
    assert made is not None
    return made


async def test_each_change_is_a_version_and_keeps_id_and_number(database: Database) -> None:
    async with database.begin() as conn:
        await make_deployment(conn)
        made = await make(conn)
        changed = await triggers.replace(
            conn, made.id, name="u", document={**DOCUMENT, "enabled": False}
        )
        assert await triggers.load(conn, "t") is None
        assert await triggers.load_all(conn, [made.id]) == {made.id: changed}
    assert (made.version, changed.version) == (1, 2)
    assert (made.id, made.number) == (changed.id, changed.number)


async def test_a_name_belongs_to_one_trigger(database: Database) -> None:
    async with database.begin() as conn:
        await make_deployment(conn)
        made = await make(conn)
        await make(conn, "u")
        assert await triggers.create(conn, trigger_id=uuid4(), name="t", document=DOCUMENT) is None
    with pytest.raises(IntegrityError):
        async with database.begin() as conn:
            await triggers.replace(conn, made.id, name="u", document=DOCUMENT)


async def test_a_trigger_needs_its_deployment(database: Database) -> None:
    with pytest.raises(IntegrityError):
        async with database.begin() as conn:
            await make(conn)


async def test_the_log_is_told_in_the_transaction_of_the_change(
    database: Database, conn: asyncpg.Connection
) -> None:
    await partitions.ensure_partitions(conn)
    async with database.begin() as changing:
        await make_deployment(changing)
        made = await make(changing)
        await triggers.append_saved(changing, made, keys="forget", condition_changed=True)
        await triggers.append_deleted(changing, made)
        assert await conn.fetchval("SELECT count(*) FROM events") == 0
    saved, deleted = await conn.fetch("SELECT * FROM events ORDER BY position")
    assert (saved["name"], deleted["name"]) == (triggers.SAVED, triggers.DELETED)
    assert saved["resource_id"] == f"upshot.trigger.{made.id}"
    assert json.loads(saved["payload"]) == {
        "id": str(made.id),
        "number": made.number,
        "version": 1,
        "name": "t",
        "document": {"name": "t", **DOCUMENT},
        "keys": "forget",
        "condition_changed": True,
    }


async def test_open_keys_are_those_of_one_trigger(
    database: Database, conn: asyncpg.Connection
) -> None:
    await conn.execute(
        "INSERT INTO windows (trigger_number, key_hash, forgotten_at, started_at, deadline_at, "
        "alarms, key, state) "
        "SELECT number, gen_random_uuid(), now(), started_at, deadline_at, false, '[]', '{}' "
        "FROM unnest(ARRAY[1, 1, 1, 1, 2], ARRAY[now(), now(), now(), NULL, now()], "
        "ARRAY[NULL, now() + interval '1 h', now() - interval '1 h', NULL, NULL]) "
        "AS given (number, started_at, deadline_at)"
    )
    async with database.begin() as asking:
        assert await triggers.open_keys(asking, 1) == 2
