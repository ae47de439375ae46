"""A runner that was down for hours gets every run when it is back, and no stampede."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import accumulate, pairwise
from uuid import UUID, uuid4

import asyncpg

from tests.receiver import Peer, Receiver, reply
from upshot.core.delivery import Webhook
from upshot.core.limits import BREAKER_CALLS_MIN, PROBE_EVERY
from upshot.core.networks import NetworkPolicy
from upshot.pipeline.call import Caller
from upshot.pipeline.deliver import Deliverer
from upshot.pipeline.render import Renderers
from upshot.storage import deployments, queue
from upshot.storage.database import Database
from upshot.storage.deployments import DeploymentFields

DEPLOYMENT = "d"
MAX_CONCURRENCY = 8


class Runner:
    """Down it answers 503. It keeps count of how many calls it has at once."""

    def __init__(self) -> None:
        self.is_up = False
        self.at_once = 0
        self.most_at_once = 0

    async def __call__(self, peer: Peer) -> None:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await reply(200 if self.is_up else 503)(peer)
        self.at_once -= 1


class Line:
    """A deliverer whose turns the proof takes, and the time that it lets pass in the database."""

    def __init__(self, conn: asyncpg.Connection, caller: Caller, renderers: Renderers) -> None:
        self.conn = conn
        self.under_way: list[int] = []
        """How many calls there were at once, after each turn."""
        self._ended = asyncio.Event()
        self.deliverer = Deliverer(caller=caller, renderers=renderers, on_ended=self._ended.set)

    async def deliver(self) -> None:
        """Turns until nothing more can be called now."""
        await self._turn()
        while self.deliverer.calls or self.deliverer.has_ended:
            if not self.deliverer.has_ended:
                async with asyncio.timeout(20):
                    await self._ended.wait()
            self._ended.clear()
            await self._turn()

    async def _turn(self) -> None:
        await self.deliverer.turn(self.conn)
        # Some calls may have ended since; in the database they are under way until the next turn.
        self.under_way.append(
            await self.conn.fetchval("SELECT count(*) FROM run_queue WHERE lease IS NOT NULL")
        )

    async def pass_time(self, passed: timedelta) -> None:
        await self.conn.execute("UPDATE breakers SET probe_at = probe_at - $1::interval", passed)
        await self.conn.execute("UPDATE run_queue SET due_at = due_at - $1::interval", passed)


@asynccontextmanager
async def delivering(conn: asyncpg.Connection) -> AsyncIterator[Line]:
    async with Caller(networks=NetworkPolicy.parse("loopback")) as caller, Renderers() as renderers:
        yield Line(conn, caller, renderers)


@dataclass(frozen=True, slots=True)
class Outage:
    runs: int
    calls_while_down: int
    calls_when_back: int


async def prove(
    database: Database, conn: asyncpg.Connection, *, minutes: int, firings_a_minute: int
) -> Outage:
    """Every half minute a share of the runs is made; the server is restarted once an hour."""
    runner, made = Runner(), 0
    probes = timedelta(minutes=minutes) // PROBE_EVERY
    async with Receiver(runner) as receiver:
        await deploy(database, receiver.url, retries=(5.0,))
        for hour in range(0, probes, 120):
            async with delivering(conn) as line:
                for _ in range(hour, min(hour + 120, probes)):
                    made += len(await make_runs(conn, firings_a_minute // 2))
                    before = len(receiver.calls)
                    is_open = await state_of(conn) == "open"
                    await line.deliver()
                    if is_open:
                        assert len(receiver.calls) == before + 1, "one probe each half minute"
                    await line.pass_time(PROBE_EVERY)
        down = len(receiver.calls)
        assert down <= BREAKER_CALLS_MIN + MAX_CONCURRENCY + probes
        assert await conn.fetchval("SELECT max(retries_used) FROM run_queue") == 1
        assert await conn.fetchval("SELECT count(*) FROM run_queue") == made

        runner.is_up = True
        async with delivering(conn) as line:
            await line.deliver()
            # The last probes are due again after a while, as is whatever failed before it opened.
            await line.pass_time(PROBE_EVERY)
            await line.deliver()
        await _all_came(conn, receiver, down)
        assert await state_of(conn) == "closed"
        assert runner.most_at_once <= MAX_CONCURRENCY
        _assert_no_stampede(line.under_way)
        return Outage(made, down, len(receiver.calls) - down)


def _assert_no_stampede(under_way: Sequence[int]) -> None:
    most = list(accumulate(under_way, max))
    assert (most[0], most[-1]) == (1, MAX_CONCURRENCY)
    assert all(now <= 2 * before for before, now in pairwise(most)), most


async def _all_came(conn: asyncpg.Connection, receiver: Receiver, down: int) -> None:
    states = await conn.fetch("SELECT state, count(*) FROM runs GROUP BY state")
    assert [row["state"] for row in states] == ["completed"], states
    ids = {row["id"] for row in await conn.fetch("SELECT id FROM runs")}
    taken = [UUID(call.headers["webhook-id"]) for call in receiver.calls[down:]]
    assert len(taken) == len(ids), "each is called once when the runner is back"
    assert set(taken) == ids


async def deploy(
    database: Database, url: str, *, name: str = DEPLOYMENT, retries: tuple[float, ...] = ()
) -> None:
    fields = DeploymentFields(
        description="",
        tags=[],
        runner=Webhook(url=url, timeout=timedelta(seconds=30), retries=retries),
        parameters={},
        parameter_schema=None,
        max_concurrency=MAX_CONCURRENCY,
        run_timeout=timedelta(hours=1),
        overlap="allow",
        enabled=True,
    )
    async with database.begin() as conn:
        await deployments.create(conn, name=name, deployment_id=uuid4(), fields=fields)


async def make_runs(conn: asyncpg.Connection, count: int) -> Sequence[UUID]:
    """Runs that are due now."""
    now = await conn.fetchval("SELECT now()")
    runs = [_due(now) for _ in range(count)]
    await queue.create(conn, runs)
    return [run.id for run in runs]


def _due(at: datetime) -> queue.NewRun:
    return queue.NewRun(
        id=uuid4(),
        scheduled_at=at.astimezone(UTC),
        deployment=DEPLOYMENT,
        trigger_id=uuid4(),
        trigger_version=1,
        trigger="t",
        key="[]",
        labels="{}",
        event_id=uuid4(),
        event='{"id": "1"}',
        after_id=None,
        event_ids=[],
        parameters="{}",
        template=None,
        error=None,
    )


async def state_of(conn: asyncpg.Connection) -> str | None:
    """Of the only breaker; None when nothing was counted yet."""
    state: str | None = await conn.fetchval("SELECT state FROM breakers")
    return state
