"""What is sent to flow runs while they run or wait: values by key."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, any_, cast, delete, func, literal, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import Text

from upshot.storage.schema import flow_run_inputs, runs


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInput:
    """A value that a run was sent; `value` is text, mostly JSON."""

    run_id: UUID
    key: str
    value: str
    sender: str | None
    created_at: datetime


async def hold_run(conn: AsyncConnection, run_id: UUID) -> bool:
    """Whether there is this run; it stays until the transaction ends."""
    row = await conn.execute(
        select(literal(1)).where(runs.c.id == run_id).with_for_update(read=True, key_share=True)
    )
    return row.one_or_none() is not None


async def count(conn: AsyncConnection, run_id: UUID) -> int:
    return (
        await conn.scalar(
            select(func.count())
            .select_from(flow_run_inputs)
            .where(flow_run_inputs.c.run_id == run_id)
        )
        or 0
    )


async def create(
    conn: AsyncConnection, run_id: UUID, *, key: str, value: str, sender: str | None
) -> bool:
    """Give a run, which is held, a value. False: it has one of this key."""
    row = await conn.execute(
        postgres_insert(flow_run_inputs)
        .values(run_id=run_id, key=key, value=value, sender=sender)
        .on_conflict_do_nothing()
        .returning(literal(1))
    )
    return row.one_or_none() is not None


async def load(conn: AsyncConnection, run_id: UUID, key: str) -> RunInput | None:
    row = (
        await conn.execute(
            select(flow_run_inputs).where(
                flow_run_inputs.c.run_id == run_id, flow_run_inputs.c.key == key
            )
        )
    ).one_or_none()
    return None if row is None else _input(row)


async def with_prefix(
    conn: AsyncConnection, run_id: UUID, *, prefix: str, without: Sequence[str], limit: int
) -> list[RunInput]:
    """Those whose key begins so, the oldest first, without those of these keys."""
    rows = await conn.execute(
        select(flow_run_inputs)
        .where(
            flow_run_inputs.c.run_id == run_id,
            flow_run_inputs.c.key.startswith(prefix, autoescape=True),
            ~(flow_run_inputs.c.key == any_(cast(without, ARRAY(Text)))),
        )
        .order_by(flow_run_inputs.c.created_at, flow_run_inputs.c.key)
        .limit(limit)
    )
    return [_input(row) for row in rows]


async def remove(conn: AsyncConnection, run_id: UUID, key: str) -> bool:
    row = await conn.execute(
        delete(flow_run_inputs)
        .where(flow_run_inputs.c.run_id == run_id, flow_run_inputs.c.key == key)
        .returning(literal(1))
    )
    return row.one_or_none() is not None


def _input(row: Row[Any]) -> RunInput:
    return RunInput(
        run_id=row.run_id,
        key=row.key,
        value=row.value,
        sender=row.sender,
        created_at=row.created_at,
    )
