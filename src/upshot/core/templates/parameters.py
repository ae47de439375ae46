"""Parameters, from the source that was saved to the values of one run."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from upshot.core.errors import Invalid, Problem
from upshot.core.limits import STEPS_IN_PROCESS_MAX
from upshot.core.templates.compiling import FORMS, JSON, Compiling
from upshot.core.templates.faults import first_of, render_failed
from upshot.core.templates.rendering import Literal, Rendering


@dataclass(frozen=True, slots=True)
class Parameters:
    """Compiled parameters: every template checked once, to be rendered for each run."""

    source: Mapping[str, Any]
    names: frozenset[str]
    """The names of the context that the templates use: `after` and `events` may be left out."""
    heavy: bool
    """A loop, or an operator or filter whose result can grow: render it in a child process."""
    _tree: Any = field(repr=False, compare=False)

    @property
    def constants(self) -> dict[str, Any]:
        """Those that are the same in every run: there is no template in them."""
        return {
            name: _value_of(self._tree[name])
            for name in self.source
            if _is_constant(self._tree[name])
        }

    def render(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters of one run; `RenderFailed` names every template that has no value.

        `context` is plain JSON (or `event_view`s): event, after, events, labels, trigger,
        automation, deployment. The same context as JSON in another process gives the same
        parameters.
        """
        rendering = Rendering(context)
        rendered: dict[str, Any] = rendering.fill(self._tree)
        if rendering.problems:
            raise render_failed(rendering.problems)
        return rendered


def compile_parameters(source: Mapping[str, Any]) -> Parameters:
    """Check and compile `source`; `Invalid` has one problem for each template that is wrong."""
    if not isinstance(source, Mapping):
        raise Invalid("Parameters are a JSON object.", [Problem((), "must be an object")])
    compiling = Compiling()
    tree = compiling.tree(source, (), 1)
    if compiling.problems:
        raise Invalid(
            f"The parameters are not valid: {first_of(compiling.problems)}.", compiling.problems
        )
    found = compiling.findings
    heavy = found.heavy or found.steps > STEPS_IN_PROCESS_MAX
    return Parameters(source=source, names=frozenset(found.names), heavy=heavy, _tree=tree)


def as_literal(value: Any) -> Any:
    """What renders to just this value (JSON), whatever its texts and names look like."""
    text = json.dumps(value, ensure_ascii=False)
    if _TEMPLATES.search(text) is None and not any(f'"{form}"' in text for form in FORMS):
        return value
    # What opens a template is never two characters of JSON's own: it is inside a text.
    return {JSON: _TEMPLATES.sub(r"\\u007b", text)}


_TEMPLATES: Final = re.compile(r"\{(?=[{%#])")


def _is_constant(tree: Any) -> bool:
    if isinstance(tree, dict):
        return all(map(_is_constant, tree.values()))
    return all(map(_is_constant, tree)) if isinstance(tree, list) else isinstance(tree, Literal)


def _value_of(constant: Any) -> Any:
    match constant:
        case dict():
            return {name: _value_of(tree) for name, tree in constant.items()}
        case list():
            return list(map(_value_of, constant))
        case _:
            return constant.value


def merged_source(deployment: Mapping[str, Any], trigger: Mapping[str, Any]) -> dict[str, Any]:
    """The deployment's defaults with the trigger's top-level parameters over them."""
    return {**deployment, **trigger}
