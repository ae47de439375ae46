"""Workers that pull from a real server: killed, hung up, and stopped while they wait."""

import asyncio

import httpx
import pytest

from tests.e2e.server import serving
from tests.proofs import workers_killed

pytestmark = pytest.mark.anyio

PULL = {"runner": {"type": "pull"}}


async def test_runs_of_killed_workers_are_offered_again_and_end_once(database_url: str) -> None:
    assert await workers_killed.prove(database_url, runs=300, kills=3, seed=1) >= 1


async def test_a_worker_that_hangs_up_while_it_waits_gets_no_run(database_url: str) -> None:
    async with serving(database_url) as server:
        await server.api.send("PUT", "/v1/deployments/d", PULL)
        with pytest.raises(httpx.ReadTimeout):
            await server.api.http.post("/v1/runs/claim", json={"worker": "gone"}, timeout=0.5)
        waiting = asyncio.create_task(
            server.api.send("POST", "/v1/runs/claim", {"worker": "there"})
        )
        run = await server.api.send("POST", "/v1/deployments/d/runs")
        (claimed,) = (await waiting)["items"]
        assert (claimed["run_id"], claimed["attempt"]) == (run["id"], 1)
        shown = await server.api.get(f"/v1/runs/{run['id']}")
        assert shown["attempts"] == []


async def test_a_server_that_stops_sends_home_who_waits(database_url: str) -> None:
    async with serving(database_url) as server:
        waiting = asyncio.create_task(server.api.send("POST", "/v1/runs/claim", {}))
        done, _ = await asyncio.wait({waiting}, timeout=1)
        assert not done
        stopping = asyncio.create_task(server.stop())
        assert (await waiting) == {"items": []}
        await stopping
