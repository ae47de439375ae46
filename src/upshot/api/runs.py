"""Runs: listed, shown with their cause and every attempt, cancelled, reported on."""

import json
import random
from datetime import datetime, timedelta
from typing import Annotated, Any, Final, Literal
from uuid import UUID

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
from upshot.core.delivery import retry_at
from upshot.core.errors import Conflict, Invalid, NotFound, Problem
from upshot.core.language import Name, Storable, StorableJson, Strict
from upshot.core.limits import LEASE, RESULT_BYTES_MAX, TEXT_CHARS_MAX
from upshot.core.runs import RunState
from upshot.storage import runs
from upshot.storage.runs import RunFilter, RunSummary

router = new_router("runs")

_FAILED: Final = "the runner reported that it failed"
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
    waits: bool = Field(description="Another run of its key has to end first (`overlap`: queue).")
    error: str | None = Field(description="Why it failed or was cancelled.")


class RunAttempt(BaseModel):
    """One call of the runner, or one claim of a worker."""

    number: int
    started: AwareDatetime
    duration: float = Field(description="Seconds.")
    status: int | None = Field(description="The HTTP status, if there was an answer.")
    outcome: str
    error: str | None
    response: str | None = Field(description="The beginning of what the runner answered.")
    worker: str | None = Field(description="Who pulled the run; null: Upshot called its runner.")


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
    """What a worker, or a runner that answered 202, has to say."""

    lease: UUID = Field(description="From the call, or the claim.")
    state: Literal["running", "completed", "failed", "released"] = Field(
        description="`running` is the heartbeat. `released` gives the run back, to be begun again "
        "at once, at no cost: for a worker that stops."
    )
    retry: bool = Field(
        default=False,
        strict=True,
        description="With `failed`: try again after the runner's next wait in `retries`, as long "
        "as there is one.",
    )
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
        raise unknown_run(run_id)
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
                raise unknown_run(run_id)
            raise Conflict(f"Run {run_id} is {state} already.")
        answer = await run_answer(conn, run_id, status=200)
    assert answer is not None
    metrics.RUNS_FINISHED.labels(RunState.CANCELLED.value).inc()
    services.wake("deliver")
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
    """For workers, and for runners that answered 202: `running` is the heartbeat and prolongs the
    lease, a worker's by 30 s, a runner's by `run_timeout`.

    A heartbeat that is answered `cancel: true` says that the run was cancelled. Otherwise, whoever
    has lost the lease gets a 409 and changes nothing.
    """
    if len(json.dumps(report.result)) > RESULT_BYTES_MAX:
        message = f"The result is larger than {RESULT_BYTES_MAX:,} bytes."
        raise Invalid(message, [Problem(("result",), message)])
    if report.retry and report.state != "failed":
        message = "Only what has failed is tried again."
        raise Invalid(message, [Problem(("retry",), message)])
    lease_until = None
    async with services.database.begin() as conn:
        if report.state == "running":
            lease_until = await _renewed(conn, run_id, report.lease)
            state = RunState.CANCELLED if lease_until is None else RunState.RUNNING
        elif report.state == "released" or report.retry:
            state = await _give_back(conn, run_id, report, services.now())
        else:
            state = RunState(report.state)
            await _finish(conn, run_id, report, state)
    if report.state != "running":
        # There is room for another run, and maybe one that has waited for this one to end.
        services.wake("deliver")
    if state in (RunState.COMPLETED, RunState.FAILED):
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
                    "worker": attempt.worker,
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
        "waits": run.waits,
        "error": run.error,
    }


def unknown_run(run_id: UUID) -> NotFound:
    return NotFound(f"There is no run {run_id}; it may be past its retention.")


async def _renewed(conn: AsyncConnection, run_id: UUID, lease: UUID) -> datetime | None:
    """Until when the lease is prolonged; None: the run was cancelled meanwhile."""
    until = await runs.renew_if_leased(conn, run_id, lease=lease, default=LEASE)
    if until is None and await _state_of(conn, run_id) != RunState.CANCELLED:
        raise _lost(run_id)
    return until


async def _give_back(
    conn: AsyncConnection, run_id: UUID, report: Report, now: datetime
) -> RunState:
    """The run's next state: `retrying`, or `failed` where no retries are left."""
    held = await runs.hold_if_leased(conn, run_id, lease=report.lease)
    if held is None:
        await _state_of(conn, run_id)
        raise _lost(run_id)
    again_after, error = timedelta(0), report.error
    if report.retry:
        error = error or _FAILED
        again_at = retry_at(
            now,
            retries=held.runner["retries"] if held.runner else (),
            retries_used=held.retries_used,
            after=None,
            jitter=random.random(),
        )
        if again_at is None:
            spent = report.model_copy(update={"error": f"{error}; no retries are left"})
            await _finish(conn, run_id, spent, RunState.FAILED)
            return RunState.FAILED
        again_after = again_at - now
    await runs.give_back(
        conn,
        run_id,
        outcome="failed" if report.retry else "released",
        error=error,
        again_after=again_after,
        uses_retry=report.retry,
    )
    return RunState.RETRYING


async def _finish(conn: AsyncConnection, run_id: UUID, report: Report, state: RunState) -> None:
    error = report.error
    if state == RunState.FAILED and error is None:
        error = _FAILED
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
        raise unknown_run(run_id)
    return run.state


def _lost(run_id: UUID) -> Conflict:
    return Conflict(
        f"This lease of run {run_id} is lost: the run has ended or was given to another."
    )
