"""Trouble of the database is nobody's event's fault: nothing is refused, set aside or failed."""

import asyncio
from datetime import timedelta
from uuid import uuid4

import asyncpg
import pytest

from tests.e2e.server import until
from tests.pipeline.test_deliver import Line as Delivery
from tests.pipeline.test_deliver import attempts_of, deploy, line, make_run, state_of
from tests.pipeline.test_ingest import new_event
from tests.proofs import full_disk, shop
from tests.receiver import Receiver
from upshot.core.errors import Overloaded
from upshot.pipeline.ingest import Ingest, Stored
from upshot.storage import partitions
from upshot.storage.database import Database
from upshot.workers import loops
from upshot.workers.signals import Signals

pytestmark = pytest.mark.anyio

__all__ = ["line"]


async def test_posts_are_neither_acknowledged_nor_rejected_and_go_on_when_there_is_room_again(
    database: Database, conn: asyncpg.Connection
) -> None:
    stage = Ingest(on_stored=lambda: None)
    running = loops.Line(database, Signals(), asyncio.Event())
    writing = asyncio.create_task(loops.keep("i", running, lambda: loops.ingest(running, stage)))
    await until(lambda: _is_open(stage))
    await full_disk.fill(conn, "events")
    with pytest.raises(Overloaded):
        await stage.append([new_event(id_given=True), new_event()])
    assert await conn.fetchval("SELECT count(*) FROM event_ids") == 0
    await full_disk.empty(conn, "events")
    await until(lambda: _is_open(stage))
    assert await stage.append([new_event()]) == [Stored()]
    running.stopping.set()
    await writing


async def test_the_evaluator_sets_nothing_aside_and_makes_the_run_when_there_is_room_again(
    database: Database, conn: asyncpg.Connection
) -> None:
    await partitions.ensure_partitions(conn)
    await shop.register(database, **shop.EVERY_EVENT)
    await full_disk.fill(conn, "runs")
    step = shop.Step(id=uuid4(), name="x", user="1")
    await shop.append_slowly(conn, [step], open_seconds=0)
    running = loops.Line(database, Signals(), asyncio.Event())
    retention = timedelta(days=90)

    async def evaluate() -> None:
        attempts.append(1)
        await loops.evaluate(running, key_retention=retention)

    attempts: list[int] = []
    evaluating = asyncio.create_task(loops.keep("e", running, evaluate))
    await until(lambda: _at_least(attempts, 3))
    await full_disk.empty(conn, "runs")
    await until(lambda: _has_rows(conn, "runs"))
    assert await shop.events_with_runs(conn) == [step.id]
    assert await conn.fetchval("SELECT count(*) FROM evaluation_errors") == 0
    running.stopping.set()
    await evaluating


async def test_a_run_that_completed_is_not_failed(
    database: Database, conn: asyncpg.Connection, line: Delivery
) -> None:
    async with Receiver() as runner:
        await deploy(database, "d", runner.url)
        run_id = await make_run(conn)
        await line.deliverer.turn(conn)
        await line.ended.wait()
        await full_disk.fill(conn, "attempts")
        with pytest.raises(asyncpg.DiskFullError):
            await line.deliverer.turn(conn)
        assert await state_of(conn, run_id) == "scheduled"
        await full_disk.empty(conn, "attempts")
        await line.deliverer.turn(conn)
    assert await state_of(conn, run_id) == "completed"
    assert [outcome for outcome, *_ in await attempts_of(conn, run_id)] == ["completed"]


async def _is_open(stage: Ingest) -> bool:
    return stage.is_open


async def _at_least(attempts: list[int], count: int) -> bool:
    return len(attempts) >= count


async def _has_rows(conn: asyncpg.Connection, table: str) -> bool:
    return bool(await conn.fetchval(f"SELECT EXISTS (SELECT FROM {table})"))
