"""A deployment's `parameter_schema`: JSON Schema that can neither reach out nor run away."""

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import islice
from typing import Any, Final
from urllib.parse import unquote

from jsonschema_rs import (
    RegexOptions,
    ValidationError,
    ValidationErrorKind,
    Validator,
    validator_for,
)

from upshot.core.errors import Invalid, Problem
from upshot.core.limits import (
    NESTING_MAX,
    PROBLEMS_LISTED_MAX,
    REASON_CHARS_MAX,
    SCHEMA_BYTES_MAX,
    SCHEMA_PATTERN_BYTES_MAX,
    SCHEMA_STEPS_MAX,
    SCHEMAS_CACHED_MAX,
)

Path = tuple[str | int, ...]
ParameterSchema = Validator

# Linear in the text's length whatever the pattern is; look-around and back references are refused.
_REGEX: Final = RegexOptions(
    size_limit=SCHEMA_PATTERN_BYTES_MAX, dfa_size_limit=SCHEMA_PATTERN_BYTES_MAX
)
_NAMED_SCHEMAS: Final = frozenset(
    {"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"}
)
_DATA: Final = frozenset({"const", "default", "enum", "example", "examples"})
# Keywords that say something of which parameters there are, and of one parameter's value.
_OF_NAMES: Final = frozenset(
    {"dependentRequired", "maxProperties", "minProperties", "propertyNames", "required"}
)
_OF_A_VALUE: Final = frozenset({"additionalProperties", "patternProperties", "properties"})
_REFUSED: Final = frozenset({"$anchor", "$dynamicAnchor", "$dynamicRef", "$recursiveRef"})


def compile_schema(schema: Mapping[str, Any]) -> ParameterSchema:
    """Check and compile a JSON Schema (draft 2020-12, or what its `$schema` names).

    Raises:
        Invalid: it is no schema, refers to something outside itself or to itself, or is so
            interwoven that checking against it could take long.
    """
    problem = _size_problem(schema) or _reference_problem(schema)
    if problem is not None:
        raise Invalid(f"The parameter schema cannot be used: {problem.msg}", [problem])
    try:
        return validator_for(dict(schema), pattern_options=_REGEX, offline=True)
    except ValidationError as error:
        problem = Problem(tuple(error.instance_path), _shortened(error.message))
    except (ValueError, RecursionError) as error:
        problem = Problem((), _shortened(str(error)))
    raise Invalid(f"This is no JSON Schema: {problem.msg}", [problem])


def violations(schema: ParameterSchema, parameters: Mapping[str, Any]) -> list[Problem]:
    """What these parameters break of it, at most so many; none when they keep it."""
    try:
        errors = islice(schema.iter_errors(dict(parameters)), PROBLEMS_LISTED_MAX)
        return [Problem(tuple(error.instance_path), _shortened(error.message)) for error in errors]
    except (ValueError, OverflowError) as error:
        return [Problem((), _shortened(f"cannot be checked: {error}"))]


def violations_ahead(
    schema: ParameterSchema, *, constants: Mapping[str, Any], templated: Iterable[str]
) -> list[Problem]:
    """What every run would break of it, whatever the templates give; at most so many.

    Names are all known. What a template gives, and what depends on it, is for the run to see.
    """
    unknown: dict[str, Any] = dict.fromkeys(templated)
    try:
        errors = schema.iter_errors({**unknown, **constants})
        certain = (error for error in errors if _is_certain(error, unknown))
        problems = (problem for error in certain for problem in _problems_ahead(error))
        return list(islice(problems, PROBLEMS_LISTED_MAX))
    except (ValueError, OverflowError) as error:
        return [Problem((), _shortened(f"cannot be checked: {error}"))]


def _is_certain(error: ValidationError, unknown: Mapping[str, Any]) -> bool:
    keyword = error.evaluation_path[0] if error.evaluation_path else None
    if not unknown or keyword in _OF_NAMES or _unexpected(error):
        return True
    return keyword in _OF_A_VALUE and error.instance_path[0] not in unknown


def _unexpected(error: ValidationError) -> list[str]:
    """The names that the schema's own `additionalProperties` forbids."""
    is_own = list(error.evaluation_path) == ["additionalProperties"]
    if is_own and isinstance(error.kind, ValidationErrorKind.AdditionalProperties):
        return error.kind.unexpected
    return []


