"""A trigger as the evaluator uses it: a condition, and what to do when it is met."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import Any
from uuid import UUID

from upshot.core.events import FLOW_EVENT_PREFIX, OWN_EVENT_PREFIX, Event
from upshot.core.keys import Key, KeyPart, key_of, part_name
from upshot.core.matching import LabelMatch, related_hold
from upshot.core.patterns import Patterns
from upshot.core.uuids import framed
from upshot.core.where import Where


@dataclass(frozen=True, slots=True)
class Selection:
    """Which events concern an event trigger, and what keeps one key from another.

    `after` None: no event opens the key.
    """

    expect: Patterns
    after: Patterns | None
    match: LabelMatch
    match_related: tuple[LabelMatch, ...]
    where: Where | None
    for_each: tuple[KeyPart, ...]

    def concerns(self, event: Event) -> bool:
        """Whether all but the name fits: labels, related resources, `where`."""
        return (
            self.match.holds(event.resource)
            and (not self.match_related or related_hold(self.match_related, event.related))
            and (self.where is None or self.where.holds(event))
        )

    def key_of(self, event: Event) -> Key | None:
        return key_of(event, self.for_each)

    @property
    def names_own_events(self) -> bool:
        """Whether it asks for events that carry how deep a chain of runs is."""
        return any(
            pattern.text.startswith((OWN_EVENT_PREFIX, FLOW_EVENT_PREFIX))
            for patterns in (self.expect, self.after)
            if patterns is not None
            for pattern in patterns.positive
        )


@dataclass(frozen=True, slots=True)
class Reactive:
    """Fires when `threshold` expected events have come. `within` zero: no limit of time."""

    selection: Selection
    threshold: int
    within: timedelta
    lateness: timedelta

    @property
    def for_each(self) -> tuple[KeyPart, ...]:
        return self.selection.for_each


@dataclass(frozen=True, slots=True)
class Proactive:
    """Fires when fewer than `threshold` expected events have come by the end of `within`."""

    selection: Selection
    threshold: int
    within: timedelta
    lateness: timedelta
    repeat: bool

    @property
    def for_each(self) -> tuple[KeyPart, ...]:
        return self.selection.for_each

    @property
    def begins_by_itself(self) -> bool:
        """Whether the silence is counted from the trigger's making: no event is needed."""
        return self.selection.after is None and not self.selection.for_each


@dataclass(frozen=True, slots=True)
class Compound:
    """Fires when `require` different children have, `within` of each other (zero: whenever)."""

    children: tuple["Condition", ...]
    require: int
    within: timedelta
    for_each: tuple[KeyPart, ...]


@dataclass(frozen=True, slots=True)
class Sequential:
    """Fires when the children have, in their order, all `within` so long (zero: however long)."""

    children: tuple["Condition", ...]
    within: timedelta
    for_each: tuple[KeyPart, ...]


EventCondition = Reactive | Proactive
"""A condition on events themselves: a leaf of the tree."""

Composite = Compound | Sequential
"""A condition on the firings of its children."""

Condition = EventCondition | Composite
"""What a trigger waits for; the evaluator's cases are closed over this union."""


@dataclass(frozen=True, slots=True)
class Node:
    """A condition in its place in a trigger's tree. `number` counts in preorder; 0 is the root."""

    number: int
    condition: Condition
    parent: int | None
    path: tuple[int, ...]
    """Which child to take at each step from the root down to here."""

    @property
    def child(self) -> int:
        """Which of its parent's children it is."""
        return self.path[-1]


@dataclass(frozen=True, slots=True)
class Run:
    """Run a deployment, `schedule_after` later. None: the one that the firing's event tells of."""

    deployment: str | None
    parameters: str
    """JSON text whose strings are templates."""
    schedule_after: timedelta
    kind: str
    """What it is called where it is announced."""


@dataclass(frozen=True, slots=True)
class SetEnabled:
    """Pause or resume a trigger. None: the one that the firing's event tells of."""

    trigger_id: UUID | None
    enabled: bool

    @property
    def kind(self) -> str:
        return "resume-automation" if self.enabled else "pause-automation"


@dataclass(frozen=True, slots=True)
class Nothing:
    """Fire, and leave it at that: a firing may be worth an announcement alone."""

    @property
    def kind(self) -> str:
        return "do-nothing"


Action = Run | SetEnabled | Nothing
"""What a firing does; closed, as conditions are."""


@dataclass(frozen=True)
class Trigger:
    """A registered trigger at one version. `number` stands for `id` in narrow rows."""

    id: UUID
    number: int
    version: int
    name: str
    title: str
    """What it is called where it is announced: its name, or something nicer."""
    condition: Condition
    actions: tuple[Action, ...]
    is_plain: bool
    """It names one deployment instead of actions."""
    announces: bool
    keeps_after: bool
    keeps_events: bool
    """Whether the templates reach the opening event, or those counted: kept with the key then."""
    nodes: tuple[Node, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "nodes", tuple(_numbered(self.condition)))

    @cached_property
    def leaves(self) -> tuple[tuple[Node, EventCondition], ...]:
        return tuple(
            (node, node.condition)
            for node in self.nodes
            if isinstance(node.condition, Reactive | Proactive)
        )

    @cached_property
    def runs(self) -> tuple[tuple[int, Run], ...]:
        """Those of its actions that run a deployment, with their places among all."""
        return tuple(
            (place, action) for place, action in enumerate(self.actions) if isinstance(action, Run)
        )

    @cached_property
    def only_runs(self) -> bool:
        """Whether a firing is runs of deployments that are known, and nobody is told of more."""
        return not self.announces and all(
            isinstance(action, Run) and action.deployment is not None for action in self.actions
        )

    @cached_property
    def head_of_ids(self) -> bytes:
        """What the ids of all that its firings make begin with, before they are hashed."""
        return framed("firing", self.id.hex, str(self.version))

    @cached_property
    def names_own_events(self) -> bool:
        """Whether any of its conditions asks for events that carry how deep a chain of runs is."""
        return any(condition.selection.names_own_events for _, condition in self.leaves)

    @cached_property
    def document(self) -> dict[str, Any]:
        """Itself as templates and runners see it."""
        return {"id": str(self.id), "name": self.name, "version": self.version}

    @cached_property
    def automation(self) -> dict[str, Any]:
        """The same as Prefect's templates see it, under the name by which it is announced."""
        return {"id": str(self.id), "name": self.title}

    def labels_of(self, key: Key) -> dict[str, str]:
        """The key as an object, label to value, as templates and runners see it."""
        return dict(zip(self._key_names, key, strict=True))

    @cached_property
    def _key_names(self) -> tuple[str, ...]:
        return tuple(map(part_name, self.condition.for_each))


def labels_of(condition: Condition, key: Key) -> dict[str, str]:
    return dict(zip(map(part_name, condition.for_each), key, strict=True))


def _numbered(condition: Condition) -> Iterator[Node]:
    """The tree in preorder, so that a child's number is above its parent's."""
    number = 0
    ahead: list[tuple[Condition, int | None, tuple[int, ...]]] = [(condition, None, ())]
    while ahead:
        here, parent, path = ahead.pop()
        yield Node(number=number, condition=here, parent=parent, path=path)
        if isinstance(here, Compound | Sequential):
            ahead += [(child, number, (*path, place)) for place, child in enumerate(here.children)][
                ::-1
            ]
        number += 1
