"""Prefect's automations and Upshot's triggers say the same, in both directions."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from upshot.api.bodies import validated
from upshot.core.errors import Invalid
from upshot.core.language import TriggerWritten, read_trigger, stored_document
from upshot.core.templates import compile_parameters
from upshot.prefect.actions import actions_of, actions_shown, ids_of
from upshot.prefect.conditions import condition_of, says_more, trigger_shown
from upshot.prefect.templated import (
    literal,
    parameters_shown,
    source_of,
    text_shown,
    text_source,
)
from upshot.storage.automations import Target

SHOP = UUID("11111111-1111-4111-8111-111111111111")
BLOCK = UUID("22222222-2222-4222-8222-222222222222")
OTHER = UUID("33333333-3333-4333-8333-333333333333")
TARGETS = (
    Target("post-order-complete", SHOP, None),
    Target("chat", UUID("44444444-4444-4444-8444-444444444444"), BLOCK),
)

names = st.text(st.sampled_from("abc.*!-"), min_size=1, max_size=6)
sets = st.lists(names, unique=True, max_size=3).map(sorted)
labels = st.dictionaries(
    st.sampled_from(["prefect.resource.id", "prefect.resource.name", "shop.country"]),
    st.one_of(names, st.lists(names, min_size=1, max_size=3)),
    max_size=2,
)
event_triggers = st.builds(
    lambda posture, within, **more: {
        "type": "event",
        "posture": posture,
        "within": within + 10.0 if posture == "Proactive" else within,
        **more,
    },
    posture=st.sampled_from(["Reactive", "Proactive"]),
    within=st.floats(0, 1e6).map(lambda seconds: round(seconds, 3)),
    expect=sets,
    after=sets,
    for_each=st.lists(
        st.sampled_from(["prefect.resource.id", "related:flow:prefect.resource.id", "country"]),
        unique=True,
        max_size=3,
    ).map(sorted),
    match=labels,
    match_related=st.one_of(labels, st.lists(labels, min_size=2, max_size=3)),
    threshold=st.integers(1, 1000),
)
triggers = st.recursive(
    event_triggers,
    lambda children: st.one_of(
        st.builds(
            lambda triggers, within: {"type": "sequence", "triggers": triggers, "within": within},
            st.lists(children, min_size=1, max_size=3),
            st.one_of(st.none(), st.integers(0, 1000).map(float)),
        ),
        st.builds(
            lambda triggers, within, require: {
                "type": "compound",
                "triggers": triggers,
                "within": within,
                "require": require,
            },
            st.lists(children, min_size=1, max_size=3),
            st.one_of(st.none(), st.integers(0, 1000).map(float)),
            st.sampled_from(["any", "all", 1]),
        ),
    ),
    max_leaves=6,
)


def stored(trigger: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The document of a trigger with this condition."""
    document = {**condition_of(trigger), "deployment": "post-order-complete", **more}
    return stored_document(read_trigger(document))


@given(triggers)
def test_a_trigger_is_shown_as_it_was_sent(trigger: dict[str, Any]) -> None:
    document = stored(trigger)
    assert trigger_shown(document) == trigger
    assert not says_more(document)
    assert stored(trigger_shown(document)) == document


def test_what_the_client_leaves_out_is_told_by_what_it_sends() -> None:
    child = {"expect": ["order.created"]}
    assert stored(child)["type"] == "event"
    assert stored({"triggers": [child]})["type"] == "sequence"
    assert stored({"triggers": [child], "require": "any"})["type"] == "compound"
    assert stored({"type": "sequence", "triggers": [{"triggers": [child]}]})["triggers"][0][
        "type"
    ] == ("sequence")


def test_sets_that_come_in_another_order_are_the_same() -> None:
    one = {"expect": ["b", "a"], "for_each": ["prefect.resource.name", "prefect.resource.id"]}
    other = {"expect": ["a", "b"], "for_each": ["prefect.resource.id", "prefect.resource.name"]}
    assert condition_of(one) == condition_of(other)


