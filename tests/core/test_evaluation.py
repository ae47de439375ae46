"""The state machine's bounds and what it keeps; its rules are in `test_semantics`."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest

from tests.core.build import NOON, at, condition, event, trigger
from upshot.core.evaluation import forgotten_at
from upshot.core.events import Event
from upshot.core.index import TriggerIndex
from upshot.core.limits import COUNTED_MAX, EARLY_MAX, HELD_FOR_MAX, LATENESS_MAX
from upshot.core.runs import Firing
from upshot.core.timeline import Timeline
from upshot.core.windows import (
    AfterWindow,
    ChildFiring,
    Collected,
    Counting,
    Opened,
    Seen,
    Switch,
    Window,
    decode_window,
    encode_window,
)

CREATED, COMPLETE = "order.created", "order.complete"
SHOP: dict[str, Any] = {"after": [CREATED], "expect": [COMPLETE], "for_each": ["id"]}
BOTH: dict[str, Any] = {"after": ["beat"], "expect": ["beat"]}
Story = Sequence[tuple[str, float]]


def firings(story: Sequence[Event | tuple[str, float]], **fields: Any) -> list[Firing]:
    """What the trigger fires over events of one user: (name, seconds), in this order of arrival."""
    events = [
        one if isinstance(one, Event) else event(one[0], seconds=one[1], number=number)
        for number, one in enumerate(story)
    ]
    timeline = played(events, **fields)
    assert not timeline.set_aside
    return timeline.firings


def played(events: Sequence[Event], **fields: Any) -> Timeline:
    """Evaluated in this order, each when it was received."""
    timeline = Timeline(TriggerIndex([trigger(**fields)]))
    for one in events:
        timeline.take(timeline.concerns(one), now=one.received_at)
    return timeline


def fired_by(firing: Firing) -> int:
    """The number of the event that fired it."""
    assert firing.fire.event is not None
    return firing.fire.event.id.int


def fired_at(story: Story, **fields: Any) -> list[int]:
    """The numbers of the events that fired it."""
    return [fired_by(firing) for firing in firings(story, **fields)]


DAY = 86_400.0


@pytest.mark.parametrize(
    ("claim", "story", "fired"),
    [
        ("an expected event after an opening one fires", [(CREATED, 0), (COMPLETE, 1)], [1]),
        ("so it does seventy days later", [(CREATED, 0), (COMPLETE, 70 * DAY)], [1]),
        ("nothing fires that was never opened", [(COMPLETE, 0)], []),
        ("nothing fires while nothing is expected", [(CREATED, 0), (CREATED, 1)], []),
        ("it closes when it fires", [(CREATED, 0), (COMPLETE, 1), (COMPLETE, 2)], [1]),
        (
            "and opens again",
            [(CREATED, 0), (COMPLETE, 1), (CREATED, 2), (COMPLETE, 3)],
            [1, 3],
        ),
        ("an event of the same time counts", [(CREATED, 0), (COMPLETE, 0)], [1]),
        ("what happened before it was opened does not", [(CREATED, 5), (COMPLETE, 4)], []),
        ("other events change nothing", [(CREATED, 0), ("other", 1), (COMPLETE, 2)], [2]),
    ],
)
def test_after_then_expect(claim: str, story: Story, fired: list[int]) -> None:
    assert fired_at(story, **SHOP) == fired, claim


@pytest.mark.parametrize(
    ("claim", "story", "fired"),
    [
        ("inside the window", [(CREATED, 0), (COMPLETE, 9.9)], [1]),
        ("the end is excluded", [(CREATED, 0), (COMPLETE, 10)], []),
        ("closed, the next one opens anew", [(CREATED, 0), (CREATED, 20), (COMPLETE, 25)], [2]),
        ("while open it moves the end", [(CREATED, 0), (CREATED, 8), (COMPLETE, 15)], [2]),
        ("an older one never shortens it", [(CREATED, 5), (CREATED, 2), (COMPLETE, 14)], [2]),
        ("but may begin it earlier", [(CREATED, 5), (CREATED, 2), (COMPLETE, 3)], [2]),
        ("unless its own had ended before", [(CREATED, 50), (CREATED, 2), (COMPLETE, 3)], []),
        ("late news of an expected one", [(CREATED, 0), (COMPLETE, 30), (COMPLETE, 5)], [2]),
    ],
)
def test_after_then_expect_within_ten_seconds(claim: str, story: Story, fired: list[int]) -> None:
    assert fired_at(story, within=10, **SHOP) == fired, claim


def test_threshold_counts_from_the_opening_and_another_opening_keeps_the_count() -> None:
    story: Story = [(CREATED, 0), (COMPLETE, 1), (CREATED, 2), (COMPLETE, 3), (COMPLETE, 4)]
    assert fired_at(story, threshold=3, **SHOP) == [4]


def test_an_event_that_opens_and_is_expected_counts_when_open_and_opens_when_not() -> None:
    story: Story = [("beat", 0), ("beat", 1), ("beat", 2), ("beat", 3), ("beat", 4)]
    assert fired_at(story, **BOTH) == [1, 3]


def test_keys_do_not_add_up() -> None:
    story = [
        event(CREATED, resource_id="123", seconds=0, number=0),
        event(COMPLETE, resource_id="456", seconds=1, number=1),
        event(CREATED, resource_id="456", seconds=2, number=2),
        event(COMPLETE, resource_id="123", seconds=3, number=3),
    ]
    assert [(f.key, fired_by(f)) for f in firings(story, **SHOP)] == [(("123",), 3)]


def test_a_firing_tells_the_event_those_counted_and_what_opened_the_key() -> None:
    (firing,) = firings([(CREATED, 0), (COMPLETE, 1), (COMPLETE, 2)], threshold=2, **SHOP)
    assert fired_by(firing) == 2
    assert [seen.id.int for seen in firing.fire.counted] == [1, 2]
    assert firing.fire.after is not None
    assert firing.fire.after.id == UUID(int=0)
    assert firing.labels == {"prefect.resource.id": "123"}


def test_without_after_and_without_limit_every_nth_fires() -> None:
    story: Story = [("x", second * DAY) for second in range(7)]
    assert fired_at(story, threshold=3) == [2, 5]


@pytest.mark.parametrize(
    ("claim", "threshold", "seconds", "fired"),
    [
        ("three within ten", 3, [0, 1, 2], [2]),
        ("wherever a boundary would fall", 3, [9, 10, 11], [2]),
        ("a span of exactly within is too long", 3, [0, 5, 10], []),
        ("the window slides", 3, [0, 8, 11, 12], [3]),
        ("quiet until within after the oldest", 3, [0, 1, 2, 3, 4, 5], [2]),
        ("then it counts again", 3, [0, 1, 2, 9, 10, 11, 12], [2, 6]),
        ("one: fires at once, then not for within", 1, [0, 1, 9, 10, 11], [0, 3]),
        ("out of order they are as near to each other", 3, [2, 0, 1], [2]),
        ("old news before the quiet time's end is ignored", 1, [20, 25, 3], [0]),
        ("of several spans the earliest counts", 2, [0, 10, 5, 12], [2, 3]),
    ],
)
def test_without_after_within_ten_seconds(
    claim: str, threshold: int, seconds: list[float], fired: list[int]
) -> None:
    story: Story = [("x", second) for second in seconds]
    assert fired_at(story, threshold=threshold, within=10) == fired, claim


def test_a_firing_has_the_newest_fifty_of_those_counted() -> None:
    (firing,) = firings([("x", float(second)) for second in range(100)], threshold=100)
    assert [seen.id.int for seen in firing.fire.counted] == list(range(50, 100))


def test_the_run_id_is_that_of_the_firing_whenever_it_is_made() -> None:
    story: Story = [(CREATED, 0), (COMPLETE, 1)]
    (first,), (again,) = firings(story, **SHOP), firings(story, **SHOP)
    (edited,) = firings(story, version=2, **SHOP)
    assert first.id_of("0") == again.id_of("0")
    assert first.id_of("0") != edited.id_of("0")
    assert first.id_of("0") != first.id_of("1")
    assert first.id_of("0").version == 8


OPENER = Seen(
    id=UUID(int=7),
    at=at(1),
    received_at=at(2),
    opens=True,
    expected=False,
    event=event(number=7, payload='{"total": 18446744073709551617}', related=[{"a": "b"}]),
)
WINDOWS: list[Window] = [
    AfterWindow(opened=Opened(OPENER, at(11), at(12), (OPENER,), (OPENER, OPENER))),
    AfterWindow(closed_at=at(3), alarmed=(at(1), at(3)), waiting=(OPENER,)),
    Counting(counted=(OPENER,)),
    Counting(quiet_until=at(0.000001)),
    Switch(at(0), at(1), newest=(OPENER,), silent_since=at(9), waiting=(OPENER,)),
    Collected(firings=(ChildFiring(1, at(1), 3, OPENER, (OPENER,)),), fired_at=at(0), ordinal=3),
]


@pytest.mark.parametrize("window", WINDOWS)
def test_a_stored_window_is_the_same_again(window: Window) -> None:
    stored = encode_window(window, keeps_after=True, keeps_events=True, keeps_opener=False)
    assert decode_window(stored) == window


def test_events_that_can_be_read_again_from_the_log_are_not_stored() -> None:
    window = AfterWindow(opened=Opened(OPENER, None, None, (OPENER,)), early=(OPENER,))
    stored = encode_window(window, keeps_after=False, keeps_events=False, keeps_opener=False)
    narrow = decode_window(stored)
    assert isinstance(narrow, AfterWindow)
    assert narrow.opened is not None
    assert [narrow.opened.opener.event, narrow.opened.counted[0].event] == [None, None]
    assert narrow.early[0].event is None
    assert len(stored) < 400


def test_what_an_alarm_tells_of_is_kept_whole() -> None:
    window = AfterWindow(opened=Opened(OPENER, at(10), at(10)))
    stored = encode_window(window, keeps_after=False, keeps_events=False, keeps_opener=True)
    assert decode_window(stored) == window


def test_a_window_is_kept_as_long_as_it_can_matter() -> None:
    retention, week = at(90 * DAY) - NOON, at(7 * DAY) - NOON
    limited = condition(expect=["x"], within=60)
    unlimited = condition(expect=["x"])
    for asked, window, expected in (
        (unlimited, AfterWindow(opened=Opened(OPENER, None)), at(5) + retention),
        (limited, AfterWindow(opened=Opened(OPENER, at(61))), at(61) + week),
        (limited, AfterWindow(closed_at=at(3)), at(5) + week),
        (limited, AfterWindow(early=(OPENER,)), at(5) + LATENESS_MAX + HELD_FOR_MAX),
        (limited, Counting(counted=(OPENER,)), at(65) + week),
        (unlimited, Counting(counted=(OPENER,)), at(5) + retention),
        (limited, Switch(at(0), at(0)), at(5) + retention),
        (limited, Collected(), at(5) + retention),
    ):
        assert forgotten_at(asked, window, touched_at=at(5), retention=retention) == expected


def test_what_a_key_remembers_is_bounded_however_much_comes() -> None:
    early = played([event(COMPLETE, seconds=n / 100, number=n) for n in range(1_500)], **SHOP)
    (waiting,) = early.windows.values()
    assert isinstance(waiting, AfterWindow)
    assert len(waiting.early) == EARLY_MAX
    spaced = [event("x", seconds=n * 0.011, number=n) for n in range(3_000)]
    counting = played(spaced, expect=["x"], threshold=2, within=0.01, lateness=900)
    (counted,) = counting.windows.values()
    assert isinstance(counted, Counting)
    assert len(counted.counted) == COUNTED_MAX


def test_an_event_that_raises_is_set_aside_and_the_rest_goes_on() -> None:
    keyed = trigger(1, expect=["x"], for_each=["note"])
    plain = trigger(2, expect=["x"])
    too_long = event("x", labels={"note": "n" * 2000}, number=1)
    timeline = Timeline(TriggerIndex([keyed, plain]))
    for one in (too_long, event("x", number=2)):
        timeline.take(timeline.concerns(one), now=one.received_at)
    assert [(one.event, one.trigger) for one in timeline.set_aside] == [(too_long, keyed)]
    assert "2000 characters" in timeline.set_aside[0].reason
    assert len(timeline.firings) == 2


def test_the_condition_alone_decides_what_is_remembered() -> None:
    assert condition(expect=["a"]) == condition(expect="a")
