"""Breakers in the database: counted by all processes, and what is claimed goes by them."""

import asyncio
from datetime import timedelta

import asyncpg
import pytest

from tests.proofs.runner_down import DEPLOYMENT, MAX_CONCURRENCY, deploy, make_runs
from upshot.core.breaker import BreakerState, Called
from upshot.core.limits import BREAKER_CALLS_MIN, LEASE, PROBE_EVERY
from upshot.storage import breakers, queue
from upshot.storage.database import Database

pytestmark = pytest.mark.anyio

URL = "http://127.0.0.1:9000/run"
FAILED = Called(BreakerState.CLOSED, has_failed=True)


@pytest.fixture
async def waiting(database: Database, conn: asyncpg.Connection) -> None:
    """A deployment with more due runs than it has room for."""
    await deploy(database, URL)
    await make_runs(conn, 3 * MAX_CONCURRENCY)


async def count(conn: asyncpg.Connection, *calls: Called) -> list[breakers.Turned]:
    async with conn.transaction():
        return await breakers.count(conn, {DEPLOYMENT: calls})


async def claim(conn: asyncpg.Connection) -> list[queue.ClaimedRun]:
    async with conn.transaction():
        return await queue.claim(conn, limit=100, lease=LEASE)


@pytest.mark.usefixtures("waiting")
async def test_failures_that_two_processes_saw_add_up(
    database: Database, conn: asyncpg.Connection
) -> None:
    other = await database.connect()
    turned = await asyncio.gather(
        count(conn, *[FAILED] * (BREAKER_CALLS_MIN - 5)), count(other, *[FAILED] * 5)
    )
    await other.close()
    ((one,),) = [each for each in turned if each]
    assert (one.deployment, one.before.state, one.after.state) == (DEPLOYMENT, "closed", "open")
    assert one.after.failures == BREAKER_CALLS_MIN


@pytest.mark.usefixtures("waiting")
async def test_open_nothing_is_claimed_before_a_probe_is_due_and_then_the_oldest_run(
    conn: asyncpg.Connection,
) -> None:
    oldest = await conn.fetchval(
        "UPDATE run_queue SET due_at = due_at - interval '1 day' "
        "WHERE run_id = (SELECT max(run_id::text)::uuid FROM run_queue) RETURNING run_id"
    )
    await count(conn, *[FAILED] * BREAKER_CALLS_MIN)
    assert await claim(conn) == []
    left = await conn.fetchval("SELECT probe_at - now() FROM breakers")
    assert PROBE_EVERY - timedelta(seconds=20) < left <= PROBE_EVERY
    await conn.execute("UPDATE breakers SET probe_at = now()")
    assert [(run.id, run.breaker) for run in await claim(conn)] == [(oldest, "open")]
    assert await claim(conn) == []


@pytest.mark.usefixtures("waiting")
async def test_half_open_so_many_are_claimed_as_the_breaker_allows(
    conn: asyncpg.Connection,
) -> None:
    await count(conn, *[FAILED] * BREAKER_CALLS_MIN)
    await count(conn, Called(BreakerState.OPEN, has_failed=False))
    assert [run.breaker for run in await claim(conn)] == ["half-open"] * 2
    assert await claim(conn) == []
    await conn.execute("UPDATE run_queue SET accepted = true WHERE lease IS NOT NULL")
    assert len(await claim(conn)) == 2
    await conn.execute("UPDATE breakers SET calls_max = 100")
    assert len(await claim(conn)) == MAX_CONCURRENCY - 4


@pytest.mark.usefixtures("waiting")
async def test_without_a_breaker_all_the_room_is_used(conn: asyncpg.Connection) -> None:
    assert [run.breaker for run in await claim(conn)] == ["closed"] * MAX_CONCURRENCY


async def test_calls_of_a_deployment_that_is_gone_are_not_counted(
    conn: asyncpg.Connection,
) -> None:
    assert await count(conn, *[FAILED] * BREAKER_CALLS_MIN) == []
    assert await conn.fetchval("SELECT count(*) FROM breakers") == 0


async def test_more_breakers_are_open_than_are_named(
    database: Database, conn: asyncpg.Connection
) -> None:
    for name in ("c", "a", "b"):
        await deploy(database, URL, name=name)
    failures = [FAILED] * BREAKER_CALLS_MIN
    async with conn.transaction():
        await breakers.count(conn, {"a": failures, "b": failures, "c": [FAILED]})
    async with database.begin() as reading:
        found = await breakers.not_closed(reading, limit=1)
    assert found == breakers.NotClosed({BreakerState.OPEN: 2}, ["a"])
