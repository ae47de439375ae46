"""A runner that fails is left in peace, and what waited for it meanwhile is not lost."""

import asyncpg
import pytest

from tests.proofs.runner_down import (
    MAX_CONCURRENCY,
    delivering,
    deploy,
    make_runs,
    prove,
    state_of,
)
from tests.receiver import Receiver, reply
from upshot.core.limits import BREAKER_CALLS_MIN, PROBE_EVERY, PROBES_FREE_MAX
from upshot.storage.database import Database

pytestmark = pytest.mark.anyio


async def test_a_runner_that_was_down_for_two_hours_gets_all_runs_and_no_stampede(
    database: Database, conn: asyncpg.Connection
) -> None:
    outage = await prove(database, conn, minutes=120, firings_a_minute=20)
    assert outage.runs == outage.calls_when_back == 2_400


async def test_runs_that_a_runner_refuses_do_not_open_its_breaker(
    database: Database, conn: asyncpg.Connection
) -> None:
    async with Receiver(reply(422)) as runner, delivering(conn) as line:
        await deploy(database, runner.url)
        await make_runs(conn, 3 * BREAKER_CALLS_MIN)
        await line.deliver()
        assert len(runner.calls) == 3 * BREAKER_CALLS_MIN
    assert await state_of(conn) in (None, "closed")


async def test_another_process_goes_by_the_same_breaker(
    database: Database, conn: asyncpg.Connection
) -> None:
    async with Receiver(reply(500)) as runner:
        await deploy(database, runner.url, retries=(0.0,))
        await make_runs(conn, 50)
        async with delivering(conn) as line:
            await line.deliver()
        assert await state_of(conn) == "open"
        async with delivering(conn) as other:
            assert await other.deliverer.turn(conn) == 0
            await other.pass_time(PROBE_EVERY)
            assert await other.deliverer.turn(conn) == 1


async def test_a_failed_probe_uses_up_no_retry_and_the_next_is_of_another_run(
    database: Database, conn: asyncpg.Connection
) -> None:
    async with Receiver(reply(500)) as runner, delivering(conn) as line:
        await deploy(database, runner.url)
        await _open(conn)
        runs = await make_runs(conn, 3)
        for _ in runs:
            await line.deliver()
            await line.pass_time(PROBE_EVERY)
        assert {call.headers["webhook-id"] for call in runner.calls} == set(map(str, runs))
    rows = await conn.fetch("SELECT state, attempt, retries_used FROM run_queue")
    assert [tuple(row) for row in rows] == [("retrying", 1, 0)] * 3


async def test_a_run_that_is_probed_without_end_fails_as_any_other(
    database: Database, conn: asyncpg.Connection
) -> None:
    async with Receiver(reply(500)) as runner, delivering(conn) as line:
        await deploy(database, runner.url)
        await _open(conn)
        await make_runs(conn, 1)
        await conn.execute("UPDATE run_queue SET attempt = $1", PROBES_FREE_MAX)
        await line.deliver()
    assert await conn.fetchval("SELECT state FROM runs") == "failed"
    assert await state_of(conn) == "open"


async def test_what_a_runner_has_taken_over_does_not_keep_it_from_being_probed(
    database: Database, conn: asyncpg.Connection
) -> None:
    async with Receiver(reply(202)) as runner, delivering(conn) as line:
        await deploy(database, runner.url)
        await make_runs(conn, MAX_CONCURRENCY - 1)
        await line.deliver()
        await _open(conn)
        await make_runs(conn, 1)
        await line.deliver()
        assert len(runner.calls) == MAX_CONCURRENCY
    assert await state_of(conn) == "half-open"


async def _open(conn: asyncpg.Connection) -> None:
    """The breaker is open, and its next probe due."""
    await conn.execute(
        "INSERT INTO breakers (deployment_id, state, since, probe_at, calls_max, buckets) "
        "SELECT id, 'open', now(), now(), 1, '[]' FROM deployments "
        "ON CONFLICT (deployment_id) DO UPDATE "
        "SET state = 'open', since = now(), probe_at = now(), calls_max = 1"
    )
