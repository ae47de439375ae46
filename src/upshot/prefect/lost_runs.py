"""Runs of which nothing is heard any more: their process is gone, or nobody has resumed them."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from uuid import UUID

import structlog

from upshot.core.errors import NotFound
from upshot.core.limits import FLOW_RUN_HEARD_AGAIN_WITHIN, FLOW_RUNS_LOST_AT_ONCE_MAX
from upshot.metrics import RUNS_FINISHED
from upshot.prefect.orchestration import Accept, expired
from upshot.prefect.run_view import Known
from upshot.prefect.standing import end_of
from upshot.prefect.states import State, StateType, new_state
from upshot.prefect.transitions import locked, settle
from upshot.storage import flow_run_lists
from upshot.storage.database import Database

SECONDS = 5.0
LOST = "lost"

_SILENT = (
    "The process that ran it, or its runner, vanished: nothing was heard while its lease lasted."
)

log = structlog.get_logger()

Judge = Callable[[Known, datetime], State | None]


async def watch(
    database: Database,
    *,
    wake: Callable[[str], None],
    pause: Callable[[float], Awaitable[None]],
    stopping: asyncio.Event,
) -> None:
    """End what is lost, every few seconds. Not at once: after a downtime of the server, runners
    first have time to be heard of again.
    """
    await pause(FLOW_RUN_HEARD_AGAIN_WITHIN.total_seconds())
    while not stopping.is_set():
        if await end_lost(database):
            wake("evaluate")
            wake("deliver")
        await pause(SECONDS)


async def end_lost(database: Database) -> int:
    """End the runs that are lost, or whose pause has timed out; answers how many."""
    async with database.begin() as conn:
        lost = await flow_run_lists.lost(conn, limit=FLOW_RUNS_LOST_AT_ONCE_MAX)
        paused = await flow_run_lists.never_resumed(conn, limit=FLOW_RUNS_LOST_AT_ONCE_MAX)
    ended = 0
    for run_id in lost:
        ended += await _end(database, run_id, after_silence, still=flow_run_lists.is_lost)
    for run_id in paused:
        ended += await _end(database, run_id, after_pause, still=None)
    if ended:
        log.warning("flow_runs_lost", count=ended)
    return ended


def after_silence(known: Known, now: datetime) -> State | None:
    """What becomes of a run whose process is not heard of."""
    if not known.run.in_process:
        return None
    if known.state.type == StateType.CANCELLING:
        message = "It was being cancelled when its process was not heard of any more."
        return new_state(StateType.CANCELLED, now=now, message=message)
    return new_state(StateType.CRASHED, now=now, message=_SILENT)


def after_pause(known: Known, now: datetime) -> State | None:
    """What becomes of a suspended run that nobody has resumed in time."""
    timeout = known.state.pause_timeout
    if not known.state.is_suspended or timeout is None or timeout > now:
        return None
    return expired(known.state, now=now)


async def _end(
    database: Database,
    run_id: UUID,
    judge: Judge,
    *,
    still: Callable[..., Awaitable[bool]] | None,
) -> bool:
    async with database.begin() as conn:
        try:
            known, now = await locked(conn, run_id)
        except NotFound:
            return False
        if still is not None and not await still(conn, run_id):
            return False
        state = judge(known, now)
        if state is None:
            return False
        policy = known.details.policy
        await settle(conn, known, Accept(state, policy), now=now, outcome=LOST)
    RUNS_FINISHED.labels(state=end_of(state).value).inc()
    return True
