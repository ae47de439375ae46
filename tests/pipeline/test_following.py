"""`follows`: events wait for the one before them, whatever is restarted meanwhile."""

from collections.abc import AsyncIterator

import pytest

from tests.core.reference.lines import at, trigger
from tests.pipeline.timed import Timed, timed
from upshot.core import following
from upshot.storage.database import Database

pytestmark = pytest.mark.anyio

EVERY = trigger(expect=["e"])
CHAIN = 50


@pytest.fixture
async def line(database: Database) -> AsyncIterator[Timed]:
    async with timed(database) as line:
        await line.put(EVERY, "10:00")
        yield line


async def test_a_held_event_survives_a_restart_and_comes_when_the_one_before_it_has(
    line: Timed,
) -> None:
    await line.post(at("10:00:05", "e", id="b", follows="a"))
    await line.evaluate("10:00:06")
    assert (await line.fired()).events == []
    await line.restart()
    await line.post(at("10:00:10", "e", id="a"))
    await line.evaluate("10:00:20")
    story = await line.fired()
    assert story.at == ["10:00:10", "10:00:10"]
    assert sorted(filter(None, story.events)) == ["a", "b"]
    assert await line.conn.fetchval("SELECT count(*) FROM held_events") == 0


@pytest.mark.parametrize("events_max", [7, 1_000], ids=["in pieces", "in one batch"])
async def test_a_chain_posted_in_reverse_is_evaluated_in_its_order(
    line: Timed, events_max: int
) -> None:
    """All happened at the same moment, so they are counted in the order of evaluation."""
    await line.put({**trigger(expect=["link"], threshold=CHAIN), "name": "chain"})
    links = [
        at("10:00:05", "link", id=f"{n:02}", follows=f"{n - 1:02}" if n else None)
        for n in range(CHAIN)
    ]
    await line.post(*reversed(links))
    await line.evaluate("10:01", events_max=events_max)
    assert (await line.fired()).counted == ["".join(f"{n:02}" for n in range(CHAIN))]


async def test_an_event_whose_predecessor_never_comes_is_evaluated_after_15_minutes(
    line: Timed,
) -> None:
    await line.post(at("10:00:05", "e", id="b", follows="a"))
    await line.evaluate("10:15:04")
    assert (await line.fired()).at == []
    await line.evaluate("10:15:05")
    assert (await line.fired()).at == ["10:15:05"]
    await line.post(at("10:20", "e", id="a"))
    await line.evaluate("10:20:01")
    assert (await line.fired()).events == ["b", "a"]


async def test_the_arrival_of_any_event_shows_that_the_15_minutes_are_over(line: Timed) -> None:
    await line.post(at("10:00:05", "e", id="b", follows="a"), at("10:40", "e", id="c"))
    await line.evaluate(decide_until=line.clock.replace(hour=9))
    story = await line.fired()
    assert (story.at, story.events) == (["10:15:05", "10:40:00"], ["b", "c"])


async def test_an_event_that_follows_one_evaluated_long_ago_does_not_wait(line: Timed) -> None:
    await line.post(at("10:00:05", "e", id="a"))
    await line.evaluate("10:30")
    await line.post(at("10:40", "e", id="b", follows="a"))
    await line.evaluate("10:41")
    assert (await line.fired()).at == ["10:00:05", "10:40:00"]


async def test_an_event_that_follows_one_just_released_does_not_wait(line: Timed) -> None:
    await line.post(
        at("10:00:05", "e", id="b", follows="a"),
        at("10:00:06", "e", id="a"),
        at("10:00:07", "e", id="c", follows="b"),
    )
    await line.evaluate("10:00:10")
    assert (await line.fired()).at == ["10:00:06", "10:00:06", "10:00:07"]


async def test_a_change_of_a_trigger_between_two_events_does_not_part_them(line: Timed) -> None:
    await line.post(at("10:00:05", "e", id="a"))
    await line.put({**trigger(expect=["other"]), "name": "other"}, "10:00:06")
    await line.post(at("10:00:07", "e", id="b", follows="a"))
    await line.evaluate("10:00:10")
    assert (await line.fired()).at == ["10:00:05", "10:00:07"]


async def test_an_event_that_follows_one_nobody_wants_waits_for_that_one(line: Timed) -> None:
    await line.post(at("10:00:05", "e", id="b", follows="a"))
    await line.evaluate("10:00:06")
    await line.post(at("10:00:10", "noise", id="a"))
    await line.evaluate("10:00:20")
    story = await line.fired()
    assert (story.at, story.events) == (["10:00:10"], ["b"])


async def test_an_event_that_follows_itself_does_not_wait(line: Timed) -> None:
    await line.post(at("10:00:05", "e", id="a", follows="a"))
    await line.evaluate("10:00:06")
    assert (await line.fired()).at == ["10:00:05"]


async def test_events_that_follow_each_other_in_a_circle_wait_no_longer_than_others(
    line: Timed,
) -> None:
    await line.post(
        at("10:00:05", "e", id="a", follows="c"),
        at("10:00:06", "e", id="b", follows="a"),
        at("10:00:07", "e", id="c", follows="b"),
    )
    await line.evaluate("10:16")
    story = await line.fired()
    assert (story.at, sorted(filter(None, story.events))) == (["10:15:05"] * 3, ["a", "b", "c"])


async def test_where_too_many_wait_an_event_is_evaluated_as_it_comes(
    line: Timed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "HELD_EVENTS_MAX", 2)
    await line.post(*(at(f"10:00:0{n}", "e", id=name, follows="z") for n, name in enumerate("abc")))
    await line.evaluate("10:00:10")
    assert (await line.fired()).events == ["c"]
    await line.evaluate("10:16")
    assert sorted(filter(None, (await line.fired()).events)) == ["a", "b", "c"]


async def test_a_held_event_of_a_trigger_that_was_paused_meanwhile_is_not_seen(
    line: Timed,
) -> None:
    await line.post(at("10:00:05", "e", id="b", follows="a"))
    await line.disable(when="10:00:06")
    await line.enable(when="10:00:07")
    await line.post(at("10:00:10", "e", id="a"))
    await line.evaluate("10:00:20")
    assert (await line.fired()).events == ["a"]
