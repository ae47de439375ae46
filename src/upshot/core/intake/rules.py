"""The rules of an event, each breach of them with its place."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from typing import TypeVar
from uuid import UUID

import msgspec

from upshot.core.errors import Problem
from upshot.core.events import LONG_FORMS, OWN_EVENT_PREFIX, RESOURCE_ID, RESOURCE_ROLE, long_form
from upshot.core.intake.echoes import UNKEEPABLE_CHARACTER, clean
from upshot.core.intake.sent import Sent, aware, is_in_range
from upshot.core.limits import (
    EVENT_NAME_CHARS_MAX,
    LABEL_NAME_CHARS_MAX,
    LABEL_VALUE_CHARS_MAX,
    LABELS_MAX,
    NESTING_MAX,
    RELATED_MAX,
)


@dataclass(frozen=True, slots=True)
class Unkeepable:
    """Stands in the tree for a value that JSON text can say and Upshot cannot keep."""

    why: str


_Object = tuple[tuple[str, object], ...]
"""What the slow reader makes of a JSON object: pairs, so that a name given twice is seen."""

_T = TypeVar("_T", UUID, datetime)


def problems_of(tree: object, now: datetime) -> Iterator[Problem]:
    """What is wrong with an event as the slow reader sees it: objects are tuples of pairs."""
    if not isinstance(tree, tuple):
        yield Problem((), "An event must be a JSON object.")
        return
    yield from unkeepable(tree, ())
    fields = dict(tree)
    yield from _field_problems(tree)
    yield from _name_problems(fields.get("event"))
    yield from _label_problems(fields.get("resource"), ("resource",), required=(RESOURCE_ID,))
    yield from _related_problems(fields.get("related"))
    if not isinstance(fields.get("payload"), tuple | None):
        yield Problem(("payload",), "Must be a JSON object.")
    for name in ("id", "follows"):
        if fields.get(name) is not None and _parsed(fields[name], UUID) is None:
            yield Problem((name,), "Must be a UUID, as text.")
    yield from _time_problems(fields.get("occurred"), now)


_ALWAYS_KEEPABLE = (int, float, type(None))


def unkeepable(value: object, loc: tuple[str | int, ...]) -> Iterator[Problem]:
    if isinstance(value, str):
        found = UNKEEPABLE_CHARACTER.search(value)
        if found:
            yield Problem(loc, _whyunkeepable(found.group()))
    elif isinstance(value, Unkeepable):
        yield Problem(loc, value.why)
    elif len(loc) >= NESTING_MAX:
        yield Problem(loc, f"Is nested more than {NESTING_MAX} levels deep.")
    elif isinstance(value, list):
        for index, child in enumerate(value):
            if not isinstance(child, _ALWAYS_KEEPABLE):
                yield from unkeepable(child, (*loc, index))
    elif isinstance(value, tuple):
        for name, child in value:
            if UNKEEPABLE_CHARACTER.search(name):
                yield from unkeepable(name, (*loc, name))
            if not isinstance(child, _ALWAYS_KEEPABLE):
                yield from unkeepable(child, (*loc, name))


def _whyunkeepable(character: str) -> str:
    if character == "\0":
        return "Holds the character U+0000, which cannot be stored."
    return "Holds a lone surrogate, or bytes that are not UTF-8."


def _field_problems(pairs: _Object) -> Iterator[Problem]:
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            yield Problem((name,), "Given twice.")
        elif name not in Sent.__struct_fields__:
            yield Problem((name,), _unknown_field(clean(name)))
        seen.add(name)


def _unknown_field(name: str) -> str:
    near = get_close_matches(name, Sent.__struct_fields__, n=1)
    if near:
        return f"Unknown field; did you mean '{near[0]}'?"
    return f"Unknown field; an event has {', '.join(Sent.__struct_fields__)}."


def _name_problems(name: object) -> Iterator[Problem]:
    loc = ("event",)
    if name is None:
        yield Problem(loc, "Required: the event's name.")
    elif not isinstance(name, str) or not name:
        yield Problem(loc, "Must be a string that is not empty.")
    elif len(name) > EVENT_NAME_CHARS_MAX:
        yield Problem(loc, f"Has {len(name):,} characters; at most {EVENT_NAME_CHARS_MAX:,} fit.")
    elif name.startswith(OWN_EVENT_PREFIX):
        yield Problem(loc, f"Names that begin with '{OWN_EVENT_PREFIX}' are Upshot's own events.")


def _label_problems(
    labels: object, loc: tuple[str | int, ...], *, required: tuple[str, ...]
) -> Iterator[Problem]:
    if labels is None:
        yield Problem(loc, f"Required: an object of labels, with '{RESOURCE_ID}'.")
        return
    if not isinstance(labels, tuple):
        yield Problem(loc, "Must be an object of labels, string to string.")
        return
    if len(labels) > LABELS_MAX:
        yield Problem(loc, f"Has {len(labels):,} labels; at most {LABELS_MAX} fit.")
    for name, value in labels:
        why = _why_no_label(name, value)
        if why:
            yield Problem((*loc, name), why)
    yield from _disagreements(labels, loc)
    values = {long_form(name): value for name, value in labels}
    for name in required:
        if not values.get(name):
            yield Problem((*loc, name), "Required, and not empty.")


def _why_no_label(name: str, value: object) -> str | None:
    if not name:
        return "A label's name must not be empty."
    if len(name) > LABEL_NAME_CHARS_MAX:
        return f"A label's name has at most {LABEL_NAME_CHARS_MAX} characters."
    if not isinstance(value, str):
        return "A label's value must be a string."
    if len(value) > LABEL_VALUE_CHARS_MAX:
        return f"A label's value has at most {LABEL_VALUE_CHARS_MAX:,} characters."
    return None


def _disagreements(labels: _Object, loc: tuple[str | int, ...]) -> Iterator[Problem]:
    seen: dict[str, object] = {}
    for name, value in labels:
        if name in seen:
            yield Problem((*loc, name), "Given twice.")
        seen[name] = value
    for short, long in LONG_FORMS.items():
        if short in seen and seen.get(long, seen[short]) != seen[short]:
            yield Problem((*loc, short), f"Is short for '{long}', which is given another value.")


def _related_problems(related: object) -> Iterator[Problem]:
    loc = ("related",)
    if related is None:
        return
    if not isinstance(related, list):
        yield Problem(loc, "Must be a list of label sets.")
        return
    if len(related) > RELATED_MAX:
        yield Problem(loc, f"Has {len(related):,} label sets; at most {RELATED_MAX} fit.")
    for index, labels in enumerate(related):
        yield from _label_problems(labels, (*loc, index), required=(RESOURCE_ID, RESOURCE_ROLE))


def _time_problems(value: object, now: datetime) -> Iterator[Problem]:
    loc = ("occurred",)
    if value is None:
        return
    occurred = _parsed(value, datetime)
    if occurred is None:
        yield Problem(loc, "Must be a time such as '2026-01-31T12:00:00Z' (RFC 3339).")
    elif not is_in_range(aware(occurred), now):
        yield Problem(loc, "Is before 1970, or more than 24 hours ahead of the server's clock.")


def _parsed(value: object, kind: type[_T]) -> _T | None:
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, UnicodeEncodeError):
        return None
