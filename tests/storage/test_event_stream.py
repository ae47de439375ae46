"""Events read from a place of the log on: SQL leaves out nothing that is wanted."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import asyncpg
import pytest

from upshot.core.events import Event
from upshot.storage import event_stream
from upshot.storage.event_stream import Narrowed, Reach

pytestmark = pytest.mark.anyio

NOW = datetime.now(UTC)
WHOLE = Reach(ascending=True, first=None, last=None, is_cut=False)


async def append(conn: asyncpg.Connection, name: str, resource: str = "r", ago: int = 0) -> None:
    await conn.execute(
        "INSERT INTO events (occurred_at, id, size, name, resource_id, labels, related, payload) "
        "VALUES ($1, $2, 100, $3, $4, $5, $6, $7)",
        NOW - timedelta(seconds=ago),
        uuid4(),
        name,
        resource,
        json.dumps({"color": "red"}),
        json.dumps([{"prefect.resource.id": "u", "prefect.resource.role": "user"}]),
        json.dumps({"n": 1}),
    )


def names(found: Iterable[tuple[object, Event]]) -> list[str]:
    return [event.name for _, event in found]


async def read(conn: asyncpg.Connection, narrowed: Narrowed, within: Reach = WHOLE) -> list[str]:
    return names((await event_stream.read(conn, narrowed, within, limit=100)).events)


@pytest.mark.parametrize(
    ("narrowed", "expected"),
    [
        (Narrowed(), ["a.b", "a_b", "a%b", "A.b", "a\\b"]),
        (Narrowed(own=True), ["a.b", "a_b", "a%b", "A.b", "a\\b", "upshot.x"]),
        (Narrowed(names=["a.b", "a"]), ["a.b"]),
        (Narrowed(prefixes=["a_"]), ["a_b"]),
        (Narrowed(prefixes=["a%", "A"]), ["a%b", "A.b"]),
        (Narrowed(prefixes=["a\\"]), ["a\\b"]),
        (Narrowed(prefixes=["upshot."]), []),
        (Narrowed(prefixes=["upshot."], own=True), ["upshot.x"]),
        (Narrowed(not_names=["a.b"], not_prefixes=["a_", "A"]), ["a%b", "a\\b"]),
        (Narrowed(resource_ids=["1"]), ["a_b", "A.b"]),
        (Narrowed(resource_ids=["1", "2"]), ["a_b", "a%b", "A.b", "a\\b"]),
        (Narrowed(resource_ids=["3"]), []),
        (Narrowed(resource_prefixes=["r"]), ["a.b"]),
        (Narrowed(since=NOW - timedelta(seconds=2)), ["a.b", "a_b", "a%b"]),
        (Narrowed(until=NOW - timedelta(seconds=2)), ["a%b", "A.b", "a\\b"]),
    ],
)
async def test_narrowing(conn: asyncpg.Connection, narrowed: Narrowed, expected: list[str]) -> None:
    for ago, (name, resource) in enumerate(
        [("a.b", "r"), ("a_b", "1"), ("a%b", "2"), ("A.b", "1"), ("a\\b", "2"), ("upshot.x", "x")]
    ):
        await append(conn, name, resource, ago)
    assert await read(conn, narrowed) == expected


async def test_a_reach_is_walked_in_either_direction_to_its_end(conn: asyncpg.Connection) -> None:
    for n in range(7):
        await append(conn, str(n))
    for ascending in (True, False):
        for narrowed in (Narrowed(), Narrowed(resource_ids=["r"]), Narrowed(since=NOW)):
            found: list[str] = []
            first, reaches = None, 0
            while True:
                within = await event_stream.reach(
                    conn, narrowed, ascending=ascending, first=first, rows_max=3
                )
                found += await read(conn, narrowed, within)
                reaches += 1
                if not within.is_cut:
                    break
                first = within.last
            expected = [str(n) for n in range(7)]
            assert (found, reaches) == (expected if ascending else expected[::-1], 3)


async def test_large_events_come_in_smaller_pieces(conn: asyncpg.Connection) -> None:
    for n in range(5):
        await append(conn, str(n))
    found = await event_stream.read(conn, Narrowed(), WHOLE, limit=100, bytes_max=250)
    assert (names(found.events), found.is_whole) == (["0", "1", "2"], False)
    rest = Reach(ascending=True, first=found.events[-1][0], last=None, is_cut=False)
    found = await event_stream.read(conn, Narrowed(), rest, limit=100, bytes_max=250)
    assert (names(found.events), found.is_whole) == (["3", "4"], True)


async def test_only_what_a_cursor_has_passed_is_read(conn: asyncpg.Connection) -> None:
    await append(conn, "before")
    cursor = await event_stream.cursor_now(conn)
    await append(conn, "after")
    found = await event_stream.read(conn, Narrowed(), WHOLE, limit=10, passed=cursor)
    assert names(found.events) == ["before"]


async def test_the_newest_rows_begin_where_the_oldest_that_fits_is(
    conn: asyncpg.Connection,
) -> None:
    assert await event_stream.newest(conn, Narrowed(since=NOW), rows_max=3) == WHOLE
    for n in range(7):
        await append(conn, str(n))
    within = await event_stream.newest(conn, Narrowed(), rows_max=3)
    assert (await read(conn, Narrowed(), within), within.is_cut) == (["5", "6"], True)
    within = await event_stream.newest(conn, Narrowed(since=NOW), rows_max=100)
    assert (len(await read(conn, Narrowed(), within)), within.is_cut) == (7, False)
