"""`where`: which conditions are refused, what they mean, and that none can harm or last."""

import json
import threading
import time
from dataclasses import replace
from typing import Any
from uuid import UUID

import cel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace as with_fields

from tests.core.build import event
from upshot.core.events import RESOURCE_ID, RESOURCE_NAME, RESOURCE_ROLE, Event
from upshot.core.limits import WHERE_ADDITIONS_MAX, WHERE_CHARS_MAX, WHERE_NESTING_MAX
from upshot.core.where import Verdict, Where, compile_where

ORDER = with_fields(
    event(
        "order.complete",
        resource_id="123",
        number=7,
        labels={RESOURCE_NAME: "Order 123", "shop.country": "DE"},
        related=[
            {RESOURCE_ID: "amazon", RESOURCE_ROLE: "shop", "tier": "gold"},
            {RESOURCE_ID: "ann", RESOURCE_ROLE: "customer"},
        ],
        payload='{"total": 150, "exact": 150.5, "country": "DE", "paid": true, "coupon": null, '
        '"big": 18446744073709551617, "items": [{"sku": "a", '
        '"price": 10}, {"sku": "b", "price": 20.5}], "tags": ["new", "gift"], "a b": 1, '
        '"customer": {"name": "Ann", "age": 17}, "size": 3, "size_of": "tags"}',
        received_after=5,
    ),
    follows=UUID(int=6),
)


def holds(text: str, order: Event = ORDER) -> bool:
    """What both ways to ask agree on."""
    where = compile_where(text)
    verdict = where.verdict(order)
    assert verdict.holds == where.holds(order)
    assert verdict.holds is False or verdict.error is None
    return verdict.holds


def carrying(payload: Any) -> Event:
    return event(payload=json.dumps(payload))


