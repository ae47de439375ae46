"""Task runs that clients register: those that stand for a subflow, or for another's run."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Select, cast, func, literal, select, update
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import Text

from upshot.storage.schema import runs, task_runs


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTaskRun:
    """A task run; `state` and `details` are JSON as text."""

    id: UUID
    flow_run_id: UUID | None
    task_key: str
    dynamic_key: str
    name: str
    state_type: str
    state: str
    run_count: int
    started_at: datetime | None
    ended_at: datetime | None
    details: str
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """The flow's run in which a task runs, as far as what it starts takes after it."""

    deployment: str
    depth: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRunsWanted:
    """What a list is narrowed to; None asks nothing."""

    ids: Sequence[UUID] | None = None
    flow_runs: Sequence[UUID] | None = None
    names: Sequence[str] | None = None
    state_types: Sequence[str] | None = None


async def create(
    conn: AsyncConnection,
    *,
    task_run_id: UUID,
    flow_run_id: UUID | None,
    task_key: str,
    dynamic_key: str,
    name: str,
    state_type: str,
    state: Any,
    details: Any,
) -> bool:
    """False: there is one of this id, or of these keys in the flow's run, which is held."""
    row = await conn.execute(
        postgres_insert(task_runs)
        .values(
            id=task_run_id,
            flow_run_id=flow_run_id,
            task_key=task_key,
            dynamic_key=dynamic_key,
            name=name,
            state_type=state_type,
            state=state,
            details=details,
        )
        .on_conflict_do_nothing()
        .returning(literal(1))
    )
    return row.one_or_none() is not None


async def hold_run(conn: AsyncConnection, run_id: UUID) -> bool:
    """Whether there is this run; it stays until the transaction ends."""
    row = await conn.execute(
        select(literal(1)).where(runs.c.id == run_id).with_for_update(read=True, key_share=True)
    )
    return row.one_or_none() is not None


async def load(conn: AsyncConnection, task_run_id: UUID) -> StoredTaskRun | None:
    return await _one(conn, _select().where(task_runs.c.id == task_run_id))


async def lock(conn: AsyncConnection, task_run_id: UUID) -> StoredTaskRun | None:
    """Load it, and keep others from changing it until the transaction ends."""
    return await _one(conn, _select().where(task_runs.c.id == task_run_id).with_for_update())


async def with_keys(
    conn: AsyncConnection, *, flow_run_id: UUID | None, task_key: str, dynamic_key: str
) -> StoredTaskRun | None:
    return await _one(
        conn,
        _select().where(
            task_runs.c.flow_run_id == flow_run_id,
            task_runs.c.task_key == task_key,
            task_runs.c.dynamic_key == dynamic_key,
        ),
    )


async def save(
    conn: AsyncConnection,
    task_run_id: UUID,
    *,
    state_type: str,
    state: Any,
    run_count: int,
    started_at: datetime | None,
    ended_at: datetime | None,
) -> None:
    await conn.execute(
        update(task_runs)
        .where(task_runs.c.id == task_run_id)
        .values(
            state_type=state_type,
            state=state,
            run_count=run_count,
            started_at=started_at,
            ended_at=ended_at,
            updated_at=func.now(),
        )
    )


async def rename(conn: AsyncConnection, task_run_id: UUID, name: str) -> bool:
    row = await conn.execute(
        update(task_runs)
        .where(task_runs.c.id == task_run_id)
        .values(name=name, updated_at=func.now())
        .returning(literal(1))
    )
    return row.one_or_none() is not None


async def remove(conn: AsyncConnection, task_run_id: UUID) -> bool:
    row = await conn.execute(
        task_runs.delete().where(task_runs.c.id == task_run_id).returning(literal(1))
    )
    return row.one_or_none() is not None


async def parent_of(conn: AsyncConnection, task_run_id: UUID) -> Parent | None:
    """None: there is no such task run, or it runs in no flow."""
    row = (
        await conn.execute(
            select(runs.c.deployment, runs.c.depth)
            .join(task_runs, task_runs.c.flow_run_id == runs.c.id)
            .where(task_runs.c.id == task_run_id)
        )
    ).one_or_none()
    return None if row is None else Parent(deployment=row.deployment, depth=row.depth)


async def page(
    conn: AsyncConnection, wanted: TaskRunsWanted, *, limit: int, offset: int
) -> list[StoredTaskRun]:
    """The newest first."""
    rows = await conn.execute(
        _narrowed(_select(), wanted)
        .order_by(task_runs.c.created_at.desc(), task_runs.c.id.desc())
        .limit(limit)
        .offset(offset)
    )
    return [StoredTaskRun(**row) for row in rows.mappings()]


async def count(conn: AsyncConnection, wanted: TaskRunsWanted) -> int:
    query = _narrowed(select(func.count()).select_from(task_runs), wanted)
    return await conn.scalar(query) or 0


def _narrowed(query: Select[Any], wanted: TaskRunsWanted) -> Select[Any]:
    if wanted.ids is not None:
        query = query.where(task_runs.c.id.in_(wanted.ids))
    if wanted.flow_runs is not None:
        query = query.where(task_runs.c.flow_run_id.in_(wanted.flow_runs))
    if wanted.names is not None:
        query = query.where(task_runs.c.name.in_(wanted.names))
    if wanted.state_types is not None:
        query = query.where(task_runs.c.state_type.in_(wanted.state_types))
    return query


def _select() -> Select[Any]:
    as_text = [
        cast(column, Text).label(column.name) if column.name in ("state", "details") else column
        for column in task_runs.c
    ]
    return select(*as_text)


async def _one(conn: AsyncConnection, query: Select[Any]) -> StoredTaskRun | None:
    row = (await conn.execute(query)).mappings().one_or_none()
    return None if row is None else StoredTaskRun(**row)
