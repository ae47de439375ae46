"""Runs as they are looked up, listed, asked for, retried, cancelled and reported on."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    DateTime,
    Float,
    Text,
    bindparam,
    cast,
    func,
    insert,
    literal,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from upshot.core.lifecycle import EndedRun
from upshot.core.limits import ROWS_SCANNED_MAX
from upshot.core.runs import RunState
from upshot.storage import log
from upshot.storage.queue import ENDED
from upshot.storage.schema import attempts, run_queue, runs

Place = tuple[datetime, UUID]
"""A run's place in every list: when it was made, and its id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """A run as lists show it. `state` is one of RunState's six; JSON is text."""

    id: UUID
    state: str
    deployment: str
    trigger_id: UUID | None
    trigger: str | None
    trigger_version: int | None
    labels: str
    created_at: datetime
    scheduled_at: datetime
    finished_at: datetime | None
    error: str | None
    due_at: datetime | None
    """Of the next attempt; of the one under way, when it was due. None once the run has ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun(RunSummary):
    """A run in full; JSON is text."""

    key: str | None
    event_id: UUID | None
    event: str | None
    event_ids: list[UUID]
    after_id: UUID | None
    parameters: str | None
    template: str | None
    result: str | None
    depth: int
    lease_until: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAttempt:
    number: int
    started_at: datetime
    duration: float
    status: int | None
    outcome: str
    error: str | None
    response: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFilter:
    """What a list is narrowed to. None asks nothing; `until` is excluded."""

    deployment: str | None = None
    trigger: str | None = None
    state: RunState | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class RunPage:
    """Runs, newest first, and where to go on; None: there are no more."""

    runs: list[RunSummary]
    before: Place | None


_state = func.coalesce(run_queue.c.state, runs.c.state)
_summary: tuple[Any, ...] = (
    runs.c.id,
    _state.label("state"),
    runs.c.deployment,
    runs.c.trigger_id,
    runs.c.trigger,
    runs.c.trigger_version,
    cast(runs.c.labels, Text).label("labels"),
    runs.c.created_at,
    runs.c.scheduled_at,
    runs.c.finished_at,
    runs.c.error,
    run_queue.c.due_at,
)
_full: tuple[Any, ...] = (
    *_summary,
    cast(runs.c.key, Text).label("key"),
    runs.c.event_id,
    cast(runs.c.event, Text).label("event"),
    runs.c.event_ids,
    runs.c.after_id,
    cast(runs.c.parameters, Text).label("parameters"),
    cast(runs.c.template, Text).label("template"),
    cast(runs.c.result, Text).label("result"),
    runs.c.depth,
    run_queue.c.lease_until,
)
_with_queue = runs.outerjoin(run_queue, run_queue.c.run_id == runs.c.id)
_place = tuple_(runs.c.created_at, runs.c.id)
_newest_first = (runs.c.created_at.desc(), runs.c.id.desc())


async def load(conn: AsyncConnection, run_id: UUID) -> StoredRun | None:
    query = select(*_full).select_from(_with_queue).where(runs.c.id == run_id)
    row = (await conn.execute(query)).mappings().one_or_none()
    return None if row is None else StoredRun(**row)


async def attempts_of(conn: AsyncConnection, run_id: UUID) -> list[StoredAttempt]:
    """Every attempt, the first one first. By primary key (attempts_pkey)."""
    rows = await conn.execute(
        select(*(column for column in attempts.c if column.name != "run_id"))
        .where(attempts.c.run_id == run_id)
        .order_by(attempts.c.number)
    )
    return [StoredAttempt(**row) for row in rows.mappings()]


async def caused_by(conn: AsyncConnection, event_id: UUID, *, limit: int) -> list[RunSummary]:
    """The runs that an event fired (runs_by_event)."""
    rows = await conn.execute(
        select(*_summary)
        .select_from(_with_queue)
        .where(runs.c.event_id == event_id)
        .order_by(*_newest_first)
        .limit(limit)
    )
    return [RunSummary(**row) for row in rows.mappings()]