@pytest.mark.parametrize(
    "text",
    [
        'event.name == "order.complete"',
        'event.event == event.name && event.name.startsWith("order.")',
        'event.id == "00000000-0000-0000-0000-000000000007"',
        'event.follows == "00000000-0000-0000-0000-000000000006"',
        'event.resource.id == "123"',
        'event.resource["prefect.resource.id"] == "123"',
        'event.resource.name == "Order 123" && has(event.resource.name)',
        'event.resource["shop.country"] == "DE"',
        '"shop.country" in event.resource && "name" in event.resource',
        "!has(event.resource.role)",
        'event.related[0].role == "shop" && event.related[1]["id"] == "ann"',
        'event.related.exists(r, r.role == "shop" && r.id == "amazon" && r.tier == "gold")',
        "event.related.size() == 2 && size(event.related[0]) == 5",
        'event.payload.total > 100 && event.payload.country in ["DE", "FR"]',
        'event.payload["a b"] == 1',
        "event.payload.customer.age < 18 && size(event.payload.customer) == 2",
        "event.payload.size == 3 && event.payload.size() == 12",
        "event.payload[event.payload.size_of].size() == 2",
        "event.payload.items[0].price + event.payload.total == 160",
        "event.payload.items.all(item, item.price >= 10)",
        "event.payload.items.exists_one(item, double(item.price) > 20.0)",
        "event.payload.items.filter(i, i.price > 15).size() == 1",
        'event.payload.items.map(i, i.sku) == ["a", "b"]',
        'event.payload.items.map(i, i.price > 15, i.sku) == ["b"]',
        'event.payload.tags.exists(t, t == "gift") && event.payload.tags.all(t, t != "")',
        '["order.", "parcel."].exists(p, event.name.startsWith(p))',
        '"gift" in event.payload.tags && !("old" in event.payload.tags)',
        'event.payload.country.endsWith("E") && event.payload.country.contains("D")',
        "event.payload.coupon == null && has(event.payload.coupon)",
        "has(event.payload.customer.name) && !has(event.payload.customer.phone)",
        "event.payload.paid",
        "event.payload.paid ? event.payload.total > 100 : false",
        'event.occurred == timestamp("2026-05-04T12:00:00Z")',
        'event.occurred >= timestamp("2026-05-04T14:00:00+02:00")',
        'event.received - event.occurred == duration("5s")',
        "event.occurred.getHours() == 12 && event.occurred.getDayOfWeek() == 1",
        "event.payload.total > 100 // is dear\n&& event.payload.paid",
        "true || event.payload.none.of.this == 1",
        "event.payload.none == 1 || event.payload.total == 150",
        "event.payload['country'] == 'DE'",
        '"event.payload.none" != "has(event.none)"',
        '"a\\"b" != "\\u0041"',
    ],
)
def test_it_holds(text: str) -> None:
    assert holds(text)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("event.payload.none == 1", "event.payload.none is missing."),
        ("event.payload.none.deeper > 1 && event.payload.paid", "event.payload.none.deeper is"),
        ('event.payload["no such"] == 1', 'event.payload["no such"] is missing'),
        ("event.payload.tags[2] == 'x'", "event.payload.tags[2] is missing"),
        ("event.payload.total.cents == 1", "event.payload.total.cents is missing"),
        ("event.resource.role == 'x'", 'event.resource["prefect.resource.role"] is missing'),
        ("event.related[2].id == 'x'", 'event.related[2]["prefect.resource.id"] is missing'),
        ("has(event.payload.none.deeper)", "has(event.payload.none.deeper) is no question"),
        ("event.payload.items.all(i, i.none == 1)", "There is no 'none'."),
        ("event.payload.country > 1", "An operation does not fit its values"),
        ("event.payload.total", "gives int, which is neither true nor false"),
        ("event.payload", "gives map, which is neither"),
        ("event.payload.total + 1.5 > 1.0", "double(x) + 1.5"),
        ("event.payload.total / 0 == 1", "division by zero"),
        ("int(event.payload.country) == 1", "invalid digit"),
        ("timestamp(event.payload.country) == event.occurred", "premature end"),
    ],
)
def test_what_cannot_be_told_is_a_no_with_the_reason(text: str, error: str) -> None:
    verdict = compile_where(text).verdict(ORDER)
    assert not verdict.holds
    assert error in (verdict.error or "")
    assert not holds(text)


def test_a_plain_no_has_no_error() -> None:
    assert compile_where("event.payload.total > 1000").verdict(ORDER) == Verdict(holds=False)


@pytest.mark.parametrize("total", [150, 150.0, 150.5, 2**53, 2**63, 2**64 + 1, 1e300])
@pytest.mark.parametrize("bound", ["100", "100.0", "100.5", "100u"])
def test_numbers_are_compared_whether_written_with_a_point_or_not(total: float, bound: str) -> None:
    order = carrying({"total": total})
    assert holds(f"event.payload.total > {bound}", order)
    assert not holds(f"event.payload.total < {bound}", order)


def test_integers_and_decimals_that_are_equal_are_equal() -> None:
    order = carrying({"whole": 150, "point": 150.0})
    assert holds("event.payload.whole == event.payload.point", order)
    assert holds("event.payload.point in [150] && event.payload.whole == 150.0", order)


