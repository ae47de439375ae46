"""The slow way for one item: whatever JSON text can say becomes a value, to be judged."""

import json
from datetime import datetime
from math import isfinite

from upshot.core.intake.echoes import echo, listed
from upshot.core.intake.rules import Unkeepable, problems_of
from upshot.core.intake.splitting import masked, steps_of
from upshot.core.intake.verdicts import Refused
from upshot.core.limits import INTEGER_DIGITS_MAX, NESTING_MAX


class Broken(Exception):
    """The item is no JSON. `at` is the offset of the fault in it, in bytes."""

    def __init__(self, *, at: int, why: str) -> None:
        super().__init__(why)
        self.at = at
        self.why = why


def refusal(item: bytes, now: datetime) -> Refused | None:
    """Every problem of the item, or None where it keeps all the rules. May raise Broken."""
    tree = read_slowly(item)
    problems = listed(problems_of(tree, now))
    if not problems:
        return None
    sent_id = dict(tree).get("id") if isinstance(tree, tuple) else None
    return Refused(id=echo(sent_id), problems=problems)


def read_slowly(item: bytes) -> object:
    # Bytes that are not UTF-8 become lone surrogates, and are refused where they stand.
    text = item.decode("utf-8", "surrogateescape")
    try:
        return _slow_decoder.decode(text)
    except RecursionError:
        return read_slowly(_without_the_deepest(item))
    except json.JSONDecodeError as error:
        at = len(text[: error.pos].encode("utf-8", "surrogateescape"))
        raise Broken(at=at, why=error.msg.lower()) from None


def _without_the_deepest(item: bytes) -> bytes:
    """The item with `[]` in place of what is nested too deeply; all else stays where it was."""
    pieces: list[bytes] = []
    depth = kept_from = cut_from = 0
    for start, change in steps_of(masked(item)):
        before, depth = depth, depth + change
        if before <= NESTING_MAX < depth:
            cut_from = start + NESTING_MAX - before
            pieces.append(item[kept_from:cut_from])
            kept_from = len(item)
        elif depth <= NESTING_MAX < before:
            kept_from = start + before - NESTING_MAX
            pieces.append(b"[]".ljust(kept_from - cut_from))
    return b"".join([*pieces, item[kept_from:]])


def _read_integer(text: str) -> object:
    if len(text.lstrip("-")) <= INTEGER_DIGITS_MAX:
        return int(text)
    return Unkeepable(f"The integer has more than {INTEGER_DIGITS_MAX:,} digits.")


def _read_float(text: str) -> object:
    value = float(text)
    if isfinite(value):
        return value
    return Unkeepable("The number is too large for a double; send it as a string.")


def _read_constant(text: str) -> object:
    return Unkeepable(f"{text} is no JSON; send null or a string.")


_slow_decoder = json.JSONDecoder(
    object_pairs_hook=tuple,
    parse_int=_read_integer,
    parse_float=_read_float,
    parse_constant=_read_constant,
)
