"""Whoever ends a run tells the log, in the same transaction and for all runs at once."""

import json
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from tests.storage.test_queue import claim, deploy, outcome_of
from upshot.core.limits import CHAIN_DEPTH_MAX
from upshot.storage import log, partitions, queue
from upshot.storage.database import Database
from upshot.storage.queue import NewRun

pytestmark = pytest.mark.anyio

EVENT = '{"id":"1","event":"order.paid","resource":{"prefect.resource.id":"123","a":"b"}}'


@pytest.fixture
async def deployed(database: Database, conn: asyncpg.Connection) -> asyncpg.Connection:
    await deploy(database, "d", max_concurrency=100)
    return conn


async def make(conn: asyncpg.Connection, count: int, **more: Any) -> list[NewRun]:
    """Runs that are due now."""
    now = await conn.fetchval("SELECT now()")
    fields: dict[str, Any] = {
        "deployment": "d",
        "trigger_id": uuid4(),
        "trigger_version": 1,
        "trigger": "t",
        "key": '["123"]',
        "labels": '{"id": "123"}',
        "event_id": uuid4(),
        "event": EVENT,
        "after_id": None,
        "event_ids": [],
        "parameters": "{}",
        "template": None,
        "error": None,
        **more,
    }
    runs = [NewRun(id=uuid4(), scheduled_at=now, **fields) for _ in range(count)]
    async with conn.transaction():
        await queue.create(conn, runs)
    return runs


async def told(conn: asyncpg.Connection) -> dict[UUID, dict[str, Any]]:
    """What the log says of runs, by their id: the payload, and the event's name as `name`."""
    rows = await conn.fetch("SELECT name, payload FROM events ORDER BY position")
    payloads = [{"name": row["name"], **json.loads(row["payload"])} for row in rows]
    assert len({payload["run_id"] for payload in payloads}) == len(payloads)
    return {UUID(payload["run_id"]): payload for payload in payloads}


async def test_runs_that_end_are_told_of_and_those_that_go_on_are_not(
    deployed: asyncpg.Connection,
) -> None:
    conn = deployed
    await make(conn, 4)
    completed, failed, again, running = await claim(conn)
    await queue.finish_if_leased(
        conn,
        [
            outcome_of(completed, "completed"),
            outcome_of(failed, "failed", error="timed out", run_error="no retries are left"),
            outcome_of(again, "retrying", again_after=timedelta(hours=1), parameters='{"a": 1}'),
            outcome_of(running, "running"),
        ],
    )
    found = await told(conn)
    assert found.keys() == {completed.id, failed.id}
    assert found[completed.id] == {
        "name": "upshot.run.completed",
        "run_id": str(completed.id),
        "deployment": "d",
        "trigger": "t",
        "state": "completed",
        "error": None,
        "attempts": 1,
        "result": None,
        "labels": {"id": "123"},
        "depth": 0,
    }
    assert found[failed.id]["name"] == "upshot.run.failed"
    assert found[failed.id]["error"] == "no retries are left"


async def test_the_event_is_read_back_with_its_cause_and_at_the_time_of_the_end(
    deployed: asyncpg.Connection,
) -> None:
    (made,) = await make(deployed, 1)
    (run,) = await claim(deployed)
    cursor = await log.load_cursor(deployed, "test")
    async with deployed.transaction():
        await queue.finish_if_leased(deployed, [outcome_of(run, "completed")])
    (event,) = (await log.read_batch(deployed, cursor, events_max=10, bytes_max=10_000)).events
    assert event.resource == {
        "prefect.resource.id": f"upshot.run.{run.id}",
        "prefect.resource.name": "d",
    }
    assert {one["prefect.resource.role"]: one["prefect.resource.id"] for one in event.related} == {
        "deployment": "upshot.deployment.d",
        "trigger": f"upshot.trigger.{made.trigger_id}",
        "event": f"upshot.event.{made.event_id}",
        "cause": "123",
    }
    finished_at = await deployed.fetchval("SELECT finished_at FROM runs")
    assert event.at == event.occurred_at == finished_at


async def test_what_is_rolled_back_is_not_told(deployed: asyncpg.Connection) -> None:
    await make(deployed, 1)
    (run,) = await claim(deployed)
    transaction = deployed.transaction()
    await transaction.start()
    await queue.finish_if_leased(deployed, [outcome_of(run, "completed")])
    assert (await told(deployed)).keys() == {run.id}
    await transaction.rollback()
    assert await told(deployed) == {}


