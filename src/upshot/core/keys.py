"""The key of an event: the values of `for_each`, which keep one user's events from another's."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, assert_never
from uuid import UUID

import msgspec

from upshot.core.errors import UpshotError
from upshot.core.events import RESOURCE_ROLE, Event, long_form
from upshot.core.limits import KEY_VALUE_CHARS_MAX
from upshot.core.uuids import uuid_of

Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LabelPart:
    label: str


@dataclass(frozen=True, slots=True)
class RelatedPart:
    """`related:<role>:<label>`: of the first related resource in that role."""

    role: str
    label: str


@dataclass(frozen=True, slots=True)
class PayloadPart:
    """`payload.<path>`: a string, number or boolean inside the payload."""

    path: tuple[str, ...]


KeyPart = LabelPart | RelatedPart | PayloadPart


class KeyRefused(UpshotError):
    """A value is too long to be part of a key; the event is set aside for this trigger."""


def parse_key_part(written: str) -> KeyPart:
    """Raises ValueError with what is wrong with it."""
    if written.startswith("related:"):
        _, role, label = [*written.split(":", 2), "", ""][:3]
        if not role or not label:
            raise ValueError(f"{written!r} must be written related:<role>:<label>")
        return RelatedPart(role=role, label=long_form(label))
    if written.startswith("payload."):
        path = tuple(written.removeprefix("payload.").split("."))
        if not all(path):
            raise ValueError(f"{written!r} has an empty step; write payload.<field>.<field>")
        return PayloadPart(path=path)
    if not written:
        raise ValueError("an empty label can be no part of a key")
    return LabelPart(label=long_form(written))


def key_of(event: Event, parts: Sequence[KeyPart]) -> Key | None:
    """The event's key, or None where it lacks a part or has it empty.

    Raises:
        KeyRefused: a value is longer than KEY_VALUE_CHARS_MAX.
    """
    values = []
    for part in parts:
        value = _part_of(event, part)
        if not value:
            return None
        if len(value) > KEY_VALUE_CHARS_MAX:
            raise KeyRefused(
                f"The value of {part_name(part)} has {len(value)} characters; "
                f"at most {KEY_VALUE_CHARS_MAX} fit a key."
            )
        values.append(value)
    return tuple(values)


def key_hash(key: Key) -> UUID:
    """128 bits that stand for the key in an index, whatever the length of its values."""
    digest = hashlib.blake2b(msgspec.json.encode(key), digest_size=16).digest()
    return uuid_of(int.from_bytes(digest))


def part_name(part: KeyPart) -> str:
    """As written in `for_each`, with the label in its long form."""
    match part:
        case LabelPart(label=label):
            return label
        case RelatedPart(role=role, label=label):
            return f"related:{role}:{label}"
        case PayloadPart(path=path):
            return "payload." + ".".join(path)
        case _:
            assert_never(part)


def _part_of(event: Event, part: KeyPart) -> str | None:
    match part:
        case LabelPart(label=label):
            return event.resource.get(label)
        case RelatedPart(role=role, label=label):
            for labels in event.related:
                if labels.get(RESOURCE_ROLE) == role:
                    return labels.get(label)
            return None
        case PayloadPart(path=path):
            return _payload_text(event.payload, path)
        case _:
            assert_never(part)


def _payload_text(payload: str, path: Sequence[str]) -> str | None:
    value: Any = msgspec.json.decode(payload)
    for step in path:
        if not isinstance(value, dict):
            return None
        value = value.get(step)
    return text_of(value)


def text_of(value: Any) -> str | None:
    """A key's value as text, so that `17`, `17.0` and `"17"` are one. None: it has no text."""
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return str(int(value)) if value.is_integer() else repr(value)
        case _:
            return None
