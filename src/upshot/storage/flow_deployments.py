"""What deployments of flows have beside the deployment."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Row, Select, func, select, update
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from upshot.storage.deployments import Deployment, deployment_of
from upshot.storage.flows import (
    DeploymentSort,
    Wanted,
    order_of,
    wanted_deployments,
    wanted_flows,
)
from upshot.storage.schema import deployments, flow_deployments, flows


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowDeployment:
    """A deployment of a flow. `name` and `details` are what the flow's client calls and sends."""

    deployment: Deployment
    flow_id: UUID
    flow_name: str
    name: str
    details: dict[str, Any]
    polled_at: datetime | None


async def add(
    conn: AsyncConnection, *, deployment_id: UUID, flow_id: UUID, name: str, details: dict[str, Any]
) -> None:
    """Make a deployment one of this flow, whose row is locked."""
    await conn.execute(
        postgres_insert(flow_deployments).values(
            deployment_id=deployment_id, flow_id=flow_id, name=name, details=details
        )
    )


async def set_details(conn: AsyncConnection, deployment_id: UUID, details: dict[str, Any]) -> None:
    await conn.execute(
        update(flow_deployments)
        .where(flow_deployments.c.deployment_id == deployment_id)
        .values(details=details)
    )


async def load(conn: AsyncConnection, deployment_id: UUID) -> FlowDeployment | None:
    return await _one(conn, _joined().where(flow_deployments.c.deployment_id == deployment_id))


async def lock(conn: AsyncConnection, deployment_id: UUID) -> FlowDeployment | None:
    """Load it, and keep others from changing it until the transaction ends."""
    return await _one(
        conn,
        _joined()
        .where(flow_deployments.c.deployment_id == deployment_id)
        .with_for_update(of=deployments),
    )


async def lock_named(conn: AsyncConnection, *, flow_id: UUID, name: str) -> FlowDeployment | None:
    """Likewise the one of this name that the flow has."""
    return await _one(
        conn,
        _joined()
        .where(flow_deployments.c.flow_id == flow_id, flow_deployments.c.name == name)
        .with_for_update(of=deployments),
    )


async def by_names(conn: AsyncConnection, *, flow: str, name: str) -> FlowDeployment | None:
    return await _one(conn, _joined().where(flows.c.name == flow, flow_deployments.c.name == name))


async def of_flow(conn: AsyncConnection, flow_id: UUID, *, limit: int) -> list[FlowDeployment]:
    rows = await conn.execute(
        _joined()
        .where(flow_deployments.c.flow_id == flow_id)
        .order_by(flow_deployments.c.name)
        .limit(limit)
    )
    return [_flow_deployment(row) for row in rows]


async def page(
    conn: AsyncConnection,
    wanted: Wanted,
    *,
    of_flows: Wanted | None,
    sort: DeploymentSort,
    limit: int,
    offset: int,
) -> Sequence[FlowDeployment]:
    """Those that are wanted, of flows that are."""
    rows = await conn.execute(
        _joined()
        .where(*_conditions(wanted, of_flows))
        .order_by(*order_of(sort, named=flow_deployments.c.name, table=deployments.c))
        .limit(limit)
        .offset(offset)
    )
    return [_flow_deployment(row) for row in rows]


async def count(conn: AsyncConnection, wanted: Wanted, *, of_flows: Wanted | None) -> int:
    query = select(func.count()).select_from(_source()).where(*_conditions(wanted, of_flows))
    return await conn.scalar(query) or 0


def _conditions(wanted: Wanted, of_flows: Wanted | None) -> list[ColumnElement[bool]]:
    conditions = [wanted_deployments(wanted)]
    if of_flows is not None:
        conditions.append(wanted_flows(of_flows))
    return conditions


def _source() -> Any:
    return flow_deployments.join(
        deployments, deployments.c.id == flow_deployments.c.deployment_id
    ).join(flows, flows.c.id == flow_deployments.c.flow_id)


def _joined() -> Select[Any]:
    return select(
        deployments,
        flow_deployments.c.flow_id,
        flows.c.name.label("flow_name"),
        flow_deployments.c.name.label("flow_deployment_name"),
        flow_deployments.c.details,
        flow_deployments.c.polled_at,
    ).select_from(_source())


async def _one(conn: AsyncConnection, query: Select[Any]) -> FlowDeployment | None:
    row = (await conn.execute(query)).one_or_none()
    return row and _flow_deployment(row)


def _flow_deployment(row: Row[Any]) -> FlowDeployment:
    return FlowDeployment(
        deployment=deployment_of(row),
        flow_id=row.flow_id,
        flow_name=row.flow_name,
        name=row.flow_deployment_name,
        details=row.details,
        polled_at=row.polled_at,
    )