def test_a_number_beyond_all_bounds_is_a_no_and_only_where_it_is_asked_for() -> None:
    order = event(payload='{"large": 1' + "0" * 400 + ', "total": 150}')
    assert holds("event.payload.total == 150 && has(event.payload.large)", order)
    for text in ("event.payload.large > 1", "event.payload.size() == 2"):
        error = compile_where(text).verdict(order).error
        assert "a whole number that is too large" in (error or "")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "cannot be read (line 1, column 1)"),
        ("event.payload.total >", "cannot be read (line 1, column 22)"),
        ("1 +* 2", "line 1, column 4"),
        ("event.payload.total >\n\n  > 1", "line 3, column 3"),
        ("(event.payload.paid", "cannot be read"),
        ("event.payload.paid)", "cannot be read"),
        ('event.name == "order', "does not end (line 1, column 15)"),
        ("event.name == 'a' & true", "cannot be read (line 1, column 19)"),
        ("event.payload.x == \0", "cannot be read"),
        ("event.payload.x = 1", "cannot be read"),
        ("event.payload.x == 99999999999999999999", "invalid int literal"),
        ("event.payload.x == \ud800", "cannot be read"),
        ("payload.total > 1", "There is no 'payload' here"),
        ("event.payload.country == DE", "There is no 'DE' here"),
        ("event.payload.items.all(i, i > 1) && i > 1", "There is no 'i' here"),
        (".event.payload.paid", "begin with a dot"),
        ("event == 1", "Name a field of the event"),
        ('event["payload"].total > 1', "Name a field of the event"),
        ("event.exists(f, f == 'id')", "Name a field of the event"),
        ("event.paylod.total > 1", "no field 'paylod' (did you mean payload?)"),
        ("event.name.length == 1", "event.name.length leads nowhere"),
        ("event.resource.shop.country == 'DE'", 'event.resource["any.label"]'),
        ("event.resource[0] == 'x'", "leads nowhere"),
        ("event.related.role == 'x'", "Related resources are a list"),
        ("event.name.matches('(a+)+$')", "matches(...) is not available"),
        ("matches(event.name, 'a')", "matches(...) is not available"),
        ("event.name.startWith('a')", "no function 'startWith' (did you mean startsWith?)"),
        ("contains(event.name, 'a')", "after a value and a dot: x.contains(...)"),
        ("event.payload.total.int() == 1", "before its value: int(x)"),
        ("event.name.lower() == 'a'", "There is no function 'lower'"),
        ("optional.of(1) == 1", "There is no 'optional' here"),
        ("event.payload.a{} == 1", "without doubt"),
        ('event.name == r"a"', 'r"a" cannot be read'),
        ('event.name == b"a"', 'b"a" cannot be read'),
        ('event.name == """a"""', '"""a" cannot be read'),
        ("event.payload.`a b` == 1", "cannot be read"),
        ("event.payload.items.all(i)", "needs a name for each item"),
        ("event.payload.items.all(event, true)", "'event' cannot be the name of an item"),
        ("event.payload.items.all(_0, true)", "'_0' cannot be the name of an item"),
        ("event.received > timestamp('yesterday')", "timestamp('yesterday') can never be told"),
        ("event.received - event.occurred > duration('1 day')", "can never be told"),
        ("1 + 1", "can never be told"),
        ("true && 1 / 0 == 1", "division by zero"),
    ],
)
def test_what_can_never_hold_or_is_not_allowed_is_refused_when_it_is_saved(
    text: str, says: str
) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        compile_where(text)
    assert says in str(refused.value)
    assert len(str(refused.value)) < 700


@pytest.mark.parametrize("outer", ["all", "exists", "exists_one", "existsOne", "map", "filter"])
@pytest.mark.parametrize("inner", ["all", "exists", "exists_one", "existsOne", "map", "filter"])
def test_loops_in_each_other_are_refused(outer: str, inner: str) -> None:
    a, b = "event.payload.a", "event.payload.b"
    for text in (
        f"{a}.{outer}(x, {b}.{inner}(y, x == y))",
        f"{a}.{outer}(x, x.{inner}(y, true))",
        f"{a} . {outer}\n(x, [1] /* */ == [] )".replace("/* */", f"+ {b}.{inner} (y, y)"),
        f"{a}.{inner}(y, y).{outer}(x, x)",
        f"({a}.{inner}(y, y)).{outer}(x, x)",
        f"[{a}.{inner}(y, y)].{outer}(x, x)",
        f"{a}[{b}.{inner}(y, y)].{outer}(x, x)",
    ):
        with pytest.raises(ValueError, match=r"could take too long|goes over a field"):
            compile_where(text)


