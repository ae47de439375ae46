"""Whether an event is one that a filter asks for, part by part and together."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from upshot.core.events import Event
from upshot.prefect.event_filters import FilterSent, Wanted, wanted_of

AT = datetime(2026, 1, 31, 12, tzinfo=UTC)
ID = UUID("01890000-0000-7000-8000-000000000001")
OTHER_ID = UUID("01890000-0000-7000-8000-000000000002")


def event(**more: Any) -> Event:
    fields: dict[str, Any] = {
        "id": ID,
        "name": "order.created",
        "resource": {
            "prefect.resource.id": "order.7",
            "prefect.resource.name": "Seven",
            "color": "red",
        },
        "related": (
            {"prefect.resource.id": "user.1", "prefect.resource.role": "user", "tier": "gold"},
            {"prefect.resource.id": "shop.2", "prefect.resource.role": "shop", "tier": "free"},
        ),
        "payload": '{"total": 99.5, "note": "Gr\\u00fc\\u00dfe, said \\"she\\""}',
        "occurred_at": AT,
        "received_at": AT + timedelta(seconds=1),
    }
    return Event(**{**fields, **more})


def wanted(**filters: Any) -> Wanted:
    return wanted_of(FilterSent.model_validate(filters))


HOLD: list[dict[str, Any]] = [
    {},
    {"occurred": {}},
    {"occurred": {"since": "2026-01-31T12:00:00Z", "until": "2026-01-31T12:00:00Z"}},
    {"occurred": {"since": "2026-01-31T13:00:00+01:00"}},
    {"event": {}},
    {"event": {"prefix": [], "exclude_prefix": [], "name": [], "exclude_name": []}},
    {"event": {"prefix": ["shop.", "order."]}},
    {"event": {"name": ["order.created"]}},
    {"event": {"name": ["order.created"], "prefix": ["order."]}},
    {"event": {"exclude_prefix": ["order.d"], "exclude_name": ["order"]}},
    {"resource": {}},
    {"resource": {"id": ["order.8", "order.7"]}},
    {"resource": {"id_prefix": ["user.", "order."]}},
    {"resource": {"labels": {}}},
    {"resource": {"labels": {"color": "red"}}},
    {"resource": {"labels": {"color": ["blue", "r*"]}}},
    {"resource": {"labels": {"color": "!blue"}}},
    {"resource": {"labels": {"color": "!b*"}}},
    {"resource": {"labels": {"color": ["!red", "red"]}}},
    {"resource": {"labels": {"prefect.resource.id": "order.*", "name": "Seven"}}},
    {"resource": {"id": ["order.7"], "distinct": True}},
    {"related": []},
    {"related": {}},
    {"related": {"id": ["user.1"]}},
    {"related": {"role": ["user", "guest"]}},
    {"related": {"resources_in_roles": [["user.9", "user"], ["shop.2", "shop"]]}},
    {"related": {"labels": {"tier": "free", "role": "shop"}}},
    {"related": {"id": ["user.1"], "role": ["user"], "labels": {"tier": "gold"}}},
    {"related": [{"id": ["user.1"]}, {"role": ["shop"]}, {}]},
    {"any_resource": {"id": ["order.7"]}},
    {"any_resource": {"id": ["shop.2"]}},
    {"any_resource": {"id_prefix": ["user."], "labels": {"tier": "g*"}}},
    {"any_resource": [{"id": ["order.7"]}, {"id_prefix": ["shop"]}]},
    {"id": {"id": [str(OTHER_ID), str(ID)]}},
    {"id": {"id": []}},
    {"text": {"query": "created"}},
    {"text": {"query": "CREATED nowhere"}},
    {"text": {"query": "+99.5 +seven"}},
    {"text": {"query": "-nowhere !neither"}},
    {"text": {"query": '"grüße, said"'}},
    {"text": {"query": r'"said \\\"she\\\""'}},
    {"text": {"query": "gold"}},
    {"text": {"query": "  "}},
    {"text": {"query": "- +"}},
    {"order": "ASC"},
    {"of_a_later_version": {"id": 7}, "event": {"suffix": ["x"]}},
]

FAIL: list[dict[str, Any]] = [
    {"occurred": {"since": "2026-01-31T12:00:00.000001Z"}},
    {"occurred": {"until": "2026-01-31T11:59:59Z"}},
    {"event": {"prefix": ["orders", "Order."]}},
    {"event": {"name": ["order."]}},
    {"event": {"name": ["order.created"], "prefix": ["shop."]}},
    {"event": {"exclude_prefix": ["order."]}},
    {"event": {"exclude_name": ["order.created"]}},
    {"event": {"prefix": ["order."], "exclude_name": ["order.created"]}},
    {"resource": {"id": ["user.1"]}},
    {"resource": {"id_prefix": ["user."]}},
    {"resource": {"id": ["order.7"], "id_prefix": ["user."]}},
    {"resource": {"labels": {"color": "blue"}}},
    {"resource": {"labels": {"color": []}}},
    {"resource": {"labels": {"color": "!red"}}},
    {"resource": {"labels": {"color": "!r*"}}},
    {"resource": {"labels": {"size": "!large"}}},
    {"resource": {"labels": {"color": "red", "tier": "gold"}}},
    {"related": {"id": ["order.7"]}},
    {"related": {"role": ["guest"]}},
    {"related": {"resources_in_roles": [["user.1", "shop"]]}},
    {"related": {"id": ["user.1"], "role": ["shop"]}},
    {"related": {"labels": {"tier": "free", "role": "user"}}},
    {"related": {"labels": {"color": "red"}}},
    {"related": [{"id": ["user.1"]}, {"id": ["user.2"]}]},
    {"any_resource": {"id": ["order.8"]}},
    {"any_resource": {"id": ["order.7"], "labels": {"tier": "gold"}}},
    {"any_resource": [{"id": ["order.7"]}, {"id": ["order.8"]}]},
    {"id": {"id": [str(OTHER_ID)]}},
    {"text": {"query": "nowhere"}},
    {"text": {"query": "created +nowhere"}},
    {"text": {"query": "created -seven"}},
    {"text": {"query": '!"order.created"'}},
    {"text": {"query": "total +tier"}},
]


@pytest.mark.parametrize("filters", HOLD, ids=str)
def test_an_event_is_included(filters: dict[str, Any]) -> None:
    assert wanted(**filters).includes(event())


@pytest.mark.parametrize("filters", FAIL, ids=str)
def test_an_event_is_left_out(filters: dict[str, Any]) -> None:
    assert not wanted(**filters).includes(event())


@given(st.lists(st.sampled_from([*HOLD, *FAIL]), max_size=4))
def test_the_parts_of_a_filter_all_have_to_hold(parts: list[dict[str, Any]]) -> None:
    together: dict[str, Any] = {}
    for part in parts:
        together |= part
    each = [wanted(**{name: value}).includes(event()) for name, value in together.items()]
    assert wanted(**together).includes(event()) is all(each)


def test_upshot_s_own_events_are_included_where_they_are_named() -> None:
    own = event(name="upshot.run.failed")
    assert not wanted().includes(own)
    assert not wanted(event={"prefix": ["", "up"]}).includes(own)
    assert not wanted(event={"exclude_name": ["x"]}).includes(own)
    assert wanted(event={"prefix": ["upshot."]}).includes(own)
    assert wanted(event={"name": ["upshot.run.failed"]}).includes(own)
    assert not wanted(event={"name": ["upshot.run.completed"]}).includes(own)


def test_an_event_without_related_resources_has_none_that_is_asked_for() -> None:
    assert not wanted(related={"role": ["user"]}).includes(event(related=()))
    assert wanted(any_resource={"id": ["order.7"]}).includes(event(related=()))


def test_numbers_of_any_size_can_be_looked_for() -> None:
    big = event(payload='{"n": 18446744073709551617, "text": "\\n"}')
    assert wanted(text={"query": "18446744073709551617"}).includes(big)


@pytest.mark.parametrize(
    "filters",
    [
        {"occurred": {"since": "soon"}},
        {"occurred": {"until": "9999-12-31T23:59:59Z"}},
        {"occurred": {"since": []}},
        {"event": {"name": "order.created"}},
        {"event": {"name": ["\0"]}},
        {"resource": {"id": ["\ud800"]}},
        {"resource": {"id": ["x"] * 501}},
        {"resource": {"labels": {"color": 7}}},
        {"related": [{}] * 21},
        {"related": {"resources_in_roles": [["user.1"]]}},
        {"id": {"id": ["7"]}},
        {"text": {"query": "x" * 201}},
        {"order": "sideways"},
    ],
    ids=lambda filters: str(filters)[:60],
)
def test_what_is_no_filter_is_refused(filters: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        wanted(**filters)
