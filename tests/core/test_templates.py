"""What parameters may say, what they give, and what they can never do."""

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from upshot.core.errors import Invalid
from upshot.core.events import Event
from upshot.core.limits import (
    INTEGER_DIGITS_MAX,
    LOOP_ITEMS_MAX,
    PARAMETERS_BYTES_MAX,
    PARAMETERS_NESTING_MAX,
    RENDER_PROBLEMS_MAX,
    RENDER_REASON_CHARS_MAX,
    STEPS_IN_PROCESS_MAX,
    TEMPLATE_CHARS_MAX,
)
from upshot.core.templates import (
    RenderFailed,
    as_literal,
    compile_parameters,
    event_document,
    event_view,
    merged_source,
)

ORDER = Event(
    id=UUID(int=7),
    name="order.complete",
    resource={"prefect.resource.id": "123", "prefect.resource.name": "Order 123", "a.b": "dotted"},
    related=(
        {"prefect.resource.id": "ann", "prefect.resource.role": "user"},
        {"prefect.resource.id": "eu", "prefect.resource.role": "region"},
    ),
    payload=json.dumps(
        {
            "items": [3, 1, 2],
            "total": 12.5,
            "count": 3,
            "big": 2**64 + 1,
            "word": "shop",
            "number": "123",
            "nothing": None,
            "yes": True,
            "_id": "under",
            "people": [{"name": "Ann", "age": 3}, {"name": "Bob", "age": 2}],
            "keys": {"get": 1, "values": 2},
        }
    ),
    occurred_at=datetime(2025, 3, 1, 12, tzinfo=timezone(timedelta(hours=2))),
    received_at=datetime(2025, 3, 1, 10, 0, 1, 500_000, tzinfo=UTC),
    follows=UUID(int=6),
)
CREATED = replace(ORDER, id=UUID(int=6), name="order.created", follows=None)


def context(event: Event = ORDER) -> dict[str, Any]:
    return {
        "event": event_view(event),
        "after": event_view(CREATED),
        "events": [event_view(event)],
        "labels": {"prefect.resource.id": "123", "payload.city": "Bonn"},
        "trigger": {"name": "order-complete", "id": str(UUID(int=1)), "version": 4},
        "deployment": {"name": "post-order"},
    }


def rendered(template: str, **changed: Any) -> Any:
    return compile_parameters({"p": template}).render({**context(), **changed})["p"]


def refusal(template: str) -> str:
    with pytest.raises(Invalid) as refused:
        compile_parameters({"p": template})
    (problem,) = refused.value.problems
    assert problem.loc == ("p",)
    return problem.msg


def failure(template: str, **changed: Any) -> str:
    parameters = compile_parameters({"p": template})
    with pytest.raises(RenderFailed) as failed:
        parameters.render({**context(), **changed})
    (problem,) = failed.value.problems
    assert problem.loc == ("p",)
    return problem.msg


def same(left: Any, right: Any) -> bool:
    """Equal with the types: to Python, 1 and 1.0 and True are one."""
    return repr(left) == repr(right)


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("{{ event.resource.id }}", "123"),
        ("{{ event.resource.name }}", "Order 123"),
        ("{{ event.resource['prefect.resource.id'] }}", "123"),
        ("{{ event.resource['a.b'] }}", "dotted"),
        ("{{ event.id }}", str(UUID(int=7))),
        ("{{ event.event }}", "order.complete"),
        ("{{ event.occurred }}", "2025-03-01T10:00:00Z"),
        ("{{ event.received }}", "2025-03-01T10:00:01.500000Z"),
        ("{{ event.follows }}", str(UUID(int=6))),
        ("{{ after.follows }}", None),
        ("{{ after.event }}", "order.created"),
        ("{{ event.related[0].role }}", "user"),
        ("{{ event.related.1.id }}", "eu"),
        ("{{ event.related[-1].id }}", "eu"),
        ("{{ events[0].resource.id }}", "123"),
        ("{{ labels.id }}", "123"),
        ("{{ labels['payload.city'] }}", "Bonn"),
        ("{{ trigger.name }}", "order-complete"),
        ("{{ trigger.version }}", 4),
        ("{{ deployment.name }}", "post-order"),
    ],
)
def test_a_path_gives_what_lies_there(template: str, value: Any) -> None:
    assert same(rendered(template), value)


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("{{ event.payload.items }}", [3, 1, 2]),
        ("{{ event.payload.items[1] }}", 1),
        ("{{ event.payload.keys.get }}", 1),
        ("{{ event.payload.keys.values }}", 2),
        ("{{ event.payload['_id'] }}", "under"),
    ],
)
def test_a_field_comes_before_any_method(template: str, value: Any) -> None:
    assert rendered(template) == value


