"""The log on a real Postgres: nothing skipped, nothing held up, every batch bounded."""

import json
import random
from datetime import timedelta
from uuid import UUID

import asyncpg
import pytest
from msgspec import structs

from tests.proofs import shop
from upshot.core.intake import NewEvent
from upshot.storage import log, partitions
from upshot.storage.database import Database

pytestmark = pytest.mark.anyio

BYTES = 1_000_000


@pytest.fixture
async def logged(conn: asyncpg.Connection) -> asyncpg.Connection:
    await partitions.ensure_partitions(conn)
    return conn


async def append(conn: asyncpg.Connection, count: int, *, size: int = 100) -> list[UUID]:
    steps = shop.story(random.Random(0), users=["1"], length=count)
    await log.append(conn, [_sized(step, size) for step in steps])
    return [step.id for step in steps]


def _sized(step: shop.Step, size: int) -> NewEvent:
    return structs.replace(shop.new_event(step), size=size)


async def read(
    conn: asyncpg.Connection, cursor: log.Cursor, *, events_max: int = 100, bytes_max: int = BYTES
) -> tuple[list[UUID], log.Cursor]:
    batch = await log.read_batch(conn, cursor, events_max=events_max, bytes_max=bytes_max)
    return [event.id for event in batch.events], batch.after


async def test_events_come_out_in_the_order_they_were_appended(
    logged: asyncpg.Connection,
) -> None:
    cursor = await log.load_cursor(logged, "test")
    ids = await append(logged, 3) + await append(logged, 2)
    assert (await read(logged, cursor))[0] == ids


async def test_what_commits_later_under_an_earlier_number_is_not_skipped(
    logged: asyncpg.Connection, database: Database
) -> None:
    late = await database.connect()
    cursor = await log.load_cursor(logged, "test")
    await late.execute("BEGIN")
    late_ids = await append(late, 2)
    early_ids = await append(logged, 2)
    read_first, cursor = await read(logged, cursor)
    assert read_first == early_ids
    assert (await read(logged, cursor))[0] == []
    await late.execute("COMMIT")
    highest = cursor.position
    read_then, cursor = await read(logged, cursor)
    assert read_then == late_ids
    assert cursor.position == highest, "what is evaluated does not go back"
    assert (await read(logged, cursor))[0] == []
    await late.close()


async def test_an_open_transaction_of_somebody_else_holds_nothing_up(
    logged: asyncpg.Connection, database: Database
) -> None:
    foreign = await database.connect()
    await foreign.execute("BEGIN")
    await foreign.fetchval("SELECT pg_current_xact_id()")
    cursor = await log.load_cursor(logged, "test")
    for _ in range(3):
        ids = await append(logged, 2)
        got, cursor = await read(logged, cursor)
        assert got == ids
    await foreign.close()


async def test_a_backlog_is_read_in_pages_and_new_events_wait_for_its_end(
    logged: asyncpg.Connection,
) -> None:
    cursor = await log.load_cursor(logged, "test")
    backlog = await append(logged, 5) + await append(logged, 5)
    got: list[UUID] = []
    for _ in range(3):
        page, cursor = await read(logged, cursor, events_max=3)
        assert len(page) == 3
        assert await log.save_cursor(logged, "test", cursor)
        assert await log.load_cursor(logged, "test") == cursor
        got += page
    new = await append(logged, 1)
    for _ in range(3):
        page, cursor = await read(logged, cursor, events_max=3)
        got += page
    assert got == backlog + new
    assert cursor.page is None


async def test_pages_through_late_commits_lose_and_repeat_nothing(
    logged: asyncpg.Connection, database: Database
) -> None:
    writers = [await database.connect() for _ in range(3)]
    cursor = await log.load_cursor(logged, "test")
    expected: list[UUID] = []
    for writer in writers:
        await writer.execute("BEGIN")
        expected += await append(writer, 4)
    expected += await append(logged, 4)
    got, cursor = await read(logged, cursor, events_max=3)
    for writer in writers:
        await writer.execute("COMMIT")
    for _ in range(12):
        page, cursor = await read(logged, cursor, events_max=3)
        got += page
    assert sorted(got) == sorted(expected)
    for writer in writers:
        await writer.close()


async def test_a_batch_is_cut_where_its_bytes_are_enough(logged: asyncpg.Connection) -> None:
    cursor = await log.load_cursor(logged, "test")
    ids = await append(logged, 5, size=400)
    first, cursor = await read(logged, cursor, bytes_max=1_000)
    second, cursor = await read(logged, cursor, bytes_max=1_000)
    assert (first, second) == (ids[:3], ids[3:])


async def test_one_event_larger_than_a_batch_is_read_alone(logged: asyncpg.Connection) -> None:
    cursor = await log.load_cursor(logged, "test")
    ids = await append(logged, 2, size=5_000)
    first, cursor = await read(logged, cursor, bytes_max=1_000)
    assert first == ids[:1]


@pytest.mark.parametrize("listed", [None, ["order.paid"]])
async def test_only_a_change_of_a_trigger_or_a_key_makes_what_stands_behind_it_wanted(
    listed: list[str] | None, logged: asyncpg.Connection
) -> None:
    cursor = await log.load_cursor(logged, "test")

    async def wanted(*names: str) -> list[str]:
        nonlocal cursor
        steps = [shop.Step(id=shop.new_id(), name=name, user="1") for name in names]
        await log.append(logged, [shop.new_event(step) for step in steps])
        batch = await log.read_batch(
            logged,
            cursor,
            events_max=100,
            bytes_max=BYTES,
            names=listed,
            is_wanted=lambda name: name == "order.paid",
        )
        assert batch.size == len(names)
        cursor = batch.after
        return [event.name for event in batch.events]

    run, other = "upshot.run.completed", "order.created"
    assert await wanted(run, other, "order.paid", run) == ["order.paid"]
    for change in ("upshot.trigger.saved", "upshot.key.forgotten"):
        assert await wanted(other, change, other, run) == [change, other, run]


async def test_who_is_followed_or_follows_is_wanted_under_any_name(
    logged: asyncpg.Connection,
) -> None:
    cursor = await log.load_cursor(logged, "test")
    other, followed, following = (
        shop.new_event(shop.Step(id=shop.new_id(), name=name, user="1")) for name in "abc"
    )
    following = structs.replace(following, follows=followed.id)
    await log.append(logged, [other, followed, following])
    batch = await log.read_batch(
        logged, cursor, events_max=100, bytes_max=BYTES, names=[], is_wanted=lambda _: False
    )
    assert [event.id for event in batch.events] == [followed.id, following.id]
    assert batch.size == 3


async def test_a_cursor_moved_by_somebody_else_is_not_moved_again(
    logged: asyncpg.Connection,
) -> None:
    cursor = await log.load_cursor(logged, "test")
    _, moved = await read(logged, cursor)
    assert await log.save_cursor(logged, "test", moved)
    assert not await log.save_cursor(logged, "test", moved)


async def test_a_cursor_of_another_cluster_is_refused_with_what_to_do(
    logged: asyncpg.Connection,
) -> None:
    await log.load_cursor(logged, "test")
    await logged.execute("UPDATE cursors SET cluster = cluster + 1")
    with pytest.raises(log.ClusterChanged, match="upshot rebase"):
        await log.load_cursor(logged, "test")


async def test_events_are_evaluated_once_the_cursor_or_its_page_is_past_them(
    logged: asyncpg.Connection, database: Database
) -> None:
    cursor = await log.load_cursor(logged, log.EVALUATE)
    ids = await append(logged, 4)

    async def evaluated() -> list[bool]:
        async with database.begin() as conn:
            return [await log.are_evaluated(conn, [one]) for one in ids]

    assert await evaluated() == [False] * 4
    _, cursor = await read(logged, cursor, events_max=3)
    await log.save_cursor(logged, log.EVALUATE, cursor)
    assert await evaluated() == [True, True, True, False]
    _, cursor = await read(logged, cursor, events_max=3)
    await log.save_cursor(logged, log.EVALUATE, cursor)
    assert await evaluated() == [True] * 4


async def test_reading_uses_the_index_in_commit_order(
    logged: asyncpg.Connection, database: Database
) -> None:
    reader = await database.connect(**log.READER_SETTINGS)
    await append(logged, 3_000)
    await logged.execute("ANALYZE events")
    cursor = await log.load_cursor(logged, "test")
    _, cursor = await read(logged, cursor, events_max=10_000)
    await append(logged, 10)
    snapshot = await logged.fetchval("SELECT pg_current_snapshot()::text")
    rows = await reader.fetch(
        "EXPLAIN (COSTS OFF) " + log.READ_BATCH, cursor.snapshot, snapshot, 0, 0, 5_000, BYTES, None
    )
    plan = "\n".join(row[0] for row in rows)
    assert "Seq Scan" not in plan
    assert "xid_position_idx" in plan
    await reader.close()


async def test_reading_what_is_new_does_not_look_at_what_is_old(
    logged: asyncpg.Connection, database: Database
) -> None:
    reader = await database.connect(**log.READER_SETTINGS)
    await append(logged, 20_000)
    cursor = await log.load_cursor(logged, "test")
    _, cursor = await read(logged, cursor, events_max=30_000, bytes_max=30_000_000)
    await append(logged, 10)
    snapshot = await logged.fetchval("SELECT pg_current_snapshot()::text")
    explained = await reader.fetchval(
        "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + log.READ_BATCH,
        *(cursor.snapshot, snapshot, 0, 0, 5_000, BYTES, None),
    )
    plan = json.loads(explained)[0]["Plan"]
    assert plan["Actual Rows"] == 10
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 50
    await reader.close()


async def test_partitions_are_there_for_yesterday_today_and_three_days(
    logged: asyncpg.Connection,
) -> None:
    assert len(await partitions.names(logged)) == 5
    assert await partitions.ensure_partitions(logged) == []


async def test_a_day_is_dropped_only_when_it_is_old_and_evaluated(
    logged: asyncpg.Connection,
) -> None:
    now = await logged.fetchval("SELECT now()")
    yesterday, today = (await partitions.names(logged))[:2]
    await append(logged, 1)
    cursor = await log.load_cursor(logged, log.EVALUATE)
    assert await partitions.drop_partitions(logged, before=now) == [yesterday]
    later = now + timedelta(days=1)
    assert await partitions.drop_partitions(logged, before=later) == []
    _, cursor = await read(logged, cursor)
    await log.save_cursor(logged, log.EVALUATE, cursor)
    assert await partitions.drop_partitions(logged, before=later) == [today]
    assert await logged.fetchval("SELECT count(*) FROM events") == 0


async def test_a_drop_that_was_cut_off_is_finished_the_next_time(
    logged: asyncpg.Connection,
) -> None:
    now = await logged.fetchval("SELECT now()")
    await log.load_cursor(logged, log.EVALUATE)
    yesterday = (await partitions.names(logged))[0]
    await logged.execute(f"ALTER TABLE events DETACH PARTITION {yesterday}")
    assert await partitions.drop_partitions(logged, before=now) == [yesterday]
    assert yesterday not in await partitions.names(logged)
