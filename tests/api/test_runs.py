"""Runs: listed, shown, retried, cancelled, reported on."""

import asyncio
import json
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.api.conftest import RUNNER, Api

pytestmark = pytest.mark.anyio

PATH = "/v1/deployments/d"
LEASE = str(UUID(int=1))


@pytest.fixture
async def shop(api: Api) -> Api:
    await api.shop()
    return api


async def report(api: Api, run_id: object, **body: Any) -> Any:
    return await api.client.patch(f"/v1/runs/{run_id}", json=body)


async def accepted(api: Api) -> Any:
    """A run whose runner has answered 202."""
    await api.order("123")
    claimed = await api.claim()
    await api.end_attempt(claimed, "running", status=202)
    return claimed


async def test_a_run_shows_its_cause_its_parameters_and_every_attempt(shop: Api) -> None:
    run_id = await shop.order("123")
    claimed = await shop.claim()
    await shop.end_attempt(claimed, "failed", status=404, error="HTTP 404", response="nothing")
    run = await shop.get(f"/v1/runs/{run_id}")
    assert (run["state"], run["error"]) == ("failed", "HTTP 404")
    assert run["labels"] == {"prefect.resource.id": "123"}
    assert run["key"] == ["123"]
    assert run["parameters"] == {"user_id": "123"}
    assert run["event"]["event"] == "order.complete"
    assert run["events"] == [run["event"]["id"]]
    assert (await shop.get(f"/v1/events/{run['after']}"))["event"] == "order.created"
    assert (run["trigger"]["name"], run["trigger"]["version"]) == ("order-complete", 1)
    (attempt,) = run["attempts"]
    assert attempt == {
        "number": 1,
        "started": attempt["started"],
        "duration": 0.25,
        "status": 404,
        "outcome": "failed",
        "error": "HTTP 404",
        "response": "nothing",
        "worker": None,
    }


async def test_every_state_of_a_run_is_shown(shop: Api) -> None:
    run_id = await shop.order("123")

    async def state() -> tuple[str, bool]:
        run = await shop.get(f"/v1/runs/{run_id}")
        (listed,) = (await shop.get("/v1/runs", state=run["state"]))["items"]
        assert listed["id"] == run_id
        return run["state"], run["next_attempt_at"] is not None

    assert await state() == ("scheduled", True)
    claimed = await shop.claim()
    assert await state() == ("running", False)
    await shop.end_attempt(claimed, "retrying", again_after=timedelta(hours=1))
    assert await state() == ("retrying", True)
    await shop.client.post(f"/v1/runs/{run_id}/cancel")
    assert await state() == ("cancelled", False)
    await shop.client.post(f"/v1/runs/{run_id}/retry")
    await shop.end_attempt(await shop.claim(), "failed")
    assert await state() == ("failed", False)
    await shop.client.post(f"/v1/runs/{run_id}/retry")
    await shop.end_attempt(await shop.claim(), "completed")
    assert await state() == ("completed", False)
    numbers = [one["number"] for one in (await shop.get(f"/v1/runs/{run_id}"))["attempts"]]
    assert numbers == [1, 2, 3]


async def test_runs_are_listed_newest_first_and_narrowed(shop: Api) -> None:
    await shop.put(PATH, {"runner": RUNNER})
    fired = await shop.order("123")
    asked = [(await shop.client.post(f"{PATH}/runs")).json()["id"] for _ in range(3)]
    everything = [*asked[::-1], fired]
    first = await shop.get("/v1/runs", limit=3)
    second = await shop.get("/v1/runs", limit=3, cursor=first["next_cursor"])
    assert [run["id"] for run in first["items"] + second["items"]] == everything
    assert second["next_cursor"] is None
    for params, found in (
        ({"trigger": "order-complete"}, [fired]),
        ({"deployment": "d"}, asked[::-1]),
        ({"deployment": "d", "trigger": "order-complete"}, []),
        ({"deployment": "d", "state": "completed"}, []),
        ({"since": first["items"][1]["created"]}, asked[:0:-1]),
        ({"until": first["items"][1]["created"]}, [asked[0], fired]),
    ):
        assert [run["id"] for run in (await shop.get("/v1/runs", **params))["items"]] == found


