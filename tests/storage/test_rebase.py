"""Rebasing a log whose transaction ids are another cluster's."""

import random
from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

import asyncpg
import pytest

from tests.proofs import shop
from upshot.core.errors import Conflict
from upshot.storage import log, partitions
from upshot.storage import rebase as rebase_module
from upshot.storage.database import Database
from upshot.storage.rebase import Rebased, rebase

pytestmark = pytest.mark.anyio

BYTES = 1_000_000
FIRST_XID = 3


@pytest.fixture
async def logged(conn: asyncpg.Connection) -> asyncpg.Connection:
    await partitions.ensure_partitions(conn)
    return conn


async def append(conn: asyncpg.Connection, count: int) -> list[UUID]:
    """Each event in a transaction of its own."""
    steps = shop.story(random.Random(0), users=["1"], length=count)
    for step in steps:
        await log.append(conn, [shop.new_event(step)])
    return [step.id for step in steps]


async def evaluate(conn: asyncpg.Connection, *, events_max: int) -> list[UUID]:
    """One batch, read and passed."""
    cursor = await log.load_cursor(conn, log.EVALUATE)
    batch = await log.read_batch(conn, cursor, events_max=events_max, bytes_max=BYTES)
    assert await log.save_cursor(conn, log.EVALUATE, batch.after)
    return [event.id for event in batch.events]


async def evaluate_all(conn: asyncpg.Connection, *, events_max: int = 2) -> list[UUID]:
    """Batch after batch, until nothing has been left twice: a page may end where the log does."""
    found: list[UUID] = []
    empty = 0
    while empty < 2:
        batch = await evaluate(conn, events_max=events_max)
        found += batch
        empty = 0 if batch else empty + 1
    return found


async def move(conn: asyncpg.Connection, shift: Callable[[int], int]) -> None:
    """As if the log had been written in another cluster, whose transactions had other ids."""

    def moved(snapshot: str | None) -> str | None:
        if snapshot is None:
            return None
        xmin, xmax, under_way = snapshot.split(":")
        others = ",".join(str(shift(int(xid))) for xid in under_way.split(",") if xid)
        return f"{shift(int(xmin))}:{shift(int(xmax))}:{others}"

    for row in await conn.fetch("SELECT position, xid::text::int8 AS xid FROM events"):
        await conn.execute(
            "UPDATE events SET xid = $2::int8::text::xid8 WHERE position = $1",
            row["position"],
            shift(row["xid"]),
        )
    row = await conn.fetchrow(
        "SELECT snapshot::text, page_snapshot::text, page_xid::text::int8 AS page_xid FROM cursors"
    )
    await conn.execute(
        "UPDATE cursors SET cluster = cluster + 1, snapshot = $1::text::pg_snapshot, "
        "page_snapshot = $2::text::pg_snapshot, page_xid = $3::int8::text::xid8",
        moved(row["snapshot"]),
        moved(row["page_snapshot"]),
        None if row["page_xid"] is None else shift(row["page_xid"]),
    )


@pytest.fixture(params=["much older", "as old", "much younger"])
async def shift(request: pytest.FixtureRequest, logged: asyncpg.Connection) -> Callable[[int], int]:
    """How the other cluster's transaction ids compare to this one's."""
    begun = await logged.fetchval("SELECT pg_current_xact_id()::text::int8")
    shifts: dict[str, Callable[[int], int]] = {
        "much older": lambda xid: xid + 1_000_000_000_000,
        "as old": lambda xid: xid,
        "much younger": lambda xid: max(FIRST_XID, xid - begun + 10),
    }
    return shifts[request.param]


