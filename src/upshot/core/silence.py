"""Proactive without `after`, a dead man's switch: too few expected events in the last `within`."""

from collections.abc import Iterable
from datetime import datetime

from msgspec.structs import replace

from upshot.core.facts import Began, Effects, Fire, Matched, Tick
from upshot.core.limits import EVENTS_KEPT_MAX, WAITING_MAX
from upshot.core.triggers import Proactive
from upshot.core.windows import Seen, Switch, with_seen


def begin(window: Switch | None, fact: Began) -> Switch:
    return window or Switch(fact.at, fact.at)


def take(condition: Proactive, window: Switch | None, fact: Matched) -> Switch:
    seen = fact.seen()
    return _take(condition, window or Switch(seen.at, seen.received_at), seen, now=fact.now)


def decide(condition: Proactive, window: Switch, tick: Tick) -> tuple[Switch, Effects]:
    """An alarm, if one is due. Several that are overdue are one; then the old rhythm goes on."""
    due_at = decided_at(condition, window)
    if due_at is None or tick.at < due_at:
        return window, ()
    if window.silent_since is None:
        ends_at, _ = _end(condition, window)
    else:
        ends_at = window.silent_since + condition.within
    newest = window.newest
    begins_at = ends_at - condition.within
    counted = [one for one in newest if begins_at < one.at < ends_at]
    fire = Fire(newest[-1] if newest else None, tuple(counted[-EVENTS_KEPT_MAX:]), None, ends_at)
    missed = (tick.at - ends_at) // condition.within if condition.repeat else 0
    silent = replace(window, silent_since=ends_at + missed * condition.within, waiting=())
    return _take_up(condition, silent, window.waiting), (fire,)


def decided_at(condition: Proactive, window: Switch) -> datetime | None:
    """When the next alarm is due, if nothing more comes."""
    if window.silent_since is not None:
        return window.silent_since + condition.within if condition.repeat else None
    ends_at, received_at = _end(condition, window)
    return max(ends_at, received_at + min(condition.lateness, condition.within))


def _end(condition: Proactive, window: Switch) -> tuple[datetime, datetime]:
    """When the last `within` holds too few, and the arrival of the event that is counted from."""
    at, received_at = window.base_at, window.base_received_at
    if len(window.newest) >= condition.threshold:
        last = window.newest[-condition.threshold]
        if last.at >= at:
            at, received_at = last.at, last.received_at
    return at + condition.within, received_at


def _take(condition: Proactive, window: Switch, seen: Seen, *, now: datetime) -> Switch:
    if window.silent_since is None and seen.at >= _end(condition, window)[0]:
        return replace(window, waiting=(*window.waiting, seen)[-WAITING_MAX:])
    newest = with_seen(window.newest, seen)[-condition.threshold :]
    if condition.for_each and seen.at < window.base_at:
        window = replace(window, base_at=seen.at, base_received_at=seen.received_at)
    silent_since = window.silent_since
    if len(newest) == condition.threshold and newest[0].at > now - condition.within:
        silent_since = None
    window = replace(window, newest=newest, silent_since=silent_since)
    if not window.waiting:
        return window
    # The end may have moved behind some of those that are there already.
    return _take_up(condition, replace(window, waiting=()), window.waiting)


def _take_up(condition: Proactive, window: Switch, waiting: Iterable[Seen]) -> Switch:
    """Those that came after a deadline that is still to be decided wait on."""
    for seen in waiting:
        due_at = decided_at(condition, window)
        if due_at is not None and due_at < seen.received_at:
            window = replace(window, waiting=(*window.waiting, seen))
        else:
            window = _take(condition, window, seen, now=seen.received_at)
    return window
