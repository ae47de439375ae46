"""Runs as the line moves them: made, claimed under a lease, finished behind a fence."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
from msgspec import Struct
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from upshot.core.lifecycle import EndedRun, resource_id_of
from upshot.core.limits import CHAIN_DEPTH_MAX, SLOTS_LOOKED_AT_MAX
from upshot.storage import log

_CLAIMING = 0x7570_636C  # the advisory lock of whoever claims: "upcl"


class NewRun(Struct, frozen=True, kw_only=True, gc=False):
    """A run to be made; JSON as text. `error` makes it one that has failed already.

    `depth` is how many runs in a row led to it. A Struct and not a dataclass: one is made for
    every firing.
    """

    id: UUID
    scheduled_at: datetime
    deployment: str
    trigger_id: UUID
    trigger_version: int
    trigger: str
    key: str
    labels: str
    event_id: UUID | None
    event: str | None
    after_id: UUID | None
    event_ids: list[UUID]
    parameters: str | None
    template: str | None
    error: str | None
    depth: int = 0
    may_overlap: bool = True
    """Other runs of its deployment, for the same key, may be under way at the same time."""
    action: str | None = None
    """What made it, where its trigger has actions (`announcing.made_by`)."""


class ClaimedRun(Struct, frozen=True, gc=False):
    """A run that is ours until `lease` runs out; JSON as text.

    A Struct and not a dataclass, as `Outcome`: one is made for every call.
    """

    id: UUID
    lease: UUID
    lease_until: datetime
    attempt: int
    retries_used: int
    started_at: datetime
    due_at: datetime
    scheduled_at: datetime
    deployment: str
    trigger: str | None
    labels: str
    event: str | None
    parameters: str | None
    template: str | None
    runner: str
    parameter_schema: str | None
    breaker: str


class Outcome(Struct, frozen=True, gc=False):
    """How an attempt ended. `state` is the run's next one; `running` means the runner works on.

    `error` is the attempt's; `run_error` why the run failed, where that says more.
    `again_after` is set for `retrying`. `parameters` are those rendered for this attempt, if any.
    """

    run_id: UUID
    lease: UUID
    state: str
    attempt: int
    started_at: datetime
    duration: float
    outcome: str
    status: int | None = None
    error: str | None = None
    run_error: str | None = None
    response: str | None = None
    again_after: timedelta | None = None
    uses_retry: bool = True
    parameters: str | None = None


async def defaults_of(conn: asyncpg.Connection, names: Sequence[str]) -> list[asyncpg.Record]:
    """What deployments give to their runs: `name`, `id`, `parameters`, `parameter_schema` as text,
    `overlap`.

    Until the transaction ends none of them can be deleted, so that no run is left without one.
    """
    rows: list[asyncpg.Record] = await conn.fetch(
        "SELECT name, id, parameters, parameter_schema, overlap FROM deployments "
        "WHERE name = ANY($1::text[]) ORDER BY name FOR KEY SHARE",
        names,
    )
    return rows


async def defaults_by_id(conn: asyncpg.Connection, ids: Sequence[UUID]) -> list[asyncpg.Record]:
    """As `defaults_of`, for deployments that are known by their ids."""
    rows: list[asyncpg.Record] = await conn.fetch(
        "SELECT name, id, parameters, parameter_schema, overlap FROM deployments "
        "WHERE id = ANY($1::uuid[]) ORDER BY name FOR KEY SHARE",
        ids,
    )
    return rows


OVERLAPPED = "skipped: another run of its key had not ended (overlap: skip)"


def enqueue_sql(ids: str, *, due_at: str) -> str:
    """Puts the runs of an array `ids` into the queue, in this order; answers those that are in it.

    Where a deployment's runs may not overlap, they get a slot: that of their trigger's key, or of
    all that were asked for. One that finds it taken waits (`queue`), or is left out (`skip`), by
    run_queue_slot_held, so that two transactions cannot both find it free. They are sorted by slot,
    lest each waits for the other. Attempts go on counting from those on record.
    """
    return f"""
    WITH given AS (
        SELECT r.id, r.deployment, {due_at} AS due_at, o.number,
               d.overlap, CASE WHEN d.overlap <> 'allow' THEN
                   md5(concat_ws(E'\\n', r.deployment, r.trigger_id, r.key))::uuid END AS slot
          FROM unnest({ids}) WITH ORDINALITY AS o (id, number)
          JOIN runs AS r ON r.id = o.id
          LEFT JOIN deployments AS d ON d.name = r.deployment
    )
    INSERT INTO run_queue (run_id, due_at, state, deployment, slot, waits, attempt)
    SELECT g.id, g.due_at, 'scheduled', g.deployment, g.slot,
           g.slot IS NOT NULL AND g.overlap = 'queue',
           coalesce((SELECT max(a.number) FROM attempts AS a WHERE a.run_id = g.id), 0)
      FROM given AS g
     WHERE g.slot IS NULL OR g.overlap = 'queue'
        OR NOT EXISTS (SELECT FROM run_queue AS q WHERE q.slot = g.slot)
     ORDER BY g.slot, g.number
    ON CONFLICT (slot) WHERE NOT waits AND slot IS NOT NULL DO NOTHING
    RETURNING run_id
    """


async def create(conn: asyncpg.Connection, runs: Sequence[NewRun]) -> None:
    """COPY runs, and the queue's rows of those that have not failed already.

    The log is told of those that have, except where a chain is too deep: it would go on for ever.
    Where runs of a deployment may not overlap, those that would are cancelled, or wait.

    Raises:
        asyncpg.UniqueViolationError: a run of this firing is there already.
    """
    failed = [run for run in runs if run.error is not None]
    now: Any = await conn.fetchval("SELECT now()") if failed else None
    await conn.copy_records_to_table(
        "runs",
        columns=(
            "id", "scheduled_at", "finished_at", "state", "deployment", "trigger_id",
            "trigger_version", "trigger", "key", "labels", "event_id", "event", "after_id",
            "event_ids", "parameters", "template", "error", "depth", "action",
        ),
        records=[
            (
                run.id,
                run.scheduled_at,
                now if run.error is not None else None,
                "failed" if run.error is not None else "scheduled",
                run.deployment,
                run.trigger_id,
                run.trigger_version,
                run.trigger,
                run.key,
                run.labels,
                run.event_id,
                run.event,
                run.after_id,
                run.event_ids,
                run.parameters,
                run.template,
                run.error,
                run.depth,
                run.action,
            )
            for run in runs
        ],
    )  # fmt: skip
    await _enqueue(conn, [run for run in runs if run.error is None])
    await log.append_ended(
        conn, [_ended_at_once(run, now=now) for run in failed if run.depth <= CHAIN_DEPTH_MAX]
    )


async def _enqueue(conn: asyncpg.Connection, runs: Sequence[NewRun]) -> None:
    """Most runs may overlap, and are copied; the others look for the slot of their key."""
    await conn.copy_records_to_table(
        "run_queue",
        columns=("run_id", "due_at", "state", "deployment"),
        records=[
            (run.id, run.scheduled_at, "scheduled", run.deployment)
            for run in runs
            if run.may_overlap
        ],
    )
    asking = [run.id for run in runs if not run.may_overlap]
    if asking:
        queued = {row["run_id"] for row in await conn.fetch(_ENQUEUE, asking)}
        skipped = [one for one in asking if one not in queued]
        await log.append_ended(conn, _ended(await conn.fetch(_SKIP, skipped, OVERLAPPED)))


_ENQUEUE = enqueue_sql("$1::uuid[]", due_at="r.scheduled_at")


# A slot is free when no run has it; then it goes to the one that has waited for longest. What is
# still uncommitted will note its slot itself, so that nothing is missed.
_GIVE_SLOTS = """
WITH changed AS (
    DELETE FROM slots_changed WHERE ctid = ANY (ARRAY(SELECT ctid FROM slots_changed LIMIT $1))
    RETURNING slot
), next AS (
    SELECT (SELECT q.run_id FROM run_queue AS q
             WHERE q.slot = free.slot AND q.waits ORDER BY q.turn LIMIT 1) AS run_id
      FROM (SELECT DISTINCT slot FROM changed) AS free
     WHERE NOT EXISTS (SELECT FROM run_queue AS q WHERE q.slot = free.slot AND NOT q.waits)
)
UPDATE run_queue AS q SET waits = false FROM next WHERE q.run_id = next.run_id
"""


# Two statements in one message; the status is the second's.
_LOCK_AND_LOOK = f"SELECT pg_advisory_xact_lock({_CLAIMING}); SELECT FROM slots_changed LIMIT 1"


CLAIMER_SETTINGS = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
}
"""For connections that claim in turns: a plan, by the indexes, is made for many turns. To make one
takes as long as to claim twenty runs. See `plan_anew`."""


async def plan_anew(conn: asyncpg.Connection) -> None:
    """What was planned while the queue was empty does not suit one that is full."""
    await conn.execute("DISCARD PLANS")


# The deployments with waiting runs are found by skipping through run_queue_waiting, one probe a
# deployment, so that a long queue of one costs the others nothing. Each has as much room as it has
# fewer leased runs (run_queue_leased) than max_concurrency. A breaker that is not closed leaves
# less: nothing before the next probe is due, and then so many calls, for which what a runner took
# over with a 202 does not count. Who is not called has no breaker. `= ANY`: see _FINISH.
CLAIM = """
WITH RECURSIVE waiting (deployment) AS (
    (SELECT deployment FROM run_queue WHERE lease IS NULL AND NOT waits
      ORDER BY deployment LIMIT 1)
    UNION ALL
    SELECT (SELECT q.deployment FROM run_queue AS q
             WHERE q.lease IS NULL AND NOT q.waits AND q.deployment > w.deployment
             ORDER BY q.deployment LIMIT 1)
      FROM waiting AS w WHERE w.deployment IS NOT NULL
), room AS (
    SELECT d.name, least(d.max_concurrency - held.runs, b.calls_max - held.calls) AS free
      FROM waiting AS w JOIN deployments AS d ON d.name = w.deployment
      LEFT JOIN breakers AS b ON b.deployment_id = d.id AND $3 = 'webhook'
     CROSS JOIN LATERAL (
        SELECT count(*) AS runs, count(*) FILTER (WHERE NOT q.accepted) AS calls
          FROM run_queue AS q WHERE q.deployment = d.name AND q.lease IS NOT NULL
     ) AS held
     WHERE d.enabled AND coalesce(b.probe_at <= now(), true)
       AND d.runner ->> 'type' = $3 AND ($4::text[] IS NULL OR d.name = ANY($4))
     ORDER BY random()
), picked AS (
    SELECT due.run_id FROM room CROSS JOIN LATERAL (
        SELECT q.run_id FROM run_queue AS q
         WHERE q.deployment = room.name AND q.lease IS NULL AND NOT q.waits AND q.due_at <= now()
         ORDER BY q.due_at LIMIT greatest(room.free, 0) FOR UPDATE SKIP LOCKED
    ) AS due
    LIMIT $1
), claimed AS (
    UPDATE run_queue AS q
       SET lease = gen_random_uuid(), lease_until = now() + $2, state = 'running',
           attempt = q.attempt + 1, started_at = now(), worker = $5
     WHERE q.run_id = ANY (ARRAY(SELECT run_id FROM picked))
    RETURNING q.run_id, q.lease, q.lease_until, q.attempt, q.retries_used, q.started_at, q.due_at,
              q.deployment
)
SELECT c.run_id AS id, c.lease, c.lease_until, c.attempt, c.retries_used, c.started_at, c.due_at,
       r.scheduled_at, c.deployment, r.trigger, r.labels::text AS labels, r.event::text AS event,
       r.parameters::text AS parameters, r.template::text AS template, d.runner::text AS runner,
       d.parameter_schema::text AS parameter_schema,
       coalesce(b.state, 'closed') AS breaker
  FROM claimed AS c
  JOIN runs AS r ON r.id = c.run_id
  JOIN deployments AS d ON d.name = c.deployment
  LEFT JOIN breakers AS b ON b.deployment_id = d.id
