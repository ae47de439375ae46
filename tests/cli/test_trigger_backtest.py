"""Backtests by command against a real server: a trigger in a file, tried on what is stored."""

from typing import Any

import pytest

from tests.cli.conftest import Command, Ended, write
from tests.e2e.server import SHOP, Server

pytestmark = pytest.mark.anyio

TRIGGER = """\
deployment: post-order-complete
after: order.created
expect: order.complete
for_each: id
parameters:
  user_id: "{{ event.resource.id }}"
"""


@pytest.fixture
async def shop(server: Server, upshot: Command) -> Command:
    """The command on a server that has stored three orders, of which two are complete."""
    events = [("order.created", user) for user in ("1", "2", "3")]
    events += [("order.complete", user) for user in ("1", "2")]
    await server.api.post(*({"event": name, "resource": {"id": user}} for name, user in events))
    return upshot


async def backtest(upshot: Command, *options: str, trigger: str = TRIGGER) -> Ended:
    write("trigger.yaml", trigger)
    return await upshot.beside("trigger", "backtest", "-f", "trigger.yaml", *options)


async def json_of(upshot: Command, *options: str, **more: Any) -> Any:
    ended = await backtest(upshot, "--json", *options, **more)
    assert ended.code == 0, ended.err
    return ended.json


async def test_what_a_trigger_would_have_fired_is_shown_and_summed_up(shop: Command) -> None:
    ended = await backtest(shop)
    assert ended.code == 0, ended.err
    for words in ("prefect.resource.id=1", "order.complete", '{"user_id": "2"}'):
        assert words in ended.out
    assert ended.out.splitlines()[-1] == (
        "2 firings; 5 events looked at, 5 concerned it; 1 key open at the end."
    )
    assert "The log begins at" in ended.err


async def test_it_goes_on_until_there_are_as_many_firings_as_wanted(shop: Command) -> None:
    trigger = TRIGGER.replace("after: order.created\n", "").replace("complete\nf", "*\nf")
    cut = await backtest(shop, "--limit", "4", trigger=trigger)
    assert "4 firings" in cut.out.splitlines()[-1]
    assert "More with --limit" in cut.out
    found = await json_of(shop, "--limit", "501", trigger=trigger)
    assert len(found["items"]) == found["events"] == 5
    assert found["next_cursor"] is None


async def test_many_firings_take_several_answers_and_are_told_of_on_the_way(
    shop: Command, server: Server
) -> None:
    event = {"event": "order.created", "resource": {"id": "9"}}
    await server.api.post(*[event] * 500)
    trigger = TRIGGER.replace("after: order.created\n", "").replace(
        "order.complete", "order.created"
    )
    ended = await backtest(shop, "--limit", "10000", "--json", trigger=trigger)
    assert len(ended.json["items"]) == 503
    assert "500 firings" in ended.err


async def test_against_a_registered_trigger_the_difference_is_shown(
    shop: Command, server: Server
) -> None:
    await server.api.deploy("post-order-complete", "http://127.0.0.1:9/run")
    await server.api.trigger("old", deployment="post-order-complete", **SHOP)
    narrower = f"{TRIGGER}match: {{id: '2'}}\n"
    ended = await backtest(shop, "--against", "old", trigger=narrower)
    assert ended.code == 0, ended.err
    assert "prefect.resource.id=1" in ended.out
    assert "prefect.resource.id=2" not in ended.out
    assert "1 firing unlike 'old', 1 alike" in ended.out
    same = await backtest(shop, "--against", "old")
    assert "0 firings unlike 'old', 2 alike" in same.out


async def test_the_span_is_said_as_a_duration_or_a_time(shop: Command) -> None:
    for since in ("1h", "7d", "PT1H", "2020-01-01T00:00:00Z"):
        assert len((await json_of(shop, "--since", since))["items"]) == 2
    ended = await backtest(shop, "--since", "Pnever")
    assert (ended.code, "is no time" in ended.err) == (2, True)


async def test_a_span_without_events_fires_nothing(shop: Command) -> None:
    ended = await backtest(shop, "--since", "2020-01-01", "--until", "2020-02-01")
    assert (ended.code, "0 firings; 0 events" in ended.out) == (0, True)
    assert "It would not have fired." in ended.err


async def test_a_file_with_several_triggers_or_a_wrong_one_is_refused(shop: Command) -> None:
    several = "- name: a\n  deployment: d\n- name: b\n  deployment: d\n"
    ended = await backtest(shop, trigger=several)
    assert (ended.code, "2 triggers" in ended.err) == (1, True)
    ended = await backtest(shop, trigger=f"{TRIGGER}treshold: 3\n")
    assert (ended.code, "treshold" in ended.err) == (1, True)
    ended = await backtest(shop, "--against", "nobody")
    assert (ended.code, "There is no trigger 'nobody'" in ended.err) == (1, True)
