"""Runs: listed, shown with their cause and every attempt, retried, cancelled, reported on."""

import json
from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import msgspec
from fastapi import Body, Query, Response
from pydantic import AwareDatetime, BaseModel, Field
from sqlalchemy.ext.asyncio import AsyncConnection

from upshot import metrics
from upshot.api.answers import Listed, json_answer, raw
from upshot.api.paging import (
    DEFAULT,
    CursorText,
    Limit,
    Since,
    Until,
    decode_cursor,
    encode_cursor,
    read_time_and_id,
)
from upshot.api.problems import BODY, problems
from upshot.api.routing import new_router
from upshot.api.services import Using
from upshot.core.errors import Conflict, Invalid, NotFound, Problem
from upshot.core.language import Name, Storable, StorableJson, Strict
from upshot.core.limits import CHAIN_DEPTH_MAX, LEASE, RESULT_BYTES_MAX, TEXT_CHARS_MAX
from upshot.core.runs import RunState
from upshot.core.templates import event_document, merged_source
from upshot.storage import deployments, events, runs, triggers
from upshot.storage.runs import RunFilter, RunSummary, StoredRun

router = new_router("runs")

_WAITING: Final = (RunState.SCHEDULED, RunState.RETRYING)


class RunTrigger(BaseModel):
    """The trigger that fired, at the version it had."""

    id: UUID
    name: str
    version: int


class RunListed(BaseModel):
    """A run, as lists show it."""

    id: UUID
    state: RunState
    deployment: str
    trigger: RunTrigger | None = Field(description="null: somebody asked for the run.")
    labels: dict[str, Any] = Field(description="The key: what `for_each` distinguishes.")
    created: AwareDatetime
    scheduled_at: AwareDatetime
    finished: AwareDatetime | None
    next_attempt_at: AwareDatetime | None = Field(description="While it waits for one.")
    error: str | None = Field(description="Why it failed or was cancelled.")


class RunAttempt(BaseModel):
    """One call of the runner."""

    number: int
    started: AwareDatetime
    duration: float = Field(description="Seconds.")
    status: int | None = Field(description="The HTTP status, if there was an answer.")
    outcome: str
    error: str | None
    response: str | None = Field(description="The beginning of what the runner answered.")


class RunShown(RunListed):
    """A run in full: what caused it, what it got, and every attempt."""

    key: list[Any] | None
    event: dict[str, Any] | None = Field(description="A copy of the event that fired the trigger.")
    events: list[UUID] = Field(description="The events that were counted, the newest 50.")
    after: UUID | None = Field(description="The event that opened the key.")
    parameters: dict[str, Any] | None = Field(description="null while they are not yet rendered.")
    result: Any = Field(description="What the runner reported.")
    lease_until: AwareDatetime | None
    attempts: list[RunAttempt]


class Report(Strict):
    """What a runner that answered 202 has to say."""

    lease: UUID = Field(description="From the call.")
    state: Literal["running", "completed", "failed"]
    result: Annotated[Any, StorableJson] = Field(default=None, description="Any JSON.")
    error: Annotated[str, Storable, Field(max_length=TEXT_CHARS_MAX)] | None = None


class Reported(BaseModel):
    """What becomes of the run, and of the runner's work on it."""

    state: RunState
    lease_until: AwareDatetime | None
    cancel: bool = Field(description="The run was cancelled: stop working on it.")


@router.get("/v1/runs", summary="List runs", response_model=Listed[RunListed], responses=problems())
async def list_runs(
    services: Using,
    deployment: Annotated[Name | None, Query(description="Of this deployment.")] = None,
    trigger: Annotated[Name | None, Query(description="Of this trigger.")] = None,
    state: Annotated[RunState | None, Query(description="In this state.")] = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = DEFAULT,
    cursor: CursorText = None,
) -> Response:
    """The newest first; times are those at which runs were made.

    With `state`, a request looks through a bounded number of runs: a page may hold few or none and
    still have a `next_cursor`, which goes on.
    """
    wanted = RunFilter(
        deployment=deployment, trigger=trigger, state=state, since=since, until=until
    )
    before = decode_cursor(cursor, read_time_and_id)
    async with services.database.begin() as conn:
        page = await runs.page(conn, wanted, before=before, limit=limit)
    return json_answer(
        {
            "items": [_summary(run) for run in page.runs],
            "next_cursor": encode_cursor(*page.before) if page.before else None,
        }
    )


