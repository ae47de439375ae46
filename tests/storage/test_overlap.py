"""Runs of one key that may not overlap: skipped, or one after another, whoever makes them."""

import asyncio
from datetime import timedelta
from itertools import pairwise
from uuid import UUID, uuid4

import asyncpg
import pytest
from msgspec.structs import replace

from tests.storage.test_queue import claim, deploy, finish, state_of
from upshot.core.limits import LEASE
from upshot.core.runs import RunState
from upshot.storage import deployments, queue, runs
from upshot.storage.database import Database
from upshot.storage.queue import OVERLAPPED, NewRun

pytestmark = pytest.mark.anyio

TRIGGER = UUID(int=1)
KEY = '["1"]'


async def deploy_with(database: Database, conn: asyncpg.Connection, overlap: str) -> None:
    await deploy(database, "d", max_concurrency=100)
    await conn.execute("UPDATE deployments SET overlap = $1", overlap)


async def make(
    conn: asyncpg.Connection, *keys: str, trigger: UUID = TRIGGER, deployment: str = "d"
) -> list[UUID]:
    """A run that is due for each of these keys, made by one transaction."""
    now = await conn.fetchval("SELECT now()")
    there = await queue.defaults_of(conn, [deployment])
    first = NewRun(
        id=uuid4(),
        scheduled_at=now,
        deployment=deployment,
        trigger_id=trigger,
        trigger_version=1,
        trigger="t",
        key=KEY,
        labels="{}",
        event_id=None,
        event=None,
        after_id=None,
        event_ids=[],
        parameters="{}",
        template=None,
        error=None,
        may_overlap=all(row["overlap"] == "allow" for row in there),
    )
    made = [replace(first, id=uuid4(), key=key) for key in keys]
    async with conn.transaction():
        await queue.create(conn, made)
    return [run.id for run in made]


async def ask(database: Database) -> UUID:
    run_id = uuid4()
    async with database.begin() as conn:
        assert await runs.create_asked_for(
            conn, run_id=run_id, deployment="d", parameters={}, template=None
        )
    return run_id


async def claimed(conn: asyncpg.Connection) -> list[UUID]:
    return [run.id for run in await claim(conn)]


async def states(conn: asyncpg.Connection, *run_ids: UUID) -> list[str]:
    return [await state_of(conn, run_id) for run_id in run_ids]


async def test_runs_of_one_key_overlap_where_nothing_is_said(
    database: Database, conn: asyncpg.Connection
) -> None:
    await deploy_with(database, conn, "allow")
    assert sorted(await make(conn, KEY, KEY)) == sorted(await claimed(conn))


async def test_skip_cancels_what_is_made_while_another_of_its_key_has_not_ended(
    database: Database, conn: asyncpg.Connection
) -> None:
    await deploy_with(database, conn, "skip")
    first, skipped, other = await make(conn, KEY, KEY, '["2"]')
    (of_another,) = await make(conn, KEY, trigger=UUID(int=2))
    assert await states(conn, first, skipped, other) == ["scheduled", "cancelled", "scheduled"]
    assert await conn.fetchval("SELECT error FROM runs WHERE id = $1", skipped) == OVERLAPPED
    assert set(await claimed(conn)) == {first, other, of_another}
    (while_running,) = await make(conn, KEY)
    await conn.execute(
        "UPDATE run_queue SET state = 'retrying', lease = NULL, due_at = 'infinity' "
        "WHERE run_id = $1",
        first,
    )
    (while_retrying,) = await make(conn, KEY)
    assert await states(conn, while_running, while_retrying) == ["cancelled"] * 2
    await finish(conn, first)
    (after,) = await make(conn, KEY)
    assert await claimed(conn) == [after]


async def test_queue_runs_one_after_another_in_the_order_in_which_they_were_made(
    database: Database, conn: asyncpg.Connection
) -> None:
    await deploy_with(database, conn, "queue")
    made = await make(conn, KEY, KEY)
    made += await make(conn, KEY)
    (other,) = await make(conn, '["2"]')
    assert set(await claimed(conn)) == {made[0], other}
    for before, after in pairwise(made):
        assert await claimed(conn) == []
        await finish(conn, before)
        assert await claimed(conn) == [after]


async def test_a_run_that_waits_for_its_retry_keeps_the_others_of_its_key_waiting(
    database: Database, conn: asyncpg.Connection
) -> None:
    await deploy_with(database, conn, "queue")
    first, second = await make(conn, KEY, KEY)
    (run,) = await claim(conn)
    outcome = queue.Outcome(
        run_id=run.id,
        lease=run.lease,
        state="retrying",
        attempt=1,
        started_at=run.started_at,
        duration=0.1,
        outcome="failed",
        again_after=timedelta(hours=1),
    )
    async with conn.transaction():
        assert await queue.finish_if_leased(conn, [outcome]) == {first}
    assert await claimed(conn) == []
    await conn.execute("UPDATE run_queue SET due_at = now() WHERE run_id = $1", first)
    assert await claimed(conn) == [first]
    async with database.begin() as other:
        assert await runs.cancel_if_open(other, first, reason="why")
    assert await claimed(conn) == [second]


