"""Task runs that clients register: they stand for subflows and for runs of other deployments.

The tasks of a flow tell of themselves by events alone.
"""

import json
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import msgspec
from fastapi import Body, Request, Response
from pydantic import Field

from upshot.api.answers import json_answer, no_answer
from upshot.api.services import Using
from upshot.core.errors import Conflict, NotFound
from upshot.core.language import JsonObject, Storable
from upshot.core.limits import FLOW_NAME_CHARS_MAX, PREFECT_PAGE_MAX
from upshot.prefect import subflows
from upshot.prefect.flow_filters import (
    FlowName,
    IdFilter,
    NameFilter,
    Offset,
    PageLimit,
    PageNumber,
    or_default,
    page_of,
)
from upshot.prefect.routing import Sent, new_router
from upshot.prefect.run_bodies import Kept, RunTags, Version, set_state_sent
from upshot.prefect.run_filters import StateFilter
from upshot.prefect.run_names import name_of
from upshot.prefect.state_bodies import StateSent
from upshot.prefect.states import (
    State,
    StateType,
    new_id,
    new_state,
    state_document,
    stored_state,
)
from upshot.prefect.transitions import unknown_flow_run
from upshot.storage import flow_runs, task_runs
from upshot.storage.task_runs import StoredTaskRun, TaskRunsWanted

router = new_router()

_KEPT: Final = (
    "cache_key",
    "task_version",
    "empirical_policy",
    "tags",
    "labels",
    "task_inputs",
)

TaskKey = Annotated[str, Storable, Field(max_length=FLOW_NAME_CHARS_MAX)]


class TaskRunCreated(Sent):
    id: UUID | None = None
    state: StateSent | None = None
    name: FlowName | None = None
    flow_run_id: UUID | None = None
    task_key: TaskKey
    dynamic_key: TaskKey
    cache_key: Version | None = None
    task_version: Version | None = None
    empirical_policy: Kept = Field(default={})
    tags: RunTags = Field(default=[])
    labels: Kept = Field(default={})
    task_inputs: Annotated[JsonObject, or_default({})] = Field(default={})


class TaskRunChanged(Sent):
    name: FlowName | None = None


class TaskRunFilter(Sent):
    id: IdFilter | None = None
    name: NameFilter | None = None
    flow_run_id: IdFilter | None = None
    state: StateFilter | None = None


class OfRuns(Sent):
    id: IdFilter | None = None


class TaskRunsCounted(Sent):
    task_runs: TaskRunFilter | None = None
    flow_runs: OfRuns | None = None

    def wanted(self) -> TaskRunsWanted:
        asked, of_runs = self.task_runs or TaskRunFilter(), self.flow_runs or OfRuns()
        runs = asked.flow_run_id or of_runs.id
        types = asked.state.type if asked.state else None
        return TaskRunsWanted(
            ids=asked.id.any_ if asked.id else None,
            flow_runs=runs.any_ if runs else None,
            names=asked.name.any_ if asked.name else None,
            state_types=types.any_ if types else None,
        )


Sort = Literal[
    "ID_DESC",
    "EXPECTED_START_TIME_ASC",
    "EXPECTED_START_TIME_DESC",
    "NAME_ASC",
    "NAME_DESC",
    "NEXT_SCHEDULED_START_TIME_ASC",
    "END_TIME_DESC",
]


class TaskRunsListed(TaskRunsCounted):
    sort: Annotated[Sort, or_default("ID_DESC")] = "ID_DESC"
    limit: PageLimit = PREFECT_PAGE_MAX
    offset: Offset = 0


class TaskRunsPaged(TaskRunsCounted):
    limit: PageLimit = PREFECT_PAGE_MAX
    page: PageNumber = 1

    @property
    def offset(self) -> int:
        return (self.page - 1) * self.limit


@router.post("/task_runs")
async def create_task_run(services: Using, written: TaskRunCreated) -> Response:
    """Register a task run, or answer the one that has its keys in the flow's run."""
    task_run_id = written.id or new_id()
    async with services.database.begin() as conn:
        if written.flow_run_id and not await task_runs.hold_run(conn, written.flow_run_id):
            raise unknown_flow_run(written.flow_run_id)
        now = await flow_runs.now(conn)
        ids = {"task_run_id": str(task_run_id)}
        if written.flow_run_id is not None:
            ids["flow_run_id"] = str(written.flow_run_id)
        if written.state is None:
            state = new_state(StateType.PENDING, now=now).with_details(**ids)
        else:
            state = written.state.state(now=now, **ids)
        made = await task_runs.create(
            conn,
            task_run_id=task_run_id,
            flow_run_id=written.flow_run_id,
            task_key=written.task_key,
            dynamic_key=written.dynamic_key,
            name=written.name or name_of(task_run_id),
            state_type=state.type.value,
            state=msgspec.to_builtins(state),
            details=written.model_dump(
                mode="json",
                include=set(_KEPT),
            ),
        )
        found = await task_runs.load(conn, task_run_id) if made else None
        if found is None:
            found = await task_runs.with_keys(
                conn,
                flow_run_id=written.flow_run_id,
                task_key=written.task_key,
                dynamic_key=written.dynamic_key,
            )
    if found is None:
        raise Conflict(f"There is a task run {task_run_id} already, of other keys.")
    return json_answer(_shown(found), 201 if made else 200)