"""


async def claim(conn: asyncpg.Connection, *, limit: int, lease: timedelta) -> list[ClaimedRun]:
    """Claim up to `limit` due runs to call, of each deployment at most as many as it has room for.

    The oldest come first. Needs a transaction.
    """
    await _begin_claim(conn)
    rows = await conn.fetch(CLAIM, limit, lease, "webhook", None, None)
    return _oldest_first(rows)


async def claim_for_worker(
    conn: asyncpg.Connection,
    *,
    worker: str,
    deployments: Sequence[str] | None,
    limit: int,
    lease: timedelta,
) -> list[ClaimedRun]:
    """Likewise for a worker that pulls, the oldest first. None: of all deployments that do."""
    await _begin_claim(conn)
    rows = await conn.fetch(CLAIM, limit, lease, "pull", deployments, worker)
    return _oldest_first(rows)


def _oldest_first(rows: Iterable[asyncpg.Record]) -> list[ClaimedRun]:
    return sorted((ClaimedRun(**dict(row)) for row in rows), key=lambda run: run.due_at)


async def _begin_claim(conn: asyncpg.Connection) -> None:
    """One claims at a time in the whole cluster, so that two processes never fill the same room.

    The statement after it sees what the claimer before has committed.
    """
    found = await conn.execute(_LOCK_AND_LOOK)
    if found != "SELECT 0":
        await conn.execute(_GIVE_SLOTS, SLOTS_LOOKED_AT_MAX)


async def hold_claims(conn: AsyncConnection) -> None:
    """Nobody else claims until the transaction ends; slots that are free are given on."""
    await conn.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _CLAIMING})
    await conn.execute(text(_GIVE_SLOTS.replace("$1", ":limit")), {"limit": SLOTS_LOOKED_AT_MAX})


OFFERED = """
SELECT d.name, (
    SELECT count(*) FROM (
        SELECT FROM run_queue AS q
         WHERE q.deployment = d.name AND q.lease IS NULL AND NOT q.waits AND q.due_at <= now()
         LIMIT least($1, greatest(0, d.max_concurrency - (
            SELECT count(*) FROM run_queue AS l WHERE l.deployment = d.name AND l.lease IS NOT NULL
         )))
    ) AS due
) AS due
FROM deployments AS d WHERE d.enabled AND d.runner ->> 'type' = 'pull'
"""


async def offered(conn: asyncpg.Connection, *, limit: int) -> dict[str, int]:
    """How many runs of each deployment, at most `limit`, workers could claim now.

    Needs a transaction. By run_queue_waiting and run_queue_leased.
    """
    if await conn.fetchval("SELECT EXISTS (SELECT FROM slots_changed)"):
        await _begin_claim(conn)
    rows = await conn.fetch(OFFERED, limit)
    return {row["name"]: row["due"] for row in rows if row["due"]}


ENDED = """
r.id, r.deployment, r.trigger_id, r.trigger, r.labels::text AS labels, r.event_id,
r.event #>> '{resource,prefect.resource.id}' AS event_resource_id, r.depth, r.state, r.error,
r.result::text AS result, r.finished_at, r.action::text AS action
"""
"""What `EndedRun` takes from a row of `runs AS r`; `attempts` is the queue's to say."""

