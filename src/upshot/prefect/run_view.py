"""A flow's run as the client reads it, made of the run, what was said of it, and the clock."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from msgspec import Struct

from upshot.core.runs import RunState
from upshot.prefect.orchestration import Policy
from upshot.prefect.run_names import name_of
from upshot.prefect.standing import Progress, Standing, seen_state
from upshot.prefect.states import State, StateType, state_document, stored_state
from upshot.storage.flow_runs import Said, StoredFlowRun


class Details(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is kept of a run for its client alone."""

    flow_version: str | None = None
    deployment_version: str | None = None
    context: dict[str, Any] = {}
    policy: Policy = Policy()
    tags: list[str] = []
    labels: dict[str, Any] = {}
    job_variables: dict[str, Any] | None = None
    infrastructure_pid: str | None = None
    expected_start_time: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """All that is known of a flow's run at a moment."""

    run: StoredFlowRun
    state: State
    name: str
    details: Details
    progress: Progress
    parent_task_run_id: UUID | None
    idempotency_key: str | None

    @property
    def is_deployed(self) -> bool:
        """Whether its deployment is there, to hand it out."""
        return self.run.deployment_name is not None

    @property
    def has_ended(self) -> bool:
        return self.run.finished_at is not None


def known_of(run: StoredFlowRun, *, now: datetime) -> Known:
    said = run.said
    ended_at = None if said is None else said.ended_at
    state = seen_state(
        _standing_of(run),
        None if said is None else stored_state(said.state),
        ended_at=ended_at,
        now=now,
    )
    if said is None:
        return Known(
            run=run,
            state=state,
            name=name_of(run.id),
            details=_first_details(run),
            progress=Progress(),
            parent_task_run_id=None,
            idempotency_key=None,
        )
    return Known(
        run=run,
        state=state,
        name=said.name,
        details=_details.decode(said.details),
        progress=Progress(
            run_count=said.run_count,
            started_at=said.started_at,
            ended_at=ended_at,
            running_since=said.running_since,
            running_for=said.running_for,
        ),
        parent_task_run_id=said.parent_task_run_id,
        idempotency_key=said.idempotency_key,
    )


def said_of(known: Known, state_text: str) -> Said:
    """What is stored of it; `state_text` is its state as JSON."""
    return Said(
        flow_id=known.run.flow_id,
        deployment_id=known.run.deployment_id,
        name=known.name,
        state_type=known.state.type.value,
        state=state_text,
        run_count=known.progress.run_count,
        started_at=known.progress.started_at,
        ended_at=known.progress.ended_at,
        running_since=known.progress.running_since,
        running_for=known.progress.running_for,
        parent_task_run_id=known.parent_task_run_id,
        idempotency_key=known.idempotency_key,
        details=_encode(known.details).decode(),
    )


def flow_run_document(known: Known, *, now: datetime) -> dict[str, Any]:
    """A flow's run as the client's `FlowRun` and `FlowRunResponse` read it."""
    run, state, details = known.run, known.state, known.details
    scheduled = state.scheduled_time if state.type == StateType.SCHEDULED else None
    expected = details.expected_start_time or run.scheduled_at
    started_at, ended_at = _span(known)
    return {
        "id": run.id,
        "created": run.created_at,
        "updated": run.said.updated_at if run.said else run.created_at,
        "name": known.name,
        "flow_id": run.flow_id,
        "state_id": state.id,
        "deployment_id": run.deployment_id,
        "deployment_version": details.deployment_version,
        "work_queue_id": None,
        "work_queue_name": None,
        "work_pool_id": None,
        "work_pool_name": None,
        "flow_version": details.flow_version,
        "parameters": msgspec.Raw((run.parameters or "{}").encode()),
        "idempotency_key": known.idempotency_key,
        "context": details.context,
        "empirical_policy": _policy_document(details.policy),
        "tags": details.tags,
        "labels": details.labels,
        "parent_task_run_id": known.parent_task_run_id,
        "run_count": known.progress.run_count,
        "expected_start_time": expected,
        "next_scheduled_start_time": scheduled,
        "start_time": started_at,
        "end_time": ended_at,
        "total_run_time": known.progress.running_for,
        "estimated_run_time": _run_time(known.progress, now),
        "estimated_start_time_delta": _lateness(known, expected, started_at, now),
        "auto_scheduled": False,
        "infrastructure_document_id": None,
        "infrastructure_pid": details.infrastructure_pid,
        "created_by": _creator(run),
        "state": state_document(state),
        "state_type": state.type.value,
        "state_name": state.name,
        "job_variables": details.job_variables,
    }


def _standing_of(run: StoredFlowRun) -> Standing:
    return Standing(
        run_id=run.id,
        state=RunState(run.state),
        created_at=run.created_at,
        due_at=run.due_at,
        started_at=run.started_at,
        finished_at=run.finished_at,
        error=run.error,
        in_process=run.in_process,
    )


def _first_details(run: StoredFlowRun) -> Details:
    """Those of a run of which no client has said anything yet."""
    of_deployment = {} if run.deployment_details is None else _json(run.deployment_details)
    return Details(
        tags=[] if run.deployment_tags is None else _json(run.deployment_tags),
        deployment_version=of_deployment.get("version"),
        expected_start_time=run.scheduled_at,
    )


def _policy_document(policy: Policy) -> dict[str, Any]:
    return {
        "max_retries": 0,
        "retry_delay_seconds": 0,
        "retries": policy.retries,
        "retry_delay": policy.retry_delay
        if policy.retry_delay is None
        else int(policy.retry_delay),
        "pause_keys": sorted(policy.pause_keys),
        "resuming": policy.resuming,
        "retry_type": policy.retry_type,
    }


def _span(known: Known) -> tuple[datetime | None, datetime | None]:
    """When it began and ended; of runs that no process of Prefect's has run, by their line."""
    run = known.run
    if not known.state.is_final:
        return known.progress.started_at or run.started_at, None
    ended_at = run.finished_at or known.progress.ended_at
    return known.progress.started_at or ended_at, ended_at


def _run_time(progress: Progress, now: datetime) -> float:
    since = progress.running_since
    return progress.running_for + (0.0 if since is None else max(0.0, _seconds(now, since)))


def _lateness(
    known: Known, expected: datetime, started_at: datetime | None, now: datetime
) -> float:
    """By how many seconds it began late, or is late by now."""
    if started_at is not None:
        return max(0.0, _seconds(started_at, expected))
    return 0.0 if known.state.is_final else max(0.0, _seconds(now, expected))


def _seconds(until: datetime, since: datetime) -> float:
    return (until - since).total_seconds()


def _creator(run: StoredFlowRun) -> dict[str, Any] | None:
    if run.trigger_id is None:
        return None
    return {"id": run.trigger_id, "type": "AUTOMATION", "display_value": run.trigger}


_details = msgspec.json.Decoder(Details)
_encode = msgspec.json.Encoder().encode
_json = msgspec.json.decode
