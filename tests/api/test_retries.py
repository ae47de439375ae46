"""Many runs begun again at once, and those that are left as they are."""

import asyncio
from typing import Any

import pytest

from tests.api.conftest import RUNNER, Api

pytestmark = pytest.mark.anyio

PATH = "/v1/deployments/d"


async def failed(api: Api, count: int, *, name: str = "d") -> list[str]:
    """Runs that have failed, those made first first."""
    await api.put(f"/v1/deployments/{name}", {"runner": RUNNER})
    made = [
        (await api.client.post(f"/v1/deployments/{name}/runs")).json()["id"] for _ in range(count)
    ]
    for _ in made:
        await api.end_attempt(await api.claim_one(), "failed", error="HTTP 500")
    return made


async def retry(api: Api, **wanted: Any) -> Any:
    answer = await api.client.post("/v1/runs/retry", json=wanted)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def state_of(api: Api, run_id: str) -> str:
    return str((await api.get(f"/v1/runs/{run_id}"))["state"])


async def test_all_that_failed_begin_again_under_their_ids(api: Api) -> None:
    made = await failed(api, 3)
    api.woken.clear()
    assert await retry(api, deployment="d") == {
        "retried": 3,
        "not_retried": [],
        "next_cursor": None,
    }
    assert api.woken == ["deliver"]
    assert [await state_of(api, run_id) for run_id in made] == ["scheduled"] * 3
    again = await api.claim_one()
    assert (str(again.id) in made, again.attempt, again.retries_used) == (True, 2, 0)


async def test_what_is_asked_for_is_retried_and_nothing_else(api: Api) -> None:
    first, second = await failed(api, 2)
    (other,) = await failed(api, 1, name="other")
    cancelled = (await api.client.post(f"{PATH}/runs")).json()["id"]
    await api.client.post(f"/v1/runs/{cancelled}/cancel")
    made = {run_id: (await api.get(f"/v1/runs/{run_id}"))["created"] for run_id in (first, second)}
    for wanted, found in (
        ({"trigger": "order-complete"}, []),
        ({"deployment": "d", "since": made[second]}, [second]),
        ({"deployment": "d", "until": made[second]}, [first]),
        ({"deployment": "d", "state": "cancelled"}, [cancelled]),
        ({}, [other]),
    ):
        before = {run_id: await state_of(api, run_id) for run_id in (*made, other, cancelled)}
        assert (await retry(api, **wanted))["retried"] == len(found)
        for run_id, state in before.items():
            assert await state_of(api, run_id) == ("scheduled" if run_id in found else state)


async def test_a_bounded_number_is_retried_and_the_cursor_goes_on(api: Api) -> None:
    made = await failed(api, 5)
    seen, cursor = 0, None
    for _ in range(3):
        answer = await retry(api, deployment="d", limit=2, **({"cursor": cursor} if cursor else {}))
        seen, cursor = seen + answer["retried"], answer["next_cursor"]
        # One that fails again meanwhile is not come to twice.
        for _ in range(answer["retried"]):
            await api.end_attempt(await api.claim_one(), "failed")
    assert (seen, cursor) == (5, None)
    attempts = [len((await api.get(f"/v1/runs/{run_id}"))["attempts"]) for run_id in made]
    assert attempts == [2] * 5


async def test_of_many_retries_at_once_one_begins_a_run_again(api: Api) -> None:
    made = await failed(api, 3)
    answers = await asyncio.gather(
        *(retry(api, deployment="d") for _ in range(3)),
        *(api.client.post(f"/v1/runs/{run_id}/retry") for run_id in made),
    )
    begun = sum(answer["retried"] for answer in answers[:3])
    begun += sum(answer.status_code == 200 for answer in answers[3:])
    assert begun == 3
    assert await api.conn.fetchval("SELECT count(*) FROM run_queue") == 3


async def test_a_retry_that_is_due_already_is_left_alone(api: Api) -> None:
    (run_id,) = await failed(api, 1)
    await retry(api, deployment="d")
    assert (await retry(api, deployment="d"))["retried"] == 0
    assert await api.conn.fetchval("SELECT count(*) FROM run_queue") == 1
    assert await state_of(api, run_id) == "scheduled"


async def test_what_could_not_be_rendered_is_rendered_as_the_trigger_says_now(api: Api) -> None:
    await api.shop(parameters={"total": "{{ event.payload.total }}"})
    made = [await api.order(user) for user in ("1", "2")]
    assert [await state_of(api, run_id) for run_id in made] == ["failed"] * 2
    await api.shop(parameters={"user": "{{ event.resource.id }}", "first": "{{ after.id }}"})
    assert (await retry(api, trigger="order-complete"))["retried"] == 2
    templates = await api.conn.fetch(
        "SELECT template -> 'parameters' ->> 'user' AS user, "
        "template -> 'context' -> 'after' ->> 'id' = after_id::text AS has_after FROM runs"
    )
    assert [tuple(row) for row in templates] == [("{{ event.resource.id }}", True)] * 2


async def test_what_cannot_begin_again_is_named_with_the_reason_and_the_rest_does(
    api: Api,
) -> None:
    await api.shop(parameters={"total": "{{ event.payload.total }}"})
    orphan = await api.order("1")
    await api.client.delete("/v1/triggers/order-complete")
    (other,) = await failed(api, 1)
    answer = await retry(api)
    (left,) = answer["not_retried"]
    assert (answer["retried"], left["id"]) == (1, orphan)
    assert "trigger is gone" in left["reason"]
    assert [await state_of(api, one) for one in (orphan, other)] == ["failed", "scheduled"]


async def test_where_none_may_overlap_one_is_retried_and_the_others_stay(api: Api) -> None:
    first, second = await failed(api, 2)
    await api.put(PATH, {"runner": RUNNER, "overlap": "skip"})
    answer = await retry(api, deployment="d")
    assert (answer["retried"], [one["id"] for one in answer["not_retried"]]) == (1, [second])
    assert [await state_of(api, one) for one in (first, second)] == ["scheduled", "failed"]
    alone = await api.client.post(f"/v1/runs/{second}/retry")
    assert alone.status_code == 409
    assert "has not ended" in alone.json()["detail"]


async def test_a_run_that_waits_for_another_says_so(api: Api) -> None:
    await api.put(PATH, {"runner": RUNNER, "overlap": "queue"})
    for _ in range(2):
        await api.client.post(f"{PATH}/runs")
    await api.claim_one()
    listed = (await api.get("/v1/runs"))["items"]
    assert [(run["state"], run["waits"]) for run in listed] == [
        ("scheduled", True),
        ("running", False),
    ]


@pytest.mark.parametrize(
    ("body", "loc"),
    [
        ({"state": "completed"}, ["state"]),
        ({"limit": 0}, ["limit"]),
        ({"limit": 501}, ["limit"]),
        ({"since": "yesterday"}, ["since"]),
        ({"cursor": "W10"}, ["query", "cursor"]),
        ({"deploymnt": "d"}, ["deploymnt"]),
    ],
    ids=str,
)
async def test_a_bad_filter_retries_nothing(api: Api, body: dict[str, Any], loc: list[str]) -> None:
    (run_id,) = await failed(api, 1)
    answer = await api.client.post("/v1/runs/retry", json=body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["loc"] == loc
    assert await state_of(api, run_id) == "failed"
