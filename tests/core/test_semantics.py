"""When a trigger fires: a test for each statement, asked of the core and of the model alike."""

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError

from tests.core.reference import firings
from tests.core.reference.lines import (
    Engine,
    Line,
    Story,
    at,
    compound,
    delete,
    disable,
    enable,
    now,
    put,
    sequence,
    story,
    trigger,
)
from upshot.core.errors import Invalid
from upshot.core.intake import NewEvent, Refused, Verdict, read_json
from upshot.core.language import compile_trigger
from upshot.core.simulation import simulate

Fire = Callable[..., Story]


@pytest.fixture(params=[simulate, firings], ids=["core", "model"])
def fire(request: pytest.FixtureRequest) -> Fire:
    engine: Engine = request.param

    def fired(triggers: Line | Sequence[Line], *lines: Line) -> Story:
        return story(engine, triggers, lines)

    return fired


def opened(**fields: Any) -> Line:
    """After `open`, `done` is expected."""
    return trigger(**{"after": ["open"], "expect": ["done"], **fields})


def missing(**fields: Any) -> Line:
    """After `open`, `done` is expected within 10 s: an alarm if it does not come."""
    return opened(**{"posture": "Proactive", "within": 10, **fields})


def silent(**fields: Any) -> Line:
    """A beat is expected in any 10 s."""
    return trigger(**{"posture": "Proactive", "expect": ["beat"], "within": 10, **fields})


def on(name: str, **fields: Any) -> Line:
    """A child that fires at once on every event of a name."""
    return {"expect": [name], **fields}


# 1. Time and order.


def test_nothing_has_happened_after_it_was_received(fire: Fire) -> None:
    pair = trigger(expect=["x"], threshold=2, within=10)
    ahead = at("10:05", "x", received="10:00:05")
    assert fire(pair, at("10:00", "x"), ahead).at == ["10:00:05"]


def test_a_time_without_an_offset_is_read_as_utc(fire: Fire) -> None:
    lines = (
        at("10:00:00", "x") | {"occurred": "2026-05-04T10:00:00"},
        at("10:00:05", "x") | {"occurred": "2026-05-04T12:00:05+02:00"},
    )
    assert fire(trigger(expect=["x"], threshold=2, within=10), *lines).at == ["10:00:05"]


@pytest.mark.parametrize(
    ("occurred", "is_taken"),
    [
        ("1969-12-31T23:59:59Z", False),
        ("1970-01-01T00:00:00Z", True),
        ("2026-05-05T10:00:00Z", True),
        ("2026-05-05T10:00:01Z", False),
    ],
)
def test_an_event_from_before_1970_or_more_than_a_day_ahead_is_refused(
    occurred: str, is_taken: bool
) -> None:
    verdict = _verdict({"event": "x", "resource": {"id": "1"}, "occurred": occurred})
    assert isinstance(verdict, NewEvent if is_taken else Refused)


@pytest.mark.parametrize(
    ("lines", "fires"),
    [
        ((at("10:00:00", "x"), at("10:00:05", "x", received="10:00:50")), True),
        ((at("10:00:00", "x", received="10:00:30"), at("10:00:30", "x")), False),
    ],
)
def test_windows_are_measured_in_event_time(fire: Fire, lines: Sequence[Line], fires: bool) -> None:
    assert bool(fire(trigger(expect=["x"], threshold=2, within=10), *lines).at) is fires


@pytest.mark.parametrize(("first", "second", "fires"), [("a", "b", True), ("b", "a", False)])
def test_between_events_of_the_same_time_the_order_of_evaluation_decides(
    fire: Fire, first: str, second: str, fires: bool
) -> None:
    lines = at("10:00", first), at("10:00", second)
    assert bool(fire(sequence(on("a"), on("b")), *lines).at) is fires


@pytest.mark.parametrize(
    ("happened", "received", "fires"),
    [
        ("09:59:59", "10:01:05", True),
        ("09:59:59", "10:01:06", False),
        ("10:00:05", "10:00:30", False),
        ("10:00:06", "10:00:30", False),
    ],
)
def test_an_expected_event_that_came_before_its_opener_counts_within_lateness(
    fire: Fire, happened: str, received: str, fires: bool
) -> None:
    """It must have happened later than the opener, strictly."""
    overtaken = at(happened, "open", received=received)
    assert bool(fire(opened(), at("10:00:05", "done"), overtaken).at) is fires


@pytest.mark.parametrize(("received", "fires"), [("10:01:10", True), ("10:01:11", False)])
def test_an_expected_event_inside_a_window_counts_until_lateness_after_its_end(
    fire: Fire, received: str, fires: bool
) -> None:
    late = at("10:00:09", "done", received=received)
    assert bool(fire(opened(within=10), at("10:00", "open"), late).at) is fires


def test_an_expected_event_of_a_window_before_the_key_was_opened_anew_does_not_count(
    fire: Fire,
) -> None:
    lines = at("10:00", "open"), at("10:00:20", "open"), at("10:00:09", "done", received="10:00:21")
    assert fire(opened(within=10), *lines).at == []


def test_an_opener_older_than_the_newest_counted_event_does_not_open(fire: Fire) -> None:
    lines = (
        at("10:00:00", "open"),
        at("10:00:05", "done"),
        at("10:00:04", "open", received="10:00:06"),
        at("10:00:07", "done"),
    )
    assert fire(opened(), *lines).at == ["10:00:05"]


def test_an_opener_of_the_very_time_of_the_newest_counted_event_opens(fire: Fire) -> None:
    lines = (
        at("10:00:00", "open"),
        at("10:00:05", "done"),
        at("10:00:05", "open", received="10:00:06"),
        at("10:00:07", "done"),
    )
    assert fire(opened(), *lines).at == ["10:00:05", "10:00:07"]


@pytest.mark.parametrize(("happened", "alarms"), [("10:00:09", 1), ("10:00:10", 2)])
def test_an_opener_older_than_the_end_of_a_window_that_alarmed_does_not_open(
    fire: Fire, happened: str, alarms: int
) -> None:
    lines = at("10:00", "open"), at(happened, "open", received="10:00:11"), now("10:05")
    assert len(fire(missing(), *lines).at) == alarms


def test_a_late_opener_does_not_shorten_the_window(fire: Fire) -> None:
    lines = (
        at("10:00:05", "open"),
        at("10:00:00", "open", received="10:00:06"),
        at("10:00:14", "done"),
    )
    assert fire(opened(within=10), *lines).at == ["10:00:14"]


def test_a_late_opener_may_begin_the_window_earlier(fire: Fire) -> None:
    lines = (
        at("10:00:05", "open"),
        at("10:00:00", "open", received="10:00:06"),
        at("10:00:02", "done", received="10:00:07"),
    )
    assert fire(opened(within=10), *lines).at == ["10:00:07"]


