"""Transitions of a flow's run: the locked run looked at, the rules asked, what follows written."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, assert_never
from uuid import UUID

import msgspec
import structlog
from msgspec import structs
from sqlalchemy.ext.asyncio import AsyncConnection

from upshot.core.errors import Conflict, NotFound
from upshot.core.runs import RunState
from upshot.core.templates import RenderFailed
from upshot.metrics import DELIVERY_DELAY_SECONDS, RUNS_FINISHED
from upshot.prefect import subflows
from upshot.prefect.orchestration import (
    Abort,
    Accept,
    Decision,
    Policy,
    Reject,
    Room,
    Subject,
    Wait,
    decide,
)
from upshot.prefect.run_events import transition_event
from upshot.prefect.run_view import Known, known_of, said_of
from upshot.prefect.standing import advanced, end_of
from upshot.prefect.states import State, StateType, new_state, state_document, state_json
from upshot.storage import flow_runs, queue, runs
from upshot.storage.log import append_few

if TYPE_CHECKING:
    # The process without the API moves lost runs on too, and has no need of its framework.
    from upshot.api.services import Services

_BEGINNING = (StateType.PENDING, StateType.RUNNING)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """What became of a proposal: the decision, and the run as it is now."""

    decision: Decision
    known: Known
    is_new: bool
    """A state was written."""

    def document(self) -> dict[str, Any]:
        """As the client's `OrchestrationResult` reads it."""
        match self.decision:
            case Accept():
                return self._document("ACCEPT", "accept_details")
            case Reject(reason):
                return self._document("REJECT", "reject_details", reason=reason)
            case Abort(reason):
                return self._document("ABORT", "abort_details", reason=reason)
            case Wait(seconds, reason):
                return self._document("WAIT", "wait_details", delay_seconds=seconds, reason=reason)
            case _:
                assert_never(self.decision)

    def _document(self, status: str, kind: str, **details: Any) -> dict[str, Any]:
        return {
            "state": state_document(self.known.state),
            "status": status,
            "details": {"type": kind, **details},
        }


async def propose(
    services: "Services",
    run_id: UUID,
    type_: StateType,
    proposed: Callable[[Known, datetime], State],
    *,
    force: bool = False,
) -> Transition:
    """Propose a state of this type, made at the database's time for the run as it is then.

    Raises:
        NotFound: there is no such run of a flow.
    """
    begins = type_ in _BEGINNING
    rendered = await _rendered(services, run_id) if begins else _Rendered()
    async with services.database.begin() as conn:
        if begins:
            await queue.hold_claims(conn)
        known, now = await locked(conn, run_id)
        room = await _room_of(conn, known) if begins else Room.FREE
        decision: Decision = decide(
            _subject(known, room), proposed(known, now), now=now, force=force
        )
        if isinstance(decision, Accept) and begins and not known.run.in_process:
            decision = _with_parameters(decision, known, rendered, now)
        transition = await settle(conn, known, decision, now=now, parameters=rendered.parameters)
    tell(services, transition)
    if begins and transition.is_new and not transition.known.state.is_final:
        _note_begun(known, now)
    return transition


def _note_begun(before: Known, now: datetime) -> None:
    """Note how late a run has left the line, if it was there."""
    due_at = before.run.due_at
    if due_at is not None and not before.run.in_process:
        DELIVERY_DELAY_SECONDS.observe(max(0.0, (now - due_at).total_seconds()))
        log.info("claimed", run=str(before.run.id), worker=flow_runs.WORKER)


def tell(services: "Services", transition: Transition) -> None:
    """Wake who waits for what was committed."""
    if not transition.is_new:
        return
    services.wake("evaluate")
    known = transition.known
    if known.state.is_final:
        RUNS_FINISHED.labels(state=end_of(known.state).value).inc()
    if known.state.is_final or known.state.type in (StateType.SCHEDULED, StateType.PAUSED):
        # There is room for another run, or one more to be begun.
        services.wake("deliver")


