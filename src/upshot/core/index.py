"""Which triggers an event may concern, without asking each of ten thousand."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from upshot.core.events import RESOURCE_ID, Event
from upshot.core.limits import NAMES_LISTED_MAX, NAMES_RESOLVED_MAX
from upshot.core.patterns import Pattern
from upshot.core.triggers import Node, Selection, Trigger


@dataclass(frozen=True, slots=True)
class Candidate:
    """A trigger's leaf whose name patterns fit: the event may open it, be expected, or both."""

    trigger: Trigger
    node: Node
    selection: Selection
    opens: bool
    expected: bool


@dataclass(slots=True)
class _Resolved:
    """The candidates of one event name, those that ask for a literal resource id apart."""

    of_any_resource: list[Candidate] = field(default_factory=list)
    of_resource: dict[str, list[Candidate]] = field(default_factory=lambda: defaultdict(list))


class TriggerIndex:
    """Triggers by event name (exact, prefix, the rest), then by literal resource id."""

    def __init__(self, triggers: Iterable[Trigger] = ()) -> None:
        self._triggers: dict[UUID, Trigger] = {}
        self._numbers: dict[int, Trigger] = {}
        self._exact: dict[str, dict[UUID, Trigger]] = defaultdict(dict)
        self._prefix: dict[str, dict[UUID, Trigger]] = defaultdict(dict)
        self._rest: dict[UUID, Trigger] = {}
        self._resolved: dict[str, _Resolved] = {}
        for trigger in triggers:
            self.put(trigger)

    def __iter__(self) -> Iterator[Trigger]:
        return iter(self._triggers.values())

    def __len__(self) -> int:
        return len(self._triggers)

    def of_number(self, number: int) -> Trigger | None:
        return self._numbers.get(number)

    def put(self, trigger: Trigger) -> None:
        """Add the trigger, in place of an earlier version of it."""
        self.remove(trigger.id)
        self._triggers[trigger.id] = trigger
        self._numbers[trigger.number] = trigger
        for bucket in self._buckets(trigger):
            bucket[trigger.id] = trigger
        self._resolved.clear()

    def remove(self, trigger_id: UUID) -> None:
        trigger = self._triggers.pop(trigger_id, None)
        if trigger is None:
            return
        del self._numbers[trigger.number]
        for bucket in self._buckets(trigger):
            bucket.pop(trigger_id, None)
        self._resolved.clear()

    def is_of_interest(self, name: str) -> bool:
        """Whether an event of this name could concern any trigger."""
        resolved = self._resolved.get(name) or self._resolve(name)
        return bool(resolved.of_any_resource or resolved.of_resource)

    @property
    def names(self) -> list[str] | None:
        """The only event names that are of interest. None: others may be, or they are too many."""
        if any(self._prefix.values()) or self._rest or len(self._exact) > NAMES_LISTED_MAX:
            return None
        return list(self._exact)

    def candidates(self, event: Event) -> Sequence[Candidate]:
        """The triggers whose patterns fit the event's name and that ask for no other resource."""
        resolved = self._resolved.get(event.name)
        if resolved is None:
            resolved = self._resolve(event.name)
        if not resolved.of_resource:
            return resolved.of_any_resource
        of_resource = resolved.of_resource.get(event.resource[RESOURCE_ID], [])
        return [*resolved.of_any_resource, *of_resource]

    def _resolve(self, name: str) -> _Resolved:
        if len(self._resolved) >= NAMES_RESOLVED_MAX:
            self._resolved.clear()
        resolved = self._resolved[name] = _Resolved()
        for trigger in self._named(name).values():
            for node, condition in trigger.leaves:
                self._resolve_leaf(resolved, name, trigger, node, condition.selection)
        return resolved

    def _resolve_leaf(
        self, resolved: _Resolved, name: str, trigger: Trigger, node: Node, selection: Selection
    ) -> None:
        candidate = Candidate(
            trigger=trigger,
            node=node,
            selection=selection,
            opens=selection.after is not None and selection.after.matches_name(name),
            expected=selection.expect.matches_name(name),
        )
        if not (candidate.opens or candidate.expected):
            return
        resource_ids = selection.match.literal_resource_ids
        if resource_ids is None:
            resolved.of_any_resource.append(candidate)
        else:
            for resource_id in dict.fromkeys(resource_ids):
                resolved.of_resource[resource_id].append(candidate)

    def _named(self, name: str) -> dict[UUID, Trigger]:
        named = dict(self._rest)
        named.update(self._exact.get(name, {}))
        for length in range(len(name) + 1) if self._prefix else ():
            named.update(self._prefix.get(name[:length], {}))
        return named

    def _buckets(self, trigger: Trigger) -> Iterator[dict[UUID, Trigger]]:
        for _, condition in trigger.leaves:
            for patterns in (condition.selection.expect, condition.selection.after):
                if patterns is None:
                    continue
                if not patterns.positive:
                    yield self._rest
                for pattern in patterns.positive:
                    yield self._bucket(pattern)

    def _bucket(self, pattern: Pattern) -> dict[UUID, Trigger]:
        if pattern.is_literal:
            return self._exact[pattern.text]
        if pattern.prefix is not None:
            return self._prefix[pattern.prefix]
        return self._rest
