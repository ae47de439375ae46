"""The heart: `(condition, window, fact) -> (window, effects)`, with no clock and no database.

A new kind of condition is a member of `Condition`, a window, and a case in each function here.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import assert_never

from upshot.core import composites, counting, opening, silence
from upshot.core.facts import Began, ChildrenFired, Effects, Fact, Matched, Tick
from upshot.core.limits import ENDED_WINDOWS_KEPT, HELD_FOR_MAX, LATENESS_MAX
from upshot.core.triggers import Compound, Condition, Proactive, Reactive, Sequential
from upshot.core.windows import (
    AfterWindow,
    Collected,
    Counting,
    Seen,
    Switch,
    Window,
)


def step(condition: Condition, window: Window | None, fact: Fact) -> tuple[Window | None, Effects]:
    """Advance one key by one fact. None is a key of which nothing is remembered.

    Before an event, every deadline that is earlier than its evaluation must have been decided.
    """
    match condition, fact:
        case (Reactive() | Proactive(), Matched()) if condition.selection.after is not None:
            opened = window if isinstance(window, AfterWindow) else None
            return opening.take(condition, opened, fact)
        case Reactive(), Matched():
            return counting.count(condition, window if isinstance(window, Counting) else None, fact)
        case Proactive(), Matched():
            switch = window if isinstance(window, Switch) else None
            return silence.take(condition, switch, fact), ()
        case Proactive(), Tick() if isinstance(window, AfterWindow):
            return opening.decide(condition, window, fact)
        case Proactive(), Tick() if isinstance(window, Switch):
            return silence.decide(condition, window, fact)
        case Proactive(), Began() if condition.begins_by_itself:
            return silence.begin(window if isinstance(window, Switch) else None, fact), ()
        case (Compound() | Sequential(), ChildrenFired()):
            collected = window if isinstance(window, Collected) else None
            return composites.collect(condition, collected, fact)
        case _:
            return window, ()


def deadline_of(condition: Condition, window: Window | None) -> datetime | None:
    """When an absence has to be decided, if nothing more comes."""
    match condition, window:
        case Proactive(), AfterWindow(opened=opened):
            return None if opened is None else opened.decided_at
        case Proactive(), Switch():
            return silence.decided_at(condition, window)
        case _:
            return None


def forgotten_at(
    condition: Condition, window: Window, *, touched_at: datetime, retention: timedelta
) -> datetime:
    """From when on a key has been kept long enough.

    What is over is kept as long as a late event may reasonably come: it must not open the key anew
    or be counted twice. What only waits for an `after` event under way is kept no longer than that.
    """
    ended_for = min(ENDED_WINDOWS_KEPT, retention)
    match window:
        case AfterWindow(opened=opened, closed_at=closed_at):
            if opened is None:
                kept_for = LATENESS_MAX + HELD_FOR_MAX if closed_at is None else ended_for
                return touched_at + kept_for
            if opened.ends_at is not None:
                return max(opened.ends_at, touched_at) + ended_for
            return touched_at + retention
        case Counting() if condition.within:
            return touched_at + condition.within + ended_for
        case Counting() | Switch() | Collected():
            return touched_at + retention
        case _:
            assert_never(window)


class KeyState(StrEnum):
    """What a key is waiting for, as it is shown."""

    OPEN = "open"
    """Opened by an `after` event, or some of what is needed has come."""
    QUIET = "quiet"
    """It has fired, and ignores events until its quiet time is over."""
    WATCHING = "watching"
    """A dead man's switch that hears what it expects."""
    SILENT = "silent"
    """A dead man's switch after its alarm, until enough comes again."""
    CLOSED = "closed"
    """Nothing is open; only what closed it is remembered."""


@dataclass(frozen=True, slots=True)
class Described:
    """A window as it is shown. `deadline_at`: when it ends, or when an absence is decided."""

    state: KeyState
    started_at: datetime | None
    deadline_at: datetime | None
    count: int
    needed: int
    after: Seen | None
    counted: tuple[Seen, ...]


def span_of(condition: Condition, window: Window) -> tuple[datetime | None, datetime | None]:
    """Since when something is open for a key, and when it ends or an absence is decided."""
    match window:
        case AfterWindow(opened=None):
            return None, None
        case AfterWindow(opened=opened):
            assert opened is not None
            return opened.opener.at, opened.decided_at or opened.ends_at
        case Counting(counted=(), quiet_until=until):
            return until and until - (condition.within or timedelta(0)), until
        case Counting(counted=counted):
            within = condition.within
            return counted[0].at, counted[-1].at + within if within else None
        case Switch():
            return window.base_at, deadline_of(condition, window)
        case Collected(firings=()):
            return None, None
        case Collected(firings=firings):
            within = condition.within
            return firings[0].at, firings[-1].at + within if within else None
        case _:
            assert_never(window)


def describe(condition: Condition, window: Window) -> Described:
    """What is open for a key, in the same words for every kind of condition."""
    started_at, deadline_at = span_of(condition, window)
    state, after = KeyState.OPEN, None
    seen: tuple[Seen, ...] = ()
    count: int | None = None
    match window:
        case AfterWindow(opened=None) | Collected(firings=()):
            state = KeyState.CLOSED
        case AfterWindow(opened=opened):
            assert opened is not None
            after, seen = opened.opener, opened.counted
        case Counting(counted=counted, quiet_until=until):
            seen = counted
            if not counted:
                state = KeyState.CLOSED if until is None else KeyState.QUIET
        case Switch(newest=seen):
            state = KeyState.SILENT if window.silent_since else KeyState.WATCHING
        case Collected(firings=firings):
            count = len({firing.child for firing in firings})
            seen = tuple(firing.event for firing in firings if firing.event is not None)
        case _:
            assert_never(window)
    return Described(
        state=state,
        started_at=started_at,
        deadline_at=deadline_at,
        count=len(seen) if count is None else count,
        needed=_needed(condition),
        after=after,
        counted=seen,
    )


def _needed(condition: Condition) -> int:
    match condition:
        case Reactive() | Proactive():
            return condition.threshold
        case Compound():
            return condition.require
        case Sequential():
            return len(condition.children)
        case _:
            assert_never(condition)
