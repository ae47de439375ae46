"""The shop's example, through real HTTP, whatever happens between created and complete."""

import json

import pytest

from tests.e2e.server import SHOP, serving
from tests.proofs import order_restarted
from tests.receiver import Receiver

pytestmark = pytest.mark.anyio


def created(user: str, **more: str) -> dict[str, object]:
    return {"event": "order.created", "resource": {"prefect.resource.id": user}, **more}


def complete(user: str, **more: str) -> dict[str, object]:
    return {"event": "order.complete", "resource": {"prefect.resource.id": user}, **more}


async def test_a_completed_order_calls_the_runner_once_with_the_users_id(
    database_url: str,
) -> None:
    async with Receiver() as runner, serving(database_url) as server:
        await server.api.deploy("post-order-complete", runner.url)
        await server.api.trigger("order-complete", deployment="post-order-complete", **SHOP)
        await server.api.post(created("123"))
        await server.api.post(created("456"))
        (event_id,) = await server.api.post(complete("123"))
        run = await server.api.ended(await server.api.run_of(event_id))
        assert run["state"] == "completed"
        (call,) = runner.calls
        body = json.loads(call.body)
        assert body["parameters"] == {"user_id": "123"}
        assert body["run_id"] == call.headers["webhook-id"] == run["id"]
        assert body["event"]["id"] == event_id
        assert len(await server.api.runs()) == 1


async def test_an_order_may_take_two_hours(database_url: str) -> None:
    async with Receiver() as runner, serving(database_url) as server:
        await server.api.deploy("d", runner.url)
        await server.api.trigger("t", deployment="d", **SHOP)
        await server.api.post(created("1", occurred="2026-01-05T08:00:00Z"))
        (event_id,) = await server.api.post(complete("1", occurred="2026-01-05T10:00:00Z"))
        run = await server.api.ended(await server.api.run_of(event_id))
        assert run["state"] == "completed"
        assert len(await runner.called()) == 1


async def test_a_stop_and_a_kill_between_created_and_complete_change_nothing(
    database_url: str,
) -> None:
    assert await order_restarted.prove(database_url, restarts=2) == 2