_SKIP = f"""
UPDATE runs AS r SET state = 'cancelled', finished_at = now(), error = $2
 WHERE id = ANY($1::uuid[]) RETURNING {ENDED}, 0 AS attempts
"""

# A row of the queue is reached by its key, however empty Postgres believes the queue to be: `= ANY`
# is a condition of the index, where a join may become a filter of all rows. Leases are compared in
# a way that does not lead to run_queue_leased, which is full of dead rows.
#
# What ended is joined to all that was held in full, because Postgres expects a row of each, would
# compare every one with every other, and cannot do a full join like that.
_FINISH = f"""
WITH given AS (
    SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::interval[], $5::text[],
                         $6::text[], $7::bool[])
        AS g (run_id, lease, state, again_after, error, parameters, uses_retry)
), attempted AS (
    INSERT INTO attempts (run_id, number, started_at, duration, status, outcome, error, response)
    SELECT * FROM unnest($1::uuid[], $8::int[], $9::timestamptz[], $10::float8[], $11::smallint[],
                         $12::text[], $13::text[], $14::text[])
    ON CONFLICT DO NOTHING
), held AS (
    SELECT q.run_id, q.deployment, q.attempt, g.state, g.again_after, g.error, g.parameters,
           g.uses_retry
      FROM run_queue AS q
      JOIN given AS g ON g.run_id = q.run_id AND g.lease IS NOT DISTINCT FROM q.lease
     WHERE q.run_id = ANY ($1)
     ORDER BY q.run_id FOR UPDATE OF q
), ended AS (
    DELETE FROM run_queue
     WHERE run_id = ANY (ARRAY(SELECT run_id FROM held WHERE state IN ('completed', 'failed')))
), again AS (
    UPDATE run_queue AS q
       SET state = 'retrying', lease = NULL, lease_until = NULL, worker = NULL,
           due_at = now() + h.again_after, retries_used = q.retries_used + h.uses_retry::int
      FROM held AS h WHERE q.run_id = h.run_id AND h.state = 'retrying'
), accepted AS (
    UPDATE run_queue AS q
       SET accepted = true, lease_until = now() + make_interval(secs => d.run_timeout)
      FROM held AS h JOIN deployments AS d ON d.name = h.deployment
     WHERE q.run_id = h.run_id AND h.state = 'running'
), recorded AS (
    UPDATE runs AS r
       SET state = CASE WHEN h.state IN ('completed', 'failed') THEN h.state ELSE r.state END,
           finished_at = CASE WHEN h.state IN ('completed', 'failed') THEN now() END,
           error = CASE WHEN h.state = 'failed' THEN h.error END,
           parameters = coalesce(h.parameters::json, r.parameters),
           template = CASE WHEN h.parameters IS NULL THEN r.template END
      FROM held AS h
     WHERE r.id = h.run_id
       AND (h.state IN ('completed', 'failed') OR h.parameters IS NOT NULL)
    RETURNING {ENDED}, h.attempt AS attempts
)
SELECT held.run_id, recorded.* FROM held FULL JOIN recorded ON recorded.id = held.run_id
"""


