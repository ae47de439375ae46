"""The tree of a trigger: event triggers at its leaves, composites above them."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import combinations, pairwise, product

from tests.core.reference.facts import EVENTS_SHOWN, Firing
from tests.core.reference.proactive import OpenedProactive, Switch
from tests.core.reference.reactive import NEVER, Counting, OpenedReactive
from tests.core.reference.reading import Written, for_each_of, is_proactive, rules_of, selection_of
from upshot.core.events import Event
from upshot.core.keys import Key, KeyPart

KeyFirings = Mapping[Key, Firing]
"""What one event or deadline makes of a node: at most one firing for each key."""

Window = Counting | OpenedReactive | OpenedProactive | Switch


@dataclass(frozen=True, slots=True)
class Due:
    """A deadline of one key of one leaf."""

    at: datetime
    leaf: "Leaf"
    key: Key


class Leaf:
    """An event trigger: a window for each key, that know nothing of each other."""

    def __init__(self, trigger: Written, for_each: tuple[KeyPart, ...], now: datetime) -> None:
        self.for_each = for_each
        self.selection = selection_of(trigger, for_each)
        self.rules = rules_of(trigger, keyed=bool(for_each))
        self.proactive = is_proactive(trigger)
        self.windows: dict[Key, Window] = {}
        self.start(now)

    def start(self, now: datetime) -> None:
        """What begins when the trigger is made or enabled: a switch that no key has to start."""
        if self.proactive and not self.selection.after and not self.for_each:
            self.windows[()] = Switch(self.rules, now)

    def stop(self) -> None:
        if self.proactive:
            self.windows.clear()

    def see(self, event: Event, moment: int, now: datetime) -> KeyFirings:
        key = self.selection.key_of(event)
        seen = self.selection.seen(event, moment, now)
        if key is None or seen is None:
            return {}
        if key not in self.windows:
            self.windows[key] = self._window(seen.at)
        fired = self.windows[key].arrive(seen)
        return {key: fired} if fired else {}

    def decide(self, due: Due, *, now: datetime, moment: int) -> KeyFirings:
        if due.leaf is not self:
            return {}
        fired = self.windows[due.key].decide(now)
        return {due.key: fired} if fired else {}

    def due(self) -> Iterator[Due]:
        for key, window in sorted(self.windows.items(), key=lambda item: item[0]):
            if window.deadline is not None:
                yield Due(at=window.deadline, leaf=self, key=key)

    def _window(self, first_at: datetime) -> Window:
        if self.selection.after:
            return OpenedProactive(self.rules) if self.proactive else OpenedReactive(self.rules)
        return Switch(self.rules, first_at) if self.proactive else Counting(self.rules)


@dataclass(frozen=True, slots=True)
class Recorded:
    """A child's firing that no firing of the composite has used up."""

    child: int
    firing: Firing
    moment: int

    @property
    def order(self) -> tuple[datetime, int]:
        return self.firing.at, self.moment


Chosen = tuple[Recorded, ...]


class Composite:
    """All recorded firings of the children are looked through whenever one is added."""

    def __init__(self, trigger: Written, for_each: tuple[KeyPart, ...], now: datetime) -> None:
        self.for_each = for_each
        self.kind = trigger["type"]
        self.children = [node_of(child, for_each, now) for child in trigger["triggers"]]
        self.within = timedelta(seconds=trigger.get("within") or 0)
        require = trigger.get("require", "all")
        self.require = required_of(require, len(self.children))
        self.recorded: dict[Key, list[Recorded]] = defaultdict(list)
        self.fired_at: dict[Key, datetime] = {}

    def start(self, now: datetime) -> None:
        for child in self.children:
            child.start(now)

    def stop(self) -> None:
        for child in self.children:
            child.stop()

    def see(self, event: Event, moment: int, now: datetime) -> KeyFirings:
        return self._look([child.see(event, moment, now) for child in self.children], moment)

    def decide(self, due: Due, *, now: datetime, moment: int) -> KeyFirings:
        decided = [child.decide(due, now=now, moment=moment) for child in self.children]
        return self._look(decided, moment)

    def due(self) -> Iterator[Due]:
        for child in self.children:
            yield from child.due()

    def _look(self, fired: list[KeyFirings], moment: int) -> KeyFirings:
        touched: dict[Key, None] = {}
        for number, firings in enumerate(fired):
            for child_key, child_firing in firings.items():
                key = child_key if self.for_each else ()
                if child_firing.at >= self.fired_at.get(key, NEVER):
                    self.recorded[key].append(Recorded(number, child_firing, moment))
                    touched[key] = None
        return {key: made for key in touched if (made := self._firing(key)) is not None}

    def _firing(self, key: Key) -> Firing | None:
        recorded = self.recorded[key]
        used = self._chain(recorded) if self.kind == "sequence" else self._together(recorded)
        if used is None:
            return None
        newest_first = sorted(used, key=lambda one: (*one.order, one.child), reverse=True)
        self.fired_at[key] = newest_first[0].firing.at
        self.recorded[key] = []
        counted = {seen.id: seen for one in used for seen in one.firing.counted}.values()
        return Firing(
            at=newest_first[0].firing.at,
            event=next((one.firing.event for one in newest_first if one.firing.event), None),
            counted=tuple(
                sorted(counted, key=lambda seen: (seen.at, seen.arrived_at, seen.id))[
                    -EVENTS_SHOWN:
                ]
            ),
        )

    def _together(self, recorded: list[Recorded]) -> Chosen | None:
        """The newest choice of enough children, whose newest firings are near each other. Of
        children that one event fired, the later ones."""
        newest = {one.child: one for one in sorted(recorded, key=lambda one: one.order)}
        choices = combinations(newest.values(), self.require)
        return max(
            (choice for choice in choices if self._near(choice)),
            key=lambda choice: sorted(((*one.order, one.child) for one in choice), reverse=True),
            default=None,
        )

    def _chain(self, recorded: list[Recorded]) -> Chosen | None:
        """The chain that began last; of those, each next child's firing as early as possible."""
        of_child = [[one for one in recorded if one.child == n] for n in range(len(self.children))]
        chains = [
            chain
            for chain in product(*of_child)
            if self._near(chain) and all(a.order < b.order for a, b in pairwise(chain))
        ]
        if not chains:
            return None
        begun_last = max(chain[0].order for chain in chains)
        begun = [chain for chain in chains if chain[0].order == begun_last]
        return min(begun, key=lambda chain: [one.order for one in chain])

    def _near(self, chosen: Chosen) -> bool:
        times = [one.firing.at for one in chosen]
        return not self.within or max(times) - min(times) <= self.within


Node = Leaf | Composite


def required_of(require: str | int, children: int) -> int:
    match require:
        case "any":
            return 1
        case "all":
            return children
        case _:
            return int(require)


def node_of(trigger: Written, inherited: tuple[KeyPart, ...], now: datetime) -> Node:
    for_each = for_each_of(trigger) or inherited
    if trigger.get("type", "event") == "event":
        return Leaf(trigger, for_each, now)
    return Composite(trigger, for_each, now)
