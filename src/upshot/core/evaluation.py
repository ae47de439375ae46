"""The heart: `(condition, window, fact) -> (window, effects)`, with no clock and no database."""

from bisect import insort
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from operator import attrgetter
from typing import assert_never

from upshot.core.events import Event
from upshot.core.limits import ARRIVAL_LAG_MAX, EVENTS_KEPT_MAX
from upshot.core.triggers import Condition, Reactive
from upshot.core.windows import Counting, Opened, Seen, Window


@dataclass(frozen=True, slots=True)
class Matched:
    """An event that concerns the key: it `opens`, it is `expected`, or both."""

    event: Event
    opens: bool
    expected: bool


Fact = Matched


@dataclass(frozen=True, slots=True)
class Fire:
    """The condition is met. `counted` are the newest EVENTS_KEPT_MAX, oldest first."""

    event: Event
    counted: tuple[Seen, ...]
    after: Seen | None


Effect = Fire


def step(
    condition: Condition, window: Window | None, fact: Fact
) -> tuple[Window | None, tuple[Effect, ...]]:
    """Advance one key by one fact. None is a key of which nothing is remembered."""
    match condition:
        case Reactive(after=None):
            counting = window if isinstance(window, Counting) else None
            return _count(condition, counting, fact.event)
        case Reactive():
            opened = window if isinstance(window, Opened) else None
            return _after_then_expect(condition, opened, fact)
        case _:
            assert_never(condition)


def forgotten_at(
    window: Window, *, within: timedelta, touched_at: datetime, retention: timedelta
) -> datetime:
    """From when on the window can no longer change what fires, or has been kept long enough.

    Events may arrive later than they happened, so a window is kept ARRIVAL_LAG_MAX past its end.
    """
    match window:
        case Opened(ends_at=ends_at):
            if ends_at is None:
                return touched_at + retention
            return max(touched_at, ends_at) + ARRIVAL_LAG_MAX
        case Counting():
            return touched_at + (within + ARRIVAL_LAG_MAX if within else retention)
        case _:
            assert_never(window)


def _after_then_expect(
    condition: Reactive, window: Opened | None, fact: Matched
) -> tuple[Opened | None, tuple[Effect, ...]]:
    at = fact.event.at
    is_open = window is not None and (window.ends_at is None or at < window.ends_at)
    if window is not None and is_open and fact.expected and at >= window.opener.at:
        return _count_open(condition, window, fact.event)
    if not fact.opens:
        return window, ()
    ends_at = at + condition.within if condition.within else None
    opener = Seen(id=fact.event.id, at=at, event=fact.event)
    if window is None or not is_open:
        return Opened(opener=opener, ends_at=ends_at, count=0, counted=()), ()
    return _open_again(window, opener=opener, ends_at=ends_at), ()


def _count_open(
    condition: Reactive, window: Opened, event: Event
) -> tuple[Opened | None, tuple[Effect, ...]]:
    counted = (*window.counted, Seen(id=event.id, at=event.at, event=event))[-EVENTS_KEPT_MAX:]
    if window.count + 1 >= condition.threshold:
        return None, (Fire(event=event, counted=counted, after=window.opener),)
    return replace(window, count=window.count + 1, counted=counted), ()


def _open_again(window: Opened, *, opener: Seen, ends_at: datetime | None) -> Opened:
    """Another `after` event moves the end, keeps the count. An older one never shortens it."""
    if ends_at is not None and window.ends_at is not None:
        if ends_at <= window.opener.at:
            return window
        ends_at = max(ends_at, window.ends_at)
    earliest = opener if opener.at < window.opener.at else window.opener
    return replace(window, opener=earliest, ends_at=ends_at)


def _count(
    condition: Reactive, window: Counting | None, event: Event
) -> tuple[Counting | None, tuple[Effect, ...]]:
    window = window or Counting(count=0, counted=(), quiet_until=None)
    if condition.within:
        return _count_span(condition, window, event)
    counted = (*window.counted, Seen(id=event.id, at=event.at, event=event))[-EVENTS_KEPT_MAX:]
    if window.count + 1 >= condition.threshold:
        return None, (Fire(event=event, counted=counted, after=None),)
    return Counting(count=window.count + 1, counted=counted, quiet_until=None), ()


def _count_span(
    condition: Reactive, window: Counting, event: Event
) -> tuple[Counting | None, tuple[Effect, ...]]:
    """Fire when `threshold` events lie inside a span shorter than `within`: it slides."""
    if window.quiet_until is not None and event.at < window.quiet_until:
        return window, ()
    seen = list(window.counted)
    insort(seen, Seen(id=event.id, at=event.at, event=event), key=attrgetter("at"))
    first = _first_span(seen, threshold=condition.threshold, within=condition.within)
    if first is None:
        horizon = seen[-1].at - condition.within
        kept = tuple(one for one in seen if one.at >= horizon)
        return Counting(count=len(kept), counted=kept, quiet_until=window.quiet_until), ()
    spent = seen[first : first + condition.threshold]
    quiet_until = spent[0].at + condition.within
    kept = tuple(one for one in seen[first + condition.threshold :] if one.at >= quiet_until)
    fire = Fire(event=event, counted=tuple(spent[-EVENTS_KEPT_MAX:]), after=None)
    return Counting(count=len(kept), counted=kept, quiet_until=quiet_until), (fire,)


def _first_span(seen: list[Seen], *, threshold: int, within: timedelta) -> int | None:
    """The index of the earliest of `threshold` events in a row that span less than `within`."""
    for first in range(len(seen) - threshold + 1):
        if seen[first + threshold - 1].at - seen[first].at < within:
            return first
    return None
