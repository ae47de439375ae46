"""What triggers would have fired over stored events, with little of the events remembered."""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from msgspec.structs import replace

from upshot.core.evaluation import describe, forgotten_at
from upshot.core.events import Event
from upshot.core.following import Following, Turn
from upshot.core.index import TriggerIndex
from upshot.core.keys import Key
from upshot.core.limits import BACKTEST_STALE_DEADLINES_MAX
from upshot.core.runs import Firing
from upshot.core.timeline import Slot, Timeline, Unreadable
from upshot.core.triggers import Node, Proactive, Trigger
from upshot.core.windows import (
    AfterWindow,
    Collected,
    Counting,
    Seen,
    Switch,
    Window,
    kept_part,
)

_INSTANT = timedelta(microseconds=1)


class Side(StrEnum):
    """Whose firing it is, where two triggers are compared."""

    NEW = "new"
    OLD = "old"


@dataclass(frozen=True, slots=True)
class Found:
    """A firing. `only`: which of the two triggers has it; None where there is but one."""

    firing: Firing
    only: Side | None


class Backtest:
    """One trigger, or two to compare, over the events and deadlines of a span of time.

    Whoever drives it gives it every event of the span in the order of the log: `arrive`, then
    `decide_next` until nothing is due, then `take` for each turn; and `settle` now and then. What
    fired is in `found`; of two triggers only what one of them has and the other has not.
    """

    def __init__(
        self,
        new: Trigger,
        old: Trigger | None,
        *,
        since: datetime,
        retention: timedelta,
        stale_max: int = BACKTEST_STALE_DEADLINES_MAX,
    ) -> None:
        self.found: deque[Found] = deque()
        self.concerned = 0
        """Events that concerned the new trigger."""
        self.same = 0
        """Firings that both triggers have."""
        self.set_aside = 0
        self.reason: str | None = None
        """Why the first was, of those that could not be evaluated."""
        self.remembered = 0
        """Keys, and events that they remember: what the memory in use grows with."""
        self.clock = since
        self._new, self._old = new, old
        triggers = [new] if old is None else [new, old]
        self._index = TriggerIndex(triggers)
        self._timeline = Timeline(self._index)
        self._following = Following()
        self._retention = retention
        self._stale_max = stale_max
        self._sizes: dict[Slot, int] = {}
        self._ended: OrderedDict[Slot, datetime] = OrderedDict()
        self._pushed = 0
        self._differing: dict[tuple[Side, Key, UUID | None], list[Firing]] = {}
        self._differing_at = since
        for trigger in triggers:
            self._timeline.begin(trigger, since)

    def waits(self, event_id: UUID) -> bool:
        """Whether an event waits for another one to be evaluated."""
        return event_id in self._following

    def pass_by(self, received_at: datetime) -> bool:
        """An unwanted event has come. False: another may wait for it, let it arrive."""
        if len(self._following):
            return False
        self.clock = max(self.clock, received_at)
        return True

    def arrive(
        self, event_id: UUID, *, follows: UUID | None, received_at: datetime, is_known: bool
    ) -> list[Turn]:
        """Whose turn it is now that an event has come.

        `is_known`: the event that it follows stands before it in the log, and does not wait.
        """
        self.clock = max(self.clock, received_at)
        if follows is None and not len(self._following):
            return [Turn(event_id, received_at)]
        return list(
            self._following.arrive(
                event_id, follows=follows, received_at=received_at, is_known=is_known
            )
        )

    def overdue(self, *, before: datetime) -> list[Turn]:
        """Whose turn it is because they have waited as long as they may."""
        return list(self._following.overdue(before=before))

    def decide_next(self, *, before: datetime) -> bool:
        """Decide what is due next. False: nothing is, before this time."""
        return self._decide_next(before - _INSTANT)

    def take(self, event: Event, *, now: datetime) -> None:
        """Evaluate an event in its turn. What is due before `now` should have been decided."""
        concerns = self._timeline.concerns(event)
        if not concerns:
            return
        self._pushed += len(concerns)
        self.concerned += any(concern.trigger is self._new for concern in concerns)
        self._timeline.take(concerns, now=now)
        self._sort_firings()

    def end_next(self, *, until: datetime) -> bool:
        """All events have come: decide what is due next by `until`. False: nothing is."""
        if self._decide_next(until):
            return True
        self.clock = max(self.clock, until)
        self._tell_difference()
        return False

    def settle(self) -> None:
        """Let go of what need not stay in memory: events that the log still has, keys long over."""
        timeline = self._timeline
        for slot, touched_at in timeline.changed.items():
            window = timeline.windows.get(slot)
            self._ended.pop(slot, None)
            if window is None or isinstance(window, Unreadable):
                self.remembered -= self._sizes.pop(slot, 0)
                continue
            window = timeline.windows[slot] = bare(window)
            size = _size_of(window)
            self.remembered += size - self._sizes.get(slot, 0)
            self._sizes[slot] = size
            over_at = forgotten_at(
                self._node_of(slot).condition,
                window,
                touched_at=touched_at,
                retention=self._retention,
            )
            if over_at != touched_at + self._retention:
                self._ended[slot] = over_at
        timeline.changed.clear()
        timeline.late.clear()
        for aside in timeline.set_aside:
            self.reason = self.reason or aside.reason
        self.set_aside += len(timeline.set_aside)
        timeline.set_aside.clear()
        self._following.newly_held()
        self._following.newly_released()
        self._forget_ended()
        self._drop_stale_deadlines()

    def windows(self) -> Iterator[Window]:
        """All that is remembered."""
        for window in self._timeline.windows.values():
            if not isinstance(window, Unreadable):
                yield window

    def are_open(self) -> Iterator[bool]:
        """For each window, whether it is open for a key of the new trigger."""
        for slot, window in self._timeline.windows.items():
            if slot[0] != self._new.number or isinstance(window, Unreadable):
                yield False
                continue
            condition = self._node_of(slot).condition
            shown = describe(condition, window)
            is_over = (
                not isinstance(condition, Proactive)
                and shown.deadline_at is not None
                and shown.deadline_at <= self.clock
            )
            yield shown.started_at is not None and not is_over

    def _node_of(self, slot: Slot) -> Node:
        trigger = self._index.of_number(slot[0])
        assert trigger is not None
        return trigger.nodes[slot[1]]

    def _decide_next(self, until: datetime) -> bool:
        due_at = self._timeline.next_deadline()
        if due_at is None or due_at > until:
            return False
        self.clock = max(self.clock, due_at)
        self._timeline.pass_time(due_at)
        self._sort_firings()
        return True

    def _sort_firings(self) -> None:
        for firing in self._timeline.firings:
            if self._old is None:
                self.found.append(Found(firing, None))
            else:
                self._compare(firing)
        self._timeline.firings.clear()

    def _compare(self, firing: Firing) -> None:
        """Both triggers see the same event or deadline before the clock moves on."""
        if firing.at != self._differing_at:
            self._tell_difference()
            self._differing_at = firing.at
        event = firing.fire.event
        mine, other = (Side.NEW, Side.OLD) if firing.trigger is self._new else (Side.OLD, Side.NEW)
        same = firing.key, None if event is None else event.id
        twins = self._differing.get((other, *same))
        if twins:
            twins.pop()
            self.same += 1
        else:
            self._differing.setdefault((mine, *same), []).append(firing)

    def _tell_difference(self) -> None:
        for (side, _, _), firings in self._differing.items():
            self.found += [Found(firing, side) for firing in firings]
        self._differing.clear()

    def _forget_ended(self) -> None:
        """As the evaluator does with keys that nothing can reach any more."""
        while self._ended:
            slot, over_at = next(iter(self._ended.items()))
            if over_at > self.clock:
                return
            self._ended.popitem(last=False)
            self._timeline.windows.pop(slot, None)
            self.remembered -= self._sizes.pop(slot, 0)

    def _drop_stale_deadlines(self) -> None:
        """A deadline that was put off stays in the timeline's queue until it has passed."""
        windows = self._timeline.windows
        if self._pushed < self._stale_max + 4 * len(windows):
            return
        self._pushed = 0
        self._timeline = Timeline(self._index)
        self._timeline.load(windows)


