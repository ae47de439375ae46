"""Runs that fail when they are made are told of by whoever evaluates."""

from datetime import timedelta

import asyncpg
import pytest

from tests.proofs import shop
from tests.proofs.shop import COMPLETE, CREATED, Step, new_id
from upshot.pipeline.evaluate import CursorMoved, Evaluator
from upshot.storage import log, partitions
from upshot.storage.database import Database

pytestmark = pytest.mark.anyio

UNRENDERED = {**shop.SHOP, "parameters": {"total": "{{ event.payload.total }}"}}


async def evaluator(conn: asyncpg.Connection) -> Evaluator:
    return await Evaluator.load(conn, key_retention=timedelta(days=90))


async def order(conn: asyncpg.Connection) -> None:
    steps = [Step(id=new_id(), name=name, user="1") for name in (CREATED, COMPLETE)]
    await shop.append_slowly(conn, steps, open_seconds=0)


async def test_a_missing_day_of_the_log_is_no_events_fault(
    database: Database, conn: asyncpg.Connection
) -> None:
    await shop.register(database, **UNRENDERED)
    await order(conn)
    await conn.execute("UPDATE events SET received_at = received_at - interval '1 day'")
    _yesterday, today, *_ = await partitions.names(conn)
    await conn.execute(f"DROP TABLE {today}")
    for carefully in (False, True):
        with pytest.raises(log.NoDay):
            await (await evaluator(conn)).turn(carefully=carefully)
    await partitions.ensure_partitions(conn)
    await (await evaluator(conn)).turn(carefully=True)
    assert await conn.fetchval("SELECT count(*) FROM evaluation_errors") == 0
    assert await conn.fetchval("SELECT state FROM runs") == "failed"
    assert await conn.fetchval("SELECT count(*) FROM events WHERE name = 'upshot.run.failed'") == 1


async def test_a_failure_is_told_in_the_transaction_that_evaluates(
    database: Database, conn: asyncpg.Connection
) -> None:
    await shop.register(database, **UNRENDERED)
    await order(conn)
    void = await evaluator(conn)
    await conn.execute("UPDATE cursors SET version = version + 1")
    with pytest.raises(CursorMoved):
        await void.turn()
    assert await conn.fetchval("SELECT count(*) FROM events WHERE name = 'upshot.run.failed'") == 0
    await (await evaluator(conn)).turn()
    assert await conn.fetchval("SELECT count(*) FROM events WHERE name = 'upshot.run.failed'") == 1