async def locked(conn: AsyncConnection, run_id: UUID) -> tuple[Known, datetime]:
    """The run, which nobody else changes until the transaction ends, and the time.

    Raises:
        NotFound: there is no such run of a flow.
    """
    await runs.lock(conn, run_id)
    run = await flow_runs.load(conn, run_id)
    if run is None:
        raise unknown_flow_run(run_id)
    now = await flow_runs.now(conn)
    return known_of(run, now=now), now


async def settle(
    conn: AsyncConnection,
    known: Known,
    decision: Decision,
    *,
    now: datetime,
    parameters: str | None = None,
    outcome: str | None = None,
    is_first: bool = False,
) -> Transition:
    """Write what was decided of a locked run. `outcome` is what its attempt's record says.

    `is_first`: the run was just made, and has had no state.
    """
    match decision:
        case Abort() | Wait() | Reject(state=None):
            return Transition(decision=decision, known=known, is_new=False)
        case Accept(state, policy):
            after = state
        case Reject(_, state, policy):
            assert state is not None
            after = state
        case _:
            assert_never(decision)
    keeps = isinstance(decision, Reject) and decision.keeps_process
    try:
        await _move(conn, known, after, keeps=keeps, now=now, parameters=parameters, said=outcome)
    except _NoSlot:
        return Transition(
            decision=Abort("Another run of its key has not ended, and they may not overlap."),
            known=known,
            is_new=False,
        )
    if parameters is not None and not known.run.in_process:
        known = replace(known, run=replace(known.run, parameters=parameters))
    before = None if is_first else known.state
    entered = await _enter(conn, known, after, policy=policy, before=before, now=now)
    return Transition(decision=decision, known=entered, is_new=True)


async def _enter(
    conn: AsyncConnection,
    known: Known,
    after: State,
    *,
    policy: Policy | None,
    before: State | None,
    now: datetime,
) -> Known:
    """Write down, and tell, that the run is in this state now. `before` is None at first."""
    after = after.with_details(
        flow_run_id=str(known.run.id),
        **({"task_run_id": str(parent)} if (parent := known.parent_task_run_id) else {}),
    )
    progress = advanced(
        known.progress,
        before=before,
        after=after,
        is_resuming=known.details.policy.resuming,
        now=now,
    )
    details = known.details if policy is None else structs.replace(known.details, policy=policy)
    ended_at = now if after.is_final else None
    entered = replace(
        known,
        run=replace(known.run, finished_at=ended_at),
        state=after,
        progress=progress,
        details=details,
    )
    text = state_json(after)
    await flow_runs.save(conn, known.run.id, said_of(entered, text))
    if before is not None and _is_derived(known, before):
        await _add_state(conn, known.run.id, before)
    await flow_runs.add_state(conn, known.run.id, state_id=after.id, state=text)
    if entered.parent_task_run_id is not None:
        await subflows.follow(conn, entered.parent_task_run_id, after, now=now)
    await append_few(conn, [transition_event(entered, before=before, now=now)])
    return entered


def unknown_flow_run(run_id: UUID) -> NotFound:
    return NotFound(f"There is no flow run {run_id}; it may be past its retention.")


class _NoSlot(Exception):
    """The run may not overlap another, and is not put into the line."""


async def _move(
    conn: AsyncConnection,
    known: Known,
    after: State,
    *,
    keeps: bool,
    now: datetime,
    parameters: str | None,
    said: str | None,
) -> None:
    """Move the run where its new state belongs: out of the line, into it, or to a process."""
    run_id = known.run.id
    if after.is_final:
        await _end(conn, known, after, now=now, outcome=said)
        return
    if known.has_ended:
        await _reopen(conn, known)
    if after.type == StateType.SCHEDULED and not keeps:
        await flow_runs.wait(conn, run_id, due_at=after.scheduled_time, outcome="released")
    elif after.is_suspended:
        await flow_runs.wait(conn, run_id, due_at=None, outcome="suspended")
    elif known.run.in_process and not known.has_ended:
        await flow_runs.prolong(conn, run_id)
    else:
        await flow_runs.begin(conn, run_id, parameters=parameters)