def test_a_late_opener_moves_no_alarm_to_an_earlier_time(fire: Fire) -> None:
    lines = (
        at("10:00:05", "open", id="b"),
        at("10:00:00", "open", received="10:00:06", id="a"),
        now("10:05"),
    )
    alarms = fire(missing(), *lines)
    assert alarms.at == ["10:00:16"]
    assert alarms.events == ["a"]


def test_a_key_stays_open_from_an_opener_newer_than_the_newest_counted_event(fire: Fire) -> None:
    lines = (
        at("10:00:00", "open"),
        at("10:00:05", "open"),
        at("10:00:04", "done", received="10:00:06"),
        at("10:00:07", "done"),
        at("10:00:08", "done"),
    )
    assert fire(opened(), *lines).at == ["10:00:06", "10:00:07"]


@pytest.mark.parametrize(
    ("lateness", "received", "alarm"),
    [
        (60, "10:00:00", "10:00:10"),
        (60, "10:00:03", "10:00:13"),
        (5, "10:00:03", "10:00:10"),
        (5, "10:00:08", "10:00:13"),
        (0, "10:00:08", "10:00:10"),
        (0, "10:00:12", "10:00:12"),
        (60, "10:01:00", "10:01:10"),
    ],
)
def test_an_absence_is_decided_punctually_and_lateness_helps_only_a_late_opener(
    fire: Fire, lateness: int, received: str, alarm: str
) -> None:
    lines = at("10:00", "open", received=received), now("10:05")
    assert fire(missing(lateness=lateness), *lines).at == [alarm]


@pytest.mark.parametrize(("received", "alarms"), [("10:00:10", 0), ("10:00:11", 1)])
def test_an_expected_event_must_have_arrived_by_the_decision(
    fire: Fire, received: str, alarms: int
) -> None:
    """Events received at that very instant are evaluated first."""
    lines = at("10:00", "open"), at("10:00:09", "done", received=received), now("10:05")
    assert len(fire(missing(), *lines).at) == alarms


@pytest.mark.parametrize("name", ["done", "open"])
def test_an_event_at_the_end_that_is_there_already_is_taken_up_after_the_decision(
    fire: Fire, name: str
) -> None:
    lines = at("10:00", "open", id="a"), at("10:00:10", name, id="b"), now("10:05")
    alarms = fire(missing(), *lines)
    assert alarms.at == ["10:00:10", "10:00:20"][: 2 if name == "open" else 1]
    assert alarms.events == ["a", "b"][: len(alarms.at)]


def test_what_waits_for_a_decision_counts_for_the_window_that_it_opens_after_it(
    fire: Fire,
) -> None:
    """The first opener was late, so that the second window is full before the first is decided."""
    lines = (
        at("10:00:00", "open", received="10:00:08", id="a"),
        at("10:00:12", "open", id="b"),
        at("10:00:13", "done", id="c"),
        now("10:05"),
    )
    alarms = fire(missing(), *lines)
    assert (alarms.at, alarms.events) == (["10:00:18"], ["a"])


def test_a_late_opener_of_a_window_that_ended_before_the_open_one_alarms_by_itself(
    fire: Fire,
) -> None:
    lines = (
        at("10:00:20", "open", id="b"),
        at("10:00:00", "open", received="10:00:21", id="a"),
        now("10:05"),
    )
    alarms = fire(missing(lateness=1), *lines)
    assert alarms.at == ["10:00:22", "10:00:30"]
    assert alarms.events == ["a", "b"]


def test_an_event_is_held_until_the_one_that_it_follows(fire: Fire) -> None:
    lines = at("10:00:01", "done", follows="a", id="b"), at("10:00:00", "open", id="a")
    fired = fire(opened(lateness=0), *lines)
    assert (fired.at, fired.events) == (["10:00:01"], ["b"])


def test_a_held_event_comes_directly_after_the_one_that_it_follows(fire: Fire) -> None:
    lines = (
        at("10:00:00", "b", follows="a", id="b"),
        at("10:00:00", "a", id="a"),
        at("10:00:00", "c", id="c"),
    )
    assert fire(sequence(on("a"), on("b"), on("c")), *lines).counted == ["abc"]


@pytest.mark.parametrize(("other", "last"), [("10:15:00", "held"), ("10:15:01", "other")])
def test_an_event_is_held_for_15_minutes_at_most(fire: Fire, other: str, last: str) -> None:
    """What comes at that very instant is evaluated before it, and what comes later after it."""
    lines = at("10:00", "x", follows="z", id="held"), at(other, "x", id="other"), now("10:30")
    assert fire(trigger(expect=["x"], threshold=2), *lines).events == [last]


def test_after_15_minutes_a_held_event_is_evaluated_as_it_is(fire: Fire) -> None:
    lines = at("10:00", "x", follows="z", id="a"), now("10:14:59"), now("10:15")
    fired = fire(trigger(expect=["x"]), *lines)
    assert (fired.at, fired.events) == (["10:15:00"], ["a"])


def test_chains_of_any_length_are_followed_in_order(fire: Fire) -> None:
    names = [chr(ord("a") + i) for i in range(20)]
    held = [at("10:00", n, id=n, follows=chr(ord(n) - 1)) for n in reversed(names[1:])]
    fired = fire(trigger(expect=["*"], threshold=20), *held, at("10:00", "a", id="a"))
    assert fired.counted == ["".join(names)]


def test_an_event_that_follows_itself_does_not_wait(fire: Fire) -> None:
    assert fire(trigger(expect=["x"]), at("10:00", "x", id="a", follows="a")).at == ["10:00:00"]


def test_an_event_that_follows_one_already_evaluated_does_not_wait(fire: Fire) -> None:
    lines = at("10:00", "y", id="a"), at("10:01", "x", id="b", follows="a")
    assert fire(trigger(expect=["x"]), *lines).at == ["10:01:00"]


def test_a_held_event_delays_no_decision(fire: Fire) -> None:
    lines = (
        at("10:00:00", "open", id="a"),
        at("10:00:05", "done", id="c", follows="b"),
        at("10:00:20", "other", id="b"),
    )
    assert fire(missing(), *lines).at == ["10:00:10"]


@pytest.mark.parametrize(("lateness", "fires"), [(4, False), (5, True)])
def test_the_receipt_of_a_held_event_is_its_arrival(fire: Fire, lateness: int, fires: bool) -> None:
    lines = (
        at("10:00:01", "done", id="c", received="10:00:02", follows="b"),
        at("10:00:06", "other", id="b"),
        at("10:00:00", "open", id="a", received="10:00:07"),
    )
    assert bool(fire(opened(lateness=lateness), *lines).at) is fires


def test_an_id_seen_before_is_not_evaluated_again(fire: Fire) -> None:
    lines = at("10:00", "x", id="a"), at("10:01", "x", id="a"), at("10:02", "x", id="b")
    fired = fire(trigger(expect=["x"], threshold=2), *lines)
    assert (fired.at, fired.counted) == (["10:02:00"], ["ab"])


