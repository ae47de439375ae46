"""Runs of flows: what they have beside the run, and how they move between line and process."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Interval, TextClause, bindparam, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from upshot.core.lifecycle import EndedRun
from upshot.core.limits import (
    AD_HOC_RUN_LEASE,
    FLOW_RUN_LEASE,
    FLOW_RUN_LEASE_RENEWED_BELOW,
    FLOW_RUN_STATES_KEPT,
)
from upshot.storage import log
from upshot.storage.queue import ENDED, OVERLAPPED, enqueue_sql

NOBODYS = "(none)"
"""What the queue says is the deployment of a run that no deployment hands out: an ad hoc run or a
subflow. No deployment can have this name, so that such a run takes no room of any."""

WORKER = "prefect"
"""Who has the runs that processes of Prefect's work on. Those alone are `accepted` by a worker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a run has once a client of its flow has said something of it; JSON is text."""

    flow_id: UUID
    deployment_id: UUID | None
    name: str
    state_type: str
    state: str
    run_count: int
    started_at: datetime | None
    ended_at: datetime | None
    running_since: datetime | None
    running_for: float
    parent_task_run_id: UUID | None
    idempotency_key: str | None
    details: str
    updated_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFlowRun:
    """A run of a flow; JSON is text. `state` is one of RunState's six.

    `due_at` is None where nothing is due: it has ended, or is suspended. `in_process` says that a
    process of Prefect's has it, `is_leased` that anybody has.
    """

    id: UUID
    state: str
    deployment: str
    trigger_id: UUID | None
    trigger: str | None
    depth: int
    created_at: datetime
    scheduled_at: datetime
    finished_at: datetime | None
    error: str | None
    parameters: str | None
    template: str | None
    due_at: datetime | None
    started_at: datetime | None
    waits: bool
    is_leased: bool
    in_process: bool
    flow_id: UUID
    flow_name: str | None
    flow_tags: str | None
    deployment_id: UUID | None
    deployment_name: str | None
    deployment_tags: str | None
    deployment_details: str | None
    parameter_schema: str | None
    said: Said | None


_SAID = (
    "name", "state_type", "run_count", "started_at", "ended_at", "running_since", "running_for",
    "parent_task_run_id", "idempotency_key", "updated_at",
)  # fmt: skip

_FROM = """
  FROM runs AS r
  LEFT JOIN run_queue AS q ON q.run_id = r.id
  LEFT JOIN flow_runs AS f ON f.run_id = r.id
  LEFT JOIN deployments AS d ON d.name = r.deployment
  LEFT JOIN flow_deployments AS fd
    ON fd.deployment_id = d.id AND (f.run_id IS NULL OR f.deployment_id = d.id)
  LEFT JOIN flows AS w ON w.id = coalesce(f.flow_id, fd.flow_id)
"""
_IS_OF_A_FLOW = "(f.run_id IS NOT NULL OR fd.deployment_id IS NOT NULL)"

_COLUMNS = f"""
SELECT r.id, coalesce(q.state, r.state) AS state, r.deployment, r.trigger_id, r.trigger, r.depth,
       r.created_at, r.scheduled_at, r.finished_at, r.error,
       nullif(q.due_at, 'infinity') AS due_at, q.started_at, coalesce(q.waits, false) AS waits,
       q.lease IS NOT NULL AS is_leased,
       q.lease IS NOT NULL AND q.accepted AND q.worker IS NOT NULL AS in_process,
       coalesce(f.flow_id, fd.flow_id) AS flow_id, w.name AS flow_name, w.tags::text AS flow_tags,
       CASE WHEN f.run_id IS NULL THEN fd.deployment_id ELSE f.deployment_id END AS deployment_id,
       fd.name AS deployment_name, f.run_id IS NOT NULL AS is_said,
       CASE WHEN fd.deployment_id IS NOT NULL THEN d.tags::text END AS deployment_tags,
       {", ".join(f"f.{name} AS said_{name}" for name in _SAID)}
"""

_FULL = (
    _COLUMNS
    + """,
       r.parameters::text AS parameters, r.template::text AS template,
       fd.details::text AS deployment_details, d.parameter_schema::text AS parameter_schema,
       f.state::text AS said_state, f.details::text AS said_details
"""
    + _FROM
)

# Without what may be large: parameters, and the data of states.
_LIGHT = (
    _COLUMNS
    + """,
       NULL AS parameters, NULL AS template, NULL AS deployment_details, NULL AS parameter_schema,
       json_strip_nulls(json_build_object(
           'id', f.state -> 'id', 'type', f.state -> 'type', 'name', f.state -> 'name',
           'timestamp', f.state -> 'timestamp', 'state_details', json_build_object(
               'pause_reschedule', f.state -> 'state_details' -> 'pause_reschedule',
               'scheduled_time', f.state -> 'state_details' -> 'scheduled_time')
       ))::text AS said_state,
       json_strip_nulls(json_build_object(
           'tags', f.details -> 'tags', 'flow_version', f.details -> 'flow_version',
           'expected_start_time', f.details -> 'expected_start_time'
       ))::text AS said_details
"""
    + _FROM
)


