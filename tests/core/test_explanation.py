"""Explanations: the checks, the states around an event, and the sentences, word for word."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.build import at, event, trigger
from upshot.core.checks import checks_of
from upshot.core.evaluation import KeyState
from upshot.core.events import Event
from upshot.core.explanation import Explanation, explain
from upshot.core.history import Arrival, History, KeyForgotten, Moment, Saved
from upshot.core.index import TriggerIndex
from upshot.core.keys import Key
from upshot.core.timeline import Timeline

CREATED, COMPLETE, FAILED = "order.created", "order.complete", "order.failed"
SHOP: dict[str, Any] = {"after": [CREATED], "expect": [COMPLETE], "for_each": ["id"]}
TEN_MINUTES: dict[str, Any] = {**SHOP, "within": 600}
ABSENT: dict[str, Any] = {**TEN_MINUTES, "posture": "Proactive"}
BEAT: dict[str, Any] = {"expect": ["beat"], "posture": "Proactive", "within": 600}
BURST: dict[str, Any] = {"expect": [FAILED], "threshold": 3, "within": 600}
PAIR: dict[str, Any] = {
    "type": "compound",
    "triggers": [{"expect": ["a"]}, {"expect": ["b"], "threshold": 2}],
    "within": 600,
    "for_each": ["id"],
}
CHAIN: dict[str, Any] = {
    "type": "sequence",
    "triggers": [{"expect": [name]} for name in "abc"],
    "within": 600,
}
YESTERDAY = -86_400.0

Told = tuple[str, float] | tuple[str, float, dict[str, Any]]


def late(by: float) -> dict[str, Any]:
    """So many seconds between what happened and the news of it."""
    return {"received_after": by}


def events_of(story: Sequence[Told]) -> list[Event]:
    return [
        event(one[0], seconds=one[1], number=number, **(one[2] if len(one) > 2 else {}))
        for number, one in enumerate(story, 1)
    ]


def moment_of(
    story: Sequence[Event], *, keys: Sequence[Key] | None = None, **fields: Any
) -> Moment:
    """The turn of the last of these events, for a trigger made the day before."""
    history = History(story[-1], keys=keys, retention=timedelta(days=90))
    made = Saved(at=at(YESTERDAY), trigger=trigger(**fields), enabled=True, forgets=True)
    history.change(made)
    for one in story:
        history.arrive(arrival(one), is_known=False)
    assert history.moment is not None
    return history.moment


def arrival(one: Event) -> Arrival:
    return Arrival(id=one.id, follows=one.follows, received_at=one.received_at, event=one)


def explained(story: Sequence[Told], **fields: Any) -> Explanation:
    several = events_of(story)
    last, version = several[-1], trigger(**fields)
    return explain(version, last, moment_of(several, **fields), checks_of(version, last))


@pytest.mark.parametrize(
    ("story", "fields", "outcome", "sentence"),
    [
        (
            [(CREATED, 0)],
            SHOP,
            "opened",
            "Opened: fires when `order.complete` happens, however long it takes.",
        ),
        (
            [(CREATED, 0), (COMPLETE, 754)],
            SHOP,
            "fired",
            "Fired: it happened 12 min 34 s after `order.created` opened the key.",
        ),
        (
            [(CREATED, 0), (CREATED, 5)],
            SHOP,
            "extended",
            "Open already, since 12:00:00: fires when `order.complete` happens, however long it "
            "takes.",
        ),
        (
            [(CREATED, 0)],
            TEN_MINUTES,
            "opened",
            "Opened: fires if `order.complete` happens before 12:10:00.",
        ),
        (
            [(CREATED, 43_000)],
            TEN_MINUTES,
            "opened",
            "Opened: fires if `order.complete` happens before 2026-05-05 00:06:40.",
        ),
        (
            [(CREATED, 0), (CREATED, 60)],
            TEN_MINUTES,
            "extended",
            "Extended: the window ends at 12:11:00 instead of 12:10:00; fires if `order.complete` "
            "happens before 12:11:00.",
        ),
        (
            [(CREATED, 10), (CREATED, 5)],
            TEN_MINUTES,
            "extended",
            "Extended: it came late, and the window now begins at 12:00:05; fires if "
            "`order.complete` happens before 12:10:10.",
        ),
        (
            [(CREATED, 0), (CREATED, 700)],
            TEN_MINUTES,
            "opened",
            "Opened anew, since the window before was over at 12:10:00: fires if `order.complete` "
            "happens before 12:21:40.",
        ),
        (
            [(CREATED, 0, late(620))],
            TEN_MINUTES,
            "opened",
            "Opened: its window was over at 12:10:00, before it came; fires only if "
            "`order.complete` happens inside it and comes by 12:11:00.",
        ),
        (
            [(CREATED, 0, late(700))],
            TEN_MINUTES,
            "late",
            "Too late: it came 1 min 40 s after its own window was over at 12:10:00.",
        ),
        (
            [(CREATED, 1_000), (CREATED, 0, late(1_010))],
            TEN_MINUTES,
            "late",
            "Too late: its own window was over at 12:10:00, before the open one began at 12:16:40.",
        ),
        (
            [(CREATED, 0), (COMPLETE, 1)],
            {**TEN_MINUTES, "threshold": 3},
            "counted",
            "Counted: 1 of 3 within 10 min; fires if 2 more `order.complete` happen before "
            "12:10:00.",
        ),
        (
            [(CREATED, 0), (COMPLETE, 1), (COMPLETE, 2)],
            {**SHOP, "threshold": 2},
            "fired",
            "Fired: 2 of 2 since the key was opened at 12:00:00.",
        ),
        (
            [(COMPLETE, 0)],
            SHOP,
            "early",
            "Early: no `order.created` has opened the key; counts if an `order.created` from "
            "before 12:00:00 still comes by 12:01:00.",
        ),
        (
            [(COMPLETE, 0)],
            {**SHOP, "lateness": 0},
            "ignored",
            "Ignored: no `order.created` has opened the key.",
        ),
        (
            [(COMPLETE, 5), (CREATED, 0, late(10))],
            SHOP,
            "fired",
            "Fired: it opened the key late, and 1 of 1 had come before it.",
        ),
        (
            [(CREATED, 10), (COMPLETE, 5)],
            TEN_MINUTES,
            "early",
            "Early: it happened at 12:00:05, before the window began at 12:00:10; counts if an "
            "`order.created` from before 12:00:05 still comes by 12:01:05.",
        ),
        (
            [(CREATED, 0), (COMPLETE, 700)],
            TEN_MINUTES,
            "early",
            "Early: the window was over at 12:10:00, 1 min 40 s before it; counts if an "
            "`order.created` from before 12:11:40 still comes by 12:12:40.",
        ),
        (
            [(CREATED, 0), (COMPLETE, 600)],
            {**TEN_MINUTES, "lateness": 0},
            "ignored",
            "Ignored: the window was over at 12:10:00, and it happened then.",
        ),
        (
            [(CREATED, 0), (COMPLETE, 500, late(172))],
            TEN_MINUTES,
            "late",
            "Too late: it happened inside the window that ended at 12:10:00, but came 12 s after "
            "12:11:00, when the lateness of 1 min was over.",
        ),
        (
            [(CREATED, 0), (COMPLETE, 1), (COMPLETE, 0.5)],
            SHOP,
            "ignored",
            "Ignored: it happened at 12:00:00, and the key was closed at 12:00:01.",
        ),
        (
            [(CREATED, 0), (COMPLETE, 1), (COMPLETE, 0.5), (COMPLETE, 1.25)],
            {**SHOP, "lateness": 0},
            "ignored",
            "Ignored: no `order.created` has opened the key.",
        ),
        (
            [(CREATED, 10), (COMPLETE, 20), (CREATED, 15, late(10))],
            SHOP,
            "ignored",
            "Ignored: it happened at 12:00:15, before what closed the key at 12:00:20.",
        ),
        (
            [(CREATED, 0), (CREATED, 10), (COMPLETE, 5, late(10))],
            SHOP,
            "fired",
            "Fired: it happened 5 s after `order.created` opened the key; the key stays open from "
            "12:00:10.",
        ),
    ],
)
def test_reactive_with_after(
    story: Sequence[Told], fields: dict[str, Any], outcome: str, sentence: str
) -> None:
    told = explained(story, **fields)
    assert (told.outcome, told.sentence) == (outcome, sentence)


@pytest.mark.parametrize(
    ("story", "fields", "outcome", "sentence"),
    [
        (
            [(FAILED, 0), (FAILED, 60)],
            BURST,
            "counted",
            "Counted: 2 of 3 within 10 min; fires if one more `order.failed` happens before "
            "12:10:00.",
        ),
        (
            [(FAILED, 0), (FAILED, 900)],
            {**BURST, "within": 5_400},
            "counted",
            "Counted: 2 of 3 within 1 h 30 min; fires if one more `order.failed` happens before "
            "13:30:00.",
        ),
        (
            [(FAILED, 0), (FAILED, 650)],
            BURST,
            "counted",
            "Counted: 1 of 3 within 10 min; fires if 2 more `order.failed` happen before 12:20:50.",
        ),
        (
            [(FAILED, 0), (FAILED, 60), (FAILED, 70)],
            BURST,
            "fired",
            "Fired: 3 of 3 within 10 min; quiet until 12:10:00.",
        ),
        (
            [(FAILED, 0), (FAILED, 60), (FAILED, 70), (FAILED, 80)],
            BURST,
            "ignored",
            "Ignored: it happened at 12:01:20; the key has fired, and is quiet until 12:10:00.",
        ),
        (
            [(FAILED, 0), (FAILED, 1_000), (FAILED, 1)],
            BURST,
            "ignored",
            "Ignored: it happened 16 min 39 s before the newest event that counts, at 12:16:40; "
            "only 11 min are remembered.",
        ),
        ([(FAILED, 0)], {"expect": [FAILED]}, "fired", "Fired: 1 of 1."),
        (
            [(FAILED, 0)],
            {"expect": [FAILED], "within": 0.25},
            "fired",
            "Fired: 1 of 1; quiet until 12:00:00.",
        ),
        (
            [(FAILED, 0)],
            {"expect": [], "threshold": 2},
            "counted",
            "Counted: 1 of 2; fires when one more event happens.",
        ),
        (
            [("a", 0)],
            {"expect": ["a", "b", "c"], "threshold": 3},
            "counted",
            "Counted: 1 of 3; fires when 2 more `a`, `b` or `c` happen.",
        ),
    ],
)
def test_reactive_without_after(
    story: Sequence[Told], fields: dict[str, Any], outcome: str, sentence: str
) -> None:
    told = explained(story, **fields)
    assert (told.outcome, told.sentence) == (outcome, sentence)


@pytest.mark.parametrize(
    ("story", "fields", "outcome", "sentence"),
    [
        (
            [(CREATED, 0)],
            ABSENT,
            "opened",
            "Opened: fires at 12:10:00 unless `order.complete` happens before then.",
        ),
        (
            [(CREATED, 0, late(590))],
            ABSENT,
            "opened",
            "Opened: fires at 12:10:50 unless `order.complete` happens before 12:10:00.",
        ),
        (
            [(CREATED, 0), (CREATED, 5)],
            ABSENT,
            "ignored",
            "Ignored: the key is open since 12:00:00 already; fires at 12:10:00 unless "
            "`order.complete` happens before then.",
        ),
        (
            [(CREATED, 10), (CREATED, 5)],
            ABSENT,
            "extended",
            "Extended: it came late, and the window now begins at 12:00:05; fires at 12:10:10 "
            "unless `order.complete` happens before then.",
        ),
        (
            [(CREATED, 0), (COMPLETE, 5)],
            {**ABSENT, "threshold": 2},
            "counted",
            "Counted: 1 of 2 within 10 min; fires at 12:10:00 unless one more `order.complete` "
            "happens before then.",
        ),
        (
            [(CREATED, 0), (COMPLETE, 5)],
            ABSENT,
            "satisfied",
            "Satisfied: 1 of 1 came in time, and there will be no alarm.",
        ),
        (
            [(COMPLETE, 5), (CREATED, 0, late(10))],
            ABSENT,
            "satisfied",
            "Satisfied: 1 of 1 had come before this `order.created`, and there will be no alarm.",
        ),
        (
            [("beat", 0), ("beat", 300)],
            {**BEAT, "after": ["beat"]},
            "satisfied",
            "Satisfied, and open again: 1 of 1 came in time; fires at 12:15:00 unless `beat` "
            "happens before then.",
        ),
        (
            [(CREATED, 0), (COMPLETE, 5, late(700))],
            ABSENT,
            "late",
            "Too late: it happened inside the window from 12:00:00 to 12:10:00, and the alarm was "
            "given before it came.",
        ),
        (
            [(CREATED, 0, late(590)), (COMPLETE, 600, late(10))],
            ABSENT,
            "deferred",
            "Deferred: the window that ended at 12:10:00 is decided at 12:10:50, and this event is "
            "taken up after that.",
        ),
    ],
)
def test_proactive_with_after(
    story: Sequence[Told], fields: dict[str, Any], outcome: str, sentence: str
) -> None:
    told = explained(story, **fields)
    assert (told.outcome, told.sentence) == (outcome, sentence)


EACH_BEAT: dict[str, Any] = {**BEAT, "for_each": ["id"]}


@pytest.mark.parametrize(
    ("story", "fields", "outcome", "sentence"),
    [
        (
            [("beat", 300)],
            EACH_BEAT,
            "opened",
            "Watched from now on: fires at 12:15:00 unless one more `beat` happens before then.",
        ),
        (
            [("beat", 0), ("beat", 300)],
            EACH_BEAT,
            "postponed",
            "Postponed from 12:10:00: fires at 12:15:00 unless one more `beat` happens before "
            "then.",
        ),
        (
            [("beat", 0), ("beat", 100)],
            {**EACH_BEAT, "threshold": 3},
            "counted",
            "Counted: 2 of 3; fires at 12:10:00 unless 2 more `beat` happen before then.",
        ),
        (
            [("beat", 300), ("beat", 310), ("beat", 305)],
            EACH_BEAT,
            "ignored",
            "Ignored: newer events count already; fires at 12:15:10 unless one more `beat` happens "
            "before then.",
        ),
        (
            [("beat", 300), ("beat", 3_000)],
            EACH_BEAT,
            "satisfied",
            "The silence is over, whose last alarm was at 12:15:00: fires at 13:00:00 unless one "
            "more `beat` happens before then.",
        ),
        (
            [("beat", 0), ("beat", 3_000)],
            {**EACH_BEAT, "threshold": 3},
            "counted",
            "Counted: 1 of 3 in the last 10 min, so that the silence goes on.",
        ),
        (
            [("beat", 0), ("beat", 500, late(2_500))],
            EACH_BEAT,
            "ignored",
            "Ignored: it happened more than 10 min ago, and does not end the silence.",
        ),
        (
            [("beat", 0, late(590)), ("beat", 600, late(20))],
            EACH_BEAT,
            "deferred",
            "Deferred: whether it was silent until 12:10:00 is decided at 12:10:50, and this event "
            "is taken up after that.",
        ),
        (
            [("beat", YESTERDAY + 605)],
            BEAT,
            "satisfied",
            "The silence is over, whose last alarm was at 12:10:00: fires at 12:20:05 unless one "
            "more `beat` happens before then.",
        ),
    ],
)
def test_dead_mans_switch(
    story: Sequence[Told], fields: dict[str, Any], outcome: str, sentence: str
) -> None:
    told = explained(story, **fields)
    assert (told.outcome, told.sentence) == (outcome, sentence)


@pytest.mark.parametrize(
    ("story", "fields", "outcome", "sentence"),
    [
        (
            [("a", 0)],
            PAIR,
            "counted",
            "Counted: child 0 fired, so that 1 of 2 have; fires if child 1 does too by 12:10:00.",
        ),
        (
            [("b", 0)],
            PAIR,
            "counted",
            "Child 1: counted: 1 of 2; fires when one more `b` happens. So far 0 of 2 have fired; "
            "fires if children 0 and 1 do.",
        ),
        (
            [("a", 0), ("b", 0), ("b", 1)],
            PAIR,
            "fired",
            "Fired: child 1 fired, and 2 of 2 have within 10 min.",
        ),
        (
            [("a", 0), ("b", 700), ("b", 701)],
            PAIR,
            "counted",
            "Counted: child 1 fired, so that 1 of 2 have; fires if child 0 does too by 12:21:41.",
        ),
        (
            [("a", 0)],
            {
                "type": "compound",
                "require": 2,
                "triggers": [{"expect": [name]} for name in "abc"],
            },
            "counted",
            "Counted: child 0 fired, so that 1 of 2 have; fires if one more of children 1 and 2 "
            "does.",
        ),
        (
            [("a", 0), ("b", 5)],
            CHAIN,
            "counted",
            "Counted: child 1 fired, so that 2 of 3 have in their order; fires if child 2 does "
            "after it by 12:10:00.",
        ),
        (
            [("b", 0)],
            CHAIN,
            "counted",
            "Counted: child 1 fired, so that 0 of 3 have in their order; fires if children 0, 1 "
            "and 2 do in turn.",
        ),
        (
            [("a", 0), ("b", 5), ("c", 6)],
            CHAIN,
            "fired",
            "Fired: child 2 fired, and all 3 have in their order within 10 min.",
        ),
        (
            [("a", 0), ("b", 5), ("c", 6), ("a", 2)],
            CHAIN,
            "ignored",
            "Ignored: child 0 fired for a time before 12:00:06, when the composite fired last.",
        ),
        (
            [("a", 60), ("a", 0, late(70))],
            PAIR,
            "ignored",
            "Ignored: child 0 fired for 12:00:00, and has fired for a later time already.",
        ),
        (
            [("d", 0)],
            CHAIN,
            "no match",
            "No match with any child; nearest is child 0: the name is `d`, and `a` is wanted.",
        ),
    ],
)
def test_composites(
    story: Sequence[Told], fields: dict[str, Any], outcome: str, sentence: str
) -> None:
    told = explained(story, **fields)
    assert (told.outcome, told.sentence) == (outcome, sentence)


CUSTOMER = {"prefect.resource.id": "c-1", "prefect.resource.role": "customer"}


@pytest.mark.parametrize(
    ("one", "fields", "check", "sentence"),
    [
        (
            ("order.complet", 0),
            SHOP,
            "name",
            "No match: no pattern fits the name `order.complet`; the nearest is `order.complete`.",
        ),
        (
            ("parcel", 0),
            SHOP,
            "name",
            "No match: no pattern fits the name `parcel`, wanted is `order.created` or "
            "`order.complete`.",
        ),
        (
            ("Order.Created", 0),
            {"expect": [CREATED]},
            "name",
            "No match: the name is `Order.Created`, and `order.created` is wanted (case counts).",
        ),
        (
            ("parcel.lost", 0),
            {"expect": ["parcel.*", "!parcel.lost"]},
            "name",
            "No match: the name `parcel.lost` is excluded by `!parcel.lost`.",
        ),
        (
            ("upshot.run.failed", 0),
            {"expect": ["*.failed"]},
            "name",
            "No match: the name is `upshot.run.failed`, and Upshot's own events need a pattern "
            "that begins with `upshot.`.",
        ),
        (
            ("prefect.automation.triggered", 0),
            {"expect": ["prefect.*"]},
            "name",
            "No match: the name is `prefect.automation.triggered`, and announcements need a "
            "pattern that begins with `prefect.automation.`.",
        ),
        (
            (FAILED, 0),
            {"expect": [FAILED], "match": {"region": "eu-*"}},
            "match",
            "No match: the resource has no label `region`, and `eu-*` is wanted.",
        ),
        (
            (FAILED, 0, {"labels": {"region": "us-1"}}),
            {"expect": [FAILED], "match": {"region": ["eu-*", "uk"]}},
            "match",
            "No match: the label `region` is `us-1`, and `eu-*` or `uk` is wanted.",
        ),
        (
            (FAILED, 0, {"labels": {"region": "us-1"}}),
            {"expect": [FAILED], "match": {"region": "!us-*"}},
            "match",
            "No match: the label `region` is `us-1`, which is excluded.",
        ),
        (
            (FAILED, 0),
            {"expect": [FAILED], "match_related": {"role": "customer"}},
            "match_related",
            "No match: there are no related resources.",
        ),
        (
            (FAILED, 0, {"related": [CUSTOMER]}),
            {"expect": [FAILED], "match_related": {"role": "shop"}},
            "match_related",
            "No match: no related resource has a label `prefect.resource.role` like `shop`.",
        ),
        (
            (FAILED, 0, {"related": [CUSTOMER]}),
            {"expect": [FAILED], "match_related": {"role": "customer", "id": "c-2"}},
            "match_related",
            "No match: no related resource has all of `prefect.resource.role`, "
            "`prefect.resource.id`.",
        ),
        (
            (FAILED, 0, {"related": [CUSTOMER]}),
            {"expect": [FAILED], "match_related": {"role": "!customer"}},
            "match_related",
            "No match: a related resource has a value that is excluded.",
        ),
        (
            (FAILED, 0, {"payload": '{"total": 5}'}),
            {"expect": [FAILED], "where": "event.payload.total > 100"},
            "where",
            "No match: `event.payload.total > 100` is false.",
        ),
        (
            (FAILED, 0),
            {"expect": [FAILED], "where": "event.payload.total > 100"},
            "where",
            "No match: `event.payload.total > 100` could not be evaluated, which counts as no: "
            "event.payload.total is missing.",
        ),
        (
            (FAILED, 0),
            {"expect": [FAILED], "for_each": ["region"]},
            "key",
            "No match: the event has no `region` to make a key of, or has it empty.",
        ),
        (
            (FAILED, 0, {"labels": {"region": ""}}),
            {"expect": [FAILED], "for_each": ["id", "region"]},
            "key",
            "No match: the event has no `region` to make a key of, or has it empty.",
        ),
    ],
)
def test_what_keeps_an_event_from_a_trigger(
    one: Told, fields: dict[str, Any], check: str, sentence: str
) -> None:
    told = explained([one], **fields)
    assert (told.outcome, told.sentence, told.key) == ("no match", sentence, None)
    assert [one.check for one in told.checks if not one.passed] == [check]


def test_a_key_that_is_too_long_sets_the_event_aside() -> None:
    told = explained(
        [(FAILED, 0, {"labels": {"region": "u" * 2_000}})], expect=[FAILED], for_each=["region"]
    )
    assert told.outcome == "set aside"
    assert "has 2000 characters; at most 1024 fit a key" in told.sentence


def test_each_check_says_what_was_expected_and_what_there_was() -> None:
    told = explained(
        [(FAILED, 0, {"labels": {"region": "eu-1"}, "payload": '{"total": 500}'})],
        expect=["order.*", "!order.lost"],
        match={"region": "eu-*"},
        where="event.payload.total > 100",
        for_each=["id", "region"],
        threshold=2,
    )
    shown = [(one.check, one.passed, one.expected, one.actual) for one in told.checks]
    assert shown == [
        ("name", True, {"expect": ["order.*", "!order.lost"], "after": None}, FAILED),
        ("match", True, {"region": ["eu-*"]}, {"prefect.resource.id": "123", "region": "eu-1"}),
        ("match_related", True, [], []),
        ("where", True, "event.payload.total > 100", True),
        (
            "key",
            True,
            ["prefect.resource.id", "region"],
            {"prefect.resource.id": "123", "region": "eu-1"},
        ),
        ("state", True, {"posture": "Reactive", "threshold": 2, "within": 0.0}, "counted"),
    ]
    assert told.key == ("123", "eu-1")


def test_the_states_before_and_after_are_told() -> None:
    told = explained([(CREATED, 0), (COMPLETE, 1), (COMPLETE, 2)], threshold=3, **TEN_MINUTES)
    assert told.before is not None
    assert told.after is not None
    assert (told.before.count, told.after.count, told.after.needed) == (1, 2, 3)
    assert (told.after.state, told.after.deadline_at) == (KeyState.OPEN, at(600))
    assert told.after.after is not None
    assert told.after.after.id == UUID(int=1)
    assert [one.id.int for one in told.after.events] == [2, 3]
    assert explained([(CREATED, 0)], **SHOP).before is None


def test_of_a_composite_the_children_and_which_are_missing_are_told() -> None:
    told = explained([("b", 0), ("a", 5)], **PAIR)
    assert told.before is None
    assert told.after is not None
    assert (told.after.fired, told.after.missing) == (((0,),), ((1,),))
    (child,) = told.children
    assert (child.child, child.outcome, child.sentence) == ((0,), "fired", "Fired: 1 of 1.")
    assert len([one for one in told.checks if one.child == (1,)]) == 5


def test_only_the_keys_that_the_event_is_about_are_followed() -> None:
    story = [
        event(CREATED, resource_id="1", seconds=0, number=1),
        event(CREATED, resource_id="2", seconds=1, number=2),
        event(COMPLETE, resource_id="1", seconds=2, number=3),
    ]
    (step,) = moment_of(story, keys=[("1",)], **SHOP).steps
    assert (step.key, step.fire is not None) == (("1",), True)
    assert moment_of(story, keys=[("2",)], **SHOP).steps == ()


def test_an_event_that_waited_is_explained_at_its_turn() -> None:
    first, second = event(COMPLETE, seconds=5, number=1), event(CREATED, seconds=0, number=2)
    held = Event(
        id=UUID(int=3),
        name=COMPLETE,
        resource=first.resource,
        related=(),
        payload="{}",
        occurred_at=at(10),
        received_at=at(10),
        follows=second.id,
    )
    history = History(held, keys=None, retention=timedelta(days=90))
    history.change(Saved(at=at(0), trigger=trigger(**SHOP), enabled=True, forgets=True))
    history.arrive(arrival(held), is_known=False)
    assert history.moment is None
    history.arrive(arrival(event(CREATED, seconds=0, number=2, received_after=60)), is_known=False)
    assert history.moment is not None
    assert history.moment.now == at(60)
    assert [step.fire is not None for step in history.moment.steps] == [True]


def test_an_event_that_waited_in_vain_has_its_turn_at_last() -> None:
    held = Event(
        id=UUID(int=3),
        name=FAILED,
        resource={"prefect.resource.id": "1"},
        related=(),
        payload="{}",
        occurred_at=at(0),
        received_at=at(0),
        follows=UUID(int=4),
    )
    history = History(held, keys=None, retention=timedelta(days=90))
    history.change(Saved(at=at(0), trigger=trigger(expect=[FAILED]), enabled=True, forgets=True))
    history.arrive(arrival(held), is_known=False)
    history.finish(at(901))
    assert history.moment is not None
    assert history.moment.now == at(900)


def test_a_change_that_forgets_the_keys_is_followed_and_one_that_keeps_them_too() -> None:
    created, complete = event(CREATED, number=1), event(COMPLETE, seconds=9, number=2)
    for forgets, fired in ((False, True), (True, False)):
        history = History(complete, keys=[("123",)], retention=timedelta(days=90))
        history.change(Saved(at=at(-1), trigger=trigger(**SHOP), enabled=True, forgets=True))
        history.arrive(arrival(created), is_known=False)
        again = trigger(version=2, **SHOP)
        history.change(Saved(at=at(5), trigger=again, enabled=True, forgets=forgets))
        history.arrive(arrival(complete), is_known=False)
        assert history.moment is not None
        (step,) = history.moment.steps
        assert (step.fire is not None) is fired
        assert history.moment.trigger is again


def test_a_key_that_was_forgotten_has_nothing_open() -> None:
    created, complete = event(CREATED, number=1), event(COMPLETE, seconds=9, number=2)
    history = History(complete, keys=[("123",)], retention=timedelta(days=90))
    history.change(Saved(at=at(-1), trigger=trigger(**SHOP), enabled=True, forgets=True))
    history.arrive(arrival(created), is_known=False)
    history.change(KeyForgotten(at=at(5), key=("123",)))
    history.arrive(arrival(complete), is_known=False)
    assert history.moment is not None
    assert history.moment.steps[0].before is None


def test_a_key_untouched_for_longer_than_keys_are_kept_has_nothing_open() -> None:
    day = 86_400.0
    created, complete = event(CREATED, number=1), event(COMPLETE, seconds=91 * day, number=2)
    for days, is_open in ((90, False), (92, True)):
        history = History(complete, keys=None, retention=timedelta(days=days))
        history.change(Saved(at=at(-1), trigger=trigger(**SHOP), enabled=True, forgets=True))
        history.arrive(arrival(created), is_known=False)
        history.arrive(arrival(complete), is_known=False)
        assert history.moment is not None
        assert (history.moment.steps[0].before is not None) is is_open


def test_a_disabled_trigger_sees_nothing_and_a_silence_begins_when_it_is_enabled() -> None:
    beat = event("beat", seconds=3_000, number=1)
    version = trigger(**BEAT)
    history = History(beat, keys=None, retention=timedelta(days=90))
    history.change(Saved(at=at(0), trigger=version, enabled=True, forgets=True))
    history.change(Saved(at=at(60), trigger=version, enabled=False, forgets=False))
    unseen = event("beat", seconds=100, number=2)
    history.arrive(arrival(unseen), is_known=False)
    history.change(Saved(at=at(2_900), trigger=version, enabled=True, forgets=False))
    history.arrive(arrival(beat), is_known=False)
    assert history.moment is not None
    told = explain(version, beat, history.moment, checks_of(version, beat))
    assert told.sentence.startswith("Postponed from 12:58:20: fires at 13:00:00 unless")


@pytest.mark.timeout(20)
def test_years_of_a_silence_take_no_time() -> None:
    beat = event("beat", seconds=3 * 365 * 86_400.0, number=1)
    for fields in (
        {**BEAT, "within": 1},
        {"type": "compound", "triggers": [{**BEAT, "within": 1}, {"expect": ["x"]}]},
    ):
        assert moment_of([beat], **fields).steps


NAMES = ("a", "b", "c")
CONDITIONS: list[dict[str, Any]] = [
    {**shape, **posture, "threshold": threshold, "for_each": for_each}
    for shape in ({"after": ["a"], "expect": ["b"]}, {"after": ["a"], "expect": ["a", "b"]}, {})
    for posture in ({}, {"within": 20}, {"within": 20, "posture": "Proactive"})
    for threshold in (1, 2)
    for for_each in (["id"], [])
]
TRIGGERS: list[dict[str, Any]] = [
    *CONDITIONS,
    PAIR,
    CHAIN,
    {
        "type": "compound",
        "require": 2,
        "within": 30,
        "triggers": [
            {"type": "sequence", "triggers": [{"expect": ["a"]}, {"expect": ["b"]}]},
            {"posture": "Proactive", "within": 10, "expect": ["c"]},
            {"posture": "Proactive", "within": 10, "after": ["a"], "expect": ["c"]},
        ],
    },
]


@st.composite
def stories(draw: st.DrawFn) -> list[Event]:
    """Events in the order in which they came, now and then late."""
    story = []
    arrived = 0.0
    for number in range(1, draw(st.integers(2, 12)) + 1):
        arrived += draw(st.sampled_from([0, 1, 5, 20, 70]))
        lag = draw(st.sampled_from([0, 0, 3, 15, 40, 90]))
        one = event(
            draw(st.sampled_from(NAMES)),
            resource_id=draw(st.sampled_from(["1", "2"])),
            seconds=arrived - lag,
            received_after=lag,
            number=number,
        )
        story.append(one)
    return story


@settings(max_examples=150, deadline=None)
@given(fields=st.sampled_from(TRIGGERS), story=stories())
def test_every_event_of_any_story_can_be_explained_and_fired_means_a_run(
    fields: dict[str, Any], story: list[Event]
) -> None:
    version = trigger(**fields)
    timeline = Timeline(TriggerIndex([version]))
    timeline.begin(version, at(YESTERDAY))
    for number, one in enumerate(story):
        timeline.pass_time(one.received_at - timedelta(microseconds=1))
        timeline.firings.clear()
        concerns = timeline.concerns(one)
        timeline.take(concerns, now=one.received_at)
        keys = {concern.key for concern in concerns} if version.condition.for_each else None
        moment = moment_of(story[: number + 1], keys=None if keys is None else list(keys), **fields)
        told = explain(version, one, moment, checks_of(version, one))
        fired = [firing for firing in timeline.firings if firing.cause[0] == one.id.hex]
        assert (told.outcome == "fired") is bool(fired)
        assert told.sentence.endswith(".")
        if not concerns:
            assert told.outcome == "no match"
