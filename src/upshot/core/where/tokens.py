"""The tokens of a condition, read before the library reads it, whose parser recurses."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from itertools import pairwise
from typing import Final

from upshot.core.limits import WHERE_ADDITIONS_MAX, WHERE_CHARS_MAX, WHERE_NESTING_MAX


class Kind(Enum):
    NAME = auto()
    NUMBER = auto()
    TEXT = auto()
    SIGN = auto()


@dataclass(frozen=True, slots=True)
class Token:
    kind: Kind
    text: str
    position: int


# As CEL's own lexer has it, but for texts with a letter before them or in triple quotes, which are
# refused: the library must find the same tokens as we do.
_LEXEME: Final = re.compile(
    r"""
    (?P<NOTHING> [ \t\r\n\f]+ | //[^\n]* )
  | (?P<TEXT> "(?:[^"\\\n\r]|\\.)*" | '(?:[^'\\\n\r]|\\.)*' )
  | (?P<NUMBER>
        0x[0-9a-fA-F]+[uU]?
      | (?:[0-9]+\.[0-9]+|\.[0-9]+|[0-9]+)(?:[eE][+-]?[0-9]+)?[uU]?
    )
  | (?P<NAME> [A-Za-z_][A-Za-z0-9_]* )
  | (?P<SIGN> && | \|\| | [=!<>]= | [-<>()\[\]{}.,:?!+*/%] )
    """,
    re.VERBOSE,
)


def tokens_of(text: str) -> list[Token]:
    """Raises ValueError for what cannot be read, is too long or nested too deep."""
    if len(text) > WHERE_CHARS_MAX:
        raise ValueError(
            f"The condition has {len(text):,} characters; at most {WHERE_CHARS_MAX:,} fit. "
            "Ask for less, or make several triggers."
        )
    tokens = list(_lexemes(text))
    _check_texts(tokens)
    _check_nesting(tokens)
    _check_additions(tokens)
    return tokens


def _lexemes(text: str) -> Iterator[Token]:
    position = 0
    while position < len(text):
        lexeme = _LEXEME.match(text, position)
        if lexeme is None:
            raise ValueError(_unreadable(text, position))
        if lexeme.lastgroup != "NOTHING":
            kind = Kind.SIGN if lexeme[0] == "in" else Kind[str(lexeme.lastgroup)]
            yield Token(kind, lexeme[0], position)
        position = lexeme.end()


def _unreadable(text: str, position: int) -> str:
    line = text.count("\n", 0, position) + 1
    column = position - text.rfind("\n", 0, position)
    what = "This text does not end" if text[position] in "\"'" else "This cannot be read"
    return f"{what} (line {line}, column {column}): {text[position : position + 20]!r}."


def _check_texts(tokens: Sequence[Token]) -> None:
    for before, token in pairwise(tokens):
        touches = before.position + len(before.text) == token.position
        if token.kind is Kind.TEXT and touches and before.kind in (Kind.NAME, Kind.TEXT):
            raise ValueError(
                f"{(before.text + token.text)[:40]} cannot be read. Write texts in single or "
                "double quotes, with no letter before them."
            )


def _check_nesting(tokens: Sequence[Token]) -> None:
    """A full stack ends the process. What nests without brackets does so once a character at most,
    which fits a megabyte."""
    depth = 0
    for token in tokens:
        if token.kind is Kind.SIGN:
            depth += (token.text in ("(", "[", "{")) - (token.text in (")", "]", "}"))
        if depth > WHERE_NESTING_MAX:
            raise ValueError(
                f"More than {WHERE_NESTING_MAX} brackets are open at once. Ask for less at a time."
            )


def _check_additions(tokens: Sequence[Token]) -> None:
    """Each addition of texts or lists copies all that were added before."""
    additions = sum(token.kind is Kind.SIGN and token.text == "+" for token in tokens)
    if additions > WHERE_ADDITIONS_MAX:
        raise ValueError(
            f"The condition adds {additions} times; at most {WHERE_ADDITIONS_MAX} are possible."
        )
