"""Parameters as Prefect's clients write them, and as Upshot keeps them.

A plain string with `{{` or `{%` is a template in both, and keeps its value's type where it is one
expression. Prefect's `__prefect_kind` says more: `jinja` is always text (`$text`), `json` is parsed
(`$json`). A string without them is meant literally.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from upshot.core.errors import Invalid, Problem
from upshot.core.limits import PARAMETERS_NESTING_MAX

Loc = tuple[str | int, ...]

KIND: Final = "__prefect_kind"
TEXT: Final = "$text"
JSON: Final = "$json"
_LEFT_OUT: Final = object()
_BRACE_OF_TEMPLATE: Final = re.compile(r"\{(?=[{%#])")


def source_of(parameters: Mapping[str, Any], loc: Loc = ()) -> dict[str, Any]:
    """Parameters as Upshot keeps them.

    Raises:
        Invalid: a form that Upshot has not, or none at all.
    """
    try:
        given = {name: _source(value, (*loc, name), 1) for name, value in parameters.items()}
    except RecursionError:
        raise _invalid(loc, "is nested too deep") from None
    return {name: source for name, source in given.items() if source is not _LEFT_OUT}


def text_source(template: str) -> Any:
    """The source of what is always text."""
    return {TEXT: template} if _is_template(template) else literal(template)


def literal(value: Any) -> Any:
    """The source of a value that is meant as it stands, whatever it looks like."""
    match value:
        case str():
            return _constant(value) if _BRACE_OF_TEMPLATE.search(value) else value
        case list():
            return [literal(item) for item in value]
        case dict():
            if value.keys() & {TEXT, JSON}:
                return _constant(value)
            return {name: literal(item) for name, item in value.items()}
        case _:
            return value


def parameters_shown(source: Mapping[str, Any]) -> dict[str, Any]:
    """Stored parameters as a client of Prefect would have written them."""
    return {name: _shown(value) for name, value in source.items()}


def text_shown(source: Any) -> str:
    """The template, or the text, that `text_source` was given."""
    match _shown(source):
        case {"template": str(template)}:
            return template
        case {"value": str(value)}:
            return str(msgspec.json.decode(value))
        case str(text):
            return text
        case other:
            return msgspec.json.encode(other).decode()


def _source(value: Any, loc: Loc, depth: int) -> Any:
    if depth > PARAMETERS_NESTING_MAX:
        raise _invalid(loc, f"is nested more than {PARAMETERS_NESTING_MAX} deep")
    match value:
        case str():
            return _plain(value)
        case list():
            items = [_source(item, (*loc, place), depth + 1) for place, item in enumerate(value)]
            return [item for item in items if item is not _LEFT_OUT]
        case dict() if KIND in value:
            return _of_kind(value, loc, depth)
        case dict():
            fields = {name: _source(one, (*loc, name), depth + 1) for name, one in value.items()}
            kept = {name: one for name, one in fields.items() if one is not _LEFT_OUT}
            if not kept.keys() & {TEXT, JSON}:
                return kept
            if _has_template(value):
                raise _invalid(loc, f"a name cannot be {TEXT} or {JSON} where there is a template")
            return _constant(value)
        case _:
            return value


def _plain(text: str) -> Any:
    if not _is_template(text):
        return literal(text)
    bare = text.strip()
    is_one_expression = bare.startswith("{{") and bare.endswith("}}") and bare.count("{{") == 1
    return bare if is_one_expression else text


def _of_kind(written: Mapping[str, Any], loc: Loc, depth: int) -> Any:
    match written[KIND]:
        case "none":
            if "value" not in written:
                raise _invalid((*loc, "value"), "Field required")
            return _source(written["value"], (*loc, "value"), depth + 1)
        case "json":
            return _of_json(written, loc, depth)
        case "jinja":
            template = written.get("template")
            if not isinstance(template, str):
                raise _invalid((*loc, "template"), "must be a template")
            return text_source(template)
        case "workspace_variable":
            raise _invalid(
                loc,
                "Upshot has no variables. Write the value here, or as a parameter of the "
                "deployment.",
            )
        case _:
            return literal(written.get("value"))


def _of_json(written: Mapping[str, Any], loc: Loc, depth: int) -> Any:
    if "value" not in written:
        return _LEFT_OUT
    value, loc = written["value"], (*loc, "value")
    if isinstance(value, dict) and KIND in value:
        value = _source(value, loc, depth + 1)
        if isinstance(value, dict) and value.keys() == {TEXT}:
            return {JSON: value[TEXT]}
        if not isinstance(value, str):
            return value
    if not isinstance(value, str):
        return literal(value)
    try:
        return literal(msgspec.json.decode(value))
    except (msgspec.DecodeError, RecursionError):
        raise _invalid(
            loc, 'is no JSON; a template in it is written {"__prefect_kind": "jinja", ...}'
        ) from None


def _shown(source: Any) -> Any:
    match source:
        case {"$text": str(template), **rest} if not rest:
            return {KIND: "jinja", "template": template}
        case {"$json": str(template), **rest} if not rest:
            if _BRACE_OF_TEMPLATE.search(template):
                return {KIND: "json", "value": {KIND: "jinja", "template": template}}
            return {KIND: "json", "value": template}
        case dict():
            return parameters_shown(source)
        case list():
            return [_shown(item) for item in source]
        case _:
            return source


def _constant(value: Any) -> dict[str, str]:
    """JSON in which no brace can be taken for the beginning of a template.

    Raises:
        RecursionError: it would be nested deeper than parameters may be.
    """
    if _is_deeper(value, PARAMETERS_NESTING_MAX):
        raise RecursionError
    text = msgspec.json.encode(value).decode()
    return {JSON: _BRACE_OF_TEMPLATE.sub(r"\\u007b", text)}


def _is_deeper(value: Any, levels: int) -> bool:
    if not isinstance(value, list | dict):
        return False
    inside = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_is_deeper(one, levels - 1) for one in inside)


def _is_template(text: str) -> bool:
    return "{{" in text or "{%" in text


def _has_template(value: Any) -> bool:
    match value:
        case str():
            return _is_template(value)
        case list():
            return any(map(_has_template, value))
        case dict():
            return KIND in value or any(map(_has_template, value.values()))
        case _:
            return False


def _invalid(loc: Loc, message: str) -> Invalid:
    return Invalid(f"{'.'.join(map(str, loc))}: {message}", [Problem(loc, message)])
