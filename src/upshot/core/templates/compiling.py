"""From the source's strings to leaves that can be rendered, each checked once."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jinja2
from jinja2 import nodes

from upshot.core.errors import Invalid, Problem
from upshot.core.limits import PARAMETERS_BYTES_MAX, PARAMETERS_NESTING_MAX, TEMPLATE_CHARS_MAX
from upshot.core.templates.checking import Checking, Findings
from upshot.core.templates.environment import ENVIRONMENT
from upshot.core.templates.faults import Path, Refused, TooLarge, shortened
from upshot.core.templates.filters import LOOP_BOUND
from upshot.core.templates.meter import Meter
from upshot.core.templates.rendering import (
    RESULT,
    Expression,
    Json,
    Leaf,
    Literal,
    Lookup,
    Text,
    json_value,
)
from upshot.core.templates.shapes import CONTEXT

TEXT, JSON = "$text", "$json"
FORMS = (TEXT, JSON)
"""`{"$text": template}` is always text, `{"$json": template}` the value that its text writes."""

AnyLeaf = TypeVar("AnyLeaf", bound=Leaf)


class Compiling:
    """From the source's strings to templates; problems are gathered, not raised."""

    def __init__(self) -> None:
        self.findings = Findings()
        self.problems: list[Problem] = []
        self.meter = Meter()

    def tree(self, source: Any, loc: Path, depth: int) -> Any:
        """The same shape as `source`, with a leaf for everything that holds no other."""
        if depth > PARAMETERS_NESTING_MAX and isinstance(source, Mapping | list | tuple):
            reason = f"parameters are nested more than {PARAMETERS_NESTING_MAX} deep"
            raise Invalid(f"The {reason}.", [Problem(loc, reason)])
        try:
            if isinstance(source, Mapping):
                # At the top those are names of parameters like any other.
                form = next((form for form in FORMS if loc and form in source), None)
                if form is not None:
                    return self._formed(form, source, loc)
                keys = [self.meter.key(key) for key in source]
                return {key: self.tree(source[key], (*loc, key), depth + 1) for key in keys}
            if isinstance(source, list | tuple):
                self.meter.take(2)
                return [self.tree(item, (*loc, i), depth + 1) for i, item in enumerate(source)]
            literal = Literal(loc, self.meter.plain(source))
            return self._template(source, loc, _compiled) if _has_jinja(source) else literal
        except TooLarge:
            reason = f"the parameters are larger than {PARAMETERS_BYTES_MAX} bytes"
            raise Invalid(
                f"The parameters are not valid: {reason}.", [Problem((), reason)]
            ) from None
        except Refused as error:
            line = "" if error.line is None else f"line {error.line}: "
            self.problems.append(Problem(loc, shortened(line + error.reason)))
        except jinja2.TemplateRuntimeError as error:
            self.problems.append(Problem(loc, shortened(str(error))))
        return None

    def _formed(self, form: str, source: Mapping[str, Any], loc: Path) -> Leaf:
        """A template that says what its text becomes."""
        written = source[form]
        if len(source) > 1 or not isinstance(written, str):
            raise Refused(f"{form!r} stands alone in its object and has a template, a text")
        if not _has_jinja(written):
            value = json_value(written) if form == JSON else written
            return Literal(loc, self.meter.plain(value))
        self.meter.text(written)
        text = self._template(written, loc, _text)
        return Json(loc, text.template) if form == JSON else text

    def _template(
        self, source: str, loc: Path, compiled: Callable[[nodes.Template, Path], AnyLeaf]
    ) -> AnyLeaf:
        if len(source) > TEMPLATE_CHARS_MAX:
            raise Refused(f"the template is longer than {TEMPLATE_CHARS_MAX} characters")
        try:
            parsed = ENVIRONMENT.parse(source)
            Checking(self.findings).check(parsed, CONTEXT)
            return compiled(parsed, loc)
        except jinja2.TemplateSyntaxError as error:
            raise Refused(error.message or "cannot be read", error.lineno) from None
        except (RecursionError, MemoryError, SyntaxError):
            # Python's own bounds, which its parser and Jinja's meet at different depths.
            raise Refused("nested too deeply", 1) from None


def _has_jinja(source: Any) -> bool:
    return isinstance(source, str) and ("{{" in source or "{%" in source or "{#" in source)


def _compiled(parsed: nodes.Template, loc: Path) -> Leaf:
    expression = _lone_expression(parsed)
    if expression is None:
        return _text(parsed, loc)
    lookup = _lookup(expression, loc)
    if lookup is not None:
        return lookup
    line = expression.lineno
    assignment = nodes.Assign(nodes.Name(RESULT, "store", lineno=line), expression, lineno=line)
    assigned = nodes.Template([assignment], lineno=1)
    return Expression(loc, ENVIRONMENT.from_string(assigned))


def _text(parsed: nodes.Template, loc: Path) -> Text:
    for loop in parsed.find_all(nodes.For):
        loop.iter = nodes.Filter(loop.iter, LOOP_BOUND, [], [], None, None, lineno=loop.iter.lineno)
    return Text(loc, ENVIRONMENT.from_string(parsed))


def _lone_expression(parsed: nodes.Template) -> nodes.Expr | None:
    match parsed.body:
        case [nodes.Output(nodes=[expression])] if not isinstance(expression, nodes.TemplateData):
            return expression
    return None


def _lookup(expression: nodes.Expr, loc: Path) -> Lookup | None:
    steps: list[tuple[Callable[[Any, Any], Any], Any]] = []
    while True:
        match expression:
            case nodes.Name():
                return Lookup(loc, expression.lineno, expression.name, tuple(reversed(steps)))
            case nodes.Getattr():
                steps.append((ENVIRONMENT.getattr, expression.attr))
            case nodes.Getitem(arg=nodes.Const(value=constant)):
                steps.append((ENVIRONMENT.getitem, constant))
            case _:
                return None
        expression = expression.node
