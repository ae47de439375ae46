"""Makes sure that what parameters become is plain JSON, and not too much of it."""

import math
from collections.abc import Mapping
from typing import Any

from jinja2.runtime import Undefined

from upshot.core.limits import (
    INTEGER_DIGITS_MAX,
    NESTING_MAX,
    PARAMETERS_BYTES_MAX,
    PARAMETERS_NESTING_MAX,
)
from upshot.core.templates.bounds import INTEGER_END
from upshot.core.templates.faults import TooLarge, Unfit, kind_of


class Meter:
    """Makes plain JSON of values, and stops when it would be more than parameters may be.

    Measured is what the JSON needs before escapes: text in UTF-8, digits, and 2 bytes a value.
    """

    __slots__ = ("bytes_left",)

    def __init__(self) -> None:
        self.bytes_left = PARAMETERS_BYTES_MAX

    def take(self, size: int) -> None:
        self.bytes_left -= size
        if self.bytes_left < 0:
            raise TooLarge

    def key(self, key: Any) -> str:
        if not isinstance(key, str):
            raise Unfit(f"an object's keys are strings, and {key!r} is none")
        return self.text(key)

    def text(self, text: str) -> str:
        if len(text) > self.bytes_left:
            raise TooLarge
        if "\0" in text:
            raise Unfit("a text holds the character U+0000")
        if text.isascii():
            self.take(len(text) + 2)
            return text
        try:
            self.take(len(text.encode()) + 2)
        except UnicodeEncodeError:
            raise Unfit("a text holds half a surrogate pair, which is no character") from None
        return text

    def plain(self, value: Any, depth: int = 0) -> Any:
        if type(value) is str:
            return self.text(value)
        if depth > NESTING_MAX + PARAMETERS_NESTING_MAX:
            raise Unfit(
                f"the value is nested more than {NESTING_MAX + PARAMETERS_NESTING_MAX} deep"
            )
        match value:
            case None | True | False:
                self.take(5)
                return value
            case int() if abs(value) < INTEGER_END:
                self.take(len(str(value)))
                return value
            case int():
                raise Unfit(f"a number has more than {INTEGER_DIGITS_MAX} digits")
            case float() if math.isfinite(value):
                self.take(len(repr(value)))
                return value
            case float():
                raise Unfit(f"{value} is no number in JSON")
            case list() | tuple():
                self.take(2)
                return [self.plain(item, depth + 1) for item in value]
            case Mapping():
                self.take(2)
                return {self.key(k): self.plain(v, depth + 1) for k, v in value.items()}
            case Undefined():
                value._fail_with_undefined_error()
        raise Unfit(f"{kind_of(value)} is no JSON")
