"""Counts of events: spans of time that begin where Prefect's do, names, resources."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from upshot.core.errors import Invalid
from upshot.core.events import Event
from upshot.core.limits import EVENT_COUNTS_MAX, EVENT_SPANS_MAX
from upshot.prefect.counting import ByText, ByTime, Countable, TimeUnit, length_of

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def event(at: datetime, name: str = "e", resource: str = "r", label: str | None = None) -> Event:
    named = {"prefect.resource.name": label} if label else {}
    return Event(
        id=uuid4(),
        name=name,
        resource={"prefect.resource.id": resource, **named},
        related=(),
        payload="{}",
        occurred_at=at,
        received_at=at,
    )


def test_empty_spans_are_counted_too() -> None:
    counts = ByTime(since=NOON + HOUR / 2, until=NOON + 3 * HOUR, length=HOUR)
    counts.add(
        [event(NOON), event(NOON + HOUR - timedelta(microseconds=1)), event(NOON + 2 * HOUR)]
    )
    shown = counts.shown()
    assert [one["count"] for one in shown] == [2, 0, 1, 0]
    assert [one["start_time"] for one in shown] == [NOON + n * HOUR for n in range(4)]
    assert shown[0]["end_time"] == NOON + HOUR - timedelta(microseconds=1)
    assert shown[0]["label"] == "2026-01-31T12:00:00+00:00"


def test_weeks_begin_on_mondays() -> None:
    counts = ByTime(since=NOON, until=NOON, length=length_of(TimeUnit.WEEK, 1))
    assert [one["label"] for one in counts.shown()] == ["2026-01-26T00:00:00+00:00"]


def test_what_occurred_outside_the_spans_is_not_counted() -> None:
    counts = ByTime(since=NOON, until=NOON, length=HOUR)
    counts.add([event(NOON - HOUR), event(NOON + HOUR), event(NOON)])
    assert [one["count"] for one in counts.shown()] == [1]


def test_too_many_spans_are_refused() -> None:
    ByTime(since=NOON, until=NOON + HOUR * (EVENT_SPANS_MAX - 1), length=HOUR)
    with pytest.raises(Invalid):
        ByTime(since=NOON, until=NOON + HOUR * EVENT_SPANS_MAX, length=HOUR)


@pytest.mark.parametrize("interval", [0, 0.009, -1, 1e300, float("inf"), float("nan")])
@pytest.mark.parametrize("unit", TimeUnit)
def test_an_interval_that_is_no_time_is_refused(unit: TimeUnit, interval: float) -> None:
    with pytest.raises(Invalid):
        length_of(unit, interval)


def test_names_are_counted_the_most_frequent_first() -> None:
    counts = ByText(Countable.EVENT)
    counts.add([event(NOON + HOUR, "a"), event(NOON, "b"), event(NOON, "a"), event(NOON, "c")])
    assert [(one["value"], one["count"]) for one in counts.shown()] == [
        ("a", 2),
        ("b", 1),
        ("c", 1),
    ]
    assert (counts.shown()[0]["start_time"], counts.shown()[0]["end_time"]) == (NOON, NOON + HOUR)


def test_a_resource_is_called_as_it_was_last() -> None:
    counts = ByText(Countable.RESOURCE)
    counts.add(
        [event(NOON + HOUR, label="new"), event(NOON, label="old"), event(NOON, resource="s")]
    )
    assert [(one["value"], one["label"]) for one in counts.shown()] == [("r", "new"), ("s", "s")]


def test_no_more_counts_are_shown_than_fit() -> None:
    counts = ByText(Countable.EVENT)
    counts.add(event(NOON, str(n)) for n in range(EVENT_COUNTS_MAX + 1))
    assert len(counts.shown()) == EVENT_COUNTS_MAX
