"""A request's body: one event, an array of them, or one a line."""

from collections.abc import Callable, Iterable
from datetime import datetime
from functools import partial
from io import BytesIO
from uuid import UUID

from upshot.core.errors import Malformed, Problem
from upshot.core.intake.quick import read_item
from upshot.core.intake.slow import Broken
from upshot.core.intake.splitting import (
    SPACE,
    array_items,
    counted,
    malformed,
    place_of,
    start_of_item,
)
from upshot.core.intake.verdicts import Reading, Refused, Verdict


def read_json(body: bytes, *, now: datetime, new_id: Callable[[], UUID]) -> Reading:
    """Read one event or an array of them.

    Raises Malformed where the body is no JSON (a NaN, a lone surrogate or an abyss of brackets
    costs only the event that holds it), Invalid for an empty array, TooLarge for too many events.
    """
    opening = body.lstrip(SPACE)[:1]
    if opening not in (b"{", b"["):
        raise Malformed("The body must be a JSON object, or an array of objects.")
    single = opening == b"{"
    items = [body] if single else array_items(body)
    read = partial(read_item, now=now, new_id=new_id)
    return read_items(body, items, single=single, read=read)


def read_items(
    body: bytes, items: Iterable[bytes], *, single: bool, read: Callable[[bytes], Verdict]
) -> Reading:
    """The verdicts on a JSON body's items; Malformed where one of them is Broken."""
    verdicts: list[Verdict] = []
    try:
        for item in items:
            verdicts.append(read(item))
    except Broken as broken:
        start = 0 if single else start_of_item(body, len(verdicts))
        raise malformed(body, at=start + broken.at, why=broken.why) from None
    return Reading(verdicts=tuple(verdicts), single=single)


def read_ndjson(body: bytes, *, now: datetime, new_id: Callable[[], UUID]) -> Reading:
    """Read one event per line. Blank lines do not count, and a bad line loses nothing but itself.

    Raises Invalid where there is no event at all, TooLarge for too many.
    """
    lines = (line.strip(SPACE) for line in BytesIO(body))
    items = counted(line for line in lines if line)
    return Reading(
        verdicts=tuple(_read_line(item, now=now, new_id=new_id) for item in items), single=False
    )


def _read_line(line: bytes, *, now: datetime, new_id: Callable[[], UUID]) -> Verdict:
    try:
        return read_item(line, now=now, new_id=new_id)
    except Broken as broken:
        msg = f"The line is no JSON: {broken.why}, {place_of(line, broken.at)}."
        return Refused(id=None, problems=(Problem((), msg),))