def bare(window: Window) -> Window:
    """The window without any event: each can be read again by its id, should it fire."""
    window = kept_part(window, keeps_after=False, keeps_events=False, keeps_opener=False)
    match window:
        case AfterWindow(waiting=(_, *_)):
            return replace(window, waiting=_each(window.waiting, _without_event))
        case Switch():
            return replace(
                window,
                newest=_each(window.newest, _without_event),
                waiting=_each(window.waiting, _without_event),
            )
        case Collected():
            return replace(
                window,
                firings=tuple(
                    replace(one, event=one.event and _without_event(one.event))
                    for one in window.firings
                ),
            )
        case AfterWindow() | Counting():
            return window


def _each(several: tuple[Seen, ...], change: Callable[[Seen], Seen]) -> tuple[Seen, ...]:
    return tuple(map(change, several))


def _without_event(seen: Seen) -> Seen:
    return seen if seen.event is None else replace(seen, event=None)


def _size_of(window: Window) -> int:
    """One for the window, and one for each event that it remembers."""
    match window:
        case AfterWindow(opened=None):
            return 1 + len(window.early)
        case AfterWindow(opened=opened):
            assert opened is not None
            seen = len(opened.counted) + len(opened.openers) + 1
            return 1 + seen + len(window.early) + len(window.waiting)
        case Counting():
            return 1 + len(window.counted)
        case Switch():
            return 1 + len(window.newest) + len(window.waiting)
        case Collected():
            return 1 + sum(1 + len(one.counted) for one in window.firings)
