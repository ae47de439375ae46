"""A trigger as the evaluator uses it: a condition, and what to run when it is met."""

from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from upshot.core.events import Event
from upshot.core.keys import Key, KeyPart, key_of, part_name
from upshot.core.matching import LabelMatch, related_hold
from upshot.core.patterns import Patterns


@dataclass(frozen=True, slots=True)
class Reactive:
    """Fires when `threshold` expected events have come, each key for itself.

    `after` None: no event opens the key. `within` zero: there is no limit of time.
    """

    expect: Patterns
    after: Patterns | None
    match: LabelMatch
    match_related: tuple[LabelMatch, ...]
    for_each: tuple[KeyPart, ...]
    threshold: int
    within: timedelta

    def concerns(self, event: Event) -> bool:
        """Whether all but the name fits: labels, related resources."""
        return self.match.holds(event.resource) and related_hold(self.match_related, event.related)

    def key_of(self, event: Event) -> Key | None:
        return key_of(event, self.for_each)

    def labels_of(self, key: Key) -> dict[str, str]:
        """The key as an object, label to value, as templates and runners see it."""
        return dict(zip(map(part_name, self.for_each), key, strict=True))


Condition = Reactive
"""What a trigger waits for; the evaluator's cases are closed over this union."""


@dataclass(frozen=True, slots=True)
class Trigger:
    """A registered trigger at one version. `number` stands for `id` in narrow rows."""

    id: UUID
    number: int
    version: int
    name: str
    condition: Condition
    deployment: str
    parameters: str
    """JSON text whose strings are templates."""
    schedule_after: timedelta
    keeps_after: bool
    keeps_events: bool
    """Whether the templates reach the opening event, or those counted: kept with the key then."""