async def finish_if_leased(conn: asyncpg.Connection, outcomes: Sequence[Outcome]) -> set[UUID]:
    """Put attempts on record, and move on the runs whose lease is still held; answers those.

    Every attempt is recorded, also one whose run was cancelled or taken over meanwhile. The log is
    told of the runs that have ended. Needs a transaction.
    """
    rows = await conn.fetch(
        _FINISH,
        [outcome.run_id for outcome in outcomes],
        [outcome.lease for outcome in outcomes],
        [outcome.state for outcome in outcomes],
        [outcome.again_after for outcome in outcomes],
        [outcome.run_error or outcome.error for outcome in outcomes],
        [outcome.parameters for outcome in outcomes],
        [outcome.uses_retry for outcome in outcomes],
        [outcome.attempt for outcome in outcomes],
        [outcome.started_at for outcome in outcomes],
        [outcome.duration for outcome in outcomes],
        [outcome.status for outcome in outcomes],
        [outcome.outcome for outcome in outcomes],
        [outcome.error for outcome in outcomes],
        [outcome.response for outcome in outcomes],
    )
    await log.append_ended(conn, _ended(rows))
    return {row["run_id"] for row in rows}


async def renew(
    conn: asyncpg.Connection, runs: Sequence[tuple[UUID, UUID]], *, lease: timedelta
) -> set[UUID]:
    """Prolong the leases still held of (run, lease) pairs; answers those leases."""
    rows = await conn.fetch(
        "UPDATE run_queue AS q SET lease_until = now() + $3 "
        "FROM (SELECT q.run_id FROM run_queue AS q "
        "JOIN unnest($1::uuid[], $2::uuid[]) AS mine (run_id, lease) ON mine.run_id = q.run_id "
        "AND mine.lease IS NOT DISTINCT FROM q.lease WHERE q.run_id = ANY ($1) "
        "ORDER BY q.run_id FOR UPDATE OF q) AS held "
        "WHERE q.run_id = held.run_id AND q.run_id = ANY ($1) RETURNING q.lease",
        [run_id for run_id, _ in runs],
        [lease_id for _, lease_id in runs],
        lease,
    )
    return {row["lease"] for row in rows}