# 2. Which events concern a trigger.


@pytest.mark.parametrize(
    ("expect", "names"),
    [
        ([], ["order.created", "order.lost", "Order.created", "order?"]),
        (["*"], ["order.created", "order.lost", "Order.created", "order?"]),
        (["order.*"], ["order.created", "order.lost"]),
        (["order.*", "!order.lost"], ["order.created"]),
        (["!order.*"], ["Order.created", "order?"]),
        (["order?"], ["order?"]),
        (["[oO]rder.created"], []),
        ("order.lost", ["order.lost"]),
    ],
)
def test_an_event_concerns_a_trigger_by_patterns_of_its_name(
    fire: Fire, expect: object, names: Sequence[str]
) -> None:
    sent = {"a": "order.created", "b": "order.lost", "c": "Order.created", "d": "order?"}
    fired = fire(trigger(expect=expect), *(at("10:00", name, id=id) for id, name in sent.items()))
    assert [sent[event or ""] for event in fired.events] == names


@pytest.mark.parametrize(
    ("match", "matches"),
    [
        ({}, True),
        ({"prefect.resource.id": "7"}, True),
        ({"id": "7", "shop": "north"}, True),
        ({"shop": ["!south"]}, True),
        ({"shop": ["south", "n*"]}, True),
        ({"shop": []}, False),
        ({"shop": "south"}, False),
        ({"shop": "north", "till": "*"}, False),
        ({"room": "*"}, False),
    ],
)
def test_every_label_of_match_must_be_present_on_the_events_own_resource(
    fire: Fire, match: Line, matches: bool
) -> None:
    room = {"id": "r", "role": "room", "room": "1"}
    line = at("10:00", "x", key="7", labels={"shop": "north"}, related=[room])
    assert bool(fire(trigger(expect=["x"], match=match), line).at) is matches


@pytest.mark.parametrize(
    ("asked", "matches"),
    [
        ({}, True),
        ([], True),
        ({"role": "room", "id": "r1"}, True),
        ({"role": "user", "id": "r1"}, False),
        ([{"role": "room"}, {"role": "user"}], True),
        ([{"role": "room"}, {"id": "r1"}], True),
        ([{"role": "room"}, {"role": "bill"}], False),
        ({"id": ["!r1"]}, False),
        ({"id": ["!r2"]}, True),
        ({"role": "room", "id": ["!r2"]}, True),
    ],
)
def test_match_related_asks_for_related_resources(fire: Fire, asked: object, matches: bool) -> None:
    """One resource may serve several objects; negatives alone exclude."""
    related = [{"id": "r1", "role": "room"}, {"id": "u1", "role": "user"}]
    fired = fire(trigger(expect=["x"], match_related=asked), at("10:00", "x", related=related))
    assert bool(fired.at) is matches


@pytest.mark.parametrize(
    ("payload", "holds"),
    [
        ({"total": 150, "country": "DE"}, True),
        ({"total": 50, "country": "DE"}, False),
        ({"total": 150, "country": "US"}, False),
        ({"country": "DE"}, False),
        ({}, False),
    ],
)
def test_where_must_hold_and_an_error_in_it_is_no(fire: Fire, payload: Line, holds: bool) -> None:
    where = 'event.payload.total > 100 && event.payload.country in ["DE", "FR"]'
    fired = fire(trigger(expect=["x"], where=where), at("10:00", "x", payload=payload))
    assert bool(fired.at) is holds


@pytest.mark.parametrize("where", ["event.payload.total >", "payload.total > 1", "1 +* 2"])
def test_where_is_compiled_when_the_trigger_is_saved(where: str) -> None:
    _assert_refused(expect=["x"], where=where)


@pytest.mark.parametrize(
    ("line", "key"),
    [
        (at("10:00", "x", key="7"), ("7", "north", "ann", "17")),
        (at("10:00", "x", key="7", labels={"shop": ""}), None),
    ],
)
def test_the_key_is_the_values_of_for_each_in_its_order(
    fire: Fire, line: Line, key: tuple[str, ...] | None
) -> None:
    """Of several related resources in a role the first; an empty value is none."""
    for_each = ["id", "shop", "related:user:user:name", "payload.order.number"]
    users = [{"id": i, "role": "user", "user:name": name} for i, name in [("1", "ann"), ("2", "b")]]
    line = {**line, "related": users, "payload": {"order": {"number": 17}}}
    line["resource"] = {"shop": "north", **line["resource"]}
    assert fire(trigger(expect=["x"], for_each=for_each), line).keys == ([key] if key else [])


@pytest.mark.parametrize(
    "lacking",
    [
        {"related": [], "payload": {"n": 1}},
        {"related": [{"id": "1", "role": "user"}], "payload": {}},
        {"related": [{"id": "1", "role": "user"}], "payload": {"n": None}},
        {"related": [{"id": "1", "role": "user"}], "payload": {"n": [1]}},
        {"related": [{"id": "1", "role": "user"}], "payload": {"n": ""}},
    ],
)
def test_an_event_without_a_part_of_the_key_does_not_concern_the_trigger(
    fire: Fire, lacking: Line
) -> None:
    keyed = trigger(expect=["x"], for_each=["related:user:id", "payload.n"])
    whole: Line = {"related": [{"id": "1", "role": "user"}], "payload": {"n": False}}
    fired = fire(keyed, at("10:00", "x", **lacking), at("10:01", "x", **whole))
    assert (fired.at, fired.keys) == (["10:01:00"], [("1", "false")])


def test_numbers_and_their_texts_are_one_key(fire: Fire) -> None:
    lines = [at("10:00", "x", payload={"n": n}) for n in (17, 17.0, "17")]
    assert fire(trigger(expect=["x"], threshold=3, for_each=["payload.n"]), *lines).keys == [
        ("17",)
    ]


def test_without_for_each_there_is_one_key(fire: Fire) -> None:
    lines = at("10:00", "x", key="1"), at("10:01", "x", key="2")
    assert fire(trigger(expect=["x"], threshold=2), *lines).keys == [()]


def test_keys_are_told_apart(fire: Fire) -> None:
    lines = (
        at("10:00", "open", key="123"),
        at("10:01", "open", key="456"),
        at("+20d 10:00", "done", key="123"),
    )
    fired = fire(opened(for_each=["id"]), *lines)
    assert (fired.at, fired.keys) == (["+20d 10:00:00"], [("123",)])


@pytest.mark.parametrize("length", [1024, 1025])
def test_a_value_longer_than_1024_characters_is_no_key_and_says_so(length: int) -> None:
    keyed = trigger(expect=["x"], for_each=["payload.n"])
    line = at("10:00", "x", payload={"n": "y" * length})
    if length == 1024:
        assert story(simulate, keyed, [line]).keys == [("y" * length,)]
    else:
        with pytest.raises(Invalid, match=r"Line 1: trigger 't': .* 1025 characters"):
            simulate([keyed], [line])


