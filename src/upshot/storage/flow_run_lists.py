"""Which runs of flows there are: those a runner can begin, those a list looks through, the lost."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import bindparam, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from upshot.storage.flow_runs import NOBODYS

# As `queue.CLAIM` picks them, but that nothing is claimed: the runner proposes Pending for each.
DUE = """
WITH room AS (
    SELECT d.name, least(:limit, d.max_concurrency - (
        SELECT count(*) FROM run_queue AS l WHERE l.deployment = d.name AND l.lease IS NOT NULL
    )) AS free
      FROM deployments AS d JOIN flow_deployments AS f ON f.deployment_id = d.id
     WHERE d.id = ANY(CAST(:ids AS uuid[])) AND d.enabled AND d.runner ->> 'type' = 'pull'
)
SELECT due.run_id FROM room CROSS JOIN LATERAL (
    SELECT q.run_id, q.due_at FROM run_queue AS q
     WHERE q.deployment = room.name AND q.lease IS NULL AND NOT q.waits
       AND q.due_at <= coalesce(CAST(:before AS timestamptz), now())
     ORDER BY q.due_at LIMIT greatest(room.free, 0)
) AS due
ORDER BY due.due_at, due.run_id LIMIT :limit
"""


async def due(
    conn: AsyncConnection,
    deployment_ids: Sequence[UUID],
    *,
    before: datetime | None,
    limit: int,
) -> list[UUID]:
    """Runs that runners of these deployments can begin, the first due first."""
    rows = await conn.scalars(
        text(DUE).bindparams(bindparam("before", type_=postgresql.TIMESTAMP(timezone=True))),
        {"ids": list(deployment_ids), "before": before, "limit": limit},
    )
    return list(rows)


async def are_slots_changed(conn: AsyncConnection) -> bool:
    """Whether runs that wait for another of their key may have their turn now."""
    return bool(await conn.scalar(text("SELECT EXISTS (SELECT FROM slots_changed)")))


async def note_polled(conn: AsyncConnection, deployment_ids: Sequence[UUID]) -> None:
    """A runner has asked for runs of these. Written now and then; rows others hold are skipped."""
    await conn.execute(
        text(
            "UPDATE flow_deployments SET polled_at = now() WHERE deployment_id IN ("
            "SELECT deployment_id FROM flow_deployments "
            "WHERE deployment_id = ANY(CAST(:ids AS uuid[])) "
            "AND coalesce(polled_at < now() - interval '10 seconds', true) "
            "ORDER BY deployment_id FOR UPDATE SKIP LOCKED)"
        ),
        {"ids": list(deployment_ids)},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Among:
    """What runs are looked for among; None asks nothing. The first that is given decides how."""

    ids: Sequence[UUID] | None = None
    parent_task_runs: Sequence[UUID] | None = None
    parent_runs: Sequence[UUID] | None = None
    deployments: Sequence[UUID] | None = None
    flows: Sequence[UUID] | None = None
    only_open: bool = False


_BY_PARENT_TASK_RUN = (
    "SELECT run_id FROM flow_runs WHERE parent_task_run_id = ANY(CAST(:ids AS uuid[]))"
)
_BY_PARENT_RUN = (
    "SELECT f.run_id FROM task_runs AS t JOIN flow_runs AS f ON f.parent_task_run_id = t.id "
    "WHERE t.flow_run_id = ANY(CAST(:ids AS uuid[]))"
)
_NAMES = """
    SELECT d.name FROM flow_deployments AS fd JOIN deployments AS d ON d.id = fd.deployment_id
     WHERE coalesce(d.id = ANY(CAST(:deployments AS uuid[])), true)
       AND coalesce(fd.flow_id = ANY(CAST(:flows AS uuid[])), true)
"""
_OPEN = f"""
SELECT run_id FROM run_queue
 WHERE deployment = :nobodys OR deployment IN ({_NAMES}) LIMIT :limit
"""
_NEWEST = f"""
SELECT of_one.id FROM ({_NAMES}) AS named CROSS JOIN LATERAL (
    SELECT r.id FROM runs AS r WHERE r.deployment = named.name
     ORDER BY r.created_at DESC LIMIT :limit
) AS of_one
UNION
SELECT * FROM (
    SELECT run_id FROM flow_runs
     WHERE deployment_id IS NULL AND coalesce(flow_id = ANY(CAST(:flows AS uuid[])), true)
       AND CAST(:deployments AS uuid[]) IS NULL
     ORDER BY run_id DESC LIMIT :limit
) AS ad_hoc
"""


async def candidates(conn: AsyncConnection, among: Among, *, limit: int) -> Sequence[UUID]:
    """Runs that may be looked for: `limit` of each deployment, and so many of no deployment.

    By primary key, flow_runs_by_parent, the queue's indexes, runs_by_deployment, flow_runs_ad_hoc.
    """
    if among.ids is not None:
        return among.ids
    if among.parent_task_runs is not None:
        rows = await conn.scalars(text(_BY_PARENT_TASK_RUN), {"ids": list(among.parent_task_runs)})
        return list(rows)
    if among.parent_runs is not None:
        return list(await conn.scalars(text(_BY_PARENT_RUN), {"ids": list(among.parent_runs)}))
    given = {"deployments": among.deployments, "flows": among.flows, "limit": limit}
    if among.only_open:
        return list(await conn.scalars(text(_OPEN), {**given, "nobodys": NOBODYS}))
    return list(await conn.scalars(text(_NEWEST), given))


async def lost(conn: AsyncConnection, *, limit: int) -> list[UUID]:
    """Runs whose process was not heard of while its lease lasted. By run_queue_leased."""
    rows = await conn.scalars(
        text(
            "SELECT run_id FROM run_queue WHERE lease IS NOT NULL AND accepted "
            "AND worker IS NOT NULL AND lease_until < now() ORDER BY lease_until LIMIT :limit"
        ),
        {"limit": limit},
    )
    return list(rows)


async def never_resumed(conn: AsyncConnection, *, limit: int) -> list[UUID]:
    """Suspended runs whose pause has timed out."""
    rows = await conn.scalars(
        text(
            "SELECT q.run_id FROM run_queue AS q JOIN flow_runs AS f ON f.run_id = q.run_id "
            "WHERE q.due_at = 'infinity' AND q.lease IS NULL AND f.state_type = 'PAUSED' "
            "AND CAST(f.state #>> '{state_details,pause_timeout}' AS timestamptz) < now() "
            "LIMIT :limit"
        ),
        {"limit": limit},
    )
    return list(rows)


async def is_lost(conn: AsyncConnection, run_id: UUID) -> bool:
    """Whether a locked run still is one of those that `lost` answers."""
    return bool(
        await conn.scalar(
            text(
                "SELECT EXISTS (SELECT FROM run_queue WHERE run_id = :run_id AND accepted "
                "AND worker IS NOT NULL AND lease_until < now())"
            ).bindparams(bindparam("run_id", type_=postgresql.UUID)),
            {"run_id": run_id},
        )
    )
