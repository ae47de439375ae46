"""Automations below /api: made, shown, changed, found, deleted, and what they do."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from tests.api.conftest import RUNNER, SHOP, Api
from tests.prefect.automations import DO_NOTHING, TRIGGER, deployment, make, named, run

pytestmark = pytest.mark.anyio


async def test_an_automation_is_answered_as_it_was_sent(api: Api) -> None:
    shop = await deployment(api)
    sent = {
        "name": "Bestellung fertig! \N{PARTY POPPER}",
        "description": "runs what comes after",
        "enabled": False,
        "tags": ["shop", "b"],
        "trigger": TRIGGER,
        "actions": [run(shop, job_variables={}, schedule_after=2.0), DO_NOTHING],
        "actions_on_trigger": [],
        "actions_on_resolve": [],
        "owner_resource": f"prefect.deployment.{shop}",
    }
    made = await make(api, **sent)
    assert sent.items() <= made.items()
    assert await api.get(f"/api/automations/{made['id']}") == made
    assert datetime.fromisoformat(made["created"]).tzinfo is not None
    assert api.woken[-1] == "evaluate"
    (trigger,) = (await api.get("/v1/triggers"))["items"]
    assert (trigger["id"], trigger["name"]) == (made["id"], "Bestellung-fertig")


async def test_names_repeat_and_hold_anything(api: Api) -> None:
    texts = ["a b", "a b", "a-b", "...", "\N{SNOWMAN}", "x" * 300, "x" * 300, ""]
    made = [await make(api, name=name) for name in texts]
    assert [one["name"] for one in made] == texts
    names = [one["name"] for one in (await api.get("/v1/triggers"))["items"]]
    assert len(set(names)) == len(texts)
    assert {"a-b", "automation", "x" * 128} <= set(names)
    assert all(len(name) <= 128 for name in names)


async def test_every_action_of_a_firing_happens(api: Api) -> None:
    shop, mail = await deployment(api), await deployment(api, "mail")
    await make(api, actions=[run(shop), DO_NOTHING, run(mail, parameters={"n": 1})])
    await api.order("123")
    ids = [one["id"] for one in (await api.get("/v1/runs"))["items"]]
    runs = [await api.get(f"/v1/runs/{run_id}") for run_id in ids]
    assert {one["deployment"]: one["parameters"] for one in runs} == {
        "post-order-complete": {"user_id": "123"},
        "mail": {"n": 1},
    }


async def test_a_deployment_is_inferred_from_the_event(api: Api) -> None:
    shop = await deployment(api)
    await make(api, trigger={"expect": ["deploy"]}, actions=[run(None, parameters={})])
    await api.post_events({"event": "deploy", "resource": {"id": f"prefect.deployment.{shop}"}})
    await api.evaluate()
    (made,) = (await api.get("/v1/runs"))["items"]
    assert made["deployment"] == "post-order-complete"


async def test_a_firing_is_announced_by_the_automations_name(api: Api) -> None:
    made = await make(api, name="Order complete!")
    await api.post_events(
        {"event": "order.created", "resource": {"id": "123"}},
        {"event": "order.complete", "resource": {"id": "123"}},
    )
    await api.evaluate()
    told = [
        one
        for one in (await api.get("/v1/events", limit=100))["items"]
        if one["event"].startswith("prefect.automation.")
    ]
    assert {one["event"] for one in told} == {
        "prefect.automation.triggered",
        "prefect.automation.action.triggered",
        "prefect.automation.action.executed",
    }
    for one in told:
        assert one["resource"]["prefect.resource.id"] == f"prefect.automation.{made['id']}"
        assert one["resource"]["prefect.resource.name"] == "Order complete!"


async def test_an_automation_pauses_another(api: Api) -> None:
    other = await make(api, name="other")
    pause = {"type": "pause-automation", "source": "selected", "automation_id": other["id"]}
    await make(api, trigger={"expect": ["enough"]}, actions=[pause])
    await api.post_events({"event": "enough", "resource": {"id": "1"}})
    await api.evaluate()
    assert not (await api.get(f"/api/automations/{other['id']}"))["enabled"]


async def test_put_replaces_and_keeps_keys_where_the_condition_stays(api: Api) -> None:
    shop = await deployment(api)
    made = await make(api, actions=[run(shop)], tags=["old"], owner_resource="shop")
    await api.post_events({"event": "order.created", "resource": {"id": "123"}})
    await api.evaluate()
    sent = {"name": "new name", "trigger": TRIGGER, "actions": [run(shop, schedule_after=5)]}
    answer = await api.put(f"/api/automations/{made['id']}", sent)
    assert (answer.status_code, answer.content) == (204, b"")
    after = await api.get(f"/api/automations/{made['id']}")
    assert (after["name"], after["tags"], after["owner_resource"]) == ("new name", [], "shop")
    assert after["actions"][0]["schedule_after"] == 5.0
    await api.evaluate()
    assert await keys_of(api, "order-complete") == [["123"]]

    await api.put(f"/api/automations/{made['id']}", {**sent, "trigger": {"expect": ["other"]}})
    await api.evaluate()
    assert await keys_of(api, "order-complete") == []


async def test_the_same_put_again_makes_no_new_version(api: Api) -> None:
    made = await make(api)
    for _ in range(2):
        answer = await api.put(
            f"/api/automations/{made['id']}",
            {"name": "order complete", "trigger": TRIGGER, "actions": [DO_NOTHING]},
        )
        assert answer.status_code == 204
    assert (await api.get("/v1/triggers/order-complete"))["version"] == 1


async def test_patch_pauses_and_resumes(api: Api) -> None:
    made = await make(api)
    path = f"/api/automations/{made['id']}"
    for enabled in (False, True):
        answer = await api.client.patch(path, json={"enabled": enabled})
        assert (answer.status_code, answer.content) == (204, b"")
        assert (await api.get(path))["enabled"] is enabled
    assert (await api.client.patch(path, json={})).status_code == 204
    assert (await api.client.patch(path, json={"name": "x"})).status_code == 422


async def test_deleted_is_deleted(api: Api) -> None:
    made = await make(api)
    path = f"/api/automations/{made['id']}"
    assert (await api.client.delete(path)).status_code == 204
    for answer in (await api.client.get(path), await api.client.delete(path)):
        assert answer.status_code == 404
    assert (await api.get("/v1/triggers"))["items"] == []


@pytest.mark.parametrize("automation_id", [str(uuid4()), "abc", "\N{SNOWMAN}", "%00"])
async def test_an_id_that_nobody_has_is_404(api: Api, automation_id: str) -> None:
    path = f"/api/automations/{automation_id}"
    sent = {"name": "x", "trigger": TRIGGER, "actions": []}
    for answer in (
        await api.client.get(path),
        await api.client.put(path, json=sent),
        await api.client.patch(path, json={"enabled": False}),
        await api.client.delete(path),
    ):
        assert answer.status_code == 404, answer.text


async def test_filters(api: Api) -> None:
    await make(api, name="b", tags=["x", "y"])
    await make(api, name="a", tags=["x"], enabled=False)
    last = await make(api, name="c")
    await make(api, name="c")

    assert (await api.client.post("/api/automations/filter")).status_code == 200
    assert await named(api) == ["a", "b", "c", "c"]
    assert await named(api, automations=None, sort=None, limit=None) == ["a", "b", "c", "c"]
    assert await named(api, sort="NAME_DESC", limit=1, offset=2) == ["b"]
    assert await named(api, sort="CREATED_DESC", limit=3) == ["c", "c", "a"]
    await api.client.patch(f"/api/automations/{last['id']}", json={"enabled": False})
    assert (await named(api, sort="UPDATED_DESC"))[0] == "c"

    async def found(**wanted: Any) -> list[str]:
        body = {"automations": wanted}
        names = await named(api, **body)
        answer = await api.client.post("/api/automations/count", json=body)
        assert answer.json() == len(names)
        return names

    assert await found() == ["a", "b", "c", "c"]
    assert await found(name={"any_": ["c", "a"]}) == ["a", "c", "c"]
    assert await found(name={"any_": []}) == []
    assert await found(id={"any_": [last["id"]]}) == ["c"]
    assert await found(enabled={"eq_": False}) == ["a", "c"]
    assert await found(tags={"all_": ["x", "y"]}) == ["b"]
    assert await found(tags={"any_": ["y", "z"]}) == ["b"]
    assert await found(tags={"is_null_": True}) == ["c", "c"]
    assert await found(tags={"is_null_": False}) == ["a", "b"]
    assert await found(tags={"operator": "or_", "all_": ["y"], "is_null_": True}) == ["b", "c", "c"]
    assert await found(name={"any_": ["a"]}, tags={"any_": ["y"]}) == []
    assert await found(operator="or_", name={"any_": ["a"]}, tags={"any_": ["y"]}) == ["a", "b"]
    assert await found(created={"before_": datetime.now(UTC).isoformat()}) == ["a", "b", "c", "c"]
    assert await found(created={"before_": "2020-01-01T00:00:00Z"}) == []
    assert await found(name=None, id={"any_": None}) == ["a", "b", "c", "c"]
    assert (await api.client.post("/api/automations/count")).json() == 4


@pytest.mark.parametrize(
    "body",
    [
        {"limit": 201},
        {"limit": -1},
        {"offset": -1},
        {"offset": 10**30},
        {"sort": "LUCK"},
        {"automations": {"owner": {}}},
        {"automations": {"id": {"any_": ["x"]}}},
        {"automations": {"created": {"before_": "99999-01-01"}}},
        {"automations": {"name": {"any_": ["\0"]}}},
        {"automations": {"name": {"any_": ["x"] * 2000}}},
        [],
    ],
)
async def test_a_filter_that_means_nothing_is_refused(api: Api, body: Any) -> None:
    assert (await api.client.post("/api/automations/filter", json=body)).status_code == 422


async def test_those_related_to_a_deployment_own_it_or_run_it(api: Api) -> None:
    shop, mail = await deployment(api), await deployment(api, "mail")
    await make(api, name="runs", actions=[run(shop)])
    await make(api, name="owned", owner_resource=f"prefect.deployment.{shop}")
    await make(api, name="other", actions=[run(mail)])
    await api.put("/v1/triggers/plain", {**SHOP, "deployment": "post-order-complete"})

    async def related(resource: str) -> list[str]:
        return [one["name"] for one in await api.get(f"/api/automations/related-to/{resource}")]

    assert await related(f"prefect.deployment.{shop}") == ["owned", "plain", "runs"]
    assert await related(f"prefect.deployment.{uuid4()}") == []
    assert await related("prefect.deployment." + "-" * 36) == []
    assert await related("a/b") == []


async def test_triggers_of_v1_are_automations_too(api: Api) -> None:
    shop = await deployment(api)
    await api.shop(where="event.payload.total > 1", tags=["x"], within=60)
    (found,) = (await api.client.post("/api/automations/filter")).json()
    path = f"/api/automations/{found['id']}"
    assert await api.get(path) == found
    assert found["name"] == "order-complete"
    assert found["trigger"] == {**TRIGGER, "within": 60.0}
    assert found["actions"] == [run(shop, job_variables={}, schedule_after=0.0)]

    assert (await api.client.patch(path, json={"enabled": False})).status_code == 204
    stored = await api.get("/v1/triggers/order-complete")
    assert (stored["enabled"], stored["where"]) == (False, "event.payload.total > 1")
    assert stored["deployment"] == "post-order-complete"
    assert "actions" not in stored

    # Sent back as it was shown, it stays as it is.
    assert (await api.put(path, {**found, "tags": []})).status_code == 204
    stored = await api.get("/v1/triggers/order-complete")
    assert (stored["tags"], stored["where"]) == ([], "event.payload.total > 1")
    assert stored["deployment"] == "post-order-complete"

    # What is not shown does not get lost without a word.
    answer = await api.put(path, {**found, "trigger": {**found["trigger"], "threshold": 2}})
    assert answer.status_code == 409
    assert "PUT /v1/triggers/order-complete" in answer.json()["detail"]


async def test_a_change_through_v1_is_seen(api: Api) -> None:
    made = await make(api, name="order complete")
    await api.client.patch("/v1/triggers/order-complete", json={"threshold": 3})
    after = await api.get(f"/api/automations/{made['id']}")
    assert (after["name"], after["trigger"]["threshold"]) == ("order complete", 3)


@pytest.mark.parametrize(
    ("more", "where"),
    [
        ({"name": None}, ["name"]),
        ({"name": "x" * 5000}, ["name"]),
        ({"trigger": None}, ["trigger"]),
        ({"trigger": {"threshold": 0}}, ["trigger", "threshold"]),
        ({"trigger": {"expect": [7]}}, ["trigger", "expect", 0]),
        ({"trigger": {"triggers": [{"within": "soon"}]}}, ["trigger", "triggers", 0, "within"]),
        ({"trigger": {"type": "metric"}}, ["trigger"]),
        ({"trigger": {"posture": "Proactive", "within": 9}}, ["trigger", "within"]),
        ({"actions": [{"type": "cancel-flow-run"}]}, ["actions", 0]),
        ({"actions": [DO_NOTHING] * 11}, ["actions"]),
        ({"actions": [run(str(uuid4()))]}, ["actions", 0, "deployment_id"]),
        ({"actions": [run(None, schedule_after=-1)]}, ["actions", 0, "schedule_after"]),
        ({"actions": [run(None, schedule_after=1e300)]}, ["actions", 0, "schedule_after"]),
        ({"actions": [run(None, parameters={"a": "{{ x }}"})]}, ["actions", 0, "parameters", "a"]),
        ({"actions": [run(None, parameters={"a": "{{"})]}, ["actions", 0, "parameters", "a"]),
        ({"actions_on_trigger": [DO_NOTHING]}, ["actions_on_trigger"]),
        ({"actions_on_resolve": [DO_NOTHING]}, ["actions_on_resolve"]),
        ({"tags": [""]}, ["tags", 0]),
        ({"enabled": "maybe"}, ["enabled"]),
        ({"owner_resource": "x" * 9000}, ["owner_resource"]),
    ],
)  # fmt: skip
async def test_what_cannot_be_is_refused_where_it_stands(
    api: Api, more: Mapping[str, Any], where: list[str | int]
) -> None:
    sent = {"name": "x", "trigger": TRIGGER, "actions": [DO_NOTHING], **more}
    answer = await api.client.post("/api/automations/", json=sent)
    assert answer.status_code == 422, answer.text
    assert where in [one["loc"] for one in answer.json()["errors"]], answer.text
    assert (await api.get("/v1/triggers"))["items"] == []


NASTY: list[Any] = [
    None, True, -1, 2**70, 10**400, "", "\0", "{{", "{#", [[]], {"$text": 1}, {"$json": "{"},
    {"__prefect_kind": []}, {"__prefect_kind": "json", "value": '"\\u0000"'}, "P9999999999D", ["!"],
    {"__prefect_kind": "json", "value": "1e999"}, {"__prefect_kind": "json", "value": "[NaN]"},
]  # fmt: skip


async def test_nothing_that_is_sent_in_a_places_stead_is_our_fault(api: Api) -> None:
    shop = await deployment(api)
    child = {**TRIGGER, "match": {"a": ["b"]}, "match_related": [{"a": "b"}]}
    sent = {
        "name": "n",
        "tags": ["a"],
        "trigger": {"type": "compound", "require": 1, "within": 1, "triggers": [child]},
        "actions": [run(shop, schedule_after=1, job_variables={})],
    }
    statuses = set()
    for place in (place for place in places_of(sent) if place):
        for bad in NASTY:
            answer = await api.client.post("/api/automations", json=with_(sent, place, bad))
            statuses.add(answer.status_code)
            assert answer.status_code < 500, (place, bad, answer.text)
    assert statuses == {201, 422}
    assert (await api.client.post("/api/automations/filter")).status_code == 200


def places_of(value: Any) -> Iterator[tuple[str | int, ...]]:
    """The paths to everything in a JSON value, itself too."""
    yield ()
    items: Iterable[Any] = ()
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
    for step, inside in items:
        yield from ((step, *rest) for rest in places_of(inside))


def with_(value: Any, place: tuple[str | int, ...], other: Any) -> Any:
    """A JSON value with another in that place."""
    if not place:
        return other
    changed = value.copy()
    changed[place[0]] = with_(value[place[0]], place[1:], other)
    return changed


async def test_a_parameter_that_breaks_the_schema_is_refused(api: Api) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    answer = await api.put("/v1/deployments/strict", {"runner": RUNNER, "parameter_schema": schema})
    actions = [run(answer.json()["id"], parameters={"n": "many"})]
    sent = {"name": "x", "trigger": TRIGGER, "actions": actions}
    answer = await api.client.post("/api/automations/", json=sent)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["loc"] == ["actions", 0, "parameters", "n"]


async def keys_of(api: Api, trigger: str) -> list[list[str]]:
    """The open keys of a trigger."""
    return [one["key"] for one in (await api.get(f"/v1/triggers/{trigger}/keys"))["items"]]
