"""What becomes of what was sent: an event to be stored, or problems."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from msgspec import Struct

from upshot.core.errors import Problem


class NewEvent(Struct, frozen=True, gc=False):
    """An event that keeps every rule, ready to be stored. JSON is kept as text.

    A Struct and not a dataclass, because making a frozen dataclass of this size costs as much as
    reading the event.
    """

    id: UUID
    id_given: bool
    """The client sent the id, so the event may be a duplicate."""
    digest: bytes | None
    """16 bytes over what the client sent, without defaults; None where it sent no id."""
    name: str
    resource_id: str
    labels_json: str | None
    """The resource's other labels, in the long form; None where it has none."""
    related_json: str | None
    payload_json: str | None
    """The payload as it was sent, to the byte; None where it is absent or empty."""
    occurred: datetime
    follows: UUID | None
    size: int
    """Bytes, as received."""


@dataclass(frozen=True, slots=True)
class Refused:
    """An event that breaks a rule. `id` is what the client sent as such, when that can be read."""

    id: str | None
    problems: tuple[Problem, ...]


Verdict = NewEvent | Refused


@dataclass(frozen=True, slots=True)
class Reading:
    """What one request held, in its order. `single` says that it was one object, not a list."""

    verdicts: tuple[Verdict, ...]
    single: bool
