"""Events and deadlines in their order, against the triggers in force and the windows loaded."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from heapq import heapify, heappop, heappush
from types import MappingProxyType

from msgspec import Struct
from msgspec.structs import replace

from upshot.core.evaluation import deadline_of, step
from upshot.core.events import Event
from upshot.core.facts import Began, ChildrenFired, Fact, Fire, Late, Matched, Tick
from upshot.core.index import TriggerIndex
from upshot.core.keys import Key
from upshot.core.runs import Firing
from upshot.core.triggers import Node, Proactive, Trigger
from upshot.core.windows import Window

Slot = tuple[int, int, Key]
"""Where a window is kept: the trigger's number, the node's, and the key."""


_LONG_AGO = datetime.min.replace(tzinfo=UTC)


class Concern(Struct, frozen=True, gc=False):
    """An event concerns a leaf of a trigger, under a key.

    A Struct and not a dataclass: one is made for every event that is evaluated.
    """

    trigger: Trigger
    node: Node
    key: Key
    fact: Matched

    @property
    def slots(self) -> Sequence[Slot]:
        """Where its window is, and whatever may be due before it in the same composites."""
        trigger, node, key = self.trigger, self.node, self.key
        if node.parent is None:
            return ((trigger.number, node.number, key),)
        slots = list(slots_up(trigger, node, key))
        is_keyed = bool(trigger.condition.for_each)
        for leaf, condition in trigger.leaves:
            if isinstance(condition, Proactive) and (is_keyed or not condition.for_each):
                slots += slots_up(trigger, leaf, key if is_keyed else ())
        return slots

    @property
    def awaits_any_key(self) -> bool:
        """Whether alarms of any key come before it: its composite does not tell keys apart.

        `slots` does not have those.
        """
        return (
            self.node.parent is not None
            and not self.trigger.condition.for_each
            and any(
                isinstance(condition, Proactive) and bool(condition.for_each)
                for _, condition in self.trigger.leaves
            )
        )


@dataclass(frozen=True, slots=True)
class SetAside:
    """An event that could not be evaluated for a trigger, and why; all else went on.

    None: it was a deadline, of a key that had no event.
    """

    event: Event | None
    trigger: Trigger | None
    reason: str


@dataclass(frozen=True, slots=True)
class CameLate:
    """An expected event that came after the alarm which missed it."""

    event: Event
    trigger: Trigger
    key: Key


@dataclass(frozen=True, slots=True)
class Told:
    """What a timeline has to tell, apart from the windows that it changed."""

    firings: list[Firing]
    late: list[CameLate]
    set_aside: list[SetAside]


class Unreadable(Exception):
    """A stored window that cannot be read: its key's events are set aside."""


