"""Task runs that clients register, and what is derived of runs that nobody has told of."""

from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.api.conftest import Api
from tests.prefect.runs import Flows
from upshot.core.runs import RunState
from upshot.prefect.run_names import name_of
from upshot.prefect.standing import Progress, Standing, advanced, seen_state
from upshot.prefect.states import FINAL, State, StateType, new_state

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
S = StateType


@pytest.fixture
def flows(api: Api) -> Flows:
    return Flows(api)


async def registered(flows: Flows, **more: Any) -> dict[str, Any]:
    body = {"task_key": "t", "dynamic_key": "0", **more}
    made: dict[str, Any] = await flows.posted("/task_runs/", body)
    return made


@pytest.mark.anyio
async def test_a_task_run_is_registered_once(flows: Flows) -> None:
    run_id = await flows.ad_hoc()
    first = await registered(flows, flow_run_id=run_id, name="one", tags=["a"])
    again = await registered(flows, flow_run_id=run_id, name="two")
    assert first["id"] == again["id"]
    assert (again["name"], again["tags"], again["state_type"]) == ("one", ["a"], "PENDING")
    other = await registered(flows, flow_run_id=run_id, dynamic_key="1", id=str(uuid4()))
    listed = await flows.posted("/task_runs/filter", {"flow_runs": {"id": {"any_": [run_id]}}})
    assert [one["id"] for one in listed] == [other["id"], first["id"]]
    assert await flows.posted("/task_runs/count", {"task_runs": {"name": {"any_": ["one"]}}}) == 1


@pytest.mark.anyio
async def test_a_task_run_takes_the_states_it_is_given_up_to_its_end(flows: Flows) -> None:
    path = f"/task_runs/{(await registered(flows))['id']}"

    async def propose(type_: str, **more: Any) -> str:
        body = {"state": {"type": type_, "state_details": {}}, **more}
        return str((await flows.posted(f"{path}/set_state", body))["status"])

    assert await propose("RUNNING") == "ACCEPT"
    assert await propose("COMPLETED") == "ACCEPT"
    assert await propose("CRASHED") == "ABORT"
    assert await propose("CRASHED", force=True) == "ACCEPT"
    shown = await flows.api.get(f"/api{path}")
    assert (shown["state_type"], shown["run_count"]) == ("CRASHED", 1)
    assert shown["start_time"] <= shown["end_time"]
    renamed = await flows.api.client.patch(f"/api{path}", json={"name": "renamed"})
    assert renamed.status_code == 204
    assert (await flows.api.get(f"/api{path}"))["name"] == "renamed"
    assert (await flows.api.client.delete(f"/api{path}")).status_code == 204
    assert (await flows.api.client.get(f"/api{path}")).status_code == 404


@pytest.mark.anyio
@pytest.mark.parametrize(
    "body",
    [
        {"task_key": "t"},
        {"task_key": "t", "dynamic_key": "0", "flow_run_id": str(uuid4())},
        {"task_key": "t", "dynamic_key": "0", "state": {"type": "MOODY"}},
        {"task_key": "t" * 1_000, "dynamic_key": "0"},
    ],
)
async def test_a_task_run_of_nothing_is_refused(flows: Flows, body: Any) -> None:
    answer = await flows.post("/task_runs", body)
    assert answer.status_code in (404, 422), answer.text


@pytest.mark.anyio
async def test_a_flows_run_that_is_run_in_another_takes_after_it(flows: Flows) -> None:
    deployment = await flows.deployment()
    parent = await flows.running(await flows.run(deployment))
    await flows.conn.execute("UPDATE runs SET depth = 3 WHERE id = $1", parent)
    task = await registered(flows, flow_run_id=parent)
    child = await flows.run(deployment, parent_task_run_id=task["id"])
    assert await flows.conn.fetchval("SELECT depth FROM runs WHERE id = $1", child) == 3
    await flows.running(child)
    told = await flows.told(prefix="prefect.flow-run.Running")
    assert '"depth":3' in told[-1]["payload"]
    assert (await flows.api.get(f"/api/task_runs/{task['id']}"))["state_type"] == "RUNNING"


def standing(state: RunState, **more: Any) -> Standing:
    given: dict[str, Any] = {
        "run_id": UUID(int=7),
        "state": state,
        "created_at": NOW,
        "due_at": None,
        "started_at": None,
        "finished_at": None,
        "error": None,
        "in_process": False,
        **more,
    }
    return Standing(**given)


def said(type_: StateType, **details: Any) -> State:
    return new_state(type_, now=NOW).with_details(**details)


OPEN = frozenset(S) - FINAL


