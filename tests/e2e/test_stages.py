"""Stages in processes of their own."""

import pytest

from tests.e2e.server import serving

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
