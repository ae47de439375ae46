"""Runs of flows: shown, changed, moved from state to state by their runners and processes."""

import json
from dataclasses import replace
from typing import Annotated, Any
from uuid import UUID

from fastapi import Body, Request, Response
from msgspec import structs

from upshot.api.answers import json_answer, no_answer
from upshot.api.services import Services, Using
from upshot.core.errors import NotFound
from upshot.prefect.orchestration import Accept
from upshot.prefect.resuming import input_of, problem_of_input, resumed
from upshot.prefect.routing import new_router
from upshot.prefect.run_bodies import FlowRunChanged, Kept, ResumeSent, set_state_sent
from upshot.prefect.run_view import Known, flow_run_document, known_of, said_of
from upshot.prefect.states import (
    StateType,
    new_state,
    state_document,
    state_json,
    stored_state,
)
from upshot.prefect.transitions import (
    Transition,
    locked,
    propose,
    settle,
    tell,
    unknown_flow_run,
)
from upshot.storage import flow_run_inputs, flow_runs

router = new_router()


@router.get("/flow_runs/{run_id}")
async def read_flow_run(services: Using, run_id: UUID) -> Response:
    async with services.database.begin() as conn:
        run = await flow_runs.load(conn, run_id)
        now = await flow_runs.now(conn)
    if run is None:
        raise unknown_flow_run(run_id)
    return json_answer(flow_run_document(known_of(run, now=now), now=now))


@router.post("/flow_runs/{run_id}/set_state")
async def set_state(services: Using, request: Request, run_id: UUID) -> Response:
    """Propose a state. The answer says whether it is the run's now, or what the client is to do."""
    sent = await set_state_sent(request)
    transition = await propose(
        services,
        run_id,
        sent.state.type,
        lambda _, now: sent.state.state(now=now),
        force=sent.force,
    )
    return _answer(transition)


@router.post("/flow_runs/{run_id}/resume")
async def resume(
    services: Using, run_id: UUID, asked: Annotated[ResumeSent | None, Body()] = None
) -> Response:
    """A paused run goes on; a suspended one is due. `run_input` is what it has waited for."""
    given = asked.run_input if asked else None
    async with services.database.begin() as conn:
        run = await flow_runs.load(conn, run_id)
        if run is None:
            raise unknown_flow_run(run_id)
        state = known_of(run, now=await flow_runs.now(conn)).state
        wanted = input_of(state)
        schema = None
        if wanted is not None:
            schema = await flow_run_inputs.load(conn, run_id, wanted.schema_key)
    if state.type != StateType.PAUSED:
        return _refused("ABORT", "abort_details", "A run that is not paused cannot be resumed.")
    if wanted is not None:
        problem = problem_of_input(given or {}, None if schema is None else schema.value)
        if problem is not None:
            return _refused("REJECT", "reject_details", problem, state=state_document(state))
    next_type = StateType.SCHEDULED if state.is_suspended else StateType.RUNNING
    transition = await propose(services, run_id, next_type, lambda _, now: resumed(state, now=now))
    if wanted is not None and given and isinstance(transition.decision, Accept):
        await _keep_input(services, run_id, wanted.response_key, given)
    return _answer(transition)


@router.patch("/flow_runs/{run_id}")
async def update_flow_run(services: Using, run_id: UUID, written: FlowRunChanged) -> Response:
    sent = written.model_fields_set
    async with services.database.begin() as conn:
        known, _ = await locked(conn, run_id)
        if "parameters" in sent:
            await flow_runs.set_parameters(conn, run_id, _json(written.parameters))
        details = known.details
        for field in ("flow_version", "tags", "infrastructure_pid", "job_variables"):
            if field in sent:
                details = structs.replace(details, **{field: getattr(written, field)})
        if "empirical_policy" in sent:
            details = structs.replace(details, policy=written.empirical_policy.policy())
        await _save(conn, replace(known, name=written.name or known.name, details=details))
    return no_answer()


@router.patch("/flow_runs/{run_id}/labels")
async def update_labels(services: Using, run_id: UUID, written: Kept) -> Response:
    """Labels that are sent are added, or take the place of those of their names."""
    async with services.database.begin() as conn:
        known, _ = await locked(conn, run_id)
        labels = {**known.details.labels, **written}
        await _save(conn, replace(known, details=structs.replace(known.details, labels=labels)))
    return no_answer()


@router.delete("/flow_runs/{run_id}")
async def delete_flow_run(services: Using, run_id: UUID) -> Response:
    """With its states and logs. One that has not ended is cancelled first, visibly to the log."""
    async with services.database.begin() as conn:
        known, now = await locked(conn, run_id)
        transition = None
        if not known.has_ended:
            cancelled = new_state(StateType.CANCELLED, now=now, message="The run was deleted.")
            decision = Accept(cancelled, known.details.policy)
            transition = await settle(conn, known, decision, now=now)
        await flow_runs.remove(conn, run_id)
    if transition is not None:
        tell(services, transition)
    return no_answer()


@router.get("/flow_run_states")
async def list_states(services: Using, flow_run_id: UUID) -> Response:
    """Those that the run has been in, the first one first."""
    async with services.database.begin() as conn:
        run = await flow_runs.load(conn, flow_run_id)
        if run is None:
            return json_answer([])
        now = await flow_runs.now(conn)
        states = [stored_state(text) for text in await flow_runs.states_of(conn, flow_run_id)]
    state = known_of(run, now=now).state
    if all(state.id != one.id for one in states):
        states.append(state)
    return json_answer([state_document(one) for one in states])


@router.get("/flow_run_states/{state_id}")
async def read_state(services: Using, state_id: UUID) -> Response:
    async with services.database.begin() as conn:
        text = await flow_runs.load_state(conn, state_id)
    if text is None:
        raise NotFound(f"There is no state {state_id} of a flow run.")
    return json_answer(state_document(stored_state(text)))


def _answer(transition: Transition) -> Response:
    return json_answer(transition.document(), 201 if transition.is_new else 200)


def _refused(status: str, kind: str, reason: str, *, state: Any = None) -> Response:
    return json_answer(
        {"state": state, "status": status, "details": {"type": kind, "reason": reason}}
    )


async def _save(conn: Any, known: Known) -> None:
    """Write what is said of a locked run; its state stays."""
    await flow_runs.save(conn, known.run.id, said_of(known, state_json(known.state)))


async def _keep_input(services: Services, run_id: UUID, key: str, given: dict[str, Any]) -> None:
    async with services.database.begin() as conn:
        if await flow_run_inputs.hold_run(conn, run_id):
            await flow_run_inputs.create(conn, run_id, key=key, value=_json(given), sender=None)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
