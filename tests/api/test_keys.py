"""Open keys: listed with what is known of each, page by page, and forgotten on request."""

import asyncio
import json
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from tests.api.conftest import SHOP, Api
from tests.e2e.server import until
from upshot.core.evaluation import describe
from upshot.core.keys import key_hash
from upshot.core.language import compile_trigger
from upshot.core.triggers import Trigger
from upshot.core.windows import (
    AfterWindow,
    ChildFiring,
    Collected,
    Opened,
    Seen,
    Switch,
    Window,
    encode_window,
)
from upshot.storage import windows

pytestmark = pytest.mark.anyio

TRIGGER = "/v1/triggers/order-complete"
KEYS = f"{TRIGGER}/keys"
SHOP_CONDITION = {name: SHOP[name] for name in ("after", "expect", "for_each")}
ENTRIES = "SELECT id, payload FROM events WHERE name = 'upshot.key.forgotten' ORDER BY position"


@pytest.fixture
async def shop(api: Api) -> Api:
    await api.shop()
    await in_force(api, **SHOP)
    return api


async def in_force(api: Api, **condition: Any) -> None:
    """Let a trigger with this condition be what the evaluator goes by."""
    await api.conn.execute(
        "INSERT INTO triggers_in_force (id, number, version, document) "
        "SELECT id, number, version, $1 FROM triggers "
        "ON CONFLICT (id) DO UPDATE SET document = excluded.document",
        json.dumps({"deployment": SHOP["deployment"], "enabled": True, **condition}),
    )


async def compiled(api: Api) -> Trigger:
    row = await api.conn.fetchrow("SELECT id, number, version, document FROM triggers_in_force")
    return compile_trigger(
        json.loads(row["document"]),
        trigger_id=row["id"],
        number=row["number"],
        version=row["version"],
    )


async def put(api: Api, *key: str, window: Window, node: int = 0, alarms: bool = False) -> None:
    """Write a window of the trigger, as the evaluator does."""
    trigger = await compiled(api)
    described = describe(trigger.nodes[node].condition, window)
    row = windows.StoredWindow(
        trigger_number=trigger.number,
        node=node,
        key_hash=key_hash(key),
        key=json.dumps(key),
        state=encode_window(window, keeps_after=True, keeps_events=True, keeps_opener=True),
        started_at=described.started_at,
        deadline_at=described.deadline_at,
        alarms=alarms,
        forgotten_at=api.clock() + timedelta(days=1),
    )
    await windows.save(api.conn, [row])


def seen(at: datetime, number: int = 1) -> Seen:
    return Seen(UUID(int=number), at, at, True, True, None)


def opened(api: Api, *, ago: float, ends_in: float | None = None, count: int = 0) -> AfterWindow:
    """A window opened by an `after` event so many seconds ago."""
    now = api.clock()
    at = now - timedelta(seconds=ago)
    return AfterWindow(
        opened=Opened(
            opener=seen(at),
            ends_at=None if ends_in is None else now + timedelta(seconds=ends_in),
            counted=tuple(seen(at, 2 + number) for number in range(count)),
        )
    )


def values(page: Any) -> list[str]:
    return [one["key"][0] for one in page["items"]]


async def test_a_key_is_listed_with_what_opened_it_and_what_counts(shop: Api) -> None:
    await in_force(shop, **SHOP, threshold=3, within=60)
    await put(shop, "123", window=opened(shop, ago=20, ends_in=40, count=2))
    (one,) = (await shop.get(KEYS))["items"]
    started = shop.clock() - timedelta(seconds=20)
    times = {name: datetime.fromisoformat(one.pop(name)) for name in ("started", "deadline")}
    assert times == {"started": started, "deadline": started + timedelta(seconds=60)}
    remembered = [one.pop("after"), *one.pop("events")]
    assert [event["id"] for event in remembered] == [str(UUID(int=n)) for n in (1, 2, 3)]
    assert {datetime.fromisoformat(event["time"]) for event in remembered} == {started}
    assert one == {
        "key": ["123"],
        "labels": {"prefect.resource.id": "123"},
        "child": None,
        "state": "open",
        "count": 2,
        "threshold": 3,
    }