@pytest.mark.parametrize("type_", list(S))
def test_what_a_process_said_holds_as_long_as_it_has_the_run(type_: StateType) -> None:
    held = standing(RunState.RUNNING, in_process=True, started_at=NOW)
    seen = seen_state(held, said(type_), ended_at=None, now=NOW)
    assert seen.type == (type_ if type_ in OPEN else S.RUNNING)
    elsewhere = standing(RunState.RUNNING, started_at=NOW)
    assert seen_state(elsewhere, said(type_), ended_at=None, now=NOW).type == S.RUNNING


@pytest.mark.parametrize(
    ("type_", "state"),
    list(product(S, (RunState.COMPLETED, RunState.FAILED, RunState.CANCELLED))),
)
def test_a_run_that_has_ended_is_seen_as_upshot_has_it(type_: StateType, state: RunState) -> None:
    ended = standing(state, finished_at=NOW, error="because")
    kinds = {
        RunState.COMPLETED: {S.COMPLETED},
        RunState.FAILED: {S.FAILED, S.CRASHED},
        RunState.CANCELLED: {S.CANCELLED},
    }[state]
    one = said(type_)
    seen = seen_state(ended, one, ended_at=NOW, now=NOW)
    assert seen.type in kinds
    assert (seen == one) == (type_ in kinds)
    # What was said of an end before this one is not said of this one.
    later = standing(state, finished_at=NOW + timedelta(seconds=1), error="because")
    derived = seen_state(later, one, ended_at=NOW, now=NOW)
    assert (derived.type, derived.message) == (S(state.value.upper()), "because")


@pytest.mark.parametrize("state", [RunState.SCHEDULED, RunState.RETRYING])
@pytest.mark.parametrize("type_", [None, *S])
def test_a_run_in_line_is_scheduled_whatever_was_said(
    type_: StateType | None, state: RunState
) -> None:
    due = NOW + timedelta(minutes=1)
    waiting = standing(state, due_at=due)
    one = None if type_ is None else said(type_, scheduled_time=NOW.isoformat())
    seen = seen_state(waiting, one, ended_at=None, now=NOW)
    assert (seen.type, seen.scheduled_time) == (S.SCHEDULED, due)
    if type_ != S.SCHEDULED:
        assert seen.name == ("AwaitingRetry" if state == RunState.RETRYING else "Scheduled")
    again = seen_state(waiting, one, ended_at=None, now=NOW + timedelta(seconds=9))
    assert again.id == seen.id


def test_a_suspended_run_stays_so_until_it_is_due_again() -> None:
    suspended = said(S.PAUSED, pause_reschedule=True)
    asleep = standing(RunState.RETRYING)
    assert seen_state(asleep, suspended, ended_at=None, now=NOW) == suspended
    awake = standing(RunState.RETRYING, due_at=NOW)
    assert seen_state(awake, suspended, ended_at=None, now=NOW).name == "Resuming"


@pytest.mark.parametrize(("seconds", "name"), [(15, "Scheduled"), (16, "Late"), (-5, "Scheduled")])
@pytest.mark.parametrize("before", ["Scheduled", "Late"])
def test_a_run_is_late_while_it_is_overdue(seconds: int, name: str, before: str) -> None:
    waiting = standing(RunState.SCHEDULED, due_at=NOW - timedelta(seconds=seconds))
    one = new_state(S.SCHEDULED, now=NOW, name=before)
    assert seen_state(waiting, one, ended_at=None, now=NOW).name == name


def test_what_a_run_adds_up_to() -> None:
    progress, at, before = Progress(), NOW, None
    for type_, seconds in (
        (S.PENDING, 5),
        (S.RUNNING, 10),
        (S.PAUSED, 100),
        (S.RUNNING, 10),
        (S.FAILED, 0),
    ):
        after = said(type_)
        progress = advanced(progress, before=before, after=after, is_resuming=False, now=at)
        before, at = after, at + timedelta(seconds=seconds)
    assert progress == Progress(
        run_count=1,
        started_at=NOW + timedelta(seconds=5),
        ended_at=NOW + timedelta(seconds=125),
        running_since=None,
        running_for=20.0,
    )


def test_a_run_that_resumes_does_not_begin_another_time() -> None:
    once = Progress(run_count=1)
    running, pending = said(S.RUNNING), said(S.PENDING)
    resumed = advanced(once, before=pending, after=running, is_resuming=True, now=NOW)
    again = advanced(once, before=pending, after=running, is_resuming=False, now=NOW)
    assert (resumed.run_count, again.run_count) == (1, 2)


def test_a_run_that_fails_before_it_runs_began_when_it_ended() -> None:
    progress = advanced(Progress(), before=None, after=said(S.CRASHED), is_resuming=False, now=NOW)
    assert progress.started_at == progress.ended_at == NOW


def test_a_name_is_made_of_the_id() -> None:
    run_id = uuid4()
    assert name_of(run_id) == name_of(run_id)
    assert len({name_of(uuid4()) for _ in range(100)}) > 50
