"""Workers that pull: what they get, when they get it, and what becomes of what they hold."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from itertools import count as counting
from itertools import takewhile
from typing import Any
from uuid import uuid4

import pytest

from tests.api.conftest import RUNNER, Api
from upshot.core.limits import ATTEMPTS_MAX
from upshot.storage import queue
from upshot.workers.loops import DELIVER, wake

pytestmark = pytest.mark.anyio

WAITING = {"wait": 30}


@pytest.fixture
async def shop(api: Api) -> AsyncIterator[Api]:
    """The shop, whose deployment is pulled; no answer takes for ever."""
    async with asyncio.timeout(30):
        await api.shop()
        await deploy(api, "post-order-complete")
        yield api


async def deploy(api: Api, name: str, **more: Any) -> None:
    made = await api.put(f"/v1/deployments/{name}", {"runner": {"type": "pull"}, **more})
    assert made.status_code in (200, 201), made.text


async def ask(api: Api, name: str = "post-order-complete", **body: Any) -> str:
    answer = await api.client.post(f"/v1/deployments/{name}/runs", json=body or None)
    assert answer.status_code == 201, answer.text
    run_id: str = answer.json()["id"]
    return run_id


async def claim(api: Api, **body: Any) -> list[dict[str, Any]]:
    answer = await api.client.post("/v1/runs/claim", json={"wait": 0, **body})
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


async def report(api: Api, run: dict[str, Any], state: str, **more: Any) -> Any:
    answer = await api.client.patch(
        f"/v1/runs/{run['run_id']}", json={"lease": run["lease"], "state": state, **more}
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


async def lose(api: Api) -> None:
    """Every lease runs out, and is found to have."""
    await api.conn.execute("UPDATE run_queue SET lease_until = now() - interval '1 second'")
    await queue.rescue(api.conn, limit=10, attempts_max=ATTEMPTS_MAX)


async def attempts_of(api: Api, run_id: str) -> list[tuple[str, str | None]]:
    run = await api.get(f"/v1/runs/{run_id}")
    return [(one["outcome"], one["worker"]) for one in run["attempts"]]


async def test_a_worker_gets_what_a_webhook_would_and_until_when_it_is_its_own(shop: Api) -> None:
    run_id = await shop.order("123")
    (run,) = await claim(shop, worker="w1")
    shown = await shop.get(f"/v1/runs/{run_id}")
    assert run == {
        "run_id": run_id,
        "deployment": "post-order-complete",
        "parameters": {"user_id": "123"},
        "trigger": "order-complete",
        "labels": {"prefect.resource.id": "123"},
        "event": shown["event"],
        "attempt": 1,
        "scheduled_at": run["scheduled_at"],
        "lease": run["lease"],
        "lease_until": shown["lease_until"],
    }
    left = datetime.fromisoformat(run["lease_until"]) - datetime.now(UTC)
    assert timedelta(seconds=20) < left <= timedelta(seconds=31)
    assert shown["state"] == "running"
    assert await claim(shop) == []


@pytest.mark.parametrize(
    ("state", "more"),
    [("completed", {"result": {"invoice": 7}}), ("failed", {"error": "no stock"})],
)
async def test_a_report_ends_the_run_and_the_attempt_is_on_record_with_its_worker(
    shop: Api, state: str, more: dict[str, Any]
) -> None:
    run_id = await shop.order("123")
    (run,) = await claim(shop, worker="w1")
    shop.woken.clear()
    assert await report(shop, run, state, **more) == {
        "state": state,
        "lease_until": None,
        "cancel": False,
    }
    assert set(shop.woken) == {"deliver", "evaluate"}
    shown = await shop.get(f"/v1/runs/{run_id}")
    assert shown["state"] == state
    assert shown.items() >= more.items()
    assert await attempts_of(shop, run_id) == [(state, "w1")]


async def test_a_worker_gets_only_what_it_asks_for_and_the_oldest_first(api: Api) -> None:
    for name in ("a", "b"):
        await deploy(api, name)
    await api.put("/v1/deployments/called", {"runner": RUNNER})
    await ask(api, "called")
    first, second, third = [await ask(api, name) for name in ("a", "b", "a")]
    assert [run["run_id"] for run in await claim(api, deployments=["b"], max=9)] == [second]
    assert [run["run_id"] for run in await claim(api, max=9)] == [first, third]


async def test_nothing_that_is_pulled_is_called_nor_the_other_way_round(api: Api) -> None:
    await deploy(api, "pulled")
    await api.put("/v1/deployments/called", {"runner": RUNNER})
    await ask(api, "pulled")
    called = await ask(api, "called")
    assert str((await api.claim()).id) == called
    assert [run["deployment"] for run in await claim(api, max=9)] == ["pulled"]


async def test_no_more_are_given_out_than_may_run_at_once(api: Api) -> None:
    await deploy(api, "d", max_concurrency=2)
    for _ in range(3):
        await ask(api, "d")
    held = await claim(api, max=9)
    assert len(held) == 2
    assert await claim(api) == []
    await report(api, held[0], "completed")
    assert len(await claim(api)) == 1


async def test_a_worker_that_waits_gets_a_run_as_soon_as_it_is_made(shop: Api) -> None:
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(claim(shop, **WAITING))
        await until_waiting(shop, 1)
        run_id = await ask(shop)
        wake(shop.line.signals, DELIVER)
    assert [run["run_id"] for run in waiting.result()] == [run_id]


async def test_of_many_who_wait_each_gets_one(shop: Api) -> None:
    await deploy(shop, "post-order-complete", max_concurrency=100)
    async with asyncio.TaskGroup() as tasks:
        waiting = [tasks.create_task(claim(shop, **WAITING)) for _ in range(20)]
        await until_waiting(shop, 20)
        made = [await ask(shop) for _ in range(20)]
        wake(shop.line.signals, DELIVER)
    assert sorted(run["run_id"] for task in waiting for run in task.result()) == sorted(made)


async def test_whoever_waits_for_another_deployment_waits_on(shop: Api) -> None:
    await deploy(shop, "other")
    async with asyncio.TaskGroup() as tasks:
        other = tasks.create_task(claim(shop, deployments=["other"], **WAITING))
        await until_waiting(shop, 1)
        waiting = tasks.create_task(claim(shop, **WAITING))
        await until_waiting(shop, 2)
        first = await ask(shop)
        assert [run["run_id"] for run in await waiting] == [first]
        assert not other.done()
        second = await ask(shop, "other")
    assert [run["run_id"] for run in other.result()] == [second]


async def test_nobody_gets_anything_when_the_wait_is_over_or_the_server_stops(shop: Api) -> None:
    assert await claim(shop, wait=0.01) == []
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(claim(shop, **WAITING))
        await until_waiting(shop, 1)
        shop.line.stopping.set()
        wake(shop.line.signals, DELIVER)
    assert waiting.result() == []


async def test_a_heartbeat_prolongs_the_lease_by_thirty_seconds(shop: Api) -> None:
    await ask(shop)
    (run,) = await claim(shop)
    await shop.conn.execute("UPDATE run_queue SET lease_until = now()")
    answer = await report(shop, run, "running")
    assert (answer["state"], answer["cancel"]) == ("running", False)
    left = datetime.fromisoformat(answer["lease_until"]) - datetime.now(UTC)
    assert timedelta(seconds=20) < left <= timedelta(seconds=31)


async def test_a_cancelled_run_is_told_to_its_worker_at_the_next_heartbeat(shop: Api) -> None:
    run_id = await ask(shop)
    (run,) = await claim(shop)
    await shop.client.post(f"/v1/runs/{run_id}/cancel")
    assert await report(shop, run, "running") == {
        "state": "cancelled",
        "lease_until": None,
        "cancel": True,
    }
    assert await claim(shop) == []


async def test_what_a_lost_worker_held_is_offered_again_at_once_and_its_lease_is_void(
    shop: Api,
) -> None:
    run_id = await ask(shop)
    (lost,) = await claim(shop, worker="w1")
    await lose(shop)
    (again,) = await claim(shop, worker="w2")
    assert (again["run_id"], again["attempt"]) == (run_id, 2)
    for state in ("running", "completed", "failed", "released"):
        late = await shop.client.patch(
            f"/v1/runs/{run_id}", json={"lease": lost["lease"], "state": state}
        )
        assert late.status_code == 409
    await report(shop, again, "completed")
    assert await attempts_of(shop, run_id) == [("lost", "w1"), ("completed", "w2")]


async def test_a_run_that_loses_worker_after_worker_fails_when_no_retries_are_left(
    api: Api,
) -> None:
    await deploy(api, "d", runner={"type": "pull", "retries": [5]})
    run_id = await ask(api, "d")
    for _ in range(2):
        assert len(await claim(api)) == 1
        await lose(api)
    assert await claim(api) == []
    run = await api.get(f"/v1/runs/{run_id}")
    assert (run["state"], run["error"]) == ("failed", "its worker vanished; no retries are left")
    assert [one["outcome"] for one in run["attempts"]] == ["lost", "lost"]


async def test_a_failure_is_repeated_only_where_the_worker_asks_and_as_often_as_it_may(
    api: Api,
) -> None:
    await deploy(api, "d", runner={"type": "pull", "retries": [60]})
    run_id = await ask(api, "d")
    (run,) = await claim(api, worker="w")
    assert (await report(api, run, "failed", error="busy", retry=True))["state"] == "retrying"
    assert await claim(api) == []
    await api.conn.execute("UPDATE run_queue SET due_at = now()")
    (run,) = await claim(api, worker="w")
    assert (await report(api, run, "failed", error="busy", retry=True))["state"] == "failed"
    ended = await api.get(f"/v1/runs/{run_id}")
    assert (ended["state"], ended["error"]) == ("failed", "busy; no retries are left")
    assert await attempts_of(api, run_id) == [("failed", "w"), ("failed", "w")]


async def test_a_worker_that_stops_gives_its_run_back_at_no_cost(api: Api) -> None:
    await deploy(api, "d", runner={"type": "pull", "retries": []})
    run_id = await ask(api, "d")
    (run,) = await claim(api, worker="w1")
    assert (await report(api, run, "released"))["state"] == "retrying"
    (again,) = await claim(api, worker="w2")
    await report(api, again, "completed")
    assert await attempts_of(api, run_id) == [("released", "w1"), ("completed", "w2")]


async def test_what_is_left_to_be_rendered_is_rendered_before_it_is_handed_out(shop: Api) -> None:
    heavy = "{% for n in [0, 1, 2] %}{{ n }}{{ event.resource.id }}{% endfor %}"
    await shop.shop(parameters={"text": heavy})
    await deploy(shop, "post-order-complete")
    run_id = await shop.order("a")
    assert (await shop.get(f"/v1/runs/{run_id}"))["parameters"] is None
    (run,) = await claim(shop)
    assert run["parameters"] == {"text": "0a1a2a"}
    await lose(shop)
    assert (await shop.get(f"/v1/runs/{run_id}"))["parameters"] == {"text": "0a1a2a"}
    (again,) = await claim(shop)
    assert again["parameters"] == {"text": "0a1a2a"}


async def test_a_run_that_cannot_be_rendered_fails_and_is_not_handed_out(shop: Api) -> None:
    heavy = "{% for n in [0, 1, 2] %}{{ event.payload.missing }}{% endfor %}"
    await shop.shop(parameters={"text": heavy})
    await deploy(shop, "post-order-complete")
    run_id = await shop.order("a")
    assert await claim(shop) == []
    run = await shop.get(f"/v1/runs/{run_id}")
    assert run["state"] == "failed"
    assert "missing" in run["error"]


@pytest.mark.parametrize(
    ("body", "status", "loc"),
    [
        ({"max": 0}, 422, ["max"]),
        ({"max": 101}, 422, ["max"]),
        ({"wait": 31}, 422, ["wait"]),
        ({"wait": -1}, 422, ["wait"]),
        ({"worker": ""}, 422, ["worker"]),
        ({"worker": "\0"}, 422, ["worker"]),
        ({"deployments": ["a b"]}, 422, ["deployments", 0]),
        ({"deployment": "d"}, 422, ["deployment"]),
        ({"deployments": ["there", "nowhere"]}, 404, ["deployments", 1]),
        ({"deployments": ["called"]}, 409, ["deployments", 0]),
    ],
    ids=str,
)
async def test_a_claim_that_can_never_be_met_is_refused(
    api: Api, body: dict[str, Any], status: int, loc: list[Any]
) -> None:
    await deploy(api, "there")
    await api.put("/v1/deployments/called", {"runner": RUNNER})
    answer = await api.client.post("/v1/runs/claim", json=body)
    assert answer.status_code == status, answer.text
    assert (answer.json().get("errors") or [{}])[0].get("loc") == loc


async def test_only_a_failure_can_be_repeated(api: Api) -> None:
    answer = await api.client.patch(
        f"/v1/runs/{uuid4()}", json={"lease": str(uuid4()), "state": "completed", "retry": True}
    )
    assert (answer.status_code, answer.json()["errors"][0]["loc"]) == (422, ["retry"])


async def test_a_pulled_deployment_becomes_a_called_one_and_back_by_patch(api: Api) -> None:
    await deploy(api, "d", runner={"type": "pull", "retries": [1, 2]})
    shown = await api.get("/v1/deployments/d")
    assert shown["runner"] == {"type": "pull", "retries": [1, 2]}
    for runner in (RUNNER, {"type": "pull"}):
        changed = await api.client.patch("/v1/deployments/d", json={"runner": runner})
        assert changed.status_code == 200, changed.text
        assert changed.json()["runner"]["type"] == runner["type"]


async def until_waiting(api: Api, count: int) -> None:
    """So many workers have looked for runs, found none, and wait."""
    offers = api.app.state.services.offers
    for _ in takewhile(lambda _: offers.waiting < count, counting()):
        await asyncio.sleep(0)
