"""Where the items of a request begin and end, and where in it a fault lies."""

import re
from collections.abc import Iterable, Iterator
from itertools import islice, takewhile

import msgspec
from msgspec import UNSET, Raw, UnsetType

from upshot.core.errors import Invalid, Malformed, Problem, TooLarge
from upshot.core.limits import EVENTS_PER_REQUEST_MAX

SPACE = b" \t\r\n"

_Batch = msgspec.defstruct(
    "_Batch",
    [(f"item_{index}", Raw | UnsetType, UNSET) for index in range(EVENTS_PER_REQUEST_MAX)],
    array_like=True,
    forbid_unknown_fields=True,
)
"""An array as a struct: unlike that of a list, its decode stops at the first item too many."""

_batch_decoder = msgspec.json.Decoder(_Batch)


def array_items(body: bytes) -> list[bytes]:
    """The items' texts, as they stand; Malformed only where it cannot be said where they end."""
    try:
        batch = _batch_decoder.decode(body)
    except msgspec.ValidationError:
        raise _too_many() from None
    except (msgspec.DecodeError, RecursionError):
        return counted(body[start:end] for start, end in _item_spans(body))
    raws = takewhile(lambda raw: raw is not UNSET, msgspec.structs.astuple(batch))
    return counted(map(bytes, raws))


def counted(items: Iterable[bytes]) -> list[bytes]:
    """The items, if they are neither none nor too many."""
    held = list(islice(items, EVENTS_PER_REQUEST_MAX + 1))
    if not held:
        raise Invalid("The request holds no event.", [Problem((), "At least one event is needed.")])
    if len(held) > EVENTS_PER_REQUEST_MAX:
        raise _too_many()
    return held


def _too_many() -> TooLarge:
    return TooLarge(f"At most {EVENTS_PER_REQUEST_MAX:,} events fit into a request. Send several.")


def start_of_item(body: bytes, index: int) -> int:
    """The offset of an array's item, in bytes."""
    start, _ = next(islice(_item_spans(body), index, None))
    return start


def _item_spans(body: bytes) -> Iterator[tuple[int, int]]:
    """Where the items of an array lie that no parser takes, such as one with a NaN in it.

    Brackets are counted and not paired: what is wrong inside an item shows when it is read.
    """
    depth = start = 0
    for at, change in steps_of(masked(body)):
        depth += change
        if depth == change:
            start = at + 1
        elif depth == 1 and change == 0:
            yield _trimmed(body, start, at)
            start = at + 1
        elif depth <= 0:
            end = at - change
            if depth < 0 or body[end:].strip(SPACE):
                raise malformed(body, at=end + depth, why="extra text after the array")
            yield _trimmed(body, start, end - 1)
            return
    raise malformed(body, at=len(body), why="the array does not end")


def _trimmed(body: bytes, start: int, end: int) -> tuple[int, int]:
    """The span without the white space at its ends."""
    text = body[start:end]
    return end - len(text.lstrip(SPACE)), start + len(text.rstrip(SPACE))


def masked(text: bytes) -> bytes:
    """The text, as long as before, with no escaped quotation mark in it."""
    return text.replace(b"\\\\", b"__").replace(b'\\"', b"__")


# A string without its end runs to the end of the text: it must not be looked for again and again.
_TOKEN = re.compile(rb'"[^"]*"?|[\[{]+|[\]}]+|,')


def steps_of(masked: bytes) -> Iterator[tuple[int, int]]:
    """Each run of brackets and each comma outside strings: where it begins, and by how many levels
    it leads down or up."""
    for token in _TOKEN.finditer(masked):
        start, end = token.span()
        first = masked[start]
        if first in b"[{":
            yield start, end - start
        elif first in b"]}":
            yield start, start - end
        elif first == _COMMA:
            yield start, 0


_COMMA = ord(",")


def malformed(body: bytes, *, at: int, why: str) -> Malformed:
    return Malformed(f"The body is no JSON: {why}, {place_of(body, at)}. Nothing was stored.")


def place_of(text: bytes, at: int) -> str:
    """The offset as a line and a column, both from 1; columns count characters."""
    line_start = text.rfind(b"\n", 0, at) + 1
    line = text.count(b"\n", 0, at) + 1
    column = len(text[line_start:at].decode("utf-8", "replace")) + 1
    return f"line {line}, column {column}"
