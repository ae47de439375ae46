"""Maintain: old days dropped, lost leases given back, old state forgotten."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import asyncpg
import structlog

from upshot.core.limits import (
    ATTEMPTS_MAX,
    AUTOMATIONS_ENDED_AT_ONCE_MAX,
    DUPLICATES_REMEMBERED,
    MAINTAIN_ROWS_MAX,
)
from upshot.metrics import KEYS_FORGOTTEN, RUNS_FINISHED
from upshot.storage import (
    automations,
    evaluation_errors,
    event_ids,
    partitions,
    queue,
    triggers,
    windows,
)
from upshot.storage.database import Database

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Retention:
    """How long is kept what nobody needs any more."""

    events: timedelta
    runs: timedelta


async def rescue(conn: asyncpg.Connection, wake_deliver: Callable[[], None]) -> int:
    """Give back the runs whose caller vanished; fail those that a runner took and forgot."""
    rescued = await queue.rescue(conn, limit=MAINTAIN_ROWS_MAX, attempts_max=ATTEMPTS_MAX)
    silent = await queue.fail_unreported(conn, limit=MAINTAIN_ROWS_MAX)
    if rescued:
        log.warning("runs_rescued", count=rescued)
        wake_deliver()
    if silent:
        log.warning("runs_unreported", count=silent)
        RUNS_FINISHED.labels(state="failed").inc(silent)
    return rescued + silent


async def end_automations(database: Database, wake_evaluate: Callable[[], None]) -> int:
    """Delete the triggers whose owner has given them up, and nobody has taken over since."""
    async with database.begin() as conn:
        ended = await automations.lock_ended(conn, limit=AUTOMATIONS_ENDED_AT_ONCE_MAX)
        for automation in ended:
            await triggers.append_deleted(conn, automation.trigger)
            await triggers.remove(conn, automation.trigger.id)
    if ended:
        log.info("automations_ended", count=len(ended))
        wake_evaluate()
    return len(ended)


async def tidy(conn: asyncpg.Connection, retention: Retention) -> None:
    """Remove what is past its retention, in bounded steps."""
    now: datetime = await conn.fetchval("SELECT now()")
    dropped = await partitions.drop_partitions(conn, before=now - retention.events)
    if dropped:
        log.info("partitions_dropped", names=dropped)
    while count := await windows.forget(conn, limit=MAINTAIN_ROWS_MAX):
        KEYS_FORGOTTEN.inc(count)
    while await event_ids.forget(conn, before=now - DUPLICATES_REMEMBERED, limit=MAINTAIN_ROWS_MAX):
        pass
    while await evaluation_errors.forget(
        conn, before=now - retention.events, limit=MAINTAIN_ROWS_MAX
    ):
        pass
    while await queue.prune(conn, before=now - retention.runs, limit=MAINTAIN_ROWS_MAX):
        pass
