"""What a firing becomes: runs with ids derived from it, so that a replay makes no second ones."""

import hashlib
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from msgspec import Struct

from upshot.core.facts import Fire
from upshot.core.keys import Key
from upshot.core.triggers import Trigger
from upshot.core.uuids import framed, uuid_of

_FREE_BITS = ~(0xF << 76 | 0b11 << 62)
_VERSION_AND_VARIANT = 8 << 76 | 0b10 << 62


class RunState(StrEnum):
    """`scheduled`, `running` and `retrying` are open; a run ends in one of the others."""

    SCHEDULED = "scheduled"
    RUNNING = "running"
    RETRYING = "retrying"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Firing(Struct, frozen=True, gc=False):
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
        return _run_id(self.trigger.head_of_ids + framed(*self.key, *self.cause, *what))

    @property
    def labels(self) -> dict[str, str]:
        return self.trigger.labels_of(self.key)


def run_id_of(*parts: str) -> UUID:
    """A UUID (version 8: made by a rule of our own) that the same parts always give."""
    return _run_id(framed(*parts))


def _run_id(parts: bytes) -> UUID:
    number = int.from_bytes(hashlib.blake2b(parts, digest_size=16).digest())
    return uuid_of(number & _FREE_BITS | _VERSION_AND_VARIANT)


def run_error(trigger: Trigger, place: int, error: str) -> str:
    """Why a run fails, with the action that makes it where there are several."""
    return error if trigger.is_plain else f"actions.{place}: {error}"
