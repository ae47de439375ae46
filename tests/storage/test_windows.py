"""The windows' rows: found by trigger, node and key, decided in time, forgotten as evaluated."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from msgspec.structs import replace

from upshot.storage import log, windows
from upshot.storage.windows import StoredWindow

pytestmark = pytest.mark.anyio

NOW = datetime.now(UTC)


async def test_windows_are_loaded_by_trigger_node_and_key(conn: asyncpg.Connection) -> None:
    key, other = uuid4(), uuid4()
    await windows.save(
        conn,
        [
            window(1, key, state="[1]"),
            window(1, other, state="[2]"),
            window(2, key, state="[3]"),
            window(2, key, node=5, state="[4]"),
        ],
    )
    rows = await windows.load(
        conn, numbers=[2, 2, 1, 3, 1], nodes=[0, 5, 0, 0, 5], hashes=[key, key, other, key, key]
    )
    assert {(row["place"], row["state"]) for row in rows} == {(1, "[3]"), (2, "[4]"), (3, "[2]")}


async def test_windows_made_are_stored_once(conn: asyncpg.Connection) -> None:
    made = [window(1, uuid4()), window(1, uuid4(), node=1, deadline=5, alarms=True)]
    await windows.create(conn, made)
    assert await stored(conn) == set(made)
    with pytest.raises(asyncpg.UniqueViolationError):
        await windows.create(conn, made[1:])


async def test_a_window_saved_again_is_changed_in_its_place(conn: asyncpg.Connection) -> None:
    key = uuid4()
    await windows.save(conn, [window(1, key), window(1, key, node=1), window(2, key)])
    changed = replace(
        window(1, key),
        state="[9]",
        started_at=NOW - timedelta(hours=1),
        deadline_at=NOW + timedelta(hours=1),
        alarms=True,
        forgotten_at=NOW + timedelta(hours=2),
    )
    await windows.save(conn, [changed])
    assert await stored(conn) == {changed, window(1, key, node=1), window(2, key)}


async def test_a_closed_window_is_gone_and_the_same_key_elsewhere_stays(
    conn: asyncpg.Connection,
) -> None:
    key, other = uuid4(), uuid4()
    await windows.save(
        conn,
        [window(1, key), window(1, key, node=3), window(2, key), window(1, other)],
    )
    await windows.close(conn, numbers=[1, 7], nodes=[0, 0], hashes=[key, key])
    assert await left(conn) == {(1, 3, key), (2, 0, key), (1, 0, other)}


async def test_windows_are_closed_by_trigger_or_by_some_of_its_nodes(
    conn: asyncpg.Connection,
) -> None:
    key = uuid4()
    await windows.save(conn, [window(number, key, node=n) for number in (1, 2) for n in range(4)])
    assert await windows.close_nodes_of(conn, 1, [1, 3, 9]) == 2
    assert await left(conn) == {(1, 0, key), (1, 2, key), *((2, n, key) for n in range(4))}
    assert await windows.close_all_of(conn, 2) == 4
    assert await left(conn) == {(1, 0, key), (1, 2, key)}


async def test_what_has_an_alarm_to_give_is_due_at_its_deadline_the_longest_overdue_first(
    conn: asyncpg.Connection,
) -> None:
    hashes = [uuid4() for _ in range(6)]
    await windows.save(
        conn,
        [
            window(1, hashes[0], deadline=-1, alarms=True),
            window(2, hashes[1], deadline=-3, alarms=True, node=2),
            window(1, hashes[2], deadline=0, alarms=True),
            window(1, hashes[3], deadline=1, alarms=True),
            window(1, hashes[4], deadline=-9),
            window(1, hashes[5]),
        ],
    )
    due = await windows.due(conn, before=NOW, limit=10)
    assert [row["key_hash"] for row in due] == [hashes[1], hashes[0], hashes[2]]
    assert dict(due[0]) == {
        "trigger_number": 2,
        "node": 2,
        "key_hash": hashes[1],
        "key": '["1"]',
        "state": "[]",
        "deadline_at": NOW - timedelta(seconds=3),
    }
    assert await windows.due(conn, before=NOW, limit=1) == due[:1]
    assert await windows.due_of(conn, 1, before=NOW, limit=10) == due[1:]
    assert await windows.due_of(conn, 1, before=NOW, limit=1) == due[1:2]


async def test_what_is_due_among_many_windows_is_read_by_index(conn: asyncpg.Connection) -> None:
    await conn.execute(
        "INSERT INTO windows (trigger_number, key_hash, key, state, forgotten_at, started_at, "
        "deadline_at, alarms) SELECT n % 5000, md5(n::text)::uuid, '[]', '[]', now(), now(), "
        "now() + (n - 25000) * interval '1 second', n % 3 = 0 FROM generate_series(1, 50000) AS n"
    )
    await conn.execute("ANALYZE windows")
    scan = await scan_of(conn, windows.DUE, NOW, 500)
    assert (scan["Index Name"], scan["Actual Rows"]) == ("windows_due", 500)
    assert "deadline_at <=" in scan["Index Cond"]
    scan = await scan_of(conn, windows.DUE_OF, 7, NOW, 20)
    assert scan["Index Name"] == "windows_by_deadline"
    assert all(part in scan["Index Cond"] for part in ("trigger_number =", "deadline_at <="))
    keys = await conn.fetch("SELECT * FROM windows LIMIT 100")
    scan = await scan_of(
        conn,
        windows.LOAD,
        [row["trigger_number"] for row in keys],
        [row["node"] for row in keys],
        [row["key_hash"] for row in keys],
    )
    assert scan["Index Name"] == "windows_pkey"
    assert (scan["Actual Rows"], scan["Actual Loops"]) == (1, 100)


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
    assert await left(conn) == {(1, 0, ahead)}


async def test_a_window_with_an_alarm_to_give_is_not_forgotten(conn: asyncpg.Connection) -> None:
    past, key = NOW - timedelta(hours=1), uuid4()
    await windows.save(
        conn,
        [
            window(1, key, deadline=-10, alarms=True, forgotten_at=past),
            window(2, key, deadline=-10, forgotten_at=past),
        ],
    )
    await evaluated_until(conn, NOW)
    assert await windows.forget(conn, limit=10) == 1
    assert await left(conn) == {(1, 0, key)}


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
    number: int,
    key_hash: UUID,
    *,
    node: int = 0,
    deadline: float | None = None,
    alarms: bool = False,
    state: str = "[]",
    forgotten_at: datetime = NOW,
) -> StoredWindow:
    """A window of a key; its deadline is in so many seconds."""
    return StoredWindow(
        trigger_number=number,
        node=node,
        key_hash=key_hash,
        key='["1"]',
        state=state,
        started_at=NOW,
        deadline_at=None if deadline is None else NOW + timedelta(seconds=deadline),
        alarms=alarms,
        forgotten_at=forgotten_at,
    )


async def evaluated_until(conn: asyncpg.Connection, at: datetime) -> None:
    await log.load_cursor(conn, log.EVALUATE)
    await conn.execute("UPDATE cursors SET evaluated_until = $1", at)


async def stored(conn: asyncpg.Connection) -> set[StoredWindow]:
    return {StoredWindow(**dict(row)) for row in await conn.fetch("SELECT * FROM windows")}


async def left(conn: asyncpg.Connection) -> set[tuple[int, int, UUID]]:
    return {(one.trigger_number, one.node, one.key_hash) for one in await stored(conn)}


async def scan_of(conn: asyncpg.Connection, query: str, *arguments: Any) -> Any:
    """How Postgres reads windows for a query, and how many."""
    plan = json.loads(await conn.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {query}", *arguments))
    (scan,) = (one for one in nodes_of(plan[0]["Plan"]) if one.get("Relation Name") == "windows")
    return scan


def nodes_of(plan: Any) -> Iterator[Any]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes_of(below)
