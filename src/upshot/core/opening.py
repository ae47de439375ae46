"""Conditions with `after`: one event opens the key, others are expected inside its window."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from msgspec.structs import replace

from upshot.core.facts import Effect, Effects, Fire, Late, Matched, Tick
from upshot.core.limits import (
    EARLY_MAX,
    EVENTS_KEPT_MAX,
    HELD_FOR_MAX,
    OPENERS_MAX,
    WAITING_MAX,
)
from upshot.core.triggers import Proactive, Reactive
from upshot.core.windows import AfterWindow, Opened, Seen, with_seen

_Condition = Reactive | Proactive


def take(
    condition: _Condition, window: AfterWindow | None, fact: Matched
) -> tuple[AfterWindow, Effects]:
    window = window or AfterWindow()
    seen = fact.seen(window.ordinal + 1)
    return _take(condition, replace(window, ordinal=seen.ordinal), seen)


def decide(condition: Proactive, window: AfterWindow, tick: Tick) -> tuple[AfterWindow, Effects]:
    """Too little has come by the time at which that is certain: an alarm, once."""
    opened = window.opened
    if opened is None or opened.decided_at is None or tick.at < opened.decided_at:
        return window, ()
    assert opened.ends_at is not None
    fire = Fire(opened.opener, opened.counted[-EVENTS_KEPT_MAX:], opened.opener, opened.ends_at)
    closed = AfterWindow(
        closed_at=opened.ends_at,
        alarmed=(opened.opener.at, opened.ends_at),
        early=_after(window.early, opened.ends_at),
        ordinal=window.ordinal,
    )
    window, effects = _take_up(condition, closed, window.waiting)
    return window, (fire, *effects)


def _take(condition: _Condition, window: AfterWindow, seen: Seen) -> tuple[AfterWindow, Effects]:
    opened = window.opened
    if opened is not None:
        if opened.decided_at is not None and opened.ends_at and seen.at >= opened.ends_at:
            return replace(window, waiting=(*window.waiting, seen)[-WAITING_MAX:]), ()
        if seen.expected and _counts(condition, opened, seen):
            return _count(condition, window, opened, seen)
    if seen.opens:
        if window.closed_at is not None and seen.at < window.closed_at:
            return window, ()
        return _open(condition, window, seen)
    if window.alarmed is not None and window.alarmed[0] <= seen.at < window.alarmed[1]:
        return window, (Late(seen),)
    return replace(window, early=_with_early(condition, window, seen)), ()


def _counts(condition: _Condition, opened: Opened, seen: Seen) -> bool:
    """Whether an expected event counts as it comes."""
    if seen.at < opened.opener.at:
        return False
    if opened.ends_at is None:
        return True
    if seen.at >= opened.ends_at:
        return False
    return opened.decided_at is not None or seen.received_at <= opened.ends_at + condition.lateness


def _count(
    condition: _Condition, window: AfterWindow, opened: Opened, seen: Seen
) -> tuple[AfterWindow, Effects]:
    opened = _with_counted(opened, (seen,))
    if len(opened.counted) < condition.threshold:
        return replace(window, opened=opened), ()
    return _complete(condition, window, opened, event=seen)


def _open(condition: _Condition, window: AfterWindow, seen: Seen) -> tuple[AfterWindow, Effects]:
    """An `after` event that does not count as expected, and is not older than what closed it."""
    opened = window.opened
    match condition:
        case _ if opened is None:
            begun = _opened_by(condition, seen)
        case Reactive():
            if _is_over_before(condition, seen, opened):
                return _complete_past(condition, window, seen)
            begun = _open_reactive_again(condition, opened, seen)
        case Proactive():
            if seen.at >= opened.opener.at:
                return replace(window, opened=_with_openers(opened, (seen,))), ()
            if _is_over_before(condition, seen, opened):
                there = sorted(
                    (opened.opener, *opened.openers, *opened.counted),
                    key=lambda one: one.ordinal,
                )
                window = replace(window, waiting=(*there, *window.waiting))
                begun = _opened_by(condition, seen)
            else:
                begun = replace(
                    _begin_earlier(opened, seen),
                    decided_at=_decided_at(condition, seen, ends_at=opened.ends_at),
                )
    return _take_early(condition, window, begun, seen)


def _opened_by(condition: _Condition, seen: Seen) -> Opened:
    if not condition.within:
        return Opened(seen, None)
    ends_at = seen.at + condition.within
    if isinstance(condition, Reactive):
        return Opened(seen, ends_at)
    return Opened(seen, ends_at, _decided_at(condition, seen, ends_at=ends_at))


def _decided_at(condition: Proactive, opener: Seen, *, ends_at: datetime | None) -> datetime:
    """Punctually at the end, unless the opener was late itself."""
    patience = min(condition.lateness, condition.within)
    return max(ends_at or opener.at, opener.received_at + patience)


def _is_over_before(condition: _Condition, seen: Seen, opened: Opened) -> bool:
    """Whether the window of a late `after` event had ended when the open one began."""
    return bool(condition.within) and seen.at + condition.within <= opened.opener.at


def _open_reactive_again(condition: Reactive, opened: Opened, seen: Seen) -> Opened:
    """Moves the end, keeps the count. A late one begins it earlier and never shortens it."""
    if seen.at < opened.opener.at:
        return _begin_earlier(opened, seen)
    if opened.ends_at is None:
        return _with_openers(opened, (seen,))
    if seen.at >= opened.ends_at:
        return _opened_by(condition, seen)
    ends_at = max(opened.ends_at, seen.at + condition.within)
    return _with_openers(replace(opened, ends_at=ends_at), (seen,))


def _begin_earlier(opened: Opened, seen: Seen) -> Opened:
    return _with_openers(replace(opened, opener=seen), (opened.opener,))


def _complete_past(
    condition: Reactive, window: AfterWindow, seen: Seen
) -> tuple[AfterWindow, Effects]:
    """A late `after` event whose window is over: what came early may fill it, as it would have."""
    past = _with_counted(
        _opened_by(condition, seen), _early_for(condition, window, seen, seen.at + condition.within)
    )
    if len(past.counted) < condition.threshold:
        return replace(window, early=_with_early(condition, window, seen)), ()
    window_after, effects = _complete(
        condition, replace(window, opened=None), past, event=past.counted[-1]
    )
    return replace(window_after, opened=window.opened), effects


def _take_early(
    condition: _Condition, window: AfterWindow, begun: Opened, seen: Seen
) -> tuple[AfterWindow, Effects]:
    """Count what came before the `after` event that it belongs to."""
    if not window.early and not seen.expected:
        return replace(window, opened=begun), ()
    taken = tuple(
        one
        for one in _early_for(condition, window, seen, begun.ends_at)
        if begun.decided_at is None or one.received_at <= begun.decided_at
    )[: condition.threshold - len(begun.counted)]
    begun = _with_counted(begun, taken)
    ids = {one.id for one in taken}
    early = tuple(one for one in _with_early(condition, window, seen) if one.id not in ids)
    window = replace(window, opened=begun, early=early)
    if len(begun.counted) < condition.threshold:
        return window, ()
    return _complete(condition, window, begun, event=begun.counted[-1])


def _early_for(
    condition: _Condition, window: AfterWindow, opener: Seen, ends_at: datetime | None
) -> tuple[Seen, ...]:
    """Those that happened after the `after` event and came before it, not long before."""
    return tuple(
        one
        for one in window.early
        if one.at > opener.at
        and (ends_at is None or one.at < ends_at)
        and opener.received_at - one.received_at <= condition.lateness
    )


def _with_early(condition: _Condition, window: AfterWindow, seen: Seen) -> tuple[Seen, ...]:
    """The early events that may still count, with this one if it is expected.

    An `after` event that is held comes later still, and counts as received when it was.
    """
    kept_for = condition.lateness + HELD_FOR_MAX
    early = tuple(
        one
        for one in window.early
        if one.id != seen.id and seen.received_at - one.received_at <= kept_for
    )
    if not seen.expected or (window.closed_at is not None and seen.at <= window.closed_at):
        return early
    # Of so many the newest say as well as all of them whether there are enough.
    return with_seen(early, seen)[-max(EARLY_MAX, condition.threshold) :]


def _complete(
    condition: _Condition, window: AfterWindow, opened: Opened, *, event: Seen
) -> tuple[AfterWindow, Effects]:
    """Enough has come: a reactive key fires, a proactive one is satisfied, and both close.

    A key stays open from an `after` event that is newer than all that was counted.
    """
    newest = opened.counted[-1]
    openers = opened.openers
    effects: Effects = ()
    if isinstance(condition, Reactive):
        effects = (Fire(event, opened.counted[-EVENTS_KEPT_MAX:], opened.opener, newest.at),)
        again = Opened(openers[0], opened.ends_at, None, (), openers[1:]) if openers else None
    else:
        if newest.opens:
            openers = (newest, *openers)
        again = replace(_opened_by(condition, openers[0]), openers=openers[1:]) if openers else None
    closed_at = max(newest.at, window.closed_at or newest.at)
    closed = AfterWindow(
        opened=again,
        closed_at=closed_at,
        alarmed=window.alarmed,
        early=_after(window.early, closed_at),
        ordinal=window.ordinal,
    )
    closed, more = _take_up(condition, closed, window.waiting)
    return closed, (*effects, *more)


def _take_up(
    condition: _Condition, window: AfterWindow, waiting: Iterable[Seen]
) -> tuple[AfterWindow, Effects]:
    """Those that came after a deadline that is still to be decided wait on."""
    effects: list[Effect] = []
    for seen in waiting:
        opened = window.opened
        if opened and opened.decided_at and opened.decided_at < seen.received_at:
            window = replace(window, waiting=(*window.waiting, seen))
            continue
        window, more = _take(condition, window, seen)
        effects += more
    return window, tuple(effects)


def _with_counted(opened: Opened, more: Sequence[Seen]) -> Opened:
    if not more:
        return opened
    counted = opened.counted
    for seen in more:
        counted = with_seen(counted, seen)
    return replace(opened, counted=counted, openers=_after(opened.openers, counted[-1].at))


def _with_openers(opened: Opened, more: Sequence[Seen]) -> Opened:
    openers = opened.openers
    for seen in more:
        if not opened.counted or seen.at > opened.counted[-1].at:
            openers = with_seen(openers, seen)
    return replace(opened, openers=openers[-OPENERS_MAX:])


def _after(several: tuple[Seen, ...], at: datetime) -> tuple[Seen, ...]:
    return tuple(one for one in several if one.at > at) if several else several
