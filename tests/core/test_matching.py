"""Labels of the event's own resource, and of related ones."""

from typing import Any

import pytest

from tests.core.build import event, selection
from upshot.core.events import RESOURCE_ID, RESOURCE_ROLE


def related(role: str, **labels: str) -> dict[str, str]:
    return {RESOURCE_ID: "r", RESOURCE_ROLE: role, **labels}


@pytest.mark.parametrize(
    ("match", "matches"),
    [
        ({}, True),
        ({"prefect.resource.id": "123"}, True),
        ({"id": "123"}, True),
        ({"id": "12*"}, True),
        ({"id": ["9", "1*"]}, True),
        ({"id": "456"}, False),
        ({"country": "DE"}, True),
        ({"country": "!DE"}, False),
        ({"country": ["!FR"]}, True),
        ({"region": "*"}, False),
        ({"region": "!north"}, False),
        ({"id": "123", "country": "FR"}, False),
        ({"country": []}, False),
    ],
)
def test_every_label_asked_for_must_be_present_and_match(
    match: dict[str, Any], matches: bool
) -> None:
    order = event(resource_id="123", labels={"country": "DE"})
    assert selection(match=match).concerns(order) is matches


def test_match_looks_at_the_events_own_resource_only() -> None:
    order = event(related=[related("shop", country="DE")])
    assert not selection(match={"country": "DE"}).concerns(order)


@pytest.mark.parametrize(
    ("asked", "matches"),
    [
        ({}, True),
        ([], True),
        ({"role": "shop"}, True),
        ({"role": "shop", "country": "DE"}, True),
        ({"role": "shop", "country": "FR"}, False),
        ({"role": "carrier", "country": "DE"}, False),
        ([{"role": "shop"}, {"role": "carrier"}], True),
        ([{"role": "shop"}, {"country": "DE"}], True),
        ([{"role": "shop"}, {"role": "bank"}], False),
        ({"country": "!FR"}, False),
        ({"country": "!IT"}, True),
        ({"region": "!north"}, True),
        ({"role": "shop", "country": "!FR"}, True),
        ({"role": "shop", "country": "!DE"}, False),
        ({"role": []}, False),
    ],
)
def test_related_resources_hold_object_by_object(asked: Any, matches: bool) -> None:
    order = event(related=[related("shop", country="DE"), related("carrier", country="FR")])
    assert selection(match_related=asked).concerns(order) is matches


def test_an_object_of_negatives_holds_where_there_is_no_related_resource() -> None:
    assert selection(match_related={"role": "!shop"}).concerns(event())
    assert not selection(match_related={"role": "shop"}).concerns(event())
