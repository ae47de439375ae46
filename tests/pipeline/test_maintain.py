"""Maintain on a real database: what is lost is given back, what is old goes, nothing else does."""

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest

from upshot.core.limits import DUPLICATES_REMEMBERED, MAINTAIN_ROWS_MAX
from upshot.pipeline import maintain
from upshot.pipeline.evaluate import Evaluator
from upshot.pipeline.maintain import Retention
from upshot.storage import partitions
from upshot.storage.database import Database
from upshot.storage.partitions import DAYS_AHEAD, name_of

pytestmark = pytest.mark.anyio

RETENTION = Retention(events=timedelta(days=30), runs=timedelta(days=90))


async def test_a_lost_lease_is_given_back_and_deliverers_are_woken(
    conn: asyncpg.Connection,
) -> None:
    await queued_run(conn, accepted=False)
    woken: list[str] = []
    assert await maintain.rescue(conn, lambda: woken.append("deliver")) == 1
    assert woken == ["deliver"]
    assert await conn.fetchval("SELECT state FROM run_queue") == "retrying"
    assert await conn.fetchval("SELECT outcome FROM attempts") == "lost"
    assert await maintain.rescue(conn, lambda: woken.append("again")) == 0
    assert woken == ["deliver"]


async def test_a_run_accepted_and_never_reported_on_fails_with_the_reason(
    conn: asyncpg.Connection,
) -> None:
    run_id = await queued_run(conn, accepted=True)
    assert await maintain.rescue(conn, lambda: None) == 1
    row = await conn.fetchrow("SELECT state, error FROM runs WHERE id = $1", run_id)
    assert row["state"] == "failed"
    assert "nothing was heard of it" in row["error"]


async def test_partitions_are_made_ahead(conn: asyncpg.Connection) -> None:
    await maintain.tidy(conn, RETENTION)
    today = (await conn.fetchval("SELECT now()")).date()
    ahead = {name_of(today + timedelta(days=days)) for days in range(DAYS_AHEAD + 1)}
    assert ahead <= set(await partitions.names(conn))


async def test_a_day_past_its_retention_is_dropped_once_it_is_evaluated(
    database: Database, conn: asyncpg.Connection
) -> None:
    old = datetime.now(UTC) - timedelta(days=40)
    name = await partition_of(conn, old)
    recent = await partition_of(conn, datetime.now(UTC) - timedelta(days=20))
    await event_received(conn, old)
    await maintain.tidy(conn, RETENTION)
    assert name in await partitions.names(conn), "nobody has evaluated it"
    await evaluate_all(database)
    await maintain.tidy(conn, RETENTION)
    left = await partitions.names(conn)
    assert name not in left
    assert recent in left
    assert await conn.fetchval("SELECT to_regclass($1)", name) is None


async def test_a_day_whose_detaching_was_cut_off_is_dropped_the_next_time(
    database: Database, conn: asyncpg.Connection
) -> None:
    name = await partition_of(conn, datetime.now(UTC) - timedelta(days=40))
    await evaluate_all(database)
    reading = await database.connect()
    await reading.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM events")
    await conn.execute("SET lock_timeout = '100ms'")
    await conn.execute("SET statement_timeout = '300ms'")
    with pytest.raises((asyncpg.LockNotAvailableError, asyncpg.QueryCanceledError)):
        await maintain.tidy(conn, RETENTION)
    await reading.close()
    await conn.execute("SET lock_timeout = 0; SET statement_timeout = 0")
    await maintain.tidy(conn, RETENTION)
    assert name not in await partitions.names(conn)


async def test_a_day_is_made_and_events_are_stored_while_somebody_reads(
    database: Database, conn: asyncpg.Connection
) -> None:
    await partitions.ensure_partitions(conn)
    last = (await partitions.names(conn))[-1]
    await conn.execute(f"DROP TABLE {last}")
    reading = await database.connect()
    await reading.execute("BEGIN; SELECT count(*) FROM events")
    await conn.execute("SET lock_timeout = '10s'")
    assert await partitions.ensure_partitions(conn) == [last]
    await event_received(conn, datetime.now(UTC))
    await reading.close()


async def test_ids_are_remembered_for_seven_days(conn: asyncpg.Connection) -> None:
    old, recent = uuid4(), uuid4()
    margin = timedelta(minutes=5)
    for event_id, age in (
        (old, DUPLICATES_REMEMBERED + margin),
        (recent, DUPLICATES_REMEMBERED - margin),
    ):
        await conn.execute(
            "INSERT INTO event_ids (id, digest, received_at) VALUES ($1, $1, now() - $2::interval)",
            event_id,
            age,
        )
    await maintain.tidy(conn, RETENTION)
    assert [row["id"] for row in await conn.fetch("SELECT id FROM event_ids")] == [recent]


async def test_old_runs_and_errors_go_and_more_of_them_than_one_step_takes(
    conn: asyncpg.Connection,
) -> None:
    count = MAINTAIN_ROWS_MAX + 10
    await conn.execute(
        "INSERT INTO runs (id, created_at, scheduled_at, finished_at, state, deployment, labels, "
        "event_ids) SELECT gen_random_uuid(), at, at, at, 'completed', 'd', '{}', '{}' "
        "FROM generate_series(1, $1), (SELECT now() - interval '91 days' AS at) AS old",
        count,
    )
    await conn.execute(
        "INSERT INTO evaluation_errors (event_id, at, error) "
        "SELECT gen_random_uuid(), now() - interval '31 days', 'x' FROM generate_series(1, $1)",
        count,
    )
    await conn.execute(
        "INSERT INTO evaluation_errors (event_id, error) VALUES (gen_random_uuid(), 'recent')"
    )
    await maintain.tidy(conn, RETENTION)
    assert await conn.fetchval("SELECT count(*) FROM runs") == 0
    assert await conn.fetchval("SELECT string_agg(error, ' ') FROM evaluation_errors") == "recent"


async def queued_run(conn: asyncpg.Connection, *, accepted: bool) -> UUID:
    """A run whose lease has run out."""
    run_id = uuid4()
    await conn.execute(
        "INSERT INTO runs (id, scheduled_at, state, deployment, labels, event_ids) "
        "VALUES ($1, now(), 'scheduled', 'd', '{}', '{}')",
        run_id,
    )
    await conn.execute(
        "INSERT INTO run_queue (run_id, lease, due_at, lease_until, started_at, attempt, state, "
        "accepted, deployment) VALUES ($1, gen_random_uuid(), now(), now() - interval '1 second', "
        "now(), 1, 'running', $2, 'd')",
        run_id,
        accepted,
    )
    return run_id


async def partition_of(conn: asyncpg.Connection, at: datetime) -> str:
    """The day's table, made as maintain makes those ahead."""
    name, day = name_of(at.date()), at.date()
    async with conn.transaction():
        await conn.execute(
            f"CREATE TABLE {name} (LIKE events INCLUDING DEFAULTS INCLUDING INDEXES)"
        )
        await conn.execute(
            f"ALTER TABLE events ATTACH PARTITION {name} "
            f"FOR VALUES FROM ('{day}T00:00:00Z') TO ('{day + timedelta(days=1)}T00:00:00Z')"
        )
    return name


async def event_received(conn: asyncpg.Connection, at: datetime) -> None:
    await partitions.ensure_partitions(conn)
    await conn.execute(
        "INSERT INTO events (received_at, occurred_at, id, size, name, resource_id) "
        "VALUES ($1, $1, gen_random_uuid(), 1, 'go', '1')",
        at,
    )


async def evaluate_all(database: Database) -> None:
    conn = await database.connect()
    evaluator = await Evaluator.load(conn, key_retention=timedelta(days=90))
    while (await evaluator.turn()).events:
        pass
    await conn.close()
