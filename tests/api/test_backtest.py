"""Backtests by HTTP: a trigger that need not exist, tried on what is stored; nothing is written."""

from contextlib import ExitStack
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import httpx
import pytest

from tests.api.conftest import RUNNER, SHOP, Api
from upshot.core.limits import BACKTESTS_AT_ONCE_MAX
from upshot.storage import api_keys
from upshot.storage.api_keys import Scope
from upshot.storage.database import Database

pytestmark = pytest.mark.anyio

PATH = "/v1/triggers/backtest"
TRIGGER = {name: value for name, value in SHOP.items() if name != "deployment"}


async def orders(api: Api, *users: str) -> list[str]:
    """Orders that are created and complete; the ids of the events that complete them."""
    ids = await api.post_events(
        *(
            {"event": name, "resource": {"id": user}}
            for user in users
            for name in ("order.created", "order.complete")
        )
    )
    later(api)
    return ids[1::2]


def later(api: Api) -> None:
    """What was received so far is in the past, whatever the database's clock says."""
    api.clock.advance(timedelta(minutes=1))


async def ask(api: Api, **fields: Any) -> httpx.Response:
    return await api.client.post(PATH, json={"trigger": TRIGGER, **fields})


async def backtest(api: Api, **fields: Any) -> dict[str, Any]:
    answer = await ask(api, **fields)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def problems_of(answer: httpx.Response) -> list[list[str | int]]:
    return [problem["loc"] for problem in answer.json()["errors"]]


async def test_a_trigger_that_does_not_exist_fires_over_what_is_stored(api: Api) -> None:
    (event_id,) = await orders(api, "123")
    await api.post_events({"event": "order.created", "resource": {"id": "456"}})
    later(api)
    found = await backtest(api)
    (item,) = found["items"]
    event = await api.get(f"/v1/events/{event_id}")
    assert item == {
        "at": event["received"],
        "key": ["123"],
        "labels": {"prefect.resource.id": "123"},
        "event": {name: event[name] for name in item["event"]},
        "event_ids": [event_id],
        "parameters": {"user_id": "123"},
        "error": None,
    }
    assert item["event"]["id"] == event_id
    assert (found["events"], found["concerned"], found["open_keys"]) == (3, 3, 1)
    assert (found["next_cursor"], found["reached"]) == (None, found["until"])


async def test_nothing_is_written(api: Api) -> None:
    await api.shop()
    await orders(api, "123")
    before = await _rows(api.conn)
    assert len((await backtest(api, against="order-complete"))["items"]) == 0
    assert await _rows(api.conn) == before


async def _rows(conn: asyncpg.Connection) -> dict[str, int]:
    tables = await conn.fetch(
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    )
    return {
        table["relname"]: await conn.fetchval(f"SELECT count(*) FROM {table['relname']}")
        for table in tables
    }


async def test_the_span_is_a_day_up_to_now_unless_another_is_asked_for(api: Api) -> None:
    await orders(api, "1")
    found = await backtest(api)
    since, until = (datetime.fromisoformat(found[name]) for name in ("since", "until"))
    assert (until, until - since) == (api.clock(), timedelta(days=1))
    long_ago = until - timedelta(days=400)
    found = await backtest(
        api, since=long_ago.isoformat(), until=(until + timedelta(days=1)).isoformat()
    )
    assert datetime.fromisoformat(found["since"]) == long_ago
    assert datetime.fromisoformat(found["until"]) == until, "nothing is known of the future"
    assert "begins at" in found["note"]
    assert (await backtest(api, until=long_ago.isoformat()))["events"] == 0


async def test_a_cursor_goes_on_where_the_answer_before_ended(api: Api) -> None:
    await orders(api, "1", "2", "3")
    first = await backtest(api, limit=2)
    assert [item["key"] for item in first["items"]] == [["1"], ["2"]]
    assert first["open_keys"] is None
    second = (await api.client.post(PATH, json={"cursor": first["next_cursor"]})).json()
    assert [item["key"] for item in second["items"]] == [["3"]]
    assert (second["next_cursor"], second["events"], second["open_keys"]) == (None, 6, 0)


@pytest.mark.parametrize("is_used", [False, True])
async def test_a_cursor_that_is_gone_is_told_to_begin_again(api: Api, is_used: bool) -> None:
    await orders(api, "1", "2")
    cursor = (await backtest(api, limit=1))["next_cursor"]
    if is_used:
        await backtest(api, cursor=cursor)
    else:
        api.clock.advance(timedelta(minutes=10))
    answer = await ask(api, cursor=cursor)
    assert answer.status_code == 409
    assert "Begin again" in answer.json()["detail"]


