"""What is told of a run that has ended, and how deep in a chain a firing is."""

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from msgspec.structs import replace

from upshot.core.events import Event, event_json
from upshot.core.lifecycle import EndedRun, depth_after, ended_event, resource_id_of

AT = datetime(2026, 1, 31, 12, tzinfo=UTC)
RUN, TRIGGER, CAUSE, TOLD = (UUID(int=number) for number in range(1, 5))
COMPLETED = EndedRun(
    id=RUN,
    deployment="ship",
    trigger_id=TRIGGER,
    trigger="paid",
    labels='{"prefect.resource.id":"123"}',
    event_id=CAUSE,
    event_resource_id="123",
    depth=2,
    state="completed",
    error=None,
    result='{"parcel":18446744073709551617}',
    attempts=3,
    finished_at=AT,
)


def event(name: str, payload: dict[str, Any], *, resource: str = "123") -> Event:
    return Event(
        id=CAUSE,
        name=name,
        resource={"prefect.resource.id": resource},
        related=(),
        payload=json.dumps(payload),
        occurred_at=AT,
        received_at=AT,
    )


def test_a_completed_run_is_an_event_with_all_that_a_chain_needs() -> None:
    told = ended_event(COMPLETED, event_id=TOLD)
    assert (told.id, told.name, told.occurred) == (TOLD, "upshot.run.completed", AT)
    assert told.resource_id == f"upshot.run.{RUN}"
    assert json.loads(told.labels_json or "") == {"prefect.resource.name": "ship"}
    assert json.loads(told.related_json or "") == [
        {
            "prefect.resource.id": "upshot.deployment.ship",
            "prefect.resource.role": "deployment",
            "prefect.resource.name": "ship",
        },
        {
            "prefect.resource.id": f"upshot.trigger.{TRIGGER}",
            "prefect.resource.role": "trigger",
            "prefect.resource.name": "paid",
        },
        {"prefect.resource.id": f"upshot.event.{CAUSE}", "prefect.resource.role": "event"},
        {"prefect.resource.id": "123", "prefect.resource.role": "cause"},
    ]
    assert json.loads(told.payload_json or "") == {
        "run_id": str(RUN),
        "deployment": "ship",
        "trigger": "paid",
        "state": "completed",
        "error": None,
        "attempts": 3,
        "result": {"parcel": 2**64 + 1},
        "labels": {"prefect.resource.id": "123"},
        "depth": 2,
    }


def test_a_failed_run_that_somebody_asked_for_names_neither_trigger_nor_cause() -> None:
    asked_for = replace(
        COMPLETED,
        trigger_id=None,
        trigger=None,
        labels="{}",
        event_id=None,
        event_resource_id=None,
        depth=0,
        state="failed",
        error="HTTP 404",
        result=None,
    )
    told = ended_event(asked_for, event_id=TOLD)
    assert told.name == "upshot.run.failed"
    (deployment,) = json.loads(told.related_json or "")
    assert deployment["prefect.resource.role"] == "deployment"
    payload = json.loads(told.payload_json or "")
    assert (payload["trigger"], payload["error"], payload["result"]) == (None, "HTTP 404", None)


def test_the_resource_of_the_cause_is_found_in_the_runs_copy_of_it() -> None:
    assert resource_id_of(event_json(event("a", {"resource": {}}, resource="Ä 1"))) == "Ä 1"


@pytest.mark.parametrize(
    ("events", "depth"),
    [
        ([], 0),
        ([None], 0),
        ([event("order.paid", {"depth": 7})], 0),
        ([event("upshot.trigger.saved", {"depth": 7})], 0),
        ([event("upshot.run.completed", {"depth": 0})], 1),
        ([event("prefect.flow-run.Completed", {"depth": 4})], 5),
        ([event("prefect.flow-run.Completed", {})], 1),
        ([event("prefect.automation.triggered", {"depth": 4})], 7),
        ([event("prefect.automation.action.failed", {"depth": 0})], 3),
        ([event("prefect.deployment.updated", {"depth": 4})], 0),
        ([event("prefect.flow-run.Completed", {"depth": "deep"})], 1),
        ([event("prefect.flow-run.Completed", {"depth": 2.5})], 1),
        ([event("prefect.flow-run.Completed", {"depth": 10**30})], 11),
        ([event("prefect.flow-run.Completed", {"depth": -(10**9)})], 1),
        ([event("upshot.run.failed", {"depth": 4, "result": {"depth": 9}})], 5),
        (
            [
                event("upshot.run.completed", {"depth": 2}),
                None,
                event("upshot.run.failed", {"depth": 6}),
                event("order.paid", {}),
            ],
            7,
        ),
    ],
)
def test_a_firing_is_one_deeper_than_the_deepest_run_that_led_to_it(
    events: list[Event | None], depth: int
) -> None:
    assert depth_after(events) == depth


@pytest.mark.parametrize("payload", ["[1]", '"deep"', "null", '{"depth": null}'])
def test_clients_may_post_what_they_like_under_prefects_names(payload: str) -> None:
    posted = replace(event("prefect.flow-run.Completed", {}), payload=payload)
    assert depth_after([posted]) == 1
