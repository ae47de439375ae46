"""Flows of Prefect's clients: names that deployments and ad hoc runs belong to."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import (
    Column,
    ColumnElement,
    Row,
    Select,
    and_,
    any_,
    cast,
    delete,
    false,
    func,
    literal,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, array
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import Text

from upshot.storage.schema import deployments, flow_deployments, flows

Sort = Literal["CREATED_DESC", "UPDATED_DESC", "NAME_ASC", "NAME_DESC"]
DeploymentSort = Literal[Sort, "CONCURRENCY_LIMIT_ASC", "CONCURRENCY_LIMIT_DESC"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """A flow as it is stored."""

    id: UUID
    name: str
    tags: list[str]
    labels: dict[str, Any]
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class TagsWanted:
    """What a client asks of tags; None: does not matter. `either`: one of these is enough."""

    all_of: Sequence[str] | None = None
    any_of: Sequence[str] | None = None
    none: bool | None = None
    either: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which flows, or which deployments; None: does not matter. `either`: one is enough."""

    ids: Sequence[UUID] | None = None
    not_ids: Sequence[UUID] | None = None
    names: Sequence[str] | None = None
    like: str | None = None
    tags: TagsWanted = field(default_factory=TagsWanted)
    either: bool = False


async def create(
    conn: AsyncConnection, *, flow_id: UUID, name: str, tags: list[str], labels: dict[str, Any]
) -> Flow | None:
    """None: there is one of this name already."""
    row = (
        await conn.execute(
            postgres_insert(flows)
            .values(id=flow_id, name=name, tags=tags, labels=labels)
            .on_conflict_do_nothing(index_elements=[flows.c.name])
            .returning(flows)
        )
    ).one_or_none()
    return row and _flow(row)


async def load(conn: AsyncConnection, flow_id: UUID) -> Flow | None:
    return await _one(conn, select(flows).where(flows.c.id == flow_id))


async def by_name(conn: AsyncConnection, name: str) -> Flow | None:
    return await _one(conn, select(flows).where(flows.c.name == name))


async def lock(conn: AsyncConnection, flow_id: UUID) -> Flow | None:
    """Load it, and let no other make or change deployments of it until the transaction ends."""
    return await _one(conn, select(flows).where(flows.c.id == flow_id).with_for_update())


async def page(
    conn: AsyncConnection,
    wanted: Wanted,
    *,
    of_deployments: Wanted | None,
    sort: Sort,
    limit: int,
    offset: int,
) -> list[Flow]:
    """Those that are wanted and, if `of_deployments` is given, have such a deployment."""
    rows = await conn.execute(
        select(flows)
        .where(*_conditions(wanted, of_deployments))
        .order_by(*order_of(sort, named=flows.c.name, table=flows.c))
        .limit(limit)
        .offset(offset)
    )
    return [_flow(row) for row in rows]


async def count(conn: AsyncConnection, wanted: Wanted, *, of_deployments: Wanted | None) -> int:
    query = select(func.count()).select_from(flows).where(*_conditions(wanted, of_deployments))
    return await conn.scalar(query) or 0


async def set_tags(conn: AsyncConnection, flow_id: UUID, tags: list[str]) -> bool:
    row = await conn.execute(
        update(flows)
        .where(flows.c.id == flow_id)
        .values(tags=tags, updated_at=func.now())
        .returning(literal(1))
    )
    return row.one_or_none() is not None


async def remove(conn: AsyncConnection, flow_id: UUID) -> bool:
    """Delete a flow that has no deployment."""
    row = await conn.execute(delete(flows).where(flows.c.id == flow_id).returning(literal(1)))
    return row.one_or_none() is not None


def wanted_flows(wanted: Wanted) -> ColumnElement[bool]:
    """What makes a row of `flows` one that is wanted."""
    return condition_of(wanted, id_=flows.c.id, name=flows.c.name, tags=flows.c.tags)


def wanted_deployments(wanted: Wanted) -> ColumnElement[bool]:
    """What makes a row of `flow_deployments` joined with `deployments` one that is wanted."""
    return condition_of(
        wanted,
        id_=flow_deployments.c.deployment_id,
        name=flow_deployments.c.name,
        tags=deployments.c.tags,
    )


def condition_of(
    wanted: Wanted, *, id_: Column[Any], name: Column[Any], tags: Column[Any]
) -> ColumnElement[bool]:
    """What is wanted, said of these columns; `tags` is a JSON list."""
    found: list[ColumnElement[bool]] = []
    if wanted.ids is not None:
        found.append(id_ == any_(cast(wanted.ids, ARRAY(postgresql.UUID))))
    if wanted.not_ids is not None:
        found.append(~(id_ == any_(cast(wanted.not_ids, ARRAY(postgresql.UUID)))))
    if wanted.names is not None:
        found.append(name == any_(cast(wanted.names, ARRAY(Text))))
    if wanted.like is not None:
        found.append(name.icontains(wanted.like, autoescape=True))
    of_tags = _tags_condition(wanted.tags, cast(tags, JSONB))
    if of_tags is not None:
        found.append(of_tags)
    return _joined(found, either=wanted.either)


def order_of(
    sort: DeploymentSort, *, named: Column[Any], table: Any
) -> tuple[ColumnElement[Any], ...]:
    """The order that a client asks for; equals by id, so that pages do not overlap."""
    match sort:
        case "NAME_ASC":
            first: ColumnElement[Any] = named.asc()
        case "NAME_DESC":
            first = named.desc()
        case "CREATED_DESC":
            first = table.created_at.desc()
        case "UPDATED_DESC":
            first = table.updated_at.desc()
        case "CONCURRENCY_LIMIT_ASC":
            first = table.max_concurrency.asc()
        case "CONCURRENCY_LIMIT_DESC":
            first = table.max_concurrency.desc()
    return (first, table.id)


def _conditions(wanted: Wanted, of_deployments: Wanted | None) -> list[ColumnElement[bool]]:
    conditions = [wanted_flows(wanted)]
    if of_deployments is not None:
        conditions.append(
            select(literal(1))
            .select_from(flow_deployments)
            .join(deployments, deployments.c.id == flow_deployments.c.deployment_id)
            .where(flow_deployments.c.flow_id == flows.c.id, wanted_deployments(of_deployments))
            .exists()
        )
    return conditions


def _tags_condition(wanted: TagsWanted, tags: ColumnElement[Any]) -> ColumnElement[bool] | None:
    found: list[ColumnElement[bool]] = []
    if wanted.all_of is not None:
        found.append(tags.has_all(_texts(wanted.all_of)))
    if wanted.any_of is not None:
        found.append(tags.has_any(_texts(wanted.any_of)))
    if wanted.none is not None:
        empty = func.jsonb_array_length(tags) == 0
        found.append(empty if wanted.none else ~empty)
    return _joined(found, either=wanted.either) if found else None


def _texts(values: Sequence[str]) -> Any:
    return cast(array([literal(value) for value in values], type_=Text), ARRAY(Text))


def _joined(found: list[ColumnElement[bool]], *, either: bool) -> ColumnElement[bool]:
    if not found:
        return true()
    return or_(false(), *found) if either else and_(true(), *found)


async def _one(conn: AsyncConnection, query: Select[Any]) -> Flow | None:
    row = (await conn.execute(query)).one_or_none()
    return row and _flow(row)


def _flow(row: Row[Any]) -> Flow:
    return Flow(
        id=row.id,
        name=row.name,
        tags=row.tags,
        labels=row.labels,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )
