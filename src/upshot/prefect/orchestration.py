"""What becomes of a state that a client proposes for a run of a flow: pure rules, in order."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, auto
from math import ceil
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from upshot.prefect.states import AWAITING_RETRY, LATE, State, StateType, new_state

_STARTING: Final = (StateType.PENDING, StateType.RUNNING)
_NO_NEWS: Final = (StateType.CANCELLING, StateType.PAUSED)
_NOT_AGAIN: Final = (StateType.CANCELLING, StateType.PAUSED, StateType.CRASHED)


class Policy(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a run is orchestrated: its retries, and which of its pauses have been."""

    retries: int | None = None
    retry_delay: float | None = None
    pause_keys: frozenset[str] = frozenset()
    resuming: bool = False
    retry_type: str | None = None


class Room(Enum):
    """Whether a run that no process has can be begun."""

    FREE = auto()
    FULL = auto()
    """As many of its deployment are under way as may be."""
    WAITS = auto()
    """Another run of its key has to end first."""
    PAUSED = auto()
    """Its deployment is paused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A run of which a state is proposed. `has_process`: somebody works on it, as far as is known.

    `run_count` is how many times it has entered Running.
    """

    state: State
    policy: Policy
    run_count: int
    has_process: bool
    is_deployed: bool
    is_subflow: bool
    is_elsewhere: bool = False
    """A worker of another kind has it, which is not asked here."""
    room: Room = Room.FREE


@dataclass(frozen=True, slots=True)
class Accept:
    """The state is the run's from now on."""

    state: State
    policy: Policy


@dataclass(frozen=True, slots=True)
class Reject:
    """Another state is, or it stays as it was (None); the client goes on from there.

    `keeps_process`: the process that proposed goes on, although the run is scheduled.
    """

    reason: str
    state: State | None = None
    policy: Policy | None = None
    keeps_process: bool = False


@dataclass(frozen=True, slots=True)
class Abort:
    """Nothing changes, and the client is to stop."""

    reason: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing changes, and the client is to ask again after so many seconds."""

    seconds: int
    reason: str


Decision = Accept | Reject | Abort | Wait


def decide(run: Subject, proposed: State, *, now: datetime, force: bool = False) -> Decision:
    """What becomes of a proposed state. `force` passes over what protects the run from mistakes."""
    if (
        run.is_elsewhere
        and proposed.type != StateType.CANCELLING
        and not (force and proposed.is_final)
    ):
        return Abort("A worker that is no process of Prefect's has the run.")
    if force:
        return _forced(run, proposed, now)
    if _is_repeated(run.state, proposed):
        return Reject("The run has made this transition already.")
    if run.state.is_final:
        return _after_the_end(run, proposed)
    if run.state.type == StateType.CANCELLING:
        return _while_cancelling(run, proposed, now)
    match proposed.type:
        case StateType.CANCELLING:
            return _cancelling(run, proposed, now)
        case StateType.PAUSED:
            return _pausing(run, proposed)
        case _ if run.state.type == StateType.PAUSED:
            return _resuming(run, proposed, now)
        case StateType.PENDING:
            return _pending(run, proposed)
        case StateType.RUNNING:
            return _running(run, proposed, now)
        case StateType.SCHEDULED:
            return _scheduled(run, proposed)
        case StateType.FAILED if _may_retry(run):
            return _retry(run, proposed, now)
        case _:
            return Accept(proposed, _settled(run.policy, proposed))


def _forced(run: Subject, proposed: State, now: datetime) -> Decision:
    if proposed.type == StateType.CANCELLING and not run.state.is_final:
        return _cancelling(run, proposed, now)
    if run.state.type == proposed.type == StateType.CANCELLED:
        return Reject("The run is cancelled already.")
    if run.state.is_final and proposed.type in _NO_NEWS:
        return Reject(f"The run has ended as {run.state.name} already.")
    if proposed.type == StateType.SCHEDULED and not run.is_deployed:
        return Abort("A run without a deployment cannot be scheduled: nothing would begin it.")
    if proposed.is_suspended and not run.is_deployed:
        return Abort(
            "A run without a deployment cannot be suspended: nothing would begin it again."
        )
    return Accept(proposed, _settled(run.policy, proposed))


def _is_repeated(state: State, proposed: State) -> bool:
    """The client has not heard the answer, and asks again."""
    given = proposed.state_details.get("transition_id")
    return given is not None and given == state.state_details.get("transition_id")


def _after_the_end(run: Subject, proposed: State) -> Decision:
    state = run.state
    if proposed.is_final or proposed.type in _NOT_AGAIN:
        return Abort(f"The run has ended as {state.name} already.")
    if state.type == StateType.COMPLETED and state.has_result:
        return Reject("The run has completed already, with a result.")
    again = replace(run.policy, pause_keys=frozenset(), resuming=False)
    if proposed.type == StateType.SCHEDULED:
        if not run.is_deployed:
            return Abort("A run without a deployment cannot be scheduled: nothing would begin it.")
        return Accept(proposed, replace(again, retry_type="reschedule"))
    if state.type == StateType.CANCELLED or run.is_deployed:
        return Abort(f"The run has ended as {state.name} already; schedule it to run it again.")
    return Accept(proposed, replace(again, retry_type=None))


def _while_cancelling(run: Subject, proposed: State, now: datetime) -> Decision:
    if proposed.type == StateType.CANCELLED:
        return Accept(proposed, _settled(run.policy, proposed))
    if proposed.is_final:
        # A process that is ended by its runner says that it crashed.
        crashed = proposed.type == StateType.CRASHED
        message = (
            "The run was cancelled."
            if crashed
            else f"The run was cancelled while it was about to end as {proposed.name}."
        )
        cancelled = new_state(StateType.CANCELLED, now=now, message=message)
        return Reject("The run is being cancelled.", cancelled)
    if proposed.type == StateType.PENDING:
        return Abort("The run is being cancelled.")
    return Reject("The run is being cancelled.")


def _cancelling(run: Subject, proposed: State, now: datetime) -> Decision:
    if run.has_process:
        return Accept(proposed, run.policy)
    cancelled = new_state(StateType.CANCELLED, now=now, message=proposed.message)
    return Reject("No process works on the run; it is cancelled at once.", cancelled)


def _pausing(run: Subject, proposed: State) -> Decision:
    verb = "suspend" if proposed.is_suspended else "pause"
    if run.state.type != StateType.RUNNING:
        return Reject(f"Cannot {verb} a run that is {run.state.name}, and not running.")
    key = str(proposed.state_details.get("pause_key") or proposed.id)
    if key in run.policy.pause_keys:
        return Reject(f"This {verb} has been already.")
    if proposed.is_suspended and run.is_subflow:
        return Abort("Cannot suspend a subflow; suspend the flow that runs it.")
    if proposed.is_suspended and not run.is_deployed:
        return Abort("Cannot suspend a run without a deployment: nothing would begin it again.")
    return Accept(proposed, replace(run.policy, pause_keys=run.policy.pause_keys | {key}))


def _resuming(run: Subject, proposed: State, now: datetime) -> Decision:
    state = run.state
    if proposed.is_final:
        return Accept(proposed, _settled(run.policy, proposed))
    if proposed.type not in (StateType.RUNNING, StateType.SCHEDULED):
        return Reject(f"A run that is {state.name} cannot become {proposed.name}.")
    if proposed.type == StateType.RUNNING and state.is_suspended:
        return Reject("The run is suspended; it is scheduled again when somebody resumes it.")
    if proposed.type == StateType.SCHEDULED and not run.is_deployed:
        return Reject("A run without a deployment cannot be scheduled: nothing would begin it.")
    if state.pause_timeout is not None and state.pause_timeout < now:
        return Reject("The pause has timed out.", expired(state, now=now))
    if proposed.type == StateType.RUNNING:
        return Accept(proposed, run.policy)
    return Accept(proposed, replace(run.policy, resuming=True))


def expired(state: State, *, now: datetime) -> State:
    """What becomes of a run whose pause has timed out."""
    return new_state(
        StateType.FAILED, now=now, message=f"The run was {state.name.lower()} and never resumed."
    )


def _pending(run: Subject, proposed: State) -> Decision:
    state = run.state
    if state.type == StateType.PENDING and proposed.name not in (state.name, "Pending"):
        return Accept(_carried(state, proposed), run.policy)
    if run.has_process or state.type != StateType.SCHEDULED:
        return Abort(f"The run is {state.name} already, and cannot become {proposed.name}.")
    return _without_room(run.room) or Accept(_carried(state, proposed), run.policy)


def _running(run: Subject, proposed: State, now: datetime) -> Decision:
    state = run.state
    if state.type in (StateType.SCHEDULED, StateType.PENDING) and state.scheduled_time is not None:
        early = ceil((state.scheduled_time - now) / timedelta(seconds=1))
        if early > 0:
            return Wait(early, f"The run is not due before {state.scheduled_time.isoformat()}.")
    full = None if run.has_process else _without_room(run.room)
    return full or Accept(proposed, _settled(run.policy, proposed))


def _without_room(room: Room) -> Reject | None:
    match room:
        case Room.FREE:
            return None
        case Room.FULL:
            return Reject("Its deployment's limit of concurrent runs is reached.")
        case Room.WAITS:
            return Reject("Another run of its key has not ended, and they may not overlap.")
        case Room.PAUSED:
            return Reject("Its deployment is paused.")


def _scheduled(run: Subject, proposed: State) -> Decision:
    if proposed.name == LATE and run.state.type != StateType.SCHEDULED:
        return Reject("Only a scheduled run can be late.")
    if proposed.name == LATE and run.state.name == LATE:
        return Reject("The run is late already.")
    if not run.is_deployed:
        return Abort("A run without a deployment cannot be scheduled: nothing would begin it.")
    return Accept(proposed, replace(run.policy, resuming=False))


def _may_retry(run: Subject) -> bool:
    """The first Running is no retry."""
    retries = run.policy.retries or 0
    return run.state.type == StateType.RUNNING and retries > 0 and run.run_count <= retries


def _retry(run: Subject, proposed: State, now: datetime) -> Reject:
    due = new_state(
        StateType.SCHEDULED,
        now=now,
        name=AWAITING_RETRY,
        message=proposed.message,
        scheduled_time=now + timedelta(seconds=run.policy.retry_delay or 0),
        data=proposed.data,
    )
    policy = replace(run.policy, pause_keys=frozenset(), resuming=False, retry_type="in_process")
    return Reject("It is tried again.", due, policy, keeps_process=True)


def _carried(state: State, proposed: State) -> State:
    """With the time that the run was scheduled for, before which it does not begin."""
    given = state.state_details.get("scheduled_time")
    return proposed if given is None else proposed.with_details(scheduled_time=given)


def _settled(policy: Policy, state: State) -> Policy:
    """A run that runs, or has ended, is not resuming any more."""
    if state.is_final or state.type == StateType.RUNNING:
        return replace(policy, resuming=False)
    return policy