async def _end(
    conn: AsyncConnection, known: Known, after: State, *, now: datetime, outcome: str | None
) -> None:
    ended = end_of(after)
    error = None
    if ended != RunState.COMPLETED:
        error = after.message or f"its client said no more than {after.name}"
    await flow_runs.end(
        conn,
        known.run.id,
        state=ended.value,
        outcome=outcome or ended.value,
        error=error,
        result=_json(after.data).decode() if after.has_result else None,
        at=now,
        tell=known.run.state != ended.value,
    )


async def _reopen(conn: AsyncConnection, known: Known) -> None:
    """Take back how the run ended, and put it into the line."""
    run_id = known.run.id
    if known.run.deployment_id is None:
        await flow_runs.enqueue_nobodys(conn, run_id)
    elif not await runs.enqueue(conn, [run_id]):
        raise _NoSlot
    await runs.reopen(conn, {run_id: None})


def _is_derived(known: Known, state: State) -> bool:
    """Whether a state that is left is none that was written down when it was entered."""
    said = known.run.said
    return said is None or msgspec.json.decode(said.state, type=_Identified).id != state.id


class _Identified(msgspec.Struct):
    id: UUID


async def _add_state(conn: AsyncConnection, run_id: UUID, state: State) -> None:
    await flow_runs.add_state(conn, run_id, state_id=state.id, state=state_json(state))


def _subject(known: Known, room: Room) -> Subject:
    run = known.run
    return Subject(
        state=known.state,
        policy=known.details.policy,
        run_count=known.progress.run_count,
        has_process=run.in_process,
        is_elsewhere=run.is_leased and not run.in_process,
        is_deployed=known.is_deployed,
        is_subflow=known.parent_task_run_id is not None and not known.is_deployed,
        room=room,
    )


async def _room_of(conn: AsyncConnection, known: Known) -> Room:
    """Whether its deployment has room for a run that waits; others find room anywhere."""
    if known.run.is_leased or not known.is_deployed:
        return Room.FREE
    if known.run.waits:
        return Room.WAITS
    space = await flow_runs.space_of(conn, known.run.deployment)
    if space is None or not space.enabled:
        return Room.PAUSED
    return Room.FREE if space.free > 0 else Room.FULL


@dataclass(frozen=True, slots=True)
class _Rendered:
    """What became of parameters that were still to be rendered; None of each: there were none."""

    parameters: str | None = None
    error: str | None = None


async def _rendered(services: "Services", run_id: UUID) -> _Rendered:
    async with services.database.begin() as conn:
        run = await flow_runs.load(conn, run_id)
    if run is None or run.template is None or run.is_leased or run.finished_at is not None:
        return _Rendered()
    try:
        return _Rendered(
            await services.offers.rendered(run.template, parameter_schema=run.parameter_schema)
        )
    except RenderFailed as error:
        return _Rendered(error=error.message)


def _with_parameters(
    decision: Accept, known: Known, rendered: _Rendered, now: datetime
) -> Accept | Reject:
    """A run whose parameters cannot be rendered fails instead of beginning.

    Raises:
        Conflict: somebody has put it into the line meanwhile, to be rendered.
    """
    if known.run.template is None:
        return decision
    if rendered.error is not None:
        failed = new_state(StateType.FAILED, now=now, message=rendered.error)
        return Reject(rendered.error, failed)
    if rendered.parameters is None:
        raise Conflict(f"Flow run {known.run.id} has just been scheduled anew. Ask again.")
    return decision


_json = msgspec.json.Encoder().encode
