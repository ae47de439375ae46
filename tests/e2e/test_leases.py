"""A deliverer that dies or is suspended loses its lease, and its runs go on without it."""

import asyncio
import signal
from typing import Any

import asyncpg
import pytest

from tests.e2e.server import serving, until
from tests.proofs import deliverers_killed
from tests.receiver import Peer, Receiver, reply

pytestmark = pytest.mark.anyio


async def test_runs_of_killed_deliverers_are_offered_again_and_end_once(database_url: str) -> None:
    assert await deliverers_killed.prove(database_url, runs=60, kills=1, seed=1) >= 1


async def test_a_deliverer_suspended_past_its_lease_cannot_overwrite_the_new_holder(
    database_url: str, conn: asyncpg.Connection
) -> None:
    first_may_answer, second_may_answer = asyncio.Event(), asyncio.Event()

    async def fails(peer: Peer) -> None:
        await first_may_answer.wait()
        await reply(400)(peer)

    async def succeeds(peer: Peer) -> None:
        await second_may_answer.wait()
        await reply(200)(peer)

    async with (
        Receiver(fails, succeeds) as runner,
        serving(database_url, only="api,evaluate,maintain") as server,
        serving(database_url, only="deliver") as suspended,
    ):
        await server.api.deploy("d", runner.url)
        await server.api.trigger("t", deployment="d", expect=["go"])
        run_id = await server.api.fired()
        await runner.called(1)
        suspended.send_signal(signal.SIGSTOP)
        await conn.execute("UPDATE run_queue SET lease_until = now()")
        async with serving(database_url, only="deliver"):
            await runner.called(2)
            first_may_answer.set()
            suspended.send_signal(signal.SIGCONT)
            # It reads the answer that fails the run, and by the end of its stop it has written
            # down what it may.
            await suspended.logged("attempt")
            await suspended.stop()
            held = await server.api.get(f"/v1/runs/{run_id}")
            assert held["state"] == "running"
            second_may_answer.set()
            run = await server.api.ended(run_id)
        assert run["state"] == "completed"
        assert outcomes(run) == ["lost", "completed"]
        await until(lambda: nothing_queued(conn))


def outcomes(run: Any) -> list[str]:
    return [attempt["outcome"] for attempt in run["attempts"]]


async def nothing_queued(conn: asyncpg.Connection) -> bool:
    return not await conn.fetchval("SELECT count(*) FROM run_queue")