@pytest.mark.parametrize("method", ["copy", "pop", "setdefault", "get"])
def test_methods_of_plain_values_are_not_there(method: str) -> None:
    assert f"'{method}' is undefined" in failure(f"{{{{ event.payload.{method} }}}}")


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("{{ event.payload.total }}", 12.5),
        ("{{ event.payload.count }}", 3),
        ("{{ event.payload.big }}", 2**64 + 1),
        ("{{ event.payload.number }}", "123"),
        ("{{ event.payload.nothing }}", None),
        ("{{ event.payload.yes }}", True),
        ("{{- event.payload.count -}}", 3),
        ("{{ event.payload.count > 2 }}", True),
        ("{{ event.payload.count if event.payload.yes else 'none' }}", 3),
        ("{{ event.payload.count + 1 }}", 4),
        ("{{ 7 // 2 }}", 3),
        ("{{ 2 ** 10 }}", 1024),
        ("{{ 'a' + 'b' }}", "ab"),
        ("{{ [1] + [2] }}", [1, 2]),
        ("{{ (1, 'x') }}", [1, "x"]),
        ("{{ {'a': event.payload.count} }}", {"a": 3}),
    ],
)
def test_a_lone_expression_keeps_its_type(template: str, value: Any) -> None:
    assert same(rendered(template), value)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(min_value=-(10**30), max_value=10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


PATHS = compile_parameters({"short": "{{ event.payload.v }}", "long": "{{ (event.payload).v }}"})
WHOLE = compile_parameters(
    {
        "lone": "{{ event }}",
        "text": "as text: {{ event }}",
        "json": "{{ event | tojson }}",
        "asked": "{{ event | last }}, {{ event | length }}, {{ event is mapping }}",
        "held": "{{ 'id' in event }}",
        "loop": "{% for name in event %}{{ name }};{% endfor %}",
        "equal": "{{ event == after }}",
    }
)


@settings(deadline=None)
@given(value=JSON)
def test_any_json_value_of_a_payload_arrives_as_it_is(value: Any) -> None:
    event = replace(ORDER, payload=json.dumps({"v": value}))
    assert same(PATHS.render({"event": event_view(event)}), {"short": value, "long": value})


@settings(deadline=None)
@given(value=JSON)
def test_the_view_and_the_document_are_the_same_to_a_template(value: Any) -> None:
    event = replace(ORDER, payload=json.dumps({"v": value}))
    view, document = event_view(event), event_document(event)
    of_view = WHOLE.render({"event": view, "after": view})
    assert same(of_view, WHOLE.render({"event": document, "after": document}))


def test_a_payload_is_read_only_when_it_is_reached_for() -> None:
    broken = event_view(replace(ORDER, payload="no JSON"))
    assert rendered("{{ event.resource.id }}", event=broken) == "123"
    assert "line 1" in failure("{{ event.payload }}", event=broken)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("order {{ event.resource.id }}", "order 123"),
        ("{{ event.payload.count }} ", "3 "),
        ("{{ event.payload.count }}\n", "3\n"),
        ("{{ event.payload.count }}{{ event.payload.count }}", "33"),
        ("{{ event.payload.yes }}, {{ event.payload.nothing }}", "True, None"),
        ("{% if event.payload.count > 2 %}many{% else %}few{% endif %}", "many"),
        ("{% raw %}{{ event }}{% endraw %}", "{{ event }}"),
        ("{# nothing #}", ""),
        ("{% for i in event.payload.items %}{{ loop.index }}:{{ i }} {% endfor %}", "1:3 2:1 3:2 "),
        ("{% for i in [] %}{% else %}none{% endfor %}", "none"),
        ("{% for k, v in event.resource | items %}{{ k }};{% endfor %}",
         "prefect.resource.id;prefect.resource.name;a.b;"),
        ("{% for event in events %}{{ event.event }}{% endfor %}", "order.complete"),
        ("{% for p in event.payload.people if p.age > 2 %}{{ p.name }}{% endfor %}", "Ann"),
    ],
)  # fmt: skip
def test_anything_around_an_expression_gives_text(template: str, text: str) -> None:
    assert same(rendered(template), text)


@pytest.mark.parametrize("literal", ["", "plain", "50 % { off }", "}} {", "ö\n\r\n", 1, 2.5, None])
def test_what_holds_no_template_is_taken_as_it_is(literal: Any) -> None:
    assert same(rendered(literal), literal)


