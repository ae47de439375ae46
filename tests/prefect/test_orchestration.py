"""The rules of transitions: every pair of states, and what each rule is for."""

from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pytest
from msgspec import structs

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
from upshot.prefect.states import AWAITING_RETRY, FINAL, RESUMING, State, StateType, new_state

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
S = StateType
WITHOUT_PROCESS = (S.SCHEDULED, *sorted(FINAL))


def state(type_: StateType, *, name: str | None = None, data: Any = None, **details: Any) -> State:
    return new_state(type_, now=NOW, name=name, data=data).with_details(**details)


def run(type_: StateType, **more: Any) -> Subject:
    """A deployed run in this state."""
    given: dict[str, Any] = {
        "state": state(type_),
        "policy": Policy(),
        "run_count": 1,
        "has_process": type_ not in WITHOUT_PROCESS,
        "is_deployed": True,
        "is_subflow": False,
        **more,
    }
    return Subject(**given)


def suspended(**details: Any) -> State:
    return state(S.PAUSED, name="Suspended", pause_reschedule=True, **details)


def became(decision: Decision) -> str:
    """The decision in a word: what the run is then, or what the client is told to do."""
    match decision:
        case Accept(accepted):
            return accepted.type.value
        case Reject(_, None):
            return "stays"
        case Reject(_, rejected):
            assert rejected is not None
            return f"is {rejected.type.value}"
        case Abort():
            return "abort"
        case Wait():
            return "wait"


TABLE = {
    # from: SCHEDULED PENDING RUNNING COMPLETED FAILED CANCELLED CRASHED PAUSED CANCELLING
    S.SCHEDULED: ". . . . . . . stays is:CANCELLED",
    S.PENDING: ". abort . . . . . stays .",
    S.RUNNING: ". abort . . . . . . .",
    S.COMPLETED: ". abort abort abort abort abort abort abort abort",
    S.FAILED: ". abort abort abort abort abort abort abort abort",
    S.CANCELLED: ". abort abort abort abort abort abort abort abort",
    S.CRASHED: ". abort abort abort abort abort abort abort abort",
    S.PAUSED: ". stays . . . . . stays .",
    S.CANCELLING: "stays abort stays is:CANCELLED is:CANCELLED . is:CANCELLED stays stays",
}


@pytest.mark.parametrize(("before", "after"), list(product(S, S)))
def test_every_pair_of_states_of_a_deployed_run(before: StateType, after: StateType) -> None:
    expected = TABLE[before].split()[list(S).index(after)].replace(":", " ")
    decision = decide(run(before), state(after), now=NOW)
    assert became(decision) == (after.value if expected == "." else expected)


@pytest.mark.parametrize(("before", "after"), list(product(S, S)))
def test_force_passes_over_all_but_what_cannot_be(before: StateType, after: StateType) -> None:
    decision = decide(run(before), state(after), now=NOW, force=True)
    if (before in FINAL and after in (S.CANCELLING, S.PAUSED)) or before == after == S.CANCELLED:
        assert became(decision) == "stays"
    elif before == S.SCHEDULED and after == S.CANCELLING:
        assert became(decision) == "is CANCELLED"
    else:
        assert became(decision) == after.value


@pytest.mark.parametrize(("before", "after", "force"), list(product(S, S, (True, False))))
def test_no_decision_loses_the_run_or_leaves_it_without_anybody_to_begin_it(
    before: StateType, after: StateType, force: bool
) -> None:
    ad_hoc = run(before, is_deployed=False)
    decision = decide(ad_hoc, state(after), now=NOW, force=force)
    written = decision.state if isinstance(decision, Accept | Reject) else None
    assert written is None or written.type != S.SCHEDULED
    assert written is None or not written.is_suspended


@pytest.mark.parametrize("type_", sorted(FINAL - {S.CANCELLED}))
@pytest.mark.parametrize("again", [S.PENDING, S.RUNNING])
def test_an_ad_hoc_run_that_has_ended_begins_again_in_place(
    type_: StateType, again: StateType
) -> None:
    policy = Policy(retries=1, pause_keys=frozenset("a"), resuming=True, retry_type="reschedule")
    ended = run(type_, is_deployed=False, policy=policy)
    decision = decide(ended, state(again), now=NOW)
    assert decision == Accept(decision.state, Policy(retries=1))  # type: ignore[union-attr, arg-type]


def test_a_cancelled_ad_hoc_run_does_not_begin_again() -> None:
    decision = decide(run(S.CANCELLED, is_deployed=False), state(S.RUNNING), now=NOW)
    assert isinstance(decision, Abort)


def test_a_run_that_completed_with_a_result_is_not_run_again() -> None:
    done = state(S.COMPLETED, data={"type": "reference", "storage_key": "k"})
    assert decide(run(S.COMPLETED, state=done), state(S.SCHEDULED), now=NOW) == Reject(
        "The run has completed already, with a result."
    )
    gone = state(S.COMPLETED, data={"type": "unpersisted"})
    decision = decide(run(S.COMPLETED, state=gone), state(S.SCHEDULED), now=NOW)
    assert became(decision) == "SCHEDULED"


def test_a_request_sent_again_changes_nothing() -> None:
    sent = state(S.PENDING, transition_id="6d6c9ba0-4fb5-4c70-9a0b-3a8f2b1a7a11")
    decision = decide(run(S.PENDING, state=sent), sent, now=NOW)
    assert decision == Reject("The run has made this transition already.")


def test_of_two_runners_one_begins() -> None:
    assert became(decide(run(S.SCHEDULED), state(S.PENDING), now=NOW)) == "PENDING"
    assert became(decide(run(S.PENDING), state(S.PENDING), now=NOW)) == "abort"
    assert became(decide(run(S.RUNNING), state(S.PENDING), now=NOW)) == "abort"


def test_a_runner_may_say_how_far_it_is() -> None:
    decision = decide(run(S.PENDING), state(S.PENDING, name="Submitting"), now=NOW)
    assert became(decision) == "PENDING"


def test_a_run_that_is_retried_in_its_process_is_no_other_runners() -> None:
    waiting = run(S.SCHEDULED, has_process=True)
    assert became(decide(waiting, state(S.PENDING), now=NOW)) == "abort"


@pytest.mark.parametrize("type_", [S.PENDING, S.RUNNING])
@pytest.mark.parametrize("room", [Room.FULL, Room.WAITS, Room.PAUSED])
def test_without_room_a_run_stays_in_line(type_: StateType, room: Room) -> None:
    assert became(decide(run(S.SCHEDULED, room=room), state(type_), now=NOW)) == "stays"


def test_a_run_that_a_process_has_needs_no_room() -> None:
    decision = decide(run(S.PENDING, room=Room.FULL), state(S.RUNNING), now=NOW)
    assert became(decision) == "RUNNING"


@pytest.mark.parametrize(
    ("early", "seconds"),
    [(timedelta(seconds=9.1), 10), (timedelta(milliseconds=1), 1), (timedelta(seconds=3), 3)],
)
@pytest.mark.parametrize("type_", [S.SCHEDULED, S.PENDING])
def test_nothing_runs_before_it_is_due(type_: StateType, early: timedelta, seconds: int) -> None:
    due = state(type_, scheduled_time=(NOW + early).isoformat())
    decision = decide(run(type_, state=due), state(S.RUNNING), now=NOW)
    assert isinstance(decision, Wait)
    assert decision.seconds == seconds


def test_when_it_is_due_is_not_forgotten_while_pending() -> None:
    due = NOW + timedelta(seconds=5)
    scheduled = state(S.SCHEDULED, scheduled_time=due.isoformat())
    decision = decide(run(S.SCHEDULED, state=scheduled), state(S.PENDING), now=NOW)
    assert isinstance(decision, Accept)
    assert decision.state.scheduled_time == due


@pytest.mark.parametrize(
    ("retries", "run_count", "expected"),
    [(None, 1, "FAILED"), (0, 0, "FAILED"), (2, 1, "is SCHEDULED"), (2, 2, "is SCHEDULED"),
     (2, 3, "FAILED")],
)  # fmt: skip
def test_a_failed_run_is_tried_again_as_often_as_its_flow_says(
    retries: int | None, run_count: int, expected: str
) -> None:
    policy = Policy(retries=retries, retry_delay=30, pause_keys=frozenset("a"))
    failing = run(S.RUNNING, policy=policy, run_count=run_count)
    assert became(decide(failing, state(S.FAILED), now=NOW)) == expected


