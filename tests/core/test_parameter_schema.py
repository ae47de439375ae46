"""Parameter schemas: what is accepted, what is refused, and that none runs away."""

import time
from typing import Any

import pytest

from upshot.core.errors import Invalid
from upshot.core.limits import PROBLEMS_LISTED_MAX
from upshot.core.parameter_schema import compile_schema, violations, violations_ahead

FLOW = {
    "title": "Parameters",
    "type": "object",
    "properties": {"order": {"$ref": "#/definitions/Order"}, "default": {"type": "string"}},
    "required": ["order"],
    "definitions": {
        "Order": {
            "type": "object",
            "properties": {"id": {"type": "string", "pattern": "^[0-9]+$"}, "$ref": {}},
            "default": {"$ref": "no reference"},
        }
    },
}


@pytest.mark.parametrize(
    ("parameters", "locs"),
    [
        ({"order": {"id": "12"}}, []),
        ({}, [()]),
        ({"order": {"id": "x"}}, [("order", "id")]),
        ({"order": {"id": 5}, "default": 1}, [("order", "id"), ("default",)]),
    ],
)
def test_what_breaks_the_schema_is_told_with_its_place(
    parameters: dict[str, Any], locs: list[tuple[str, ...]]
) -> None:
    found = violations(compile_schema(FLOW), parameters)
    assert sorted(problem.loc for problem in found) == sorted(locs)


SIGNATURE = {
    "type": "object",
    "properties": {
        "user_id": {"type": "string"},
        "count": {"$ref": "#/$defs/Count"},
        "order": {"type": "object", "properties": {"id": {"type": "integer"}}},
    },
    "required": ["user_id"],
    "additionalProperties": False,
    "$defs": {"Count": {"type": "integer", "minimum": 1}},
}
"""As pydantic makes them of functions."""


@pytest.mark.parametrize(
    ("constants", "templated", "locs"),
    [
        ({}, ["user_id", "count", "order"], []),
        ({"user_id": "123", "count": 1}, [], []),
        ({}, [], [("user_id",)]),
        ({}, ["userid"], [("user_id",), ("userid",)]),
        ({"usr": 1, "user_id": "1"}, ["userid"], [("userid",), ("usr",)]),
        ({"user_id": 5}, ["count"], [("user_id",)]),
        ({"count": "many"}, ["user_id"], [("count",)]),
        ({"order": {"id": "x"}}, ["user_id"], [("order", "id")]),
    ],
)
def test_names_and_constants_are_checked_before_any_template_has_a_value(
    constants: dict[str, Any], templated: list[str], locs: list[tuple[str, ...]]
) -> None:
    schema = compile_schema(SIGNATURE)
    found = violations_ahead(schema, constants=constants, templated=templated)
    assert sorted(problem.loc for problem in found) == locs


@pytest.mark.parametrize(
    "depending",
    [
        {"oneOf": [{"required": ["b"]}, {"properties": {"a": {"type": "string"}}}]},
        {"if": {"properties": {"a": {"const": 1}}}, "then": {"required": ["b"]}},
        {"not": {"properties": {"a": {"type": "null"}}}},
    ],
)
def test_what_depends_on_what_a_template_gives_is_left_to_the_run(
    depending: dict[str, Any],
) -> None:
    schema = compile_schema(depending)
    assert violations_ahead(schema, constants={}, templated=["a"]) == []


@pytest.mark.parametrize(
    "of_names",
    [
        {"propertyNames": {"maxLength": 0}},
        {"maxProperties": 0},
        {"minProperties": 2},
        {"dependentRequired": {"a": ["b"]}},
    ],
)
def test_all_that_a_schema_says_of_names_is_checked(of_names: dict[str, Any]) -> None:
    schema = compile_schema(of_names)
    assert len(violations_ahead(schema, constants={}, templated=["a"])) == 1


def test_where_no_template_is_involved_everything_is_checked() -> None:
    schema = compile_schema({"anyOf": [{"required": ["b"]}, {"required": ["c"]}]})
    assert violations_ahead(schema, constants={"a": 1}, templated=[])
    assert not violations_ahead(schema, constants={"a": 1}, templated=["d"])


