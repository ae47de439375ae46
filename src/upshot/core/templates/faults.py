"""What can be wrong with parameters, and the words it is told in."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

import jinja2

from upshot.core.errors import Problem, UpshotError
from upshot.core.limits import RENDER_REASON_CHARS_MAX

Path = tuple[str | int, ...]
"""Where in the parameters: keys and indices from the top."""


class RenderFailed(UpshotError):
    """A template could not be rendered from this context; `problems` says which, and why."""


class Refused(Exception):
    """A template breaks a rule."""

    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.line = line


class Unfit(jinja2.TemplateRuntimeError):
    """A value that a template may not make, or that cannot be a parameter."""


class TooLarge(Exception):
    """The parameters are over their bound as a whole."""


def render_failed(problems: list[Problem]) -> RenderFailed:
    return RenderFailed(f"The parameters could not be rendered: {first_of(problems)}.", problems)


def first_of(problems: list[Problem]) -> str:
    where = ".".join(map(str, problems[0].loc))
    reason = problems[0].msg.rstrip(".")
    return f"{where}: {reason}" if where else reason


def shortened(reason: str) -> str:
    if len(reason) <= RENDER_REASON_CHARS_MAX:
        return reason
    return reason[: RENDER_REASON_CHARS_MAX - 3] + "..."


def kind_of(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list() | tuple():
            return "a list"
        case Mapping():
            return "an object"
    return f"a {type(value).__name__}"


def choice_among(name: str, there: Iterable[Any]) -> str:
    """A suggestion and the first of what there is, to end a sentence with."""
    names = [str(known)[:100] for known in there]
    if not names:
        return "; there is nothing in it"
    close = difflib.get_close_matches(name, names[:500], n=1)
    suggestion = f"; did you mean {close[0]!r}?" if close else ""
    more = ", ..." if len(names) > 20 else ""
    return f"{suggestion} (known here: {', '.join(map(repr, names[:20]))}{more})"