# 3. Reactive: something happened.


def test_it_fires_when_enough_events_lie_inside_a_span_shorter_than_within(fire: Fire) -> None:
    three = trigger(expect=["x"], threshold=3, within=10)
    lines = [at(f"10:00:{s:02}", "x", id=id) for s, id in ((8, "a"), (11, "b"), (12, "c"))]
    fired = fire(three, *lines)
    assert (fired.at, fired.events, fired.counted) == (["10:00:12"], ["c"], ["abc"])


@pytest.mark.parametrize(("last", "fires"), [("10:00:09", True), ("10:00:10", False)])
def test_a_span_as_long_as_within_is_too_long(fire: Fire, last: str, fires: bool) -> None:
    lines = at("10:00", "x"), at(last, "x")
    assert bool(fire(trigger(expect=["x"], threshold=2, within=10), *lines).at) is fires


def test_without_within_every_nth_event_fires(fire: Fire) -> None:
    lines = [at(f"+{day}d 10:00", "x") for day in range(7)]
    fired = fire(trigger(expect=["x"], threshold=3), *lines)
    assert fired.at == ["+2d 10:00:00", "+5d 10:00:00"]


def test_without_within_there_is_no_quiet_time(fire: Fire) -> None:
    lines = [at("10:00", "x")] * 3
    assert len(fire(trigger(expect=["x"]), *lines).at) == 3


@pytest.mark.parametrize(
    ("seconds", "fired_at"),
    [
        ((0, 9, 10), ["10:00:00", "10:00:10"]),
        ((0, 9, 12, 19, 22), ["10:00:00", "10:00:12", "10:00:22"]),
    ],
)
def test_with_a_threshold_of_one_it_fires_at_once_and_not_again_for_within(
    fire: Fire, seconds: Sequence[int], fired_at: Sequence[str]
) -> None:
    lines = [at(f"10:00:{second:02}", "x") for second in seconds]
    assert fire(trigger(expect=["x"], within=10), *lines).at == fired_at


def test_after_firing_the_key_is_quiet_until_within_after_the_oldest_counted_event(
    fire: Fire,
) -> None:
    lines = [at(f"10:00:{second:02}", "x") for second in (0, 4, 6, 9, 10, 11)]
    fired = fire(trigger(expect=["x"], threshold=2, within=10), *lines)
    assert fired.at == ["10:00:04", "10:00:11"]


def test_events_from_before_the_quiet_times_end_are_ignored_however_late_they_come(
    fire: Fire,
) -> None:
    lines = at("10:00", "x"), at("10:00:09", "x", received="10:00:30")
    assert fire(trigger(expect=["x"], within=10), *lines).at == ["10:00:00"]


def test_of_several_spans_the_earliest_counts(fire: Fire) -> None:
    lines = (
        at("10:00:00", "x", id="a"),
        at("10:00:12", "x", id="c"),
        at("10:00:06", "x", id="b", received="10:00:13"),
    )
    fired = fire(trigger(expect=["x"], threshold=2, within=10), *lines)
    assert (fired.counted, fired.events) == (["ab"], ["b"])


def test_an_event_after_the_earliest_span_still_counts(fire: Fire) -> None:
    lines = (
        at("10:00:00", "x", id="a"),
        at("10:00:12", "x", id="c"),
        at("10:00:06", "x", id="b", received="10:00:13"),
        at("10:00:14", "x", id="d"),
    )
    fired = fire(trigger(expect=["x"], threshold=2, within=10), *lines)
    assert fired.counted == ["ab", "cd"]


@pytest.mark.parametrize(("newest", "fires"), [("10:01:10", True), ("10:01:11", False)])
def test_events_older_than_within_and_lateness_before_the_newest_are_forgotten(
    fire: Fire, newest: str, fires: bool
) -> None:
    lines = (
        at("10:00:00", "x"),
        at(newest, "x"),
        at("10:00:01", "x", received="10:01:12"),
    )
    assert bool(fire(trigger(expect=["x"], threshold=2, within=10), *lines).at) is fires


def test_the_firings_event_is_the_one_that_completed_it(fire: Fire) -> None:
    lines = at("10:00:05", "x", id="b"), at("10:00:00", "x", id="a", received="10:00:06")
    fired = fire(trigger(expect=["x"], threshold=2, within=10), *lines)
    assert (fired.at, fired.events, fired.counted) == (["10:00:06"], ["a"], ["ab"])


def test_an_event_that_matches_after_opens_the_key(fire: Fire) -> None:
    lines = at("10:00", "done"), at("10:02", "open"), at("10:03", "done"), at("10:04", "done")
    assert fire(opened(), *lines).at == ["10:03:00"]


@pytest.mark.parametrize(
    ("happened", "fires"), [("10:00:00", True), ("10:00:09", True), ("10:00:10", False)]
)
def test_expected_events_count_from_the_opening_until_the_end_which_is_excluded(
    fire: Fire, happened: str, fires: bool
) -> None:
    lines = at("10:00", "open"), at(happened, "done")
    assert bool(fire(opened(within=10), *lines).at) is fires


def test_the_next_firing_needs_another_opener(fire: Fire) -> None:
    lines = (
        at("10:00", "open"),
        at("10:01", "done"),
        at("10:02", "done"),
        at("10:03", "open"),
        at("10:04", "done"),
    )
    assert fire(opened(), *lines).at == ["10:01:00", "10:04:00"]


def test_without_within_a_key_stays_open_for_as_long_as_it_takes(fire: Fire) -> None:
    lines = at("10:00", "open"), at("+40d 10:00", "done")
    assert fire(opened(), *lines).at == ["+40d 10:00:00"]


def test_another_opener_moves_the_end_and_keeps_the_count(fire: Fire) -> None:
    lines = (
        at("10:00:00", "open"),
        at("10:00:03", "done", id="a"),
        at("10:00:08", "open"),
        at("10:00:17", "done", id="b"),
    )
    fired = fire(opened(within=10, threshold=2), *lines)
    assert (fired.at, fired.counted) == (["10:00:17"], ["ab"])


def test_after_the_end_the_next_opener_opens_the_key_anew(fire: Fire) -> None:
    lines = (
        at("10:00:00", "open"),
        at("10:00:03", "done", id="a"),
        at("10:00:10", "open"),
        at("10:00:12", "done", id="b"),
        at("10:00:13", "done", id="c"),
    )
    fired = fire(opened(within=10, threshold=2), *lines)
    assert (fired.at, fired.counted) == (["10:00:13"], ["bc"])


def test_of_events_that_match_both_the_first_opens_and_the_second_fires(fire: Fire) -> None:
    lines = [at(f"10:0{minute}", "x", id=str(minute)) for minute in range(4)]
    fired = fire(trigger(after=["x"], expect=["x"]), *lines)
    assert (fired.at, fired.counted) == (["10:01:00", "10:03:00"], ["1", "3"])


