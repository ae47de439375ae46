"""Runs as events: what the log says when one has ended, and how long a chain of them has become."""

from collections.abc import Iterable
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

import msgspec
from msgspec import Struct

from upshot.core.events import RESOURCE_ID, RESOURCE_NAME, RESOURCE_ROLE, Event, Labels
from upshot.core.intake import NewEvent
from upshot.core.limits import CHAIN_DEPTH_MAX

RUN_EVENT_PREFIX: Final = "upshot.run."
RUN_COMPLETED: Final = "upshot.run.completed"
RUN_FAILED: Final = "upshot.run.failed"

LOOP: Final = (
    f"loop: {CHAIN_DEPTH_MAX} runs before this one were each caused by the one before; "
    "this one is not called"
)


class EndedRun(Struct, frozen=True, kw_only=True, gc=False):
    """A run that has completed or failed. `labels` and `result` are JSON texts.

    A Struct and not a dataclass: one is made for every run.
    """

    id: UUID
    deployment: str
    trigger_id: UUID | None
    trigger: str | None
    labels: str
    event_id: UUID | None
    event_resource_id: str | None
    """Of the event that caused it."""
    depth: int
    state: Literal["completed", "failed"]
    error: str | None
    result: str | None
    attempts: int
    finished_at: datetime


class _Deep(Struct, frozen=True):
    depth: int = 0


class _Caused(Struct, frozen=True):
    resource: dict[str, str]


_depth_decoder = msgspec.json.Decoder(_Deep)
_cause_decoder = msgspec.json.Decoder(_Caused)


def ended_event(run: EndedRun, *, event_id: UUID) -> NewEvent:
    """What is appended to the log when the run has ended."""
    labels = _json({RESOURCE_NAME: run.deployment})
    related = _json(_related(run))
    payload = _json(
        {
            "run_id": run.id,
            "deployment": run.deployment,
            "trigger": run.trigger,
            "state": run.state,
            "error": run.error,
            "attempts": run.attempts,
            "result": None if run.result is None else msgspec.Raw(run.result.encode()),
            "labels": msgspec.Raw(run.labels.encode()),
            "depth": run.depth,
        }
    )
    return NewEvent(
        id=event_id,
        id_given=False,
        digest=None,
        name=RUN_COMPLETED if run.state == "completed" else RUN_FAILED,
        resource_id=f"upshot.run.{run.id}",
        labels_json=labels.decode(),
        related_json=related.decode(),
        payload_json=payload.decode(),
        occurred=run.finished_at,
        follows=None,
        size=len(labels) + len(related) + len(payload),
    )


def resource_id_of(event_json: str) -> str:
    """The id of the resource of an event, from the JSON that a run keeps of it."""
    return _cause_decoder.decode(event_json).resource[RESOURCE_ID]


def depth_after(events: Iterable[Event | None]) -> int:
    """How many runs in a row led to a firing by these events, one causing the next."""
    return max(
        (
            _depth_decoder.decode(event.payload).depth + 1
            for event in events
            if event is not None and event.name.startswith(RUN_EVENT_PREFIX)
        ),
        default=0,
    )


def _related(run: EndedRun) -> list[Labels]:
    related: list[Labels] = [
        {
            RESOURCE_ID: f"upshot.deployment.{run.deployment}",
            RESOURCE_ROLE: "deployment",
            RESOURCE_NAME: run.deployment,
        }
    ]
    if run.trigger_id is not None and run.trigger is not None:
        related.append(
            {
                RESOURCE_ID: f"upshot.trigger.{run.trigger_id}",
                RESOURCE_ROLE: "trigger",
                RESOURCE_NAME: run.trigger,
            }
        )
    if run.event_id is not None:
        related.append({RESOURCE_ID: f"upshot.event.{run.event_id}", RESOURCE_ROLE: "event"})
    if run.event_resource_id is not None:
        related.append({RESOURCE_ID: run.event_resource_id, RESOURCE_ROLE: "cause"})
    return related


_json = msgspec.json.Encoder().encode