def test_loops_beside_each_other_and_in_texts_are_no_loops_in_each_other() -> None:
    two = 'event.payload.tags.exists(t, t == ".all(x, y)") || event.payload.tags.all(t, t != "")'
    assert holds(two)


# What could grow, last or kill.


@pytest.mark.parametrize("opened", ["(", "[", "{1:", "size(", "!(", "(1+", "event.payload.a("])
def test_brackets_without_end_are_refused_before_anything_recurses(opened: str) -> None:
    for text in (opened * 10_000, opened * (WHERE_NESTING_MAX + 1)):
        with pytest.raises(ValueError, match=r"characters|open at once|adds"):
            compile_where(text)


def test_brackets_as_deep_as_they_may_be_are_read() -> None:
    deep = WHERE_NESTING_MAX
    assert holds("(" * deep + "event.payload.paid" + ")" * deep)
    assert holds("size(" + "[" * (deep - 1) + "]" * (deep - 1) + ") == 1 && event.payload.paid")


@pytest.mark.parametrize(
    "text",
    [
        "!" * 1_980 + "event.payload.paid",
        "-" * 1_900 + "event.payload.total > 0",
        "event.payload" + ".a" * 990 + " == 1",
        "event.payload[event.name]" + ".a" * 980 + " == 1",
        "event.payload[event.name]" + "[0]" * 650 + " == 1",
        "event.payload.paid" + "&&true" * 330,
        "event.payload.total" + "-1" * 980 + " > 1",
        "event.payload.total" + "==1" * 650,
        "event.payload.tags" + ".size()" * 280 + " > 1",
        "true ? true : " * 80 + "event.payload.paid",
    ],
    ids=lambda text: text[:30],
)
def test_chains_as_long_as_fit_need_no_more_than_a_small_stack(text: str) -> None:
    answers: list[Verdict] = []
    before = threading.stack_size(2 * 1024 * 1024)
    try:
        thread = threading.Thread(target=lambda: answers.append(compile_where(text).verdict(ORDER)))
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join()
    assert len(answers) == 1


def test_a_condition_that_is_too_long_is_refused() -> None:
    fits = "event.payload.paid".ljust(WHERE_CHARS_MAX)
    assert holds(fits)
    with pytest.raises(ValueError, match="2,001 characters; at most 2,000"):
        compile_where(fits + " ")


def test_additions_are_counted() -> None:
    assert holds("event.payload.total" + " + 1" * WHERE_ADDITIONS_MAX + " == 160")
    with pytest.raises(ValueError, match="adds 11 times"):
        compile_where("event.payload.total" + " + 1" * (WHERE_ADDITIONS_MAX + 1) + " == 161")


