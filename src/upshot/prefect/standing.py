"""What is known of a flow's run: Upshot's row is the truth, what its client said the detail."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from msgspec.structs import replace

from upshot.core.limits import FLOW_RUN_LATE_AFTER
from upshot.core.runs import RunState, run_id_of
from upshot.prefect.states import AWAITING_RETRY, LATE, RESUMING, State, StateType, new_state

_IN_PROCESS: Final = frozenset(
    {
        StateType.PENDING,
        StateType.RUNNING,
        StateType.PAUSED,
        StateType.CANCELLING,
        StateType.SCHEDULED,
    }
)
_ON_TIME: Final = "Scheduled"
_ENDS: Final = {
    StateType.COMPLETED: RunState.COMPLETED,
    StateType.FAILED: RunState.FAILED,
    StateType.CRASHED: RunState.FAILED,
    StateType.CANCELLED: RunState.CANCELLED,
}
_TYPES: Final = {
    RunState.COMPLETED: StateType.COMPLETED,
    RunState.FAILED: StateType.FAILED,
    RunState.CANCELLED: StateType.CANCELLED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a run stands in Upshot's line.

    `in_process`: a process of Prefect's has it. `due_at` is None while it is suspended.
    """

    run_id: UUID
    state: RunState
    created_at: datetime
    due_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    error: str | None
    in_process: bool


def seen_state(
    standing: Standing, said: State | None, *, ended_at: datetime | None, now: datetime
) -> State:
    """The run's state: what its client said, or what Upshot's says where that contradicts it.

    `ended_at` is when the run ended by what its client said.
    """
    match standing.state:
        case RunState.SCHEDULED | RunState.RETRYING:
            return _waiting(standing, said, now)
        case RunState.RUNNING:
            if said is not None and standing.in_process and _goes_on(said):
                return said
            return _derived(standing, StateType.RUNNING, standing.started_at or now)
        case RunState.COMPLETED | RunState.FAILED | RunState.CANCELLED:
            if (
                said is not None
                and ended_at == standing.finished_at
                and _ENDS.get(said.type) == standing.state
            ):
                return said
            finished_at = standing.finished_at or now
            return _derived(standing, _TYPES[standing.state], finished_at, standing.error)


def end_of(state: State) -> RunState:
    """How Upshot calls the end of a run that is in this final state."""
    return _ENDS[state.type]


def _goes_on(said: State) -> bool:
    return said.type in _IN_PROCESS and not said.is_suspended


def _waiting(standing: Standing, said: State | None, now: datetime) -> State:
    due_at = standing.due_at
    if due_at is None:
        if said is not None and said.is_suspended:
            return said
        due_at = now
    if said is not None and said.type == StateType.SCHEDULED:
        state = said.with_details(scheduled_time=due_at.isoformat())
    elif said is not None and said.is_suspended:
        state = _scheduled(standing, RESUMING, due_at)
    else:
        again = standing.state == RunState.RETRYING
        state = _scheduled(standing, AWAITING_RETRY if again else _ON_TIME, due_at)
    if state.name not in (_ON_TIME, LATE):
        return state
    return replace(state, name=LATE if now - due_at > FLOW_RUN_LATE_AFTER else _ON_TIME)


def _scheduled(standing: Standing, name: str, due_at: datetime) -> State:
    return new_state(
        StateType.SCHEDULED,
        now=standing.created_at,
        name=name,
        scheduled_time=due_at,
        state_id=_id_of(standing, name, due_at),
    ).with_details(flow_run_id=str(standing.run_id))


def _derived(
    standing: Standing, type_: StateType, at: datetime, message: str | None = None
) -> State:
    return new_state(
        type_, now=at, message=message, state_id=_id_of(standing, type_.value, at)
    ).with_details(flow_run_id=str(standing.run_id))


def _id_of(standing: Standing, name: str, at: datetime) -> UUID:
    """The same as long as the run stands like this."""
    return run_id_of("flow-run-state", standing.run_id.hex, name, at.isoformat())


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What adds up over a run's states. `running_for` is in seconds."""

    run_count: int = 0
    started_at: datetime | None = None
    ended_at: datetime | None = None
    running_since: datetime | None = None
    running_for: float = 0.0


def advanced(
    progress: Progress, *, before: State | None, after: State, is_resuming: bool, now: datetime
) -> Progress:
    """With the transition at `now`. A run that resumes goes on; it does not begin another time."""
    runs = after.type == StateType.RUNNING
    goes_on = is_resuming or (before is not None and before.type == StateType.PAUSED)
    since = progress.running_since
    ran = 0.0 if since is None else max(0.0, (now - since).total_seconds())
    started_at = progress.started_at
    if started_at is None and (runs or after.is_final):
        started_at = now
    return Progress(
        run_count=progress.run_count + (runs and not goes_on),
        started_at=started_at,
        ended_at=now if after.is_final else None,
        running_since=now if runs else None,
        running_for=progress.running_for + ran,
    )