async def test_only_the_newest_of_many_counted_events_are_shown(shop: Api) -> None:
    await put(shop, "123", window=opened(shop, ago=20, count=60))
    (one,) = (await shop.get(KEYS))["items"]
    assert (one["count"], one["deadline"]) == (60, None)
    assert [event["id"] for event in one["events"]] == [str(UUID(int=n)) for n in range(12, 62)]


async def test_before_a_trigger_is_in_force_it_has_no_keys(api: Api) -> None:
    await api.shop()
    assert await api.get(KEYS) == {"items": [], "next_cursor": None}


async def test_a_key_that_is_over_is_listed_no_more(shop: Api) -> None:
    await put(shop, "123", window=opened(shop, ago=20, ends_in=10))
    assert values(await shop.get(KEYS)) == ["123"]
    shop.clock.advance(timedelta(seconds=11))
    assert values(await shop.get(KEYS)) == []


async def test_a_key_is_found_by_its_values_compared_as_text(shop: Api) -> None:
    for user in ("17", "18", "true"):
        await put(shop, user, window=opened(shop, ago=20))
    for key, found in (
        ('["17"]', ["17"]),
        ("[17]", ["17"]),
        ("[17.0]", ["17"]),
        ("[true]", ["true"]),
        ('["1"]', []),
        ("[]", []),
    ):
        assert values(await shop.get(KEYS, key=key)) == found
    assert values(await shop.get(KEYS, value="1*")) == ["17", "18"]
    assert values(await shop.get(KEYS, key="[17]", value="18")) == []


@pytest.mark.parametrize("key", ["17", "{}", "[", "[null]", '[["1"]]', json.dumps(["x"] * 11), '"'])
async def test_what_is_no_key_is_refused(shop: Api, key: str) -> None:
    for answer in (
        await shop.client.get(KEYS, params={"key": key}),
        await shop.client.delete(KEYS, params={"key": key}),
    ):
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["loc"] == ["query", "key"]


async def test_pages_go_on_where_the_one_before_ended(shop: Api) -> None:
    for user in range(5):
        await put(shop, str(user), window=opened(shop, ago=20 - user, ends_in=20 - user))
    for sort, found in (("age", "01234"), ("deadline", "43210")):
        pages = [await shop.get(KEYS, limit=2, sort=sort)]
        while cursor := pages[-1]["next_cursor"]:
            pages.append(await shop.get(KEYS, limit=2, sort=sort, cursor=cursor))
        assert [values(page) for page in pages] == [
            [*found[:2]],
            [*found[2:4]],
            [*found[4:]],
        ]


async def test_a_cursor_of_another_order_is_refused(shop: Api) -> None:
    for user in "ab":
        await put(shop, user, window=opened(shop, ago=1, ends_in=1))
    cursor = (await shop.get(KEYS, limit=1))["next_cursor"]
    for foreign in (cursor, "x", cursor[:-4]):
        answer = await shop.client.get(KEYS, params={"sort": "deadline", "cursor": foreign})
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["loc"] == ["query", "cursor"]


async def test_keys_are_listed_by_their_state(shop: Api) -> None:
    await in_force(
        shop, posture="Proactive", expect=["beat"], for_each=["id"], within=60, repeat=False
    )
    now = shop.clock()
    for number in range(6):
        at = now - timedelta(seconds=number + 1)
        silent = Switch(at, at, silent_since=now)
        await put(shop, str(number), window=silent if number % 2 else Switch(at, at))
    assert values(await shop.get(KEYS, state="watching")) == ["4", "2", "0"]
    assert values(await shop.get(KEYS, state="silent")) == ["5", "3", "1"]
    assert values(await shop.get(KEYS, state="open")) == []
    first = await shop.get(KEYS, state="silent", limit=2)
    second = await shop.get(KEYS, state="silent", limit=2, cursor=first["next_cursor"])
    assert (values(first), values(second)) == (["5", "3"], ["1"])
    assert values(await shop.get(KEYS, sort="deadline")) == ["4", "2", "0"]


