"""Runs and events as they are listed: page by page, bounded, by their indexes."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncConnection

from upshot.core.patterns import parse_pattern, parse_patterns
from upshot.core.runs import RunState
from upshot.storage import events, partitions, runs
from upshot.storage.database import Database
from upshot.storage.events import EventFilter
from upshot.storage.runs import RunFilter

pytestmark = pytest.mark.anyio

RUN = (datetime(2026, 1, 1, tzinfo=UTC), UUID(int=0))
"""A place in the list of runs."""


async def ask_for(database: Database, deployment: str = "d") -> UUID:
    run_id = uuid4()
    async with database.begin() as conn:
        assert await runs.create_asked_for(
            conn, run_id=run_id, deployment=deployment, parameters={}, template=None
        )
    return run_id


async def all_pages(database: Database, wanted: RunFilter, **bounds: Any) -> list[list[UUID]]:
    pages: list[list[UUID]] = []
    before = None
    for _ in range(20):
        async with database.begin() as conn:
            page = await runs.page(conn, wanted, before=before, **bounds)
        pages.append([run.id for run in page.runs])
        before = page.before
        if before is None:
            return pages
    raise AssertionError("the pages do not end")


async def test_a_run_is_made_once(database: Database) -> None:
    run_id = await ask_for(database)
    async with database.begin() as conn:
        again = await runs.create_asked_for(
            conn, run_id=run_id, deployment="d", parameters={}, template=None
        )
    assert not again


async def test_a_rare_state_is_found_by_looking_through_bounded_pages(database: Database) -> None:
    made = [await ask_for(database) for _ in range(7)]
    async with database.begin() as conn:
        await runs.cancel_if_open(conn, made[1], reason="why")
    pages = await all_pages(database, RunFilter(state=RunState.CANCELLED), limit=5, scan_max=3)
    assert pages == [[], [made[1]], []]


async def test_pages_end_with_the_last_run(database: Database) -> None:
    made = [await ask_for(database) for _ in range(4)]
    pages = await all_pages(database, RunFilter(), limit=2)
    assert pages == [made[:1:-1], made[1::-1]]


async def test_runs_that_run_are_found_however_many_came_after(
    database: Database, conn: asyncpg.Connection
) -> None:
    made = [await ask_for(database) for _ in range(5)]
    await conn.execute(
        "UPDATE run_queue SET state = 'running', lease = gen_random_uuid() WHERE run_id = $1",
        made[0],
    )
    pages = await all_pages(database, RunFilter(state=RunState.RUNNING), limit=5, scan_max=2)
    assert pages == [[made[0]]]


async def test_a_run_ends_once_whoever_ends_it(
    database: Database, conn: asyncpg.Connection
) -> None:
    run_id, lease = await ask_for(database), uuid4()
    await conn.execute("UPDATE run_queue SET state = 'running', lease = $1", lease)

    async def finish(state: RunState) -> bool:
        async with database.begin() as finishing:
            return await runs.finish_if_leased(
                finishing, run_id, lease=lease, state=state, result=None, error=None
            )

    async def cancel() -> bool:
        async with database.begin() as cancelling:
            return await runs.cancel_if_open(cancelling, run_id, reason="why")

    ended = await asyncio.gather(finish(RunState.COMPLETED), finish(RunState.FAILED), cancel())
    assert sorted(ended) == [False, False, True]


async def test_a_lease_of_somebody_else_is_not_prolonged(
    database: Database, conn: asyncpg.Connection
) -> None:
    run_id, lease = await ask_for(database), uuid4()
    await conn.execute("UPDATE run_queue SET state = 'running', lease = $1", lease)
    default = timedelta(seconds=30)
    async with database.begin() as renewing:
        lost = await runs.renew_if_leased(renewing, run_id, lease=uuid4(), default=default)
        held = await runs.renew_if_leased(renewing, run_id, lease=lease, default=default)
    assert lost is None
    assert held is not None
    assert timedelta(seconds=20) < held - datetime.now(UTC) < timedelta(seconds=40)


async def log_events(conn: asyncpg.Connection, names: list[str]) -> None:
    """One commit each, all of the resource of their name's first letter."""
    await partitions.ensure_partitions(conn)
    for name in names:
        await conn.execute(
            "INSERT INTO events (occurred_at, id, size, name, resource_id) "
            "VALUES (now(), gen_random_uuid(), 1, $1, $2)",
            name,
            name[0],
        )


