"""Deployments: what to run, and where."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Row, Select, delete, func, literal, select, text, update
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from upshot.core.delivery import Pull, Runner, Webhook
from upshot.core.lifecycle import EndedRun
from upshot.storage.log import append_one_ended
from upshot.storage.queue import ENDED
from upshot.storage.schema import deployments


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentFields:
    """What a client decides of a deployment."""

    description: str
    tags: list[str]
    runner: Runner
    parameters: dict[str, Any]
    parameter_schema: dict[str, Any] | None
    max_concurrency: int
    run_timeout: timedelta
    overlap: str
    enabled: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment(DeploymentFields):
    """A deployment as it is stored."""

    name: str
    id: UUID
    disabled_reason: str | None
    created_at: datetime
    updated_at: datetime


def runner_document(runner: Runner) -> dict[str, Any]:
    """A runner as it is stored: with its secrets, which the API never shows."""
    if isinstance(runner, Pull):
        return {"type": "pull", "retries": list(runner.retries)}
    return {
        **runner.plain_form,
        "type": "webhook",
        "url": runner.url,
        "headers": dict(runner.headers),
        "secrets": list(runner.secrets),
        "timeout": runner.timeout.total_seconds(),
        "retries": list(runner.retries),
    }


def runner_of(document: Mapping[str, Any]) -> Runner:
    """The runner that `runner_document` wrote."""
    if document["type"] == "pull":
        return Pull(tuple(document["retries"]))
    return webhook_of(document)


def webhook_of(document: Mapping[str, Any]) -> Webhook:
    """The webhook that `runner_document` wrote."""
    return Webhook(
        url=document["url"],
        headers=document["headers"],
        secrets=tuple(document["secrets"]),
        timeout=timedelta(seconds=document["timeout"]),
        retries=tuple(document["retries"]),
        method=document.get("method", "POST"),
        body=document.get("body", "run"),
    )


async def create(
    conn: AsyncConnection, *, name: str, deployment_id: UUID, fields: DeploymentFields
) -> Deployment | None:
    """None: there is one of this name already."""
    row = (
        await conn.execute(
            postgres_insert(deployments)
            .values(name=name, id=deployment_id, **_columns(fields))
            .on_conflict_do_nothing(index_elements=[deployments.c.name])
            .returning(deployments)
        )
    ).one_or_none()
    return row and deployment_of(row)


async def replace(conn: AsyncConnection, *, name: str, fields: DeploymentFields) -> Deployment:
    """Write a deployment whose row is locked. Enabling it forgets why it was disabled."""
    values = _columns(fields)
    if fields.enabled:
        values["disabled_reason"] = None
    row = await conn.execute(
        update(deployments)
        .where(deployments.c.name == name)
        .values(**values, updated_at=func.now())
        .returning(deployments)
    )
    return deployment_of(row.one())


async def load(conn: AsyncConnection, name: str) -> Deployment | None:
    return await _one(conn, select(deployments).where(deployments.c.name == name))


async def lock(conn: AsyncConnection, name: str) -> Deployment | None:
    """Load it, and keep others from changing it until the transaction ends."""
    return await _one(conn, select(deployments).where(deployments.c.name == name).with_for_update())


async def hold(conn: AsyncConnection, name: str) -> Deployment | None:
    """Load it, and keep others from deleting it until the transaction ends."""
    query = select(deployments).where(deployments.c.name == name)
    return await _one(conn, query.with_for_update(read=True, key_share=True))


async def hold_all(conn: AsyncConnection, names: Collection[str]) -> dict[str, Deployment]:
    """Likewise for those of these that there are, by name."""
    rows = await conn.execute(
        select(deployments)
        .where(deployments.c.name.in_(names))
        .order_by(deployments.c.name)
        .with_for_update(read=True, key_share=True)
    )
    return {row.name: deployment_of(row) for row in rows}


async def page(conn: AsyncConnection, *, after: str, limit: int) -> Sequence[Deployment]:
    """By name, those after `after`."""
    rows = await conn.execute(
        select(deployments)
        .where(deployments.c.name > after)
        .order_by(deployments.c.name)
        .limit(limit)
    )
    return [deployment_of(row) for row in rows]


async def pulling(conn: AsyncConnection, names: Sequence[str]) -> dict[str, bool]:
    """Those of these deployments that there are, and whether their runners pull."""
    rows = await conn.execute(
        select(deployments.c.name, deployments.c.runner["type"].astext == "pull").where(
            deployments.c.name.in_(names)
        )
    )
    return {row[0]: row[1] for row in rows}


async def triggers_using(conn: AsyncConnection, name: str, *, limit: int) -> list[str]:
    """The names of triggers that run this deployment, by themselves or as one of their actions."""
    rows = await conn.scalars(
        text(
            "SELECT t.name FROM triggers AS t WHERE t.deployment = :name "
            "OR (t.deployment IS NULL AND EXISTS ("
            "SELECT FROM json_array_elements(t.document -> 'actions') AS a "
            "WHERE a ->> 'type' = 'run' AND a ->> 'deployment' = :name)) "
            "ORDER BY t.name LIMIT :limit"
        ),
        {"name": name, "limit": limit},
    )
    return list(rows)


async def remove(conn: AsyncConnection, name: str) -> bool:
    row = await conn.execute(
        delete(deployments).where(deployments.c.name == name).returning(literal(1))
    )
    return row.one_or_none() is not None


async def cancel_open_runs(conn: AsyncConnection, name: str, *, reason: str) -> int:
    """End every open run of a deployment, visibly; answers how many."""
    rows = await conn.execute(
        text(
            "WITH ended AS (DELETE FROM run_queue WHERE run_id IN ("
            "SELECT run_id FROM run_queue WHERE deployment = :name ORDER BY run_id FOR UPDATE) "
            "RETURNING run_id, attempt), "
            "cancelled AS (UPDATE runs AS r "
            "SET state = 'cancelled', finished_at = now(), error = :reason "
            "FROM ended WHERE r.id = ended.run_id AND r.state = 'scheduled' "
            f"RETURNING {ENDED}, ended.attempt AS attempts) "
            "SELECT c.*, (SELECT count(*) FROM cancelled) AS count FROM (SELECT) AS one "
            "LEFT JOIN cancelled AS c ON c.action IS NOT NULL"
        ),
        {"name": name, "reason": reason},
    )
    count = 0
    for row in rows.mappings():
        count = row["count"]
        if row["id"] is not None:
            fields = {field: row[field] for field in EndedRun.__struct_fields__}
            await append_one_ended(conn, EndedRun(**fields))
    return count


async def _one(conn: AsyncConnection, query: Select[Any]) -> Deployment | None:
    row = (await conn.execute(query)).one_or_none()
    return row and deployment_of(row)


def _columns(fields: DeploymentFields) -> dict[str, Any]:
    return {
        "description": fields.description,
        "tags": fields.tags,
        "runner": runner_document(fields.runner),
        "parameters": fields.parameters,
        "parameter_schema": fields.parameter_schema,
        "max_concurrency": fields.max_concurrency,
        "run_timeout": fields.run_timeout.total_seconds(),
        "overlap": fields.overlap,
        "enabled": fields.enabled,
    }


def deployment_of(row: Row[Any]) -> Deployment:
    """The deployment in a row that holds all columns of `deployments`."""
    return Deployment(
        name=row.name,
        id=row.id,
        description=row.description,
        tags=row.tags,
        runner=runner_of(row.runner),
        parameters=row.parameters,
        parameter_schema=row.parameter_schema,
        max_concurrency=row.max_concurrency,
        run_timeout=timedelta(seconds=row.run_timeout),
        overlap=row.overlap,
        enabled=row.enabled,
        disabled_reason=row.disabled_reason,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )
