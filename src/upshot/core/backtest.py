"""What triggers would have fired over stored events, with little of the events remembered."""

from collections import OrderedDict, deque
from collections.abc import Iterator
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
from upshot.core.triggers import Condition, Proactive, Trigger
from upshot.core.windows import (
    AfterWindow,
    Collected,
    Counting,
    Opened,
    Seen,
    Switch,
    Window,
)


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
        self.holds_any = False
        """Whether any event waits. If not, only those that follow another need `arrive`."""
        self._new, self._old = new, old
        triggers = [new] if old is None else [new, old]
        self._nodes = {trigger.number: trigger.nodes for trigger in triggers}
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

    def reach(self, at: datetime) -> None:
        """All that was received up to here has come. The clock never goes back."""
        if at > self.clock:
            self.clock = at

    def arrive(
        self, event_id: UUID, *, follows: UUID | None, received_at: datetime, is_known: bool
    ) -> list[Turn]:
        """Whose turn it is now that an event has come.

        `is_known`: the event that it follows stands before it in the log, and does not wait.
        """
        self.reach(received_at)
        turns = list(
            self._following.arrive(
                event_id, follows=follows, received_at=received_at, is_known=is_known
            )
        )
        self.holds_any = len(self._following) > 0
        return turns

    def overdue(self, *, before: datetime) -> list[Turn]:
        """Whose turn it is because they have waited as long as they may."""
        turns = list(self._following.overdue(before=before))
        self.holds_any = len(self._following) > 0
        return turns

    def decide_next(self, *, before: datetime) -> bool:
        """Decide what is due next. False: nothing is, before this time."""
        due_at = self._timeline.next_deadline()
        if due_at is None or due_at >= before:
            return False
        self._decide(due_at)
        return True

    def take_next(self, event: Event) -> bool:
        """Evaluate an event on its receipt. False: something is due first, one of it decided."""
        if self.decide_next(before=event.received_at):
            return False
        self.take(event, now=event.received_at)
        return True

    def take(self, event: Event, *, now: datetime) -> None:
        """Evaluate an event in its turn. What is due before `now` should have been decided."""
        concerns = self._timeline.concerns(event)
        if not concerns:
            return
        self._pushed += len(concerns)
        for concern in concerns:
            if concern.trigger is self._new:
                self.concerned += 1
                break
        self._timeline.take(concerns, now=now)
        self._sort_firings()

    def end_next(self, *, until: datetime) -> bool:
        """All events have come: decide what is due next by `until`. False: nothing is."""
        due_at = self._timeline.next_deadline()
        if due_at is not None and due_at <= until:
            self._decide(due_at)
            return True
        self.clock = max(self.clock, until)
        self._tell_difference()
        return False

    def settle(self) -> None:
        """Let go of what need not stay in memory: events that the log still has, keys long over."""
        timeline, windows, sizes = self._timeline, self._timeline.windows, self._sizes
        for slot, touched_at in timeline.changed.items():
            if self._ended:
                self._ended.pop(slot, None)
            window = windows.get(slot)
            if window is None or isinstance(window, Unreadable):
                self.remembered -= sizes.pop(slot, 0)
                continue
            window = windows[slot] = bare(window)
            size, size_before = _size_of(window), sizes.get(slot, 0)
            if size != size_before:
                self.remembered += size - size_before
                sizes[slot] = size
            over_at = forgotten_at(
                self._nodes[slot[0]][slot[1]].condition,
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
            yield _is_open(self._nodes[slot[0]][slot[1]].condition, window, self.clock)

    def _decide(self, due_at: datetime) -> None:
        self.reach(due_at)
        self._timeline.pass_time(due_at)
        self._sort_firings()

    def _sort_firings(self) -> None:
        if not self._timeline.firings:
            return
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
    match window:
        case AfterWindow(opened=opened):
            return replace(
                window,
                opened=opened and _bare_opened(opened),
                early=_bare(window.early),
                waiting=_bare(window.waiting),
            )
        case Counting():
            return replace(window, counted=_bare(window.counted))
        case Switch():
            return replace(window, newest=_bare(window.newest), waiting=_bare(window.waiting))
        case Collected():
            return replace(
                window,
                firings=tuple(
                    replace(
                        one,
                        event=one.event and _without_event(one.event),
                        counted=_bare(one.counted),
                    )
                    for one in window.firings
                ),
            )


def _bare_opened(opened: Opened) -> Opened:
    return replace(
        opened,
        opener=_without_event(opened.opener),
        counted=_bare(opened.counted),
        openers=_bare(opened.openers),
    )


def _bare(several: tuple[Seen, ...]) -> tuple[Seen, ...]:
    return tuple(map(_without_event, several)) if several else several


def _without_event(seen: Seen) -> Seen:
    return seen if seen.event is None else replace(seen, event=None)


def _size_of(window: Window) -> int:
    """One for the window, and one for each event that it remembers."""
    match window:
        case AfterWindow(opened=opened):
            size = 1 + len(window.early)
            if opened is not None:
                size += 1 + len(opened.counted) + len(opened.openers) + len(window.waiting)
            return size
        case Counting():
            return 1 + len(window.counted)
        case Switch():
            return 1 + len(window.newest) + len(window.waiting)
        case Collected():
            return 1 + sum(1 + len(one.counted) for one in window.firings)


def _is_open(condition: Condition, window: Window, now: datetime) -> bool:
    """Whether a key that is shown as started (`describe`) is not over yet."""
    if isinstance(window, AfterWindow):
        opened = window.opened
        return opened is not None and (
            opened.ends_at is None or opened.ends_at > now or isinstance(condition, Proactive)
        )
    shown = describe(condition, window)
    is_over = (
        not isinstance(condition, Proactive)
        and shown.deadline_at is not None
        and shown.deadline_at <= now
    )
    return shown.started_at is not None and not is_over
