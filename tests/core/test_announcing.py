"""What is told of a firing that is announced."""

import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest

from tests.core.build import NOON, at, event, trigger
from upshot.core.announcing import (
    AUTOMATION,
    DEPLOYMENT,
    Done,
    announced,
    announced_end,
    inferred_id,
    made_by,
    place_of,
)
from upshot.core.events import Event, Labels, event_json
from upshot.core.facts import Fire, Matched
from upshot.core.intake import NewEvent
from upshot.core.lifecycle import EndedRun
from upshot.core.runs import Firing

ID, NAME, ROLE = "prefect.resource.id", "prefect.resource.name", "prefect.resource.role"
RUN = {"type": "run", "deployment": "d"}
WEBHOOK = {**RUN, "kind": "call-webhook"}
PAUSE = {"type": "pause", "trigger": None}
EVENT = event("order.complete", number=7, payload='{"total": 18446744073709551617}')
TARGET: Labels = {ID: f"prefect.deployment.{UUID(int=9)}", ROLE: "target"}


def fired(*actions: dict[str, Any], by: Event | None = EVENT, **fields: Any) -> Firing:
    seen = None if by is None else Matched(event=by, opens=False, expected=True).seen()
    announces = {"announce": True, "title": "Alle Bestellungen", "for_each": ["id"], **fields}
    made = trigger(deployment=None, actions=[*actions], **announces)
    fire = Fire(event=seen, counted=() if seen is None else (seen,), after=None, at=NOON)
    return Firing(trigger=made, key=("123",), fire=fire, at=at(60), cause=("x",))


def told(firing: Firing, *done: Done, depth: int = 0) -> list[dict[str, Any]]:
    return [as_read(one) for one in announced(firing, done, depth=depth)]


def as_read(new: NewEvent) -> dict[str, Any]:
    return {
        "id": new.id,
        "event": new.name,
        "occurred": new.occurred,
        "resource": {ID: new.resource_id, **json.loads(new.labels_json or "{}")},
        "related": json.loads(new.related_json or "[]"),
        "payload": json.loads(new.payload_json or "{}"),
    }


def test_a_firing_and_its_action_are_told_in_full() -> None:
    firing = fired(RUN)
    first, begun, executed = told(firing, Done(0, firing.trigger.actions[0], (TARGET,)), depth=2)
    automation = {
        ID: f"prefect.automation.{UUID(int=1)}",
        NAME: "Alle Bestellungen",
        "prefect.posture": "Reactive",
    }
    cause = {ID: f"prefect.event.{EVENT.id}", ROLE: "triggering-event"}
    assert first == {
        "id": firing.id_of("triggered"),
        "event": "prefect.automation.triggered",
        "occurred": at(60),
        "resource": automation,
        "related": [cause],
        "payload": {
            "triggering_labels": {ID: "123"},
            "triggering_event": json.loads(event_json(EVENT)),
            "depth": 2,
        },
    }
    assert begun == {
        "id": firing.id_of("0", "triggered"),
        "event": "prefect.automation.action.triggered",
        "occurred": at(60),
        "resource": {**automation, "prefect.trigger-type": "event"},
        "related": [
            TARGET,
            {ID: f"prefect.event.{first['id']}", ROLE: "automation-triggered-event"},
            cause,
        ],
        "payload": {
            "action_index": 0,
            "action_type": "run-deployment",
            "invocation": str(firing.id_of("0")),
            "depth": 2,
        },
    }
    assert executed == {
        **begun,
        "id": firing.id_of("0", "ended"),
        "event": "prefect.automation.action.executed",
    }


def test_the_payload_of_the_triggering_event_keeps_its_text() -> None:
    (first,) = announced(fired(RUN), [], depth=0)
    assert "18446744073709551617" in (first.payload_json or "")


def test_an_action_that_failed_says_why_and_the_others_go_on() -> None:
    firing = fired(PAUSE, {"type": "nothing"})
    pause, nothing = firing.trigger.actions
    done = [Done(0, pause, reason="There is no automation."), Done(1, nothing)]
    names = [(one["event"].removeprefix("prefect.automation."), one["payload"].get("action_index"))
             for one in told(firing, *done)]  # fmt: skip
    assert names == [
        ("triggered", None),
        ("action.triggered", 0), ("action.failed", 0),
        ("action.triggered", 1), ("action.executed", 1),
    ]  # fmt: skip
    failed = told(firing, *done)[2]
    assert failed["payload"]["reason"] == "There is no automation."
    assert failed["payload"]["action_type"] == "pause-automation"


def test_the_same_firing_is_told_of_by_the_same_events_and_no_two_share_an_id() -> None:
    def ids(version: int) -> list[UUID]:
        firing = fired(RUN, RUN, version=version)
        done = [Done(place, action) for place, action in enumerate(firing.trigger.actions)]
        runs = [firing.id_of("0"), firing.id_of("1")]
        return [*runs, *(one.id for one in announced(firing, done, depth=0))]

    assert ids(1) == ids(1)
    assert len({*ids(1), *ids(2)}) == 2 * 7