async def page(
    conn: AsyncConnection,
    wanted: RunFilter,
    *,
    before: Place | None,
    limit: int,
    scan_max: int = ROWS_SCANNED_MAX,
) -> RunPage:
    """Runs, newest first, looking through at most `scan_max` of them.

    By runs_by_trigger, runs_by_deployment or runs_by_age; those running or retrying are found
    from the queue, where they are few.
    """
    conditions = _indexed(wanted)
    if before is not None:
        conditions.append(_place < _bound(before))
    floor: Place | None = None
    if wanted.state is not None and wanted.state not in (RunState.RUNNING, RunState.RETRYING):
        floor = await _floor(conn, conditions, scan_max)
    if floor is not None:
        conditions.append(_place >= _bound(floor))
    rows = await conn.execute(
        select(*_summary)
        .select_from(_with_queue)
        .where(*conditions, *_of_state(wanted.state))
        .order_by(*_newest_first)
        .limit(limit + 1)
    )
    found = [RunSummary(**row) for row in rows.mappings()]
    if len(found) > limit:
        last = found[limit - 1]
        return RunPage(found[:limit], (last.created_at, last.id))
    return RunPage(found, floor)


async def create_asked_for(
    conn: AsyncConnection,
    *,
    run_id: UUID,
    deployment: str,
    parameters: dict[str, Any] | None,
    template: dict[str, Any] | None,
) -> bool:
    """Make a run that nobody's event caused, due now. False: it is there already."""
    made = await conn.execute(
        postgres_insert(runs)
        .values(
            id=run_id,
            scheduled_at=func.now(),
            state=RunState.SCHEDULED.value,
            deployment=deployment,
            labels={},
            event_ids=[],
            parameters=parameters,
            template=template,
        )
        .on_conflict_do_nothing(index_elements=[runs.c.id])
        .returning(runs.c.id)
    )
    if made.one_or_none() is None:
        return False
    await enqueue(conn, run_id, deployment=deployment)
    return True


async def enqueue(conn: AsyncConnection, run_id: UUID, *, deployment: str) -> None:
    """Put a run into the queue, due now. Its attempts go on counting from those on record."""
    last = (
        select(func.coalesce(func.max(attempts.c.number), 0))
        .where(attempts.c.run_id == run_id)
        .scalar_subquery()
    )
    await conn.execute(
        insert(run_queue).values(
            run_id=run_id,
            due_at=func.now(),
            attempt=last,
            state=RunState.SCHEDULED.value,
            deployment=deployment,
        )
    )


async def lock(conn: AsyncConnection, run_id: UUID) -> RunState | None:
    """The run's state, which nobody else changes until the transaction ends; None: no such run.

    The queue's row is locked before the run's, as whoever finishes runs does.
    """
    queued = await conn.scalar(
        select(run_queue.c.state).where(run_queue.c.run_id == run_id).with_for_update()
    )
    state = await conn.scalar(select(runs.c.state).where(runs.c.id == run_id).with_for_update())
    if state is None:
        return None
    return RunState(queued if queued is not None and state == RunState.SCHEDULED else state)


async def reopen(conn: AsyncConnection, run_id: UUID, *, template: dict[str, Any] | None) -> None:
    """Take back how the run ended. `template` is what is to be rendered, if it never was."""
    values: dict[str, Any] = {"template": template} if template is not None else {}
    await conn.execute(
        update(runs)
        .where(runs.c.id == run_id)
        .values(state=RunState.SCHEDULED.value, finished_at=None, error=None, result=None, **values)
    )


async def make_due(conn: AsyncConnection, run_id: UUID) -> None:
    """The next attempt of a run that waits for it is due now."""
    await conn.execute(
        update(run_queue)
        .where(run_queue.c.run_id == run_id, run_queue.c.state == RunState.RETRYING.value)
        .values(due_at=func.now())
    )


