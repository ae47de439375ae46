"""One rendering: the leaves of a compiled tree, each asked for its value."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import jinja2
import msgspec
from jinja2.runtime import Context
from jinja2.utils import missing

from upshot.core.errors import Problem
from upshot.core.limits import PARAMETERS_BYTES_MAX, RENDER_PROBLEMS_MAX
from upshot.core.templates.environment import ENVIRONMENT, Missing
from upshot.core.templates.faults import Path, TooLarge, Unfit, render_failed, shortened
from upshot.core.templates.meter import Meter


@dataclass(frozen=True, slots=True)
class Literal:
    """What holds no template."""

    loc: Path
    value: Any

    def render(self, rendering: "Rendering") -> Any:
        return rendering.meter.plain(self.value)


@dataclass(frozen=True, slots=True)
class Lookup:
    """A lone path, by far the most frequent template: the lookups Jinja would make, directly."""

    loc: Path
    line: int
    name: str
    steps: tuple[tuple[Callable[[Any, Any], Any], Any], ...]

    def render(self, rendering: "Rendering") -> Any:
        value = rendering.context.get(self.name, missing)
        if value is missing:
            value = Missing(name=self.name)
        for look_up, name in self.steps:
            value = look_up(value, name)
        return rendering.meter.plain(value)


@dataclass(frozen=True, slots=True)
class Expression:
    """A lone expression: its value keeps its type."""

    loc: Path
    template: jinja2.Template

    def render(self, rendering: "Rendering") -> Any:
        context = rendering.jinja_context()
        for _ in self.template.root_render_func(context):
            pass
        return rendering.meter.plain(context.vars[RESULT])


@dataclass(frozen=True, slots=True)
class Text:
    """Anything else: what Jinja writes."""

    loc: Path
    template: jinja2.Template

    def render(self, rendering: "Rendering") -> str:
        return rendering.meter.text(_written(self.template, rendering))


@dataclass(frozen=True, slots=True)
class Json:
    """What Jinja writes, read as JSON."""

    loc: Path
    template: jinja2.Template

    def render(self, rendering: "Rendering") -> Any:
        return rendering.meter.plain(json_value(_written(self.template, rendering)))


Leaf = Literal | Lookup | Expression | Text | Json


def json_value(text: str) -> Any:
    """The value that a text of JSON writes; `Unfit` where it is none."""
    try:
        return msgspec.json.decode(text)
    except (ValueError, RecursionError) as error:
        raise Unfit(f"the text is no JSON: {error}") from None


def _written(template: jinja2.Template, rendering: "Rendering") -> str:
    chunks: list[str] = []
    room = rendering.meter.bytes_left
    for chunk in template.root_render_func(rendering.jinja_context()):
        room -= len(chunk)
        if room < 0:
            raise TooLarge
        chunks.append(chunk)
    return "".join(chunks)


RESULT = "result"
"""Where Jinja leaves the value of a lone expression."""


class Rendering:
    """One rendering of parameters: its context, its bound, and what went wrong in it."""

    def __init__(self, context: Mapping[str, Any]) -> None:
        self.context = context
        self.meter = Meter()
        self.problems: list[Problem] = []
        self._jinja_context: Context | None = None

    def jinja_context(self) -> Context:
        if self._jinja_context is None:
            self._jinja_context = Context(ENVIRONMENT, dict(self.context), None, {})
        return self._jinja_context

    def fill(self, tree: Any) -> Any:
        if isinstance(tree, dict):
            return {self.meter.key(key): self.fill(value) for key, value in tree.items()}
        if isinstance(tree, list):
            self.meter.take(2)
            return [self.fill(item) for item in tree]
        return self._value(tree)

    def _value(self, leaf: Leaf) -> Any:
        try:
            return leaf.render(self)
        except TooLarge:
            reason = f"the parameters are larger than {PARAMETERS_BYTES_MAX} bytes"
            raise render_failed([*self.problems, Problem(leaf.loc, reason)]) from None
        except MemoryError:
            raise
        except Exception as error:
            # Whatever a template raises is the template's fault, and no other run's.
            self.problems.append(Problem(leaf.loc, _reason(error, leaf)))
            if len(self.problems) == RENDER_PROBLEMS_MAX:
                raise render_failed(self.problems) from None


def _reason(error: Exception, leaf: Leaf) -> str:
    reason = str(error)
    if not isinstance(error, jinja2.TemplateError):
        reason = f"{type(error).__name__}: {reason}"
    return shortened(f"line {_line(error.__traceback__, leaf)}: {reason}")


def _line(traceback: TracebackType | None, leaf: Leaf) -> int:
    line = leaf.line if isinstance(leaf, Lookup) else 1
    while traceback is not None and isinstance(leaf, Text | Json | Expression):
        if traceback.tb_frame.f_globals is leaf.template.root_render_func.__globals__:
            line = leaf.template.get_corresponding_lineno(traceback.tb_lineno)
        traceback = traceback.tb_next
    return line