async def test_against_a_registered_trigger_only_what_differs_is_told(api: Api) -> None:
    await api.shop(match={"id": ["1", "2"]})
    await orders(api, "1", "2", "3")
    found = await backtest(
        api, trigger={**TRIGGER, "match": {"id": ["2", "3"]}}, against="order-complete"
    )
    assert [(item["only"], item["key"]) for item in found["items"]] == [
        ("old", ["1"]),
        ("new", ["3"]),
    ]
    assert found["same"] == 1


async def test_against_what_does_not_exist_is_not_found(api: Api) -> None:
    assert (await ask(api, against="nobody")).status_code == 404


async def test_the_deployment_s_defaults_and_schema_are_used_if_it_exists(api: Api) -> None:
    deployment = {
        "runner": RUNNER,
        "parameters": {"currency": "EUR"},
        "parameter_schema": {"properties": {"user_id": {"maxLength": 1}}},
    }
    await api.put("/v1/deployments/d", deployment)
    await orders(api, "1", "23")
    one, other = (await backtest(api, trigger={**TRIGGER, "deployment": "d"}))["items"]
    assert one["parameters"] == {"currency": "EUR", "user_id": "1"}
    assert other["parameters"] is None
    assert "schema" in other["error"]


async def test_a_trigger_as_it_was_shown_can_be_tried(api: Api) -> None:
    await api.shop()
    await orders(api, "1")
    shown = await api.get("/v1/triggers/order-complete")
    assert len((await backtest(api, trigger={**shown, "enabled": False}))["items"]) == 1


async def test_composites_are_tried_too(api: Api) -> None:
    await orders(api, "1", "2")
    trigger = {
        "type": "sequence",
        "for_each": "id",
        "triggers": [{"expect": "order.created"}, {"expect": "order.complete"}],
        "parameters": {"user": "{{ labels.id }}"},
    }
    found = await backtest(api, trigger=trigger)
    assert [item["parameters"] for item in found["items"]] == [{"user": "1"}, {"user": "2"}]


@pytest.mark.parametrize(
    ("fields", "loc"),
    [
        ({"trigger": None}, ["trigger"]),
        ({"trigger": {**TRIGGER, "treshold": 2}}, ["trigger", "treshold"]),
        ({"trigger": {**TRIGGER, "threshold": 0}}, ["trigger", "threshold"]),
        ({"trigger": {"type": "sequence"}}, ["trigger", "triggers"]),
        ({"trigger": {"type": "else"}}, ["trigger", "type"]),
        ({"trigger": {**TRIGGER, "parameters": {"a": "{{ e }}"}}}, ["trigger", "parameters", "a"]),
        ({"trigger": []}, ["trigger"]),
        ({"since": "2999-01-01T00:00:00Z"}, ["since"]),
        ({"since": "yesterday"}, ["since"]),
        ({"limit": 501}, ["limit"]),
        ({"against": "no name"}, ["against"]),
        ({"sicne": "2026-01-01T00:00:00Z"}, ["sicne"]),
    ],
)  # fmt: skip
async def test_what_is_wrong_is_told_where_it_is(
    api: Api, fields: dict[str, Any], loc: list[str]
) -> None:
    answer = await ask(api, **fields)
    assert answer.status_code == 422, answer.text
    assert problems_of(answer) == [loc]


async def test_a_misspelt_field_of_the_trigger_is_recognised(api: Api) -> None:
    answer = await ask(api, trigger={**TRIGGER, "treshold": 2})
    assert answer.json()["detail"] == "trigger.treshold: Unknown field; did you mean 'threshold'?"


async def test_where_enough_are_running_another_is_asked_to_come_again(api: Api) -> None:
    with ExitStack() as running:
        for _ in range(BACKTESTS_AT_ONCE_MAX):
            running.enter_context(api.app.state.backtests.another())
        answer = await ask(api)
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert (await ask(api)).status_code == 200


async def test_a_trigger_may_be_called_backtest(api: Api) -> None:
    await api.shop()
    made = await api.put(PATH, SHOP)
    assert made.status_code == 201, made.text
    assert (await api.get(PATH))["name"] == "backtest"
    assert (await backtest(api))["items"] == []


@pytest.mark.parametrize(("scope", "status"), [("read", 200), ("events:write", 403)])
async def test_a_key_that_may_read_may_try_triggers(
    api: Api, database: Database, scope: Scope, status: int
) -> None:
    async with database.begin() as conn:
        _, token = await api_keys.create(conn, name="test", scopes=[scope])
    headers = {"authorization": f"Bearer {token}"}
    answer = await api.client.post(PATH, json={"trigger": TRIGGER}, headers=headers)
    assert answer.status_code == status
