"""What a user types to search in texts: `error -debug +order "timed out"`; pure."""

import re
from dataclasses import dataclass
from typing import Final

_TERM: Final = re.compile(r'([-!+]?)(?:"((?:[^"\\]|\\.)*)"?|(\S+))')
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Terms:
    """Whatever their case: one of `either`, if there is any, all of `all_of`, none of `none_of`."""

    either: tuple[str, ...] = ()
    all_of: tuple[str, ...] = ()
    none_of: tuple[str, ...] = ()


def terms_of(query: str) -> Terms:
    """Words and quoted phrases; `+` before one makes it needed, `-` or `!` unwanted."""
    found: dict[str, list[str]] = {"": [], "+": [], "-": []}
    for sign, phrase, word in _TERM.findall(query):
        term = word or _ESCAPED.sub(r"\1", phrase)
        if term:
            found["-" if sign == "!" else sign].append(term)
    return Terms(either=tuple(found[""]), all_of=tuple(found["+"]), none_of=tuple(found["-"]))
