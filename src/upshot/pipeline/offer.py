"""Offer: claim due runs for a worker that pulls, with all that it needs to begin at once."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import timedelta

import asyncpg
import structlog
from msgspec import structs

from upshot.core.errors import Overloaded
from upshot.core.limits import CLAIM_RENDER_SECONDS_MAX, LEASE
from upshot.core.templates import RenderFailed
from upshot.metrics import DELIVERY_DELAY_SECONDS, RUNS_FINISHED
from upshot.pipeline.prepare import render_left, unrendered
from upshot.pipeline.render import Renderers
from upshot.storage import queue
from upshot.storage.queue import ClaimedRun, Outcome

Connect = Callable[[], AbstractAsyncContextManager[asyncpg.Connection]]

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a worker asks for. `deployments`: None for all whose runners pull."""

    worker: str
    deployments: frozenset[str] | None
    limit: int


@dataclass(slots=True)
class _Rendered:
    """What became of the claimed runs whose parameters were still to be rendered."""

    parameters: dict[ClaimedRun, str] = field(default_factory=dict)
    unusable: list[Outcome] = field(default_factory=list)


async def offer(connect: Connect, renderers: Renderers, wanted: Wanted) -> list[ClaimedRun]:
    """Claim runs and render what is left of them; no connection is held meanwhile."""
    async with connect() as conn, conn.transaction():
        claimed = await queue.claim_for_worker(
            conn,
            worker=wanted.worker,
            deployments=None if wanted.deployments is None else sorted(wanted.deployments),
            limit=wanted.limit,
            lease=LEASE,
        )
    for run in claimed:
        delay = (run.started_at - run.due_at).total_seconds()
        DELIVERY_DELAY_SECONDS.observe(max(0.0, delay))
        log.info("claimed", run=str(run.id), worker=wanted.worker, attempt=run.attempt)
    left = [run for run in claimed if run.template is not None]
    if not left:
        return claimed
    return await _with_parameters(connect, claimed, await _rendered(renderers, left))


async def take_back(connect: Connect, claimed: Sequence[ClaimedRun]) -> None:
    """Nobody is there to take these runs: they are due again, at no cost."""
    async with connect() as conn, conn.transaction():
        await queue.finish_if_leased(
            conn, [_released(run, "the worker hung up before it got the run") for run in claimed]
        )


async def _rendered(renderers: Renderers, runs: Sequence[ClaimedRun]) -> _Rendered:
    found = _Rendered()

    async def render(run: ClaimedRun) -> None:
        try:
            found.parameters[run] = await render_left(renderers, run, run.template or "{}")
        except RenderFailed as error:
            found.unusable.append(unrendered(run, run.started_at, error))
        except Overloaded as error:
            found.unusable.append(_released(run, error.message))

    tasks = {asyncio.create_task(render(run)): run for run in runs}
    try:
        # Well within the lease: whoever is late may have another turn.
        done, late = await asyncio.wait(tasks, timeout=CLAIM_RENDER_SECONDS_MAX)
    except asyncio.CancelledError:
        for task in tasks:
            task.cancel()
        raise
    for task in late:
        task.cancel()
        found.unusable.append(
            _released(tasks[task], "its parameters could not be rendered in time")
        )
    for task in done:
        task.result()
    return found


async def _with_parameters(
    connect: Connect, claimed: Sequence[ClaimedRun], found: _Rendered
) -> list[ClaimedRun]:
    """The runs that can be begun. What is rendered is kept for later attempts."""
    async with connect() as conn, conn.transaction():
        if found.unusable:
            await queue.finish_if_leased(conn, found.unusable)
        until = await queue.keep_rendered(
            conn,
            [(run.id, run.lease, parameters) for run, parameters in found.parameters.items()],
            lease=LEASE,
        )
    failed = sum(outcome.state == "failed" for outcome in found.unusable)
    if failed:
        RUNS_FINISHED.labels(state="failed").inc(failed)
    return [
        structs.replace(
            run,
            parameters=found.parameters.get(run, run.parameters),
            lease_until=until.get(run.id, run.lease_until),
        )
        for run in claimed
        if run.template is None or run.id in until
    ]


def _released(run: ClaimedRun, why: str) -> Outcome:
    return Outcome(
        run_id=run.id,
        lease=run.lease,
        state="retrying",
        attempt=run.attempt,
        started_at=run.started_at,
        duration=0.0,
        outcome="released",
        error=why,
        again_after=timedelta(0),
        uses_retry=False,
    )