async def load(conn: AsyncConnection, run_id: UUID) -> StoredFlowRun | None:
    """None: there is no such run, or it is no flow's."""
    found = await load_all(conn, [run_id])
    return found[0] if found else None


async def load_all(conn: AsyncConnection, run_ids: Collection[UUID]) -> list[StoredFlowRun]:
    """Those of these runs that are of flows, in any order."""
    rows = await conn.execute(
        text(f"{_FULL} WHERE r.id = ANY(CAST(:ids AS uuid[])) AND {_IS_OF_A_FLOW}"),
        {"ids": list(run_ids)},
    )
    return [_stored(row) for row in rows.mappings()]


async def newest(
    conn: AsyncConnection, *, among: Sequence[UUID] | None, limit: int
) -> list[StoredFlowRun]:
    """Runs of flows, those made last first, without parameters and the data of states.

    `among`: of these runs; else of all.
    """
    rows = await conn.execute(
        text(
            f"{_LIGHT} WHERE r.id = ANY(CAST(:ids AS uuid[])) AND {_IS_OF_A_FLOW} "
            "ORDER BY r.created_at DESC, r.id DESC LIMIT :limit"
        ),
        {"ids": among, "limit": limit},
    )
    return [_stored(row) for row in rows.mappings()]


async def now(conn: AsyncConnection) -> datetime:
    """The database's clock, which goes on within a transaction."""
    at: datetime = (await conn.execute(text("SELECT clock_timestamp()"))).scalar_one()
    return at


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """How much a deployment has to give: how many more runs at once, and whether it gives any."""

    free: int
    enabled: bool


async def space_of(conn: AsyncConnection, deployment: str) -> Space | None:
    """None: there is no such deployment. Needs `queue.hold_claims`, lest another takes the room."""
    row = (
        await conn.execute(
            text(
                "SELECT d.enabled, d.max_concurrency - (SELECT count(*) FROM run_queue AS q "
                "WHERE q.deployment = d.name AND q.lease IS NOT NULL) AS free "
                "FROM deployments AS d WHERE d.name = :name"
            ),
            {"name": deployment},
        )
    ).one_or_none()
    return None if row is None else Space(free=row.free, enabled=row.enabled)


async def begin(conn: AsyncConnection, run_id: UUID, *, parameters: str | None) -> None:
    """A process has the run from now on: its next attempt, under a lease.

    `parameters` are those that were still to be rendered.
    """
    await conn.execute(
        _with_id(
            "UPDATE run_queue SET lease = gen_random_uuid(), state = 'running', accepted = true, "
            "attempt = attempt + 1, started_at = now(), worker = :worker, lease_until = now() + "
            "CASE WHEN deployment = :nobodys THEN CAST(:long AS interval) ELSE :lease END "
            "WHERE run_id = :run_id"
        ).bindparams(bindparam("lease", type_=Interval), bindparam("long", type_=Interval)),
        {
            "run_id": run_id,
            "worker": WORKER,
            "nobodys": NOBODYS,
            "lease": FLOW_RUN_LEASE,
            "long": AD_HOC_RUN_LEASE,
        },
    )
    if parameters is not None:
        await set_parameters(conn, run_id, parameters)


async def set_parameters(conn: AsyncConnection, run_id: UUID, parameters: str) -> None:
    await conn.execute(
        _with_id(
            "UPDATE runs SET parameters = CAST(:parameters AS json), template = NULL "
            "WHERE id = :run_id"
        ),
        {"run_id": run_id, "parameters": parameters},
    )


_PROLONG = """
UPDATE run_queue AS q
   SET lease_until = least(now() + :lease, q.started_at + make_interval(secs => d.run_timeout))
  FROM deployments AS d
 WHERE d.name = q.deployment AND q.run_id IN (
    SELECT l.run_id FROM run_queue AS l JOIN deployments AS o ON o.name = l.deployment
     WHERE {which} AND l.lease IS NOT NULL AND l.accepted AND l.worker IS NOT NULL
       AND l.lease_until < now() + :below
       AND l.lease_until < l.started_at + make_interval(secs => o.run_timeout)
     ORDER BY l.run_id FOR UPDATE OF l SKIP LOCKED)
"""


async def prolong(conn: AsyncConnection, run_id: UUID) -> None:
    """Something was heard of the process that has the run."""
    await conn.execute(
        _with_id(_PROLONG.format(which="l.run_id = :run_id")).bindparams(*_leases()),
        {"run_id": run_id, "lease": FLOW_RUN_LEASE, "below": FLOW_RUN_LEASE_RENEWED_BELOW},
    )


async def prolong_all(conn: AsyncConnection, deployment_ids: Sequence[UUID]) -> None:
    """Something was heard of the runner of these deployments. Rows that others hold are skipped."""
    await conn.execute(
        text(_PROLONG.format(which="o.id = ANY(CAST(:ids AS uuid[]))")).bindparams(*_leases()),
        {
            "ids": list(deployment_ids),
            "lease": FLOW_RUN_LEASE,
            "below": FLOW_RUN_LEASE_RENEWED_BELOW,
        },
    )


async def wait(
    conn: AsyncConnection, run_id: UUID, *, due_at: datetime | None, outcome: str
) -> None:
    """The run waits in the line until it is due, or, None, until somebody resumes it.

    If anybody has it, that attempt goes on record with its outcome.
    """
    await conn.execute(
        _with_id(
            "WITH held AS (SELECT * FROM run_queue WHERE run_id = :run_id), "
            "recorded AS (INSERT INTO attempts "
            "(run_id, number, started_at, duration, outcome, worker) "
            "SELECT run_id, attempt, started_at, extract(epoch FROM now() - started_at), :outcome, "
            "worker FROM held WHERE lease IS NOT NULL ON CONFLICT DO NOTHING) "
            "UPDATE run_queue AS q SET lease = NULL, lease_until = NULL, worker = NULL, "
            "accepted = false, due_at = coalesce(:due_at, 'infinity'), "
            "state = CASE WHEN q.lease IS NULL THEN q.state ELSE 'retrying' END "
            "WHERE run_id = :run_id"
        ).bindparams(bindparam("due_at", type_=postgresql.TIMESTAMP(timezone=True))),
        {"run_id": run_id, "due_at": due_at, "outcome": outcome},
    )


async def create(
    conn: AsyncConnection,
    *,
    run_id: UUID,
    deployment: str,
    parameters: str | None,
    template: str | None,
    scheduled_at: datetime,
    depth: int,
) -> None:
    """Make a run of a flow, which is not in the line yet."""
    await conn.execute(
        _with_id(
            "INSERT INTO runs (id, scheduled_at, state, deployment, labels, event_ids, "
            "parameters, template, depth) "
            "VALUES (:run_id, :scheduled_at, 'scheduled', :deployment, '{}', '{}', "
            "CAST(:parameters AS json), CAST(:template AS json), :depth)"
        ),
        {
            "run_id": run_id,
            "deployment": deployment,
            "parameters": parameters,
            "template": template,
            "scheduled_at": scheduled_at,
            "depth": depth,
        },
    )


_ENQUEUE = text(enqueue_sql("CAST(:ids AS uuid[])", due_at="r.scheduled_at"))


async def enqueue(conn: AsyncConnection, run_id: UUID) -> bool:
    """Put a run into its deployment's line, due when it is scheduled. False: it may not overlap
    another (`overlap`: skip), and is cancelled.
    """
    if await conn.scalar(_ENQUEUE, {"ids": [run_id]}) is not None:
        return True
    await conn.execute(
        _with_id(
            "UPDATE runs SET state = 'cancelled', finished_at = now(), error = :error "
            "WHERE id = :run_id"
        ),
        {"run_id": run_id, "error": OVERLAPPED},
    )
    return False


async def enqueue_nobodys(conn: AsyncConnection, run_id: UUID) -> None:
    """Put a run that no deployment hands out into the queue, where its process has it at once."""
    await conn.execute(
        _with_id(
            "INSERT INTO run_queue (run_id, due_at, state, deployment, attempt) "
            "SELECT :run_id, now(), 'scheduled', :nobodys, "
            "coalesce((SELECT max(number) FROM attempts WHERE run_id = :run_id), 0)"
        ),
        {"run_id": run_id, "nobodys": NOBODYS},
    )


async def end(
    conn: AsyncConnection,
    run_id: UUID,
    *,
    state: str,
    outcome: str,
    error: str | None,
    result: str | None,
    at: datetime,
    tell: bool,
) -> None:
    """End the run, whoever has it. The attempt of a worker goes on record with its outcome.

    `tell`: the log is told; it was not before.
    """
    ended = await conn.execute(
        _with_id(
            "WITH ended AS (DELETE FROM run_queue WHERE run_id = :run_id "
            "RETURNING run_id, attempt, started_at, worker, lease), "
            "recorded AS (INSERT INTO attempts "
            "(run_id, number, started_at, duration, outcome, error, worker) "
            "SELECT run_id, attempt, started_at, extract(epoch FROM now() - started_at), :outcome, "
            "CAST(:error AS text), worker FROM ended "
            "WHERE lease IS NOT NULL AND worker IS NOT NULL ON CONFLICT DO NOTHING) "
            "UPDATE runs AS r SET state = :state, finished_at = :at, error = CAST(:error AS text), "
            "result = CAST(:result AS json) WHERE r.id = :run_id "
            f"RETURNING {ENDED}, coalesce((SELECT attempt FROM ended), "
            "(SELECT max(number) FROM attempts WHERE run_id = :run_id), 0) AS attempts"
        ),
        {
            "run_id": run_id,
            "state": state,
            "outcome": outcome,
            "error": error,
            "result": result,
            "at": at,
        },
    )
    row = ended.mappings().one()
    if tell:
        await log.append_one_ended(conn, EndedRun(**row))