async def test_the_children_of_a_composite_are_told_apart(shop: Api) -> None:
    leaf = {"expect": ["a"], "after": ["b"]}
    inner = {"type": "sequence", "triggers": [leaf, {**leaf, "for_each": ["payload.order"]}]}
    await in_force(
        shop, type="compound", require="all", for_each=["id"], triggers=[leaf, inner, leaf]
    )
    firing = ChildFiring(0, shop.clock() - timedelta(seconds=30), 1, None, ())
    await put(shop, "1", window=Collected(firings=(firing,)))
    for node in (1, 3, 4, 5):
        await put(shop, "1", window=opened(shop, ago=20 - node), node=node)
    shown = (await shop.get(KEYS, key='["1"]'))["items"]
    assert [one["child"] for one in shown] == [None, [0], [1, 0], [1, 1], [2]]
    assert [one["threshold"] for one in shown] == [3, 1, 1, 1, 1]
    assert [list(one["labels"].items()) for one in shown] == [
        [("payload.order" if place == 3 else "prefect.resource.id", "1")] for place in range(5)
    ]


async def test_what_belongs_to_a_part_that_is_in_force_no_more_is_not_listed(shop: Api) -> None:
    await in_force(shop, type="sequence", triggers=[SHOP_CONDITION, SHOP_CONDITION])
    await put(shop, "1", window=opened(shop, ago=20), node=2)
    await put(shop, "2", window=opened(shop, ago=20), node=1)
    await in_force(shop, type="sequence", triggers=[SHOP_CONDITION])
    assert values(await shop.get(KEYS)) == ["2"]


async def test_forgetting_a_key_is_an_entry_of_the_log_and_waits_until_it_holds(shop: Api) -> None:
    await put(shop, "123", window=opened(shop, ago=20))
    deleting = asyncio.create_task(shop.client.delete(KEYS, params={"key": "[123]"}))
    entries = await until(lambda: shop.conn.fetch(ENTRIES))
    assert not deleting.done()
    await shop.evaluate()
    assert (await deleting).status_code == 204
    (entry,) = entries
    trigger = await compiled(shop)
    payload = json.loads(entry["payload"])
    assert (payload["id"], payload["number"]) == (str(trigger.id), trigger.number)
    assert payload["key"] == ["123"]
    assert "evaluate" in shop.woken


async def test_a_key_that_is_not_open_cannot_be_forgotten(shop: Api) -> None:
    await put(shop, "over", window=opened(shop, ago=20, ends_in=-1))
    for key in ('["over"]', '["unknown"]', "[]"):
        answer = await shop.client.delete(KEYS, params={"key": key})
        assert (answer.status_code, key in answer.json()["detail"]) == (404, True)
    assert await shop.conn.fetch(ENTRIES) == []


async def test_there_are_no_keys_of_a_trigger_that_there_is_not(api: Api) -> None:
    for answer in (
        await api.client.get("/v1/triggers/none/keys"),
        await api.client.delete("/v1/triggers/none/keys", params={"key": "[]"}),
    ):
        assert (answer.status_code, "'none'" in answer.json()["detail"]) == (404, True)


async def test_what_events_have_opened_is_listed_until_it_is_forgotten(api: Api) -> None:
    await api.shop()
    ids = await api.post_events(
        *({"event": "order.created", "resource": {"id": user}} for user in ("123", "456", "789")),
        {"event": "order.complete", "resource": {"id": "456"}},
    )
    await api.evaluate()
    shown = (await api.get(KEYS))["items"]
    assert {(one["key"][0], one["after"]["id"]) for one in shown} == {
        ("123", ids[0]),
        ("789", ids[2]),
    }
    deleting = asyncio.create_task(api.client.delete(KEYS, params={"key": "[123]"}))
    await until(lambda: api.conn.fetch(ENTRIES))
    await api.evaluate()
    assert (await deleting).status_code == 204
    assert values(await api.get(KEYS)) == ["789"]
    await api.post_events({"event": "order.complete", "resource": {"id": "123"}})
    await api.evaluate()
    assert await api.conn.fetchval("SELECT count(*) FROM runs") == 1
