"""The loops that run stages: each with its own connection, taken up again when it is lost."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import asyncpg
import structlog
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from upshot.core.limits import BATCH_EVENTS_MAX, DUE_MAX
from upshot.metrics import EVALUATION_ERRORS, EVENTS_EVALUATED, EVENTS_LATE, RUNS_MADE
from upshot.pipeline import maintain
from upshot.pipeline.deliver import Deliverer
from upshot.pipeline.evaluate import Evaluator
from upshot.pipeline.ingest import Ingest
from upshot.storage import log as event_log
from upshot.storage import partitions, queue
from upshot.storage.database import AWAY, REFUSED, Database, is_away, reason_of
from upshot.workers.signals import Signals

EVALUATE, EVALUATED, DELIVER, OFFER = "evaluate", "evaluated", "deliver", "offer"
TAIL = "tail"

POLL_SECONDS = 0.5
PLANS_KEPT_SECONDS = 1.0
TURN_SHARED_SECONDS = 0.001
"""So long may a call that has ended wait to be written down together with others."""
STANDBY_POLL_SECONDS = 1.0
RESCUE_SECONDS = 5.0
TIDY_SECONDS = 60.0
PARTITIONS_SECONDS = 3600.0
RECONNECT_SECONDS_MAX = 1.0
DRAIN = timedelta(seconds=25)
_TIDYING = 0x7570_7469  # the advisory lock of whoever tidies: "upti"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Line:
    """What the loops share."""

    database: Database
    signals: Signals
    stopping: asyncio.Event


def wake(signals: Signals, name: str) -> None:
    """Wake a stage. What may be called may also be pulled; what is appended is listened for."""
    signals.wake(name)
    if name == DELIVER:
        signals.wake(OFFER)
    if name == EVALUATE:
        signals.wake_here(TAIL)


async def keep(name: str, line: Line, work: Callable[[], Awaitable[None]]) -> None:
    """Run `work` until the server stops; when it fails, wait a little and run it again."""
    pause = 0.05
    while not line.stopping.is_set():
        try:
            await work()
            pause = 0.05
        except AWAY as error:
            log.warning(
                "database_away", loop=name, error=f"{type(error).__name__}: {reason_of(error)}"
            )
        except Exception:
            log.exception("loop_failed", loop=name)
        await pause_or_stop(line.stopping, pause)
        pause = min(pause * 2, RECONNECT_SECONDS_MAX)


async def pause_or_stop(stopping: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(stopping.wait(), seconds)


@asynccontextmanager
async def connection(line: Line, **server_settings: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection of one's own for as long as the block lasts."""
    conn = await line.database.connect(**server_settings)
    try:
        yield conn
    finally:
        with suppress(*AWAY):
            await conn.close(timeout=1)


