"""The clock and the lines: when which event is evaluated, and which deadline passes before it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import NAMESPACE_OID, UUID, uuid5

from tests.core.reference.nodes import Due, Node, node_of
from tests.core.reference.reading import Written, condition_of, event_of, time_of
from upshot.core.events import Event
from upshot.core.keys import part_name

HELD_FOR = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class Fired:
    """`at` is what the clock showed; `event_ids` are those counted, by their times."""

    trigger: str
    at: datetime
    labels: Mapping[str, str]
    event_id: UUID | None
    event_ids: tuple[UUID, ...]


def firings(triggers: Sequence[Written], lines: Sequence[Written]) -> list[Fired]:
    """What the triggers fire on a timeline, in the order fired. Every line of it is a dict:
    an event (with `occurred`, `received` or both), or `now`, `disable`, `enable`, `put`, `delete`.
    """
    clock = next(time for line in lines if (time := _time_in(line)) is not None)
    world = _World(clock=clock)
    for trigger in triggers:
        world.put(trigger)
    for number, line in enumerate(lines):
        world.read(line, number)
    return world.fired


@dataclass(slots=True)
class _Running:
    written: Written
    root: Node
    enabled: bool
    since: datetime
    """It sees what was received from then on."""


@dataclass(frozen=True, slots=True)
class _Held:
    """An event that waits for the one that it follows, until a time."""

    event: Event
    until: datetime


@dataclass(slots=True)
class _World:
    clock: datetime
    triggers: dict[str, _Running] = field(default_factory=dict)
    held: list[_Held] = field(default_factory=list)
    ids: set[UUID] = field(default_factory=set)
    evaluated: set[UUID] = field(default_factory=set)
    moments: int = 0
    fired: list[Fired] = field(default_factory=list)

    def read(self, line: Written, number: int) -> None:
        if "event" in line:
            self._receive(line, number)
        elif "now" in line:
            self._pass_to(time_of(line["now"]), inclusive=True)
        else:
            self._decide_overdue()
            self._change(line)

    def put(self, trigger: Written) -> None:
        """Make the trigger, or change it. Its windows live on while the condition is the same."""
        name = trigger["name"]
        enabled = trigger.get("enabled", True)
        present = self.triggers.get(name)
        if present is None or condition_of(present.written) != condition_of(trigger):
            root = node_of(trigger, (), self.clock)
            if not enabled:
                root.stop()
            was_enabled = present is not None and present.enabled
            since = present.since if present and was_enabled else self.clock
            self.triggers[name] = _Running(written=trigger, root=root, enabled=enabled, since=since)
        else:
            present.written = trigger
            self._enable(present) if enabled else self._disable(present)

    def _change(self, line: Written) -> None:
        match line:
            case {"put": trigger}:
                self.put(trigger)
            case {"delete": name}:
                del self.triggers[name]
            case {"enable": name}:
                self._enable(self.triggers[name])
            case {"disable": name}:
                self._disable(self.triggers[name])
            case _:
                raise ValueError(f"The line {line!r} is none.")

    def _enable(self, trigger: _Running) -> None:
        if not trigger.enabled:
            trigger.enabled, trigger.since = True, self.clock
            trigger.root.start(self.clock)

    def _disable(self, trigger: _Running) -> None:
        trigger.enabled = False
        trigger.root.stop()

    def _receive(self, line: Written, number: int) -> None:
        event_id = UUID(line["id"]) if line.get("id") else uuid5(NAMESPACE_OID, str(number))
        asked = _received_in(line) or self.clock
        self._pass_to(max(asked, self.clock), inclusive=False)
        if event_id in self.ids:
            return
        self.ids.add(event_id)
        occurred = time_of(line["occurred"]) if line.get("occurred") else asked
        event = event_of(line, event_id=event_id, occurred=occurred, received=self.clock)
        if event.follows in {None, event.id, *self.evaluated}:
            self._evaluate(event)
        else:
            self.held.append(_Held(event=event, until=event.received_at + HELD_FOR))

    def _evaluate(self, event: Event) -> None:
        self._decide_overdue()
        self.moments += 1
        for trigger in self.triggers.values():
            if trigger.enabled and event.received_at >= trigger.since:
                self._record(trigger, trigger.root.see(event, self.moments, self.clock))
        self.evaluated.add(event.id)
        for held in [held for held in self.held if held.event.follows == event.id]:
            self._release(held)

    def _release(self, held: _Held) -> None:
        self.held.remove(held)
        self._evaluate(held.event)

    def _pass_to(self, until: datetime, *, inclusive: bool) -> None:
        """Move the clock, stopping at all that is to be done on the way: what was held first."""

        def on_the_way(at: datetime) -> bool:
            return at < until or (inclusive and at == until)

        while True:
            releases = [held for held in self.held if on_the_way(held.until)]
            held = min(releases, key=lambda held: held.until, default=None)
            due = self._next_due()
            if held is not None and (due is None or held.until <= due[1].at):
                self.clock = max(self.clock, held.until)
                self._release(held)
            elif due is not None and on_the_way(due[1].at):
                self._decide(*due)
            else:
                break
        self.clock = max(self.clock, until)

    def _decide_overdue(self) -> None:
        while (due := self._next_due()) is not None and due[1].at < self.clock:
            self._decide(*due)

    def _next_due(self) -> tuple[_Running, Due] | None:
        """Of deadlines at one moment the first in order of triggers, children and keys."""
        return min(self._due(), key=lambda due: due[1].at, default=None)

    def _due(self) -> Iterator[tuple[_Running, Due]]:
        for trigger in self.triggers.values():
            if trigger.enabled:
                for due in trigger.root.due():
                    yield trigger, due

    def _decide(self, trigger: _Running, due: Due) -> None:
        self.clock = max(self.clock, due.at)
        self.moments += 1
        self._record(trigger, trigger.root.decide(due, now=self.clock, moment=self.moments))

    def _record(self, trigger: _Running, made: Mapping[tuple[str, ...], Any]) -> None:
        for key, firing in made.items():
            names = map(part_name, trigger.root.for_each)
            self.fired.append(
                Fired(
                    trigger=trigger.written["name"],
                    at=self.clock,
                    labels=dict(zip(names, key, strict=True)),
                    event_id=firing.event.id if firing.event else None,
                    event_ids=tuple(seen.id for seen in firing.counted),
                )
            )


def _time_in(line: Written) -> datetime | None:
    return time_of(line["now"]) if "now" in line else _received_in(line)


def _received_in(line: Written) -> datetime | None:
    written = line.get("received") or line.get("occurred")
    return time_of(written) if written else None