_SAVE = """
INSERT INTO flow_runs (run_id, flow_id, deployment_id, name, state_type, state, run_count,
                       started_at, ended_at, running_since, running_for, parent_task_run_id,
                       idempotency_key, details)
VALUES (:run_id, :flow_id, :deployment_id, :name, :state_type, CAST(:state AS json), :run_count,
        :started_at, :ended_at, :running_since, :running_for, :parent_task_run_id,
        :idempotency_key, CAST(:details AS json))
ON CONFLICT (run_id) DO UPDATE
   SET name = excluded.name, state_type = excluded.state_type, state = excluded.state,
       run_count = excluded.run_count, started_at = excluded.started_at,
       ended_at = excluded.ended_at, running_since = excluded.running_since,
       running_for = excluded.running_for, details = excluded.details, updated_at = now()
"""


async def save(conn: AsyncConnection, run_id: UUID, said: Said) -> None:
    """What is said of a locked run."""
    await conn.execute(
        _with_id(_SAVE),
        {
            "run_id": run_id,
            **{name: getattr(said, name) for name in Said.__slots__ if name != "updated_at"},
        },
    )


async def with_idempotency_key(conn: AsyncConnection, *, flow_id: UUID, key: str) -> UUID | None:
    """The run that was made with this key. By flow_runs_by_idempotency_key."""
    run_id: UUID | None = await conn.scalar(
        text("SELECT run_id FROM flow_runs WHERE flow_id = :flow_id AND idempotency_key = :key"),
        {"flow_id": flow_id, "key": key},
    )
    return run_id


async def add_state(conn: AsyncConnection, run_id: UUID, *, state_id: UUID, state: str) -> None:
    """Append to the states of a locked run; the oldest give way to it."""
    await conn.execute(
        _with_id(
            "WITH last AS (SELECT coalesce(max(number), 0) AS number FROM flow_run_states "
            "WHERE run_id = :run_id), gone AS (DELETE FROM flow_run_states USING last "
            "WHERE run_id = :run_id AND flow_run_states.number <= last.number - :kept) "
            "INSERT INTO flow_run_states (id, run_id, number, state) "
            "SELECT :state_id, :run_id, last.number + 1, CAST(:state AS json) FROM last "
            "ON CONFLICT (id) DO NOTHING"
        ),
        {"run_id": run_id, "state_id": state_id, "state": state, "kept": FLOW_RUN_STATES_KEPT},
    )


async def states_of(conn: AsyncConnection, run_id: UUID) -> list[str]:
    """The first one first, as JSON. By flow_run_states_by_run."""
    rows = await conn.scalars(
        _with_id("SELECT state::text FROM flow_run_states WHERE run_id = :run_id ORDER BY number"),
        {"run_id": run_id},
    )
    return list(rows)


async def load_state(conn: AsyncConnection, state_id: UUID) -> str | None:
    found: str | None = await conn.scalar(
        text("SELECT state::text FROM flow_run_states WHERE id = :id"), {"id": state_id}
    )
    return found


async def remove(conn: AsyncConnection, run_id: UUID) -> None:
    """Delete a run that has ended, with all that is known of it."""
    await conn.execute(_with_id("DELETE FROM attempts WHERE run_id = :run_id"), {"run_id": run_id})
    await conn.execute(_with_id("DELETE FROM runs WHERE id = :run_id"), {"run_id": run_id})


def _stored(row: Any) -> StoredFlowRun:
    said = None
    if row["is_said"]:
        said = Said(
            flow_id=row["flow_id"],
            deployment_id=row["deployment_id"],
            state=row["said_state"],
            details=row["said_details"],
            **{name: row[f"said_{name}"] for name in _SAID},
        )
    named = {name: row[name] for name in StoredFlowRun.__slots__ if name != "said"}
    return StoredFlowRun(said=said, **named)


def _with_id(statement: str) -> TextClause:
    return text(statement).bindparams(bindparam("run_id", type_=postgresql.UUID))


def _leases() -> tuple[Any, Any]:
    return bindparam("lease", type_=Interval), bindparam("below", type_=Interval)