@pytest.mark.parametrize(
    ("wanted", "pages"),
    [
        (EventFilter(), [["b2", "a3"], ["b1", "a2"], ["a1"]]),
        (EventFilter(names=parse_patterns(["b*"])), [["b2"], ["b1"], []]),
        (EventFilter(names=parse_patterns(["a1"])), [[], [], ["a1"]]),
        (EventFilter(resource=parse_pattern("b")), [["b2", "b1"], []]),
        (EventFilter(resource=parse_pattern("a")), [["a3", "a2"], ["a1"]]),
        (EventFilter(until=datetime(2020, 1, 1, tzinfo=UTC)), [[]]),
    ],
    ids=str,
)
async def test_events_are_looked_through_in_bounded_pages(
    database: Database, conn: asyncpg.Connection, wanted: EventFilter, pages: list[list[str]]
) -> None:
    await log_events(conn, ["a1", "a2", "b1", "a3", "b2"])
    found: list[list[str]] = []
    before = None
    for _ in pages:
        async with database.begin() as asking:
            page = await events.page(asking, wanted, before=before, limit=2, scan_max=2)
        found.append([one.name for one in page.events])
        before = page.before
    assert found == pages
    assert before is None


Ask = Callable[[AsyncConnection], Awaitable[object]]


@pytest.mark.parametrize(
    ("ask", "indexes"),
    [
        (
            lambda conn: runs.page(
                conn, RunFilter(trigger="t", state=RunState.FAILED), before=RUN, limit=50
            ),
            ["runs_by_trigger"],
        ),
        (
            lambda conn: runs.page(conn, RunFilter(deployment="d"), before=RUN, limit=50),
            ["runs_by_deployment"],
        ),
        (lambda conn: runs.page(conn, RunFilter(), before=RUN, limit=50), ["runs_by_age"]),
        (
            lambda conn: runs.to_retry(
                conn, RunFilter(deployment="d", state=RunState.FAILED), after=RUN, limit=50
            ),
            ["runs_by_deployment"],
        ),
        (lambda conn: runs.caused_by(conn, uuid4(), limit=50), ["runs_by_event"]),
        (
            lambda conn: events.page(conn, EventFilter(), before=(9, 9), limit=50),
            ["xid_position_idx"],
        ),
        (
            lambda conn: events.page(
                conn, EventFilter(resource=parse_pattern("r")), before=(9, 9), limit=50
            ),
            ["hashtextextended_position_idx"],
        ),
        (lambda conn: events.load(conn, [uuid4()]), ["id_idx"]),
    ],
    ids=["trigger", "deployment", "age", "retry", "event", "log", "resource", "one"],
)
async def test_lists_are_read_by_their_indexes(
    database: Database, conn: asyncpg.Connection, ask: Ask, indexes: list[str]
) -> None:
    await partitions.ensure_partitions(conn)
    # So many rows, all different, that each list has one index that is clearly the best.
    await conn.execute(
        "INSERT INTO runs (id, created_at, scheduled_at, state, deployment, trigger, labels, "
        "event_ids, event_id) SELECT gen_random_uuid(), now() - n * interval '6 hours', now(), "
        "'scheduled', 'd' || n, 't' || n, '{}', '{}', gen_random_uuid() "
        "FROM generate_series(1, 3000) AS n"
    )
    await conn.execute(
        "INSERT INTO events (occurred_at, id, size, name, resource_id) "
        "SELECT now(), gen_random_uuid(), 1, 'n', 'r' || n FROM generate_series(1, 3000) AS n"
    )
    await conn.execute("ANALYZE runs, events")
    asked: list[tuple[str, Any]] = []

    def note(_conn: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        asked.append((statement, parameters))

    async with database.begin() as asking:
        await asking.exec_driver_sql("SET LOCAL enable_seqscan = off")
        event.listen(database.engine.sync_engine, "before_cursor_execute", note)
        await ask(asking)
        for statement, parameters in list(asked):
            rows = await asking.exec_driver_sql(f"EXPLAIN {statement}", parameters)
            plan = "\n".join(row[0] for row in rows)
            assert all(index in plan for index in indexes), plan
            assert "Seq Scan on runs" not in plan
            assert "Seq Scan on events" not in plan
    assert asked
