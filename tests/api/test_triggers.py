"""Triggers: registered, changed, renamed; each change one entry of the log."""

import asyncio
import json
from typing import Any

import pytest

from tests.api.conftest import RUNNER, SHOP, Api

pytestmark = pytest.mark.anyio

PATH = "/v1/triggers/order-complete"


@pytest.fixture
async def shop(api: Api) -> Api:
    await api.shop()
    return api


async def entries(api: Api) -> list[tuple[str, dict[str, Any]]]:
    """What the log has of triggers, in its order."""
    rows = await api.conn.fetch(
        "SELECT name, payload FROM events WHERE name LIKE 'upshot.trigger.%' ORDER BY position"
    )
    return [(row["name"], json.loads(row["payload"])) for row in rows]


async def test_put_registers_and_tells_the_log_in_the_same_commit(shop: Api) -> None:
    shown = await shop.get(PATH)
    assert shown == {**shown, **SHOP, "name": "order-complete", "version": 1, "enabled": True}
    assert (shown["within"], shown["threshold"], shown["type"]) == (0, 1, "event")
    ((name, payload),) = await entries(shop)
    assert name == "upshot.trigger.saved"
    assert payload["document"] == {**payload["document"], **SHOP, "name": "order-complete"}
    assert (payload["id"], payload["version"], payload["keys"]) == (shown["id"], 1, "forget")
    assert "evaluate" in shop.woken


async def test_the_same_put_again_changes_nothing(shop: Api) -> None:
    before = await shop.get(PATH)
    again = await shop.put(PATH, SHOP)
    shown = await shop.put(PATH, before)
    assert (again.status_code, shown.status_code) == (200, 200)
    assert again.json() == shown.json() == before
    assert len(await entries(shop)) == 1


async def test_post_registers_and_a_taken_name_is_a_conflict(shop: Api) -> None:
    made = await shop.client.post("/v1/triggers", json={"name": "second", **SHOP})
    taken = await shop.client.post("/v1/triggers", json={"name": "second", **SHOP})
    nameless = await shop.client.post("/v1/triggers", json=SHOP)
    assert (made.status_code, taken.status_code, nameless.status_code) == (201, 409, 422)
    assert nameless.json()["errors"][0]["loc"] == ["name"]


@pytest.mark.parametrize(
    ("changed", "loc"),
    [
        ({"treshold": 3}, ["treshold"]),
        ({"threshold": 0}, ["threshold"]),
        ({"threshold": 1_001}, ["threshold"]),
        ({"threshold": "3"}, ["threshold"]),
        ({"threshold": 2**70}, ["threshold"]),
        ({"within": -1}, ["within"]),
        ({"within": "10 minutes"}, ["within"]),
        ({"within": 1e300}, ["within"]),
        ({"posture": "Proactve"}, ["posture"]),
        ({"type": "nonsense"}, ["type"]),
        ({"expect": [1]}, ["expect"]),
        ({"expect": ["x"] * 101}, ["expect"]),
        ({"for_each": ["id", "prefect.resource.id"]}, ["for_each"]),
        ({"for_each": ["payload."]}, ["for_each"]),
        ({"match": {"a": 5}}, ["match"]),
        ({"deployment": "none"}, ["deployment"]),
        ({"deployment": None}, ["deployment"]),
        ({"name": "a b"}, ["name"]),
        ({"description": "\0"}, ["description"]),
        ({"parameters": {"a": ["{{ evnt.id }}"]}}, ["parameters", "a", 0]),
        ({"parameters": {"a": "{{ event.payload.x"}}, ["parameters", "a"]),
        ({"schedule_after": "P100Y"}, ["schedule_after"]),
    ],
    ids=str,
)
async def test_what_breaks_a_rule_is_refused_with_its_place(
    shop: Api, changed: dict[str, Any], loc: list[Any]
) -> None:
    for answer in (
        await shop.put("/v1/triggers/new", {**SHOP, **changed}),
        await shop.put(PATH, {**SHOP, **changed}),
        await shop.client.patch(PATH, json=changed),
    ):
        assert answer.status_code == 422, answer.text
        assert answer.json()["errors"][0]["loc"][: len(loc)] == loc
    assert len(await entries(shop)) == 1


async def test_a_misspelt_name_in_a_template_is_refused_with_line_and_suggestion(
    shop: Api,
) -> None:
    answer = await shop.put(PATH, {**SHOP, "parameters": {"u": "a\n{{ event.resorce.id }}"}})
    message = answer.json()["errors"][0]["msg"]
    assert "line 2" in message
    assert "resource" in message


async def test_a_misspelt_field_is_refused_with_a_suggestion(shop: Api) -> None:
    for answer in (
        await shop.put(PATH, {**SHOP, "treshold": 3}),
        await shop.client.patch(PATH, json={"treshold": 3}),
    ):
        assert answer.json()["errors"] == [
            {"loc": ["treshold"], "msg": "Unknown field; did you mean 'threshold'?"}
        ]