@pytest.mark.parametrize(
    ("params", "loc"),
    [
        ({"state": "pending"}, ["query", "state"]),
        ({"deployment": "a b"}, ["query", "deployment"]),
        ({"trigger": "\0"}, ["query", "trigger"]),
        ({"cursor": "W10"}, ["query", "cursor"]),
        ({"cursor": "WzEsMl0"}, ["query", "cursor"]),
        ({"until": "never"}, ["query", "until"]),
    ],
    ids=str,
)
async def test_bad_parameters_are_refused_by_name(
    api: Api, params: dict[str, Any], loc: list[str]
) -> None:
    answer = await api.client.get("/v1/runs", params=params)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["loc"] == loc


@pytest.mark.parametrize("action", ["retry", "cancel"])
async def test_what_is_not_there_is_neither_retried_nor_cancelled(api: Api, action: str) -> None:
    assert (await api.client.post(f"/v1/runs/{uuid4()}/{action}")).status_code == 404
    assert (await api.client.post(f"/v1/runs/x/{action}")).status_code == 422


async def test_a_failed_run_begins_again_under_its_id(shop: Api) -> None:
    run_id = await shop.order("123")
    await shop.end_attempt(await shop.claim(), "failed", error="HTTP 404")
    shop.woken.clear()
    again = await shop.client.post(f"/v1/runs/{run_id}/retry")
    assert again.status_code == 200, again.text
    body = again.json()
    assert (body["id"], body["state"], body["error"]) == (run_id, "scheduled", None)
    assert body["finished"] is None
    assert shop.woken == ["deliver"]
    claimed = await shop.claim()
    assert (claimed.attempt, claimed.retries_used) == (2, 0)
    assert json.loads(claimed.parameters or "") == {"user_id": "123"}


async def test_a_retry_that_waits_comes_now(shop: Api) -> None:
    run_id = await shop.order("123")
    claimed = await shop.claim()
    await shop.end_attempt(claimed, "retrying", again_after=timedelta(hours=1))
    assert (await shop.client.post(f"/v1/runs/{run_id}/retry")).status_code == 200
    assert (await shop.claim()).retries_used == 1


async def test_what_is_open_or_completed_is_not_retried(shop: Api) -> None:
    run_id = await shop.order("123")
    scheduled = await shop.client.post(f"/v1/runs/{run_id}/retry")
    claimed = await shop.claim()
    running = await shop.client.post(f"/v1/runs/{run_id}/retry")
    await shop.end_attempt(claimed, "completed")
    completed = await shop.client.post(f"/v1/runs/{run_id}/retry")
    for answer, state in ((scheduled, "scheduled"), (running, "running"), (completed, "completed")):
        assert answer.status_code == 409
        assert state in answer.json()["detail"]


async def test_parameters_that_could_not_be_rendered_are_rendered_again_as_the_trigger_says_now(
    shop: Api,
) -> None:
    await shop.shop(parameters={"total": "{{ event.payload.total }}", "first": "{{ after.id }}"})
    run_id = await shop.order("123")
    failed = await shop.get(f"/v1/runs/{run_id}")
    assert (failed["state"], failed["parameters"]) == ("failed", None)
    assert "total" in failed["error"]
    await shop.shop(parameters={"user": "{{ labels.id }}", "first": "{{ after.id }}"})
    assert (await shop.client.post(f"/v1/runs/{run_id}/retry")).status_code == 200
    claimed = await shop.claim()
    template = json.loads(claimed.template or "")
    assert template["parameters"] == {"user": "{{ labels.id }}", "first": "{{ after.id }}"}
    assert template["context"]["after"]["id"] == failed["after"]
    assert template["context"]["event"]["event"] == "order.complete"


async def test_an_unrendered_run_whose_trigger_is_gone_is_not_retried(shop: Api) -> None:
    await shop.shop(parameters={"total": "{{ event.payload.total }}"})
    run_id = await shop.order("123")
    await shop.client.delete("/v1/triggers/order-complete")
    answer = await shop.client.post(f"/v1/runs/{run_id}/retry")
    assert answer.status_code == 409
    assert (await shop.get(f"/v1/runs/{run_id}"))["state"] == "failed"


