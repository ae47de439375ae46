"""The key of an event."""

import pytest

from tests.core.build import condition, event, selection
from upshot.core.events import RESOURCE_ID, RESOURCE_ROLE
from upshot.core.keys import KeyRefused, key_hash, parse_key_part
from upshot.core.limits import KEY_VALUE_CHARS_MAX
from upshot.core.triggers import labels_of

ORDER = event(
    resource_id="123",
    labels={"country": "DE", "empty": ""},
    related=[
        {RESOURCE_ID: "amazon", RESOURCE_ROLE: "shop", "a:b": "colon"},
        {RESOURCE_ID: "second", RESOURCE_ROLE: "shop"},
    ],
    payload='{"n": 17, "f": 17.0, "s": "17", "x": 1.5, "yes": true, "no": null, "big": '
    '18446744073709551617, "deep": {"er": "v"}, "list": [1]}',
)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("prefect.resource.id", "123"),
        ("id", "123"),
        ("country", "DE"),
        ("empty", None),
        ("missing", None),
        ("related:shop:prefect.resource.id", "amazon"),
        ("related:shop:id", "amazon"),
        ("related:shop:a:b", "colon"),
        ("related:bank:id", None),
        ("payload.n", "17"),
        ("payload.f", "17"),
        ("payload.s", "17"),
        ("payload.x", "1.5"),
        ("payload.yes", "true"),
        ("payload.no", None),
        ("payload.big", "18446744073709551617"),
        ("payload.deep.er", "v"),
        ("payload.deep", None),
        ("payload.deep.er.est", None),
        ("payload.list", None),
    ],
)
def test_a_part_of_a_key_is_text_or_the_event_does_not_concern(part: str, value: str) -> None:
    assert selection(for_each=[part]).key_of(ORDER) == (None if value is None else (value,))


def test_without_for_each_there_is_one_key() -> None:
    assert selection().key_of(ORDER) == ()


def test_a_key_has_its_values_in_the_order_of_for_each() -> None:
    keyed = selection(for_each=["country", "id"])
    assert keyed.key_of(ORDER) == ("DE", "123")
    asked = condition(for_each=["country", "id"])
    assert labels_of(asked, ("DE", "123")) == {"country": "DE", "prefect.resource.id": "123"}


def test_a_value_that_is_too_long_is_refused_by_name() -> None:
    long = event(labels={"note": "x" * (KEY_VALUE_CHARS_MAX + 1)})
    with pytest.raises(KeyRefused, match="note has 1025 characters"):
        selection(for_each=["note"]).key_of(long)


@pytest.mark.parametrize("part", ["", "related:shop", "related::id", "payload.", "payload.a..b"])
def test_a_part_that_names_nothing_is_refused(part: str) -> None:
    with pytest.raises(ValueError, match=r"key|written|empty"):
        parse_key_part(part)


def test_keys_that_join_to_the_same_text_have_different_hashes() -> None:
    assert key_hash(("a", "b")) != key_hash(("a,b",)) != key_hash(("ab",))