@pytest.mark.parametrize(
    ("lines", "event"),
    [
        (
            (
                at("10:00:00", "open"),
                at("10:00:04", "done", id="b"),
                at("10:00:02", "done", id="a", received="10:00:05"),
            ),
            "a",
        ),
        (
            (
                at("10:00:02", "done", id="a"),
                at("10:00:04", "done", id="b"),
                at("10:00:00", "open", received="10:00:05"),
            ),
            "b",
        ),
    ],
)
def test_the_firings_event_completed_it_or_is_the_newest_counted(
    fire: Fire, lines: Sequence[Line], event: str
) -> None:
    fired = fire(opened(threshold=2), *lines)
    assert (fired.at, fired.events, fired.counted) == (["10:00:05"], [event], ["ab"])


def test_a_late_opener_of_a_window_that_is_over_is_completed_by_what_came_early(
    fire: Fire,
) -> None:
    lines = (
        at("10:00:30", "open"),
        at("10:00:05", "done", id="a", received="10:00:31"),
        at("10:00:00", "open", received="10:00:32"),
        at("10:00:35", "done", id="b"),
    )
    fired = fire(opened(within=10), *lines)
    assert (fired.at, fired.events) == (["10:00:32", "10:00:35"], ["a", "b"])


@pytest.mark.parametrize("threshold", [0, 1001, 1.5, "two", True])
def test_a_threshold_is_between_1_and_1000(threshold: object) -> None:
    _compile(expect=["x"], threshold=1000)
    _assert_refused(expect=["x"], threshold=threshold)


# 4. Proactive: something did not happen.


@pytest.mark.parametrize("after", [["open"], []])
def test_a_proactive_within_must_be_positive(after: Sequence[str]) -> None:
    _assert_refused(posture="Proactive", after=after, expect=["x"], within=0)


@pytest.mark.parametrize("after", [["open"], []])
def test_a_proactive_within_is_10_seconds_by_default(fire: Fire, after: Sequence[str]) -> None:
    waits = trigger(posture="Proactive", after=after, expect=["done"])
    assert fire(waits, at("10:00", "open"), now("10:00:19")).at == ["10:00:10"]


@pytest.mark.parametrize(
    ("done", "alarms"),
    [
        (("10:00:00", "10:00:09"), []),
        (("10:00:09",), ["10:00:10"]),
        (("10:00:09", "10:00:10"), ["10:00:10"]),
        ((), ["10:00:10"]),
    ],
)
def test_an_alarm_when_fewer_than_threshold_expected_events_came(
    fire: Fire, done: Sequence[str], alarms: Sequence[str]
) -> None:
    lines = at("10:00", "open", id="a"), *(at(when, "done") for when in done), now("10:10")
    fired = fire(missing(threshold=2), *lines)
    assert (fired.at, fired.events) == (alarms, ["a"] * len(alarms))


def test_after_an_alarm_the_key_is_closed_until_the_next_opener(fire: Fire) -> None:
    lines = at("10:00", "open"), now("10:05"), at("10:06", "open"), now("10:10")
    assert fire(missing(), *lines).at == ["10:00:10", "10:06:10"]


def test_a_satisfied_key_closes_at_once_and_the_next_opener_opens_it_again(fire: Fire) -> None:
    lines = (
        at("10:00:00", "open"),
        at("10:00:02", "done"),
        at("10:00:03", "open"),
        now("10:10"),
    )
    assert fire(missing(), *lines).at == ["10:00:13"]


def test_another_opener_while_open_changes_no_deadline(fire: Fire) -> None:
    lines = at("10:00", "open", id="a"), at("10:00:05", "open", id="b"), now("10:10")
    fired = fire(missing(), *lines)
    assert (fired.at, fired.events) == (["10:00:10"], ["a"])


def test_a_satisfied_key_stays_open_from_an_opener_newer_than_what_satisfied_it(
    fire: Fire,
) -> None:
    lines = (
        at("10:00:00", "open"),
        at("10:00:05", "open", id="b"),
        at("10:00:04", "done", received="10:00:06"),
        now("10:10"),
    )
    fired = fire(missing(), *lines)
    assert (fired.at, fired.events) == (["10:00:15"], ["b"])


def test_nothing_fires_for_a_key_that_was_never_opened(fire: Fire) -> None:
    lines = at("10:00", "other", key="1"), at("10:00", "open", key="2"), now("10:10")
    assert fire(missing(for_each=["id"]), *lines).keys == [("2",)]


def test_with_one_name_for_both_the_alarm_comes_after_the_last_beat(fire: Fire) -> None:
    """An event that matches both satisfies the key and opens it again: a heartbeat."""
    heartbeat = missing(after=["beat"], expect=["beat"])
    lines = *(at(f"10:00:{s:02}", "beat", id=str(s)) for s in (0, 7, 9)), now("10:10")
    fired = fire(heartbeat, *lines)
    assert (fired.at, fired.events) == (["10:00:19"], ["9"])


def test_a_heartbeat_that_counts_without_satisfying_does_not_open_again(fire: Fire) -> None:
    heartbeat = missing(after=["beat"], expect=["beat"], threshold=2)
    lines = *(at(f"10:00:{s:02}", "beat", id=str(s)) for s in (0, 7)), now("10:10")
    fired = fire(heartbeat, *lines)
    assert (fired.at, fired.events, fired.counted) == (["10:00:10"], ["0"], ["7"])


def test_an_expected_event_that_comes_after_the_alarm_changes_nothing(fire: Fire) -> None:
    lines = (
        at("10:00:00", "open"),
        at("10:00:05", "done", received="10:00:11"),
        at("10:00:12", "open"),
        now("10:10"),
    )
    assert fire(missing(), *lines).at == ["10:00:10", "10:00:22"]


def test_a_switch_fires_within_after_its_making_when_nothing_comes(fire: Fire) -> None:
    fired = fire(silent(repeat=False), now("10:00"), now("10:10"))
    assert (fired.at, fired.events, fired.counted) == (["10:00:10"], [None], [""])


def test_a_switch_fires_within_after_the_nth_newest_event(fire: Fire) -> None:
    lines = (*(at(f"10:00:{s:02}", "beat", id=id) for s, id in ((1, "a"), (4, "b"), (8, "c"))),)
    fired = fire(silent(threshold=2, repeat=False), *lines, now("10:10"))
    assert (fired.at, fired.events, fired.counted) == (["10:00:14"], ["c"], ["c"])


@pytest.mark.parametrize("threshold", [1, 2, 3])
def test_until_enough_have_ever_come_a_switch_counts_from_its_making(
    fire: Fire, threshold: int
) -> None:
    lines = now("10:00"), at("10:00:05", "beat"), at("10:00:06", "beat"), now("10:00:19")
    fired = fire(silent(threshold=threshold, repeat=False), *lines)
    assert fired.at == [{1: "10:00:16", 2: "10:00:15", 3: "10:00:10"}[threshold]]


