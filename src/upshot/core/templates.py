"""Parameters of deployments and triggers: JSON whose strings are Jinja templates, kept harmless."""

import difflib
import functools
import inspect
import json
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import jinja2
import msgspec
from jinja2 import nodes
from jinja2.filters import FILTERS, make_attrgetter
from jinja2.runtime import Context, LoopContext, Undefined
from jinja2.sandbox import SandboxedEnvironment
from jinja2.tests import TESTS
from jinja2.utils import missing

from upshot.core.errors import Invalid, Problem, UpshotError
from upshot.core.events import Event, long_form
from upshot.core.limits import (
    FILTER_RESULT_CHARS_MAX,
    INTEGER_DIGITS_MAX,
    LOOP_ITEMS_MAX,
    NESTING_MAX,
    PARAMETERS_BYTES_MAX,
    PARAMETERS_NESTING_MAX,
    RENDER_PROBLEMS_MAX,
    RENDER_REASON_CHARS_MAX,
    ROUND_DIGITS_MAX,
    STEPS_IN_PROCESS_MAX,
    TEMPLATE_CHARS_MAX,
    TEMPLATE_NESTING_MAX,
)

Path = tuple[str | int, ...]


class RenderFailed(UpshotError):
    """A template could not be rendered from this context; `problems` says which, and why."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """Compiled parameters: every template checked once, to be rendered for each run."""

    source: Mapping[str, Any]
    names: frozenset[str]
    """The names of the context that the templates use: `after` and `events` may be left out."""
    heavy: bool
    """A loop, or an operator or filter whose result can grow: render it in a child process."""
    _tree: Any = field(repr=False, compare=False)

    def render(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters of one run; `RenderFailed` names every template that has no value.

        `context` is plain JSON (or `event_view`s): event, after, events, labels, trigger,
        deployment. The same context as JSON in another process gives the same parameters.
        """
        rendering = _Rendering(context)
        rendered: dict[str, Any] = rendering.fill(self._tree)
        if rendering.problems:
            raise _render_failed(rendering.problems)
        return rendered


def compile_parameters(source: Mapping[str, Any]) -> Parameters:
    """Check and compile `source`; `Invalid` has one problem for each template that is wrong."""
    if not isinstance(source, Mapping):
        raise Invalid("Parameters are a JSON object.", [Problem((), "must be an object")])
    compiling = _Compiling()
    tree = compiling.tree(source, (), 1)
    if compiling.problems:
        raise Invalid(
            f"The parameters are not valid: {_first(compiling.problems)}.", compiling.problems
        )
    found = compiling.findings
    heavy = found.heavy or found.steps > STEPS_IN_PROCESS_MAX
    return Parameters(source=source, names=frozenset(found.names), heavy=heavy, _tree=tree)


def merged_source(deployment: Mapping[str, Any], trigger: Mapping[str, Any]) -> dict[str, Any]:
    """The deployment's defaults with the trigger's top-level parameters over them."""
    return {**deployment, **trigger}


def _render_failed(problems: list[Problem]) -> RenderFailed:
    return RenderFailed(f"The parameters could not be rendered: {_first(problems)}.", problems)


def _first(problems: list[Problem]) -> str:
    where = ".".join(map(str, problems[0].loc))
    reason = problems[0].msg.rstrip(".")
    return f"{where}: {reason}" if where else reason


# The view of an event.


def event_view(event: Event) -> Mapping[str, Any]:
    """What a template sees of an event. The payload is parsed when it is first reached for."""
    return _EventView(event)


def event_document(event: Event) -> dict[str, Any]:
    """The same as plain JSON, payload parsed: to be sent, stored and shown."""
    return dict(_EventView(event))


def _timestamp(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


_EVENT_FIELDS: dict[str, Callable[[Event], Any]] = {
    "id": lambda event: str(event.id),
    "event": lambda event: event.name,
    "resource": lambda event: dict(event.resource),
    "related": lambda event: [dict(labels) for labels in event.related],
    "payload": lambda event: msgspec.json.decode(event.payload),
    "occurred": lambda event: _timestamp(event.occurred_at),
    "received": lambda event: _timestamp(event.received_at),
    "follows": lambda event: None if event.follows is None else str(event.follows),
}


class _EventView(Mapping[str, Any]):
    """In all that a template can do the same as the plain document, but lazy."""

    __slots__ = ("_event", "_seen")

    def __init__(self, event: Event) -> None:
        self._event = event
        self._seen: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._seen:
            self._seen[name] = _EVENT_FIELDS[name](self._event)
        return self._seen[name]

    def __contains__(self, name: object) -> bool:
        return name in _EVENT_FIELDS

    def __iter__(self) -> Iterator[str]:
        return iter(_EVENT_FIELDS)

    def __reversed__(self) -> Iterator[str]:
        return reversed(_EVENT_FIELDS)

    def __len__(self) -> int:
        return len(_EVENT_FIELDS)

    def __repr__(self) -> str:
        return repr(dict(self))


# What names there are, as far as it is known before there is an event.


@dataclass(frozen=True, slots=True)
class _Shape:
    """What is known of a value when the template is saved; nothing at all by default."""

    fields: frozenset[str] | None = None
    items: "_Shape | None" = None


_ANYTHING = _Shape()
_EVENT = _Shape(fields=frozenset(_EVENT_FIELDS))
_CONTEXT: Mapping[str, _Shape] = {
    "event": _EVENT,
    "after": _EVENT,
    "events": _Shape(items=_EVENT),
    "labels": _ANYTHING,
    "trigger": _Shape(fields=frozenset({"name", "id", "version"})),
    "deployment": _Shape(fields=frozenset({"name"})),
}
# fmt: off
_LOOP_FIELDS = (
    "index", "index0", "revindex", "revindex0", "first", "last", "length", "previtem", "nextitem",
)
# fmt: on
_LOOP = _Shape(fields=frozenset(_LOOP_FIELDS))


# Lookups, filters and operators.


class _Missing(jinja2.StrictUndefined):
    """A name that is not there. Nothing can be done with it but ask whether it is defined, or
    give it a default; it cannot slip into a result inside a list either."""

    __slots__ = ()

    @property
    def _undefined_message(self) -> str:
        name, owner = self._undefined_name, self._undefined_obj
        if self._undefined_hint:
            return self._undefined_hint
        if owner is missing:
            return f"{name!r} is undefined"
        if isinstance(owner, Mapping):
            return f"{name!r} is undefined{_choice(str(name), owner)}"
        if isinstance(owner, list | tuple):
            return f"{name!r} is undefined in a list of {len(owner)}"
        return f"{name!r} is looked up in {_kind(owner)}, which has nothing below it"

    def __repr__(self) -> str:
        self._fail_with_undefined_error()


class _Environment(SandboxedEnvironment):
    """Jinja whose lookups see data only, and whose operators cannot eat the memory."""

    intercepted_binops = frozenset(SandboxedEnvironment.default_binop_table)

    def getattr(self, obj: Any, attribute: str) -> Any:
        if type(obj) is LoopContext:
            return getattr(obj, attribute)
        return self.getitem(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Items alone: what Python's objects can do is out of reach, `items` is a field.

        Below what is undefined everything is the same undefined value, so that
        `event.payload.customer.name | default("")` means what it says.
        """
        if isinstance(argument, str):
            if isinstance(obj, Mapping):
                if argument in obj:
                    return obj[argument]
                label = long_form(argument)
                if label in obj:
                    return obj[label]
            elif isinstance(obj, Undefined):
                return obj
        elif isinstance(argument, Undefined):
            argument._fail_with_undefined_error()
        elif isinstance(obj, list | tuple | str) and isinstance(argument, int):
            if -len(obj) <= argument < len(obj):
                return obj[argument]
        elif isinstance(obj, Undefined):
            return obj
        return self.undefined(obj=obj, name=str(argument))

    def is_safe_callable(self, obj: Any) -> bool:
        return False

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        for operand in (left, right):
            if isinstance(operand, Undefined):
                operand._fail_with_undefined_error()
        if isinstance(left, int | float) and isinstance(right, int | float):
            return _calculated(operator, left, right)
        if operator == "+" and isinstance(left, str) and isinstance(right, str):
            return _short_enough(left + right)
        if operator == "+" and isinstance(left, list) and isinstance(right, list):
            return left + right
        raise _Unfit(f"{_kind(left)} {operator} {_kind(right)} cannot be calculated")


_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
    "**": operator.pow,
}
_INTEGER_END = 10**INTEGER_DIGITS_MAX
_INTEGER_BITS_MAX = _INTEGER_END.bit_length()


def _calculated(sign: str, left: float, right: float) -> float:
    # Powers are looked at before they are taken: 10**10**9 would not come back.
    if sign == "**" and _power_bits(left, right) > _INTEGER_BITS_MAX:
        raise _Unfit(f"a number has more than {INTEGER_DIGITS_MAX} digits")
    result: Any = _ARITHMETIC[sign](left, right)
    if not isinstance(result, int | float):
        raise _Unfit(f"{_kind(left)} {sign} {_kind(right)} is no real number")
    if isinstance(result, int) and abs(result) >= _INTEGER_END:
        raise _Unfit(f"a number has more than {INTEGER_DIGITS_MAX} digits")
    return result


def _power_bits(base: float, exponent: float) -> int:
    if isinstance(base, int) and isinstance(exponent, int):
        return (base.bit_length() - 1) * abs(exponent)
    return 0


class _Unfit(jinja2.TemplateRuntimeError):
    """A value that a template may not make, or that cannot be a parameter."""


def _kind(value: Any) -> str:
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


def _choice(name: str, there: Iterable[Any]) -> str:
    """A suggestion and the first of what there is, to end a sentence with."""
    names = [str(known)[:100] for known in there]
    if not names:
        return "; there is nothing in it"
    close = difflib.get_close_matches(name, names[:500], n=1)
    suggestion = f"; did you mean {close[0]!r}?" if close else ""
    more = ", ..." if len(names) > 20 else ""
    return f"{suggestion} (known here: {', '.join(map(repr, names[:20]))}{more})"


def _short_enough(text: str) -> str:
    if len(text) > FILTER_RESULT_CHARS_MAX:
        raise _Unfit(f"a text is longer than {FILTER_RESULT_CHARS_MAX} characters")
    return text


def _bounded(of: Callable[..., Any]) -> Callable[..., Any]:
    """Jinja's filter, but with a list where it gives a generator, and no long text."""

    @functools.wraps(of)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        result = of(*args, **kwargs)
        if isinstance(result, str):
            return _short_enough(result)
        return list(result) if isinstance(result, Iterator) else result

    return bounded


def _replaced(value: Any, old: str, new: str, count: int = -1) -> str:
    text = str(value)
    times = text.count(old) if count < 0 else min(count, text.count(old))
    if len(text) + times * (len(new) - len(old)) > FILTER_RESULT_CHARS_MAX:
        raise _Unfit(f"a text is longer than {FILTER_RESULT_CHARS_MAX} characters")
    return text.replace(old, new, count)


@jinja2.pass_environment
def _joined(
    environment: jinja2.Environment, value: Any, d: str = "", attribute: str | int | None = None
) -> str:
    if attribute is not None:
        value = map(make_attrgetter(environment, attribute), value)
    texts = [str(item) for item in value]
    if sum(map(len, texts)) + len(d) * len(texts) > FILTER_RESULT_CHARS_MAX:
        raise _Unfit(f"a text is longer than {FILTER_RESULT_CHARS_MAX} characters")
    return d.join(texts)


def _rounded(value: float, precision: int = 0, method: str = "common") -> Any:
    if not -ROUND_DIGITS_MAX <= precision <= ROUND_DIGITS_MAX:
        raise _Unfit(f"the precision is over {ROUND_DIGITS_MAX} digits")
    return FILTERS["round"](value, precision, method)


def _json_text(value: Any) -> str:
    return json.dumps(_Meter().plain(value), ensure_ascii=False)


def _loop_items(value: Any) -> list[Any]:
    items: list[Any] = []
    for item in value:
        if len(items) == LOOP_ITEMS_MAX:
            raise _Unfit(f"a loop runs over more than {LOOP_ITEMS_MAX} items")
        items.append(item)
    return items


_LOOP_BOUND = "items of a loop"
"""No template can spell this filter's name; the compiler puts it round what is looped over."""

# fmt: off
_LIGHT_FILTERS = (
    "abs", "capitalize", "count", "d", "default", "first", "float", "int", "last", "length",
    "lower", "string", "title", "trim", "truncate", "upper",
)
_HEAVY_FILTERS = (
    "dictsort", "items", "list", "map", "max", "min", "reject", "rejectattr", "select",
    "selectattr", "sort", "sum", "unique", "urlencode",
)
_OWN_LIGHT_FILTERS = {"replace": _replaced, "round": _rounded, "tojson": _json_text}
_OWN_HEAVY_FILTERS = {"join": _joined}
_TESTS = (
    "boolean", "defined", "divisibleby", "eq", "equalto", "even", "false", "float", "ge",
    "greaterthan", "gt", "in", "integer", "iterable", "le", "lessthan", "lower", "lt",
    "mapping", "ne", "none", "number", "odd", "sequence", "string", "true", "undefined",
    "upper", "==", "!=", "<", "<=", ">", ">=",
)
# fmt: on


@jinja2.pass_context
def _as_it_is(context: Context, value: Any) -> Any:
    """Nothing to do; but a finalizer that asks for the context keeps Jinja from calculating
    constant expressions when it compiles, where neither bounds nor clocks are watching."""
    return value


def _environment() -> _Environment:
    environment = _Environment(
        undefined=_Missing, finalize=_as_it_is, optimized=False, keep_trailing_newline=True
    )
    environment.globals.clear()
    environment.filters.clear()
    environment.filters.update({name: _bounded(FILTERS[name]) for name in _LIGHT_FILTERS})
    environment.filters.update({name: _bounded(FILTERS[name]) for name in _HEAVY_FILTERS})
    environment.filters.update(_OWN_LIGHT_FILTERS)
    environment.filters.update(_OWN_HEAVY_FILTERS)
    environment.tests = {name: TESTS[name] for name in _TESTS}
    return environment


_ENVIRONMENT = _environment()
_FILTERS = frozenset(_ENVIRONMENT.filters)
_LIGHT = frozenset(_LIGHT_FILTERS) | frozenset(_OWN_LIGHT_FILTERS)
_ENVIRONMENT.filters[_LOOP_BOUND] = _loop_items


# Checking.


class _Refused(Exception):
    """A template breaks a rule."""

    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.line = line


@dataclass(slots=True)
class _Findings:
    """What the templates seen so far use."""

    names: set[str] = field(default_factory=set)
    steps: int = 0
    """Filters and comparisons: each may read the whole payload once."""
    heavy: bool = False


Scope = Mapping[str, _Shape]

_PLAIN_NODES = (
    nodes.Template,
    nodes.Output,
    nodes.TemplateData,
    nodes.If,
    nodes.CondExpr,
    nodes.And,
    nodes.Or,
    nodes.Not,
    nodes.Neg,
    nodes.Pos,
    nodes.Operand,
    nodes.Const,
    nodes.Slice,
    nodes.Pair,
    nodes.Keyword,
)
"""Allowed, and nothing to say about them but what is inside."""

_REFUSED_NODES: dict[type[nodes.Node], str] = {
    nodes.Call: "nothing can be called; use filters, such as {{ x | length }}",
    nodes.CallBlock: "call blocks are not allowed",
    nodes.Macro: "macros are not allowed",
    nodes.Import: "imports are not allowed",
    nodes.FromImport: "imports are not allowed",
    nodes.Include: "includes are not allowed",
    nodes.Extends: "extends is not allowed",
    nodes.Block: "blocks are not allowed",
    nodes.Assign: "set is not allowed",
    nodes.AssignBlock: "set is not allowed",
    nodes.FilterBlock: "filter blocks are not allowed; write {{ x | filter }}",
    nodes.With: "with is not allowed",
}


class _Checking:
    """One template against the rules; what it uses goes into `findings`."""

    def __init__(self, findings: _Findings) -> None:
        self.findings = findings
        self.in_loop = False
        self.loop_names: frozenset[str] = frozenset()

    def check(self, node: nodes.Node, scope: Scope, depth: int = 0) -> None:
        if depth > TEMPLATE_NESTING_MAX:
            raise _Refused(f"nested more than {TEMPLATE_NESTING_MAX} deep", node.lineno)
        match node:
            case nodes.For():
                self._loop(node, scope, depth)
                return
            case nodes.Name():
                self._name(node, scope)
            case nodes.Const(value=float() as number) if not math.isfinite(number):
                raise _Refused("a number is too large", node.lineno)
            case nodes.Getattr(node=nodes.Name(name=owner)) if scope.get(owner) is _LOOP:
                self._field(node, node.attr, scope)
                return
            case nodes.Getattr():
                self._attribute(node, node.attr, scope)
            case nodes.Getitem(arg=nodes.Const(value=str() as name)):
                self._field(node, name, scope)
            case nodes.Getitem():
                pass
            case nodes.Filter() | nodes.Test():
                self._filter_or_test(node)
            case nodes.BinExpr():
                self._operator(node)
            case nodes.Concat():
                self.findings.heavy = True
            case nodes.Compare():
                self.findings.steps += len(node.ops)
            case nodes.List() | nodes.Tuple() | nodes.Dict():
                # A list may name one long text many times, and be printed.
                constant = all(isinstance(c, nodes.Const) for c in node.iter_child_nodes())
                self.findings.heavy |= not constant
            case _ if not isinstance(node, _PLAIN_NODES):
                reason = _REFUSED_NODES.get(type(node), f"{type(node).__name__} is not allowed")
                raise _Refused(reason, node.lineno)
        for child in node.iter_child_nodes():
            self.check(child, scope, depth + 1)

    def _loop(self, node: nodes.For, scope: Scope, depth: int) -> None:
        if self.in_loop:
            raise _Refused("a loop inside a loop is not allowed", node.lineno)
        if node.recursive:
            raise _Refused("recursive loops are not allowed", node.lineno)
        self.findings.heavy = True
        self.check(node.iter, scope, depth + 1)
        items = _shape(node.iter, scope).items or _ANYTHING
        targets = _targets(node.target, items)
        inside = {**scope, **targets}
        self.in_loop, self.loop_names = True, frozenset(targets)
        if node.test is not None:
            self.check(node.test, inside, depth + 1)
        for child in node.body:
            self.check(child, {**inside, "loop": _LOOP}, depth + 1)
        self.loop_names = frozenset()
        for child in node.else_:
            self.check(child, scope, depth + 1)
        self.in_loop = False

    def _name(self, node: nodes.Name, scope: Scope) -> None:
        if node.name not in scope:
            raise _Refused(f"{node.name!r} is unknown{_choice(node.name, scope)}", node.lineno)
        if scope[node.name] is _LOOP:
            raise _Refused("'loop' has no value by itself; write loop.index", node.lineno)
        if node.name not in self.loop_names:
            self.findings.names.add(node.name)

    def _attribute(self, node: nodes.Getattr, name: str, scope: Scope) -> None:
        if name.startswith("_"):
            raise _Refused(
                f"{name!r} is not reachable; a field of that name is written [{name!r}]",
                node.lineno,
            )
        self._field(node, name, scope)

    def _field(self, node: nodes.Getattr | nodes.Getitem, name: str, scope: Scope) -> None:
        shape = _shape(node.node, scope)
        if shape.items is not None:
            raise _Refused(f"{name!r} is looked up in a list; write [0].{name}", node.lineno)
        if shape.fields is not None and name not in shape.fields:
            choice = _choice(name, sorted(shape.fields))
            raise _Refused(f"{name!r} is unknown here{choice}", node.lineno)

    def _filter_or_test(self, node: nodes.Filter | nodes.Test) -> None:
        if node.dyn_args is not None or node.dyn_kwargs is not None:
            raise _Refused("* and ** are not allowed in arguments", node.lineno)
        if isinstance(node, nodes.Test):
            self._known_test(node.name, node.lineno)
            _check_arguments(node, _ENVIRONMENT.tests[node.name])
            return
        self._known_filter(node.name, node.lineno)
        _check_arguments(node, _ENVIRONMENT.filters[node.name])
        self.findings.steps += 1
        self.findings.heavy |= node.name not in _LIGHT or not _has_fixed_arguments(node)
        named = [arg.value if isinstance(arg, nodes.Const) else "" for arg in node.args]
        if node.name == "map" and named:
            self._known_filter(named[0], node.lineno)
        if node.name in ("select", "reject") and named:
            self._known_test(named[0], node.lineno)
        if node.name in ("selectattr", "rejectattr") and len(named) > 1:
            self._known_test(named[1], node.lineno)

    def _known_filter(self, name: str, line: int) -> None:
        if name not in _FILTERS:
            raise _Refused(f"there is no filter {name!r}{_choice(name, sorted(_FILTERS))}", line)

    def _known_test(self, name: str, line: int) -> None:
        if name not in _ENVIRONMENT.tests:
            choice = _choice(name, sorted(_ENVIRONMENT.tests))
            raise _Refused(f"there is no test {name!r}{choice}", line)

    def _operator(self, node: nodes.BinExpr) -> None:
        operands = (node.left, node.right)
        if node.operator == "+":
            self.findings.heavy |= not any(map(_is_number, operands))
            return
        for operand in operands:
            if isinstance(operand, nodes.List | nodes.Tuple) or (
                isinstance(operand, nodes.Const) and isinstance(operand.value, str)
            ):
                raise _Refused(f"{node.operator!r} is for numbers only", node.lineno)


def _has_fixed_arguments(node: nodes.Filter) -> bool:
    """Two long texts of a payload can cost their product, as in `a | trim(b)`."""
    if node.name in ("default", "d"):
        return True
    arguments = [*node.args, *(keyword.value for keyword in node.kwargs)]
    return all(isinstance(argument, nodes.Const) for argument in arguments)


def _is_number(node: nodes.Expr) -> bool:
    return isinstance(node, nodes.Const) and isinstance(node.value, int | float)


def _targets(target: nodes.Node, items: _Shape) -> dict[str, _Shape]:
    if isinstance(target, nodes.Name):
        return {target.name: items}
    return {str(name.name): _ANYTHING for name in target.find_all(nodes.Name)}


def _shape(node: nodes.Node, scope: Scope) -> _Shape:
    match node:
        case nodes.Name():
            return scope.get(node.name, _ANYTHING)
        case nodes.Getitem(arg=nodes.Slice()):
            return _shape(node.node, scope)
        case nodes.Getitem(node=nodes.Node() as several):
            return _shape(several, scope).items or _ANYTHING
        case nodes.Filter(name="first" | "last", node=nodes.Node() as several):
            return _shape(several, scope).items or _ANYTHING
    return _ANYTHING


def _check_arguments(node: nodes.Filter | nodes.Test, function: Any) -> None:
    plain = inspect.unwrap(function)
    # Filters may be given the environment or the context before the value itself.
    before = 2 if hasattr(plain, "jinja_pass_arg") else 1
    keywords = {str(keyword.key): None for keyword in node.kwargs}
    try:
        inspect.signature(plain).bind(*[None] * (before + len(node.args)), **keywords)
    except TypeError as error:
        raise _Refused(f"{node.name!r}: {error}", node.lineno) from None


# Compiling.


@dataclass(frozen=True, slots=True)
class _Literal:
    loc: Path
    value: Any

    def render(self, rendering: "_Rendering") -> Any:
        return rendering.meter.plain(self.value)


@dataclass(frozen=True, slots=True)
class _Lookup:
    """A lone path, by far the most frequent template: the lookups Jinja would make, directly."""

    loc: Path
    line: int
    name: str
    steps: tuple[tuple[Callable[[Any, Any], Any], Any], ...]

    def render(self, rendering: "_Rendering") -> Any:
        value = rendering.context.get(self.name, missing)
        if value is missing:
            value = _Missing(name=self.name)
        for look_up, name in self.steps:
            value = look_up(value, name)
        return rendering.meter.plain(value)


@dataclass(frozen=True, slots=True)
class _Expression:
    """A lone expression: its value keeps its type."""

    loc: Path
    template: jinja2.Template

    def render(self, rendering: "_Rendering") -> Any:
        context = rendering.jinja_context()
        for _ in self.template.root_render_func(context):
            pass
        return rendering.meter.plain(context.vars[_RESULT])


@dataclass(frozen=True, slots=True)
class _Text:
    """Anything else: what Jinja writes."""

    loc: Path
    template: jinja2.Template

    def render(self, rendering: "_Rendering") -> str:
        chunks: list[str] = []
        room = rendering.meter.bytes_left
        for chunk in self.template.root_render_func(rendering.jinja_context()):
            room -= len(chunk)
            if room < 0:
                raise _TooLarge
            chunks.append(chunk)
        return rendering.meter.text("".join(chunks))


_Leaf = _Literal | _Lookup | _Expression | _Text

_RESULT = "result"
"""Where Jinja leaves the value of a lone expression."""


class _Compiling:
    """From the source's strings to templates; problems are gathered, not raised."""

    def __init__(self) -> None:
        self.findings = _Findings()
        self.problems: list[Problem] = []
        self.meter = _Meter()

    def tree(self, source: Any, loc: Path, depth: int) -> Any:
        """The same shape as `source`, with a leaf for everything that holds no other."""
        if depth > PARAMETERS_NESTING_MAX and isinstance(source, Mapping | list | tuple):
            reason = f"parameters are nested more than {PARAMETERS_NESTING_MAX} deep"
            raise Invalid(f"The {reason}.", [Problem(loc, reason)])
        try:
            if isinstance(source, Mapping):
                keys = [self.meter.key(key) for key in source]
                return {key: self.tree(source[key], (*loc, key), depth + 1) for key in keys}
            if isinstance(source, list | tuple):
                self.meter.take(2)
                return [self.tree(item, (*loc, i), depth + 1) for i, item in enumerate(source)]
            literal = _Literal(loc, self.meter.plain(source))
            return self._template(source, loc) if _has_jinja(source) else literal
        except _TooLarge:
            reason = f"the parameters are larger than {PARAMETERS_BYTES_MAX} bytes"
            raise Invalid(
                f"The parameters are not valid: {reason}.", [Problem((), reason)]
            ) from None
        except _Refused as error:
            line = "" if error.line is None else f"line {error.line}: "
            self.problems.append(Problem(loc, _shortened(line + error.reason)))
        except jinja2.TemplateRuntimeError as error:
            self.problems.append(Problem(loc, _shortened(str(error))))
        return None

    def _template(self, source: str, loc: Path) -> _Leaf:
        if len(source) > TEMPLATE_CHARS_MAX:
            raise _Refused(f"the template is longer than {TEMPLATE_CHARS_MAX} characters")
        try:
            parsed = _ENVIRONMENT.parse(source)
            _Checking(self.findings).check(parsed, _CONTEXT)
            return _compiled(parsed, loc)
        except jinja2.TemplateSyntaxError as error:
            raise _Refused(error.message or "cannot be read", error.lineno) from None
        except (RecursionError, MemoryError, SyntaxError):
            # Python's own bounds, which its parser and Jinja's meet at different depths.
            raise _Refused("nested too deeply", 1) from None


def _has_jinja(source: Any) -> bool:
    return isinstance(source, str) and ("{{" in source or "{%" in source or "{#" in source)


def _compiled(parsed: nodes.Template, loc: Path) -> _Leaf:
    expression = _lone_expression(parsed)
    if expression is None:
        for loop in parsed.find_all(nodes.For):
            loop.iter = nodes.Filter(
                loop.iter, _LOOP_BOUND, [], [], None, None, lineno=loop.iter.lineno
            )
        return _Text(loc, _ENVIRONMENT.from_string(parsed))
    lookup = _lookup(expression, loc)
    if lookup is not None:
        return lookup
    line = expression.lineno
    assignment = nodes.Assign(nodes.Name(_RESULT, "store", lineno=line), expression, lineno=line)
    assigned = nodes.Template([assignment], lineno=1)
    return _Expression(loc, _ENVIRONMENT.from_string(assigned))


def _lone_expression(parsed: nodes.Template) -> nodes.Expr | None:
    match parsed.body:
        case [nodes.Output(nodes=[expression])] if not isinstance(expression, nodes.TemplateData):
            return expression
    return None


def _lookup(expression: nodes.Expr, loc: Path) -> _Lookup | None:
    steps: list[tuple[Callable[[Any, Any], Any], Any]] = []
    while True:
        match expression:
            case nodes.Name():
                return _Lookup(loc, expression.lineno, expression.name, tuple(reversed(steps)))
            case nodes.Getattr():
                steps.append((_ENVIRONMENT.getattr, expression.attr))
            case nodes.Getitem(arg=nodes.Const(value=constant)):
                steps.append((_ENVIRONMENT.getitem, constant))
            case _:
                return None
        expression = expression.node


# Rendering.


class _Rendering:
    """One rendering of parameters: its context, its bound, and what went wrong in it."""

    def __init__(self, context: Mapping[str, Any]) -> None:
        self.context = context
        self.meter = _Meter()
        self.problems: list[Problem] = []
        self._jinja_context: Context | None = None

    def jinja_context(self) -> Context:
        if self._jinja_context is None:
            self._jinja_context = Context(_ENVIRONMENT, dict(self.context), None, {})
        return self._jinja_context

    def fill(self, tree: Any) -> Any:
        if isinstance(tree, dict):
            return {self.meter.key(key): self.fill(value) for key, value in tree.items()}
        if isinstance(tree, list):
            self.meter.take(2)
            return [self.fill(item) for item in tree]
        return self._value(tree)

    def _value(self, leaf: _Leaf) -> Any:
        try:
            return leaf.render(self)
        except _TooLarge:
            reason = f"the parameters are larger than {PARAMETERS_BYTES_MAX} bytes"
            raise _render_failed([*self.problems, Problem(leaf.loc, reason)]) from None
        except MemoryError:
            raise
        except Exception as error:
            # Whatever a template raises is the template's fault, and no other run's.
            self.problems.append(Problem(leaf.loc, _reason(error, leaf)))
            if len(self.problems) == RENDER_PROBLEMS_MAX:
                raise _render_failed(self.problems) from None


def _reason(error: Exception, leaf: _Leaf) -> str:
    reason = str(error)
    if not isinstance(error, jinja2.TemplateError):
        reason = f"{type(error).__name__}: {reason}"
    return _shortened(f"line {_line(error.__traceback__, leaf)}: {reason}")


def _line(traceback: TracebackType | None, leaf: _Leaf) -> int:
    line = leaf.line if isinstance(leaf, _Lookup) else 1
    while traceback is not None and isinstance(leaf, _Text | _Expression):
        if traceback.tb_frame.f_globals is leaf.template.root_render_func.__globals__:
            line = leaf.template.get_corresponding_lineno(traceback.tb_lineno)
        traceback = traceback.tb_next
    return line


def _shortened(reason: str) -> str:
    if len(reason) <= RENDER_REASON_CHARS_MAX:
        return reason
    return reason[: RENDER_REASON_CHARS_MAX - 3] + "..."


class _TooLarge(Exception):
    """The parameters are over their bound as a whole."""


class _Meter:
    """Makes plain JSON of values, and stops when it would be more than parameters may be.

    Measured is what the JSON needs before escapes: text in UTF-8, digits, and 2 bytes a value.
    """

    __slots__ = ("bytes_left",)

    def __init__(self) -> None:
        self.bytes_left = PARAMETERS_BYTES_MAX

    def take(self, size: int) -> None:
        self.bytes_left -= size
        if self.bytes_left < 0:
            raise _TooLarge

    def key(self, key: Any) -> str:
        if not isinstance(key, str):
            raise _Unfit(f"an object's keys are strings, and {key!r} is none")
        return self.text(key)

    def text(self, text: str) -> str:
        if len(text) > self.bytes_left:
            raise _TooLarge
        if "\0" in text:
            raise _Unfit("a text holds the character U+0000")
        if text.isascii():
            self.take(len(text) + 2)
            return text
        try:
            self.take(len(text.encode()) + 2)
        except UnicodeEncodeError:
            raise _Unfit("a text holds half a surrogate pair, which is no character") from None
        return text

    def plain(self, value: Any, depth: int = 0) -> Any:
        if type(value) is str:
            return self.text(value)
        if depth > NESTING_MAX + PARAMETERS_NESTING_MAX:
            raise _Unfit(
                f"the value is nested more than {NESTING_MAX + PARAMETERS_NESTING_MAX} deep"
            )
        match value:
            case None | True | False:
                self.take(5)
                return value
            case int() if abs(value) < _INTEGER_END:
                self.take(len(str(value)))
                return value
            case int():
                raise _Unfit(f"a number has more than {INTEGER_DIGITS_MAX} digits")
            case float() if math.isfinite(value):
                self.take(len(repr(value)))
                return value
            case float():
                raise _Unfit(f"{value} is no number in JSON")
            case list() | tuple():
                self.take(2)
                return [self.plain(item, depth + 1) for item in value]
            case Mapping():
                self.take(2)
                return {self.key(k): self.plain(v, depth + 1) for k, v in value.items()}
            case Undefined():
                value._fail_with_undefined_error()
        raise _Unfit(f"{_kind(value)} is no JSON")