async def test_an_outcome_without_the_lease_tells_nothing(deployed: asyncpg.Connection) -> None:
    await make(deployed, 1)
    (run,) = await claim(deployed)
    await deployed.execute("UPDATE run_queue SET lease = gen_random_uuid()")
    assert await queue.finish_if_leased(deployed, [outcome_of(run, "failed")]) == set()
    assert await told(deployed) == {}


async def test_a_run_lost_too_often_is_told_of_once_it_fails(
    deployed: asyncpg.Connection,
) -> None:
    (run,) = await make(deployed, 1)
    for expected in ({}, {run.id: 2}):
        assert len(await claim(deployed)) == 1
        await deployed.execute("UPDATE run_queue SET lease_until = now() - interval '1 second'")
        assert await queue.rescue(deployed, limit=10, attempts_max=2) == 1
        found = await told(deployed)
        assert {run_id: payload["attempts"] for run_id, payload in found.items()} == expected
    assert found[run.id]["error"] == "lost 2 times"


async def test_a_run_of_which_nothing_was_heard_is_told_of(deployed: asyncpg.Connection) -> None:
    await make(deployed, 1)
    (run,) = await claim(deployed)
    await queue.finish_if_leased(deployed, [outcome_of(run, "running")])
    await deployed.execute("UPDATE run_queue SET lease_until = now() - interval '1 second'")
    assert await queue.fail_unreported(deployed, limit=10) == 1
    found = await told(deployed)
    assert (found[run.id]["name"], found[run.id]["attempts"]) == ("upshot.run.failed", 1)


async def test_a_run_that_cannot_be_called_is_told_of_when_it_is_made(
    deployed: asyncpg.Connection,
) -> None:
    await make(deployed, 1)
    (run,) = await make(deployed, 1, error="no such field", parameters=None, depth=CHAIN_DEPTH_MAX)
    (silent,) = await make(deployed, 1, error="no such field", event_id=None, event=None)
    found = await told(deployed)
    assert found.keys() == {run.id, silent.id}
    assert found[run.id]["error"] == "no such field"
    assert (found[run.id]["attempts"], found[run.id]["depth"]) == (0, CHAIN_DEPTH_MAX)
    rows = await deployed.fetch("SELECT related FROM events ORDER BY position")
    roles = [[one["prefect.resource.role"] for one in json.loads(row[0])] for row in rows]
    assert roles == [["deployment", "trigger", "event", "cause"], ["deployment", "trigger"]]


async def test_a_chain_that_is_too_deep_ends_without_a_word(deployed: asyncpg.Connection) -> None:
    await make(deployed, 1, error="loop", depth=CHAIN_DEPTH_MAX + 1)
    row = await deployed.fetchrow("SELECT state, depth FROM runs")
    assert tuple(row) == ("failed", CHAIN_DEPTH_MAX + 1)
    assert await told(deployed) == {}


async def test_all_runs_of_a_batch_are_told_of_in_one_statement(
    deployed: asyncpg.Connection,
) -> None:
    await make(deployed, 40)
    outcomes = [outcome_of(run, "completed") for run in await claim(deployed)]
    await deployed.execute(
        "CREATE SEQUENCE statements; "
        "CREATE FUNCTION count_statement() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM nextval('statements'); RETURN NULL; END $$; "
        "CREATE TRIGGER counted AFTER INSERT ON events EXECUTE FUNCTION count_statement()"
    )
    await queue.finish_if_leased(deployed, outcomes)
    assert len(await told(deployed)) == 40
    assert await deployed.fetchval("SELECT last_value FROM statements WHERE is_called") == 1


async def test_a_log_without_a_day_says_so_and_nothing_ends_until_there_is_one(
    deployed: asyncpg.Connection,
) -> None:
    await make(deployed, 1)
    (run,) = await claim(deployed)
    for name in await partitions.names(deployed):
        await deployed.execute(f"DROP TABLE {name}")
    with pytest.raises(log.NoDay):
        async with deployed.transaction():
            await queue.finish_if_leased(deployed, [outcome_of(run, "completed")])
    await partitions.ensure_partitions(deployed)
    async with deployed.transaction():
        assert await queue.finish_if_leased(deployed, [outcome_of(run, "completed")]) == {run.id}
    assert (await told(deployed)).keys() == {run.id}