@pytest.mark.parametrize("within", [{}, {"within": 0}, {"within": 0.0}, {"within": "PT0S"}])
def test_a_proactive_trigger_waits_ten_seconds_where_nothing_is_said(within: Any) -> None:
    assert stored({"posture": "Proactive", **within})["within"] == 10


@pytest.mark.parametrize("within", [0.001, 9.999, "PT9S"])
def test_a_proactive_trigger_of_less_than_ten_seconds_is_refused(within: Any) -> None:
    with pytest.raises(Invalid, match="at least 10 seconds") as refused:
        condition_of({"triggers": [{"posture": "Proactive", "within": within}]})
    assert refused.value.problems[0].loc == ("trigger", "triggers", 0, "within")


@pytest.mark.parametrize(
    "metric",
    [
        {"type": "metric", "metric": {}},
        {"posture": "Metric"},
        {"type": "event", "posture": "Metric"},
    ],
)
def test_metric_triggers_are_refused_with_what_to_do_instead(metric: Any) -> None:
    with pytest.raises(Invalid, match=r"event trigger on prefect\.flow-run"):
        condition_of(metric)


@pytest.mark.parametrize("trigger", [{"triggers": [7]}, {"triggers": {}}, {"type": "cron"}])
def test_what_is_no_trigger_is_refused(trigger: Any) -> None:
    with pytest.raises(Invalid):
        condition_of(trigger)


def test_triggers_nested_without_end_are_refused() -> None:
    trigger: dict[str, Any] = {"expect": ["a"]}
    for _ in range(900):
        trigger = {"triggers": [trigger]}
    with pytest.raises(Invalid, match="nested deeper"):
        condition_of(trigger)


@pytest.mark.parametrize(
    "more",
    [
        {"where": "event.payload.total > 100"},
        {"lateness": 0},
        {"posture": "Proactive", "repeat": False, "within": 60},
    ],
)
def test_what_prefects_language_cannot_say_is_noticed(more: dict[str, Any]) -> None:
    document = {"type": "event", "deployment": "post-order-complete", **more}
    assert says_more(stored_document(read_trigger(document)))


def test_keys_of_a_composite_are_more_than_prefects_language_can_say() -> None:
    document = {"type": "sequence", "deployment": "x", "triggers": [{}], "for_each": ["id"]}
    assert says_more(stored_document(read_trigger(document)))


json_values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.text(st.sampled_from("ab{}%# \\\"u'"), max_size=12),
    ),
    lambda children: st.one_of(
        st.lists(children, max_size=3),
        st.dictionaries(st.sampled_from(["a", "b", "$text", "$json"]), children, max_size=2),
    ),
    max_leaves=8,
)
EVENT = {"id": "123", "total": 5, "items": [1, "{{ no }}"]}


@given(json_values)
def test_a_literal_is_rendered_as_it_stands(value: Any) -> None:
    assert rendered(literal(value)) == value


@given(json_values)
def test_constants_are_what_they_say(value: Any) -> None:
    sent = {"__prefect_kind": "json", "value": msgspec.json.encode(value).decode()}
    assert rendered(source_of({"x": sent})["x"]) == value


@given(
    st.text(st.sampled_from("ab{#}% "), max_size=8).filter(
        lambda t: "{{" not in t and "{%" not in t
    )
)
def test_a_string_without_a_template_is_itself(text: str) -> None:
    assert rendered(source_of({"x": text})["x"]) == text
    assert text_shown(text_source(text)) == text


