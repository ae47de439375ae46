"""Numbers and texts that a template makes on its way, kept small."""

import operator
from collections.abc import Callable
from typing import Any

from upshot.core.limits import FILTER_RESULT_CHARS_MAX, INTEGER_DIGITS_MAX
from upshot.core.templates.faults import Unfit, kind_of

INTEGER_END = 10**INTEGER_DIGITS_MAX


def calculated(sign: str, left: float, right: float) -> float:
    # Powers are looked at before they are taken: 10**10**9 would not come back.
    if sign == "**" and _power_bits(left, right) > _INTEGER_BITS_MAX:
        raise Unfit(f"a number has more than {INTEGER_DIGITS_MAX} digits")
    result: Any = _ARITHMETIC[sign](left, right)
    if not isinstance(result, int | float):
        raise Unfit(f"{kind_of(left)} {sign} {kind_of(right)} is no real number")
    if isinstance(result, int) and abs(result) >= INTEGER_END:
        raise Unfit(f"a number has more than {INTEGER_DIGITS_MAX} digits")
    return result


_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
    "**": operator.pow,
}
_INTEGER_BITS_MAX = INTEGER_END.bit_length()


def _power_bits(base: float, exponent: float) -> int:
    if isinstance(base, int) and isinstance(exponent, int):
        return (base.bit_length() - 1) * abs(exponent)
    return 0


def short_enough(text: str) -> str:
    check_length(len(text))
    return text


def check_length(chars: int) -> None:
    if chars > FILTER_RESULT_CHARS_MAX:
        raise Unfit(f"a text is longer than {FILTER_RESULT_CHARS_MAX} characters")