NUMBERS = carrying({"many": [0] * 120_000, "some": [0] * 900})
OBJECTS = carrying({"many": [{"a": 1, "b": "x"}] * 12_000, "some": [{"a": 1, "b": "x"}] * 500})
LONG = carrying({"text": "a" * 200_000, "many": [""] * 12_000, "some": ["", "a"]})


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ("event.payload.many.all(x, x == 0)", NUMBERS),
        ("event.payload.some.map(x, x - 1).size() == 900", NUMBERS),
        ("event.payload.some.filter(x, x == 0).size() == 900", NUMBERS),
        ("event.payload.some.all(x, x in event.payload.some)", NUMBERS),
        ("!(1 in event.payload.many) && event.payload.many == event.payload.many", NUMBERS),
        ('event.payload.many.all(x, x.a == 1 && x.b == "x" && x.a < 7 && x.b != "")', OBJECTS),
        ("event.payload.some.filter(x, x.a == 1).size() == 500", OBJECTS),
        ("event.payload.some.all(x, event.payload.text.contains(x))", LONG),
        ('event.payload.text.contains("a")', LONG),
    ],
)
def test_one_loop_over_a_large_payload_is_answered(text: str, order: Event) -> None:
    assert holds(text, order)


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ("event.payload.many.map(x, x).size() > 0", NUMBERS),
        ("event.payload.many.filter(x, true).size() > 0", NUMBERS),
        ("event.payload.many.all(x, x in event.payload.many)", NUMBERS),
        ("event.payload.many.all(x, [event.payload.many] != [])", NUMBERS),
        ("event.payload.many.map(x, event.payload.many) == []", NUMBERS),
        ("[" + "event.payload.many," * 100 + "1] == []", NUMBERS),
        (" && ".join(["event.payload.many.all(x, x == 0)"] * 50), NUMBERS),
        ("event.payload.many.all(x, " + " && ".join(["x == 0"] * 190) + ")", NUMBERS),
        ("event.payload.many.map(x, x).size() > 0", OBJECTS),
        ("event.payload.many.all(x, !event.payload.text.contains(x))", LONG),
        ("event.payload.many.map(x, x + event.payload.text).size() > 0", LONG),
    ],
    ids=lambda value: value[:60] if isinstance(value, str) else "",
)
def test_what_would_take_too_long_is_not_begun(text: str, order: Event) -> None:
    where = compile_where(text)
    began = time.process_time()
    verdict = where.verdict(order)
    assert time.process_time() - began < 0.5
    assert verdict.error is not None
    assert "This takes about" in verdict.error


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ("event.payload.many.all(x, " + " && ".join(["x == 0"] * 1) + ")", NUMBERS),
        ("[event.payload.many].size() == 1 && " * 6 + "true", NUMBERS),
        (" + ".join(["event.payload.many"] * 8) + " == []", NUMBERS),
        (" + ".join(["event.payload.text"] * 11) + " == ''", LONG),
        ('["a"].map(x, x' + " + event.payload.text" * 10 + ") == []", LONG),
        ("event.payload.many == event.payload.many && " * 3 + "true", OBJECTS),
        (" || ".join(["event.payload.text.contains('ab')"] * 50), LONG),
    ],
    ids=lambda value: value[:60] if isinstance(value, str) else "",
)
def test_the_worst_that_is_begun_ends_soon(text: str, order: Event) -> None:
    where = compile_where(text)
    began = time.process_time()
    where.holds(order)
    assert time.process_time() - began < 1


# Anything at all.

_WORDS = [
    *("event", ".payload", ".total", ".items", ".tags", ".name", "event.payload", "event.occurred"),
    *("event.payload.total", "event.payload.items", "event.payload.tags", "event.related"),
    *("event.resource", "[", "]", "(", ")", "{", "}", ",", ":", "?", "!", "-", "+", "*", "/", "%"),
    *("&&", "||", "==", "!=", "<", ">", "in", "//", '"a"', "''", '"\\u00e4"', '"\\xff"', "[0]"),
    *('["a"]', "1", "0", "1.5", "2u", "-9223372036854775808", "9223372036854775807", "0x1F"),
    *("1e308", "true", "false", "null", "x", ".x", ".all(x,", ".exists(x,", ".map(x,"),
    *(".filter(x,", ".exists_one(x,", "has(", "size(", "int(", "uint(", "double(", "string("),
    *("timestamp(", "duration(", ".size()", ".contains(", ".startsWith(", ".getHours()"),
    *('timestamp("9999-12-31T23:59:59Z")', 'timestamp("0001-01-01T00:00:00Z")'),
    *('duration("106751d")', 'duration("-9223372036s")', ".getDayOfYear()"),
]
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from([2**63, -(2**63), 2**64]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("ab "), inner, max_size=3),
    max_leaves=10,
)  # fmt: skip


