"""The windows' rows: found by trigger and key, changed in place, forgotten as far as evaluated."""

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest

from upshot.storage import log, windows
from upshot.storage.windows import StoredWindow

pytestmark = pytest.mark.anyio

NOW = datetime.now(UTC)


async def test_windows_are_loaded_by_trigger_and_key(conn: asyncpg.Connection) -> None:
    key, other = uuid4(), uuid4()
    await windows.save(conn, [window(1, key), window(1, other), window(2, key)])
    rows = await windows.load(conn, [2, 1, 3], [key, other, key])
    assert {(row["trigger_number"], row["key_hash"]) for row in rows} == {(2, key), (1, other)}


async def test_a_window_saved_again_is_changed_in_its_place(conn: asyncpg.Connection) -> None:
    key = uuid4()
    await windows.save(conn, [window(1, key, state="[1]"), window(2, key, state="[2]")])
    await windows.save(conn, [window(1, key, state="[9]")])
    rows = await windows.load(conn, [1, 2], [key, key])
    assert {row["trigger_number"]: row["state"] for row in rows} == {1: "[9]", 2: "[2]"}


async def test_a_closed_window_is_gone_and_the_same_key_of_another_trigger_stays(
    conn: asyncpg.Connection,
) -> None:
    key, other = uuid4(), uuid4()
    await windows.save(conn, [window(1, key), window(2, key), window(1, other)])
    await windows.close(conn, [1], [key])
    assert await left(conn) == {(2, key), (1, other)}
    assert await windows.close_all_of(conn, 1) == 1
    assert await left(conn) == {(2, key)}


async def test_a_window_is_forgotten_once_its_time_is_past_and_evaluated(
    conn: asyncpg.Connection,
) -> None:
    old, ahead = uuid4(), uuid4()
    await windows.save(
        conn,
        [
            window(1, old, forgotten_at=NOW - timedelta(hours=1)),
            window(1, ahead, forgotten_at=NOW + timedelta(hours=1)),
        ],
    )
    await evaluated_until(conn, NOW - timedelta(hours=2))
    assert await windows.forget(conn, limit=10) == 0, "a backlog could still complete it"
    await evaluated_until(conn, NOW)
    assert await windows.forget(conn, limit=10) == 1
    assert await left(conn) == {(1, ahead)}


async def test_windows_are_forgotten_in_bounded_steps(conn: asyncpg.Connection) -> None:
    await windows.save(
        conn, [window(1, uuid4(), forgotten_at=NOW - timedelta(hours=1)) for _ in range(25)]
    )
    await evaluated_until(conn, NOW)
    assert [await windows.forget(conn, limit=10) for _ in range(4)] == [10, 10, 5, 0]


async def test_nothing_is_forgotten_before_anything_is_evaluated(conn: asyncpg.Connection) -> None:
    await windows.save(conn, [window(1, uuid4(), forgotten_at=NOW - timedelta(days=100))])
    assert await windows.forget(conn, limit=10) == 0


def window(
    number: int, key_hash: UUID, *, state: str = "[]", forgotten_at: datetime = NOW
) -> StoredWindow:
    return StoredWindow(
        trigger_number=number,
        key_hash=key_hash,
        key='["1"]',
        state=state,
        forgotten_at=forgotten_at,
    )


async def evaluated_until(conn: asyncpg.Connection, at: datetime) -> None:
    await log.load_cursor(conn, log.EVALUATE)
    await conn.execute("UPDATE cursors SET evaluated_until = $1", at)


async def left(conn: asyncpg.Connection) -> set[tuple[int, UUID]]:
    rows = await conn.fetch("SELECT trigger_number, key_hash FROM windows")
    return {(row["trigger_number"], row["key_hash"]) for row in rows}
