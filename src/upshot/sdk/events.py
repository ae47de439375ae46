"""An event as an app emits it: checked and written as JSON before anything is sent."""

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Self
from uuid import UUID

import pydantic_core

from upshot.sdk.limits import EVENT_BYTES_MAX, EVENT_NAME_CHARS_MAX

_OWN_EVENT_PREFIX: Final = "upshot."
_IDS: Final = ("prefect.resource.id", "id")


@dataclass(frozen=True, slots=True)
class Event:
    """An event with the id and the time that it is sent with, however often it takes."""

    id: UUID
    event: str
    occurred: datetime
    body: bytes = field(repr=False)

    @classmethod
    def make(
        cls,
        *,
        event: str,
        resource: Mapping[str, str],
        related: Sequence[Mapping[str, str]] | None,
        payload: Mapping[str, Any] | None,
        occurred: datetime | None,
        id: UUID | str | None,
        follows: "UUID | str | Event | None",
    ) -> Self:
        """Write it down as it is now; what is changed afterwards does not reach it.

        Raises:
            ValueError: it is no event, or too large.
        """
        _check(event, resource)
        event_id = _new_id() if id is None else UUID(str(id))
        at = occurred or datetime.now(UTC)
        after = follows.id if isinstance(follows, Event) else follows
        document = {
            "id": str(event_id),
            "event": event,
            "resource": dict(resource),
            "occurred": (at if at.tzinfo else at.replace(tzinfo=UTC)).isoformat(),
            **({"related": [dict(one) for one in related]} if related else {}),
            **({"payload": _jsonable(payload)} if payload else {}),
            **({"follows": str(UUID(str(after)))} if after else {}),
        }
        body = json.dumps(document, allow_nan=False, separators=(",", ":")).encode()
        if len(body) > EVENT_BYTES_MAX:
            raise ValueError(
                f"Event {event!r} has {len(body):,} bytes; at most {EVENT_BYTES_MAX:,} fit. Store "
                "what is large elsewhere and send where it is."
            )
        return cls(id=event_id, event=event, occurred=at, body=body)


def _check(event: str, resource: Mapping[str, str]) -> None:
    if not isinstance(event, str) or not 1 <= len(event) <= EVENT_NAME_CHARS_MAX:
        raise ValueError(f"An event's name has 1 to {EVENT_NAME_CHARS_MAX:,} characters.")
    if event.startswith(_OWN_EVENT_PREFIX):
        raise ValueError(f"{event!r}: names that begin with {_OWN_EVENT_PREFIX} are Upshot's own.")
    if not any(resource.get(name) for name in _IDS):
        raise ValueError(f"The resource of {event!r} needs a 'prefect.resource.id' (short: 'id').")


def _jsonable(payload: Mapping[str, Any]) -> Any:
    try:
        return pydantic_core.to_jsonable_python(payload, inf_nan_mode="constants")
    except pydantic_core.PydanticSerializationError as error:
        raise ValueError(f"The payload is no JSON: {error}") from None


def _new_id() -> UUID:
    """Version 7, since ids that grow are cheaper to index."""
    random = int.from_bytes(os.urandom(10))
    return UUID(
        int=(time.time_ns() // 1_000_000) << 80
        | 0x7 << 76
        | (random >> 68) << 64
        | 0b10 << 62
        | random & (1 << 62) - 1
    )