@router.get("/task_runs/{task_run_id}")
async def read_task_run(services: Using, task_run_id: UUID) -> Response:
    async with services.database.begin() as conn:
        found = await task_runs.load(conn, task_run_id)
    if found is None:
        raise _unknown(task_run_id)
    return json_answer(_shown(found))


@router.patch("/task_runs/{task_run_id}")
async def update_task_run(services: Using, task_run_id: UUID, written: TaskRunChanged) -> Response:
    if written.name is not None:
        async with services.database.begin() as conn:
            if not await task_runs.rename(conn, task_run_id, written.name):
                raise _unknown(task_run_id)
    return no_answer()


@router.delete("/task_runs/{task_run_id}")
async def delete_task_run(services: Using, task_run_id: UUID) -> Response:
    async with services.database.begin() as conn:
        if not await task_runs.remove(conn, task_run_id):
            raise _unknown(task_run_id)
    return no_answer()


@router.post("/task_runs/{task_run_id}/set_state")
async def set_state(services: Using, request: Request, task_run_id: UUID) -> Response:
    """Tasks are orchestrated by their flow's process; what it says is so, up to the end."""
    sent = await set_state_sent(request)
    async with services.database.begin() as conn:
        found = await task_runs.lock(conn, task_run_id)
        if found is None:
            raise _unknown(task_run_id)
        now = await flow_runs.now(conn)
        ids = {"task_run_id": str(task_run_id)}
        if found.flow_run_id is not None:
            ids["flow_run_id"] = str(found.flow_run_id)
        proposed, current = sent.state.state(now=now, **ids), stored_state(found.state)
        refused = None if sent.force else refusal(current, proposed)
        if refused is None:
            await subflows.enter(conn, found, proposed, now=now)
    if refused is not None:
        return json_answer({"state": state_document(current), **refused})
    document = {"state": state_document(proposed), "status": "ACCEPT"}
    return json_answer({**document, "details": {"type": "accept_details"}}, 201)


def refusal(current: State, proposed: State) -> dict[str, Any] | None:
    """What is answered, beside the state, where a task run does not take a state; None: it does."""
    if not current.is_final:
        return None
    reason = f"The task run has ended as {current.name} already."
    if proposed.type in (StateType.CANCELLING, StateType.PAUSED, StateType.CRASHED):
        return {"status": "ABORT", "details": {"type": "abort_details", "reason": reason}}
    if current.type == StateType.COMPLETED and current.has_result:
        return {"status": "REJECT", "details": {"type": "reject_details", "reason": reason}}
    return None


@router.post("/task_runs/filter")
async def list_task_runs(
    services: Using, asked: Annotated[TaskRunsListed | None, Body()] = None
) -> Response:
    """The newest first, whatever order is asked for."""
    asked = asked or TaskRunsListed()
    async with services.database.begin() as conn:
        found = await task_runs.page(conn, asked.wanted(), limit=asked.limit, offset=asked.offset)
    return json_answer([_shown(one) for one in found])


@router.post("/task_runs/paginate")
async def page_task_runs(
    services: Using, asked: Annotated[TaskRunsPaged | None, Body()] = None
) -> Response:
    asked = asked or TaskRunsPaged()
    async with services.database.begin() as conn:
        found = await task_runs.page(conn, asked.wanted(), limit=asked.limit, offset=asked.offset)
        count = await task_runs.count(conn, asked.wanted())
    return json_answer(page_of([_shown(one) for one in found], count=count, asked=asked))


@router.post("/task_runs/count")
async def count_task_runs(
    services: Using, asked: Annotated[TaskRunsCounted | None, Body()] = None
) -> Response:
    async with services.database.begin() as conn:
        count = await task_runs.count(conn, (asked or TaskRunsCounted()).wanted())
    return json_answer(count)


def _unknown(task_run_id: UUID) -> NotFound:
    return NotFound(
        f"There is no task run {task_run_id}. Tasks of flows tell of themselves by events, "
        f"`prefect.task-run.{task_run_id}`; only those of subflows are registered."
    )


def _shown(found: StoredTaskRun) -> dict[str, Any]:
    """A task run as the client's `TaskRun` reads it."""
    state, details = stored_state(found.state), json.loads(found.details)
    return {
        "id": found.id,
        "created": found.created_at,
        "updated": found.updated_at,
        "name": found.name,
        "flow_run_id": found.flow_run_id,
        "task_key": found.task_key,
        "dynamic_key": found.dynamic_key,
        "cache_key": details.get("cache_key"),
        "cache_expiration": None,
        "task_version": details.get("task_version"),
        "empirical_policy": details.get("empirical_policy") or {},
        "tags": details.get("tags") or [],
        "labels": details.get("labels") or {},
        "task_inputs": details.get("task_inputs") or {},
        "state_id": state.id,
        "state": state_document(state),
        "state_type": found.state_type,
        "state_name": state.name,
        "run_count": found.run_count,
        "flow_run_run_count": 0,
        "expected_start_time": found.created_at,
        "next_scheduled_start_time": (
            state.scheduled_time if state.type == StateType.SCHEDULED else None
        ),
        "start_time": found.started_at,
        "end_time": found.ended_at,
        "total_run_time": 0.0,
        "estimated_run_time": 0.0,
        "estimated_start_time_delta": 0.0,
    }
