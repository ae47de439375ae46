"""Triggers as automations: found by any name, owned by a resource, ended some time after it."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Row,
    Select,
    Text,
    and_,
    cast,
    exists,
    func,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSON, JSONB, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from upshot.storage.schema import automations, deployments, triggers, webhook_blocks
from upshot.storage.triggers import StoredTrigger

Sort = Literal["NAME_ASC", "NAME_DESC", "CREATED_DESC", "UPDATED_DESC"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAutomation:
    """A trigger and what it has as an automation. One made through /v1 has its trigger's name."""

    trigger: StoredTrigger
    name: str
    owner_resource: str | None
    is_ending: bool
    """Deleted with its owner's others; in force until it is taken over or ended."""


@dataclass(frozen=True, slots=True)
class Target:
    """A deployment that actions may run, and the Webhook block that it stands for, if any."""

    name: str
    deployment_id: UUID
    block_id: UUID | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tags:
    """Each that is not None must hold (or one of them, with `any_of_these`)."""

    all: Sequence[str] | None = None
    any: Sequence[str] | None = None
    none: bool | None = None
    any_of_these: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which automations; each that is not None must hold (or one, with `any_of_these`)."""

    ids: Collection[UUID] | None = None
    names: Collection[str] | None = None
    created_until: datetime | None = None
    enabled: bool | None = None
    tags: Tags | None = None
    any_of_these: bool = False


EVERY: Final = Wanted()
_NAME: Final = func.coalesce(automations.c.name, triggers.c.name)
_IS_THERE: Final = automations.c.ends_at.is_(None)
_FOUND: Final = select(
    triggers,
    _NAME.label("automation_name"),
    automations.c.owner_resource,
    automations.c.ends_at.is_not(None).label("is_ending"),
).select_from(triggers.outerjoin(automations, automations.c.trigger_id == triggers.c.id))


async def load(conn: AsyncConnection, automation_id: UUID) -> StoredAutomation | None:
    rows = await _all(conn, _FOUND.where(triggers.c.id == automation_id, _IS_THERE))
    return rows[0] if rows else None


async def lock(conn: AsyncConnection, automation_id: UUID) -> StoredAutomation | None:
    """Load it, and keep others from changing it until the transaction ends."""
    query = _FOUND.where(triggers.c.id == automation_id, _IS_THERE)
    rows = await _all(conn, query.with_for_update(of=triggers))
    return rows[0] if rows else None


async def lock_owner(conn: AsyncConnection, owner: str) -> None:
    """Keep others from adding to this owner's automations, or deleting them, until then too."""
    await conn.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(owner, 0))))


async def lock_of_owner(
    conn: AsyncConnection, owner: str, *, limit: int
) -> Sequence[StoredAutomation]:
    """Those of an owner whom `lock_owner` holds, the ending ones too, the oldest first."""
    query = _FOUND.where(automations.c.owner_resource == owner)
    query = query.order_by(triggers.c.number).limit(limit)
    return await _all(conn, query.with_for_update(of=triggers))


async def page(
    conn: AsyncConnection, wanted: Wanted, *, sort: Sort, limit: int, offset: int
) -> Sequence[StoredAutomation]:
    order = {
        "NAME_ASC": _NAME.asc(),
        "NAME_DESC": _NAME.desc(),
        "CREATED_DESC": triggers.c.created_at.desc(),
        "UPDATED_DESC": triggers.c.updated_at.desc(),
    }[sort]
    query = _FOUND.where(_IS_THERE, _holds(wanted)).order_by(order, triggers.c.number)
    return await _all(conn, query.limit(limit).offset(offset))


async def count(conn: AsyncConnection, wanted: Wanted) -> int:
    query = select(func.count()).select_from(_FOUND.where(_IS_THERE, _holds(wanted)).subquery())
    return await conn.scalar(query) or 0


async def related_to(
    conn: AsyncConnection, resource: str, *, deployment: str | None, limit: int
) -> Sequence[StoredAutomation]:
    """Those that the resource owns, and those that run the deployment that it is; by name."""
    holds: ColumnElement[bool] = automations.c.owner_resource == resource
    if deployment is not None:
        # A trigger without actions has none here: the function gives no rows for what is missing.
        actions = func.json_array_elements(triggers.c.document["actions"]).table_valued("value")
        named = cast(actions.c.value, JSON)["deployment"].astext == deployment
        runs = exists().select_from(actions).where(named)
        holds = or_(holds, triggers.c.deployment == deployment, runs)
    query = _FOUND.where(_IS_THERE, holds).order_by(_NAME, triggers.c.number)
    return await _all(conn, query.limit(limit))