async def keep_rendered(
    conn: asyncpg.Connection,
    rendered: Sequence[tuple[UUID, UUID, str]],
    *,
    lease: timedelta,
) -> dict[UUID, datetime]:
    """Store the parameters rendered for (run, lease) pairs, whose leases begin anew.

    Answers until when, by run; what is lost meanwhile is not in it, and is left as it is.
    """
    rows = await conn.fetch(
        "WITH held AS (SELECT q.run_id, g.parameters FROM run_queue AS q "
        "JOIN unnest($1::uuid[], $2::uuid[], $3::text[]) AS g (run_id, lease, parameters) "
        "ON g.run_id = q.run_id AND g.lease = q.lease ORDER BY q.run_id FOR UPDATE OF q), "
        "kept AS (UPDATE runs AS r SET parameters = held.parameters::json, template = NULL "
        "FROM held WHERE r.id = held.run_id) "
        "UPDATE run_queue AS q SET lease_until = now() + $4 FROM held "
        "WHERE q.run_id = held.run_id RETURNING q.run_id, q.lease_until",
        [run_id for run_id, _, _ in rendered],
        [lease_id for _, lease_id, _ in rendered],
        [parameters for _, _, parameters in rendered],
        lease,
    )
    return {row["run_id"]: row["lease_until"] for row in rows}