def test_templates_work_at_any_depth_and_keys_are_literal() -> None:
    source = {
        "user": {"{{ key }}": ["{{ event.resource.id }}", {"n": "{{ event.payload.count }}"}]}
    }
    assert compile_parameters(source).render(context()) == {
        "user": {"{{ key }}": ["123", {"n": 3}]}
    }


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("{{ event.payload.gone | default('x') }}", "x"),
        ("{{ event.payload.gone.deeper[0] | d(1) }}", 1),
        ("{{ event.payload.nothing | default('x', true) }}", "x"),
        ("{{ '12' | int }}", 12),
        ("{{ '1.5' | float }}", 1.5),
        ("{{ event.payload.count | string }}", "3"),
        ("{{ 'aB' | lower }}", "ab"),
        ("{{ 'aB' | upper }}", "AB"),
        ("{{ 'an order' | title }}", "An Order"),
        ("{{ 'an order' | capitalize }}", "An order"),
        ("{{ ' x ' | trim }}", "x"),
        ("{{ event.payload.items | length }}", 3),
        ("{{ event.payload.items | count }}", 3),
        ("{{ event.payload.items | first }}", 3),
        ("{{ event.payload.items | last }}", 2),
        ("{{ 2.345 | round(2) }}", round(2.345, 2)),
        ("{{ -2 | abs }}", 2),
        ("{{ 'one two three' | truncate(8, true, '', 0) }}", "one two "),
        ("{{ 'a-b-c' | replace('-', '+') }}", "a+b+c"),
        ("{{ 'a-b-c' | replace('-', '+', 1) }}", "a+b-c"),
        ("{{ {'a': ['ö', 1.0]} | tojson }}", '{"a": ["ö", 1.0]}'),
        ("{{ event.payload.items | join(', ') }}", "3, 1, 2"),
        ("{{ event.payload.people | join('+', attribute='name') }}", "Ann+Bob"),
        ("{{ 'ab' | list }}", ["a", "b"]),
        ("{{ event.payload.items | sort }}", [1, 2, 3]),
        ("{{ event.payload.people | sort(attribute='age') | map(attribute='name') }}",
         ["Bob", "Ann"]),
        ("{{ [2, 1, 2] | unique }}", [2, 1]),
        ("{{ event.payload.items | sum }}", 6),
        ("{{ event.payload.items | min }}", 1),
        ("{{ event.payload.items | max }}", 3),
        ("{{ event.payload.items | select('gt', 1) }}", [3, 2]),
        ("{{ event.payload.items | reject('odd') }}", [2]),
        ("{{ event.related | selectattr('role', 'eq', 'user') | map(attribute='id') }}", ["ann"]),
        ("{{ event.related | rejectattr('role', 'eq', 'user') | map(attribute='id') | first }}",
         "eu"),
        ("{{ ['a', 'b'] | map('upper') }}", ["A", "B"]),
        ("{{ event.payload.keys | dictsort }}", [["get", 1], ["values", 2]]),
        ("{{ event.payload.keys | items }}", [["get", 1], ["values", 2]]),
        ("{{ 'a b&c' | urlencode }}", "a%20b%26c"),
        ("{{ event.payload.gone is defined }}", False),
        ("{{ event.payload.gone is undefined }}", True),
        ("{{ event.payload.nothing is none }}", True),
        ("{{ event.payload.word is string and event.payload.count is number }}", True),
        ("{{ event.payload.word is in ['shop', 'home'] }}", True),
        ("{{ event.event[:5] }}", "order"),
        ("{{ event.payload.items[1:] }}", [1, 2]),
    ],
)  # fmt: skip
def test_filters_and_tests_do_what_jinja_says(template: str, value: Any) -> None:
    assert same(rendered(template), value)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ evnt.id }}", "'evnt' is unknown; did you mean 'event'?"),
        ("{{ event.resorce.id }}", "'resorce' is unknown here; did you mean 'resource'?"),
        ("{{ event['resorce'] }}", "did you mean 'resource'?"),
        ("{{ after.ocurred }}", "did you mean 'occurred'?"),
        ("{{ trigger.nme }}", "did you mean 'name'?"),
        ("{{ deployment.id }}", "'id' is unknown here"),
        ("{{ events[0].resorce }}", "did you mean 'resource'?"),
        ("{{ (events | last).resorce }}", "did you mean 'resource'?"),
        ("{{ events.resource }}", "'resource' is looked up in a list; write [0].resource"),
        ("{% for e in events[:3] %}{{ e.resorce }}{% endfor %}", "did you mean 'resource'?"),
        ("{% for i in events %}{{ loop.indx }}{% endfor %}", "did you mean 'index'?"),
        ("{% for i in events %}{% endfor %}{{ i }}", "'i' is unknown"),
        ("{% for i in events %}{% else %}{{ i }}{% endfor %}", "'i' is unknown"),
        ("{{ event.id | lowr }}", "there is no filter 'lowr'; did you mean 'lower'?"),
        ("{{ event.id is defind }}", "there is no test 'defind'; did you mean 'defined'?"),
        ("{{ event.related | map('lowr') }}", "did you mean 'lower'?"),
        ("{{ event.related | select('strng') }}", "did you mean 'string'?"),
        ("{{ event.related | selectattr('id', 'equelto', 1) }}", "did you mean 'equalto'?"),
        ("{{ event.id | truncate(lenght=3) }}", "'truncate': got an unexpected keyword"),
        ("{{ event.payload.total | abs(1) }}", "'abs': too many positional arguments"),
        ("{{ event.payload.total is divisibleby }}", "'divisibleby': missing a required argument"),
    ],
)
def test_a_misspelt_name_is_refused_when_it_is_saved(template: str, reason: str) -> None:
    message = refusal(template)
    assert reason in message
    assert message.startswith("line 1: ")


