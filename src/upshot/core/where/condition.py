"""A condition that is compiled once, and holds for an event or not."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from upshot.core.events import Event
from upshot.core.limits import REASON_CHARS_MAX, WHERE_STEPS_MAX, WHERES_CACHED_MAX
from upshot.core.where.paths import Paths
from upshot.core.where.reading import Reading, read
from upshot.core.where.tokens import Kind, Token, tokens_of

if TYPE_CHECKING:
    from cel import Program


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a condition holds. `error`: why that could not be told, which is a no."""

    holds: bool
    error: str | None = None


@dataclass(frozen=True, slots=True)
class _Failure:
    reason: str


@dataclass(frozen=True, slots=True)
class Where:
    """Two are the same when their texts are."""

    text: str
    _reading: Reading = field(repr=False, compare=False)
    _paths: Paths = field(repr=False, compare=False)
    _program: "Program" = field(repr=False, compare=False)

    def holds(self, event: Event) -> bool:
        """What cannot be told is a no: a field is missing, or a text where a number should be."""
        return self._answer(self._paths.values(event)) is True

    def verdict(self, event: Event) -> Verdict:
        """The same, with the reason why it could not be told."""
        values = self._paths.values(event)
        answer = self._answer(values)
        if isinstance(answer, _Failure):
            return Verdict(holds=False, error=self._explained(answer, values))
        return Verdict(holds=answer)

    def _answer(self, values: dict[str, Any]) -> bool | _Failure:
        steps = _steps(self._reading, values)
        if steps > WHERE_STEPS_MAX:
            return _Failure(
                f"This takes about {steps:,} steps for an event of this size; at most "
                f"{WHERE_STEPS_MAX:,} are taken. Ask less about lists, or send shorter ones."
            )
        answer: bool | _Failure = _executed(self._program, values)
        return answer

    def _explained(self, failure: _Failure, values: dict[str, Any]) -> str:
        missing = _UNDEFINED.match(failure.reason)
        if missing is not None:
            path = self._reading.paths[missing[1]]
            asked = f"has({path}) is no question: there is nothing that it could be in"
            return f"{asked}." if path.is_asked else f"{path} is missing."
        if failure.reason.startswith(_OVERLOAD):
            kind = _executed(_compiled(f"type({self._reading.text})"), values)
            if isinstance(kind, str) and kind != "bool":
                return f"The condition gives {kind}, which is neither true nor false."
            return _OTHER_KIND
        if failure.reason.startswith("Conversion Error"):
            return "What is asked for holds a whole number that is too large: at most about 1e308."
        return failure.reason


_UNDEFINED: Final = re.compile("Undefined variable or function: '(_[0-9]+)'")
_OVERLOAD: Final = "No such overload"
_OTHER_KIND: Final = (
    "An operation does not fit its values. Texts and numbers cannot be compared by size, and sums "
    "want numbers of one kind: double(x) + 1.5 or int(x) + 1."
)
_SYNTAX: Final = re.compile(r"ERROR: <input>:([0-9]+):([0-9]+): (?:Syntax error: )?(.+)")


@lru_cache(maxsize=WHERES_CACHED_MAX)
def compile_where(text: str) -> Where:
    """Raises ValueError with what is wrong, and what to do."""
    tokens = tokens_of(text)
    _compiled(text)
    reading = read(tokens)
    # `? true : false` refuses what is no boolean before all of it is made a Python value.
    program = _compiled(f"({reading.text}) ? true : false")
    # The library must find the names in it that we did. A loop need not name its items again.
    if not reading.paths.keys() <= set(program.variables()) <= reading.paths.keys() | reading.items:
        raise ValueError("The condition cannot be read without doubt. Write it more plainly.")
    _check_constants(tokens, reading)
    return Where(text, reading, Paths(reading.paths), program)


def _compiled(text: str) -> "Program":
    # The library brings a command along, and what that needs to draw on terminals: a quarter of a
    # second that only conditions are worth.
    import cel

    try:
        return cel.compile(text)
    except BaseException as error:
        _raise_what_is_not_the_librarys(error)
        raise ValueError(_syntax_error(str(error))) from None


def _executed(program: "Program", values: dict[str, Any]) -> Any:
    """What comes out, or a _Failure. What is missing has no variable, which is an error as in CEL:
    `||`, `&&` and loops take it back where the other side decides."""
    try:
        return program.execute(values)
    except KeyError as error:
        return _Failure(_shortened(f"There is no {error.args[0]!r}."))
    except BaseException as error:
        _raise_what_is_not_the_librarys(error)
        return _Failure(_shortened(str(error)))


def _raise_what_is_not_the_librarys(error: BaseException) -> None:
    """A panic in the library is no Exception, and ends nothing but the call."""
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error


def _syntax_error(reason: str) -> str:
    found = _SYNTAX.search(reason)
    if found is None:
        return _shortened(f"The condition cannot be read: {reason}")
    line, column, what = found.groups()
    what = what.partition(" expecting ")[0].replace("'<EOF>'", "the end")
    return _shortened(f"The condition cannot be read (line {line}, column {column}): {what}.")


def _check_constants(tokens: Sequence[Token], reading: Reading) -> None:
    """What fails whatever the event is would be a condition that never holds."""
    for at in range(len(tokens) - 3):
        name, opened, value, closed = (token.text for token in tokens[at : at + 4])
        if name in ("duration", "timestamp") and tokens[at + 2].kind is Kind.TEXT:
            _check_constant(name + opened + value + closed)
    if not reading.paths:
        _check_constant(f"({reading.text}) ? true : false")


def _check_constant(text: str) -> None:
    outcome = _executed(_compiled(text), {})
    if isinstance(outcome, _Failure):
        raise ValueError(f"{_shortened(text)} can never be told: {outcome.reason}")


def _steps(reading: Reading, values: dict[str, Any]) -> int:
    """How much there is to do, in steps of about 0.1 µs; nothing can interrupt it."""
    weights = {variable: _weight(value) for variable, value in values.items()}
    steps = sum(weights.get(variable, 0) for variable in reading.mentioned)
    for loop in reading.loops:
        over = values.get(loop.over or "")
        items = len(over) if isinstance(over, list | dict) else loop.literals
        each = loop.length + sum(weights.get(variable, 0) for variable in loop.mentioned)
        if loop.collects:
            each += weights.get(loop.over or "", 0) // 2
        steps += items * each
    return steps


def _weight(value: Any) -> int:
    """How many values it is made of; long texts count for several."""
    match value:
        case str():
            return len(value) // 64
        case list():
            return len(value) + sum(map(_weight, value))
        case dict():
            return len(value) + sum(map(_weight, value.values()))
        case _:
            return 0


def _shortened(reason: str) -> str:
    return reason if len(reason) <= REASON_CHARS_MAX else reason[: REASON_CHARS_MAX - 3] + "..."
