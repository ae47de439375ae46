"""Runs as events: what the log says when one has ended, and how long a chain of them has become."""

from collections.abc import Iterable
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

import msgspec
from msgspec import Struct

from upshot.core.events import (
    ANNOUNCED_PREFIX,
    RESOURCE_ID,
    RESOURCE_NAME,
    RESOURCE_ROLE,
    Event,
    Labels,
)
from upshot.core.intake import NewEvent
from upshot.core.limits import CHAIN_DEPTH_MAX

RUN_EVENT_PREFIX: Final = "upshot.run."
RUN_COMPLETED: Final = "upshot.run.completed"
RUN_FAILED: Final = "upshot.run.failed"

FLOW_RUN_EVENT_PREFIX: Final = "prefect.flow-run."
ANNOUNCED_STEPS: Final = 3
_DEEP_PREFIXES: Final = (RUN_EVENT_PREFIX, ANNOUNCED_PREFIX, FLOW_RUN_EVENT_PREFIX)

LOOP: Final = (
    f"loop: {CHAIN_DEPTH_MAX} runs before this one were each caused by the one before; "
    "this one is not called"
)


class EndedRun(Struct, frozen=True, kw_only=True, gc=False):
    """A run that has ended. `labels`, `result` and `action` are JSON texts.

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
    state: Literal["completed", "failed", "cancelled"]
    error: str | None
    result: str | None
    attempts: int
    finished_at: datetime
    action: str | None = None
    """What made it, where that is announced when it ends (`announcing.to_be_announced`)."""


class _Deep(Struct, frozen=True):
    depth: int = 0


class _Caused(Struct, frozen=True):
    resource: dict[str, str]


_depth_decoder = msgspec.json.Decoder(_Deep)
_cause_decoder = msgspec.json.Decoder(_Caused)


def ended_event(run: EndedRun, *, event_id: UUID) -> NewEvent:
    """What is appended to the log when the run has completed or failed."""
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
    """How many runs in a row led to a firing by these events, one causing the next.

    A firing that is announced tells of itself three times at least, so that each link of a chain by
    way of announcements counts for three.
    """
    deepest = 0
    for event in events:
        if event is not None and event.name.startswith(_DEEP_PREFIXES):
            deepest = max(deepest, _depth_after(event))
    return deepest


def _depth_after(event: Event) -> int:
    try:
        depth = _depth_decoder.decode(event.payload).depth
    except ValueError:
        # Of Prefect's names, clients may post any; they may say what they like.
        depth = 0
    step = ANNOUNCED_STEPS if event.name.startswith(ANNOUNCED_PREFIX) else 1
    return min(max(depth, 0), CHAIN_DEPTH_MAX) + step


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