async def cancel_if_open(conn: AsyncConnection, run_id: UUID, *, reason: str) -> bool:
    """End the run. Whoever holds its lease loses it."""
    row = await conn.execute(
        text(
            "WITH ended AS (DELETE FROM run_queue WHERE run_id = :run_id RETURNING run_id) "
            "UPDATE runs SET state = 'cancelled', finished_at = now(), error = :reason "
            "FROM ended WHERE runs.id = ended.run_id AND runs.state = 'scheduled' "
            "RETURNING runs.id"
        ).bindparams(bindparam("run_id", type_=postgresql.UUID)),
        {"run_id": run_id, "reason": reason},
    )
    return row.one_or_none() is not None


async def renew_if_leased(
    conn: AsyncConnection, run_id: UUID, *, lease: UUID, default: timedelta
) -> datetime | None:
    """Prolong the lease by the deployment's `run_timeout`; answers until when. None: it is lost."""
    until: datetime | None = await conn.scalar(
        text(
            "UPDATE run_queue AS q SET lease_until = now() + make_interval(secs => coalesce("
            "(SELECT run_timeout FROM deployments AS d WHERE d.name = q.deployment), :default)) "
            "WHERE run_id = :run_id AND lease = :lease RETURNING lease_until"
        ).bindparams(
            bindparam("run_id", type_=postgresql.UUID),
            bindparam("lease", type_=postgresql.UUID),
            bindparam("default", type_=Float),
        ),
        {"run_id": run_id, "lease": lease, "default": default.total_seconds()},
    )
    return until


async def finish_if_leased(
    conn: AsyncConnection,
    run_id: UUID,
    *,
    lease: UUID,
    state: RunState,
    result: Any,
    error: str | None,
) -> bool:
    """End the run as its runner reports, and tell the log. False: the lease is lost, and nothing is
    changed.
    """
    ended = await conn.execute(
        text(
            "WITH ended AS (DELETE FROM run_queue WHERE run_id = :run_id AND lease = :lease "
            "RETURNING run_id, attempt) "
            "UPDATE runs AS r SET state = :state, finished_at = now(), result = :result, "
            "error = :error FROM ended WHERE r.id = ended.run_id "
            f"RETURNING {ENDED}, ended.attempt AS attempts"
        ).bindparams(
            bindparam("run_id", type_=postgresql.UUID),
            bindparam("lease", type_=postgresql.UUID),
            bindparam("result", type_=postgresql.JSON(none_as_null=True)),
        ),
        {
            "run_id": run_id,
            "lease": lease,
            "state": state.value,
            "result": result,
            "error": error,
        },
    )
    row = ended.mappings().one_or_none()
    if row is None:
        return False
    await log.append_one_ended(conn, EndedRun(**row))
    return True


def _indexed(wanted: RunFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if wanted.deployment is not None:
        conditions.append(runs.c.deployment == wanted.deployment)
    if wanted.trigger is not None:
        conditions.append(runs.c.trigger == wanted.trigger)
    if wanted.since is not None:
        conditions.append(runs.c.created_at >= wanted.since)
    if wanted.until is not None:
        conditions.append(runs.c.created_at < wanted.until)
    return conditions


def _of_state(state: RunState | None) -> list[ColumnElement[bool]]:
    match state:
        case None:
            return []
        case RunState.RUNNING | RunState.RETRYING:
            return [run_queue.c.state == state.value]
        case RunState.SCHEDULED:
            return [runs.c.state == state.value, run_queue.c.state == state.value]
        case RunState.COMPLETED | RunState.FAILED | RunState.CANCELLED:
            return [runs.c.state == state.value]


async def _floor(
    conn: AsyncConnection, conditions: Sequence[ColumnElement[bool]], scan_max: int
) -> Place | None:
    """The last run to be looked at; None: there are fewer."""
    row = (
        await conn.execute(
            select(runs.c.created_at, runs.c.id)
            .where(*conditions)
            .order_by(*_newest_first)
            .offset(scan_max - 1)
            .limit(1)
        )
    ).one_or_none()
    return row and (row.created_at, row.id)


def _bound(place: Place) -> ColumnElement[Any]:
    created_at, run_id = place
    return tuple_(literal(created_at, DateTime(timezone=True)), literal(run_id, postgresql.UUID))
