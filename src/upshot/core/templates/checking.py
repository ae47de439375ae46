"""The rules a template must keep before it is saved, and what it uses."""

import inspect
import math
from dataclasses import dataclass, field
from typing import Any

from jinja2 import nodes

from upshot.core.limits import TEMPLATE_NESTING_MAX
from upshot.core.templates.faults import Refused, choice_among
from upshot.core.templates.filters import FILTERS, LIGHT, TESTS
from upshot.core.templates.shapes import ANYTHING, LOOP, Scope, shape_of, targets_of


@dataclass(slots=True)
class Findings:
    """What the templates seen so far use."""

    names: set[str] = field(default_factory=set)
    steps: int = 0
    """Filters and comparisons: each may read the whole payload once."""
    heavy: bool = False


class Checking:
    """One template against the rules; what it uses goes into `findings`."""

    def __init__(self, findings: Findings) -> None:
        self.findings = findings
        self.in_loop = False
        self.loop_names: frozenset[str] = frozenset()

    def check(self, node: nodes.Node, scope: Scope, depth: int = 0) -> None:
        if depth > TEMPLATE_NESTING_MAX:
            raise Refused(f"nested more than {TEMPLATE_NESTING_MAX} deep", node.lineno)
        match node:
            case nodes.For():
                self._loop(node, scope, depth)
                return
            case nodes.Name():
                self._name(node, scope)
            case nodes.Const(value=float() as number) if not math.isfinite(number):
                raise Refused("a number is too large", node.lineno)
            case nodes.Getattr(node=nodes.Name(name=owner)) if scope.get(owner) is LOOP:
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
                raise Refused(reason, node.lineno)
        for child in node.iter_child_nodes():
            self.check(child, scope, depth + 1)

    def _loop(self, node: nodes.For, scope: Scope, depth: int) -> None:
        if self.in_loop:
            raise Refused("a loop inside a loop is not allowed", node.lineno)
        if node.recursive:
            raise Refused("recursive loops are not allowed", node.lineno)
        self.findings.heavy = True
        self.check(node.iter, scope, depth + 1)
        items = shape_of(node.iter, scope).items or ANYTHING
        targets = targets_of(node.target, items)
        inside = {**scope, **targets}
        self.in_loop, self.loop_names = True, frozenset(targets)
        if node.test is not None:
            self.check(node.test, inside, depth + 1)
        for child in node.body:
            self.check(child, {**inside, "loop": LOOP}, depth + 1)
        self.loop_names = frozenset()
        for child in node.else_:
            self.check(child, scope, depth + 1)
        self.in_loop = False

    def _name(self, node: nodes.Name, scope: Scope) -> None:
        if node.name not in scope:
            raise Refused(f"{node.name!r} is unknown{choice_among(node.name, scope)}", node.lineno)
        if scope[node.name] is LOOP:
            raise Refused("'loop' has no value by itself; write loop.index", node.lineno)
        if node.name not in self.loop_names:
            self.findings.names.add(node.name)

    def _attribute(self, node: nodes.Getattr, name: str, scope: Scope) -> None:
        if name.startswith("_"):
            raise Refused(
                f"{name!r} is not reachable; a field of that name is written [{name!r}]",
                node.lineno,
            )
        self._field(node, name, scope)

    def _field(self, node: nodes.Getattr | nodes.Getitem, name: str, scope: Scope) -> None:
        shape = shape_of(node.node, scope)
        if shape.items is not None:
            raise Refused(f"{name!r} is looked up in a list; write [0].{name}", node.lineno)
        if shape.fields is not None and name not in shape.fields:
            choice = choice_among(name, sorted(shape.fields))
            raise Refused(f"{name!r} is unknown here{choice}", node.lineno)

    def _filter_or_test(self, node: nodes.Filter | nodes.Test) -> None:
        if node.dyn_args is not None or node.dyn_kwargs is not None:
            raise Refused("* and ** are not allowed in arguments", node.lineno)
        if isinstance(node, nodes.Test):
            self._known_test(node.name, node.lineno)
            _check_arguments(node, TESTS[node.name])
            return
        self._known_filter(node.name, node.lineno)
        _check_arguments(node, FILTERS[node.name])
        self.findings.steps += 1
        self.findings.heavy |= node.name not in LIGHT or not _has_fixed_arguments(node)
        named = [arg.value if isinstance(arg, nodes.Const) else "" for arg in node.args]
        if node.name == "map" and named:
            self._known_filter(named[0], node.lineno)
        if node.name in ("select", "reject") and named:
            self._known_test(named[0], node.lineno)
        if node.name in ("selectattr", "rejectattr") and len(named) > 1:
            self._known_test(named[1], node.lineno)

    def _known_filter(self, name: str, line: int) -> None:
        if name not in FILTERS:
            choice = choice_among(name, sorted(FILTERS))
            raise Refused(f"there is no filter {name!r}{choice}", line)

    def _known_test(self, name: str, line: int) -> None:
        if name not in TESTS:
            choice = choice_among(name, sorted(TESTS))
            raise Refused(f"there is no test {name!r}{choice}", line)

    def _operator(self, node: nodes.BinExpr) -> None:
        operands = (node.left, node.right)
        if node.operator == "+":
            self.findings.heavy |= not any(map(_is_number, operands))
            return
        for operand in operands:
            if isinstance(operand, nodes.List | nodes.Tuple) or (
                isinstance(operand, nodes.Const) and isinstance(operand.value, str)
            ):
                raise Refused(f"{node.operator!r} is for numbers only", node.lineno)


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


def _has_fixed_arguments(node: nodes.Filter) -> bool:
    """Two long texts of a payload can cost their product, as in `a | trim(b)`."""
    if node.name in ("default", "d"):
        return True
    arguments = [*node.args, *(keyword.value for keyword in node.kwargs)]
    return all(isinstance(argument, nodes.Const) for argument in arguments)


def _is_number(node: nodes.Expr) -> bool:
    return isinstance(node, nodes.Const) and isinstance(node.value, int | float)


def _check_arguments(node: nodes.Filter | nodes.Test, function: Any) -> None:
    plain = inspect.unwrap(function)
    # Filters may be given the environment or the context before the value itself.
    before = 2 if hasattr(plain, "jinja_pass_arg") else 1
    keywords = {str(keyword.key): None for keyword in node.kwargs}
    try:
        inspect.signature(plain).bind(*[None] * (before + len(node.args)), **keywords)
    except TypeError as error:
        raise Refused(f"{node.name!r}: {error}", node.lineno) from None
