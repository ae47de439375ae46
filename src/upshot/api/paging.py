"""Lists: how many, from where on, and the opaque cursors that say so."""

import base64
import binascii
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, Any, Protocol, TypeVar
from uuid import UUID

import msgspec
from fastapi import Query, Response
from pydantic import AfterValidator, AwareDatetime, BeforeValidator

from upshot.api.answers import json_answer
from upshot.core.errors import Invalid, Problem
from upshot.core.limits import LIST_LIMIT_DEFAULT, LIST_LIMIT_MAX, NAME_CHARS_MAX


class HasName(Protocol):
    @property
    def name(self) -> str: ...


Named = TypeVar("Named", bound=HasName)
Place = TypeVar("Place")
_POSITION_END = 2**63


def _storable(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not hold the character U+0000")
    return text


def _with_offset(value: object) -> object:
    """Times without an offset are UTC, as they are in events."""
    if isinstance(value, str):
        try:
            parsed = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError("must be a time such as 2026-01-31T12:00:00Z") from None
        return value if parsed.tzinfo else f"{value}Z" if "T" in value else f"{value}T00:00:00Z"
    return value


def _in_range(at: datetime) -> datetime:
    if not 1970 <= at.year < 9000:
        raise ValueError("must be between the years 1970 and 9000")
    return at


QueryText = Annotated[str, AfterValidator(_storable)]
Time = Annotated[AwareDatetime, BeforeValidator(_with_offset), AfterValidator(_in_range)]
Limit = Annotated[int, Query(ge=1, le=LIST_LIMIT_MAX, description="How many to answer at most.")]
CursorText = Annotated[
    QueryText | None,
    Query(max_length=1_024, description="The `next_cursor` of the page before."),
]
Since = Annotated[Time | None, Query(description="At or after this time (RFC 3339).")]
Until = Annotated[Time | None, Query(description="Before this time (RFC 3339).")]
DEFAULT = LIST_LIMIT_DEFAULT


def encode_cursor(*parts: Any) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(parts)).decode().rstrip("=")


def decode_cursor(cursor: str | None, read: Callable[[Sequence[Any]], Place]) -> Place | None:
    """Where a list goes on; None: at its beginning. `read` raises ValueError at what is foreign."""
    if cursor is None:
        return None
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        parts = msgspec.json.decode(base64.b64decode(padded, altchars=b"-_", validate=True))
        if not isinstance(parts, list):
            raise ValueError("no list")
        return read(parts)
    except (ValueError, RecursionError, binascii.Error, msgspec.MsgspecError):
        problem = Problem(("query", "cursor"), "This is no cursor of this list.")
        raise Invalid("The cursor cannot be read; take next_cursor as it was.", [problem]) from None


def read_name(parts: Sequence[Any]) -> str:
    (name,) = parts
    if not isinstance(name, str) or not 0 < len(name) <= NAME_CHARS_MAX or not name.isprintable():
        raise ValueError("no name")
    return name


def read_place_in_log(parts: Sequence[Any]) -> tuple[int, int]:
    xid, position = parts
    for number in (xid, position):
        if type(number) is not int or not 0 <= number < _POSITION_END:
            raise ValueError("no place")
    return xid, position


def read_time_and_id(parts: Sequence[Any]) -> tuple[datetime, UUID]:
    at, run_id = parts
    if not isinstance(at, str) or not isinstance(run_id, str):
        raise ValueError("no place")
    return _in_range(msgspec.convert(at, Annotated[datetime, msgspec.Meta(tz=True)])), UUID(run_id)


def named_page(
    found: Sequence[Named], *, limit: int, shown: Callable[[Named], dict[str, Any]]
) -> Response:
    """A page of a list by name; one more than `limit` was looked for, to know whether there is."""
    more = len(found) > limit
    return json_answer(
        {
            "items": [shown(one) for one in found[:limit]],
            "next_cursor": encode_cursor(found[limit - 1].name) if more else None,
        }
    )
