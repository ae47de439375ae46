"""What is open for a key: the state that the evaluator carries from one fact to the next."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, assert_never
from uuid import UUID

import msgspec

from upshot.core.events import Event


@dataclass(frozen=True, slots=True)
class Seen:
    """An event that a window remembers; the event itself only where a template can reach it."""

    id: UUID
    at: datetime
    event: Event | None


@dataclass(frozen=True, slots=True)
class Opened:
    """A key opened by an `after` event. `ends_at` None: it stays open as long as it takes.

    `counted` holds the newest of `count` expected events, oldest first.
    """

    opener: Seen
    ends_at: datetime | None
    count: int
    counted: tuple[Seen, ...]


@dataclass(frozen=True, slots=True)
class Counting:
    """A key without `after`: expected events by time, and the quiet time after a firing."""

    count: int
    counted: tuple[Seen, ...]
    quiet_until: datetime | None


Window = Opened | Counting

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def encode_window(window: Window, *, keeps_after: bool, keeps_events: bool) -> str:
    """A compact JSON text. Events no template can reach are left out."""
    match window:
        case Opened():
            fields = [
                "opened",
                _encode_seen(window.opener, keeps_event=keeps_after),
                _encode_time(window.ends_at),
                window.count,
                [_encode_seen(seen, keeps_event=keeps_events) for seen in window.counted],
            ]
        case Counting():
            fields = [
                "counting",
                window.count,
                [_encode_seen(seen, keeps_event=keeps_events) for seen in window.counted],
                _encode_time(window.quiet_until),
            ]
        case _:
            assert_never(window)
    return msgspec.json.encode(fields).decode()


def decode_window(text: str) -> Window:
    """The window that `encode_window` wrote."""
    match msgspec.json.decode(text):
        case ["opened", opener, ends_at, count, counted]:
            return Opened(
                opener=_decode_seen(opener),
                ends_at=_decode_time(ends_at),
                count=count,
                counted=tuple(map(_decode_seen, counted)),
            )
        case ["counting", count, counted, quiet_until]:
            return Counting(
                count=count,
                counted=tuple(map(_decode_seen, counted)),
                quiet_until=_decode_time(quiet_until),
            )
        case other:
            raise ValueError(f"no window: {other!r}")


def _encode_seen(seen: Seen, *, keeps_event: bool) -> list[Any]:
    fields: list[Any] = [seen.id.hex, _encode_time(seen.at)]
    if keeps_event and seen.event is not None:
        event = seen.event
        fields.append(
            [
                event.name,
                event.resource,
                event.related,
                event.payload,
                _encode_time(event.occurred_at),
                _encode_time(event.received_at),
                event.follows and event.follows.hex,
            ]
        )
    return fields


def _decode_seen(fields: list[Any]) -> Seen:
    seen_id = UUID(hex=fields[0])
    event = None
    if len(fields) == 3:
        name, resource, related, payload, occurred, received, follows = fields[2]
        event = Event(
            id=seen_id,
            name=name,
            resource=resource,
            related=tuple(related),
            payload=payload,
            occurred_at=_EPOCH + timedelta(microseconds=occurred),
            received_at=_EPOCH + timedelta(microseconds=received),
            follows=follows and UUID(hex=follows),
        )
    return Seen(id=seen_id, at=_EPOCH + timedelta(microseconds=fields[1]), event=event)


def _encode_time(at: datetime | None) -> int | None:
    return None if at is None else (at - _EPOCH) // _MICROSECOND


def _decode_time(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else _EPOCH + timedelta(microseconds=microseconds)