class Timeline:
    """Advances windows, fact by fact. What it did is in `changed`, `firings`, `late`, `set_aside`.

    It decides every deadline earlier than an event before it looks at the event. The windows it
    may need are put in with `load`; the deadlines of others are not its concern.
    """

    def __init__(self, index: TriggerIndex) -> None:
        self.index = index
        self.windows: dict[Slot, Window | Unreadable] = {}
        self.changed: dict[Slot, datetime] = {}
        """When each window that was changed, or closed, was touched last."""
        self.firings: list[Firing] = []
        self.late: list[CameLate] = []
        self.set_aside: list[SetAside] = []
        self._due: list[tuple[datetime, Slot]] = []
        self._clock = _LONG_AGO

    def load(
        self,
        windows: Mapping[Slot, Window | Unreadable],
        *,
        not_before: Mapping[Slot, datetime | None] = MappingProxyType({}),
    ) -> None:
        """`not_before`: when a change of the condition moved their deadlines, at the earliest."""
        self.windows.update(windows)
        for slot in windows:
            due_at = self._deadline_of(slot)
            if due_at is not None:
                self._due.append((max(due_at, not_before.get(slot) or due_at), slot))
        heapify(self._due)

    def concerns(self, event: Event) -> list[Concern]:
        """Which keys an event concerns. What raises is set aside."""
        found = []
        for candidate in self.index.candidates(event):
            selection = candidate.selection
            try:
                if not selection.concerns(event):
                    continue
                key = selection.key_of(event)
            except Exception as error:
                self.set_aside.append(SetAside(event, candidate.trigger, _reason(error)))
                continue
            if key is not None:
                fact = Matched(event, candidate.opens, candidate.expected)
                found.append(Concern(candidate.trigger, candidate.node, key, fact))
        return found

    def take(self, concerns: Iterable[Concern], *, now: datetime) -> None:
        """Evaluate one event, after every deadline before `now` (usually its receipt)."""
        self._decide(before=now)
        if now > self._clock:
            self._clock = now
        fired: dict[int, _Fired] = {}
        for concern in concerns:
            trigger, fact = concern.trigger, concern.fact
            event = fact.event
            if now != event.received_at:
                fact = replace(fact, held_until=now)
            fire = self._step(trigger, concern.node, concern.key, fact, now)
            if fire is not None:
                if trigger.number not in fired:
                    fired[trigger.number] = _Fired(trigger, (event.id.hex,))
                fired[trigger.number].add(concern.node, concern.key, fire)
        for one in fired.values():
            self._tell_parents(one, now)
        # What was held, or came late, may have made a deadline that has passed already.
        self._decide(before=now)

    def pass_time(self, until: datetime) -> None:
        """Decide the deadlines that are not later than `until`, in their order."""
        while self._due and self._due[0][0] <= until:
            self._decide_first()

    def catch_up(self, until: datetime) -> None:
        """As `pass_time`, but of several alarms that one key missed there is only one."""
        while self._due and self._due[0][0] <= until:
            self._decide_first(now=until)

    def begin(self, trigger: Trigger, at: datetime) -> None:
        """The trigger is made or enabled: its switches that need no event count from here."""
        for node, condition in trigger.leaves:
            if isinstance(condition, Proactive) and condition.begins_by_itself:
                self._step(trigger, node, (), Began(at), at)

    def forget(self, trigger: Trigger, *, only_proactive: bool = False) -> None:
        """Drop the windows of a trigger, among those that are here."""
        nodes = {
            node.number
            for node in trigger.nodes
            if not only_proactive or isinstance(node.condition, Proactive)
        }
        for slot in list(self.windows):
            if slot[0] == trigger.number and slot[1] in nodes:
                del self.windows[slot]

    def told(self) -> Told:
        """What it has to tell, once."""
        told = Told(self.firings, self.late, self.set_aside)
        self.firings, self.late, self.set_aside = [], [], []
        return told

    def next_deadline(self) -> datetime | None:
        return self._due[0][0] if self._due else None

    def _decide(self, *, before: datetime) -> None:
        while self._due and self._due[0][0] < before:
            self._decide_first()

    def _decide_first(self, now: datetime | None = None) -> None:
        due_at, slot = heappop(self._due)
        moved_to = self._deadline_of(slot)
        if moved_to is None or moved_to > due_at:
            return
        number, node_number, key = slot
        trigger = self.index.of_number(number)
        assert trigger is not None
        node = trigger.nodes[node_number]
        # A deadline may be made when it has passed already; the clock never goes back.
        now = self._clock = max(now or due_at, self._clock)
        fire = self._step(trigger, node, key, Tick(now), now)
        if fire is not None:
            # By the end of its window: two windows of a key may be decided at the same moment.
            cause = ("deadline", str(node_number), fire.at.isoformat(), *key)
            fired = _Fired(trigger, cause)
            fired.add(node, key, fire)
            self._tell_parents(fired, now)

    def _step(
        self, trigger: Trigger, node: Node, key: Key, fact: Fact, now: datetime
    ) -> Fire | None:
        """One key by one fact; what raises is set aside."""
        slot = (trigger.number, node.number, key)
        window = self.windows.get(slot)
        try:
            if isinstance(window, Unreadable):
                raise window
            after, effects = step(node.condition, window, fact)
        except Exception as error:
            told = _events_of(fact) or [None]
            self.set_aside += [SetAside(event, trigger, _reason(error)) for event in told]
            return None
        if after is not window:
            self._keep(slot, node, after, now)
        fire = None
        for effect in effects:
            if isinstance(effect, Late):
                if effect.event.event is not None:
                    self.late.append(CameLate(effect.event.event, trigger, key))
            else:
                fire = effect
        return fire

    def _keep(self, slot: Slot, node: Node, window: Window | None, now: datetime) -> None:
        self.changed[slot] = now
        if window is None:
            self.windows.pop(slot, None)
            return
        self.windows[slot] = window
        if isinstance(node.condition, Proactive):
            due_at = deadline_of(node.condition, window)
            if due_at is not None:
                heappush(self._due, (due_at, slot))

    def _deadline_of(self, slot: Slot) -> datetime | None:
        trigger, window = self.index.of_number(slot[0]), self.windows.get(slot)
        if trigger is None or window is None or isinstance(window, Unreadable):
            return None
        if slot[1] >= len(trigger.nodes):
            return None
        return deadline_of(trigger.nodes[slot[1]].condition, window)

    def _tell_parents(self, fired: "_Fired", now: datetime) -> None:
        """Composites look once, when all their children have: the deepest first."""
        trigger = fired.trigger
        while fired.of_parents:
            number = max(fired.of_parents)
            node = trigger.nodes[number]
            for key, firings in fired.of_parents.pop(number).items():
                fire = self._step(trigger, node, key, ChildrenFired(tuple(firings)), now)
                if fire is not None:
                    fired.add(node, key, fire)
        self.firings += [
            Firing(trigger=trigger, key=key, fire=fire, at=now, cause=fired.cause)
            for key, fire in fired.of_root
        ]


class _Fired:
    """What fired because of one event or deadline, on its way up a trigger's tree."""

    __slots__ = ("cause", "of_parents", "of_root", "trigger")

    def __init__(self, trigger: Trigger, cause: tuple[str, ...]) -> None:
        self.trigger = trigger
        self.cause = cause
        self.of_root: list[tuple[Key, Fire]] = []
        self.of_parents: dict[int, dict[Key, list[tuple[int, Fire]]]] = {}

    def add(self, node: Node, key: Key, fire: Fire) -> None:
        if node.parent is None:
            self.of_root.append((key, fire))
            return
        of_keys = self.of_parents.setdefault(node.parent, defaultdict(list))
        of_keys[_key_in(self.trigger.nodes[node.parent], key)].append((node.child, fire))


def slots_up(trigger: Trigger, node: Node, key: Key) -> Iterator[Slot]:
    """Where the node's window is kept, and those of the composites above it."""
    yield trigger.number, node.number, key
    while node.parent is not None:
        node = trigger.nodes[node.parent]
        key = _key_in(node, key)
        yield trigger.number, node.number, key


def _key_in(parent: Node, key: Key) -> Key:
    """A child's key as its composite has it, which may not tell keys apart."""
    return key if parent.condition.for_each else ()


def _events_of(fact: Fact) -> list[Event | None]:
    """What cannot be evaluated, when a fact cannot."""
    match fact:
        case Matched():
            return [fact.event]
        case ChildrenFired(firings=firings):
            return [
                fire.event.event
                for _, fire in firings
                if fire.event is not None and fire.event.event is not None
            ]
        case _:
            return []


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
