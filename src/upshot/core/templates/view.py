"""What a template sees of an event."""

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from upshot.core.events import Event


def event_view(event: Event) -> Mapping[str, Any]:
    """What a template sees of an event. The payload is parsed when it is first reached for."""
    return _EventView(event)


def event_document(event: Event) -> dict[str, Any]:
    """The same as plain JSON, payload parsed: to be sent, stored and shown."""
    return dict(_EventView(event))


def _timestamp(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


EVENT_FIELDS: dict[str, Callable[[Event], Any]] = {
    "id": lambda event: str(event.id),
    "event": lambda event: event.name,
    "resource": lambda event: dict(event.resource),
    "related": lambda event: [dict(labels) for labels in event.related],
    "payload": lambda event: msgspec.json.decode(event.payload),
    "occurred": lambda event: _timestamp(event.occurred_at),
    "received": lambda event: _timestamp(event.received_at),
    "follows": lambda event: None if event.follows is None else str(event.follows),
}


class _EventView(Mapping[str, Any]):
    """In all that a template can do the same as the plain document, but lazy."""

    __slots__ = ("_event", "_seen")

    def __init__(self, event: Event) -> None:
        self._event = event
        self._seen: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._seen:
            self._seen[name] = EVENT_FIELDS[name](self._event)
        return self._seen[name]

    def __contains__(self, name: object) -> bool:
        return name in EVENT_FIELDS

    def __iter__(self) -> Iterator[str]:
        return iter(EVENT_FIELDS)

    def __reversed__(self) -> Iterator[str]:
        return reversed(EVENT_FIELDS)

    def __len__(self) -> int:
        return len(EVENT_FIELDS)

    def __repr__(self) -> str:
        return repr(dict(self))