@pytest.mark.parametrize(
    ("patch", "keys"),
    [
        ({"description": "x"}, "keep"),
        ({"tags": ["x"]}, "keep"),
        ({"enabled": False}, "keep"),
        ({"parameters": {"u": "{{ labels.id }}"}}, "keep"),
        ({"schedule_after": 60}, "keep"),
        ({"name": "renamed"}, "keep"),
        ({"deployment": "other"}, "keep"),
        ({"for_each": ["id", "shop"]}, "forget"),
        ({"threshold": 2}, "forget"),
        ({"expect": ["order.*"]}, "forget"),
    ],
    ids=str,
)
async def test_only_a_change_of_the_condition_forgets_the_open_keys(
    shop: Api, patch: dict[str, Any], keys: str
) -> None:
    await shop.put("/v1/deployments/other", {"runner": RUNNER})
    await shop.post_events({"event": "order.created", "resource": {"id": "1"}})
    await shop.evaluate()
    answer = await shop.client.patch(PATH, json=patch)
    assert answer.status_code == 200, answer.text
    assert answer.json()["keys"] == ({"kept": 1} if keys == "keep" else {"forgotten": 1})
    assert answer.json()["version"] == 2
    _, (name, payload) = await entries(shop)
    assert (name, payload["version"], payload["keys"]) == ("upshot.trigger.saved", 2, keys)
    await shop.evaluate()
    open_keys = await shop.conn.fetchval("SELECT count(*) FROM windows")
    assert open_keys == (1 if keys == "keep" else 0)


async def test_keys_can_be_kept_over_a_change_of_the_condition_unless_for_each_changes(
    shop: Api,
) -> None:
    kept = await shop.client.patch(PATH, json={"threshold": 2}, params={"keys": "keep"})
    assert kept.json()["keys"] == {"kept": 0}
    refused = await shop.client.patch(PATH, json={"for_each": ["shop"]}, params={"keys": "keep"})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["loc"] == ["query", "keys"]
    assert (await entries(shop))[-1][1]["keys"] == "keep"


async def test_put_and_patch_rename_and_keep_the_id(shop: Api) -> None:
    before = await shop.get(PATH)
    put = await shop.put(PATH, {**SHOP, "name": "second"})
    assert put.status_code == 200, put.text
    patched = await shop.client.patch("/v1/triggers/second", json={"name": "third"})
    assert patched.json()["id"] == before["id"]
    assert (patched.json()["name"], patched.json()["version"]) == ("third", 3)
    assert (await shop.client.get(PATH)).status_code == 404


async def test_renaming_to_a_taken_name_is_a_conflict(shop: Api) -> None:
    await shop.put("/v1/triggers/second", SHOP)
    answer = await shop.client.patch(PATH, json={"name": "second"})
    assert answer.status_code == 409
    assert len(await entries(shop)) == 2


async def test_renaming_one_that_is_not_there_makes_nothing(shop: Api) -> None:
    answer = await shop.put("/v1/triggers/none", {**SHOP, "name": "other"})
    assert answer.status_code == 404
    assert len(await entries(shop)) == 1


async def test_deleting_tells_the_log_and_the_runs_stay(shop: Api) -> None:
    run_id = await shop.order("123")
    await shop.post_events({"event": "order.created", "resource": {"id": "9"}})
    assert (await shop.client.delete(PATH)).status_code == 204
    assert (await shop.client.delete(PATH)).status_code == 404
    assert (await entries(shop))[-1][0] == "upshot.trigger.deleted"
    await shop.evaluate()
    assert await shop.conn.fetchval("SELECT count(*) FROM windows") == 0
    assert (await shop.get(f"/v1/runs/{run_id}"))["trigger"]["name"] == "order-complete"


async def test_the_shop_s_example_fires_once_for_the_order_that_is_complete(shop: Api) -> None:
    await shop.post_events(
        {"event": "order.created", "resource": {"prefect.resource.id": "123"}},
        {"event": "order.created", "resource": {"prefect.resource.id": "456"}},
        {"event": "order.complete", "resource": {"prefect.resource.id": "123"}},
    )
    await shop.evaluate()
    (run,) = (await shop.get("/v1/runs"))["items"]
    assert (await shop.get(f"/v1/runs/{run['id']}"))["parameters"] == {"user_id": "123"}


async def test_putting_the_same_new_name_at_once_makes_one_trigger(shop: Api) -> None:
    answers = await asyncio.gather(
        *(
            shop.put("/v1/triggers/new", {**SHOP, "description": str(number % 2)})
            for number in range(8)
        )
    )
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses == [200] * 7 + [201]
    versions = [
        payload["version"] for _, payload in await entries(shop) if payload["name"] == "new"
    ]
    assert sorted(versions) == list(range(1, len(versions) + 1))


async def test_triggers_are_listed_by_name_page_by_page(shop: Api) -> None:
    await shop.put("/v1/triggers/a", SHOP)
    await shop.put("/v1/triggers/b", SHOP)
    first = await shop.get("/v1/triggers", limit=2)
    second = await shop.get("/v1/triggers", limit=2, cursor=first["next_cursor"])
    names = [one["name"] for one in first["items"] + second["items"]]
    assert names == ["a", "b", "order-complete"]


async def test_a_trigger_holds_its_deployment_while_it_is_made(shop: Api) -> None:
    made, deleted = await asyncio.gather(
        shop.put("/v1/triggers/new", SHOP),
        shop.client.delete(f"/v1/deployments/{SHOP['deployment']}"),
    )
    assert (made.status_code, deleted.status_code) == (201, 409)