def _compiled(text: str) -> Where | None:
    """None where it is refused. Anything else is a fault."""
    try:
        return compile_where(text)
    except ValueError:
        return None


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(_WORDS), max_size=14), st.fixed_dictionaries({
    "total": _JSON, "items": st.lists(_JSON, max_size=4), "tags": _JSON,
}))  # fmt: skip
def test_whatever_is_written_is_refused_or_means_what_the_library_says_of_the_whole_event(
    words: list[str], payload: dict[str, Any]
) -> None:
    where = _compiled(" ".join(words))
    if where is not None:
        order = carrying(payload)
        assert holds(where.text, order) == _plainly(where.text, order)


def _plainly(text: str, order: Event) -> bool:
    """As `where` would do it, were it not for time and memory: all of the event is converted."""
    whole = {
        "id": str(order.id),
        "event": order.name,
        "name": order.name,
        "resource": {"prefect.resource.id": "123", "id": "123"},
        "related": [],
        "payload": json.loads(order.payload),
        "occurred": order.occurred_at,
        "received": order.received_at,
        "follows": None,
    }
    try:
        return cel.compile(text).execute({"event": whole}) is True
    except Exception:
        return False


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_text_is_refused_or_answered(text: str) -> None:
    for written in (text, f"event.name == '{text}'", f"event.payload.total {text} 1"):
        where = _compiled(written)
        if where is not None:
            holds(written)


_ASKS = (
    "{a} == {b}", "{a} != {b}", "{a} < {b}", "{a} >= {b}", "{a} + {b} == {a}", "{a} - {b} == {b}",
    "{a} * {b} > {b}", "{a} / {b} > {b}", "{a} % {b} > {b}", "-{a} < {b}", "{a} in {b}",
    "{a}[{b}] == {b}", "size({a}) > 0", "int({a}) > 0", "uint({a}) > 0u", "double({a}) > 0.0",
    "string({a}) > ''", "timestamp({a}) < event.occurred", "duration({a}) < duration('1s')",
    "event.occurred + duration({a}) > event.received", "{a}.contains({b})", "{a}.all(x, x == {b})",
    "{a}.map(x, x).size() > 0", "{a}.exists(x, x < {b})", "{a} ? {a} : {b}", "{{{a}: {b}}} == {a}",
    "{a}.getHours() > 0", "(event.occurred + duration({a})).getHours() > 0",
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(a=_JSON, b=_JSON)
def test_no_value_makes_any_operation_fail_but_as_a_no(a: Any, b: Any) -> None:
    order = carrying({"a": a, "b": b})
    for ask in _ASKS:
        holds(ask.format(a="event.payload.a", b="event.payload.b"), order)


@settings(max_examples=100, deadline=None)
@given(st.from_regex(r"\A-?[0-9]{0,20}(\.[0-9]{1,12})?(h|m|s|ms|us|ns|µs|d|)\Z"))
def test_no_duration_fails_but_as_a_no(text: str) -> None:
    order = carrying({"a": text, "b": text})
    for ask in _ASKS:
        holds(ask.format(a="event.payload.a", b="event.payload.b"), order)


@settings(max_examples=200, deadline=None)
@given(_JSON, st.lists(st.sampled_from(["a", "b", " ", "ab", "0"]), min_size=1, max_size=3))
def test_a_path_leads_where_python_would_find_it(payload: Any, steps: list[str]) -> None:
    value, is_there = {"top": payload}, True
    for step in ("top", *steps):
        is_there = isinstance(value, dict) and step in value
        if not is_there:
            break
        value = value[step]
    path = "event.payload.top" + "".join(f'["{step}"]' for step in steps)
    assert holds(f"{path} == {path}", carrying({"top": payload})) == is_there


def test_two_conditions_are_the_same_when_their_texts_are() -> None:
    one = compile_where("event.payload.paid")
    other = replace(one)
    assert one == other
    assert hash(one) == hash(other)
    assert one != compile_where("event.payload.paid ")


def test_a_condition_can_be_asked_by_any_thread() -> None:
    where = compile_where("event.payload.paid")
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(where.holds(ORDER)))
    thread.start()
    thread.join()
    assert answers == [True]