def test_with_for_each_a_switch_counts_from_the_keys_first_event(fire: Fire) -> None:
    lines = (
        at("10:00:00", "other", key="9"),
        at("10:00:03", "beat", key="1"),
        at("10:00:06", "beat", key="2"),
        at("10:00:12", "beat", key="2"),
        now("10:10"),
    )
    fired = fire(silent(for_each=["id"], threshold=2), *lines)
    assert list(zip(fired.at, fired.keys, strict=True)) == [
        ("10:00:13", ("1",)),
        ("10:00:16", ("2",)),
    ]


def test_a_switch_is_decided_later_when_what_it_is_counted_from_was_late(fire: Fire) -> None:
    lines = now("10:00"), at("10:00:05", "beat", received="10:00:08"), now("10:10")
    assert fire(silent(repeat=False), *lines).at == ["10:00:18"]


def test_with_repeat_a_switch_fires_again_every_within_while_the_silence_lasts(
    fire: Fire,
) -> None:
    lines = now("10:00"), now("10:00:35"), at("10:00:36", "beat"), now("10:00:46")
    fired = fire(silent(repeat=True), *lines)
    assert fired.at == ["10:00:10", "10:00:20", "10:00:30", "10:00:46"]


def test_without_repeat_a_switch_fires_once_for_each_silence(fire: Fire) -> None:
    lines = now("10:00"), at("10:01:00", "beat"), at("10:01:09", "beat"), now("10:10")
    assert fire(silent(repeat=False), *lines).at == ["10:00:10", "10:01:19"]


@pytest.mark.parametrize(("for_each", "alarms"), [([], 3), (["id"], 1)])
def test_a_switch_repeats_by_default_without_for_each_and_not_with_it(
    fire: Fire, for_each: Sequence[str], alarms: int
) -> None:
    lines = at("10:00", "beat"), now("10:00:30")
    assert len(fire(silent(for_each=for_each), *lines).at) == alarms


def test_repeat_can_be_asked_for_with_for_each(fire: Fire) -> None:
    lines = at("10:00", "beat"), now("10:00:30")
    assert len(fire(silent(for_each=["id"], repeat=True), *lines).at) == 3


@pytest.mark.parametrize("repeat", [True, False])
def test_repeat_is_refused_together_with_after_and_with_reactive(repeat: bool) -> None:
    _assert_refused(posture="Proactive", after=["a"], expect=["b"], within=10, repeat=repeat)
    _assert_refused(expect=["b"], repeat=repeat)


@pytest.mark.parametrize(
    ("beats", "alarms"),
    [
        (("10:01:00", "10:01:09"), ["10:00:10", "10:01:10"]),
        (("10:01:00", "10:01:10"), ["10:00:10"]),
    ],
)
def test_a_silence_ends_when_enough_lie_in_the_last_within(
    fire: Fire, beats: Sequence[str], alarms: Sequence[str]
) -> None:
    lines = now("10:00"), *(at(when, "beat") for when in beats), now("10:10")
    assert fire(silent(threshold=2, repeat=False), *lines).at == alarms


def test_a_beat_at_the_very_end_comes_after_the_alarm(fire: Fire) -> None:
    lines = now("10:00"), at("10:00:10", "beat", id="a"), now("10:10")
    fired = fire(silent(repeat=False), *lines)
    assert (fired.at, fired.events) == (["10:00:10", "10:00:20"], [None, "a"])


# 5. Composites.


def test_a_composites_own_for_each_is_its_childrens_default(fire: Fire) -> None:
    both = compound(on("a"), on("b"), for_each=["id"])
    lines = at("10:00", "a", key="1"), at("10:01", "b", key="2"), at("10:02", "b", key="1")
    fired = fire(both, *lines)
    assert (fired.at, fired.keys) == (["10:02:00"], [("1",)])


def test_keys_of_children_line_up_by_position(fire: Fire) -> None:
    paid = {"expect": ["paid"], "for_each": ["payload.order_id"]}
    both = sequence(on("created"), paid, for_each=["id"])
    lines = (
        at("10:00", "created", key="17"),
        at("10:01", "paid", key="p1", payload={"order_id": 18}),
        at("10:02", "paid", key="p2", payload={"order_id": 17}),
    )
    fired = fire(both, *lines)
    assert (fired.at, fired.keys) == (["10:02:00"], [("17",)])


def test_a_child_with_a_key_of_another_length_is_refused() -> None:
    child = {"expect": ["a"], "for_each": ["id", "name"]}
    _assert_refused(type="compound", require="any", triggers=[child], for_each=["id"])
    _compile(type="compound", require="any", triggers=[child], for_each=["id", "shop"])


def test_without_for_each_its_childrens_keys_are_not_told_apart(fire: Fire) -> None:
    both = compound(on("a", for_each=["id"]), on("b", for_each=["id"]))
    fired = fire(both, at("10:00", "a", key="1"), at("10:01", "b", key="2"))
    assert (fired.at, fired.keys) == (["10:01:00"], [()])


def test_a_childs_own_key_keeps_its_counts_apart(fire: Fire) -> None:
    pair = {"expect": ["a"], "threshold": 2, "for_each": ["id"]}
    lines = at("10:00", "a", key="1"), at("10:01", "a", key="2"), at("10:02", "a", key="1")
    assert fire(compound(pair), *lines).at == ["10:02:00"]


@pytest.mark.parametrize(("second", "fires"), [("10:00:15", True), ("10:00:16", False)])
def test_a_childs_firing_has_the_time_of_its_newest_counted_event(
    fire: Fire, second: str, fires: bool
) -> None:
    pair = {"expect": ["a"], "threshold": 2, "within": 10}
    lines = (
        at("10:00:05", "a"),
        at("10:00:00", "a", received="10:00:09"),
        at(second, "b"),
    )
    assert bool(fire(compound(pair, on("b"), within=10), *lines).at) is fires


@pytest.mark.parametrize(("happened", "fires"), [("10:00:20", True), ("10:00:21", False)])
def test_a_childs_alarm_has_the_time_of_its_windows_end(
    fire: Fire, happened: str, fires: bool
) -> None:
    alarm = {"posture": "Proactive", "after": ["open"], "expect": ["done"], "within": 10}
    lines = at("10:00:00", "open", received="10:00:05"), at(happened, "b")
    fired = fire(compound(alarm, on("b"), within=10), *lines)
    assert bool(fired.at) is fires


def test_all_children_see_an_event_before_the_composite_looks(fire: Fire) -> None:
    fired = fire(compound(on("a"), on("*")), at("10:00", "a", id="a"))
    assert (fired.at, fired.counted) == (["10:00:00"], ["a"])


def test_one_event_makes_at_most_one_firing(fire: Fire) -> None:
    fired = fire(compound(on("a"), on("*"), on("a"), require="any"), at("10:00", "a"))
    assert fired.at == ["10:00:00"]


