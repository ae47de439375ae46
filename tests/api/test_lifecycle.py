"""Runs that end are events: seen in the API, and what other triggers wait for."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from tests.api.conftest import RUNNER, Api
from upshot.core.limits import CHAIN_DEPTH_MAX

pytestmark = pytest.mark.anyio

COMPLETED = {"expect": ["upshot.run.completed"]}


@pytest.fixture
async def shop(api: Api) -> Api:
    await api.shop()
    return api


async def told(api: Api) -> list[dict[str, Any]]:
    """What the log says of runs, oldest first."""
    found = await api.get("/v1/events", event="upshot.run.*")
    return list(found["items"][::-1])


async def run_now(api: Api, deployment: str) -> str:
    answer = await api.client.post(f"/v1/deployments/{deployment}/runs")
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def of_trigger(api: Api, trigger: str) -> list[dict[str, Any]]:
    """The runs of a trigger, oldest first."""
    return list((await api.get("/v1/runs", trigger=trigger))["items"][::-1])


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ({"state": "completed", "result": {"n": 2**64 + 1}}, "upshot.run.completed"),
        ({"state": "failed", "error": "no stock", "result": [1]}, "upshot.run.failed"),
    ],
    ids=str,
)
async def test_a_report_that_ends_a_run_is_told_with_its_result(
    shop: Api, body: dict[str, Any], name: str
) -> None:
    await shop.order("123")
    claimed = await shop.claim()
    await shop.end_attempt(claimed, "running", status=202)
    shop.woken.clear()
    path = f"/v1/runs/{claimed.id}"
    heartbeat = {"lease": str(claimed.lease), "state": "running"}
    assert (await shop.client.patch(path, json=heartbeat)).status_code == 200
    assert (await told(shop), shop.woken) == ([], [])
    ended = await shop.client.patch(path, json={"lease": str(claimed.lease), **body})
    assert ended.status_code == 200, ended.text
    (event,) = await told(shop)
    assert event["event"] == name
    assert event["resource"]["prefect.resource.id"] == f"upshot.run.{claimed.id}"
    assert event["payload"] == {
        "run_id": str(claimed.id),
        "deployment": "post-order-complete",
        "trigger": "order-complete",
        "error": None,
        "attempts": 1,
        "labels": {"prefect.resource.id": "123"},
        "depth": 0,
        **body,
    }
    assert shop.woken == ["deliver", "evaluate"]


async def test_a_lost_lease_tells_nothing(shop: Api) -> None:
    await shop.order("123")
    claimed = await shop.claim()
    await shop.end_attempt(claimed, "running", status=202)
    body = {"lease": str(uuid4()), "state": "completed"}
    assert (await shop.client.patch(f"/v1/runs/{claimed.id}", json=body)).status_code == 409
    assert await told(shop) == []


async def test_a_run_that_is_cancelled_tells_nothing_and_one_that_ends_again_tells_again(
    shop: Api,
) -> None:
    run_id = await shop.order("123")
    await shop.client.post(f"/v1/runs/{run_id}/cancel")
    assert await told(shop) == []
    for state in ("failed", "completed"):
        await shop.client.post(f"/v1/runs/{run_id}/retry")
        await shop.end_attempt(await shop.claim(), state)
    found = await told(shop)
    assert [(event["payload"]["state"], event["payload"]["attempts"]) for event in found] == [
        ("failed", 1),
        ("completed", 2),
    ]
    assert found[0]["id"] != found[1]["id"]


async def test_parameters_that_cannot_be_rendered_are_told_as_a_failed_run(shop: Api) -> None:
    await shop.shop(parameters={"total": "{{ event.payload.total }}"})
    run_id = await shop.order("123")
    (event,) = await told(shop)
    assert event["event"] == "upshot.run.failed"
    assert event["payload"]["run_id"] == run_id
    assert "total" in event["payload"]["error"]


async def test_a_completed_run_triggers_another_deployment_and_no_catch_all(shop: Api) -> None:
    await shop.put("/v1/deployments/invoice", {"runner": RUNNER})
    related = {"role": "deployment", "id": "upshot.deployment.post-order-complete"}
    parameters = {
        "ran": "{{ event.payload.run_id }}",
        "user": "{{ event.payload.labels['prefect.resource.id'] }}",
    }
    chained = {"deployment": "invoice", "match_related": related, "parameters": parameters}
    await shop.put("/v1/triggers/chained", {**chained, **COMPLETED})
    for name, expect in (("all", ["*"]), ("failed", ["*.failed", "upshot.run.failed"])):
        caught = {"deployment": "invoice", "expect": expect, "match": {"id": "upshot.*"}}
        assert (await shop.put(f"/v1/triggers/{name}", caught)).status_code == 201
    run_id = await shop.order("123")
    await shop.end_attempt(await shop.claim(), "completed")
    await shop.evaluate()
    (event,) = await told(shop)
    (run,) = await of_trigger(shop, "chained")
    shown = await shop.get(f"/v1/runs/{run['id']}")
    assert shown["parameters"] == {"ran": run_id, "user": "123"}
    assert (shown["event"]["id"], shown["events"]) == (event["id"], [event["id"]])
    # What the second one tells comes from another deployment, and ends the chain.
    await shop.end_attempt(await shop.claim(), "completed")
    await shop.evaluate()
    assert [one["payload"]["depth"] for one in await told(shop)] == [0, 1]
    assert len((await shop.get("/v1/runs"))["items"]) == 2


async def test_a_trigger_of_its_own_completion_stops_at_a_run_that_is_not_called(
    api: Api,
) -> None:
    await api.put("/v1/deployments/again", {"runner": RUNNER})
    await api.put("/v1/triggers/loop", {"deployment": "again", **COMPLETED})
    await run_now(api, "again")
    for _ in range(CHAIN_DEPTH_MAX + 1):
        await api.end_attempt(await api.claim(), "completed")
        await api.evaluate()
    depths = [event["payload"]["depth"] for event in await told(api)]
    assert depths == list(range(CHAIN_DEPTH_MAX + 1))
    *called, last = await of_trigger(api, "loop")
    assert [run["state"] for run in called] == ["completed"] * CHAIN_DEPTH_MAX
    assert (last["state"], last["error"].partition(":")[0]) == ("failed", "loop")
    assert await api.conn.fetchval("SELECT count(*) FROM run_queue") == 0
    refused = await api.client.post(f"/v1/runs/{last['id']}/retry")
    assert refused.status_code == 409
    assert "loop" in refused.json()["detail"]


async def test_runs_that_each_fail_at_once_stop_as_well(api: Api) -> None:
    await api.put("/v1/deployments/again", {"runner": RUNNER})
    broken = {"expect": ["go", "upshot.run.failed"], "parameters": {"a": "{{ event.payload.no }}"}}
    await api.put("/v1/triggers/loop", {"deployment": "again", **broken})
    await api.post_events({"event": "go", "resource": {"id": "1"}})
    await api.evaluate()
    runs = await of_trigger(api, "loop")
    assert len(await told(api)) == len(runs) - 1 == CHAIN_DEPTH_MAX + 1
    assert ["loop" in run["error"] for run in runs] == [False] * (len(runs) - 1) + [True]


async def test_the_depth_is_that_of_the_deepest_run_that_was_counted(api: Api) -> None:
    await api.put("/v1/deployments/again", {"runner": RUNNER})
    await api.put("/v1/deployments/other", {"runner": RUNNER})
    pairs = {"parameters": {"events": "{{ events }}"}, "threshold": 2, **COMPLETED}
    await api.put("/v1/triggers/pairs", {"deployment": "again", **pairs})
    depths = []
    for _ in range(2):
        await run_now(api, "other")
        await api.end_attempt(await api.claim(), "completed")
        await api.evaluate()
    for _ in range(2):
        depths.append((await told(api))[-1]["payload"]["depth"])
        run = await api.claim()
        await api.end_attempt(run, "completed", parameters="{}")
        await run_now(api, "other")
        await api.end_attempt(await api.claim(), "completed")
        await api.evaluate()
    rows = await api.conn.fetch("SELECT depth FROM runs WHERE trigger = 'pairs' ORDER BY depth")
    assert [row["depth"] for row in rows] == [1, 2, 3]
    assert depths == [0, 0], "the newest of each pair was not the deepest"


async def test_what_waits_for_another_try_is_told_when_no_tries_are_left(shop: Api) -> None:
    await shop.order("123")
    await shop.end_attempt(await shop.claim(), "retrying", again_after=timedelta(0))
    assert await told(shop) == []
    await shop.end_attempt(await shop.claim(), "failed", run_error="HTTP 503; no retries are left")
    (event,) = await told(shop)
    assert event["payload"]["error"] == "HTTP 503; no retries are left"
    assert event["payload"]["attempts"] == 2