def _problems_ahead(error: ValidationError) -> list[Problem]:
    unexpected = _unexpected(error)
    if unexpected:
        return [Problem((name,), "The deployment takes no such parameter.") for name in unexpected]
    if isinstance(error.kind, ValidationErrorKind.Required) and not error.instance_path:
        missing = _shortened(str(error.kind.property))
        return [
            Problem((missing,), "The deployment requires this parameter, and nothing gives it.")
        ]
    return [Problem(tuple(error.instance_path), _shortened(error.message))]


def breach_of(schema: str | None, parameters: Mapping[str, Any]) -> str | None:
    """Why these parameters cannot be run with, or None. `schema` is JSON text, if there is one."""
    found = violations(_compiled(schema), parameters) if schema is not None else []
    if not found:
        return None
    where = ".".join(map(str, found[0].loc))
    return f"The parameters break the deployment's schema: {where} {found[0].msg}"


@lru_cache(maxsize=SCHEMAS_CACHED_MAX)
def _compiled(schema: str) -> ParameterSchema:
    return compile_schema(json.loads(schema))


def _shortened(reason: str) -> str:
    reason = reason.strip().partition("\n")[0]
    return reason if len(reason) <= REASON_CHARS_MAX else reason[: REASON_CHARS_MAX - 3] + "..."


def _size_problem(schema: Mapping[str, Any]) -> Problem | None:
    layer: list[Any] = [schema]
    for _ in range(NESTING_MAX):
        layer = [child for outer in layer for child in _members(outer)]
    if layer:
        return Problem((), f"It is nested more than {NESTING_MAX} levels deep.")
    size = len(json.dumps(schema))
    if size > SCHEMA_BYTES_MAX:
        return Problem((), f"It has {size:,} bytes; at most {SCHEMA_BYTES_MAX:,} fit.")
    return None


def _members(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _reference_problem(schema: Mapping[str, Any]) -> Problem | None:
    walk = _Walk(schema)
    try:
        walk.steps(schema, ())
    except _Refused as refused:
        return refused.problem
    except RecursionError:
        return Problem((), "Its references lead from one to the next too often.")
    return None


class _Refused(Exception):
    def __init__(self, loc: Path, msg: str) -> None:
        super().__init__(msg)
        self.problem = Problem(loc, msg)


class _Walk:
    """Counts the checks that a schema comes to once every `$ref` is put in its place."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._counted: dict[str, int] = {}
        self._within: set[str] = set()

    def steps(self, schema: Any, loc: Path) -> int:
        count = 1
        if isinstance(schema, list):
            for index, child in enumerate(schema):
                count += self.steps(child, (*loc, index))
        elif isinstance(schema, dict):
            for name, value in schema.items():
                count += self._keyword(name, value, (*loc, name))
        if count > SCHEMA_STEPS_MAX:
            raise _Refused(
                loc,
                f"With every $ref in its place it comes to more than {SCHEMA_STEPS_MAX:,} checks.",
            )
        return count

    def _keyword(self, name: str, value: Any, loc: Path) -> int:
        if name in _DATA:
            return 0
        if name in _NAMED_SCHEMAS and isinstance(value, dict):
            return sum(self.steps(child, (*loc, key)) for key, child in value.items())
        if name in _REFUSED or (name == "$id" and len(loc) > 1):
            raise _Refused(loc, f"{name} is not supported here; refer by '#/$defs/...'.")
        if name == "$ref" and isinstance(value, str):
            return self._reference(value, loc)
        return self.steps(value, loc) if isinstance(value, dict | list) else 0

    def _reference(self, pointer: str, loc: Path) -> int:
        if not pointer.startswith("#/"):
            raise _Refused(loc, "Only '#/...' can be referred to: nothing is fetched.")
        if pointer in self._within:
            raise _Refused(loc, "Refers to what it is itself a part of; that is not supported.")
        if pointer not in self._counted:
            self._within.add(pointer)
            self._counted[pointer] = self.steps(
                self._target(pointer, loc), tuple(_pointer_steps(pointer))
            )
            self._within.remove(pointer)
        return self._counted[pointer]

    def _target(self, pointer: str, loc: Path) -> Any:
        target: Any = self._root
        for step in _pointer_steps(pointer):
            if isinstance(target, dict) and step in target:
                target = target[step]
            elif isinstance(target, list) and step.isdecimal() and int(step) < len(target):
                target = target[int(step)]
            else:
                raise _Refused(loc, "There is nothing where this refers to.")
        return target


def _pointer_steps(pointer: str) -> Iterator[str]:
    for step in pointer.removeprefix("#/").split("/"):
        yield unquote(step).replace("~1", "/").replace("~0", "~")