@router.get(
    "/v1/runs/{run_id}", summary="Show a run", response_model=RunShown, responses=problems(404)
)
async def show_run(run_id: UUID, services: Using) -> Response:
    """One run, with its cause, its parameters and every attempt."""
    async with services.database.begin() as conn:
        answer = await run_answer(conn, run_id, status=200)
    if answer is None:
        raise _unknown(run_id)
    return answer


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
                raise _unknown(run_id)
            case RunState.FAILED | RunState.CANCELLED:
                await _begin_again(conn, run_id)
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


@router.post(
    "/v1/runs/{run_id}/cancel",
    summary="Cancel a run",
    response_model=RunShown,
    responses=problems(404, 409),
)
async def cancel_run(run_id: UUID, services: Using) -> Response:
    """An open run ends as `cancelled`. A runner that works on it learns so from its next report."""
    async with services.database.begin() as conn:
        if not await runs.cancel_if_open(conn, run_id, reason="cancelled by request"):
            state = await runs.lock(conn, run_id)
            if state is None:
                raise _unknown(run_id)
            raise Conflict(f"Run {run_id} is {state} already.")
        answer = await run_answer(conn, run_id, status=200)
    assert answer is not None
    metrics.RUNS_FINISHED.labels(RunState.CANCELLED.value).inc()
    return answer


@router.patch(
    "/v1/runs/{run_id}",
    summary="Report on a run",
    response_model=Reported,
    responses=problems(*BODY, 404, 409),
)
async def report_run(
    run_id: UUID,
    services: Using,
    report: Annotated[
        Report,
        Body(
            examples=[
                {
                    "lease": "0c6ab03f-6a9e-4c9a-8a38-0a4f0a7c3c11",
                    "state": "completed",
                    "result": {"invoice": 7},
                }
            ]
        ),
    ],
) -> Response:
    """For runners that answered 202: `running` is the heartbeat and prolongs the lease.

    Whoever has lost the lease gets a 409 and changes nothing.
    """
    if len(json.dumps(report.result)) > RESULT_BYTES_MAX:
        message = f"The result is larger than {RESULT_BYTES_MAX:,} bytes."
        raise Invalid(message, [Problem(("result",), message)])
    async with services.database.begin() as conn:
        if report.state == "running":
            lease_until = await _renewed(conn, run_id, report.lease)
            state = RunState.CANCELLED if lease_until is None else RunState.RUNNING
        else:
            state, lease_until = RunState(report.state), None
            await _finish(conn, run_id, report, state)
    if report.state != "running":
        metrics.RUNS_FINISHED.labels(state.value).inc()
        services.wake("evaluate")
    return json_answer(
        {
            "state": state.value,
            "lease_until": lease_until,
            "cancel": state == RunState.CANCELLED,
        }
    )


async def run_answer(conn: AsyncConnection, run_id: UUID, *, status: int) -> Response | None:
    """The run in full, or None if there is none."""
    run = await runs.load(conn, run_id)
    if run is None:
        return None
    attempts = await runs.attempts_of(conn, run_id)
    return json_answer(
        {
            **_summary(run),
            "key": raw(run.key),
            "event": raw(run.event),
            "events": run.event_ids,
            "after": run.after_id,
            "parameters": raw(run.parameters),
            "result": raw(run.result),
            "lease_until": run.lease_until,
            "attempts": [
                {
                    "number": attempt.number,
                    "started": attempt.started_at,
                    "duration": attempt.duration,
                    "status": attempt.status,
                    "outcome": attempt.outcome,
                    "error": attempt.error,
                    "response": attempt.response,
                }
                for attempt in attempts
            ],
        },
        status,
    )


