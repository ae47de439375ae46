"""What a key is told, and what follows from it."""

from dataclasses import dataclass
from datetime import datetime

from msgspec import Struct

from upshot.core.events import Event
from upshot.core.windows import Seen


class Matched(Struct, frozen=True, gc=False):
    """An event that concerns the key: it `opens`, it is `expected`, or both."""

    event: Event
    opens: bool
    expected: bool
    held_until: datetime | None = None
    """When it is evaluated, if it was held and that is later than its receipt."""

    @property
    def now(self) -> datetime:
        return self.held_until or self.event.received_at

    def seen(self, ordinal: int = 0) -> Seen:
        event = self.event
        return Seen(
            event.id, event.at, event.received_at, self.opens, self.expected, event, ordinal
        )


@dataclass(frozen=True, slots=True)
class Tick:
    """The clock has reached `at`, and every event received until then has been evaluated."""

    at: datetime


@dataclass(frozen=True, slots=True)
class Began:
    """The trigger was made, or enabled: a silence may be counted from here."""

    at: datetime


class Fire(Struct, frozen=True, gc=False):
    """The condition is met. `counted` are the newest EVENTS_KEPT_MAX, oldest first.

    `at` is the time of the newest counted event, or of the end of a window that stayed empty.
    """

    event: Seen | None
    counted: tuple[Seen, ...]
    after: Seen | None
    at: datetime


@dataclass(frozen=True, slots=True)
class ChildrenFired:
    """Children of a composite fired because of one event or one deadline."""

    firings: tuple[tuple[int, Fire], ...]


@dataclass(frozen=True, slots=True)
class Late:
    """An expected event came after the alarm that missed it."""

    event: Seen


Fact = Matched | Tick | Began | ChildrenFired
Effect = Fire | Late
Effects = tuple[Effect, ...]
