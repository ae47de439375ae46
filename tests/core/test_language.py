"""What a client may write as a trigger."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError

from upshot.core.errors import Invalid
from upshot.core.language import (
    EventCondition,
    EventTrigger,
    compile_trigger,
    same_condition,
    seconds,
)
from upshot.core.triggers import Reactive


def written(**fields: Any) -> EventTrigger:
    return EventTrigger.model_validate({"deployment": "d", **fields})


@pytest.mark.parametrize(
    ("duration", "is_"),
    [
        (0, 0),
        (10, 10),
        (0.5, 0.5),
        ("PT10M", 600),
        ("P1D", 86400),
        ("PT0.25S", 0.25),
        ("P7DT1H", 7 * 86400 + 3600),
    ],
)
def test_durations_are_seconds_or_iso_8601_and_answered_in_seconds(
    duration: object, is_: float
) -> None:
    answered = written(within=duration).model_dump(mode="json")["within"]
    assert answered == is_
    assert isinstance(answered, type(is_))


@pytest.mark.parametrize(
    "duration", [-1, "10", "10:00", "PT-1S", "soon", True, 1e300, "P99999Y", [], float("nan")]
)
def test_what_is_no_duration_is_refused(duration: object) -> None:
    with pytest.raises(ValidationError):
        written(within=duration)


@pytest.mark.parametrize(
    ("fields", "loc"),
    [
        ({"treshold": 3}, ("treshold",)),
        ({"threshold": 0}, ("threshold",)),
        ({"threshold": 1001}, ("threshold",)),
        ({"threshold": "3"}, ("threshold",)),
        ({"threshold": True}, ("threshold",)),
        ({"posture": "proactive"}, ("posture",)),
        ({"type": "metric"}, ("type",)),
        ({"expect": [""]}, ("expect", 0)),
        ({"expect": ["a\0b"]}, ("expect", 0)),
        ({"expect": ["\ud800"]}, ("expect", 0)),
        ({"expect": {"a": 1}}, ("expect",)),
        ({"expect": ["x"] * 101}, ("expect",)),
        ({"expect": ["x" * 1025]}, ("expect", 0)),
        ({"for_each": ["id", "prefect.resource.id"]}, ("for_each",)),
        ({"for_each": ["related:shop"]}, ("for_each", 0)),
        ({"match": {"": "x"}}, ("match", "", "[key]")),
        ({"deployment": "no spaces"}, ("deployment",)),
        ({"name": "-x"}, ("name",)),
        ({"parameters": {"x": float("nan")}}, ("parameters",)),
        ({"parameters": {"x": "a\0"}}, ("parameters",)),
        ({"parameters": []}, ("parameters",)),
        ({"enabled": "yes"}, ("enabled",)),
    ],
)
def test_what_breaks_a_rule_is_refused_where_it_stands(
    fields: dict[str, Any], loc: tuple[object, ...]
) -> None:
    with pytest.raises(ValidationError) as refused:
        written(**fields)
    assert loc in [error["loc"] for error in refused.value.errors()]


def test_a_backslash_before_u0000_is_not_a_nul() -> None:
    assert written(parameters={"path": r"C:\u0000"}).parameters == {"path": r"C:\u0000"}


def test_labels_are_brought_into_their_long_form() -> None:
    trigger = written(
        for_each=["id", "related:shop:name", "payload.id"],
        match={"id": "1", "role": "*"},
        match_related=[{"name": "x"}],
    )
    assert trigger.for_each == ["prefect.resource.id", "related:shop:prefect.resource.name",
                                "payload.id"]  # fmt: skip
    assert trigger.match == {"prefect.resource.id": "1", "prefect.resource.role": "*"}
    assert trigger.match_related == [{"prefect.resource.name": "x"}]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"expect": ["a", "b"]}, {"expect": ["b", "a", "a"]}, True),
        ({"expect": []}, {"expect": ["*"]}, True),
        ({"expect": "a"}, {"expect": ["a"]}, True),
        ({"within": 600}, {"within": "PT10M"}, True),
        ({"match": {"id": "1"}}, {"match": {"prefect.resource.id": ["1"]}}, True),
        ({"match_related": {"a": "1"}}, {"match_related": [{"a": "1"}]}, True),
        ({"for_each": ["a", "b"]}, {"for_each": ["b", "a"]}, False),
        ({"expect": ["a"]}, {"after": ["a"]}, False),
        ({"threshold": 1}, {"threshold": 2}, False),
        ({"match": {"id": "1"}}, {"match": {"id": "2"}}, False),
    ],
)
def test_a_condition_is_changed_only_by_what_changes_its_meaning(
    one: dict[str, Any], other: dict[str, Any], same: bool
) -> None:
    a, b = EventCondition.model_validate(one), EventCondition.model_validate(other)
    assert same_condition(a, b) is same


def test_the_same_condition_compiles_from_what_is_stored() -> None:
    first = written(name="t", after=["a"], expect=["b"], for_each=["id"], within="PT1M",
                    parameters={"x": "{{ after.id }} {{ events | length }}"})  # fmt: skip
    stored = first.model_dump(mode="json")
    again = compile_trigger(stored, trigger_id=UUID(int=1), number=1, version=1)
    assert again.condition == first.compiled()
    assert isinstance(again.condition, Reactive)
    assert again.condition.within == timedelta(minutes=1)
    assert again.keeps_after
    assert again.keeps_events


def test_a_template_that_is_wrong_is_refused() -> None:
    stored = written(name="t", parameters={"x": "{{ evnt.id }}"}).model_dump(mode="json")
    with pytest.raises(Invalid, match="evnt"):
        compile_trigger(stored, trigger_id=UUID(int=1), number=1, version=1)


def test_whole_seconds_are_answered_as_an_integer() -> None:
    assert repr(seconds(timedelta(seconds=5))) == "5"
    assert repr(seconds(timedelta(seconds=5.5))) == "5.5"
