"""A trigger's own past, told again up to one event: what its keys remembered when it came."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from msgspec.structs import replace

from upshot.core.evaluation import deadline_of, forgotten_at, step
from upshot.core.events import Event
from upshot.core.facts import ChildrenFired, Effects, Fire, Matched
from upshot.core.following import Following, Held, Turn
from upshot.core.index import TriggerIndex
from upshot.core.keys import Key
from upshot.core.limits import EXPLAIN_ALARMS_MAX
from upshot.core.timeline import Concern, Slot, Timeline, Unreadable, slots_up
from upshot.core.triggers import Node, Proactive, Trigger
from upshot.core.windows import Window

_INSTANT: Final = timedelta(microseconds=1)
_LONG_AGO: Final = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """From here on this version holds. `trigger` None: it could not be read."""

    at: datetime
    trigger: Trigger | None
    enabled: bool
    forgets: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyForgotten:
    """What was open for a key ends here."""

    at: datetime
    key: Key


Change = Saved | KeyForgotten


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """An event of the log. `event` None: it is of no interest but to those that follow it."""

    id: UUID
    follows: UUID | None
    received_at: datetime
    event: Event | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What an event did to a key, at one of the trigger's conditions."""

    node: Node
    key: Key
    fact: Matched | ChildrenFired
    before: Window | None
    after: Window | None
    effects: Effects

    @property
    def fire(self) -> Fire | None:
        return next((effect for effect in self.effects if isinstance(effect, Fire)), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """An event's turn. `trigger` None: none was in force.

    `steps` are those of leaves, then of the composites above them whose children fired, the deepest
    first. `root` is what the trigger itself remembered then, where the event concerned it.
    """

    trigger: Trigger | None
    now: datetime
    steps: tuple[Step, ...] = ()
    root: Window | None = None
    error: str | None = None
    """Why it could not be evaluated."""


class History:
    """Plays the log for one trigger and those keys of it that an event is about.

    What happens, in the log's order, is told by `change` and `arrive`. `keys` None: all keys.
    """

    def __init__(self, event: Event, *, keys: Collection[Key] | None, retention: timedelta) -> None:
        self._event = event
        self._keys = keys
        self._retention = retention
        self._touched: dict[Slot, datetime] = {}
        self._timeline = Timeline(TriggerIndex())
        self._trigger: Trigger | None = None
        self._enabled_since = _LONG_AGO
        self._rhythm = timedelta(0)
        self._following = Following()
        self._here: dict[UUID, Event | None] = {}
        self._evaluated: set[UUID] = set()
        self.moment: Moment | None = None
        """The event's turn, once it has come."""

    def is_awaited(self, event_id: UUID) -> bool:
        """Whether an event is held until this one comes."""
        return self._following.is_followed(event_id)

    def knows(self, event_id: UUID) -> bool:
        """Whether this event has come."""
        return event_id in self._evaluated or event_id in self._following

    def change(self, change: Change) -> None:
        """As the evaluator does: what was due before comes first."""
        self._take_turns(self._following.overdue(before=change.at))
        self._pass_time(change.at - _INSTANT)
        match change:
            case KeyForgotten(at=at, key=key):
                for slot in [slot for slot in self._timeline.windows if slot[2] == key]:
                    del self._timeline.windows[slot]
                if not key and self._trigger is not None:
                    self._timeline.begin(self._trigger, at)
            case Saved():
                self._save(change)
        self._tidy()

    def arrive(self, arrival: Arrival, *, is_known: bool) -> None:
        """`is_known`: the event that it follows was evaluated before all that is told here."""
        self._here[arrival.id] = arrival.event
        self._take_turns(
            self._following.arrive(
                arrival.id,
                follows=arrival.follows,
                received_at=arrival.received_at,
                is_known=is_known or arrival.follows in self._evaluated,
            )
        )

    def hold(self, held: Held) -> None:
        """An event from before, of no interest but to those that follow it, that still waits."""
        self._here[held.id] = None
        self._following.hold(held)

    def finish(self, until: datetime) -> None:
        """Nothing more comes until then."""
        self._take_turns(self._following.overdue(before=until))

    def _save(self, saved: Saved) -> None:
        timeline, trigger = self._timeline, saved.trigger
        if saved.forgets:
            timeline.windows.clear()
        if self._trigger is not None:
            timeline.index.remove(self._trigger.id)
        if trigger is None or not saved.enabled:
            if trigger is not None:
                timeline.forget(trigger, only_proactive=True)
            self._trigger = None
            return
        timeline.index.put(trigger)
        self._rhythm = _rhythm_of(trigger)
        # When each kept key is due has to be found anew.
        timeline.load(dict(timeline.windows))
        timeline.begin(trigger, saved.at)
        if self._trigger is None:
            self._enabled_since = saved.at
        self._trigger = trigger

    def _take_turns(self, turns: Iterable[Turn]) -> None:
        for turn in turns:
            event = self._here.pop(turn.id)
            self._evaluated.add(turn.id)
            if turn.id == self._event.id:
                self.moment = self._turn(turn.now)
                return
            if event is not None:
                concerns = []
                if not self._is_from_before(event, turn.now):
                    concerns = list(self._concerns(event))
                if concerns:
                    self._pass_time(turn.now - _INSTANT)
                    self._forget_old(concerns, turn.now)
                    self._timeline.take(concerns, now=turn.now)
                self._tidy()

    def _tidy(self) -> None:
        timeline = self._timeline
        self._touched.update(timeline.changed)
        timeline.changed.clear()
        for told in (timeline.firings, timeline.late, timeline.set_aside):
            told.clear()

    def _pass_time(self, until: datetime) -> None:
        """Of the alarms of a long silence only the last ones are given one by one."""
        if until - _LONG_AGO > self._rhythm:
            self._timeline.catch_up(until - self._rhythm)
        self._timeline.pass_time(until)

    def _forget_old(self, concerns: Iterable[Concern], now: datetime) -> None:
        """As the server does with keys that have not been touched for long."""
        for concern in concerns:
            for slot in concern.slots:
                window, touched_at = self._timeline.windows.get(slot), self._touched.get(slot)
                if window is None or isinstance(window, Unreadable) or touched_at is None:
                    continue
                condition = concern.trigger.nodes[slot[1]].condition
                if deadline_of(condition, window) is None and now > forgotten_at(
                    condition, window, touched_at=touched_at, retention=self._retention
                ):
                    del self._timeline.windows[slot]

    def _is_from_before(self, event: Event, now: datetime) -> bool:
        """Whether it waited until the trigger was there, which sees only what came since."""
        return now != event.received_at and event.received_at < self._enabled_since

    def _concerns(self, event: Event) -> Iterator[Concern]:
        light = replace(event, payload="{}", related=(), resource={})
        for concern in self._timeline.concerns(event):
            if self._keys is None or concern.key in self._keys:
                fact = concern.fact
                yield Concern(
                    concern.trigger,
                    concern.node,
                    concern.key,
                    Matched(light, fact.opens, fact.expected),
                )

    def _turn(self, now: datetime) -> Moment:
        self._pass_time(now - _INSTANT)
        self._tidy()
        trigger = self._trigger
        if trigger is None or self._is_from_before(self._event, now):
            return Moment(trigger=None, now=now)
        concerns = list(self._concerns(self._event))
        self._forget_old(concerns, now)
        errors = [aside.reason for aside in self._timeline.set_aside]
        steps: list[Step] = []
        try:
            steps = self._steps(trigger, concerns, now)
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}")
        return Moment(
            trigger=trigger,
            now=now,
            steps=tuple(steps),
            root=self._root(trigger, concerns),
            error=errors[0] if errors else None,
        )

    def _root(self, trigger: Trigger, concerns: Iterable[Concern]) -> Window | None:
        for concern in concerns:
            *_, (_, node, key) = concern.slots
            return self._window(trigger, trigger.nodes[node], key)
        return None

    def _steps(self, trigger: Trigger, concerns: Iterable[Concern], now: datetime) -> list[Step]:
        """Every condition that the event reaches, one by one: leaves, then whom they tell."""
        steps = []
        told: dict[int, dict[Key, list[tuple[int, Fire]]]] = defaultdict(lambda: defaultdict(list))

        def take(node: Node, key: Key, fact: Matched | ChildrenFired) -> None:
            before = self._window(trigger, node, key)
            after, effects = step(node.condition, before, fact)
            done = Step(node=node, key=key, fact=fact, before=before, after=after, effects=effects)
            steps.append(done)
            if done.fire is not None and node.parent is not None:
                _, parent, parent_key = list(slots_up(trigger, node, key))[1]
                told[parent][parent_key].append((node.child, done.fire))

        for concern in concerns:
            fact = concern.fact
            if now != fact.event.received_at:
                fact = replace(fact, held_until=now)
            take(concern.node, concern.key, fact)
        while told:
            number = max(told)
            for key, firings in told.pop(number).items():
                take(trigger.nodes[number], key, ChildrenFired(tuple(firings)))
        return steps

    def _window(self, trigger: Trigger, node: Node, key: Key) -> Window | None:
        window = self._timeline.windows.get((trigger.number, node.number, key))
        return None if isinstance(window, Unreadable) else window


def _rhythm_of(trigger: Trigger) -> timedelta:
    """How long before an event alarms have to be given one by one: what a composite may use.

    For a key's own state it is all the same how many alarms a silence had.
    """
    repeated = [
        condition.within
        for _, condition in trigger.leaves
        if isinstance(condition, Proactive) and condition.repeat
    ]
    if len(trigger.nodes) == 1 or not repeated:
        return timedelta(0)
    return max(2 * max(repeated), EXPLAIN_ALARMS_MAX * min(repeated))
