"""What a firing becomes: runs with ids derived from it, so that a replay makes no second ones."""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from upshot.core.facts import Fire
from upshot.core.keys import Key
from upshot.core.triggers import Trigger
from upshot.core.uuids import uuid_of

_VERSION_AND_VARIANT = 0xF << 76 | 0b11 << 62


class RunState(StrEnum):
    """`scheduled`, `running` and `retrying` are open; a run ends in one of the others."""

    SCHEDULED = "scheduled"
    RUNNING = "running"
    RETRYING = "retrying"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Firing:
    """A trigger fired for a key.

    `at` is the clock then: when the event that fired it was received, or a deadline decided.
    `cause` says which event or deadline that was.
    """

    trigger: Trigger
    key: Key
    fire: Fire
    at: datetime
    cause: tuple[str, ...]

    def id_of(self, *what: str) -> UUID:
        """The id of what comes of it: a run's is that of its action's place (`"0"`)."""
        trigger = self.trigger
        return run_id_of(
            "firing", trigger.id.hex, str(trigger.version), *self.key, *self.cause, *what
        )

    @property
    def labels(self) -> dict[str, str]:
        return self.trigger.labels_of(self.key)


def run_id_of(*parts: str) -> UUID:
    """A UUID (version 8: made by a rule of our own) that the same parts always give."""
    pieces: list[bytes] = []
    for part in parts:
        encoded = part.encode()
        pieces += len(encoded).to_bytes(4, "big"), encoded
    number = int.from_bytes(hashlib.blake2b(b"".join(pieces), digest_size=16).digest())
    return uuid_of(number & ~_VERSION_AND_VARIANT | 8 << 76 | 0b10 << 62)


def run_error(trigger: Trigger, place: int, error: str) -> str:
    """Why a run fails, with the action that makes it where there are several."""
    return error if trigger.is_plain else f"actions.{place}: {error}"
