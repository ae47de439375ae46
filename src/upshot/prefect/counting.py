"""Events counted by when they occurred, by name, or by resource."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from upshot.core.errors import Invalid, Problem
from upshot.core.events import RESOURCE_ID, RESOURCE_NAME, Event
from upshot.core.limits import EVENT_COUNTS_MAX, EVENT_SPANS_MAX

PIVOT: Final = datetime(2024, 4, 1, tzinfo=UTC)
"""Where spans of time are counted from, a Monday; as in Prefect, so that they begin alike."""

INTERVAL_MIN: Final = 0.01


class Countable(StrEnum):
    DAY = "day"
    TIME = "time"
    EVENT = "event"
    RESOURCE = "resource"


class TimeUnit(StrEnum):
    WEEK = "week"
    DAY = "day"
    HOUR = "hour"
    MINUTE = "minute"
    SECOND = "second"


_LENGTHS: Final = {
    TimeUnit.WEEK: timedelta(weeks=1),
    TimeUnit.DAY: timedelta(days=1),
    TimeUnit.HOUR: timedelta(hours=1),
    TimeUnit.MINUTE: timedelta(minutes=1),
    TimeUnit.SECOND: timedelta(seconds=1),
}


@dataclass(slots=True)
class _Count:
    """`label` is that of the latest event."""

    value: str
    label: str
    start_time: datetime
    end_time: datetime
    count: int = 0

    def shown(self) -> dict[str, Any]:
        return {
            "value": self.value,
            "label": self.label,
            "count": self.count,
            "start_time": self.start_time,
            "end_time": self.end_time,
        }


def length_of(unit: TimeUnit, interval: float) -> timedelta:
    """How long so many units are.

    Raises:
        Invalid: too many for a date, or no time at all.
    """
    message = f"Must be at least {INTERVAL_MIN}, and not more than there is time."
    try:
        length = _LENGTHS[unit] * interval if interval >= INTERVAL_MIN else timedelta()
    except (OverflowError, ValueError):
        length = timedelta()
    if not timedelta() < length < timedelta(days=36_500):
        raise Invalid(f"time_interval: {message}", [Problem(("time_interval",), message)])
    return length


class ByTime:
    """Counts in spans of equal length, those in which nothing occurred included.

    Raises:
        Invalid: there would be too many.
    """

    def __init__(self, *, since: datetime, until: datetime, length: timedelta) -> None:
        self._length = length
        self._first = (since - PIVOT) // length
        number = max(0, (until - PIVOT) // length - self._first + 1)
        if number > EVENT_SPANS_MAX:
            raise Invalid(
                f"That would make {number:,} spans of time; at most {EVENT_SPANS_MAX:,} fit. Take "
                "longer ones, or less time."
            )
        self._counts = list(self._spans(number))

    def add(self, events: Iterable[Event]) -> None:
        for event in events:
            index = (event.occurred_at - PIVOT) // self._length - self._first
            if 0 <= index < len(self._counts):
                self._counts[index].count += 1

    def shown(self) -> list[dict[str, Any]]:
        return [count.shown() for count in self._counts]

    def _spans(self, number: int) -> Iterator[_Count]:
        for index in range(number):
            start = PIVOT + self._length * (self._first + index)
            end = start + self._length - timedelta(microseconds=1)
            yield _Count(str(index), start.isoformat(), start, end)


class ByText:
    """Counts by the event's name, or by its resource; the most frequent first."""

    def __init__(self, countable: Countable) -> None:
        self._of = _resource if countable is Countable.RESOURCE else _name
        self._counts: dict[str, _Count] = {}

    def add(self, events: Iterable[Event]) -> None:
        for event in events:
            value, label = self._of(event)
            at = event.occurred_at
            count = self._counts.get(value)
            if count is None:
                count = self._counts[value] = _Count(value, label, at, at)
            if at >= count.end_time:
                count.end_time, count.label = at, label
            count.start_time = min(count.start_time, at)
            count.count += 1

    def shown(self) -> list[dict[str, Any]]:
        found = sorted(self._counts.values(), key=lambda count: (-count.count, count.label))
        return [count.shown() for count in found[:EVENT_COUNTS_MAX]]


def _name(event: Event) -> tuple[str, str]:
    return event.name, event.name


def _resource(event: Event) -> tuple[str, str]:
    resource_id = event.resource[RESOURCE_ID]
    named = event.resource.get(RESOURCE_NAME) or event.resource.get("prefect.name")
    return resource_id, named or resource_id
