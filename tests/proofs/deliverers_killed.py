"""Every run ends once and visibly, though deliverers are killed in the middle of their calls."""

import asyncio
import random
from typing import Any

import asyncpg

from tests.e2e.server import Server, serving, until
from tests.receiver import Peer, Receiver, reply

CALLED_SECONDS_MAX = 0.2


async def prove(url: str, *, runs: int, kills: int, seed: int) -> int:
    """Deliver so many runs by two processes, one of which is killed now and then.

    Leases of the killed are run out by hand, since a proof does not want to wait for them. Answers
    how many attempts were lost.
    """
    chance = random.Random(seed)

    async def takes_a_while(peer: Peer) -> None:
        await peer.hung_up(within=chance.uniform(0, CALLED_SECONDS_MAX))
        await reply()(peer)

    async with (
        Receiver(takes_a_while) as runner,
        serving(url, only="api,evaluate,maintain") as server,
    ):
        await server.api.deploy("d", runner.url, max_concurrency=8)
        await server.api.trigger("t", deployment="d", expect=["go"])
        events = [{"event": "go", "resource": {"id": str(n)}} for n in range(runs)]
        for at in range(0, runs, 1_000):
            await server.api.post(*events[at : at + 1_000])
        for _ in range(kills):
            async with serving(url, only="deliver") as victim:
                # All that came is recorded or lost; the next calls are this one's.
                await _calls_or_none_left(runner, server, chance.randint(1, runs // kills))
                await victim.kill()
            await _expire_leases(url)
        async with serving(url, only="deliver"):
            await until(lambda: _none_open(server), within=120)
        return await _check(server, runner, runs=runs)


async def _calls_or_none_left(runner: Receiver, server: Server, more: int) -> None:
    wanted = len(runner.calls) + more

    async def come() -> bool:
        return len(runner.calls) >= wanted or await _none_open(server)

    await until(come, within=60)


async def _none_open(server: Server) -> bool:
    open_runs: dict[str, int] = {}
    for state in ("scheduled", "running", "retrying"):
        page = await server.api.get("/v1/runs", state=state, limit=1)
        open_runs[state] = len(page["items"])
    return not any(open_runs.values())


async def _expire_leases(url: str) -> None:
    conn = await asyncpg.connect(url)
    try:
        await conn.execute("UPDATE run_queue SET lease_until = now() WHERE lease IS NOT NULL")
    finally:
        await conn.close()


async def _check(server: Server, runner: Receiver, *, runs: int) -> int:
    listed = await server.api.runs()
    assert len(listed) == runs
    assert {run["state"] for run in listed} == {"completed"}, "a run did not complete"
    lost = 0
    for page in range(0, runs, 50):
        shown = await asyncio.gather(
            *(server.api.get(f"/v1/runs/{run['id']}") for run in listed[page : page + 50])
        )
        lost += sum(_lost(run) for run in shown)
    called = {call.headers["webhook-id"] for call in runner.calls}
    assert called == {run["id"] for run in listed}, "a run was not called, or another was"
    assert runs <= len(runner.calls) <= runs + lost, "a call was made that is not on record"
    return lost


def _lost(run: Any) -> int:
    """The attempts lost, after checking that the last one, and only that, completed."""
    outcomes = [attempt["outcome"] for attempt in run["attempts"]]
    assert outcomes[-1:] == ["completed"], run
    assert set(outcomes[:-1]) <= {"lost"}, run
    assert [attempt["number"] for attempt in run["attempts"]] == list(range(1, len(outcomes) + 1))
    return len(outcomes) - 1
