"""Webhook blocks of Prefect's clients, each of which stands for a deployment."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Row, Select, func, select, true, update
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from upshot.core.delivery import Runner
from upshot.storage.deployments import runner_of
from upshot.storage.schema import deployments, webhook_blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookBlock:
    """A block as it is stored; `details` is what the deployment's runner does not say."""

    id: UUID
    name: str
    deployment: str
    runner: Runner
    details: dict[str, Any]
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which blocks; None: it does not matter. `like` is SQL's pattern, whatever the case."""

    ids: Collection[UUID] | None = None
    names: Collection[str] | None = None
    like: str | None = None
    is_anonymous: bool | None = None


async def create(
    conn: AsyncConnection,
    *,
    block_id: UUID,
    name: str,
    deployment_id: UUID,
    details: Mapping[str, Any],
) -> bool:
    """False: there is one of this name already."""
    row = await conn.execute(
        postgres_insert(webhook_blocks)
        .values(id=block_id, name=name, deployment_id=deployment_id, details=details)
        .on_conflict_do_nothing(index_elements=[webhook_blocks.c.name])
        .returning(webhook_blocks.c.id)
    )
    return row.one_or_none() is not None


async def replace(conn: AsyncConnection, block_id: UUID, *, details: Mapping[str, Any]) -> None:
    await conn.execute(
        update(webhook_blocks)
        .where(webhook_blocks.c.id == block_id)
        .values(details=details, updated_at=func.now())
    )


async def load(conn: AsyncConnection, block_id: UUID) -> WebhookBlock | None:
    return await _one(conn, _SELECTED.where(webhook_blocks.c.id == block_id))


async def lock(conn: AsyncConnection, block_id: UUID) -> WebhookBlock | None:
    """Load it, and keep others from changing it or its deployment until the transaction ends."""
    return await _one(
        conn,
        _SELECTED.where(webhook_blocks.c.id == block_id).with_for_update(of=deployments),
    )


async def find(conn: AsyncConnection, name: str) -> WebhookBlock | None:
    return await _one(conn, _SELECTED.where(webhook_blocks.c.name == name))


async def page(
    conn: AsyncConnection, wanted: Wanted, *, offset: int, limit: int
) -> Sequence[WebhookBlock]:
    """By name."""
    rows = await conn.execute(
        _SELECTED.where(*_conditions(wanted))
        .order_by(webhook_blocks.c.name)
        .offset(offset)
        .limit(limit)
    )
    return [_block(row) for row in rows]


async def count(conn: AsyncConnection, wanted: Wanted) -> int:
    counted = select(func.count()).select_from(webhook_blocks).where(*_conditions(wanted))
    return (await conn.execute(counted)).scalar_one()


_SELECTED: Select[Any] = select(
    webhook_blocks, deployments.c.name.label("deployment"), deployments.c.runner
).join(deployments, deployments.c.id == webhook_blocks.c.deployment_id)


def _conditions(wanted: Wanted) -> list[ColumnElement[bool]]:
    column = webhook_blocks.c
    conditions: list[ColumnElement[bool]] = [true()]
    if wanted.ids is not None:
        conditions.append(column.id.in_(wanted.ids))
    if wanted.names is not None:
        conditions.append(column.name.in_(wanted.names))
    if wanted.like is not None:
        conditions.append(column.name.ilike(wanted.like))
    if wanted.is_anonymous is not None:
        is_anonymous = column.details["is_anonymous"].as_boolean()
        conditions.append(is_anonymous == wanted.is_anonymous)
    return conditions


async def _one(conn: AsyncConnection, query: Select[Any]) -> WebhookBlock | None:
    row = (await conn.execute(query)).one_or_none()
    return row and _block(row)


def _block(row: Row[Any]) -> WebhookBlock:
    return WebhookBlock(
        id=row.id,
        name=row.name,
        deployment=row.deployment,
        runner=runner_of(row.runner),
        details=row.details,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )
