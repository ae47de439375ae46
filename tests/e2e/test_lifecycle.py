"""Runs chained by their ends, through a real server and real calls."""

import json
from typing import Any

import pytest

from tests.e2e.server import serving, until
from tests.receiver import Receiver
from upshot.core.limits import CHAIN_DEPTH_MAX

pytestmark = pytest.mark.anyio


def completed(deployment: str) -> dict[str, Any]:
    """Fires when a run of this deployment has completed."""
    related = {"role": "deployment", "id": f"upshot.deployment.{deployment}"}
    return {"expect": ["upshot.run.completed"], "match_related": related}


async def test_a_completed_run_calls_the_next_deployment_with_what_it_was_about(
    database_url: str,
) -> None:
    async with Receiver() as packing, Receiver() as shipping, serving(database_url) as server:
        await server.api.deploy("pack", packing.url)
        await server.api.deploy("ship", shipping.url)
        await server.api.trigger("paid", deployment="pack", expect=["order.paid"])
        await server.api.trigger(
            "packed",
            deployment="ship",
            parameters={"after": "{{ event.payload.run_id }}"},
            **completed("pack"),
        )
        packed = await server.api.fired("order.paid", "123")
        (call,) = await shipping.called()
        body = json.loads(call.body)
        assert (body["deployment"], body["trigger"]) == ("ship", "packed")
        assert body["parameters"] == {"after": packed}
        assert body["event"]["event"] == "upshot.run.completed"
        roles = {one["prefect.resource.role"]: one for one in body["event"]["related"]}
        assert roles["cause"]["prefect.resource.id"] == "123"
        await server.api.ended(body["run_id"])
        assert (len(packing.calls), len(shipping.calls)) == (1, 1)


async def test_a_deployment_triggered_by_its_own_completion_is_stopped(database_url: str) -> None:
    async with Receiver() as runner, serving(database_url) as server:
        await server.api.deploy("again", runner.url)
        await server.api.trigger("go", deployment="again", expect=["go"])
        await server.api.trigger("loop", deployment="again", **completed("again"))
        await server.api.fired("go")

        async def stopped() -> Any:
            return await server.api.runs(state="failed")

        (last,) = await until(stopped, within=60)
        assert last["error"].startswith("loop")
        assert last["trigger"]["name"] == "loop"
        assert len(await server.api.runs(state="completed")) == CHAIN_DEPTH_MAX + 1
        assert len(runner.calls) == CHAIN_DEPTH_MAX + 1
