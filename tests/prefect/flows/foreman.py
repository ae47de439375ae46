"""Has every flow of workshop.py run, each as its users would, and says what became of it."""

import asyncio
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

from prefect import flow
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, LogFilter
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.flow_runs import resume_flow_run, wait_for_flow_run
from prefect.states import Cancelled, Cancelling

POLLS, POLL_SECONDS = 400, 0.25


async def main(directory: Path) -> None:
    async with get_client() as client:
        checks = (computes, stumbles, gives_up, is_told, is_resumed, is_cancelled, crashes,
                  delegates, never_begins, runs_later, runs_here)  # fmt: skip
        outcomes = await asyncio.gather(
            *(check(client, directory) for check in checks), return_exceptions=True
        )
    for check, outcome in zip(checks, outcomes, strict=True):
        print(f"{check.__name__}: {'ok' if outcome is None else repr(outcome)}")


async def computes(client: PrefectClient, _: Path) -> None:
    run = await started("compute", number=3)
    ended = await wait_for_flow_run(run.id, timeout=100, poll_interval=1)
    assert ended.state.is_completed(), ended.state
    await logged(client, run.id, "computed 24")
    await tasks_told(client, {"double"})
    subflows = await client.read_flow_runs(
        flow_run_filter=FlowRunFilter(parent_flow_run_id={"any_": [run.id]})
    )
    assert [one.state.is_completed() for one in subflows] == [True], subflows


async def stumbles(client: PrefectClient, _: Path) -> None:
    run = await started("stumble", succeeds_at=2)
    ended = await wait_for_flow_run(run.id, timeout=100, poll_interval=1)
    assert ended.state.is_completed(), ended.state
    assert ended.run_count == 2
    await logged(client, run.id, "this is run 2")


async def gives_up(client: PrefectClient, _: Path) -> None:
    run = await started("stumble", succeeds_at=9)
    ended = await wait_for_flow_run(run.id, timeout=100, poll_interval=1)
    assert ended.state.is_failed(), ended.state
    assert ended.run_count == 3
    assert "not at run 3" in ended.state.message, ended.state


async def is_told(client: PrefectClient, _: Path) -> None:
    run = await started("ask")
    await in_state(client, run.id, "Paused")
    await told(run.id, value=42)
    await in_state(client, run.id, "Completed")
    await logged(client, run.id, "was told 42")


async def is_resumed(client: PrefectClient, _: Path) -> None:
    run = await started("sleep-on-it")
    await in_state(client, run.id, "Suspended")
    await resume_flow_run(run.id)
    await in_state(client, run.id, "Completed")
    await logged(client, run.id, "goes on")


async def is_cancelled(client: PrefectClient, directory: Path) -> None:
    marker = directory / "lingers"
    run = await started("linger", marker=str(marker))
    await until(marker.exists)
    await client.set_flow_run_state(run.id, Cancelling(message="not needed"))
    await in_state(client, run.id, "Cancelled")


async def crashes(client: PrefectClient, _: Path) -> None:
    run = await started("crash")
    await in_state(client, run.id, "Crashed")


async def delegates(client: PrefectClient, _: Path) -> None:
    run = await started("delegate", number=5)
    await in_state(client, run.id, "Completed")
    children = await client.read_flow_runs(
        flow_run_filter=FlowRunFilter(parent_flow_run_id={"any_": [run.id]})
    )
    assert [one.parameters for one in children] == [{"number": 5}], children


async def never_begins(client: PrefectClient, _: Path) -> None:
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    run = await started("compute", scheduled_time=tomorrow, number=1)
    assert run.state.is_scheduled(), run.state
    await client.set_flow_run_state(run.id, Cancelled())
    await in_state(client, run.id, "Cancelled")


async def runs_later(client: PrefectClient, _: Path) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=4)
    run = await started("compute", scheduled_time=soon, number=1)
    await in_state(client, run.id, "Completed")
    ended = await client.read_flow_run(run.id)
    assert ended.start_time >= soon, (ended.start_time, soon)


async def runs_here(client: PrefectClient, _: Path) -> None:
    """A flow that is called, and that no deployment knows."""

    @flow(log_prints=True)
    async def improvise(word: str) -> None:
        print(f"says {word}")

    state = await improvise("hello", return_state=True)
    assert state.is_completed(), state
    run_id = state.state_details.flow_run_id
    assert (await client.read_flow_run(run_id)).state.is_completed()
    await logged(client, run_id, "says hello")


async def started(name: str, *, scheduled_time: datetime | None = None, **parameters) -> FlowRun:
    """A run of that deployment, which goes on while others start."""
    return await run_deployment(
        f"{name}/{name}", parameters=parameters, scheduled_time=scheduled_time, timeout=0
    )


async def in_state(client: PrefectClient, run_id: UUID, name: str) -> None:
    states: list[str] = []
    for _ in range(POLLS):
        run = await client.read_flow_run(run_id)
        if run.state.name not in states:
            states.append(run.state.name)
        if run.state.name == name:
            return
        await asyncio.sleep(POLL_SECONDS)
    raise AssertionError(f"{run.name} was {states}, and never {name}: {run.state}")


async def logged(client: PrefectClient, run_id: UUID, message: str) -> None:
    wanted = LogFilter(flow_run_id={"any_": [run_id]})
    found = []
    for _ in range(POLLS):
        found = [entry.message for entry in await client.read_logs(wanted)]
        if message in found:
            return
        await asyncio.sleep(POLL_SECONDS)
    raise AssertionError(f"{message!r} is not among {found}")


async def tasks_told(client: PrefectClient, names: set[str]) -> None:
    """Task runs send their states as events."""
    wanted = {"filter": {"event": {"name": ["prefect.task-run.Completed"]}}}
    told: set[str] = set()
    for _ in range(POLLS):
        answer = await client._client.post("/events/filter", json=wanted)
        resources = [event["resource"] for event in answer.json()["events"]]
        told = {resource["prefect.resource.name"].split("-")[0] for resource in resources}
        if told >= names:
            return
        await asyncio.sleep(POLL_SECONDS)
    raise AssertionError(f"only {told} told that they are completed")


async def told(run_id: UUID, **value: int) -> None:
    """A flow says that it is paused, and only then what it waits for."""
    for _ in range(POLLS):
        try:
            return await resume_flow_run(run_id, run_input=value)
        except RuntimeError as error:
            if "Try again" not in str(error):
                raise
        await asyncio.sleep(POLL_SECONDS)
    raise AssertionError(f"{run_id} never said what it waits for")


async def until(holds) -> None:
    for _ in range(POLLS):
        if holds():
            return
        await asyncio.sleep(POLL_SECONDS)
    raise AssertionError(f"{holds} did not come true")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
