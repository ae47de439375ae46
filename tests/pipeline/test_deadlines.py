"""Deadlines by the real evaluator: when an alarm comes, and what it waits for."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests.core.reference.lines import Line, at, compound, trigger
from tests.pipeline.timed import Timed, timed
from upshot.storage.database import Database

pytestmark = pytest.mark.anyio

PARCEL = trigger(
    after=["sent"], expect=["arrived"], posture="Proactive", within=60, for_each=["id"], lateness=0
)
HEARTBEAT = trigger(expect=["beat"], posture="Proactive", within=60, lateness=0)
MANY, BITE = 5_000, 1_000


@pytest.fixture
async def line(database: Database) -> AsyncIterator[Timed]:
    async with timed(database) as line:
        yield line


async def test_an_absence_is_alarmed_at_its_deadline_and_not_before(line: Timed) -> None:
    await line.put(PARCEL, "10:00")
    await line.post(at("10:00:10", "sent", id="s"))
    await line.evaluate("10:01:09")
    assert (await line.fired()).at == []
    await line.evaluate("10:01:10")
    story = await line.fired()
    assert (story.at, story.keys, story.events) == (["10:01:10"], [("1",)], ["s"])


async def test_an_event_received_before_the_deadline_prevents_it_in_the_same_batch(
    line: Timed,
) -> None:
    await line.put(PARCEL, "10:00")
    await line.post(
        at("10:00:00", "sent", key="heard"),
        at("10:00:00", "sent", key="missed"),
        at("10:00:59.9", "arrived", key="heard"),
        at("10:01:00", "arrived", key="missed"),
        at("10:05:00", "arrived", key="later"),
    )
    await line.evaluate("10:06")
    story = await line.fired()
    assert (story.at, story.keys) == (["10:01:00"], [("missed",)])


async def test_nothing_is_alarmed_while_the_evaluator_is_behind_an_event_that_prevents_it(
    line: Timed,
) -> None:
    await line.put(PARCEL, "10:00")
    await line.post(at("10:00:00", "sent"), *(at("10:00:30", "noise") for _ in range(20)))
    await line.post(at("10:00:59", "arrived"))
    # The deadline is long past by the clock, and 22 events wait to be read, one a turn.
    turns = 0
    while (await line.turn(events_max=1, decide_until=None)).is_behind:
        turns += 1
    assert turns > 20
    assert (await line.fired()).at == []


async def test_a_dead_mans_switch_fires_within_after_the_last_beat_and_again_and_again(
    line: Timed,
) -> None:
    await line.put(HEARTBEAT, "10:00")
    await line.post(at("10:00:30", "beat", id="b"))
    await line.evaluate("10:03:29")
    assert (await line.fired()).at == ["10:01:30", "10:02:30"]
    await line.post(at("10:03:29.5", "beat"))
    await line.evaluate("10:04:29")
    assert len((await line.fired()).at) == 2
    await line.evaluate("10:04:29.5")
    assert (await line.fired()).at[2:] == ["10:04:29"]


async def test_a_switch_that_no_event_begins_counts_from_the_triggers_making(line: Timed) -> None:
    await line.put(HEARTBEAT, "10:00")
    await line.evaluate("10:01")
    story = await line.fired()
    assert (story.at, story.events) == (["10:01:00"], [None])


async def test_after_a_downtime_a_switch_fires_once_and_then_in_its_old_rhythm(
    line: Timed,
) -> None:
    await line.put(HEARTBEAT, "10:00")
    await line.evaluate("10:00:10")
    await line.restart(after_downtime=True)
    await line.evaluate("11:00:20")
    assert (await line.fired()).at == ["11:00:20"]
    await line.evaluate("11:02:00")
    assert (await line.fired()).at[1:] == ["11:01:00", "11:02:00"]


async def test_thousands_due_at_once_are_decided_in_bites_with_new_events_in_between(
    line: Timed,
) -> None:
    await line.put(PARCEL, "10:00")
    await line.put({**trigger(expect=["order"]), "name": "orders"})
    await line.post(*(at("10:00", "sent", key=str(n)) for n in range(MANY)))
    await line.evaluate("10:00:30")
    line.pass_to("10:02")
    for _ in range(MANY // BITE):
        await line.post(at("10:02", "order"))
        progress = await line.turn(due_max=BITE)
        assert (progress.events, progress.runs, progress.is_behind) == (1, BITE + 1, True)
    assert (await line.turn(due_max=BITE)).runs == 0
    story = await line.fired()
    assert len(set(story.keys)) == MANY + 1
    assert len(story.keys) == MANY + MANY // BITE


async def test_disabling_closes_what_is_open_but_an_alarm_that_was_due_before_still_comes(
    line: Timed,
) -> None:
    await line.put(PARCEL, "10:00")
    await line.post(at("10:00:00", "sent", key="due"), at("10:00:30", "sent", key="open"))
    await line.disable(when="10:01:10")
    await line.enable(when="10:01:20")
    await line.evaluate("10:10")
    story = await line.fired()
    assert (story.at, story.keys) == (["10:01:00"], [("due",)])


async def test_a_deleted_trigger_alarms_what_was_due_before_and_leaves_no_deadline(
    line: Timed,
) -> None:
    await line.put(PARCEL, "10:00")
    await line.post(at("10:00:00", "sent", key="due"), at("10:00:30", "sent", key="open"))
    await line.delete(when="10:01:10")
    await line.evaluate("10:10")
    story = await line.fired()
    assert (story.at, story.keys) == (["10:01:00"], [("due",)])
    assert await line.conn.fetchval("SELECT count(*) FROM windows") == 0


@pytest.mark.parametrize(
    ("within", "fires"),
    [
        pytest.param(120, ["10:02:30"], id="later than it was"),
        pytest.param(40, ["10:01:10", "10:01:50", "10:02:30"], id="sooner than it was"),
        pytest.param(10, ["10:01:00", "10:01:10"], id="passed already"),
    ],
)
async def test_a_changed_condition_moves_the_deadlines_of_the_keys_that_are_kept(
    line: Timed, within: int, fires: list[str]
) -> None:
    await line.put(HEARTBEAT, "10:00")
    await line.post(at("10:00:30", "beat"))
    await line.evaluate("10:00:40")
    await line.put({**HEARTBEAT, "within": within}, "10:01:00", keys="keep")
    await line.evaluate("10:01:05")
    await line.evaluate(fires[-1])
    assert (await line.fired()).at == fires


async def test_a_deadline_that_a_change_moves_into_the_past_is_one_alarm_when_an_event_shows_it(
    line: Timed,
) -> None:
    await line.put(HEARTBEAT, "10:00")
    await line.post(at("10:00:30", "beat"))
    await line.evaluate("10:00:40")
    await line.put({**HEARTBEAT, "within": 10}, "10:01:00", keys="keep")
    await line.post(at("10:01:05", "beat"))
    await line.evaluate("10:01:14")
    assert (await line.fired()).at == ["10:01:00"]


async def test_a_switch_whose_key_is_forgotten_counts_anew_from_then(line: Timed) -> None:
    await line.put(HEARTBEAT, "10:00")
    await line.post(at("10:00:30", "beat"))
    await line.forget(when="10:00:50")
    await line.evaluate("10:02")
    story = await line.fired()
    assert (story.at, story.events) == (["10:01:50"], [None])


async def test_a_parcel_whose_key_is_forgotten_is_not_alarmed(line: Timed) -> None:
    await line.put(PARCEL, "10:00")
    await line.post(at("10:00", "sent", key="1"), at("10:00", "sent", key="2"))
    await line.forget("1", when="10:00:50")
    await line.evaluate("10:02")
    assert (await line.fired()).keys == [("2",)]


async def test_a_deadline_whose_run_the_database_refuses_is_set_aside_and_the_others_go_on(
    line: Timed,
) -> None:
    await line.conn.execute("ALTER TABLE runs ADD CHECK (labels::text NOT LIKE '%cursed%')")
    await line.put(PARCEL, "10:00")
    await line.post(*(at("10:00", "sent", key=key) for key in ("1", "2", "cursed", "3", "4")))
    await line.evaluate("10:00:30")
    with pytest.raises(asyncpg.CheckViolationError):
        await line.turn("10:02")
    await line.restart()
    assert (await line.turn(carefully=True)).set_aside == 1
    assert sorted((await line.fired()).keys) == [("1",), ("2",), ("3",), ("4",)]
    await line.evaluate("10:03")
    assert len((await line.fired()).keys) == 4


async def test_an_expected_event_that_came_after_its_alarm_is_shown_as_late(line: Timed) -> None:
    await line.put(PARCEL, "10:00")
    await line.post(at("10:00", "sent"))
    await line.evaluate("10:01:10")
    await line.post(at("10:00:50", "arrived", received="10:01:20", id="late"))
    await line.evaluate("10:01:30")
    (late_id,) = await line.conn.fetchrow("SELECT id FROM events WHERE name = 'arrived'")
    shown = (await line.client.get(f"/v1/events/{late_id}")).json()
    (error,) = shown["errors"]
    assert error["trigger"] == "t"
    assert error["error"].startswith("Late:")


async def test_two_windows_of_a_key_that_are_decided_at_the_same_moment_make_two_alarms(
    line: Timed,
) -> None:
    await line.put({**PARCEL, "within": 10, "lateness": 10}, "10:00")
    await line.post(
        at("10:00:10", "sent", received="10:00:20", id="a"),
        at("10:00:20", "sent", received="10:00:20", id="b"),
    )
    await line.evaluate("10:01")
    story = await line.fired()
    assert (story.at, sorted(filter(None, story.events))) == (["10:00:30"] * 2, ["a", "b"])


async def test_an_alarm_reaches_its_composite_before_an_event_that_came_after_it(
    line: Timed,
) -> None:
    """Also where the event is of another key than the alarm."""
    silence: Line = {"expect": ["beat"], "posture": "Proactive", "within": 60, "for_each": ["id"]}
    order: Line = {"expect": ["order"]}
    await line.put(compound(silence, order, require="any"), "10:00")
    await line.post(at("10:00", "beat", key="1"))
    await line.post(at("10:02", "order", key="2", id="o"))
    await line.evaluate("10:03")
    story = await line.fired()
    assert story.at == ["10:01:00", "10:02:00"]


async def test_alarms_of_many_keys_reach_their_composite_in_order_though_they_are_cut_in_bites(
    line: Timed,
) -> None:
    silence: Line = {"expect": ["beat"], "posture": "Proactive", "within": 60, "for_each": ["id"]}
    await line.put(compound(silence, require="any"), "10:00")
    await line.post(*(at(f"10:00:0{n}", "beat", key=str(n)) for n in range(5)))
    await line.evaluate("10:05", due_max=2)
    assert (await line.fired()).at == [f"10:01:0{n}" for n in range(5)]


async def test_a_window_that_cannot_be_read_stops_nothing_else(
    line: Timed, conn: asyncpg.Connection
) -> None:
    silent: Line = {"expect": ["beat"], "posture": "Proactive", "within": 60}
    both = compound({"expect": ["a"]}, silent, name="both")
    await line.put(both, "10:00")
    await line.put(PARCEL, "10:00")
    await line.post(at("10:00:10", "sent", id="s"), at("10:00:20", "a", id="a"))
    await line.evaluate("10:00:30")
    await conn.execute("UPDATE windows SET state = '[]' WHERE node = 0 AND NOT alarms")
    await line.restart()
    await line.post(at("10:00:40", "a", id="again"))
    await line.evaluate("10:05")
    assert (await line.fired()).events == ["s"]
    errors = await conn.fetch("SELECT error FROM evaluation_errors")
    assert any("cannot be read" in row["error"] for row in errors)