async def disable_deployment(conn: asyncpg.Connection, name: str, reason: str) -> None:
    """Its runs wait from now on, until it is enabled again."""
    await conn.execute(
        "UPDATE deployments SET enabled = false, disabled_reason = $2, updated_at = now() "
        "WHERE name = $1 AND enabled",
        name,
        reason,
    )


_RESCUE = f"""
WITH held AS (
    SELECT run_id, attempt, started_at, retries_used, worker, deployment FROM run_queue
     WHERE lease IS NOT NULL AND NOT accepted AND lease_until < now()
     ORDER BY run_id LIMIT $1 FOR UPDATE SKIP LOCKED
), lost AS (
    SELECT h.*, CASE
        WHEN attempt >= $2 THEN 'lost ' || attempt || ' times'
        WHEN worker IS NOT NULL AND retries_used >= (
            SELECT json_array_length(d.runner -> 'retries') FROM deployments AS d
             WHERE d.name = h.deployment
        ) THEN 'its worker vanished; no retries are left'
    END AS given_up
      FROM held AS h
), again AS (
    UPDATE run_queue AS q
       SET state = 'retrying', lease = NULL, lease_until = NULL, worker = NULL, due_at = now(),
           retries_used = q.retries_used + (lost.worker IS NOT NULL)::int
      FROM lost WHERE q.run_id = lost.run_id AND lost.given_up IS NULL
), ended AS (
    DELETE FROM run_queue AS q USING lost
     WHERE q.run_id = lost.run_id AND lost.given_up IS NOT NULL
), failed AS (
    UPDATE runs AS r SET state = 'failed', finished_at = now(), error = lost.given_up
      FROM lost WHERE r.id = lost.run_id AND lost.given_up IS NOT NULL
    RETURNING {ENDED}, lost.attempt AS attempts
), recorded AS (
    INSERT INTO attempts (run_id, number, started_at, duration, outcome, error, worker)
    SELECT run_id, attempt, started_at, extract(epoch FROM now() - started_at), 'lost',
           CASE WHEN worker IS NULL THEN 'the process that made this attempt vanished'
                ELSE 'nothing was heard of the worker while its lease lasted' END, worker
      FROM lost
    ON CONFLICT DO NOTHING
)
SELECT lost.run_id, failed.* FROM lost FULL JOIN failed ON failed.id = lost.run_id
"""