async def save(
    conn: AsyncConnection, trigger_id: UUID, *, name: str, owner_resource: str | None
) -> None:
    """What a trigger has as an automation, which is no longer ending."""
    written = {"name": name, "owner_resource": owner_resource, "ends_at": None}
    await conn.execute(
        insert(automations)
        .values(trigger_id=trigger_id, **written)
        .on_conflict_do_update(index_elements=[automations.c.trigger_id], set_=written)
    )


async def end_of_owner(conn: AsyncConnection, owner: str, *, within: timedelta) -> None:
    """Let all that an owner has end so much later."""
    await conn.execute(
        update(automations)
        .where(automations.c.owner_resource == owner)
        .values(ends_at=func.now() + within)
    )


async def hasten(conn: AsyncConnection, owners: Collection[str], *, within: timedelta) -> None:
    """Let those that are ending end so much later at the latest (automations_ending)."""
    await conn.execute(
        update(automations)
        .where(
            automations.c.ends_at > func.now() + within,
            automations.c.owner_resource.in_(owners),
        )
        .values(ends_at=func.now() + within)
    )


async def lock_ended(conn: AsyncConnection, *, limit: int) -> Sequence[StoredAutomation]:
    """Those whose time is over, but for rows that somebody is changing."""
    query = _FOUND.where(automations.c.ends_at <= func.now()).order_by(automations.c.ends_at)
    return await _all(conn, query.limit(limit).with_for_update(of=triggers, skip_locked=True))


async def targets(
    conn: AsyncConnection, *, ids: Collection[UUID] = (), names: Collection[str] = ()
) -> Sequence[Target]:
    """The deployments with these ids, or the ids of their blocks, or these names."""
    rows = await conn.execute(
        select(deployments.c.name, deployments.c.id, webhook_blocks.c.id.label("block_id"))
        .outerjoin(webhook_blocks, webhook_blocks.c.deployment_id == deployments.c.id)
        .where(
            or_(
                deployments.c.id.in_(ids),
                webhook_blocks.c.id.in_(ids),
                deployments.c.name.in_(names),
            )
        )
    )
    return [Target(row.name, row.id, row.block_id) for row in rows]


def _holds(wanted: Wanted) -> ColumnElement[bool]:
    clauses: list[ColumnElement[bool]] = []
    if wanted.ids is not None:
        clauses.append(triggers.c.id.in_(wanted.ids))
    if wanted.names is not None:
        clauses.append(_NAME.in_(wanted.names))
    if wanted.created_until is not None:
        clauses.append(triggers.c.created_at <= wanted.created_until)
    if wanted.enabled is not None:
        clauses.append(triggers.c.enabled == wanted.enabled)
    if wanted.tags is not None:
        clauses.append(_have_tags(wanted.tags))
    return _joined(clauses, wanted.any_of_these)


def _have_tags(wanted: Tags) -> ColumnElement[bool]:
    tags = cast(triggers.c.document["tags"], JSONB)
    clauses: list[ColumnElement[bool]] = []
    if wanted.all is not None:
        clauses.append(tags.has_all(cast(wanted.all, ARRAY(Text))))
    if wanted.any is not None:
        clauses.append(tags.has_any(cast(wanted.any, ARRAY(Text))))
    if wanted.none is not None:
        clauses.append((func.jsonb_array_length(tags) == 0) == wanted.none)
    return _joined(clauses, wanted.any_of_these)


def _joined(clauses: Iterable[ColumnElement[bool]], any_of_these: bool) -> ColumnElement[bool]:
    clauses = list(clauses)
    if not clauses:
        return true()
    return or_(*clauses) if any_of_these else and_(*clauses)


async def _all(conn: AsyncConnection, query: Select[Any]) -> Sequence[StoredAutomation]:
    return [_automation(row) for row in await conn.execute(query)]


def _automation(row: Row[Any]) -> StoredAutomation:
    trigger = StoredTrigger(
        id=row.id,
        number=row.number,
        name=row.name,
        version=row.version,
        document=row.document,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )
    return StoredAutomation(
        trigger=trigger,
        name=row.automation_name,
        owner_resource=row.owner_resource,
        is_ending=row.is_ending,
    )
