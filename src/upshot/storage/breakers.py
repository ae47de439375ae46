"""Circuit breakers, one row a deployment, so that every process goes by the same one."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
from sqlalchemy import delete, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from upshot.core.breaker import Breaker, BreakerState, Bucket, Called, after, recent, tried_anew
from upshot.storage.schema import breakers

# Whoever changes breakers holds this until the transaction ends. Rows alone would not do: two
# processes may both find none, and their locks could meet those of other tables in any order.
_COUNTING = 0x7570_6272  # "upbr"


@dataclass(frozen=True, slots=True)
class Turned:
    """A deployment's breaker whose state has changed."""

    deployment: str
    before: Breaker
    after: Breaker


_LOAD = """
SELECT d.id AS deployment_id, d.name, d.max_concurrency, now() AS now,
       b.state, b.since, b.buckets, b.calls_max, b.probe_at
  FROM deployments AS d LEFT JOIN breakers AS b ON b.deployment_id = d.id
 WHERE d.name = ANY($1::text[])
"""

_SAVE = """
INSERT INTO breakers (deployment_id, state, since, buckets, calls_max, probe_at)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::text[], $5::int[],
                     $6::timestamptz[])
ON CONFLICT (deployment_id) DO UPDATE
   SET state = excluded.state, since = excluded.since, buckets = excluded.buckets,
       calls_max = excluded.calls_max, probe_at = excluded.probe_at
"""


async def count(conn: asyncpg.Connection, calls: Mapping[str, Sequence[Called]]) -> list[Turned]:
    """Count calls that have ended, by deployment; answers what this has opened or closed.

    Needs a transaction. Must come before a claim in it, which takes a lock of its own.
    """
    await conn.execute("SELECT pg_advisory_xact_lock($1)", _COUNTING)
    rows = await conn.fetch(_LOAD, list(calls))
    turned = [
        Turned(
            row["name"],
            before := _breaker(row),
            after(
                before,
                calls[row["name"]],
                now=row["now"],
                max_concurrency=row["max_concurrency"],
            ),
        )
        for row in rows
    ]
    columns = [_columns(each.after) for each in turned]
    await conn.execute(
        _SAVE,
        [row["deployment_id"] for row in rows],
        *([values[name] for values in columns] for name in _COLUMNS),
    )
    return [each for each in turned if each.before.state is not each.after.state]


async def of_deployments(
    conn: AsyncConnection, deployment_ids: Iterable[UUID]
) -> dict[UUID, Breaker]:
    """The breakers of those deployments that have one; the others have always been closed."""
    rows = await conn.execute(
        select(breakers, func.now().label("now")).where(
            breakers.c.deployment_id.in_(list(deployment_ids))
        )
    )
    return {row.deployment_id: recent(_breaker(row._asdict()), row.now) for row in rows}


async def reset(conn: AsyncConnection, deployment_id: UUID) -> None:
    """Hold nothing against the runner any more; see `tried_anew`."""
    await conn.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _COUNTING})
    found = await of_deployments(conn, [deployment_id])
    if deployment_id in found:
        now = (await conn.execute(select(func.now()))).scalar_one()
        values = _columns(tried_anew(found[deployment_id], now=now))
        await conn.execute(
            update(breakers).where(breakers.c.deployment_id == deployment_id).values(**values)
        )


async def forget(conn: AsyncConnection, deployment_id: UUID) -> None:
    """Another runner, or none any more: what was counted says nothing of it."""
    await conn.execute(delete(breakers).where(breakers.c.deployment_id == deployment_id))


@dataclass(frozen=True, slots=True)
class NotClosed:
    """How many breakers are in which state, and the names of the first deployments by name."""

    counts: Mapping[BreakerState, int]
    names: Sequence[str]


async def not_closed(conn: AsyncConnection, *, limit: int) -> NotClosed:
    """What metrics tell of breakers."""
    counts = await conn.execute(
        text("SELECT state, count(*) AS number FROM breakers WHERE state <> 'closed' GROUP BY 1")
    )
    names = await conn.scalars(
        text(
            "SELECT d.name FROM breakers AS b JOIN deployments AS d ON d.id = b.deployment_id "
            "WHERE b.state <> 'closed' ORDER BY d.name LIMIT :limit"
        ),
        {"limit": limit},
    )
    return NotClosed({BreakerState(row.state): row.number for row in counts}, list(names))


_COLUMNS = ("state", "since", "buckets", "calls_max", "probe_at")


def _columns(breaker: Breaker) -> dict[str, Any]:
    return {
        "state": breaker.state.value,
        "since": breaker.since,
        "buckets": msgspec.json.encode(
            [(bucket.number, bucket.calls, bucket.failures) for bucket in breaker.buckets]
        ).decode(),
        "calls_max": breaker.calls_max,
        "probe_at": breaker.probe_at,
    }


def _breaker(row: Mapping[str, Any]) -> Breaker:
    if row["state"] is None:
        return Breaker()
    return Breaker(
        state=BreakerState(row["state"]),
        since=row["since"],
        buckets=tuple(Bucket(*numbers) for numbers in msgspec.json.decode(row["buckets"])),
        calls_max=row["calls_max"],
        probe_at=row["probe_at"],
    )