@pytest.mark.parametrize(
    ("template", "line"),
    [
        ("{{ event.id", 1),
        ("{{ }}", 1),
        ("first\n{% if event %}\n", 2),
        ("first\n\n{{ evnt }}", 3),
        ("first\n{% endfor %}", 2),
        ("{% do event.id %}", 1),
        ("{{ 1e999 }}", 1),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_line(template: str, line: int) -> None:
    assert refusal(template).startswith(f"line {line}: ")


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'a' * 10**9 }}",
        "{{ [0] * 10**9 }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ event.payload | tojson(indent=10**9) }}",
        "{{ lipsum(n=1000) }}",
        "{{ range(10**9) }}",
        "{{ dict(a=1) }}",
        "{{ namespace() }}",
        "{{ cycler('a') }}",
        "{{ joiner() }}",
        "{{ lipsum }}",
        "{{ self }}",
        "{{ event.payload.items() }}",
        "{{ 'x'.format(1) }}",
        "{{ ''.__class__ }}",
        "{{ event.payload._id }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
        "{% call a() %}{% endcall %}",
        "{% set x = 1 %}",
        "{% set x %}a{% endset %}",
        "{% with x = 1 %}{% endwith %}",
        "{% filter upper %}a{% endfilter %}",
        "{% block a %}{% endblock %}",
        "{% extends 'a' %}",
        "{% include 'a' %}",
        "{% import 'a' as a %}",
        "{% from 'a' import b %}",
        "{% autoescape true %}{% endautoescape %}",
        "{% for a in events %}{% for b in events %}{% endfor %}{% endfor %}",
        "{% for a in events %}{% else %}{% for b in events %}{% endfor %}{% endfor %}",
        "{% for a in events recursive %}{% endfor %}",
        "{% for a in events %}{{ loop }}{% endfor %}",
        "{% for a in events %}{{ loop.cycle(1, 2) }}{% endfor %}",
        "{% for loop in events %}{% endfor %}",
        "{{ 'a' | center(10**9) }}",
        "{{ 'a' | indent(10**9) }}",
        "{{ 'a' | format(1) }}",
        "{{ event | attr('id') }}",
        "{{ event | pprint }}",
        "{{ [1, 2] | random }}",
        "{{ 'a' | join(*events) }}",
        "{{ 'a' | truncate(**event) }}",
        "{{ event is callable }}",
        "{{ " + "not " * 100 + "1 }}",
        "{{ " + "(" * 1_000 + "1" + ")" * 1_000 + " }}",
        "{{ " + "[" * 1_000 + "]" * 1_000 + " }}",
        "{{ event.payload" + ".a" * 500 + " }}",
        "{% if 1 %}" * 100 + "{% endif %}" * 100,
    ],
)
def test_what_could_cost_too_much_is_refused_when_it_is_saved(template: str) -> None:
    assert refusal(template)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ event.payload.wrd }}",
         "'wrd' is undefined; did you mean 'word'? (known here: 'items', 'total'"),
        ("{{ event.resource.nme }}", "'nme' is undefined"),
        ("id {{ event.resource.nme }}", "'nme' is undefined"),
        ("{{ event.payload.wrd | upper }}", "'wrd' is undefined"),
        ("{{ event.payload.gone.deeper }}", "'gone' is undefined"),
        ("{{ event.payload.gone == 1 }}", "'gone' is undefined"),
        ("{{ event.payload.gone + 1 }}", "'gone' is undefined"),
        ("{{ event.payload.gone and 1 }}", "'gone' is undefined"),
        ("{% if event.payload.gone %}{% endif %}", "'gone' is undefined"),
        ("{% for i in event.payload.gone %}{% endfor %}", "'gone' is undefined"),
        ("{{ event.payload.gone[:2] }}", "'gone' is undefined"),
        ("{{ event.payload[event.payload.gone] }}", "'gone' is undefined"),
        ("{{ [event.payload.gone] }}", "'gone' is undefined"),
        ("list: {{ [event.payload.gone] }}", "'gone' is undefined"),
        ("{{ [event.payload.gone] | tojson }}", "'gone' is undefined"),
        ("{{ event.related | map(attribute='gone') }}", "'gone' is undefined"),
        ("{{ event.related | map(attribute='gone') | join }}", "'gone' is undefined"),
        ("{{ event.payload.items[9] }}", "'9' is undefined in a list of 3"),
        ("{{ event.payload.count.x }}", "'x' is looked up in a number"),
        ("{{ event.payload.nothing.x }}", "'x' is looked up in null"),
        ("{{ [] | first }}", "sequence was empty"),
        ("{{ event.id if event.payload.count > 9 }}", "no else section"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ event.payload.word | abs }}", "bad operand type"),
        ("{{ event.payload.word + 1 }}", "a string + a number cannot be calculated"),
        ("{{ event.payload.word * 2 }}", "a string * a number cannot be calculated"),
        ("{{ event.payload.word % 2 }}", "a string % a number cannot be calculated"),
        ("{{ (0 - 8) ** 0.5 }}", "is no real number"),
        ("{{ {1: 2} }}", "keys are strings"),
    ],
)  # fmt: skip
def test_what_has_no_value_fails_the_rendering(template: str, reason: str) -> None:
    assert reason in failure(template)


def test_a_name_that_has_nothing_now_says_so() -> None:
    assert "'resource' is looked up in null" in failure("{{ after.resource.id }}", after=None)
    assert rendered("{{ after.resource.id | default('none') }}", after=None) == "none"
    bare = {name: value for name, value in context().items() if name != "after"}
    for template in ("{{ after.id }}", "{{ after.id | upper }}"):
        with pytest.raises(RenderFailed, match="'after' is undefined"):
            compile_parameters({"p": template}).render(bare)


@pytest.mark.parametrize(
    ("template", "line"),
    [
        ("one\n{{ event.payload.gone }}", 2),
        ("{{\n\nevent.payload.gone\n}}", 3),
        ("{{\n\nevent.payload.gone | upper\n}}", 3),
        ("one\n{% for i in events %}\n{{ i.payload.gone }}\n{% endfor %}", 3),
    ],
)
def test_a_failure_names_the_line(template: str, line: int) -> None:
    assert failure(template).startswith(f"line {line}: 'gone' is undefined")


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ 'nan' | float }}", "nan is no number in JSON"),
        ("{{ '-inf' | float }}", "-inf is no number in JSON"),
        ("{{ 1e308 * 10 }}", "inf is no number in JSON"),
        ("{{ '\\x00' }}", "U+0000"),
        ("text \\x00 {{ '\\x00' }}", "U+0000"),
        ("{{ '\\ud800' }}", "surrogate"),
        ("{{ {'\\ud800': 1} }}", "surrogate"),
    ],
)
def test_what_json_or_the_database_cannot_hold_fails_the_rendering(
    template: str, reason: str
) -> None:
    assert reason in failure(template)


@pytest.mark.parametrize("value", [math.nan, math.inf, "a\0b", "\ud800", {"\0": 1}, {1: 2}, {1, 2}])
def test_parameters_that_are_no_json_are_refused(value: Any) -> None:
    with pytest.raises(Invalid):
        compile_parameters({"p": value})


def test_parameters_must_be_an_object() -> None:
    not_an_object: Any = ["{{ event.id }}"]
    with pytest.raises(Invalid, match="JSON object"):
        compile_parameters(not_an_object)


@pytest.mark.parametrize(
    ("template", "payload"),
    [
        ("{{ 10 ** 1000 }}", {}),
        ("{{ 10 ** (10 ** 9) }}", {}),
        ("{{ event.payload.n * event.payload.n }}", {"n": 10 ** (INTEGER_DIGITS_MAX - 1)}),
        ("{{ event.payload.n ** event.payload.n }}", {"n": 10**9}),
        ("{{ 1.5 | round(10 ** 9) }}", {}),
        ("{{ event.payload.s | replace('', event.payload.s) }}", {"s": "x" * 100_000}),
        ("{{ event.payload.l | join(event.payload.s) }}", {"l": [1] * 1_000, "s": "x" * 100_000}),
        ("{{ event.payload.s + event.payload.s + event.payload.s }}", {"s": "x" * 100_000}),
        ("{% for i in event.payload.l %}{% endfor %}", {"l": [1] * (LOOP_ITEMS_MAX + 1)}),
        ("{% for i in event.payload.s %}{% endfor %}", {"s": "x" * (LOOP_ITEMS_MAX + 1)}),
        ("{{ event.payload.s }}", {"s": "x" * PARAMETERS_BYTES_MAX}),
        ("{{ event.payload.s }}", {"s": "ö" * (PARAMETERS_BYTES_MAX // 2)}),
        ("{{ event.payload.s }}!", {"s": "x" * PARAMETERS_BYTES_MAX}),
        ("{{ event.payload.s | tojson | length }}", {"s": "x" * PARAMETERS_BYTES_MAX}),
        ("{{ event.payload }}", {"s": [0] * PARAMETERS_BYTES_MAX}),
        ("{% for i in event.payload.l %}{{ event.payload.s }}{% endfor %}",
         {"l": [1] * 1_000, "s": "x" * 1_000}),
        ("{{ " + "[" * 20 + "event.payload.s" + "]|string" * 20 + " }}", {"s": "\\'\"" * 100}),
    ],
)  # fmt: skip
def test_results_are_bounded_in_the_process_too(template: str, payload: Mapping[str, Any]) -> None:
    event = event_view(replace(ORDER, payload=json.dumps(payload)))
    assert failure(template, event=event)


def test_a_loop_may_run_over_as_many_items_as_its_bound() -> None:
    event = event_view(replace(ORDER, payload=json.dumps({"l": [1] * LOOP_ITEMS_MAX})))
    text = rendered("{% for i in event.payload.l %}{{ i }}{% endfor %}", event=event)
    assert text == "1" * LOOP_ITEMS_MAX


def test_the_bound_of_the_result_is_for_all_parameters_together() -> None:
    half = "x" * (PARAMETERS_BYTES_MAX // 2)
    event = event_view(replace(ORDER, payload=json.dumps({"s": half})))
    one = compile_parameters({"a": "{{ event.payload.s }}"})
    assert one.render({"event": event}) == {"a": half}
    two = compile_parameters({"a": "{{ event.payload.s }}", "b": "{{ event.payload.s }}"})
    with pytest.raises(RenderFailed, match="larger than") as failed:
        two.render({"event": event})
    assert failed.value.problems[-1].loc == ("b",)


def nested(levels: int) -> dict[str, Any]:
    return {} if levels == 1 else {"p": nested(levels - 1)}


def test_the_source_is_bounded() -> None:
    compile_parameters(nested(PARAMETERS_NESTING_MAX))
    with pytest.raises(Invalid, match="nested more than"):
        compile_parameters(nested(PARAMETERS_NESTING_MAX + 1))
    compile_parameters({"p": "x" * (PARAMETERS_BYTES_MAX - 100)})
    with pytest.raises(Invalid, match="larger than"):
        compile_parameters({"p": "x" * PARAMETERS_BYTES_MAX})
    with pytest.raises(Invalid, match="larger than"):
        compile_parameters({"p": list(range(PARAMETERS_BYTES_MAX))})
    comment = "{# " + "x" * (TEMPLATE_CHARS_MAX - 6) + " #}"
    compile_parameters({"p": comment})
    assert "longer than" in refusal(comment + " ")


def test_every_bad_template_is_named_with_its_place() -> None:
    source = {
        "user": {"id": "{{ evnt.id }}"},
        "fine": "{{ event.id }}",
        "items": [1, "ok", "\n{{ event.id | nope }}"],
    }
    with pytest.raises(Invalid) as refused:
        compile_parameters(source)
    assert [problem.loc for problem in refused.value.problems] == [("user", "id"), ("items", 2)]
    assert refused.value.problems[1].msg.startswith("line 2: ")


def test_every_template_that_fails_is_named_up_to_a_bound() -> None:
    source = {"a": "{{ event.payload.x }}", "b": 1, "c": ["{{ event.payload.y }}!"]}
    with pytest.raises(RenderFailed) as failed:
        compile_parameters(source).render(context())
    assert [problem.loc for problem in failed.value.problems] == [("a",), ("c", 0)]
    many = {"list": ["{{ event.payload.x }}"] * (RENDER_PROBLEMS_MAX + 1)}
    with pytest.raises(RenderFailed) as failed:
        compile_parameters(many).render(context())
    assert len(failed.value.problems) == RENDER_PROBLEMS_MAX


def test_reasons_stay_short_whatever_the_payload_holds() -> None:
    payload = {"k" * 10_000 + str(i): i for i in range(100)}
    event = event_view(replace(ORDER, payload=json.dumps(payload)))
    assert len(failure("{{ event.payload.x }}", event=event)) <= RENDER_REASON_CHARS_MAX


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ({"a": 1}, set()),
        ({"a": "{{ event.id }}"}, {"event"}),
        ({"a": ["{{ after.id }}", {"b": "{{ labels.id ~ trigger.name }}"}]},
         {"after", "labels", "trigger"}),
        ({"a": "{% for e in events %}{{ e.id }}{% endfor %}"}, {"events"}),
        ({"a": "{% for after in events %}{{ after.id }}{% endfor %}"}, {"events"}),
        ({"a": "{% if after %}{{ deployment.name }}{% endif %}"}, {"after", "deployment"}),
    ],
)  # fmt: skip
def test_it_is_known_which_names_of_the_context_are_used(source: Any, names: set[str]) -> None:
    assert compile_parameters(source).names == names


@pytest.mark.parametrize(
    "template",
    [
        "literal",
        "{{ event.resource.id }}",
        "{{ event.payload.items[0] }} and {{ trigger.name }}",
        "{{ event.payload.word | upper | trim | truncate(5) }}",
        "{{ event.payload | tojson }}",
        "{{ event.payload.word | replace('a', 'b') }}",
        "{{ event.payload.gone | default(event.payload.word) }}",
        "{{ event.payload.total * 100 - 1 }}",
        "{{ event.payload.count + 1 }}",
        "{{ event.payload.word in ['a', 'b'] }}",
        "{% if event.payload.count > 2 %}many{% endif %}",
    ],
)
def test_what_cannot_grow_is_rendered_in_the_process(template: str) -> None:
    assert not compile_parameters({"p": template}).heavy


@pytest.mark.parametrize(
    "template",
    [
        "{% for e in events %}{{ e.id }}{% endfor %}",
        "{{ event.id ~ event.id }}",
        "{{ event.payload.word + event.payload.word }}",
        "{{ event.payload.items | join }}",
        "{{ event.payload.word | trim(event.payload.word) }}",
        "{{ event.payload.word | replace(old='a', new=event.payload.word) }}",
        "{{ event.payload.items | sort }}",
        "{{ event.related | map(attribute='id') }}",
        "{{ [event.payload, event.payload] }}",
    ],
)
def test_what_can_grow_is_heavy(template: str) -> None:
    assert compile_parameters({"p": template}).heavy


@pytest.mark.parametrize("step", ["{{ event.id | lower }}", "{{ event.id in event.payload.word }}"])
def test_many_steps_together_are_heavy(step: str) -> None:
    assert not compile_parameters({"p": [step] * STEPS_IN_PROCESS_MAX}).heavy
    assert compile_parameters({"p": [step] * (STEPS_IN_PROCESS_MAX + 1)}).heavy


def test_a_trigger_overrides_the_defaults_of_its_deployment_at_the_top() -> None:
    defaults = {"user": {"id": 1, "name": "x"}, "size": 3}
    assert merged_source(defaults, {"user": {"id": 2}}) == {"user": {"id": 2}, "size": 3}
    assert defaults == {"user": {"id": 1, "name": "x"}, "size": 3}


def test_a_result_shares_nothing_with_the_source_or_the_payload() -> None:
    source = {"list": [1, {"a": "b"}], "items": "{{ event.payload.items }}"}
    parameters, seen = compile_parameters(source), context()
    first = parameters.render(seen)
    first["list"][1]["a"] = "changed"
    first["items"].append(4)
    assert parameters.render(seen) == {"list": [1, {"a": "b"}], "items": [3, 1, 2]}


def test_constants_are_the_parameters_without_a_template_at_any_depth() -> None:
    constant = {"id": "123", "size": 3, "none": None, "list": [1, {"a": "b"}], "empty": {}}
    templated = {
        "user": "{{ event.resource.id }}",
        "text": "for {{ event.resource.id }}",
        "deep": {"list": [1, {"a": "{{ event.resource.id }}"}]},
    }
    assert compile_parameters({**constant, **templated}).constants == constant


FORMED = {"payload": {"n": 5, "s": "x", "none": None, "o": {"a": [1, True]}}}


@pytest.mark.parametrize(
    ("source", "rendered"),
    [
        ({"$text": "{{ event.payload.n }}"}, "5"),
        ({"$text": "{{ event.payload.none }}"}, "None"),
        ({"$text": "{{ event.payload.o }}"}, "{'a': [1, True]}"),
        ({"$text": "n={{ event.payload.n }}"}, "n=5"),
        ({"$text": "{# nothing #}"}, ""),
        ({"$text": "plain"}, "plain"),
        ({"$json": "{{ event.payload.n }}"}, 5),
        ({"$json": "[{{ event.payload.n }}, 2]"}, [5, 2]),
        ({"$json": '{"s": "{{ event.payload.s }}"}'}, {"s": "x"}),
        ({"$json": "{{ event.payload.o | tojson }}"}, {"a": [1, True]}),
        ({"$json": "18446744073709551617"}, 2**64 + 1),
        ({"$json": '"plain"'}, "plain"),
        ([{"$text": "{{ event.payload.n }}"}, {"a": {"$json": "null"}}], ["5", {"a": None}]),
        ({"text": "$text", "a": "$json"}, {"text": "$text", "a": "$json"}),
    ],
)
def test_a_template_may_say_what_its_text_becomes(source: Any, rendered: Any) -> None:
    parameters = compile_parameters({"p": source})
    assert parameters.render({"event": FORMED}) == {"p": rendered}
    assert type(parameters.render({"event": FORMED})["p"]) is type(rendered)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ({"$text": "x", "more": 1}, "alone"),
        ({"$text": "x", "$json": "1"}, "alone"),
        ({"$json": 1}, "a text"),
        ({"$text": None}, "a text"),
        ({"$json": "{"}, "no JSON"),
        ({"$json": "NaN"}, "no JSON"),
        ({"$json": ""}, "no JSON"),
        ({"$json": "[" * 100_000}, "larger|no JSON"),
        ({"$json": '"\\u0000"'}, "U\\+0000"),
        ({"$text": "{{ evnt }}"}, "evnt"),
        ({"$json": "{{ evnt }}"}, "evnt"),
        ({"$text": "{{ " + "a" * 5_000}, "longer"),
    ],
)
def test_a_form_that_is_wrong_is_refused(source: Any, says: str) -> None:
    with pytest.raises(Invalid, match=says):
        compile_parameters({"p": [source]})