@pytest.mark.parametrize("end", ["cancel", "report", "rescue", "silence"])
async def test_whatever_ends_a_run_the_next_of_its_key_comes(
    database: Database, conn: asyncpg.Connection, end: str
) -> None:
    await deploy_with(database, conn, "queue")
    _, second = await make(conn, KEY, KEY)
    (run,) = await claim(conn)
    await conn.execute(
        "UPDATE run_queue SET accepted = $1, lease_until = now() - interval '1 s' "
        "WHERE lease IS NOT NULL",
        end == "silence",
    )
    async with database.begin() as other:
        if end == "cancel":
            assert await runs.cancel_if_open(other, run.id, reason="why")
        if end == "report":
            assert await runs.finish_if_leased(
                other, run.id, lease=run.lease, state=RunState.COMPLETED, result=1, error=None
            )
    if end == "rescue":
        assert await queue.rescue(conn, limit=9, attempts_max=1) == 1
    if end == "silence":
        assert await queue.fail_unreported(conn, limit=9) == 1
    assert await claimed(conn) == [second]


async def test_what_waits_is_cancelled_like_any_other_and_blocks_nobody(
    database: Database, conn: asyncpg.Connection
) -> None:
    await deploy_with(database, conn, "queue")
    first, second, third = await make(conn, KEY, KEY, KEY)
    assert await claimed(conn) == [first]
    async with database.begin() as other:
        assert await runs.cancel_if_open(other, second, reason="why")
    await finish(conn, first)
    assert await claimed(conn) == [third]


async def test_runs_that_were_asked_for_have_one_key(
    database: Database, conn: asyncpg.Connection
) -> None:
    await deploy_with(database, conn, "queue")
    first, second = await ask(database), await ask(database)
    (fired,) = await make(conn, KEY)
    assert set(await claimed(conn)) == {first, fired}
    await finish(conn, first)
    assert await claimed(conn) == [second]
    await conn.execute("UPDATE deployments SET overlap = 'skip'")
    assert await state_of(conn, await ask(database)) == "cancelled"


async def test_a_run_begun_again_waits_for_the_others_of_its_key(
    database: Database, conn: asyncpg.Connection
) -> None:
    await deploy_with(database, conn, "queue")
    again, first = await make(conn, KEY, KEY)
    async with database.begin() as other:
        assert await runs.cancel_if_open(other, again, reason="why")
    assert await claimed(conn) == [first]
    async with database.begin() as other:
        assert await runs.enqueue(other, [again]) == {again}
        await runs.reopen(other, {again: None})
    assert await claimed(conn) == []
    await finish(conn, first)
    assert await claimed(conn) == [again]


async def test_of_two_that_are_made_at_the_same_time_one_is_skipped(
    database: Database, conn: asyncpg.Connection
) -> None:
    await deploy_with(database, conn, "skip")
    other = await database.connect()
    async with asyncio.timeout(20):
        transaction = conn.transaction()
        await transaction.start()
        (first,) = await make(conn, KEY)
        making = asyncio.create_task(make(other, KEY))
        await _until_it_waits(database, other)
        await transaction.commit()
        (second,) = await making
    await other.close()
    assert await states(conn, first, second) == ["scheduled", "cancelled"]


async def test_a_run_made_while_the_one_before_it_ends_is_not_forgotten(
    database: Database, conn: asyncpg.Connection
) -> None:
    await deploy_with(database, conn, "queue")
    other = await database.connect()
    (first,) = await make(conn, KEY)
    assert await claimed(conn) == [first]
    making, ending = conn.transaction(), other.transaction()
    await making.start()
    await ending.start()
    (second,) = await make(conn, KEY)
    await finish(other, first)
    await ending.commit()
    assert await claimed(other) == []
    await making.commit()
    assert await claimed(other) == [second]
    await other.close()


async def test_a_long_line_of_one_key_costs_a_claim_nothing(
    database: Database, conn: asyncpg.Connection
) -> None:
    await deploy_with(database, conn, "queue")
    first, *_ = await make(conn, *[KEY] * 2_000)
    (last,) = await make(conn, '["2"]')
    await conn.execute("ANALYZE run_queue")
    assert set(await claimed(conn)) == {first, last}
    plan = await conn.fetch(
        f"EXPLAIN (ANALYZE, BUFFERS, FORMAT TEXT) {queue.CLAIM}", 10, LEASE, "webhook", None, None
    )
    text = "\n".join(row[0] for row in plan)
    assert "Seq Scan on run_queue" not in text
    assert "Rows Removed" not in text


async def test_deleting_a_deployment_ends_what_waits_too(
    database: Database, conn: asyncpg.Connection
) -> None:
    await deploy_with(database, conn, "queue")
    made = await make(conn, KEY, KEY)
    async with database.begin() as other:
        assert await deployments.cancel_open_runs(other, "d", reason="gone") == 2
    assert await states(conn, *made) == ["cancelled"] * 2
    assert await claimed(conn) == []
    assert await conn.fetchval("SELECT count(*) FROM slots_changed") == 0


async def _until_it_waits(database: Database, conn: asyncpg.Connection) -> None:
    """Until that connection waits for another's transaction."""
    watching = await database.connect()
    while not await watching.fetchval(
        "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $1",
        conn.get_server_pid(),
    ):
        pass
    await watching.close()
