"""Triggers are sent as the server has them, the same at every start, and named without a name."""

import json
import subprocess
import sys
from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from upshot import CompoundTrigger, EventTrigger, Posture, SequenceTrigger
from upshot.core.language import read_trigger
from upshot.sdk.triggers import AnyTrigger

SHOP = EventTrigger(
    expect={"order.complete"},
    after={"order.created"},
    for_each={"prefect.resource.id"},
    parameters={"user_id": "{{ event.resource.id }}"},
)
EVERYTHING = EventTrigger(
    name="all",
    description="Of everything something.",
    tags={"b", "a"},
    expect={"b", "a", "!c"},
    after="opened",
    for_each=["payload.b", "payload.a"],
    match={"region": {"south", "north"}, "id": "shop-*"},
    match_related=[{"role": "customer", "tier": ["silver", "gold"]}],
    where="event.payload.total > 100",
    posture="Proactive",
    threshold=3,
    within=timedelta(minutes=10),
    lateness="PT30S",
    parameters={"n": 1},
    schedule_after=5,
    enabled=False,
)


def document(trigger: AnyTrigger) -> dict[str, Any]:
    return trigger.document(deployment="d", managed_by="managed_by:d")


def test_the_shops_trigger_is_sent_as_the_api_has_it() -> None:
    assert document(SHOP) == {
        "after": ["order.created"],
        "expect": ["order.complete"],
        "for_each": ["prefect.resource.id"],
        "parameters": {"user_id": "{{ event.resource.id }}"},
        "deployment": "d",
        "tags": ["managed_by:d"],
    }


def test_sets_are_sorted_and_a_list_of_key_parts_keeps_its_order() -> None:
    sent = document(EVERYTHING)
    assert sent["expect"] == ["!c", "a", "b"]
    assert sent["match"] == {"id": "shop-*", "region": ["north", "south"]}
    assert sent["match_related"] == [{"role": "customer", "tier": ["gold", "silver"]}]
    assert sent["tags"] == ["a", "b", "managed_by:d"]
    assert sent["for_each"] == ["payload.b", "payload.a"]
    assert (sent["within"], sent["lateness"], sent["enabled"]) == (600, "PT30S", False)


@pytest.mark.parametrize(
    "trigger",
    [
        SHOP,
        EVERYTHING,
        EventTrigger(posture=Posture.Proactive, within=60, repeat=True),
        CompoundTrigger(require="any", triggers=[SHOP_CHILD := EventTrigger(expect="a")]),
        SequenceTrigger(
            triggers=[SHOP_CHILD, CompoundTrigger(triggers=[SHOP_CHILD], require=1, within=30)],
            within="PT1H",
            for_each={"id"},
        ),
    ],
    ids=lambda trigger: type(trigger).__name__,
)
def test_what_is_sent_is_what_the_server_takes(trigger: AnyTrigger) -> None:
    taken = read_trigger(json.loads(json.dumps(document(trigger)))).model_dump(mode="json")
    sent = document(trigger)
    assert taken["deployment"] == "d"
    assert taken["type"] == sent.get("type", "event")
    assert taken.get("threshold", 1) == sent.get("threshold", 1)
    assert [child["type"] for child in taken.get("triggers", ())] == [
        child.get("type", "event") for child in sent.get("triggers", ())
    ]


def test_a_name_is_made_of_the_deployment_and_the_condition_alone() -> None:
    name = SHOP.name_for("ship")
    assert name.startswith("ship-")
    assert SHOP.model_copy(update={"parameters": {}, "description": "x"}).name_for("ship") == name
    assert SHOP.model_copy(update={"threshold": 2}).name_for("ship") != name
    assert EVERYTHING.name_for("ship") == "all"
    assert len(SHOP.name_for("d" * 128)) == 128


def test_saying_a_default_outright_changes_no_name() -> None:
    said = EventTrigger(expect={"a"}, threshold=1, posture="Reactive", match={})
    assert said.name_for("d") == EventTrigger(expect=["a"]).name_for("d")


def test_another_process_with_other_hashes_sends_the_same() -> None:
    code = (
        "import json; from tests.sdk.test_triggers import *;"
        "print(json.dumps([document(EVERYTHING), SHOP.name_for('d')]))"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert told == {json.dumps([document(EVERYTHING), SHOP.name_for("d")]) + "\n"}


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"treshold": 2}, "treshold"),
        ({"expect": {1}}, "set or list of texts"),
        ({"expect": 5}, "set or list of texts"),
        ({"match": ["id"]}, "object of labels"),
        ({"posture": "Lazy"}, "Reactive"),
        ({"threshold": 0}, "greater than or equal to 1"),
        ({"within": True}, "must be seconds"),
    ],
)
def test_what_is_wrong_is_told_where_it_is_written(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        EventTrigger(**wrong)


def test_a_trigger_inside_another_has_no_name_of_its_own() -> None:
    with pytest.raises(ValidationError, match="name belongs to the compound trigger"):
        CompoundTrigger(triggers=[EventTrigger(name="x", expect="a")])
