"""Reading requests: bounded before they are read whole, and strict about what JSON is."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.message import Message
from typing import Any, Final, TypeVar, cast

import msgspec
from fastapi import Request
from pydantic import TypeAdapter, ValidationError

from upshot.api.problems import problems_of, summary_of
from upshot.core.errors import (
    Invalid,
    Malformed,
    Overloaded,
    Problem,
    TooLarge,
    Unsupported,
)
from upshot.core.limits import BODIES_BYTES_MAX, BODY_NESTING_MAX, JSON_BODY_BYTES_MAX

JSON: Final = "application/json"
MERGE_PATCH: Final = "application/merge-patch+json"

MERGE_PATCH_BODY: Final = {
    "requestBody": {
        "content": {
            media_type: {"schema": {"type": "object"}, "example": {"enabled": False}}
            for media_type in (MERGE_PATCH, JSON)
        }
    }
}
"""How an operation documents that it takes a merge patch."""

Model = TypeVar("Model")


@dataclass(slots=True)
class Bodies:
    """The bytes of all bodies that requests hold in memory at the moment."""

    size: int = 0


@dataclass(slots=True)
class Held:
    """One request's share of them."""

    bodies: Bodies
    size: int = 0

    def add(self, size: int) -> None:
        """Raises Overloaded where all requests together hold too much."""
        self.bodies.size += size
        self.size += size
        if self.bodies.size > BODIES_BYTES_MAX:
            raise Overloaded("Too many large requests at once; nothing of this one was stored.")

    def release(self) -> None:
        self.bodies.size -= self.size
        self.size = 0


def content_type_of(request: Request) -> str:
    """The media type in small letters; JSON where the client says nothing.

    Raises:
        Unsupported: the body is compressed, or in another encoding than UTF-8.
    """
    refuse_compressed(request)
    message = Message()
    message["content-type"] = request.headers.get("content-type") or JSON
    charset = message.get_content_charset("utf-8")
    if charset not in ("utf-8", "utf8", "us-ascii"):
        raise Unsupported("JSON is UTF-8; send it so, and leave the charset out.")
    return message.get_content_type()


def refuse_compressed(request: Request) -> None:
    """Raises Unsupported where the body is not sent as it is."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise Unsupported("Compressed bodies are not read. Send it without Content-Encoding.")


async def read_body(request: Request, *, limit: int) -> bytes:
    """The whole body, which is not read on once it is over `limit` bytes."""
    said = request.headers.get("content-length", "")
    if said.isdecimal() and (len(said) > len(str(limit)) + 5 or int(said) > limit):
        raise _too_large(limit)
    held = cast(Held, request.state.held)
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        held.add(len(chunk))
        chunks.append(chunk)
    return b"".join(chunks)


async def read_json_body(
    request: Request, *, limit: int = JSON_BODY_BYTES_MAX
) -> tuple[bytes, Any]:
    """The body and the JSON that it is; None for an empty one."""
    allowed = (JSON, MERGE_PATCH) if request.method == "PATCH" else (JSON,)
    content_type = content_type_of(request)
    body = await read_body(request, limit=limit)
    if not body:
        return body, None
    if content_type not in allowed:
        raise Unsupported(f"The body must be {' or '.join(allowed)}.")
    return body, parse_json(body)


def parse_json(body: bytes) -> Any:
    """Exactly JSON: no NaN, no half surrogate pairs, no numbers that cannot be kept.

    Raises:
        Malformed: it is none.
        Invalid: it holds the character U+0000, which the database cannot keep.
    """
    try:
        value = msgspec.json.decode(body)
    except RecursionError:
        raise Malformed("The body is nested too deep.") from None
    except UnicodeDecodeError:
        raise Malformed("The body is not UTF-8.") from None
    except msgspec.DecodeError as error:
        raise Malformed(f"The body is no JSON that can be kept: {error}.") from None
    if _is_too_deep(body, value):
        raise Malformed(f"The body is nested more than {BODY_NESTING_MAX} deep.")
    if b"\\u0000" in body:
        found = [Problem(loc, "Holds the character U+0000.") for loc in _with_nul(value, ())]
        if found:
            raise Invalid("The character U+0000 cannot be stored.", found[:20])
    return value


def merge_patch(target: Any, patch: Any) -> Any:
    """The target as the patch (RFC 7396) changes it; null removes."""
    if not isinstance(patch, Mapping):
        return patch
    merged = dict(target) if isinstance(target, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def validated(adapter: TypeAdapter[Model], document: Any, *, known: Sequence[str]) -> Model:
    """What a merged document says, or Invalid with every problem."""
    try:
        return adapter.validate_python(document)
    except ValidationError as error:
        errors = [{**one, "loc": ("body", *one["loc"])} for one in error.errors()]
        found = problems_of(errors, known)
        raise Invalid(summary_of(found), found) from None


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"The body is larger than {limit:,} bytes.")


def _is_too_deep(body: bytes, value: Any) -> bool:
    """Whatever writes or checks it again goes down by recursion, and Python's stack is bounded."""
    if body.count(b"[") + body.count(b"{") <= BODY_NESTING_MAX:
        return False
    layer = [value]
    for _ in range(BODY_NESTING_MAX + 1):
        layer = [child for outer in layer for child in _members(outer)]
    return bool(layer)


def _members(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _with_nul(value: Any, loc: tuple[str | int, ...]) -> Iterator[tuple[str | int, ...]]:
    match value:
        case str() if "\0" in value:
            yield loc
        case list():
            for index, child in enumerate(value):
                yield from _with_nul(child, (*loc, index))
        case dict():
            for name, child in value.items():
                if "\0" in name:
                    yield loc
                yield from _with_nul(child, (*loc, name))
