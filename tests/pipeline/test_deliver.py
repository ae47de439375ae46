"""The deliverer's turns on a real database, with real calls and a clock in the test's hand."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from tests.e2e.server import until
from tests.receiver import Behaviour, Peer, Receiver, hang, reply
from upshot.core.delivery import Webhook
from upshot.core.limits import LEASE, RETRIES_DEFAULT
from upshot.core.networks import NetworkPolicy
from upshot.pipeline.call import Caller
from upshot.pipeline.deliver import RENEW_EVERY, Deliverer
from upshot.pipeline.render import Renderers
from upshot.storage import deployments, log, partitions, queue, runs
from upshot.storage.database import Database
from upshot.storage.deployments import DeploymentFields

pytestmark = pytest.mark.anyio


@dataclass(slots=True)
class Clock:
    at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __call__(self) -> datetime:
        return self.at


@dataclass(slots=True)
class Line:
    """A deliverer, and a hint that it has something to write down."""

    conn: asyncpg.Connection
    clock: Clock
    deliverer: Deliverer
    ended: asyncio.Event
    told: asyncio.Event

    async def turn_when_ended(self) -> None:
        async with asyncio.timeout(20):
            await self.ended.wait()
        self.ended.clear()
        await self.deliverer.turn(self.conn)

    async def turns_until_ended(self, *run_ids: UUID) -> None:
        for run_id in run_ids:
            while await state_of(self.conn, run_id) == "scheduled":
                await self.turn_when_ended()


@pytest.fixture
async def line(conn: asyncpg.Connection) -> AsyncIterator[Line]:
    ended, told, clock = asyncio.Event(), asyncio.Event(), Clock()
    async with Caller(networks=NetworkPolicy.parse("loopback")) as caller, Renderers() as renderers:
        deliverer = Deliverer(
            caller=caller, renderers=renderers, on_ended=ended.set, on_told=told.set, now=clock
        )
        yield Line(conn, clock, deliverer, ended, told)


async def test_a_due_run_is_called_and_ends(database: Database, line: Line) -> None:
    async with Receiver(reply(201, b"made")) as runner:
        await deploy(database, "d", runner.url)
        run_id = await make_run(line.conn, parameters='{"user_id": "123"}')
        assert await line.deliverer.turn(line.conn) == 1
        await line.turn_when_ended()
        (call,) = runner.calls
    assert json.loads(call.body)["parameters"] == {"user_id": "123"}
    assert await state_of(line.conn, run_id) == "completed"
    assert await attempts_of(line.conn, run_id) == [("completed", 201, "made")]


async def test_a_plain_webhook_gets_its_payload_and_is_done_with_a_202(
    database: Database, line: Line
) -> None:
    async with Receiver(reply(202)) as runner:
        await deploy(database, "d", runner.url, method="PUT", body="payload")
        run_id = await make_run(line.conn, parameters='{"payload": "done: 123"}')
        await line.deliverer.turn(line.conn)
        await line.turn_when_ended()
        (call,) = runner.calls
    assert (call.method, call.body) == ("PUT", b"done: 123")
    assert call.headers["content-type"] == "text/plain; charset=utf-8"
    assert call.headers["webhook-id"] == str(run_id)
    assert await state_of(line.conn, run_id) == "completed"


async def test_the_log_is_told_when_a_run_has_ended_and_not_when_it_is_tried_again(
    database: Database, line: Line
) -> None:
    async with Receiver(reply(503), reply()) as runner:
        await deploy(database, "d", runner.url, retries=(0.0,))
        run_id = await make_run(line.conn)
        await line.deliverer.turn(line.conn)
        await line.turn_when_ended()
        assert await told_of(line.conn) == []
        assert not line.told.is_set()
        await line.conn.execute("UPDATE run_queue SET due_at = now()")
        await line.deliverer.turn(line.conn)
        await line.turns_until_ended(run_id)
    assert await told_of(line.conn) == [("upshot.run.completed", str(run_id), 2)]
    assert line.told.is_set()


async def test_a_call_that_ended_waits_to_be_written_down_until_the_log_has_a_day_for_it(
    database: Database, line: Line
) -> None:
    async with Receiver() as runner:
        await deploy(database, "d", runner.url)
        run_id = await make_run(line.conn)
        await line.deliverer.turn(line.conn)
        await line.ended.wait()
        for name in await partitions.names(line.conn):
            await line.conn.execute(f"DROP TABLE {name}")
        with pytest.raises(log.NoDay):
            await line.deliverer.turn(line.conn)
        await partitions.ensure_partitions(line.conn)
        await line.deliverer.turn(line.conn)
    assert await told_of(line.conn) == [("upshot.run.completed", str(run_id), 1)]
    assert await attempts_of(line.conn, run_id) == [("completed", 200, "")]


async def test_what_ends_while_a_connection_is_lost_is_written_down_by_the_next(
    database: Database, line: Line
) -> None:
    async with Receiver() as runner:
        await deploy(database, "d", runner.url)
        run_id = await make_run(line.conn)
        await line.deliverer.turn(line.conn)
        await line.ended.wait()
        lost = await database.connect()
        lost.terminate()
        with pytest.raises(asyncpg.InterfaceError):
            await line.deliverer.turn(lost)
        await line.deliverer.turn(line.conn)
        assert await state_of(line.conn, run_id) == "completed"
        assert len(runner.calls) == 1


async def test_an_outcome_that_the_database_refuses_fails_its_run_and_stops_no_other(
    database: Database, line: Line
) -> None:
    await line.conn.execute("ALTER TABLE attempts ADD CHECK (response <> 'cursed')")
    async with Receiver(reply(200, b"cursed"), reply()) as runner:
        await deploy(database, "d", runner.url)
        refused = await make_run(line.conn)
        await line.deliverer.turn(line.conn)
        await runner.called(1)
        others = [await make_run(line.conn) for _ in range(3)]
        await line.turns_until_ended(refused, *others)
    assert await state_of(line.conn, refused) == "failed"
    assert "attempts_response_check" in await error_of(line.conn, refused)
    assert [await state_of(line.conn, run_id) for run_id in others] == ["completed"] * 3


async def test_a_run_whose_runner_was_never_reached_says_so_and_that_no_retries_are_left(
    database: Database, line: Line
) -> None:
    async with Receiver() as runner:
        nobody_there = runner.url
    await deploy(database, "d", nobody_there)
    run_id = await make_run(line.conn)
    retries = len(RETRIES_DEFAULT)
    await line.conn.execute("UPDATE run_queue SET retries_used = $1", retries)
    await line.deliverer.turn(line.conn)
    await line.turns_until_ended(run_id)
    error = await error_of(line.conn, run_id)
    assert error.endswith("; no retries are left")
    assert len(error) > len("; no retries are left")


async def test_it_says_when_the_last_call_under_way_has_ended(
    database: Database, line: Line
) -> None:
    first_may_end, last_may_end = asyncio.Event(), asyncio.Event()
    script = reply_after(first_may_end), reply_after(last_may_end)
    async with Receiver(*script) as runner:
        await deploy(database, "d", runner.url)
        run_ids = [await make_run(line.conn) for _ in script]
        assert line.deliverer.all_ended.is_set()
        await line.deliverer.turn(line.conn)
        await runner.called(2)
        first_may_end.set()
        await line.ended.wait()
        assert not line.deliverer.all_ended.is_set()
        last_may_end.set()
        async with asyncio.timeout(20):
            await line.deliverer.all_ended.wait()
        await line.deliverer.turn(line.conn)
        assert [await state_of(line.conn, run_id) for run_id in run_ids] == ["completed"] * 2


async def test_leases_of_calls_under_way_are_renewed(database: Database, line: Line) -> None:
    async with Receiver(hang()) as runner:
        await deploy(database, "d", runner.url)
        await make_run(line.conn)
        await line.deliverer.turn(line.conn)
        await runner.called()
        await line.conn.execute("UPDATE run_queue SET lease_until = now() + interval '1 second'")
        line.clock.at += RENEW_EVERY
        await line.deliverer.turn(line.conn)
        left = await line.conn.fetchval("SELECT lease_until - now() FROM run_queue")
        assert left > LEASE - timedelta(seconds=20)


async def test_a_call_whose_lease_is_lost_is_hung_up_even_if_its_run_is_ours_again(
    database: Database, line: Line
) -> None:
    async with Receiver(hang(), reply()) as runner:
        await deploy(database, "d", runner.url)
        run_id = await make_run(line.conn)
        await line.deliverer.turn(line.conn)
        await runner.called(1)
        await line.conn.execute("UPDATE run_queue SET lease_until = now()")
        assert await queue.rescue(line.conn, limit=10, attempts_max=100) == 1
        # The turn that claims it again also finds that the lease of the first call is gone.
        line.clock.at += RENEW_EVERY
        assert await line.deliverer.turn(line.conn) == 1
        await line.turns_until_ended(run_id)
        async with asyncio.timeout(10):
            await until(lambda: hung_up(runner))
        assert await state_of(line.conn, run_id) == "completed"
        outcomes = [outcome for outcome, _, _ in await attempts_of(line.conn, run_id)]
        assert outcomes == ["lost", "completed"]


async def test_a_cancelled_run_is_hung_up_on_at_the_next_renewal_and_stays_cancelled(
    database: Database, line: Line
) -> None:
    async with Receiver(hang()) as runner:
        await deploy(database, "d", runner.url)
        run_id = await make_run(line.conn)
        await line.deliverer.turn(line.conn)
        await runner.called()
        async with database.begin() as other:
            assert await runs.cancel_if_open(other, run_id, reason="cancelled by request")
        line.clock.at += RENEW_EVERY
        await line.deliverer.turn(line.conn)
        await until(lambda: hung_up(runner))
        await line.deliverer.turn(line.conn)
        assert await state_of(line.conn, run_id) == "cancelled"
        assert await attempts_of(line.conn, run_id) == [("lost", None, None)]


async def test_a_run_claimed_again_before_its_old_call_is_renewed_hangs_up_the_old_call(
    database: Database, line: Line
) -> None:
    async with Receiver(hang(), hang()) as runner:
        await deploy(database, "d", runner.url)
        await make_run(line.conn)
        await line.deliverer.turn(line.conn)
        await runner.called(1)
        await line.conn.execute("UPDATE run_queue SET lease_until = now()")
        assert await queue.rescue(line.conn, limit=10, attempts_max=100) == 1
        assert await line.deliverer.turn(line.conn) == 1
        await runner.called(2)
        line.clock.at += RENEW_EVERY
        await line.deliverer.turn(line.conn)
        await until(lambda: hung_up(runner))
        assert line.deliverer.calls == 1


async def test_a_drain_writes_down_what_ends_and_keeps_the_leases_of_what_goes_on(
    database: Database, line: Line
) -> None:
    quick_may_end, slow_may_end = asyncio.Event(), asyncio.Event()
    async with (
        Receiver(reply_after(quick_may_end)) as runner,
        Receiver(reply_after(slow_may_end)) as slow,
    ):
        await deploy(database, "d", runner.url)
        ends = await make_run(line.conn)
        await line.deliverer.turn(line.conn)
        await runner.called()
        await deploy(database, "slow", slow.url)
        hangs = await make_run(line.conn, deployment="slow")
        await line.deliverer.turn(line.conn)
        await slow.called()
        await line.conn.execute("UPDATE run_queue SET lease_until = now() + interval '1 second'")
        line.clock.at += RENEW_EVERY
        draining = asyncio.create_task(
            line.deliverer.drain(line.conn, within=timedelta(seconds=60))
        )
        quick_may_end.set()
        watching = await database.connect()

        async def is_written_down() -> bool:
            left = await watching.fetchval(
                "SELECT lease_until - now() FROM run_queue WHERE run_id = $1", hangs
            )
            return await state_of(watching, ends) == "completed" and left > timedelta(seconds=10)

        await until(is_written_down)
        await watching.close()
        assert not draining.done()
        slow_may_end.set()
        await draining
        assert await state_of(line.conn, hangs) == "completed"


async def test_what_is_still_under_way_when_a_drain_is_over_is_given_back(
    database: Database, line: Line
) -> None:
    async with Receiver(hang()) as runner:
        await deploy(database, "d", runner.url)
        run_id = await make_run(line.conn)
        await line.deliverer.turn(line.conn)
        await runner.called()
        line.clock.at += timedelta(seconds=7)
        await line.deliverer.drain(line.conn, within=timedelta(0))
        assert await line.conn.fetchval("SELECT duration FROM attempts") == 7
        assert [outcome for outcome, _, _ in await attempts_of(line.conn, run_id)] == ["released"]
        row = await line.conn.fetchrow(
            "SELECT state, lease, retries_used, due_at <= now() AS due FROM run_queue"
        )
        assert tuple(row) == ("retrying", None, 0, True)
        await until(lambda: hung_up(runner))


def reply_after(event: asyncio.Event) -> Behaviour:
    async def behave(peer: Peer) -> None:
        async with asyncio.timeout(20):
            await event.wait()
        await reply()(peer)

    return behave


async def deploy(
    database: Database, name: str, url: str, *, retries: tuple[float, ...] = (), **form: Any
) -> None:
    fields = DeploymentFields(
        description="",
        tags=[],
        runner=Webhook(url=url, timeout=timedelta(seconds=60), retries=retries, **form),
        parameters={},
        parameter_schema=None,
        max_concurrency=8,
        run_timeout=timedelta(hours=1),
        overlap="allow",
        enabled=True,
    )
    async with database.begin() as conn:
        await deployments.create(conn, name=name, deployment_id=uuid4(), fields=fields)


async def make_run(
    conn: asyncpg.Connection, *, deployment: str = "d", parameters: str = "{}", **more: Any
) -> UUID:
    """A run that is due now."""
    now = await conn.fetchval("SELECT now()")
    run = queue.NewRun(
        id=uuid4(),
        scheduled_at=now,
        deployment=deployment,
        trigger_id=uuid4(),
        trigger_version=1,
        trigger="t",
        key="[]",
        labels="{}",
        event_id=uuid4(),
        event='{"id": "1"}',
        after_id=None,
        event_ids=[],
        parameters=parameters,
        template=None,
        error=None,
    )
    await queue.create(conn, [run])
    return run.id


async def state_of(conn: asyncpg.Connection, run_id: UUID) -> str:
    return str(await conn.fetchval("SELECT state FROM runs WHERE id = $1", run_id))


async def error_of(conn: asyncpg.Connection, run_id: UUID) -> str:
    return str(await conn.fetchval("SELECT error FROM runs WHERE id = $1", run_id))


async def told_of(conn: asyncpg.Connection) -> list[tuple[str, str, int]]:
    """The runs that the log was told of: the event's name, the run's id, its attempts."""
    rows = await conn.fetch(
        "SELECT name, payload ->> 'run_id', (payload ->> 'attempts')::int FROM events "
        "ORDER BY position"
    )
    return [tuple(row) for row in rows]


async def attempts_of(conn: asyncpg.Connection, run_id: UUID) -> list[tuple[Any, ...]]:
    rows = await conn.fetch(
        "SELECT outcome, status, response FROM attempts WHERE run_id = $1 ORDER BY number", run_id
    )
    return [tuple(row) for row in rows]


async def hung_up(runner: Receiver) -> bool:
    return runner.connections_closed > 0
