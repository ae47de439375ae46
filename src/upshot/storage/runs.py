"""Runs as they are looked up, listed, asked for, retried, cancelled and reported on."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    DateTime,
    Float,
    Interval,
    Text,
    bindparam,
    cast,
    false,
    func,
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
from upshot.storage.queue import ENDED, OVERLAPPED, enqueue_sql
from upshot.storage.schema import attempts, deployments, run_queue, runs

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
    waits: bool
    """Another run of its key is under way, and has to end before this one begins."""


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
    action: str | None
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
    worker: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFilter:
    """What a list is narrowed to. None asks nothing; `until` is excluded."""

    deployment: str | None = None
    trigger: str | None = None
    state: RunState | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Leased:
    """What is known of a run whose lease is held. `runner` is its deployment's, or None."""

    attempt: int
    retries_used: int
    worker: str | None
    runner: dict[str, Any] | None


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
    # A flow's run that is suspended is due when somebody resumes it.
    func.nullif(run_queue.c.due_at, text("'infinity'")).label("due_at"),
    func.coalesce(run_queue.c.waits, false()).label("waits"),
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
    cast(runs.c.action, Text).label("action"),
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
    """Make a run that nobody's event caused, due now. False: it is there already.

    One that may not overlap another waits for it, or is cancelled at once.
    """
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
    if not await enqueue(conn, [run_id]):
        await conn.execute(
            update(runs)
            .where(runs.c.id == run_id)
            .values(state=RunState.CANCELLED.value, finished_at=func.now(), error=OVERLAPPED)
        )
    return True


_ENQUEUE = text(enqueue_sql("CAST(:ids AS uuid[])", due_at="now()"))


async def enqueue(conn: AsyncConnection, run_ids: Sequence[UUID]) -> set[UUID]:
    """Put runs into the queue, due now; answers those that are in it: without those that may not
    overlap another (`overlap`: skip).
    """
    return set(await conn.scalars(_ENQUEUE, {"ids": list(run_ids)}))


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


async def lock_ended(
    conn: AsyncConnection, run_ids: Sequence[UUID], *, state: RunState
) -> list[StoredRun]:
    """Those of these runs that have ended like this, the first made first, which nobody else begins
    again until the transaction ends. Where another has just done so, they are not among them.
    """
    rows = await conn.execute(
        select(*_full)
        .select_from(_with_queue)
        .where(runs.c.id.in_(run_ids), runs.c.state == state.value)
        .order_by(runs.c.created_at, runs.c.id)
        .with_for_update(of=runs)
    )
    return [StoredRun(**row) for row in rows.mappings()]


async def reopen(conn: AsyncConnection, templates: Mapping[UUID, dict[str, Any] | None]) -> None:
    """Take back how runs ended. By run: what is to be rendered, if it never was."""
    await conn.execute(
        text(
            "UPDATE runs AS r SET state = 'scheduled', finished_at = NULL, error = NULL, "
            "result = NULL, template = coalesce(CAST(g.template AS json), r.template) "
            "FROM unnest(CAST(:ids AS uuid[]), CAST(:templates AS text[])) AS g (id, template) "
            "WHERE r.id = g.id"
        ),
        {
            "ids": list(templates),
            "templates": [
                None if template is None else json.dumps(template)
                for template in templates.values()
            ],
        },
    )


async def to_retry(
    conn: AsyncConnection,
    wanted: RunFilter,
    *,
    after: Place | None,
    limit: int,
    scan_max: int = ROWS_SCANNED_MAX,
) -> tuple[list[UUID], Place | None]:
    """Runs, the oldest first, looking through at most `scan_max` of them, and where to go on.

    By runs_by_trigger, runs_by_deployment or runs_by_age.
    """
    conditions = _indexed(wanted)
    if after is not None:
        conditions.append(_place > _bound(after))
    looked_at = (
        select(runs.c.created_at, runs.c.id, runs.c.state)
        .where(*conditions)
        .order_by(runs.c.created_at, runs.c.id)
        .limit(scan_max)
        .subquery()
    )
    found = (
        await conn.execute(
            select(looked_at.c.created_at, looked_at.c.id)
            .where(*([looked_at.c.state == wanted.state.value] if wanted.state else []))
            .order_by(looked_at.c.created_at, looked_at.c.id)
            .limit(limit)
        )
    ).all()
    if len(found) == limit:
        return [row.id for row in found], (found[-1].created_at, found[-1].id)
    last = (
        await conn.execute(
            select(looked_at.c.created_at, looked_at.c.id)
            .order_by(looked_at.c.created_at, looked_at.c.id)
            .offset(scan_max - 1)
        )
    ).one_or_none()
    return [row.id for row in found], last and (last.created_at, last.id)


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
            "WITH ended AS (DELETE FROM run_queue WHERE run_id = :run_id "
            "RETURNING run_id, attempt) "
            "UPDATE runs AS r SET state = 'cancelled', finished_at = now(), error = :reason "
            "FROM ended WHERE r.id = ended.run_id AND r.state = 'scheduled' "
            f"RETURNING {ENDED}, ended.attempt AS attempts"
        ).bindparams(bindparam("run_id", type_=postgresql.UUID)),
        {"run_id": run_id, "reason": reason},
    )
    ended = row.mappings().one_or_none()
    if ended is None:
        return False
    await log.append_one_ended(conn, EndedRun(**ended))
    return True


async def renew_if_leased(
    conn: AsyncConnection, run_id: UUID, *, lease: UUID, default: timedelta
) -> datetime | None:
    """Prolong the lease; answers until when. None: it is lost.

    That of a worker that pulls by `default`; else by the deployment's `run_timeout`.
    """
    until: datetime | None = await conn.scalar(
        text(
            "UPDATE run_queue AS q SET lease_until = now() + make_interval(secs => coalesce("
            "(SELECT run_timeout FROM deployments AS d "
            "WHERE d.name = q.deployment AND q.worker IS NULL), :default)) "
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
    changed. A worker's attempt goes on record; a call is, with its answer.
    """
    ended = await conn.execute(
        text(
            "WITH ended AS (DELETE FROM run_queue WHERE run_id = :run_id AND lease = :lease "
            "RETURNING run_id, attempt, started_at, worker), "
            "recorded AS (INSERT INTO attempts "
            "(run_id, number, started_at, duration, outcome, error, worker) "
            "SELECT run_id, attempt, started_at, extract(epoch FROM now() - started_at), :state, "
            ":error, worker FROM ended WHERE worker IS NOT NULL ON CONFLICT DO NOTHING) "
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


async def hold_if_leased(conn: AsyncConnection, run_id: UUID, *, lease: UUID) -> Leased | None:
    """What is under this lease, which stays until the transaction ends. None: it is lost."""
    row = (
        (
            await conn.execute(
                select(
                    run_queue.c.attempt,
                    run_queue.c.retries_used,
                    run_queue.c.worker,
                    select(deployments.c.runner)
                    .where(deployments.c.name == run_queue.c.deployment)
                    .scalar_subquery()
                    .label("runner"),
                )
                .where(run_queue.c.run_id == run_id, run_queue.c.lease == lease)
                .with_for_update(of=run_queue)
            )
        )
        .mappings()
        .one_or_none()
    )
    return None if row is None else Leased(**row)


async def give_back(
    conn: AsyncConnection,
    run_id: UUID,
    *,
    outcome: str,
    error: str | None,
    again_after: timedelta,
    uses_retry: bool,
) -> None:
    """Let a run whose lease is held be tried again; the attempt goes on record as it ended."""
    await conn.execute(
        text(
            "WITH held AS (SELECT * FROM run_queue WHERE run_id = :run_id), "
            "recorded AS (INSERT INTO attempts "
            "(run_id, number, started_at, duration, outcome, error, worker) "
            "SELECT run_id, attempt, started_at, extract(epoch FROM now() - started_at), :outcome, "
            ":error, worker FROM held ON CONFLICT (run_id, number) DO UPDATE "
            "SET outcome = excluded.outcome, error = excluded.error, duration = excluded.duration) "
            "UPDATE run_queue SET state = 'retrying', lease = NULL, lease_until = NULL, "
            "worker = NULL, accepted = false, due_at = now() + :again_after, "
            "retries_used = retries_used + CAST(:uses_retry AS int) WHERE run_id = :run_id"
        ).bindparams(
            bindparam("run_id", type_=postgresql.UUID),
            bindparam("error", type_=Text),
            bindparam("again_after", type_=Interval),
        ),
        {
            "run_id": run_id,
            "outcome": outcome,
            "error": error,
            "again_after": again_after,
            "uses_retry": int(uses_retry),
        },
    )


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