FORMS = [
    ("{{ event.payload.total }}", 5),
    (" {{ event.payload.total }} ", 5),
    ("no. {{ event.payload.total }}", "no. 5"),
    ("{{ event.payload.total }}{{ event.payload.id }}", "5123"),
    ({"__prefect_kind": "jinja", "template": "{{ event.payload.total }}"}, "5"),
    ({"__prefect_kind": "jinja", "template": "plain {# text #}"}, "plain {# text #}"),
    ({"__prefect_kind": "json", "value": "[1, 2]"}, [1, 2]),
    ({"__prefect_kind": "json", "value": '"{{ event }}"'}, "{{ event }}"),
    ({"__prefect_kind": "json", "value": {"a": "{{ event }}"}}, {"a": "{{ event }}"}),
    (
        {
            "__prefect_kind": "json",
            "value": {"__prefect_kind": "jinja", "template": "{{ event.payload | tojson }}"},
        },
        EVENT,
    ),
    ({"__prefect_kind": "none", "value": "{{ event.payload.total }}"}, 5),
    ({"deep": ["{{ event.payload.id }}", 1]}, {"deep": ["123", 1]}),
    ([["{{ event.payload.id }}"]], [["123"]]),
]  # fmt: skip


@pytest.mark.parametrize(("sent", "value"), FORMS)
def test_parameters_in_every_form_render_as_prefect_does(sent: Any, value: Any) -> None:
    source = source_of({"x": sent})
    assert rendered(source["x"]) == value
    assert source_of(parameters_shown(source)) == source


def test_a_value_that_is_not_there_is_left_out() -> None:
    assert source_of({"x": {"__prefect_kind": "json"}, "y": [{"__prefect_kind": "json"}]}) == {
        "y": []
    }


@pytest.mark.parametrize(
    ("sent", "loc"),
    [
        ({"__prefect_kind": "json", "value": "{{ event }}"}, ("x", "value")),
        ({"__prefect_kind": "json", "value": "{"}, ("x", "value")),
        ({"__prefect_kind": "jinja"}, ("x", "template")),
        ({"__prefect_kind": "jinja", "template": 7}, ("x", "template")),
        ({"__prefect_kind": "none"}, ("x", "value")),
        ([{"__prefect_kind": "workspace_variable", "variable_name": "a"}], ("x", 0)),
        ({"$text": "a", "b": "{{ event }}"}, ("x",)),
    ],
)
def test_forms_that_mean_nothing_here_are_refused(sent: Any, loc: tuple[str | int, ...]) -> None:
    with pytest.raises(Invalid) as refused:
        source_of({"x": sent})
    assert refused.value.problems[0].loc == loc


@pytest.mark.parametrize(
    "form",
    [
        lambda value: value,
        lambda value: {"__prefect_kind": "json", "value": value},
        lambda value: {"__prefect_kind": "anything", "value": {"$text": value}},
    ],
)
def test_parameters_nested_without_end_are_refused(form: Callable[[Any], Any]) -> None:
    value: Any = "{{ event.id }}"
    for _ in range(900):
        value = [value]
    with pytest.raises(Invalid, match="nested"):
        checked(form(value))


ACTIONS: list[dict[str, Any]] = [
    {"type": "do-nothing"},
    {
        "type": "run-deployment",
        "source": "selected",
        "deployment_id": SHOP,
        "parameters": {"user_id": "{{ event.resource.id }}"},
        "job_variables": {},
        "schedule_after": 1.5,
    },
    {
        "type": "run-deployment",
        "source": "inferred",
        "deployment_id": None,
        "parameters": {},
        "job_variables": {},
        "schedule_after": 0.0,
    },
    {"type": "call-webhook", "block_document_id": BLOCK, "payload": "{{ event.id }} done"},
    {"type": "call-webhook", "block_document_id": BLOCK, "payload": "{{ event.id }}"},
    {"type": "call-webhook", "block_document_id": BLOCK, "payload": ""},
    {"type": "pause-automation", "source": "selected", "automation_id": str(OTHER)},
    {"type": "resume-automation", "source": "inferred", "automation_id": None},
]


@pytest.mark.parametrize("action", ACTIONS)
def test_an_action_is_shown_as_it_was_sent(action: dict[str, Any]) -> None:
    sent = msgspec.json.decode(msgspec.json.encode(action))
    actions = actions_of([sent], [target for target in TARGETS if ids_of([sent])])
    document = stored_document(read_trigger({"type": "event", "actions": actions}))
    assert actions_shown(document, {target.name: target for target in TARGETS}) == [action]


