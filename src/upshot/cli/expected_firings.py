"""Firings that a test expects, and how those that came differ from them."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from upshot.core.errors import Invalid, Problem
from upshot.core.intake.sent import aware
from upshot.core.keys import parse_key_part, part_name, text_of
from upshot.core.limits import (
    DIFFERENCES_SHOWN_MAX,
    EXPECTED_FIRINGS_MAX,
    PROBLEM_ECHO_CHARS_MAX,
)
from upshot.core.simulation import Simulated

Firing = Mapping[str, Any]
"""A firing's fields, or those that are expected of it, in the form in which they are compared."""

Expected = int | tuple[Firing, ...]
"""How many firings, or which, in their order."""

SHOWN_UNASKED: Final = ("trigger", "at", "labels", "parameters")


def read_expected(written: Any) -> Expected:
    """What `expect_firings` says: a number, or a list of objects with any of a firing's fields.

    Raises:
        Invalid: it says neither; the problem's `loc` is the place in it.
    """
    if isinstance(written, int) and not isinstance(written, bool) and written >= 0:
        return written
    if not isinstance(written, list):
        raise _refused((), "must be a number, or a list of objects with fields of a firing")
    if len(written) > EXPECTED_FIRINGS_MAX:
        raise _refused((), f"lists {len(written)} firings; at most {EXPECTED_FIRINGS_MAX} fit")
    return tuple(_read_firing(one, place) for place, one in enumerate(written))


@dataclass(slots=True)
class Came:
    """The firings that came: how many, and as many of them as can be expected."""

    count: int = 0
    first: list[Firing] = field(default_factory=list)

    def add(self, firing: Simulated) -> None:
        self.count += 1
        if len(self.first) < EXPECTED_FIRINGS_MAX:
            self.first.append(_comparable(firing))


def differences(expected: Expected, came: Came) -> list[str]:
    """Lines for people; none where all came as expected. `-` was expected, `+` came."""
    if isinstance(expected, int):
        if expected == came.count:
            return []
        return [_headline(expected, came), *_bounded(_came_line(one) for one in came.first)]
    before = _alike_from_the_start(expected, came.first)
    if before == len(expected) == came.count:
        return []
    behind = 0
    if came.count == len(came.first):
        behind = _alike_from_the_start(expected[before:][::-1], came.first[before:][::-1])
    return [
        _headline(len(expected), came),
        *_as_expected(before),
        *_bounded(
            _pairs(
                expected[before : len(expected) - behind],
                came.first[before : len(came.first) - behind],
            )
        ),
        *_as_expected(behind),
    ]


def document_of(firing: Simulated) -> dict[str, Any]:
    """A firing as JSON; `error` is there only where the parameters are not."""
    return _json_of(_comparable(firing))


def zulu(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _comparable(firing: Simulated) -> dict[str, Any]:
    compared = {
        "trigger": firing.trigger,
        "at": firing.at,
        "labels": firing.labels,
        "event_id": None if firing.event_id is None else str(firing.event_id),
        "event_ids": [str(one) for one in firing.event_ids],
        "parameters": firing.parameters,
    }
    return compared if firing.error is None else {**compared, "error": firing.error}


def _read_firing(written: Any, place: int) -> Firing:
    if not isinstance(written, dict):
        raise _refused((place,), "must be an object with fields of a firing")
    read: dict[str, Any] = {}
    for name, value in written.items():
        if name not in _READ:
            raise _refused((place, name), f"is no field of a firing; those are {', '.join(_READ)}")
        try:
            read[name] = _READ[name](value)
        except (ValueError, TypeError, AttributeError):
            raise _refused((place, name), f"cannot be {_echo(value)}") from None
    return read


def _time(written: str) -> datetime:
    return aware(datetime.fromisoformat(written)).astimezone(UTC)


def _labels(written: Mapping[str, Any]) -> dict[str, str]:
    """Names may be written short, and values as numbers, as they may in events and templates."""
    texts = {part_name(parse_key_part(name)): text_of(value) for name, value in written.items()}
    labels = {name: text for name, text in texts.items() if text is not None}
    if len(labels) != len(written):
        raise ValueError("a label's value is text, and each stands once")
    return labels


def _id(written: str) -> str:
    return str(UUID(written))


def _object(written: Mapping[str, Any]) -> dict[str, Any]:
    return {**written}


def _text(written: str) -> str:
    if not isinstance(written, str):
        raise TypeError("must be text")
    return written


def _or_none(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda written: None if written is None else read(written)


_READ: Final[Mapping[str, Callable[[Any], Any]]] = {
    "trigger": _text,
    "at": _time,
    "labels": _labels,
    "event_id": _or_none(_id),
    "event_ids": lambda written: [_id(one) for one in written],
    "parameters": _or_none(_object),
    "error": _or_none(_text),
}


def _echo(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)[:PROBLEM_ECHO_CHARS_MAX]


def _refused(loc: tuple[str | int, ...], msg: str) -> Invalid:
    path = ".".join(map(str, ("expect_firings", *loc)))
    return Invalid(f"{path} {msg}", [Problem(loc, msg)])


def _alike_from_the_start(expected: Sequence[Firing], came: Sequence[Firing]) -> int:
    alike = 0
    for one, other in zip(expected, came, strict=False):
        if not _is_as_expected(one, other):
            break
        alike += 1
    return alike


def _is_as_expected(expected: Firing, came: Firing) -> bool:
    return all(_same(value, came.get(name)) for name, value in expected.items())


def _same(one: Any, other: Any) -> bool:
    """As JSON has it: 17 is 17.0, and true is not 1, as it is in Python."""
    match one, other:
        case dict(), dict():
            return one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
        case list(), list():
            return len(one) == len(other) and all(map(_same, one, other))
        case _:
            return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _headline(expected: int, came: Came) -> str:
    if expected == came.count:
        return f"{_firings(expected)} came, as many as expected, but not as expected:"
    return f"{_firings(expected)} expected, {came.count} came:"


def _firings(count: int) -> str:
    return "1 firing" if count == 1 else f"{count} firings"


def _as_expected(count: int) -> list[str]:
    return [f"    {_firings(count)} as expected"] if count else []


def _pairs(expected: Sequence[Firing], came: Sequence[Firing]) -> Iterator[str]:
    """Side by side; of one that came instead of another, only what was asked of that is shown."""
    for place in range(max(len(expected), len(came))):
        if place >= len(expected):
            yield _came_line(came[place])
        elif place >= len(came):
            yield f"  - {_text_of(expected[place])}"
        elif _is_as_expected(expected[place], came[place]):
            yield f"    {_text_of(expected[place])}"
        else:
            yield f"  - {_text_of(expected[place])}"
            yield _came_line(came[place], tuple(expected[place]))


def _came_line(came: Firing, asked: Sequence[str] = ()) -> str:
    shown = {name: came.get(name) for name in asked or SHOWN_UNASKED}
    if "error" in came:
        shown["error"] = came["error"]
    return f"  + {_text_of(shown)}"


def _text_of(firing: Firing) -> str:
    return json.dumps(_json_of(firing), ensure_ascii=False)


def _json_of(firing: Firing) -> dict[str, Any]:
    return {name: zulu(value) if name == "at" else value for name, value in firing.items()}


def _bounded(lines: Iterator[str]) -> Iterator[str]:
    for shown, line in enumerate(lines):
        if shown == 2 * DIFFERENCES_SHOWN_MAX:
            yield "    ..."
            return
        yield line