def test_a_retry_waits_in_its_process() -> None:
    policy = Policy(retries=2, retry_delay=30, pause_keys=frozenset("a"), resuming=True)
    proposed = structs.replace(state(S.FAILED), message="boom")
    decision = decide(run(S.RUNNING, policy=policy), proposed, now=NOW)
    assert isinstance(decision, Reject)
    assert decision.keeps_process
    assert decision.state is not None
    assert (decision.state.name, decision.state.message) == (AWAITING_RETRY, "boom")
    assert decision.state.scheduled_time == NOW + timedelta(seconds=30)
    assert decision.policy == Policy(retries=2, retry_delay=30, retry_type="in_process")


def test_only_what_runs_is_tried_again() -> None:
    policy = Policy(retries=2)
    assert became(decide(run(S.PENDING, policy=policy), state(S.FAILED), now=NOW)) == "FAILED"
    assert became(decide(run(S.RUNNING, policy=policy), state(S.CRASHED), now=NOW)) == "CRASHED"


def test_a_pause_happens_once() -> None:
    decision = decide(run(S.RUNNING), state(S.PAUSED, pause_key="1"), now=NOW)
    assert isinstance(decision, Accept)
    assert decision.policy.pause_keys == {"1"}
    again = run(S.RUNNING, policy=decision.policy)
    assert became(decide(again, state(S.PAUSED, pause_key="1"), now=NOW)) == "stays"
    assert became(decide(again, state(S.PAUSED, pause_key="2"), now=NOW)) == "PAUSED"


@pytest.mark.parametrize("more", [{"is_subflow": True}, {"is_deployed": False}])
def test_who_cannot_be_begun_again_is_not_suspended(more: dict[str, bool]) -> None:
    assert became(decide(run(S.RUNNING, **more), suspended(), now=NOW)) == "abort"
    assert became(decide(run(S.RUNNING, **more), state(S.PAUSED), now=NOW)) == "PAUSED"


def test_a_suspended_run_is_resumed_by_being_scheduled() -> None:
    held = run(S.PAUSED, state=suspended(), has_process=False)
    decision = decide(held, state(S.SCHEDULED, name=RESUMING), now=NOW)
    assert isinstance(decision, Accept)
    assert decision.policy.resuming
    assert became(decide(held, state(S.RUNNING), now=NOW)) == "stays"
    assert became(decide(held, state(S.PENDING), now=NOW)) == "stays"
    assert became(decide(held, state(S.COMPLETED), now=NOW)) == "COMPLETED"
    assert became(decide(held, state(S.CANCELLING), now=NOW)) == "is CANCELLED"


def test_a_run_that_runs_again_is_not_resuming_any_more() -> None:
    pending = run(S.PENDING, policy=Policy(resuming=True))
    decision = decide(pending, state(S.RUNNING), now=NOW)
    assert isinstance(decision, Accept)
    assert not decision.policy.resuming


@pytest.mark.parametrize("proposed", [S.RUNNING, S.SCHEDULED])
def test_a_pause_that_timed_out_fails_the_run(proposed: StateType) -> None:
    before = (NOW - timedelta(seconds=1)).isoformat()
    paused = state(S.PAUSED, pause_timeout=before)
    decision = decide(run(S.PAUSED, state=paused), state(proposed), now=NOW)
    assert became(decision) == "is FAILED"
    assert became(decide(run(S.PAUSED, state=paused), state(S.CANCELLING), now=NOW)) == "CANCELLING"


def test_only_a_scheduled_run_is_late_and_once() -> None:
    late = state(S.SCHEDULED, name="Late")
    assert became(decide(run(S.SCHEDULED), late, now=NOW)) == "SCHEDULED"
    assert became(decide(run(S.SCHEDULED, state=late), late, now=NOW)) == "stays"
    assert became(decide(run(S.RUNNING), late, now=NOW)) == "stays"


@pytest.mark.parametrize("type_", list(S))
def test_what_another_kind_of_worker_has_is_left_to_it(type_: StateType) -> None:
    elsewhere = run(S.RUNNING, has_process=False, is_elsewhere=True)
    decision = decide(elsewhere, state(type_), now=NOW)
    assert became(decision) == ("is CANCELLED" if type_ == S.CANCELLING else "abort")
    forced = became(decide(elsewhere, state(type_), now=NOW, force=True))
    expected = type_.value if type_ in FINAL else "abort"
    assert forced == ("is CANCELLED" if type_ == S.CANCELLING else expected)