def test_additional_parameters_are_constants_too() -> None:
    schema = compile_schema({"additionalProperties": {"type": "integer"}})
    found = violations_ahead(schema, constants={"a": "x"}, templated=["b"])
    assert [problem.loc for problem in found] == [("a",)]


def test_only_so_many_problems_are_listed() -> None:
    schema = compile_schema(SIGNATURE)
    names = [f"n{number}" for number in range(10 * PROBLEMS_LISTED_MAX)]
    assert len(violations_ahead(schema, constants={}, templated=names)) == PROBLEMS_LISTED_MAX


def test_integers_are_compared_exactly() -> None:
    schema = compile_schema({"properties": {"n": {"const": 2**64 + 1}}})
    assert not violations(schema, {"n": 2**64 + 1})
    assert violations(schema, {"n": 2**64})


def _nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"not": schema}
    return schema


def _doubling(levels: int) -> dict[str, Any]:
    named: dict[str, Any] = {"s0": {"type": "integer"}}
    for level in range(1, levels):
        reference = {"$ref": f"#/$defs/s{level - 1}"}
        named[f"s{level}"] = {"anyOf": [reference, reference]}
    return {"$defs": named, "$ref": f"#/$defs/s{levels - 1}"}


def _chained(length: int) -> dict[str, Any]:
    named: dict[str, Any] = {str(n): {"$ref": f"#/$defs/{n + 1}"} for n in range(length)}
    return {"$defs": {**named, str(length): {}}, "$ref": "#/$defs/0"}


@pytest.mark.parametrize(
    ("schema", "loc"),
    [
        ({"type": "intger"}, ("type",)),
        ({"properties": {"a": {"minLength": "x"}}}, ("properties", "a", "minLength")),
        ({"$ref": "http://127.0.0.1:9/schema"}, ("$ref",)),
        ({"$ref": "file:///etc/passwd"}, ("$ref",)),
        ({"$ref": "#/$defs/none"}, ("$ref",)),
        ({"$ref": "#/$ref"}, ("$ref",)),
        ({"properties": {"a": {"$ref": "#"}}}, ("properties", "a", "$ref")),
        ({"$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}}, ("$defs", "a", "items", "$ref")),
        ({"properties": {"a": {"$id": "http://x/"}}}, ("properties", "a", "$id")),
        ({"$dynamicRef": "#a"}, ("$dynamicRef",)),
        ({"$schema": "http://nowhere/draft"}, ()),
        ({"pattern": "(?=a)b"}, ("pattern",)),
        ({"pattern": "(a{1000}){1000}"}, ("pattern",)),
        ({"pattern": "("}, ("pattern",)),
        ({"description": "x" * 70_000}, ()),
    ],
    ids=lambda value: repr(value)[:50],
)
def test_what_is_no_schema_or_leads_outside_is_refused(
    schema: dict[str, Any], loc: tuple[str, ...]
) -> None:
    with pytest.raises(Invalid) as refused:
        compile_schema(schema)
    assert refused.value.problems[0].loc == loc


@pytest.mark.parametrize(
    "schema",
    [_nested(100), _nested(5_000), _doubling(40), _chained(1_500)],
    ids=["deep", "abysmal", "doubling", "chained"],
)
def test_what_would_run_away_is_refused_at_once(schema: dict[str, Any]) -> None:
    began = time.process_time()
    with pytest.raises(Invalid):
        compile_schema(schema)
    assert time.process_time() - began < 1


def test_a_pattern_that_backtracks_elsewhere_is_linear_here() -> None:
    schema = compile_schema({"properties": {"a": {"pattern": "^(a+)+$"}}})
    began = time.process_time()
    assert violations(schema, {"a": "a" * 50_000 + "!"})
    assert time.process_time() - began < 1


def test_reasons_are_short_whatever_the_value() -> None:
    schema = compile_schema({"properties": {"a": {"type": "integer"}}})
    (problem,) = violations(schema, {"a": "x" * 60_000})
    assert len(problem.msg) <= 500
