"""What the model works on: events as a condition sees them, and firings."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

EVENTS_SHOWN = 50


@dataclass(frozen=True, slots=True)
class Seen:
    """An event as one condition sees it. `order` is its place in the order of evaluation."""

    id: UUID
    at: datetime
    arrived_at: datetime
    order: int
    opens: bool
    expected: bool
    evaluated_at: datetime
    """Later than its arrival when it was held, or had to wait for a decision."""


@dataclass(frozen=True, slots=True)
class Firing:
    """`at` is the firing's own time: of its newest counted event, or of a window's end."""

    at: datetime
    event: Seen | None
    counted: tuple[Seen, ...]


def by_time(seen: Seen) -> tuple[datetime, int]:
    return seen.at, seen.order


def newest(events: Iterable[Seen]) -> Seen | None:
    return max(events, key=by_time, default=None)


def firing(*, at: datetime, event: Seen | None, counted: Iterable[Seen]) -> Firing:
    return Firing(at=at, event=event, counted=tuple(sorted(counted, key=by_time)[-EVENTS_SHOWN:]))