def test_the_recorded_firings_are_spent_when_the_composite_fires(fire: Fire) -> None:
    lines = at("10:00", "a"), at("10:01", "b"), at("10:02", "b"), at("10:03", "a")
    assert fire(compound(on("a"), on("b")), *lines).at == ["10:01:00", "10:03:00"]


def test_the_childrens_own_keys_live_on_when_the_composite_fires(fire: Fire) -> None:
    pair = {"expect": ["a"], "threshold": 2}
    lines = at("10:00", "a"), at("10:01", "b"), at("10:02", "a")
    assert fire(compound(pair, on("b"), require="any"), *lines).at == ["10:01:00", "10:02:00"]


@pytest.mark.parametrize(("happened", "fires"), [("10:00:59", False), ("10:01:00", True)])
def test_a_childs_firing_older_than_the_composites_last_is_ignored(
    fire: Fire, happened: str, fires: bool
) -> None:
    lines = (
        at("10:00", "a"),
        at("10:01", "b"),
        at(happened, "a", received="10:02"),
        at("10:03", "b"),
    )
    fired = fire(compound(on("a"), on("b")), *lines)
    assert fired.at == ["10:01:00", "10:03:00"][: 2 if fires else 1]


@pytest.mark.parametrize(("require", "fires_on"), [("any", 1), (2, 2), ("all", 3), (3, 3)])
def test_a_compound_fires_when_enough_different_children_have_fired(
    fire: Fire, require: str | int, fires_on: int
) -> None:
    lines = [at(f"10:0{minute}", name) for minute, name in enumerate("abc", start=1)]
    fired = fire(compound(on("a"), on("b"), on("c"), require=require), *lines)
    assert fired.at[0] == f"10:0{fires_on}:00"


def test_one_child_that_fires_twice_is_one_child(fire: Fire) -> None:
    lines = at("10:00", "a"), at("10:01", "a")
    assert fire(compound(on("a"), on("b"), on("c"), require=2), *lines).at == []


@pytest.mark.parametrize(("second", "fires"), [("10:00:10", True), ("10:00:11", False)])
def test_no_two_of_a_compound_are_further_apart_than_within_by_event_time(
    fire: Fire, second: str, fires: bool
) -> None:
    lines = at(second, "b", received="10:01"), at("10:00", "a", received="10:05")
    assert bool(fire(compound(on("a"), on("b"), within=10), *lines).at) is fires


def test_the_newest_firing_of_each_child_counts(fire: Fire) -> None:
    lines = (
        at("10:00:00", "a", id="a"),
        at("10:00:08", "a", id="c"),
        at("10:00:12", "b", id="b"),
    )
    fired = fire(compound(on("a"), on("b"), within=10), *lines)
    assert (fired.at, fired.counted, fired.events) == (["10:00:12"], ["cb"], ["b"])


def test_of_several_choices_the_newest_ones_are_used(fire: Fire) -> None:
    lines = (
        at("10:00:20", "c", id="c"),
        at("10:00:00", "a", id="a", received="10:00:21"),
        at("10:00:10", "b", id="b", received="10:00:22"),
    )
    fired = fire(compound(on("a"), on("b"), on("c"), require=2, within=10), *lines)
    assert fired.counted == ["bc"]


@pytest.mark.parametrize("within", [None, 0])
@pytest.mark.parametrize("kind", [compound, sequence])
def test_without_within_a_composite_has_no_limit_of_time(
    fire: Fire, kind: Callable[..., Line], within: int | None
) -> None:
    lines = at("10:00", "a"), at("+30d 10:00", "b")
    assert fire(kind(on("a"), on("b"), within=within), *lines).at == ["+30d 10:00:00"]


@pytest.mark.parametrize(("names", "fires"), [("abc", 1), ("acb", 0), ("cba", 0), ("bac", 0)])
def test_a_sequence_fires_when_its_children_fire_in_the_order_given(
    fire: Fire, names: str, fires: int
) -> None:
    lines = [at(f"10:0{minute}", name) for minute, name in enumerate(names)]
    assert len(fire(sequence(on("a"), on("b"), on("c")), *lines).at) == fires


def test_one_event_is_not_two_steps_of_a_sequence(fire: Fire) -> None:
    lines = at("10:00", "a", id="a"), at("10:01", "a", id="b")
    fired = fire(sequence(on("a"), on("a")), *lines)
    assert (fired.at, fired.counted) == (["10:01:00"], ["ab"])


def test_the_order_of_a_sequence_is_that_of_time_not_of_arrival(fire: Fire) -> None:
    lines = at("10:01", "b", id="b"), at("10:00", "a", id="a", received="10:02")
    fired = fire(sequence(on("a"), on("b")), *lines)
    assert (fired.at, fired.counted, fired.events) == (["10:02:00"], ["ab"], ["b"])


@pytest.mark.parametrize(("last", "fires"), [("10:00:10", True), ("10:00:11", False)])
def test_first_and_last_of_a_sequence_are_no_further_apart_than_within(
    fire: Fire, last: str, fires: bool
) -> None:
    lines = at("10:00:00", "a"), at("10:00:05", "b"), at(last, "c")
    assert bool(fire(sequence(on("a"), on("b"), on("c"), within=10), *lines).at) is fires


def test_an_event_between_does_not_break_a_sequence(fire: Fire) -> None:
    names = {"a": "a", "b": "b", "d": "a", "c": "c"}
    lines = [at(f"10:0{n}", name, id=id) for n, (id, name) in enumerate(names.items())]
    assert fire(sequence(on("a"), on("b"), on("c")), *lines).counted == ["abc"]


def test_an_old_beginning_does_not_spoil_a_new_one(fire: Fire) -> None:
    lines = (
        at("10:00:00", "a", id="a"),
        at("10:01:00", "a", id="b"),
        at("10:01:05", "b", id="c"),
    )
    assert fire(sequence(on("a"), on("b"), within=10), *lines).counted == ["bc"]


def test_of_the_possible_chains_the_one_that_began_last_counts(fire: Fire) -> None:
    names = {"a": "a", "b": "b", "c": "a", "d": "b", "e": "c"}
    lines = [at(f"10:0{n}", name, id=id) for n, (id, name) in enumerate(names.items())]
    assert fire(sequence(on("a"), on("b"), on("c")), *lines).counted == ["cde"]


def test_composites_may_be_children_of_composites(fire: Fire) -> None:
    either = {"type": "compound", "require": "any", "triggers": [on("b"), on("c")]}
    lines = at("10:00", "c", id="c"), at("10:01", "a", id="a"), at("10:02", "b", id="b")
    fired = fire(sequence(on("a"), either, for_each=["id"]), *lines)
    assert (fired.at, fired.counted, fired.keys) == (["10:02:00"], ["ab"], [("1",)])