def _summary(run: RunSummary) -> dict[str, Any]:
    trigger = {"id": run.trigger_id, "name": run.trigger, "version": run.trigger_version}
    return {
        "id": run.id,
        "state": run.state,
        "deployment": run.deployment,
        "trigger": trigger if run.trigger_id else None,
        "labels": raw(run.labels),
        "created": run.created_at,
        "scheduled_at": run.scheduled_at,
        "finished": run.finished_at,
        "next_attempt_at": run.due_at if run.state in _WAITING else None,
        "error": run.error,
    }


def _unknown(run_id: UUID) -> NotFound:
    return NotFound(f"There is no run {run_id}; it may be past its retention.")


async def _begin_again(conn: AsyncConnection, run_id: UUID) -> None:
    run = await runs.load(conn, run_id)
    assert run is not None
    if run.depth > CHAIN_DEPTH_MAX:
        raise Conflict(f"Run {run_id} is not called: {run.error}.")
    deployment = await deployments.hold(conn, run.deployment)
    if deployment is None:
        raise Conflict(f"Deployment {run.deployment!r} of run {run_id} is gone.")
    template = None
    if run.parameters is None and (run.template is None or run.state == RunState.FAILED):
        template = await _template_of(conn, run, deployment.parameters)
    await runs.reopen(conn, run_id, template=template)
    await runs.enqueue(conn, run_id, deployment=run.deployment)


async def _template_of(
    conn: AsyncConnection, run: StoredRun, defaults: dict[str, Any]
) -> dict[str, Any] | None:
    """What is to be rendered now; None: what was to be, as it is stored."""
    if run.trigger_id is None:
        return None
    trigger = await triggers.load_by_id(conn, run.trigger_id)
    if trigger is None:
        raise Conflict(
            f"The parameters of run {run.id} were never rendered, and its trigger is gone."
        )
    wanted = [*run.event_ids, *([run.after_id] if run.after_id else [])]
    found = await events.load(conn, wanted) if wanted else {}
    documents = {event_id: event_document(event) for event_id, event in found.items()}
    return {
        "parameters": merged_source(defaults, trigger.document["parameters"]),
        "context": {
            "event": None if run.event is None else msgspec.json.decode(run.event),
            "after": documents.get(run.after_id) if run.after_id else None,
            "events": [documents[one] for one in run.event_ids if one in documents],
            "labels": msgspec.json.decode(run.labels),
            "trigger": {
                "id": str(trigger.id),
                "name": trigger.name,
                "version": trigger.version,
            },
            "deployment": {"name": run.deployment},
        },
    }


async def _renewed(conn: AsyncConnection, run_id: UUID, lease: UUID) -> datetime | None:
    """Until when the lease is prolonged; None: the run was cancelled meanwhile."""
    until = await runs.renew_if_leased(conn, run_id, lease=lease, default=LEASE)
    if until is None and await _state_of(conn, run_id) != RunState.CANCELLED:
        raise _lost(run_id)
    return until


async def _finish(conn: AsyncConnection, run_id: UUID, report: Report, state: RunState) -> None:
    error = report.error
    if state == RunState.FAILED and error is None:
        error = "the runner reported that it failed"
    finished = await runs.finish_if_leased(
        conn,
        run_id,
        lease=report.lease,
        state=state,
        result=report.result,
        error=error if state == RunState.FAILED else None,
    )
    if not finished:
        await _state_of(conn, run_id)
        raise _lost(run_id)


async def _state_of(conn: AsyncConnection, run_id: UUID) -> str:
    run = await runs.load(conn, run_id)
    if run is None:
        raise _unknown(run_id)
    return run.state


def _lost(run_id: UUID) -> Conflict:
    return Conflict(
        f"This lease of run {run_id} is lost: the run has ended or was given to another."
    )