async def ingest(line: Line, stage: Ingest) -> None:
    async with connection(line, application_name="upshot ingest") as conn:
        # An idle writer does not touch its connection, and would learn of its loss from the next
        # post, which could have been stored.
        lost = asyncio.Event()
        conn.add_termination_listener(lambda *_: lost.set())
        writing = asyncio.create_task(stage.write(conn))
        ending = {asyncio.create_task(event.wait()) for event in (lost, line.stopping)}
        try:
            await asyncio.wait({writing, *ending}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in ending:
                task.cancel()
            writing.cancel()
            with suppress(asyncio.CancelledError):
                await writing
        if lost.is_set() and not line.stopping.is_set():
            raise asyncpg.ConnectionDoesNotExistError("the writing connection was lost")


async def evaluate(line: Line, *, key_retention: timedelta) -> None:
    """Stand by until no other evaluates, then evaluate.

    The lock belongs to the connection that does the work, so it cannot outlive it. Should this
    process be suspended, Postgres ends the idle session and another takes over.
    """
    settings = {
        **event_log.READER_SETTINGS,
        "application_name": "upshot evaluate",
        "idle_session_timeout": "5s",
        "idle_in_transaction_session_timeout": "60s",
    }
    async with connection(line, **settings) as conn:
        while not await conn.fetchval("SELECT pg_try_advisory_lock($1)", event_log.EVALUATING):
            await pause_or_stop(line.stopping, STANDBY_POLL_SECONDS)
            if line.stopping.is_set():
                return
        log.info("evaluating")
        with line.signals.listening(EVALUATE) as hint:
            await _evaluate(line, conn, hint, key_retention=key_retention)


async def _evaluate(
    line: Line, conn: asyncpg.Connection, hint: asyncio.Event, *, key_retention: timedelta
) -> None:
    evaluator = await Evaluator.load(conn, key_retention=key_retention)
    events_max, carefully = BATCH_EVENTS_MAX, False
    while not line.stopping.is_set():
        hint.clear()
        try:
            progress = await evaluator.turn(
                events_max=events_max, due_max=min(events_max, DUE_MAX), carefully=carefully
            )
        except REFUSED as error:
            # Something in this batch is refused. Go through it again in smaller pieces, finding
            # what it is; the rest goes on.
            log.warning("batch_refused", events_max=events_max, error=reason_of(error))
            if carefully and events_max == 1:
                raise
            evaluator = await Evaluator.load(conn, key_retention=key_retention)
            events_max, carefully = max(1, events_max // 8), True
            continue
        if progress.set_aside:
            EVALUATION_ERRORS.inc(progress.set_aside)
            log.warning("events_set_aside", count=progress.set_aside)
        EVENTS_EVALUATED.inc(progress.events)
        EVENTS_LATE.inc(progress.late)
        RUNS_MADE.inc(progress.runs)
        if progress.events or progress.is_behind:
            for name in (EVALUATED, TAIL):
                line.signals.wake_here(name)
                line.signals.wake_peer(name)
            events_max = min(events_max * 2, BATCH_EVENTS_MAX)
            carefully = carefully and events_max < BATCH_EVENTS_MAX
        if progress.runs:
            wake(line.signals, DELIVER)
        if not progress.is_behind:
            await wait_for_hint(hint, POLL_SECONDS)


async def wait_for_hint(hint: asyncio.Event, seconds: float) -> None:
    if not hint.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(hint.wait(), seconds)


async def deliver(line: Line, stage: Deliverer) -> None:
    """Claim and record in turns; the calls go on by themselves, also while the database is away."""
    settings = {**queue.CLAIMER_SETTINGS, "application_name": "upshot deliver"}
    clock = asyncio.get_running_loop().time
    async with connection(line, **settings) as conn:
        planned_at = clock()
        with line.signals.listening(DELIVER) as hint:
            while not line.stopping.is_set():
                hint.clear()
                if clock() - planned_at > PLANS_KEPT_SECONDS:
                    await queue.plan_anew(conn)
                    planned_at = clock()
                await stage.turn(conn)
                if not stage.has_ended:
                    await wait_for_hint(hint, POLL_SECONDS)
                if stage.has_ended:
                    await wait_for_hint(stage.all_ended, TURN_SHARED_SECONDS)
            await stage.drain(conn, within=DRAIN)


async def rescue(line: Line) -> None:
    """Give back lost leases every few seconds, and end what its owner has given up."""
    async with connection(line, application_name="upshot rescue") as conn:
        while not line.stopping.is_set():
            await maintain.rescue(conn, lambda: wake(line.signals, DELIVER))
            await maintain.end_automations(line.database, lambda: wake(line.signals, EVALUATE))
            await pause_or_stop(line.stopping, RESCUE_SECONDS)


async def tidy(line: Line, retention: maintain.Retention) -> None:
    """Tidy up once a minute, one process at a time; a loop of its own, since it may have to wait.

    The lock goes with the connection.
    """
    while not line.stopping.is_set():
        async with connection(line, application_name="upshot tidy") as conn:
            if await conn.fetchval("SELECT pg_try_advisory_lock($1)", _TIDYING):
                await maintain.tidy(conn, retention)
        await pause_or_stop(line.stopping, TIDY_SECONDS)


async def keep_partitions_ahead(line: Line) -> None:
    """Whoever appends to the log makes sure of its days, also where nobody tidies."""
    while not line.stopping.is_set():
        async with connection(line, application_name="upshot partitions") as conn:
            await partitions.ensure_partitions(conn)
        await pause_or_stop(line.stopping, PARTITIONS_SECONDS)


async def exchange_signals(line: Line) -> None:
    async with connection(line, application_name="upshot signals") as conn:
        exchanging = asyncio.create_task(line.signals.exchange(conn))
        stopping = asyncio.create_task(line.stopping.wait())
        done, _ = await asyncio.wait({exchanging, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        exchanging.cancel()
        if exchanging in done:
            await exchanging


async def evaluated(line: Line, ids: Sequence[UUID], *, within: timedelta) -> bool:
    """Wait until the evaluator has passed these events; False when it takes longer."""
    with line.signals.listening(EVALUATED) as hint, suppress(TimeoutError):
        async with asyncio.timeout(within.total_seconds()):
            while True:
                hint.clear()
                # The events are stored: whatever happens now must not make the client post again.
                try:
                    async with line.database.begin() as conn:
                        if await event_log.are_evaluated(conn, ids):
                            return True
                except Exception as error:
                    if not is_away(error) and not isinstance(error, PoolTimeoutError):
                        raise
                await wait_for_hint(hint, POLL_SECONDS / 5)
    return False