_FAIL_UNREPORTED = f"""
WITH silent AS (
    SELECT run_id, attempt FROM run_queue
     WHERE lease IS NOT NULL AND accepted AND worker IS NULL AND lease_until < now()
     ORDER BY run_id LIMIT $1 FOR UPDATE SKIP LOCKED
), ended AS (
    DELETE FROM run_queue AS q USING silent WHERE q.run_id = silent.run_id
)
UPDATE runs AS r SET state = 'failed', finished_at = now(),
       error = 'the runner accepted the run and nothing was heard of it in time'
  FROM silent WHERE r.id = silent.run_id
RETURNING {ENDED}, silent.attempt AS attempts
"""


async def rescue(conn: asyncpg.Connection, *, limit: int, attempts_max: int) -> int:
    """Give back the runs whose caller vanished, due at once; answers how many.

    The lost attempt goes on record. It uses up one of the retries if a worker had pulled the run,
    which may be what made it vanish, and none if Upshot was to call. The log is told of those that
    fail, because they were lost too often.
    """
    async with conn.transaction():
        rows = await conn.fetch(_RESCUE, limit, attempts_max)
        await log.append_ended(conn, _ended(rows))
    return len(rows)


async def fail_unreported(conn: asyncpg.Connection, *, limit: int) -> int:
    """Fail the runs that a runner took over and of which nothing was heard; answers how many.

    The log is told of them.
    """
    async with conn.transaction():
        rows = await conn.fetch(_FAIL_UNREPORTED, limit)
        await log.append_ended(conn, _ended(rows))
    return len(rows)


async def prune(conn: asyncpg.Connection, *, before: datetime, limit: int) -> int:
    """Delete finished runs created before, with their attempts; answers how many."""
    status = await conn.execute(
        """
        WITH old AS (
            DELETE FROM runs WHERE ctid = ANY (ARRAY(
                SELECT ctid FROM runs WHERE created_at < $1 AND finished_at < $1
                 ORDER BY created_at LIMIT $2))
            RETURNING id
        ), attempts_too AS (
            DELETE FROM attempts WHERE run_id IN (SELECT id FROM old)
        )
        SELECT id FROM old
        """,
        before,
        limit,
    )
    return int(status.split()[1])


def _ended(rows: Iterable[asyncpg.Record]) -> list[EndedRun]:
    """Those of the rows that tell of a run's end."""
    return [
        EndedRun(**{name: row[name] for name in EndedRun.__struct_fields__})
        for row in rows
        if row["state"] in ("completed", "failed", "cancelled")
    ]


def _ended_at_once(run: NewRun, *, now: datetime) -> EndedRun:
    return EndedRun(
        id=run.id,
        deployment=run.deployment,
        trigger_id=run.trigger_id,
        trigger=run.trigger,
        labels=run.labels,
        event_id=run.event_id,
        event_resource_id=None if run.event is None else resource_id_of(run.event),
        depth=run.depth,
        state="failed",
        error=run.error,
        result=None,
        attempts=0,
        finished_at=now,
        action=run.action,
    )
