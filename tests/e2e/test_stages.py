"""Stages in processes of their own."""

import os
import signal

import pytest

from tests.e2e.server import is_running, serving, until

pytestmark = pytest.mark.anyio


async def test_a_process_without_the_api_tells_how_it_is_and_nothing_else(
    database_url: str,
) -> None:
    async with serving(database_url, only="evaluate,deliver") as server:
        await server.ready()
        assert (await server.api.http.get("/healthz")).status_code == 200
        metrics = await server.api.http.get("/metrics")
        assert "upshot_log_lag_seconds 0.0" in metrics.text
        assert (await server.api.http.get("/v1/events")).status_code == 404


async def test_stages_in_two_processes_are_one_line(database_url: str) -> None:
    async with (
        serving(database_url, only="api,maintain") as api,
        serving(database_url, only="evaluate,deliver") as stages,
    ):
        await api.ready()
        await stages.ready()
        await api.api.deploy("d", "http://127.0.0.1:9/refused")
        await api.api.trigger("t", deployment="d", expect=["go"])
        run = await api.api.ended(await api.api.fired())
        assert run["state"] == "failed"
        assert run["attempts"][0]["outcome"] == "failed"


async def test_what_the_processes_of_a_server_count_is_told_together(database_url: str) -> None:
    async with serving(database_url) as server:
        await server.api.deploy("d", "http://127.0.0.1:9/refused")
        await server.api.trigger("t", deployment="d", expect=["go"])
        await server.api.ended(await server.api.fired())
        told = (await server.api.http.get("/metrics")).text
    assert 'upshot_events_total{status="accepted"} 1.0' in told
    assert "upshot_runs_made_total 1.0" in told
    assert 'upshot_attempts_total{outcome="failed"} 1.0' in told
    assert "upshot_triggers 1.0" in told


async def test_a_process_that_is_killed_is_started_again(database_url: str) -> None:
    async with serving(database_url) as server:
        await server.api.deploy("d", "http://127.0.0.1:9/refused")
        await server.api.trigger("t", deployment="d", expect=["go"])
        for process in server.processes:
            os.kill(process, signal.SIGKILL)

        async def are_both_buried() -> bool:
            ended = [line for line in server.log if line.get("event") == "process_ended"]
            return len(ended) == 2

        await until(are_both_buried)
        await server.ready()
        assert (await server.api.ended(await server.api.fired()))["state"] == "failed"


async def test_the_processes_end_with_their_supervisor(database_url: str) -> None:
    async with serving(database_url) as server:
        processes = server.processes
        assert len(processes) == 2
        os.kill(server.process.pid, signal.SIGKILL)

        async def are_gone() -> bool:
            return not any(map(is_running, processes))

        await until(are_gone)