def test_no_actions_are_one_that_does_nothing() -> None:
    assert actions_of([], TARGETS) == [{"type": "nothing"}]


def test_a_type_that_the_client_left_out_is_told_by_the_id() -> None:
    run, call = actions_of(
        [{"deployment_id": str(SHOP)}, {"block_document_id": str(BLOCK)}], TARGETS
    )
    assert (run["deployment"], call["deployment"]) == ("post-order-complete", "chat")


def test_what_is_gone_has_an_id_all_the_same() -> None:
    run = {"type": "run", "deployment": "gone", "parameters": {}, "schedule_after": 0}
    shown = actions_shown({"actions": [run, {**run, "kind": "call-webhook"}]}, {})
    assert shown[0]["deployment_id"] == shown[1]["block_document_id"] == UUID(int=0)


@pytest.mark.parametrize(
    ("kind", "instead"),
    [
        ("pause-deployment", "PATCH /v1/deployments"),
        ("resume-deployment", "PATCH /v1/deployments"),
        ("change-flow-run-state", "/v1/runs"),
        ("cancel-flow-run", "/v1/runs"),
        ("suspend-flow-run", "/v1/runs"),
        ("resume-flow-run", "/v1/runs"),
        ("delete-flow-run", "UPSHOT_RUN_RETENTION"),
        ("pause-work-pool", "pause-automation"),
        ("resume-work-pool", "pause-automation"),
        ("pause-work-queue", "pause-automation"),
        ("resume-work-queue", "pause-automation"),
        ("send-notification", "call-webhook"),
        ("declare-incident", "call-webhook"),
    ],
)
def test_actions_that_upshot_has_not_are_refused_with_what_to_do(kind: str, instead: str) -> None:
    with pytest.raises(Invalid, match=f"no action '{kind}'") as refused:
        actions_of([{"type": "do-nothing"}, {"type": kind}], TARGETS)
    assert instead in refused.value.message
    assert refused.value.problems[0].loc == ("actions", 1)


@pytest.mark.parametrize(
    ("action", "where"),
    [
        (7, ["type"]),
        ({}, ["type"]),
        ({"type": "sing"}, ["type"]),
        ({"type": ["run-deployment"]}, ["type"]),
        ({"type": "run-deployment"}, []),
        ({"type": "run-deployment", "source": "inferred", "deployment_id": str(SHOP)}, []),
        ({"type": "run-deployment", "deployment_id": "x"}, ["deployment_id"]),
        ({"type": "run-deployment", "deployment_id": str(OTHER)}, ["deployment_id"]),
        ({"type": "run-deployment", "deployment_id": str(BLOCK)}, ["deployment_id"]),
        ({"deployment_id": str(SHOP), "job_variables": {"cpu": 1}}, ["job_variables"]),
        ({"type": "call-webhook"}, ["block_document_id"]),
        ({"type": "call-webhook", "block_document_id": str(SHOP)}, ["block_document_id"]),
        ({"type": "pause-automation"}, []),
        ({"type": "resume-automation", "automation_id": "x"}, ["automation_id"]),
    ],
)
def test_actions_that_are_none_are_refused(action: Any, where: list[str]) -> None:
    with pytest.raises(Invalid) as refused:
        actions_of([action], TARGETS)
    assert refused.value.problems[0].loc == ("actions", 0, *where)


def checked(value: Any) -> dict[str, Any]:
    """The document of a trigger that runs something with this parameter."""
    parameters = source_of({"x": value})
    document = {"type": "event", "deployment": "x", "parameters": parameters}
    return stored_document(validated(TypeAdapter(TriggerWritten), document, known=()))


def rendered(source: Any) -> Any:
    event = {"id": "1", "payload": EVENT, "resource": {"prefect.resource.id": "123"}}
    return compile_parameters({"x": source}).render({"event": event})["x"]
