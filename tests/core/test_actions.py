"""Triggers with several actions: what may be written, how it is kept, what it compiles to."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError

from upshot.core.errors import Invalid
from upshot.core.language import (
    compile_trigger,
    compiled_parameters,
    loc_without_kinds,
    read_trigger,
    runs_written,
    stored_document,
)
from upshot.core.limits import ACTIONS_MAX
from upshot.core.triggers import Nothing, Run, SetEnabled, Trigger

OTHER = "0197f0a0-0000-7000-8000-000000000001"
RUN = {"type": "run", "deployment": "d"}


def compiled(**fields: Any) -> Trigger:
    document = {"name": "t", "expect": ["a"], **fields}
    return compile_trigger(document, trigger_id=UUID(int=1), number=1, version=1)


def refused(**fields: Any) -> dict[tuple[str | int, ...], str]:
    """What is wrong, by where it is."""
    with pytest.raises(ValidationError) as caught:
        read_trigger({"expect": ["a"], **fields})
    return {
        loc_without_kinds(one["loc"]): one["msg"].removeprefix("Value error, ")
        for one in caught.value.errors(include_url=False)
    }


def test_a_trigger_that_names_a_deployment_has_one_action() -> None:
    trigger = compiled(deployment="d", parameters={"x": "{{ after.id }}"}, schedule_after=5)
    (run,) = trigger.actions
    assert run == Run("d", '{"x": "{{ after.id }}"}', timedelta(seconds=5), "run-deployment")
    assert (trigger.is_plain, trigger.announces, trigger.only_runs) == (True, False, True)
    assert trigger.title == "t"


def test_actions_keep_their_order_and_their_kinds() -> None:
    trigger = compiled(
        actions=[
            {"type": "nothing"},
            {**RUN, "kind": "call-webhook", "schedule_after": "PT1M"},
            {"type": "pause", "trigger": OTHER},
            {"type": "resume", "trigger": None},
            {"type": "run", "parameters": {"n": "{{ events | length }}"}},
        ],
        title="Orders, all of them",
        announce=True,
    )
    assert trigger.actions == (
        Nothing(),
        Run("d", "{}", timedelta(minutes=1), "call-webhook"),
        SetEnabled(UUID(OTHER), enabled=False),
        SetEnabled(None, enabled=True),
        Run(None, '{"n": "{{ events | length }}"}', timedelta(0), "run-deployment"),
    )
    kinds = [action.kind for action in trigger.actions]
    assert kinds == [
        "do-nothing", "call-webhook", "pause-automation", "resume-automation", "run-deployment",
    ]  # fmt: skip
    assert [place for place, _ in trigger.runs] == [1, 4]
    assert (trigger.title, trigger.announces, trigger.is_plain) == (
        "Orders, all of them", True, False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("actions", "announce", "only_runs"),
    [
        ([RUN, RUN], False, True),
        ([RUN], True, False),
        ([RUN, {"type": "nothing"}], False, False),
        ([{"type": "run"}], False, False),
    ],
)
def test_runs_of_known_deployments_need_nothing_but_runs(
    actions: list[Any], announce: bool, only_runs: bool
) -> None:
    assert compiled(actions=actions, announce=announce).only_runs is only_runs


def test_what_any_action_reaches_is_kept() -> None:
    reaching = {**RUN, "parameters": {"x": "{{ after.id }} {{ events | length }}"}}
    trigger = compiled(actions=[RUN, reaching])
    assert trigger.keeps_after
    assert trigger.keeps_events
    assert not compiled(actions=[RUN, RUN]).keeps_after


@pytest.mark.parametrize(
    ("fields", "where", "says"),
    [
        ({}, ("deployment",), "Field required"),
        ({"deployment": None}, ("deployment",), "Field required"),
        ({"actions": []}, ("actions",), "at least 1"),
        ({"actions": [{"type": "nothing"}] * (ACTIONS_MAX + 1)}, ("actions",), "at most"),
        ({"actions": [RUN], "deployment": "d"}, ("deployment",), "actions"),
        ({"actions": [RUN], "parameters": {"a": 1}}, ("parameters",), "actions"),
        ({"actions": [RUN], "schedule_after": 1}, ("schedule_after",), "actions"),
        ({"actions": [RUN, {"type": "email"}]}, ("actions", 1), "'nothing'"),
        ({"actions": [{"type": "pause", "trigger": "x"}]}, ("actions", 0, "trigger"), "UUID"),
        ({"actions": [{**RUN, "deployment": 3}]}, ("actions", 0, "deployment"), "string"),
        ({"actions": [{**RUN, "kind": ""}]}, ("actions", 0, "kind"), "at least 1"),
        ({"actions": [{**RUN, "parameter": {}}]}, ("actions", 0, "parameter"), "not permitted"),
        ({"actions": [{**RUN, "parameters": {"a": "\0"}}]}, ("actions", 0, "parameters"), "u0000"),
        ({"actions": [{"type": "nothing", "deployment": "d"}]}, ("actions", 0, "deployment"), ""),
        ({"actions": "run"}, ("actions",), "list"),
        ({"deployment": "d", "announce": 1}, ("announce",), "boolean"),
        ({"deployment": "d", "title": "\0"}, ("title",), "u0000"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(
    fields: dict[str, Any], where: tuple[str | int, ...], says: str
) -> None:
    found = refused(**fields)
    assert list(found) == [where]
    assert says in found[where]


def test_a_child_of_a_composite_has_no_actions() -> None:
    child = {"expect": ["a"], "actions": [RUN]}
    found = refused(type="compound", triggers=[child], deployment="d", expect=None)
    assert ("triggers", 0, "actions") in found


def test_a_wrong_template_says_which_action_it_is_in() -> None:
    wrong = {**RUN, "parameters": {"a": {"b": "{{ evnt }}"}}}
    written = read_trigger({"expect": ["a"], "actions": [{"type": "nothing"}, wrong]})
    with pytest.raises(Invalid) as caught:
        compiled_parameters(written)
    assert [one.loc for one in caught.value.problems] == [("actions", 1, "parameters", "a", "b")]


def test_what_few_triggers_have_is_not_shown_of_the_others() -> None:
    plain = stored_document(read_trigger({"deployment": "d"}))
    assert not plain.keys() & {"actions", "announce", "title", "name"}
    document = stored_document(
        read_trigger({"actions": [RUN], "announce": True, "title": "T", "name": "t"})
    )
    assert (document["announce"], document["title"], document["deployment"]) == (True, "T", None)
    assert document["actions"] == [
        {"type": "run", "deployment": "d", "parameters": {}, "schedule_after": 0,
         "kind": "run-deployment"},
    ]  # fmt: skip


@pytest.mark.parametrize(
    "fields",
    [{"deployment": "d"}, {"actions": [{"type": "pause", "trigger": OTHER}, RUN], "title": "T"}],
)
def test_what_is_kept_reads_as_what_was_written(fields: dict[str, Any]) -> None:
    written = read_trigger({"expect": ["a"], **fields})
    document = stored_document(written)
    assert read_trigger(document) == written
    assert stored_document(read_trigger(document)) == document


def test_runs_are_found_where_they_stand() -> None:
    plain = read_trigger({"deployment": "d"})
    several = read_trigger({"actions": [RUN, {"type": "nothing"}, {**RUN, "deployment": "e"}]})
    assert [(loc, run.deployment) for loc, run in runs_written(plain)] == [((), "d")]
    assert [(loc, run.deployment) for loc, run in runs_written(several)] == [
        (("actions", 0), "d"), (("actions", 2), "e"),
    ]  # fmt: skip
