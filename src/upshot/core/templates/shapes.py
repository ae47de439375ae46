"""What names there are in a template, as far as it is known before there is an event."""

from collections.abc import Mapping
from dataclasses import dataclass

from jinja2 import nodes

from upshot.core.templates.view import EVENT_FIELDS


@dataclass(frozen=True, slots=True)
class Shape:
    """What is known of a value when the template is saved; nothing at all by default."""

    fields: frozenset[str] | None = None
    items: "Shape | None" = None


ANYTHING = Shape()
_EVENT = Shape(fields=frozenset(EVENT_FIELDS))
CONTEXT: Mapping[str, Shape] = {
    "event": _EVENT,
    "after": _EVENT,
    "events": Shape(items=_EVENT),
    "labels": ANYTHING,
    "trigger": Shape(fields=frozenset({"name", "id", "version"})),
    "automation": Shape(fields=frozenset({"name", "id"})),
    "deployment": Shape(fields=frozenset({"name"})),
}

# fmt: off
_LOOP_FIELDS = (
    "index", "index0", "revindex", "revindex0", "first", "last", "length", "previtem", "nextitem",
)
# fmt: on
LOOP = Shape(fields=frozenset(_LOOP_FIELDS))

Scope = Mapping[str, Shape]


def targets_of(target: nodes.Node, items: Shape) -> dict[str, Shape]:
    if isinstance(target, nodes.Name):
        return {target.name: items}
    return {str(name.name): ANYTHING for name in target.find_all(nodes.Name)}


def shape_of(node: nodes.Node, scope: Scope) -> Shape:
    match node:
        case nodes.Name():
            return scope.get(node.name, ANYTHING)
        case nodes.Getitem(arg=nodes.Slice()):
            return shape_of(node.node, scope)
        case nodes.Getitem(node=nodes.Node() as several):
            return shape_of(several, scope).items or ANYTHING
        case nodes.Filter(name="first" | "last", node=nodes.Node() as several):
            return shape_of(several, scope).items or ANYTHING
    return ANYTHING