@pytest.mark.parametrize("events_max", [1, 3, 4, 100])
async def test_exactly_what_was_not_evaluated_before_the_move_is_evaluated_after_it(
    logged: asyncpg.Connection,
    database: Database,
    shift: Callable[[int], int],
    events_max: int,
) -> None:
    late = await database.connect()
    transaction = late.transaction()
    await transaction.start()
    late_ids = await append(late, 1)
    before = await append(logged, 4)
    evaluated = await evaluate(logged, events_max=events_max)
    await transaction.commit()
    await late.close()
    between = await append(logged, 2)
    await move(logged, shift)
    with pytest.raises(log.ClusterChanged):
        await log.load_cursor(logged, log.EVALUATE)

    rebased = await rebase(logged)

    after = await append(logged, 2)
    waiting = [one for one in late_ids + before + between if one not in evaluated]
    assert rebased == Rebased(evaluated=len(evaluated), waiting=len(waiting))
    assert await evaluate_all(logged) == waiting + after


async def test_after_a_rebase_a_transaction_that_was_under_way_is_read_too(
    logged: asyncpg.Connection, database: Database
) -> None:
    await append(logged, 2)
    await evaluate_all(logged)
    await move(logged, lambda xid: xid + 1_000_000)
    late = await database.connect()
    transaction = late.transaction()
    await transaction.start()
    await late.execute("SELECT pg_current_xact_id()")
    assert await rebase(logged) == Rebased(evaluated=2, waiting=0)
    late_ids = await append(late, 1)
    await transaction.commit()
    await late.close()
    assert await evaluate_all(logged) == late_ids


async def test_events_are_known_as_evaluated_after_a_rebase_as_before_it(
    logged: asyncpg.Connection, database: Database
) -> None:
    passed = await append(logged, 1)
    await evaluate_all(logged)
    waiting = await append(logged, 1)
    await move(logged, lambda xid: xid + 1_000_000)
    await rebase(logged)
    async with database.begin() as conn:
        assert await log.are_evaluated(conn, passed)
        assert not await log.are_evaluated(conn, waiting)


async def test_a_database_that_was_not_moved_is_left_as_it_is(logged: asyncpg.Connection) -> None:
    await append(logged, 2)
    await evaluate(logged, events_max=1)
    before = await everything(logged)
    assert await rebase(logged) is None
    assert await everything(logged) == before


async def test_a_second_rebase_does_nothing(logged: asyncpg.Connection) -> None:
    await append(logged, 2)
    await evaluate(logged, events_max=1)
    await move(logged, lambda xid: xid + 1_000_000)
    await rebase(logged)
    before = await everything(logged)
    assert await rebase(logged) is None
    assert await everything(logged) == before


async def test_a_database_that_nobody_ever_evaluated_is_left_as_it_is(
    logged: asyncpg.Connection,
) -> None:
    await append(logged, 1)
    assert await rebase(logged) is None


async def test_a_rebase_is_refused_while_a_server_evaluates(
    logged: asyncpg.Connection, database: Database
) -> None:
    await log.load_cursor(logged, log.EVALUATE)
    await move(logged, lambda xid: xid + 1_000_000)
    evaluator = await database.connect()
    await evaluator.execute("SELECT pg_advisory_lock($1)", log.EVALUATING)
    before = await everything(logged)
    with pytest.raises(Conflict, match="Stop every server"):
        await rebase(logged)
    assert await everything(logged) == before
    await evaluator.close()


async def test_a_rebase_is_refused_while_events_are_being_written(
    logged: asyncpg.Connection, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebase_module, "REBASE_WAIT_MAX", timedelta(milliseconds=50))
    await log.load_cursor(logged, log.EVALUATE)
    await move(logged, lambda xid: xid + 1_000_000)
    writer = await database.connect()
    transaction = writer.transaction()
    await transaction.start()
    await append(writer, 1)
    with pytest.raises(Conflict, match="is writing events"):
        await rebase(logged)
    await transaction.rollback()
    await writer.close()


async def everything(conn: asyncpg.Connection) -> list[asyncpg.Record]:
    events = await conn.fetch("SELECT position, xid::text FROM events ORDER BY position")
    cursors = await conn.fetch("SELECT cursors::text FROM cursors")
    return [*events, *cursors]
