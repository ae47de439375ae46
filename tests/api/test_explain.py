"""Explanations of stored events: recomputed from the log, at the version that was in force."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from tests.api.conftest import SHOP, Api
from upshot.pipeline.evaluate import Evaluator

pytestmark = pytest.mark.anyio

PATH = "/v1/triggers/order-complete"


@pytest.fixture
async def shop(api: Api) -> Api:
    await api.shop()
    return api


async def explained(api: Api, event_id: str, path: str = PATH) -> Any:
    return await api.get(f"{path}/explain/{event_id}")


def order(what: str, user: str = "1", **more: Any) -> dict[str, Any]:
    return {"event": f"order.{what}", "resource": {"id": user, "user": f"u-{user}"}, **more}


async def test_the_shops_story_is_explained_event_by_event(shop: Api) -> None:
    created, complete, again = await shop.post_events(
        order("created"), order("complete"), order("complete")
    )
    await shop.evaluate()
    opened = await explained(shop, created)
    assert (opened["outcome"], opened["before"], opened["complete"]) == ("opened", None, True)
    assert opened["after"] == {
        **opened["after"],
        "state": "open",
        "count": 0,
        "needed": 1,
        "deadline": None,
        "events": [],
    }
    assert opened["after"]["after"]["id"] == created
    assert opened["labels"] == {"prefect.resource.id": "1"}
    fired = await explained(shop, complete)
    assert (fired["outcome"], fired["key"], fired["version"]) == ("fired", ["1"], 1)
    assert fired["before"] == opened["after"]
    (run,) = (await shop.get("/v1/runs"))["items"]
    assert fired["runs"] == [run["id"]]
    assert opened["runs"] == []
    assert [check["check"] for check in fired["checks"]] == [
        *("name", "match", "match_related", "where", "key", "state")
    ]
    assert all(check["passed"] for check in fired["checks"])
    assert (await explained(shop, again))["outcome"] in ("early", "ignored")


async def test_a_key_of_another_label_is_read_from_all_events(api: Api) -> None:
    await api.shop(for_each=["user"])
    ids = await api.post_events(
        order("created", "1"),
        order("created", "2"),
        {"event": "order.complete", "resource": {"id": "x", "user": "u-1"}},
    )
    await api.evaluate()
    told = await explained(api, ids[2])
    assert (told["outcome"], told["labels"]) == ("fired", {"user": "u-1"})
    assert told["before"]["after"]["id"] == ids[0]


async def test_an_unknown_event_or_trigger_is_not_found(shop: Api) -> None:
    (event_id,) = await shop.post_events(order("created"))
    for path, wanted in (
        (f"{PATH}/explain/{uuid4()}", "There is no event"),
        (f"/v1/triggers/other/explain/{event_id}", "There is no trigger 'other'."),
    ):
        answer = await shop.client.get(path)
        assert answer.status_code == 404
        assert wanted in answer.json()["detail"]


async def test_an_event_that_is_not_evaluated_yet_is_told_so(shop: Api) -> None:
    created, other = await shop.post_events(order("created"), order("lost"))
    told = await explained(shop, created)
    assert told["outcome"] == "waiting"
    assert told["summary"].startswith("Waiting: it is not evaluated yet")
    assert (await explained(shop, other))["outcome"] == "no match"


async def test_an_event_that_is_held_is_told_what_it_waits_for(shop: Api) -> None:
    before = str(uuid4())
    (complete,) = await shop.post_events(order("complete", follows=before))
    await shop.evaluate()
    told = await explained(shop, complete)
    assert told["outcome"] == "held"
    assert f"it follows the event {before}, which is not evaluated yet" in told["summary"]
    (created,) = await shop.post_events(order("created", id=before))
    await shop.evaluate()
    assert (await explained(shop, created))["outcome"] == "opened"
    told = await explained(shop, complete)
    assert told["outcome"] == "fired"


async def test_what_an_event_follows_may_be_of_another_resource(shop: Api) -> None:
    before = str(uuid4())
    created, complete, _ = await shop.post_events(
        order("created"),
        order("complete", follows=before),
        {"event": "other", "resource": {"id": "x"}, "id": before},
    )
    await shop.evaluate()
    assert (await explained(shop, complete))["before"]["after"]["id"] == created
    assert (await explained(shop, complete))["outcome"] == "fired"


async def test_a_chain_that_waits_over_several_keys_is_followed_to_its_end(shop: Api) -> None:
    """The last comes first: each waits for the one posted after it."""
    first, second = str(uuid4()), str(uuid4())
    last, *_ = await shop.post_events(
        order("complete", follows=second),
        {"event": "b", "resource": {"id": "y"}, "id": second, "follows": first},
        order("created"),
    )
    await shop.evaluate()
    assert (await explained(shop, last))["outcome"] == "held"
    await shop.post_events({"event": "a", "resource": {"id": "x"}, "id": first})
    await shop.evaluate()
    told = await explained(shop, last)
    (run,) = (await shop.get("/v1/runs"))["items"]
    assert (told["outcome"], told["runs"]) == ("fired", [run["id"]])


async def test_an_event_from_before_the_trigger_was_not_seen(api: Api) -> None:
    (created,) = await api.post_events(order("created"))
    await api.shop()
    await api.evaluate()
    told = await explained(api, created)
    assert told["outcome"] == "not seen"
    assert told["summary"].startswith("Not seen: the trigger was made at ")


async def test_an_event_while_the_trigger_was_disabled_was_not_seen(shop: Api) -> None:
    await shop.client.patch(PATH, json={"enabled": False})
    (created,) = await shop.post_events(order("created"))
    await shop.client.patch(PATH, json={"enabled": True})
    (complete,) = await shop.post_events(order("complete"))
    await shop.evaluate()
    told = await explained(shop, created)
    assert (told["outcome"], told["enabled"], told["version"]) == ("not seen", False, 2)
    assert told["summary"].startswith("Not seen: the trigger was disabled, since ")
    told = await explained(shop, complete)
    assert (told["outcome"], told["enabled"], told["version"]) == ("early", True, 3)


async def test_each_event_is_explained_by_the_version_of_its_time(shop: Api) -> None:
    created, one = await shop.post_events(order("created"), order("complete"))
    await shop.client.patch(PATH, json={"threshold": 2})
    await shop.client.patch(PATH, json={"description": "twice"})
    again, two = await shop.post_events(order("created"), order("complete"))
    await shop.client.patch(PATH, json={"expect": ["order.paid"]})
    await shop.evaluate()
    versions = [await explained(shop, event_id) for event_id in (created, one, again, two)]
    assert [told["version"] for told in versions] == [1, 1, 3, 3]
    assert [told["outcome"] for told in versions] == ["opened", "fired", "opened", "counted"]
    assert versions[3]["before"]["after"]["id"] == again


async def test_a_key_that_was_forgotten_begins_anew(shop: Api) -> None:
    await shop.post_events(order("created"))
    await shop.evaluate()
    answer = await shop.client.delete(f"{PATH}/keys", params={"key": '["1"]'})
    assert answer.status_code in (202, 204), answer.text
    (complete,) = await shop.post_events(order("complete"))
    await shop.evaluate()
    assert (await explained(shop, complete))["before"] is None


async def test_what_could_not_be_evaluated_is_told_with_the_reason(shop: Api) -> None:
    await shop.client.patch(PATH, json={"for_each": ["id", "user"]})
    (event_id,) = await shop.post_events(
        {"event": "order.created", "resource": {"id": "1", "user": "u" * 2_000}}
    )
    await shop.evaluate()
    told = await explained(shop, event_id)
    assert told["outcome"] == "set aside"
    assert "at most 1024 fit a key" in told["summary"]


async def test_changes_of_triggers_are_seen_by_none(shop: Api) -> None:
    await shop.put("/v1/triggers/watch", {**SHOP, "after": [], "expect": ["upshot.*"]})
    await shop.client.patch(PATH, json={"description": "changed"})
    (entry, *_) = (await shop.get("/v1/events", event="upshot.trigger.*"))["items"]
    await shop.evaluate()
    told = await explained(shop, entry["id"], "/v1/triggers/watch")
    assert told["outcome"] == "not seen"


async def test_of_a_composite_every_leaf_is_checked(shop: Api) -> None:
    await shop.put(
        "/v1/triggers/both",
        {
            "type": "compound",
            "deployment": "post-order-complete",
            "for_each": ["id"],
            "triggers": [{"expect": ["order.created"]}, {"expect": ["order.complete"]}],
        },
    )
    created, complete = await shop.post_events(order("created"), order("complete"))
    await shop.evaluate()
    told = await explained(shop, created, "/v1/triggers/both")
    assert (told["outcome"], told["after"]["fired"], told["after"]["missing"]) == (
        *("counted", [[0]], [[1]]),
    )
    assert [check["child"] for check in told["checks"]] == [[0]] * 5 + [[1]] * 5 + [[0]]
    told = await explained(shop, complete, "/v1/triggers/both")
    assert (told["outcome"], told["summary"]) == (
        "fired",
        "Fired: child 1 fired, and 2 of 2 have.",
    )
    assert len(told["runs"]) == 1


async def test_the_run_of_an_alarm_is_told_with_the_event_that_opened_the_key(api: Api) -> None:
    await api.shop(posture="Proactive", within=0.001, lateness=0)
    (created,) = await api.post_events(order("created"))
    evaluator = await Evaluator.load(api.conn, key_retention=timedelta(days=90))
    runs = 0
    while not runs:
        runs = (await evaluator.turn()).runs
    told = await explained(api, created)
    assert told["outcome"] == "opened"
    assert len(told["runs"]) == 1


async def forget_the_log(api: Api) -> None:
    """As when the retention of events is over."""
    await api.conn.execute("DELETE FROM events")


async def test_where_the_log_begins_later_what_is_not_known_is_said(shop: Api) -> None:
    await shop.post_events(order("created"))
    await shop.evaluate()
    await forget_the_log(shop)
    (complete,) = await shop.post_events(order("complete"))
    await shop.evaluate()
    told = await explained(shop, complete)
    assert (told["complete"], told["version"]) == (False, 1)
    assert told["note"].startswith("The log begins at ")
    assert told["note"].endswith("what opened the key before that is not known.")
    (run,) = (await shop.get("/v1/runs"))["items"]
    assert told["runs"] == [run["id"]]


async def test_a_version_that_is_not_in_the_log_is_stood_in_for_by_the_next(shop: Api) -> None:
    await forget_the_log(shop)
    (created,) = await shop.post_events(order("created"))
    await shop.client.patch(PATH, json={"description": "later"})
    await shop.evaluate()
    told = await explained(shop, created)
    assert (told["complete"], told["version"]) == (False, 2)
    assert "explained by version 2" in told["note"]


async def test_no_more_events_are_looked_at_than_may_be(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.shop(for_each=["user"])
    ids = await api.post_events(
        order("created"), *(order("shown", str(n)) for n in range(20)), order("complete")
    )
    await api.evaluate()
    assert (await explained(api, ids[-1]))["complete"] is True
    monkeypatch.setattr("upshot.pipeline.explain.ATTEMPTS", ((10, timedelta(seconds=4)),))
    told = await explained(api, ids[-1])
    assert (told["complete"], told["outcome"]) == (False, "early")
    assert told["note"].startswith("Only the last 10 events before it were looked at")


async def test_when_time_is_up_fewer_events_have_to_do(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.shop(for_each=["user"])
    ids = await api.post_events(order("created"), order("shown"), order("complete"))
    await api.evaluate()
    monkeypatch.setattr(
        "upshot.pipeline.explain.ATTEMPTS",
        ((1_000, timedelta(seconds=-1)), (1, timedelta(days=1))),
    )
    assert (await explained(api, ids[-1]))["note"].startswith("Only the last 1 events")


async def test_too_many_at_once_are_told_to_come_again(
    shop: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    (event_id,) = await shop.post_events(order("created"))
    monkeypatch.setattr("upshot.api.explain.EXPLAINS_WAITING_MAX", 0)
    answer = await shop.client.get(f"{PATH}/explain/{event_id}")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
