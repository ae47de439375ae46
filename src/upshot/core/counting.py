"""Reactive without `after`: so many expected events, inside a span that slides."""

from collections.abc import Sequence
from datetime import timedelta

from msgspec.structs import replace

from upshot.core.facts import Effects, Fire, Matched
from upshot.core.limits import COUNTED_MAX, EVENTS_KEPT_MAX
from upshot.core.triggers import Reactive
from upshot.core.windows import Counting, Seen, with_seen


def count(
    condition: Reactive, window: Counting | None, fact: Matched
) -> tuple[Counting | None, Effects]:
    window = window or Counting()
    seen = fact.seen()
    if condition.within:
        return _count_in_span(condition, window, seen)
    counted = (*window.counted, seen)
    if len(counted) >= condition.threshold:
        return None, (_fire(seen, counted),)
    return Counting(counted=counted), ()


def _count_in_span(condition: Reactive, window: Counting, seen: Seen) -> tuple[Counting, Effects]:
    """Fire when `threshold` events lie inside a span shorter than `within`."""
    if window.quiet_until is not None and seen.at < window.quiet_until:
        return window, ()
    several = with_seen(window.counted, seen)
    horizon = several[-1].at - condition.within - condition.lateness
    if several[0].at < horizon:
        several = tuple(one for one in several if one.at >= horizon)
        if seen.at < horizon:
            return window, ()
    first = _first_span(several, seen, threshold=condition.threshold, within=condition.within)
    if first is None:
        return replace(window, counted=several[-COUNTED_MAX:]), ()
    spent = several[first : first + condition.threshold]
    quiet_until = spent[0].at + condition.within
    left = several[first + condition.threshold :]
    kept = tuple(one for one in left if one.at >= quiet_until)
    return Counting(counted=kept, quiet_until=quiet_until), (_fire(seen, spent),)


def _first_span(
    several: Sequence[Seen], new: Seen, *, threshold: int, within: timedelta
) -> int | None:
    """The index of the earliest `threshold` events in a row that span less than `within`.

    Only a span with the new event in it can be one: without it there was none.
    """
    place = len(several) - 1
    while several[place] is not new:
        place -= 1
    for first in range(max(0, place - threshold + 1), min(place, len(several) - threshold) + 1):
        if several[first + threshold - 1].at - several[first].at < within:
            return first
    return None


def _fire(seen: Seen, counted: Sequence[Seen]) -> Fire:
    newest = max(counted, key=lambda one: one.at)
    return Fire(seen, tuple(counted[-EVENTS_KEPT_MAX:]), None, newest.at)