def test_an_absence_can_be_a_step_of_a_sequence(fire: Fire) -> None:
    unpaid = {"posture": "Proactive", "after": ["created"], "expect": ["paid"], "within": 10}
    lines = at("10:00:00", "created"), at("10:00:05", "sent"), at("10:00:12", "sent", id="s")
    fired = fire(sequence(unpaid, on("sent"), for_each=["id"]), *lines)
    assert (fired.at, fired.events) == (["10:00:12"], ["s"])


def test_a_keyed_composites_switch_is_silent_per_key_and_does_not_repeat(fire: Fire) -> None:
    switch = {"posture": "Proactive", "expect": ["beat"], "within": 10}
    lines = at("10:00", "beat", key="1"), at("10:00:05", "beat", key="2"), now("10:10")
    fired = fire(compound(switch, for_each=["id"]), *lines)
    assert list(zip(fired.at, fired.keys, strict=True)) == [
        ("10:00:10", ("1",)),
        ("10:00:15", ("2",)),
    ]


def test_composites_have_100_children_at_most() -> None:
    _compile(type="compound", require="any", triggers=[on("a")] * 99)
    _assert_refused(type="compound", require="any", triggers=[on("a")] * 101)


@pytest.mark.parametrize(("composites", "is_taken"), [(4, True), (6, False)])
def test_composites_nest_5_deep_at_most(composites: int, is_taken: bool) -> None:
    nested = on("a")
    for _ in range(composites):
        nested = {"type": "sequence", "triggers": [nested]}
    if is_taken:
        _compile(**nested)
    else:
        _assert_refused(**nested)


# 6. Changes.


def test_a_new_trigger_sees_what_comes_after_its_making_and_nothing_before(fire: Fire) -> None:
    pair = trigger(name="n", expect=["x"], threshold=2)
    lines = at("10:00", "x"), put(pair), at("10:01", "x"), at("10:02", "x")
    assert fire([], *lines).at == ["10:02:00"]


@pytest.mark.parametrize(
    "other",
    [
        {"description": "more"},
        {"tags": ["shop"]},
        {"deployment": "e"},
        {"parameters": {"a": 1}},
        {"schedule_after": 60},
        {"expect": ["done", "done"]},
        {"within": 0},
    ],
)
def test_a_change_of_anything_but_the_condition_keeps_every_open_key(
    fire: Fire, other: Line
) -> None:
    lines = at("10:00", "open"), put(opened(**other)), at("10:01", "done")
    assert fire(opened(), *lines).at == ["10:01:00"]


@pytest.mark.parametrize(
    "other", [{"threshold": 2}, {"within": 600}, {"for_each": ["id"]}, {"match": {"id": "*"}}]
)
def test_a_change_of_the_condition_forgets_the_open_keys(fire: Fire, other: Line) -> None:
    lines = at("10:00", "open"), put(opened(**other)), at("10:01", "done"), at("10:02", "done")
    assert fire(opened(), *lines).at == []


def test_a_changed_switch_starts_anew(fire: Fire) -> None:
    changed = silent(expect=["beat", "sign"], repeat=False)
    lines = now("10:00"), now("10:00:04"), put(changed), now("10:10")
    assert fire(silent(repeat=False), *lines).at == ["10:00:14"]


def test_a_disabled_trigger_sees_nothing(fire: Fire) -> None:
    lines = at("10:00", "open"), disable(), at("10:01", "done"), enable(), at("10:02", "done")
    assert fire(opened(), *lines).at == ["10:02:00"]


def test_a_disabled_triggers_reactive_keys_stay(fire: Fire) -> None:
    pair = trigger(expect=["x"], threshold=2)
    lines = at("10:00", "x", id="a"), disable(), enable(), at("10:01", "x", id="b")
    assert fire(pair, *lines).counted == ["ab"]


def test_a_disabled_triggers_proactive_keys_are_closed_without_an_alarm(fire: Fire) -> None:
    lines = at("10:00", "open"), disable(), enable(), now("10:10"), at("10:10", "open")
    assert fire(missing(), *lines, now("10:11")).at == ["10:10:10"]


def test_of_a_disabled_composite_only_the_proactive_keys_are_closed(fire: Fire) -> None:
    unpaid = {"posture": "Proactive", "after": ["open"], "expect": ["paid"], "within": 10}
    both = compound(on("a"), unpaid)
    lines = (
        at("10:00:00", "a", id="a"),
        at("10:00:00", "open"),
        disable(),
        enable(),
        now("10:01"),
        at("10:02", "open"),
        now("10:03"),
    )
    fired = fire(both, *lines)
    assert (fired.at, fired.counted) == (["10:02:10"], ["a"])


def test_an_enabled_switch_starts_from_that_moment(fire: Fire) -> None:
    lines = now("10:00"), disable(), now("10:05"), enable(), now("10:06")
    assert fire(silent(repeat=False), *lines).at == ["10:05:10"]


def test_a_trigger_may_be_made_disabled(fire: Fire) -> None:
    lines = at("10:00", "x"), put(trigger(expect=["x"])), at("10:01", "x")
    assert fire(trigger(expect=["x"], enabled=False), *lines).at == ["10:01:00"]


def test_a_deleted_triggers_keys_go(fire: Fire) -> None:
    lines = at("10:00", "open"), delete(), put(opened()), at("10:01", "done"), at("10:02", "open")
    assert fire(opened(), *lines, at("10:03", "done")).at == ["10:03:00"]


@pytest.mark.parametrize(
    "misspelt",
    [
        {"expect": ["x"], "treshold": 2},
        {"type": "compound", "require": "all", "triggers": [on("a", treshold=2)]},
        {"type": "sequence", "triggers": [on("a")], "require": "all"},
        {"type": "compound", "require": "all", "triggers": [on("a", deployment="d")]},
    ],
)
def test_unknown_fields_are_refused(misspelt: Line) -> None:
    _assert_refused(**misspelt)


# 7. Firing.


def test_the_labels_of_a_firing_are_its_key(fire: Fire) -> None:
    fired = fire(trigger(expect=["x"], for_each=["id", "shop"]), at("10:00", "x", labels=_SHOP))
    assert fired.fired[0].labels == {"prefect.resource.id": "1", "shop": "north"}


def test_the_newest_50_of_those_counted_are_kept(fire: Fire) -> None:
    names = [f"{n:02}" for n in range(60)]
    lines = [at(f"10:00:{name}", "x", id=name) for name in names]
    assert fire(trigger(expect=["x"], threshold=60), *lines).counted == ["".join(names[10:])]


_SHOP = {"shop": "north"}


def _verdict(event: Line) -> Verdict:
    moment = datetime(2026, 5, 4, 10, tzinfo=UTC)
    read = read_json(json.dumps(event).encode(), now=moment, new_id=lambda: UUID(int=1))
    return read.verdicts[0]


def _compile(**fields: Any) -> None:
    compile_trigger(trigger(**fields), trigger_id=UUID(int=1), number=1, version=1)


def _assert_refused(**fields: Any) -> None:
    with pytest.raises((ValidationError, Invalid)):
        _compile(**fields)