@pytest.mark.parametrize(
    ("fields", "labels"),
    [
        ({"posture": "Proactive", "within": 10}, {"prefect.posture": "Proactive"}),
        ({"type": "compound", "triggers": [{"expect": "a"}]}, {}),
        ({"type": "sequence", "triggers": [{"expect": "a"}]}, {}),
    ],
)
def test_only_event_triggers_have_a_posture(fields: dict[str, Any], labels: Labels) -> None:
    firing = fired({"type": "nothing"}, **fields)
    first, begun, _ = told(firing, Done(0, firing.trigger.actions[0]))
    posture = {name: value for name, value in first["resource"].items() if name not in (ID, NAME)}
    assert posture == labels
    assert begun["resource"]["prefect.trigger-type"] == fields.get("type", "event")


def test_silence_has_no_triggering_event() -> None:
    firing = fired({"type": "nothing"}, by=None)
    first, begun, _ = told(firing, Done(0, firing.trigger.actions[0]))
    assert (first["related"], first["payload"]["triggering_event"]) == ([], None)
    assert [one[ROLE] for one in begun["related"]] == ["automation-triggered-event"]


def ended(state: Any, error: str | None, *, action: str | None) -> EndedRun:
    return EndedRun(
        id=UUID(int=3), deployment="d", trigger_id=None, trigger=None, labels="{}", event_id=None,
        event_resource_id=None, depth=0, state=state, error=error, result=None, attempts=1,
        finished_at=at(90), action=action,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("state", "error", "name", "reason"),
    [
        ("completed", None, "executed", None),
        ("failed", "HTTP 404", "failed", "HTTP 404"),
        ("cancelled", "cancelled by request", "failed", "cancelled by request"),
        ("cancelled", None, "failed", "cancelled"),
    ],
)
def test_a_webhook_is_told_of_when_its_run_has_ended(
    state: str, error: str | None, name: str, reason: str | None
) -> None:
    firing = fired({"type": "nothing"}, WEBHOOK)
    done = Done(1, firing.trigger.actions[1], (TARGET,), made_run=True)
    *_, begun = told(firing, done, depth=1)
    assert begun["event"] == "prefect.automation.action.triggered"
    action = made_by(firing, done, depth=1)
    assert place_of(action) == 1
    end = announced_end(ended(state, error, action=action), event_id=UUID(int=4))
    assert end is not None
    expected = begun["payload"] if reason is None else {**begun["payload"], "reason": reason}
    assert as_read(end) == {
        **begun,
        "id": UUID(int=4),
        "event": f"prefect.automation.action.{name}",
        "occurred": at(90),
        "payload": expected,
    }


def test_a_webhook_that_has_no_run_has_failed_at_once() -> None:
    firing = fired(WEBHOOK)
    *_, failed = told(firing, Done(0, firing.trigger.actions[0], reason="no such deployment"))
    assert failed["event"] == "prefect.automation.action.failed"


@pytest.mark.parametrize("announce", [True, False])
def test_nothing_is_told_at_the_end_of_a_run_that_is_done_when_it_is_made(announce: bool) -> None:
    firing = fired(RUN if announce else WEBHOOK, announce=announce)
    action = made_by(firing, Done(0, firing.trigger.actions[0], made_run=True), depth=0)
    assert announced_end(ended("completed", None, action=action), event_id=UUID(int=4)) is None
    assert announced_end(ended("completed", None, action=None), event_id=UUID(int=4)) is None


ONE, TWO = str(UUID(int=21)), str(UUID(int=22))


@pytest.mark.parametrize(
    ("resource", "related", "found"),
    [
        (f"prefect.deployment.{ONE}", [f"prefect.deployment.{TWO}"], ONE),
        ("1", [f"prefect.automation.{ONE}", f"prefect.deployment.{TWO}"], TWO),
        ("1", [f"prefect.deployment.{TWO}", f"prefect.deployment.{ONE}"], TWO),
        ("prefect.deployment.x", [f"prefect.deployment.{TWO}"], TWO),
        (f"prefect.deployment.a.{ONE}", [], None),
        (f"my.prefect.deployment.{ONE}", [], None),
        (ONE, [], None),
    ],
)
def test_the_first_deployment_that_an_event_tells_of(
    resource: str, related: Sequence[str], found: str | None
) -> None:
    one = event(resource_id=resource, related=[{ID: labels} for labels in related])
    assert inferred_id(one, DEPLOYMENT) == (found and UUID(found))


def test_a_related_resource_without_an_id_tells_of_nothing() -> None:
    assert inferred_id(event(related=[{ROLE: "x"}]), AUTOMATION) is None
    assert inferred_id(None, AUTOMATION) is None
