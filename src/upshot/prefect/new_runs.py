"""Runs of flows that clients make: of a deployment, on their own, or as a subflow."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from fastapi import Response
from msgspec import structs
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from upshot.api.answers import json_answer
from upshot.api.asked_runs import prepared
from upshot.api.problems import prefixed
from upshot.api.services import Services, Using
from upshot.core.errors import Conflict, Invalid, Problem
from upshot.core.parameter_schema import compile_schema, violations
from upshot.prefect.deployment_fields import upshot_name
from upshot.prefect.deployments import unknown_deployment
from upshot.prefect.flows import unknown_flow
from upshot.prefect.orchestration import Accept
from upshot.prefect.routing import new_router
from upshot.prefect.run_bodies import FlowRunCreated, FlowRunOfDeployment, RunCreated
from upshot.prefect.run_names import name_of
from upshot.prefect.run_view import Details, Known, flow_run_document, known_of
from upshot.prefect.states import State, StateType, new_id, new_state, state_json
from upshot.prefect.transitions import Transition, settle, tell
from upshot.storage import deployments, flow_deployments, flow_runs, flows, task_runs
from upshot.storage.flow_deployments import FlowDeployment
from upshot.storage.flow_runs import Said
from upshot.storage.queue import OVERLAPPED

router = new_router()

Make = Callable[[AsyncConnection], Awaitable[Transition]]


@router.post("/deployments/{deployment_id}/create_flow_run")
async def create_flow_run_of_deployment(
    services: Using, deployment_id: UUID, written: FlowRunOfDeployment
) -> Response:
    """A run that waits for whoever serves the flow. Its parameters are laid over the defaults.

    The same idempotency key again answers the same run.
    """
    written.check()
    if written.state is not None and written.state.type != StateType.SCHEDULED:
        message = "A run of a deployment begins as SCHEDULED; leave the state out, or say when."
        raise Invalid(message, [Problem(("state", "type"), message)])
    async with services.database.begin() as conn:
        found = await flow_deployments.load(conn, deployment_id)
    if found is None:
        raise unknown_deployment(deployment_id)
    return await _made_once(
        services, found.flow_id, written, lambda conn: _of_deployment(conn, found, written)
    )


@router.post("/flow_runs")
async def create_flow_run(services: Using, written: FlowRunCreated) -> Response:
    """A run that its client works on itself: a flow that is called, or a subflow."""
    written.check()
    async with services.database.begin() as conn:
        flow = await flows.load(conn, written.flow_id)
    if flow is None:
        raise unknown_flow(written.flow_id)
    if written.deployment_id is not None or _waits(written):
        message = (
            "A run that is to wait for its deployment's runner is made by "
            "POST /deployments/{id}/create_flow_run; others begin as PENDING or RUNNING."
        )
        raise Invalid(message, [Problem(("state",), message)])
    return await _made_once(services, flow.id, written, lambda conn: _at_once(conn, flow, written))


def _waits(written: FlowRunCreated) -> bool:
    return written.state is not None and written.state.type in (
        StateType.SCHEDULED,
        StateType.PAUSED,
    )


async def _made_once(
    services: Services, flow_id: UUID, written: RunCreated, make: Make
) -> Response:
    """The run that is made, or the one that was made with this idempotency key before."""
    try:
        async with services.database.begin() as conn:
            known = await _repeated(conn, flow_id, written)
            made: Transition | None = None
            if known is None:
                made = await make(conn)
                known = made.known
            run = await flow_runs.load(conn, known.run.id)
            assert run is not None
            now = await flow_runs.now(conn)
    except IntegrityError:
        raise Conflict(
            "Another request makes a run with this idempotency key. Ask again."
        ) from None
    if made is not None:
        tell(services, made)
    document = flow_run_document(known_of(run, now=now), now=now)
    return json_answer(document, 200 if made is None else 201)


async def _repeated(conn: AsyncConnection, flow_id: UUID, written: RunCreated) -> Known | None:
    if written.idempotency_key is None:
        return None
    run_id = await flow_runs.with_idempotency_key(
        conn, flow_id=flow_id, key=written.idempotency_key
    )
    run = None if run_id is None else await flow_runs.load(conn, run_id)
    return None if run is None else known_of(run, now=await flow_runs.now(conn))


async def _of_deployment(
    conn: AsyncConnection, found: FlowDeployment, written: FlowRunOfDeployment
) -> Transition:
    held = await deployments.hold(conn, found.deployment.name)
    if held is None:
        raise unknown_deployment(found.deployment.id)
    parameters, template = prepared(replace(held, parameter_schema=None), written.parameters)
    enforced = written.enforce_parameter_schema
    if found.details.get("enforce_parameter_schema", True) if enforced is None else enforced:
        _check(found.details.get("parameter_openapi_schema"), parameters)
    now = await flow_runs.now(conn)
    sent = written.state
    state = new_state(StateType.SCHEDULED, now=now) if sent is None else sent.state(now=now)
    scheduled_at = state.scheduled_time or now
    run_id = new_id()
    await flow_runs.create(
        conn,
        run_id=run_id,
        deployment=held.name,
        parameters=_json(parameters),
        template=_json(template),
        scheduled_at=scheduled_at,
        depth=await _depth(conn, written.parent_task_run_id),
    )
    if not await flow_runs.enqueue(conn, run_id):
        state = new_state(StateType.CANCELLED, now=now, message=OVERLAPPED)
    details = structs.replace(
        _details(written, expected=scheduled_at),
        tags=list(dict.fromkeys([*held.tags, *written.tags])),
        deployment_version=found.details.get("version"),
    )
    said = _said(written, run_id, found.flow_id, details, state)
    said = replace(said, deployment_id=found.deployment.id)
    return await _enter_first(conn, run_id, said, state, details, now=now)


async def _at_once(conn: AsyncConnection, flow: flows.Flow, written: FlowRunCreated) -> Transition:
    parent = None
    if written.parent_task_run_id is not None:
        parent = await task_runs.parent_of(conn, written.parent_task_run_id)
    now = await flow_runs.now(conn)
    sent = written.state
    state = new_state(StateType.PENDING, now=now) if sent is None else sent.state(now=now)
    run_id = new_id()
    ad_hoc = upshot_name(flow=flow.name, deployment=flow.name)
    await flow_runs.create(
        conn,
        run_id=run_id,
        deployment=ad_hoc if parent is None else parent.deployment,
        parameters=_json(written.parameters),
        template=None,
        scheduled_at=now,
        depth=0 if parent is None else parent.depth,
    )
    await flow_runs.enqueue_nobodys(conn, run_id)
    details = structs.replace(_details(written, expected=now), flow_version=written.flow_version)
    said = _said(written, run_id, flow.id, details, state)
    return await _enter_first(conn, run_id, said, state, details, now=now)


async def _enter_first(
    conn: AsyncConnection,
    run_id: UUID,
    said: Said,
    state: State,
    details: Details,
    *,
    now: datetime,
) -> Transition:
    """Put a run that is in the line into its first state."""
    await flow_runs.save(conn, run_id, said)
    run = await flow_runs.load(conn, run_id)
    assert run is not None
    return await settle(
        conn, known_of(run, now=now), Accept(state, details.policy), now=now, is_first=True
    )


def _said(written: RunCreated, run_id: UUID, flow_id: UUID, details: Details, state: State) -> Said:
    return Said(
        flow_id=flow_id,
        deployment_id=None,
        name=written.name or name_of(run_id),
        state_type=state.type.value,
        state=state_json(state),
        run_count=0,
        started_at=None,
        ended_at=None,
        running_since=None,
        running_for=0.0,
        parent_task_run_id=written.parent_task_run_id,
        idempotency_key=written.idempotency_key,
        details=msgspec.json.encode(details).decode(),
    )


def _details(written: RunCreated, *, expected: datetime) -> Details:
    return Details(
        context=written.context,
        policy=written.empirical_policy.policy(),
        tags=written.tags,
        labels=written.labels,
        job_variables=written.job_variables,
        expected_start_time=expected,
    )


async def _depth(conn: AsyncConnection, parent_task_run_id: UUID | None) -> int:
    """How many runs in a row have led to one that is made in a flow."""
    if parent_task_run_id is None:
        return 0
    parent = await task_runs.parent_of(conn, parent_task_run_id)
    return 0 if parent is None else parent.depth


def _check(schema: Any, parameters: dict[str, Any] | None) -> None:
    """Raises Conflict where parameters break the schema; those still to be rendered are not known.

    A schema that Upshot cannot read is none.
    """
    if not isinstance(schema, dict) or parameters is None:
        return
    try:
        compiled = compile_schema(schema)
    except Invalid:
        return
    found = violations(compiled, parameters)
    if found:
        where = ".".join(map(str, found[0].loc))
        raise Conflict(
            "The parameters break the deployment's schema: "
            f"{f'{where}: ' if where else ''}{found[0].msg}",
            prefixed("parameters", found),
        )


def _json(value: Any) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False)
