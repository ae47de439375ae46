"""Runs are worked on once, their leases renewed, their ends reported, whatever the server does."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from tests.sdk.fake import Answer, FakeServer, offered
from upshot.sdk.api import Api
from upshot.sdk.calling import Completed, Failed, Outcome, Stopped
from upshot.sdk.executions import Executions
from upshot.sdk.run import Offer, Run
from upshot.sdk.server import Server

pytestmark = pytest.mark.anyio


class Work:
    """What a test has the runs do: wait until they are let go, then end so."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.outcome: Outcome = Completed("done")
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self, run: Run, parameters: Mapping[str, Any]) -> Outcome:
        self.calls.append(run.id)
        task = asyncio.current_task()
        assert task is not None
        run.stops_by(task.cancel)
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            return Stopped()
        return self.outcome


@pytest.fixture
async def fake() -> AsyncIterator[FakeServer]:
    async with FakeServer() as server:
        yield server


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
async def executions(fake: FakeServer, work: Work) -> AsyncIterator[Executions]:
    async with Api(Server(url=fake.url, api_key=None)) as api:
        executions = Executions(api, work, limit=2, heartbeat_every=0.02)
        yield executions
        await executions.end(within=0)


def offer(**more: Any) -> Offer:
    return Offer.read(offered("d", **more))


async def test_a_run_that_completes_is_reported_with_its_lease(
    fake: FakeServer, executions: Executions
) -> None:
    executions.take(offer(run_id="a", lease="l"))
    assert await fake.ended("a") == {"lease": "l", "state": "completed", "result": "done"}
    await executions.fewer_than(1)


async def test_the_lease_is_renewed_while_the_work_goes_on(
    fake: FakeServer, executions: Executions, work: Work
) -> None:
    work.go.clear()
    executions.take(offer(run_id="a", lease="l"))
    await fake.until(lambda: len(fake.said("a")) >= 3)
    assert set(map(str, fake.said("a"))) == {"{'lease': 'l', 'state': 'running'}"}
    work.go.set()
    await fake.ended("a")


async def test_a_run_offered_again_while_it_is_worked_on_goes_on_under_the_new_lease(
    fake: FakeServer, executions: Executions, work: Work
) -> None:
    fake.on_report = lambda run, report: LOST if report["lease"] == "old" else None
    work.go.clear()
    executions.take(offer(run_id="a", lease="old"))
    await fake.until(lambda: fake.said("a"))
    executions.take(offer(run_id="a", lease="new"))
    await fake.until(lambda: [one for one in fake.said("a") if one["lease"] == "new"])
    work.go.set()
    assert (await fake.ended("a"))["lease"] == "new"
    assert work.calls == ["a"]


async def test_a_run_whose_end_was_not_heard_is_reported_again_and_not_run_again(
    fake: FakeServer, executions: Executions, work: Work
) -> None:
    fake.on_report = lambda run, report: LOST if report["lease"] == "old" else None
    for outcome, state in ((Completed(7), "completed"), (Failed("no"), "failed")):
        work.outcome = outcome
        executions.take(offer(run_id=state, lease="old"))
        await executions.fewer_than(1)
        executions.take(offer(run_id=state, lease="new"))
        await executions.fewer_than(1)
        assert [one["lease"] for one in fake.said(state, state=state)] == ["old", "new"]
    assert work.calls == ["completed", "failed"]


async def test_a_failed_run_that_somebody_retries_is_run_again(
    fake: FakeServer, executions: Executions, work: Work
) -> None:
    work.outcome = Failed("no")
    executions.take(offer(run_id="a"))
    await executions.fewer_than(1)
    work.outcome = Completed(7)
    executions.take(offer(run_id="a"))
    await executions.fewer_than(1)
    assert [report["state"] for report in fake.said("a")] == ["failed", "completed"]
    assert work.calls == ["a", "a"]


async def test_a_failure_that_is_to_be_tried_again_is_and_is_not_remembered(
    fake: FakeServer, executions: Executions, work: Work
) -> None:
    fake.on_report = lambda run, report: LOST if report["lease"] == "old" else None
    work.outcome = Failed("away", again=True)
    for lease in ("old", "new"):
        executions.take(offer(run_id="a", lease=lease))
        await executions.fewer_than(1)
    assert fake.said("a")[-1] == {
        "lease": "new",
        "state": "failed",
        "error": "away",
        "retry": True,
    }
    assert work.calls == ["a", "a"]


async def test_an_end_is_told_until_the_server_hears_it(
    fake: FakeServer, executions: Executions
) -> None:
    answers = iter([(503, {"detail": "away"}), (500, {}), (429, {})])
    fake.on_report = lambda run, report: next(answers, None)
    executions.take(offer(run_id="a"))
    await executions.fewer_than(1)
    assert [report["state"] for report in fake.said("a")] == ["completed"] * 4


async def test_a_result_that_the_server_refuses_fails_the_run_with_the_reason(
    fake: FakeServer, executions: Executions
) -> None:
    def refuse(run: str, report: dict[str, Any]) -> Answer | None:
        return (422, {"detail": "holds u0000"}) if report["state"] == "completed" else None

    fake.on_report = refuse
    executions.take(offer(run_id="a"))
    await executions.fewer_than(1)
    (failed,) = fake.said("a", state="failed")
    assert "holds u0000" in failed["error"]


async def test_a_cancelled_run_is_stopped_at_its_next_heartbeat(
    fake: FakeServer, executions: Executions, work: Work
) -> None:
    fake.on_report = lambda run, report: (200, {"state": "cancelled", "cancel": True})
    work.go.clear()
    executions.take(offer(run_id="a"))
    await executions.fewer_than(1)
    assert [report["state"] for report in fake.said("a")] == ["running"]


async def test_a_lease_that_cannot_be_renewed_for_a_while_stops_nothing(
    fake: FakeServer, executions: Executions, work: Work
) -> None:
    fake.on_report = lambda run, report: (503, {}) if report["state"] == "running" else None
    work.go.clear()
    executions.take(offer(run_id="a"))
    await fake.until(lambda: len(fake.said("a")) >= 2)
    work.go.set()
    assert (await fake.ended("a"))["state"] == "completed"


async def test_no_more_than_the_limit_are_worked_on_at_once(
    fake: FakeServer, executions: Executions, work: Work
) -> None:
    work.go.clear()
    for number in range(5):
        executions.take(offer(run_id=str(number)))
    # Each heartbeat shows that all have had their turn to begin.
    await fake.until(lambda: {run for run, _ in fake.reports} == set("01234"))
    assert sorted(work.calls) == ["0", "1"]
    work.go.set()
    await executions.fewer_than(1)
    assert sorted(work.calls) == ["0", "1", "2", "3", "4"]


async def test_at_the_end_what_is_under_way_finishes_or_is_given_back(
    fake: FakeServer, executions: Executions, work: Work
) -> None:
    work.go.clear()
    executions.take(offer(run_id="a"))
    await fake.until(lambda: fake.said("a"))
    ending = asyncio.ensure_future(executions.end(within=5))
    work.go.set()
    await ending
    assert (await fake.ended("a"))["state"] == "completed"

    work.go.clear()
    executions.take(offer(run_id="b"))
    await fake.until(lambda: fake.said("b"))
    await executions.end(within=0)
    assert executions.count == 0
    assert fake.said("b")[-1]["state"] == "released"
    assert {report["state"] for report in fake.said("b")} == {"running", "released"}


LOST: Answer = (409, {"detail": "This lease is lost."})
