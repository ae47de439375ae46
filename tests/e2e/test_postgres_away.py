"""Postgres goes away and comes back; the server waits for it, says so, and loses nothing."""

import signal

import pytest

from tests.e2e.server import Server, serving, starting, until
from tests.proofs import postgres_restarted
from tests.proofs.postgres_restarted import check_refusal, crash, empty_data_dir, own_cluster

pytestmark = pytest.mark.anyio

EVENT = {"event": "go", "resource": {"id": "1"}}


async def test_nothing_acknowledged_is_lost_when_postgres_is_restarted_under_load() -> None:
    assert await postgres_restarted.prove(restarts=1, events_between=50) >= 50


async def test_an_idle_server_notices_that_postgres_is_away_and_that_it_is_back() -> None:
    async with own_cluster() as cluster, serving(cluster.url) as server:
        await cluster.crash()
        await until(lambda: says_not_ready(server, "the database is away"))
        check_refusal(await server.api.http.post("/v1/events", json=EVENT))
        check_refusal(await server.api.http.get("/v1/events"))
        assert (await server.api.http.get("/healthz")).status_code == 200
        await cluster.start()
        await server.ready(within=5)
        await server.api.post(EVENT)


async def test_a_server_waits_for_a_postgres_that_is_away_at_its_start() -> None:
    async with own_cluster() as cluster:
        await cluster.crash()
        async with starting(cluster.url) as server:
            await until(lambda: says_not_ready(server, "waiting for Postgres"))
            check_refusal(await server.api.http.post("/v1/events", json=EVENT))
            await cluster.start()
            await server.ready()
            await server.api.post(EVENT)


async def test_a_server_stops_when_it_is_told_to_though_postgres_is_away() -> None:
    async with own_cluster() as cluster, serving(cluster.url) as server:
        await cluster.crash()
        await until(lambda: says_not_ready(server, "the database is away"))
        await server.stop()


async def test_an_embedded_postgres_that_was_killed_is_started_again() -> None:
    with empty_data_dir() as data_dir:
        async with serving(data_dir=data_dir) as server:
            (event_id,) = await server.api.post(EVENT)
            await crash(data_dir, signal.SIGKILL)
            await server.logged("embedded_postgres_restarted")
            await server.ready()
            assert (await server.api.get(f"/v1/events/{event_id}"))["event"] == "go"
            await server.api.post(EVENT)
            await server.stop()


async def says_not_ready(server: Server, reason: str) -> bool:
    answer = await server.api.http.get("/readyz")
    if answer.status_code == 200:
        return False
    check_refusal(answer)
    return reason in answer.json()["detail"]
