"""The queue on a real database: room, order, the fence, and what becomes of lost leases."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from msgspec.structs import replace

from upshot.core.delivery import Pull, Webhook
from upshot.core.limits import LEASE
from upshot.storage import deployments, queue
from upshot.storage.database import Database
from upshot.storage.deployments import DeploymentFields, runner_document
from upshot.storage.queue import ClaimedRun, Outcome

pytestmark = pytest.mark.anyio


async def test_runs_are_claimed_when_due_the_oldest_first(
    database: Database, conn: asyncpg.Connection
) -> None:
    await deploy(database, "d", max_concurrency=2)
    later, *due = await make_runs(conn, "d", due_in=[60, -1, -3, -2])
    assert [run.id for run in await claim(conn)] == [due[1], due[2]]
    await finish(conn, due[1], due[2])
    assert [run.id for run in await claim(conn)] == [due[0]]
    await finish(conn, due[0])
    assert await claim(conn) == []
    assert await conn.fetchval("SELECT run_id FROM run_queue") == later


async def test_a_deployment_gets_as_many_as_it_has_room_for_and_costs_the_others_none(
    database: Database, conn: asyncpg.Connection
) -> None:
    await deploy(database, "long", max_concurrency=3)
    await deploy(database, "short", max_concurrency=3)
    await make_runs(conn, "long", due_in=[-100] * 500)
    short = await make_runs(conn, "short", due_in=[-1])
    claimed = await claim(conn, limit=10)
    assert sorted(run.deployment for run in claimed) == ["long"] * 3 + ["short"]
    assert [run.id for run in claimed if run.deployment == "short"] == short
    assert await claim(conn) == []


async def test_a_claim_is_bounded(database: Database, conn: asyncpg.Connection) -> None:
    for name in ("a", "b", "c"):
        await deploy(database, name, max_concurrency=10)
        await make_runs(conn, name, due_in=[-1] * 10)
    assert len(await claim(conn, limit=7)) == 7


async def test_runs_of_a_disabled_deployment_wait(
    database: Database, conn: asyncpg.Connection
) -> None:
    await deploy(database, "d")
    await make_runs(conn, "d", due_in=[-1])
    await queue.disable_deployment(conn, "d", "gone")
    assert await claim(conn) == []
    await conn.execute("UPDATE deployments SET enabled = true")
    assert len(await claim(conn)) == 1


async def test_lowering_max_concurrency_below_what_runs_claims_nothing(
    database: Database, conn: asyncpg.Connection
) -> None:
    await deploy(database, "d", max_concurrency=4)
    await make_runs(conn, "d", due_in=[-1] * 8)
    assert len(await claim(conn)) == 4
    await conn.execute("UPDATE deployments SET max_concurrency = 2")
    assert await claim(conn) == []


async def test_an_outcome_without_the_lease_moves_nothing_and_is_still_on_record(
    database: Database, conn: asyncpg.Connection
) -> None:
    await deploy(database, "d")
    (run_id,) = await make_runs(conn, "d", due_in=[-1])
    (first,) = await claim(conn)
    await conn.execute("UPDATE run_queue SET lease_until = now()")
    assert await queue.rescue(conn, limit=10, attempts_max=100) == 1
    (second,) = await claim(conn)
    assert (second.id, second.attempt) == (run_id, 2)
    assert second.lease != first.lease
    stale = outcome_of(first, "failed", error="too late")
    assert await queue.finish_if_leased(conn, [stale]) == set()
    assert await state_of(conn, run_id) == "scheduled"
    assert await queue.finish_if_leased(conn, [outcome_of(second, "completed")]) == {run_id}
    assert await state_of(conn, run_id) == "completed"
    assert await outcomes_of(conn, run_id) == ["lost", "completed"]


async def test_a_lost_lease_is_not_renewed(database: Database, conn: asyncpg.Connection) -> None:
    await deploy(database, "d")
    await make_runs(conn, "d", due_in=[-1, -1])
    held, lost = await claim(conn)
    await conn.execute("UPDATE run_queue SET lease = gen_random_uuid() WHERE run_id = $1", lost.id)
    leases = [(held.id, held.lease), (lost.id, lost.lease)]
    assert await queue.renew(conn, leases, lease=LEASE) == {held.lease}


async def test_a_retry_waits_uses_one_up_and_keeps_the_rendered_parameters(
    database: Database, conn: asyncpg.Connection
) -> None:
    await deploy(database, "d")
    (run_id,) = await make_runs(conn, "d", due_in=[-1])
    (run,) = await claim(conn)
    again = outcome_of(
        run, "retrying", again_after=timedelta(hours=1), parameters='{"user_id": "1"}'
    )
    await queue.finish_if_leased(conn, [again])
    row = await conn.fetchrow("SELECT state, lease, retries_used FROM run_queue")
    assert tuple(row) == ("retrying", None, 1)
    assert await claim(conn) == []
    await conn.execute("UPDATE run_queue SET due_at = now()")
    (second,) = await claim(conn)
    assert (second.id, second.parameters) == (run_id, '{"user_id": "1"}')
    assert (second.attempt, second.retries_used) == (2, 1)


async def test_a_released_run_is_due_at_once_and_has_used_up_no_retry(
    database: Database, conn: asyncpg.Connection
) -> None:
    await deploy(database, "d")
    await make_runs(conn, "d", due_in=[-1])
    (run,) = await claim(conn)
    released = outcome_of(run, "retrying", again_after=timedelta(0))
    await queue.finish_if_leased(conn, [replace(released, outcome="released", uses_retry=False)])
    (second,) = await claim(conn)
    assert (second.attempt, second.retries_used) == (2, 0)


async def test_a_rescue_takes_only_leases_that_ran_out(
    database: Database, conn: asyncpg.Connection
) -> None:
    await deploy(database, "d")
    await make_runs(conn, "d", due_in=[-1] * 3)
    held, lost, accepted = await claim(conn)
    await queue.finish_if_leased(conn, [outcome_of(accepted, "running")])
    await conn.execute(
        "UPDATE run_queue SET lease_until = now() - interval '1 second' WHERE run_id <> $1", held.id
    )
    assert await queue.rescue(conn, limit=10, attempts_max=100) == 1
    assert [run.id for run in await claim(conn)] == [lost.id]


async def test_a_run_lost_too_often_fails(database: Database, conn: asyncpg.Connection) -> None:
    await deploy(database, "d")
    (run_id,) = await make_runs(conn, "d", due_in=[-1])
    for _ in range(3):
        assert len(await claim(conn)) == 1
        await conn.execute("UPDATE run_queue SET lease_until = now() - interval '1 second'")
        assert await queue.rescue(conn, limit=10, attempts_max=3) == 1
    assert await claim(conn) == []
    assert await state_of(conn, run_id) == "failed"
    assert await outcomes_of(conn, run_id) == ["lost"] * 3
    assert await conn.fetchval("SELECT count(*) FROM run_queue") == 0


async def test_an_accepted_run_has_until_run_timeout_and_then_fails(
    database: Database, conn: asyncpg.Connection
) -> None:
    await deploy(database, "d", run_timeout=timedelta(hours=2))
    (run_id,) = await make_runs(conn, "d", due_in=[-1])
    (run,) = await claim(conn)
    await queue.finish_if_leased(conn, [outcome_of(run, "running")])
    left = await conn.fetchval("SELECT lease_until - now() FROM run_queue")
    assert timedelta(hours=1, minutes=59) < left <= timedelta(hours=2)
    assert await queue.fail_unreported(conn, limit=10) == 0
    await conn.execute("UPDATE run_queue SET lease_until = now() - interval '1 second'")
    assert await queue.fail_unreported(conn, limit=10) == 1
    assert await state_of(conn, run_id) == "failed"
    assert await outcomes_of(conn, run_id) == ["accepted"]


async def test_two_claims_at_once_never_share_a_run_nor_fill_the_same_room(
    database: Database, conn: asyncpg.Connection
) -> None:
    await deploy(database, "d", max_concurrency=3)
    await make_runs(conn, "d", due_in=[-1] * 10)
    other = await database.connect()
    async with conn.transaction():
        mine = await queue.claim(conn, limit=2, lease=LEASE)
        # Whoever claims while another does waits for its commit, and is cut off here by time.
        await other.execute("SET lock_timeout = '50ms'")
        with pytest.raises(asyncpg.LockNotAvailableError):
            await claim(other)
    await other.execute("SET lock_timeout = 0")
    theirs = await claim(other)
    await other.close()
    assert (len(mine), len(theirs)) == (2, 1)
    assert {run.id for run in mine}.isdisjoint(run.id for run in theirs)


async def test_old_finished_runs_are_pruned_with_their_attempts_and_open_ones_stay(
    database: Database, conn: asyncpg.Connection
) -> None:
    await deploy(database, "d")
    finished, open_one, recent = await make_runs(conn, "d", due_in=[-3, -2, -1])
    claimed = {run.id: run for run in await claim(conn)}
    ended = [outcome_of(claimed[run_id], "completed") for run_id in (finished, recent)]
    await queue.finish_if_leased(conn, ended)
    await conn.execute(
        "UPDATE runs SET created_at = now() - interval '10 days', "
        "finished_at = finished_at - interval '10 days' WHERE id = ANY($1::uuid[])",
        [finished, open_one],
    )
    before = datetime.now(UTC) - timedelta(days=5)
    assert await queue.prune(conn, before=before, limit=10) == 1
    assert await queue.prune(conn, before=before, limit=10) == 0
    left = {row["id"] for row in await conn.fetch("SELECT id FROM runs")}
    assert left == {open_one, recent}
    assert await outcomes_of(conn, finished) == []
    assert await outcomes_of(conn, recent) == ["completed"]


async def test_a_claim_reads_a_long_queue_by_its_indexes(
    database: Database, conn: asyncpg.Connection
) -> None:
    await deploy(database, "d")
    await make_runs(conn, "d", due_in=[-1] * 5_000)
    await conn.execute("ANALYZE run_queue")
    plan = "\n".join(
        row[0]
        for row in await conn.fetch(
            f"EXPLAIN {queue.CLAIM}", 10, timedelta(seconds=30), "webhook", None, None
        )
    )
    assert "run_queue_waiting" in plan
    assert "run_queue_leased" in plan
    assert "Seq Scan on run_queue" not in plan


async def test_a_queue_that_was_empty_when_its_plans_were_made_is_reached_by_its_keys(
    database: Database,
) -> None:
    conn = await database.connect(**queue.CLAIMER_SETTINGS)
    await conn.execute("VACUUM ANALYZE run_queue")
    await deploy(database, "d", max_concurrency=20)
    await conn.execute(f"PREPARE claim (int, interval, text, text[], text) AS {queue.CLAIM}")
    claim_20 = "EXECUTE claim (20, '30 s', 'webhook', NULL, NULL)"
    await conn.execute(claim_20)
    await make_runs(conn, "d", due_in=[-1] * 5_000)
    explained = await conn.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {claim_20}")
    plan = json.loads(explained)[0]["Plan"]
    assert plan["Actual Rows"] == 20
    # To pass the whole queue once reads 5,000 rows.
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 2_000
    await conn.close()


async def test_plans_are_made_anew(database: Database) -> None:
    conn = await database.connect(**queue.CLAIMER_SETTINGS)
    await deploy(database, "d")
    statement = await conn.prepare(queue.CLAIM)
    await statement.fetch(1, timedelta(seconds=30), "webhook", None, None)
    assert await statement.fetch(1, timedelta(seconds=30), "webhook", None, None) == []
    await queue.plan_anew(conn)
    await make_runs(conn, "d", due_in=[-1])
    assert len(await statement.fetch(1, timedelta(seconds=30), "webhook", None, None)) == 1
    await conn.close()


async def test_what_is_offered_is_counted_up_to_the_room_there_is_by_the_same_indexes(
    database: Database, conn: asyncpg.Connection
) -> None:
    await deploy(database, "called")
    await deploy(database, "pulled", max_concurrency=3)
    await conn.execute(
        "UPDATE deployments SET runner = $1 WHERE name = 'pulled'",
        json.dumps(runner_document(Pull())),
    )
    await make_runs(conn, "called", due_in=[-1] * 5_000)
    await make_runs(conn, "pulled", due_in=[-1] * 5 + [60])
    await conn.execute("ANALYZE run_queue")
    assert await queue.offered(conn, limit=100) == {"pulled": 3}
    assert await queue.offered(conn, limit=2) == {"pulled": 2}
    plan = "\n".join(row[0] for row in await conn.fetch(f"EXPLAIN {queue.OFFERED}", 10))
    assert "run_queue_waiting" in plan
    assert "run_queue_leased" in plan
    assert "Seq Scan on run_queue" not in plan


async def deploy(
    database: Database,
    name: str,
    *,
    max_concurrency: int = 8,
    run_timeout: timedelta = timedelta(hours=1),
) -> None:
    fields = DeploymentFields(
        description="",
        tags=[],
        runner=Webhook(url="http://127.0.0.1:9/run"),
        parameters={},
        parameter_schema=None,
        max_concurrency=max_concurrency,
        run_timeout=run_timeout,
        overlap="allow",
        enabled=True,
    )
    async with database.begin() as conn:
        await deployments.create(conn, name=name, deployment_id=uuid4(), fields=fields)


async def make_runs(
    conn: asyncpg.Connection, deployment: str, *, due_in: Sequence[float]
) -> list[UUID]:
    """A run for each of these seconds from now."""
    now = await conn.fetchval("SELECT now()")
    runs = [
        queue.NewRun(
            id=uuid4(),
            scheduled_at=now + timedelta(seconds=seconds),
            deployment=deployment,
            trigger_id=uuid4(),
            trigger_version=1,
            trigger="t",
            key="[]",
            labels="{}",
            event_id=uuid4(),
            event="{}",
            after_id=None,
            event_ids=[],
            parameters="{}",
            template=None,
            error=None,
        )
        for seconds in due_in
    ]
    await queue.create(conn, runs)
    return [run.id for run in runs]


async def claim(conn: asyncpg.Connection, *, limit: int = 100) -> list[ClaimedRun]:
    """In the order in which they were due."""
    async with conn.transaction():
        claimed = await queue.claim(conn, limit=limit, lease=LEASE)
    return sorted(claimed, key=lambda run: run.due_at)


async def finish(conn: asyncpg.Connection, *run_ids: UUID) -> None:
    await conn.execute("DELETE FROM run_queue WHERE run_id = ANY($1::uuid[])", run_ids)


def outcome_of(run: ClaimedRun, state: str, **more: Any) -> Outcome:
    outcomes = {"running": "accepted", "retrying": "failed"}
    return Outcome(
        run_id=run.id,
        lease=run.lease,
        state=state,
        attempt=run.attempt,
        started_at=datetime.now(UTC),
        duration=0.1,
        outcome=outcomes.get(state, state),
        **more,
    )


async def state_of(conn: asyncpg.Connection, run_id: UUID) -> str:
    return str(await conn.fetchval("SELECT state FROM runs WHERE id = $1", run_id))


async def outcomes_of(conn: asyncpg.Connection, run_id: UUID) -> list[str]:
    rows = await conn.fetch(
        "SELECT outcome FROM attempts WHERE run_id = $1 ORDER BY number", run_id
    )
    return [row["outcome"] for row in rows]
