"""What a firing becomes: a run with an id derived from it, so that a replay makes no second one."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
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

    @property
    def run_id(self) -> UUID:
        trigger = self.trigger
        return run_id_of(
            "firing", trigger.id.hex, str(trigger.version), *self.key, *self.cause, "0"
        )

    @property
    def labels(self) -> dict[str, str]:
        return self.trigger.labels_of(self.key)


def run_id_of(*parts: str) -> UUID:
    """A UUID (version 8: made by a rule of our own) that the same parts always give."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(4, "big") + encoded)
    number = int.from_bytes(digest.digest())
    return uuid_of(number & ~_VERSION_AND_VARIANT | 8 << 76 | 0b10 << 62)


def trigger_document(trigger: Trigger) -> Mapping[str, Any]:
    """The trigger as templates and runners see it."""
    return {"id": str(trigger.id), "name": trigger.name, "version": trigger.version}
