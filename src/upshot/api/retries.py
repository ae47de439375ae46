"""Runs begun again under their ids: one, or all that a filter finds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from fastapi import Body, Response
from pydantic import BaseModel, Field
from sqlalchemy.ext.asyncio import AsyncConnection

from upshot.api.answers import json_answer
from upshot.api.paging import QueryText, Time, decode_cursor, encode_cursor, read_time_and_id
from upshot.api.problems import BODY, problems
from upshot.api.routing import new_router
from upshot.api.runs import RunShown, run_answer, unknown_run
from upshot.api.services import Using
from upshot.core.announcing import place_of
from upshot.core.errors import Conflict
from upshot.core.language import Name, Strict, read_trigger, runs_written
from upshot.core.limits import (
    CHAIN_DEPTH_MAX,
    RETRIED_AT_ONCE_MAX,
    RETRY_RENDERED_AT_ONCE_MAX,
)
from upshot.core.runs import RunState
from upshot.core.templates import event_document, merged_source
from upshot.storage import deployments, events, runs, triggers
from upshot.storage.deployments import Deployment
from upshot.storage.runs import RunFilter, StoredRun

router = new_router("runs")


class RetryAsked(Strict):
    """Which runs to begin again. What is not given asks nothing."""

    deployment: Name | None = Field(default=None, description="Of this deployment.")
    trigger: Name | None = Field(default=None, description="Of this trigger.")
    state: Literal["failed", "cancelled"] = Field(
        default="failed", description="How they have ended."
    )
    since: Time | None = Field(default=None, description="Made at or after this time.")
    until: Time | None = Field(default=None, description="Made before this time.")
    limit: int = Field(
        default=RETRIED_AT_ONCE_MAX,
        ge=1,
        le=RETRIED_AT_ONCE_MAX,
        strict=True,
        description="How many to look at in this request.",
    )
    cursor: QueryText | None = Field(
        default=None, max_length=1_024, description="The `next_cursor` of the answer before."
    )


class NotRetried(BaseModel):
    """A run that stays as it was."""

    id: UUID
    reason: str


class RetriedRuns(BaseModel):
    """What was begun again."""

    retried: int
    not_retried: list[NotRetried]
    next_cursor: str | None = Field(description="To go on with; null: there are no more.")


@dataclass(slots=True)
class _Again:
    """Which runs have begun again, and why the others have not."""

    begun: set[UUID] = field(default_factory=set)
    not_begun: dict[UUID, str] = field(default_factory=dict)


@router.post(
    "/v1/runs/retry",
    summary="Run many again",
    response_model=RetriedRuns,
    responses=problems(*BODY),
)
async def retry_runs(
    services: Using,
    asked: Annotated[
        RetryAsked,
        Body(examples=[{"deployment": "post-order-complete", "since": "2026-01-31T12:00:00Z"}]),
    ],
) -> Response:
    """Failed or cancelled runs begin again under their ids, due now, those made first first.

    One that waits for a retry, or that another request has just begun again, is left alone. Each
    request takes a bounded number; with `next_cursor` the next one goes on, and comes to no run
    twice, even if it has failed again meanwhile.
    """
    state = RunState(asked.state)
    wanted = RunFilter(
        deployment=asked.deployment,
        trigger=asked.trigger,
        state=state,
        since=asked.since,
        until=asked.until,
    )
    after = decode_cursor(asked.cursor, read_time_and_id)
    async with services.database.begin() as conn:
        found, go_on = await runs.to_retry(conn, wanted, after=after, limit=asked.limit)
        again = await _begin_again(conn, await runs.lock_ended(conn, found, state=state))
    if again.begun:
        services.wake("deliver")
    return json_answer(
        {
            "retried": len(again.begun),
            "not_retried": [
                {"id": run_id, "reason": reason} for run_id, reason in again.not_begun.items()
            ],
            "next_cursor": encode_cursor(*go_on) if go_on else None,
        }
    )


@router.post(
    "/v1/runs/{run_id}/retry",
    summary="Run it again",
    response_model=RunShown,
    responses=problems(404, 409),
)
async def retry_run(run_id: UUID, services: Using) -> Response:
    """A failed or cancelled run begins again under its id, due now; a waiting retry comes now.

    Parameters that were rendered stay. Those that could not be are rendered again, with what the
    trigger and the deployment say now.
    """
    async with services.database.begin() as conn:
        state = await runs.lock(conn, run_id)
        match state:
            case None:
                raise unknown_run(run_id)
            case RunState.FAILED | RunState.CANCELLED:
                again = await _begin_again(conn, await runs.lock_ended(conn, [run_id], state=state))
                if run_id in again.not_begun:
                    raise Conflict(f"Run {run_id} is not called: {again.not_begun[run_id]}.")
            case RunState.RETRYING:
                await runs.make_due(conn, run_id)
            case RunState.SCHEDULED | RunState.RUNNING | RunState.COMPLETED:
                raise Conflict(
                    f"Run {run_id} is {state}; failed, cancelled and retrying runs are retried."
                )
        answer = await run_answer(conn, run_id, status=200)
    assert answer is not None
    services.wake("deliver")
    return answer


async def _begin_again(conn: AsyncConnection, found: Sequence[StoredRun]) -> _Again:
    """Begin those of these locked runs that can be."""
    again = _Again()
    held = await deployments.hold_all(conn, {run.deployment for run in found})
    possible = []
    for run in found:
        if run.depth > CHAIN_DEPTH_MAX:
            again.not_begun[run.id] = run.error or "loop"
        elif run.deployment not in held:
            again.not_begun[run.id] = f"its deployment {run.deployment!r} is gone"
        else:
            possible.append(run)
    templates = await _templates_of(conn, possible, held, again)
    again.begun = await runs.enqueue(conn, list(templates))
    await runs.reopen(
        conn, {run_id: template for run_id, template in templates.items() if run_id in again.begun}
    )
    for run_id in templates:
        if run_id not in again.begun:
            again.not_begun[run_id] = (
                "another run of its key has not ended, and its deployment lets none overlap"
            )
    return again


async def _templates_of(
    conn: AsyncConnection,
    found: Sequence[StoredRun],
    held: Mapping[str, Deployment],
    again: _Again,
) -> dict[UUID, dict[str, Any] | None]:
    """By run, what is to be rendered now; None: what is stored, rendered or not."""
    templates: dict[UUID, dict[str, Any] | None] = {}
    of_triggers = await triggers.load_all(
        conn, {run.trigger_id for run in found if run.trigger_id and _is_rendered_anew(run)}
    )
    documents: dict[UUID, Any] = {}
    for number, run in enumerate(found):
        if number % RETRY_RENDERED_AT_ONCE_MAX == 0:
            documents = await _events_of(conn, found[number : number + RETRY_RENDERED_AT_ONCE_MAX])
        if run.trigger_id is None or not _is_rendered_anew(run):
            templates[run.id] = None
        elif (trigger := of_triggers.get(run.trigger_id)) is None:
            again.not_begun[run.id] = "its parameters were never rendered, and its trigger is gone"
        elif (parameters := _parameters_of(run, trigger)) is None:
            again.not_begun[run.id] = (
                "its parameters were never rendered, and its trigger has no such action any more"
            )
        else:
            templates[run.id] = {
                "parameters": merged_source(held[run.deployment].parameters, parameters),
                "context": _context_of(run, trigger, documents),
            }
    return templates


def _parameters_of(run: StoredRun, trigger: triggers.StoredTrigger) -> dict[str, Any] | None:
    """What the trigger says now of this run: itself, or the action that made it. None: nothing."""
    place = 0 if run.action is None else place_of(run.action)
    ran = {
        loc[1] if loc else 0: written.parameters
        for loc, written in runs_written(read_trigger(trigger.document))
    }
    return ran.get(place)


def _is_rendered_anew(run: StoredRun) -> bool:
    """Whether its parameters could not be rendered, or were not left to be."""
    return run.parameters is None and (run.template is None or run.state == RunState.FAILED)


async def _events_of(conn: AsyncConnection, some: Sequence[StoredRun]) -> dict[UUID, Any]:
    wanted = {
        event_id
        for run in some
        if _is_rendered_anew(run)
        for event_id in (*run.event_ids, *([run.after_id] if run.after_id else []))
    }
    found = await events.load(conn, list(wanted)) if wanted else {}
    return {event_id: event_document(event) for event_id, event in found.items()}


def _context_of(
    run: StoredRun, trigger: triggers.StoredTrigger, documents: Mapping[UUID, Any]
) -> dict[str, Any]:
    return {
        "event": None if run.event is None else msgspec.json.decode(run.event),
        "after": documents.get(run.after_id) if run.after_id else None,
        "events": [documents[one] for one in run.event_ids if one in documents],
        "labels": msgspec.json.decode(run.labels),
        "trigger": {"id": str(trigger.id), "name": trigger.name, "version": trigger.version},
        "automation": {
            "id": str(trigger.id),
            "name": trigger.document.get("title") or trigger.name,
        },
        "deployment": {"name": run.deployment},
    }