async def test_cancelling_takes_the_lease_and_ends_the_run_once(shop: Api) -> None:
    claimed = await accepted(shop)
    first = await shop.client.post(f"/v1/runs/{claimed.id}/cancel")
    again = await shop.client.post(f"/v1/runs/{claimed.id}/cancel")
    assert (first.status_code, again.status_code) == (200, 409)
    assert (first.json()["state"], first.json()["error"]) == ("cancelled", "cancelled by request")
    heartbeat = await report(shop, claimed.id, lease=str(claimed.lease), state="running")
    assert heartbeat.json() == {"state": "cancelled", "lease_until": None, "cancel": True}
    late = await report(shop, claimed.id, lease=str(claimed.lease), state="completed")
    assert late.status_code == 409


async def test_a_heartbeat_prolongs_the_lease_by_the_run_timeout(shop: Api) -> None:
    claimed = await accepted(shop)
    await shop.conn.execute("UPDATE run_queue SET lease_until = now()")
    answer = await report(shop, claimed.id, lease=str(claimed.lease), state="running")
    assert answer.status_code == 200, answer.text
    assert (answer.json()["state"], answer.json()["cancel"]) == ("running", False)
    assert await shop.conn.fetchval(
        "SELECT lease_until BETWEEN now() + '59 min' AND now() + '1 h' FROM run_queue"
    )


@pytest.mark.parametrize(
    ("body", "result", "error"),
    [
        ({"state": "completed", "result": {"n": 2**64 + 1}}, {"n": 2**64 + 1}, None),
        ({"state": "completed"}, None, None),
        ({"state": "failed", "error": "no stock", "result": [1]}, [1], "no stock"),
        ({"state": "failed"}, None, "the runner reported that it failed"),
    ],
    ids=str,
)
async def test_a_report_ends_the_run(
    shop: Api, body: dict[str, Any], result: Any, error: str | None
) -> None:
    claimed = await accepted(shop)
    answer = await report(shop, claimed.id, lease=str(claimed.lease), **body)
    assert answer.json() == {"state": body["state"], "lease_until": None, "cancel": False}
    run = await shop.get(f"/v1/runs/{claimed.id}")
    assert (run["state"], run["result"], run["error"]) == (body["state"], result, error)
    again = await report(shop, claimed.id, lease=str(claimed.lease), **body)
    assert again.status_code == 409
    assert await shop.conn.fetchval("SELECT count(*) FROM run_queue") == 0


@pytest.mark.parametrize("state", ["running", "completed", "failed"])
async def test_a_lost_lease_changes_nothing(shop: Api, state: str) -> None:
    claimed = await accepted(shop)
    answer = await report(shop, claimed.id, lease=str(uuid4()), state=state)
    assert answer.status_code == 409
    assert (await shop.get(f"/v1/runs/{claimed.id}"))["state"] == "running"


async def test_of_two_reports_at_once_one_is_taken(shop: Api) -> None:
    claimed = await accepted(shop)
    answers = await asyncio.gather(
        report(shop, claimed.id, lease=str(claimed.lease), state="completed"),
        report(shop, claimed.id, lease=str(claimed.lease), state="failed"),
    )
    assert sorted(answer.status_code for answer in answers) == [200, 409]


@pytest.mark.parametrize(
    ("body", "loc"),
    [
        ({"state": "running"}, ["lease"]),
        ({"lease": "x", "state": "running"}, ["lease"]),
        ({"lease": LEASE, "state": "cancelled"}, ["state"]),
        ({"lease": LEASE, "state": "failed", "error": "a\0"}, ["error"]),
        ({"lease": LEASE, "state": "failed", "error": "x" * 5_000}, ["error"]),
        ({"lease": LEASE, "state": "completed", "result": {"a": ["\0"]}}, ["result", "a"]),
        ({"lease": LEASE, "state": "completed", "result": "x" * 70_000}, ["result"]),
        ({"lease": LEASE, "state": "completed", "resul": 1}, ["resul"]),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_a_bad_report_is_refused_with_its_place(
    api: Api, body: dict[str, Any], loc: list[str]
) -> None:
    answer = await report(api, uuid4(), **body)
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["loc"][: len(loc)] == loc


async def test_a_report_on_what_is_not_there_is_a_404(api: Api) -> None:
    answer = await report(api, uuid4(), lease=str(uuid4()), state="running")
    assert answer.status_code == 404