def test_a_parameter_may_be_called_like_a_form() -> None:
    assert compile_parameters({"$text": "{{ 1 }}"}).render({}) == {"$text": 1}


@pytest.mark.parametrize(
    "written", ["x", "", "[1,", "NaN", '"\\u0000"', "[" * 3_000, "1" + "0" * 2_000]
)
def test_text_that_is_no_json_fails_the_run_that_it_is_for(written: str) -> None:
    parameters = compile_parameters({"p": {"$json": "{{ event.payload }}"}})
    with pytest.raises(RenderFailed) as caught:
        parameters.render({"event": {"payload": written}})
    assert [problem.loc for problem in caught.value.problems] == [("p",)]


def test_a_form_without_a_template_is_a_constant_and_one_with_it_is_not() -> None:
    source = {
        "a": {"$json": "[1]"},
        "b": {"$text": "x"},
        "c": {"$json": "{{ event.id }}"},
        "d": {"$text": "{{ event.id }}"},
        "e": [{"$json": "{}"}, "y"],
    }
    assert compile_parameters(source).constants == {"a": [1], "b": "x", "e": [{}, "y"]}


def test_a_form_tells_what_it_reaches_and_what_it_costs() -> None:
    loop = "{% for e in events %}{{ e.id }}{% endfor %}"
    parameters = compile_parameters({"p": {"$json": loop}, "q": {"$text": "{{ after.id }}"}})
    assert parameters.names == {"events", "after"}
    assert parameters.heavy
    items = [{"id": number} for number in (1, 2)]
    rendered = compile_parameters({"p": {"$json": loop}}).render({"events": items})
    assert rendered == {"p": 12}


def test_the_automation_has_an_id_and_a_name() -> None:
    context = {"automation": {"id": "1", "name": "Alle"}}
    parameters = compile_parameters({"p": "{{ automation.id }} {{ automation.name }}"})
    assert parameters.render(context) == {"p": "1 Alle"}
    with pytest.raises(Invalid, match="version"):
        compile_parameters({"p": "{{ automation.version }}"})


_LEAVES = st.none() | st.booleans() | st.integers() | st.text('{%#}$\\"a\n', max_size=8)
_NAMES = st.sampled_from(["$text", "$json", "a", "{{ a }}"])
_VALUES = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=3)
)


@given(_VALUES)
def test_a_literal_renders_to_itself_whatever_it_looks_like(value: Any) -> None:
    parameters = compile_parameters({"p": as_literal(value)})
    assert parameters.render({}) == parameters.constants == {"p": value}
