"""The log read again: exactly a span's events, in the log's order, without reading all of it."""

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from tests.core import build
from upshot.core.patterns import parse_pattern
from upshot.storage import log, replay
from upshot.storage.database import Database
from upshot.storage.replay import Stretch

pytestmark = pytest.mark.anyio

MIDNIGHT = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
DAY = (MIDNIGHT - timedelta(days=1), MIDNIGHT + timedelta(days=1))


def at(minutes: float) -> datetime:
    """So long after the last midnight; before it, on the partition of yesterday."""
    return MIDNIGHT + timedelta(minutes=minutes)


@pytest.fixture
async def reader(database: Database) -> Any:
    reader = await database.connect(**log.READER_SETTINGS)
    yield reader
    await reader.close()


async def append(
    conn: asyncpg.Connection,
    number: int,
    *,
    minutes: float = 0,
    name: str = "order.created",
    resource_id: str = "123",
    payload: str | None = None,
    follows: UUID | None = None,
) -> UUID:
    """One event, in a transaction of its own unless there is one."""
    event_id = UUID(int=number)
    await conn.execute(
        "INSERT INTO events "
        "(received_at, occurred_at, id, follows, size, name, resource_id, payload) "
        "VALUES ($1, $1, $2, $3, $4, $5, $6, $7)",
        at(minutes),
        event_id,
        follows,
        len(payload or "") + 50,
        name,
        resource_id,
        payload,
    )
    return event_id


async def read_all(
    conn: asyncpg.Connection,
    *,
    since: datetime = DAY[0],
    until: datetime = DAY[1],
    limit: int = 2,
    of: Sequence[str] | None = None,
    **more: Any,
) -> list[Stretch]:
    """Stretch after stretch to the end of the span."""
    span = await replay.span_of(conn, since=since, until=until)
    stretches: list[Stretch] = []
    after = None
    while not stretches or after is not None:
        if of is None:
            stretch = await replay.read(conn, span, after=after, limit=limit, **more)
        else:
            stretch = await replay.read_of_resources(
                conn, of, since=since, until=until, after=after, limit=limit, **more
            )
        stretches.append(stretch)
        after = stretch.after
    return stretches


def numbers(stretches: Sequence[Stretch]) -> list[int]:
    return [event.id.int for stretch in stretches for event in stretch.events()]


async def test_an_empty_log_has_nothing_in_any_span(reader: asyncpg.Connection) -> None:
    (stretch,) = await read_all(reader)
    assert (list(stretch.rows), stretch.after) == ([], None)
    assert await replay.first_received_at(reader) is None


@pytest.mark.parametrize("of", [None, ["123"]])
async def test_a_span_begins_at_since_and_ends_before_until(
    conn: asyncpg.Connection, reader: asyncpg.Connection, of: list[str] | None
) -> None:
    for number, minutes in enumerate((-10, -5, 0, 5, 10), start=1):
        await append(conn, number, minutes=minutes)
    stretches = await read_all(reader, since=at(-5), until=at(5), of=of)
    assert numbers(stretches) == [2, 3]
    assert await replay.first_received_at(reader) == at(-10)


@pytest.mark.parametrize("of", [None, ["123"]])
async def test_events_come_in_the_order_of_transactions_and_then_of_positions(
    conn: asyncpg.Connection, database: Database, reader: asyncpg.Connection, of: list[str] | None
) -> None:
    other = await database.connect()
    async with conn.transaction():
        await append(conn, 1)
        async with other.transaction():
            await append(other, 2)
            await append(conn, 3)
            await append(other, 4)
    await other.close()
    assert numbers(await read_all(reader, limit=1, of=of)) == [1, 3, 2, 4]


@pytest.mark.parametrize("of", [None, ["123"]])
async def test_what_is_not_committed_is_not_there(
    conn: asyncpg.Connection, reader: asyncpg.Connection, of: list[str] | None
) -> None:
    await append(conn, 1)
    async with conn.transaction():
        await append(conn, 2)
        assert numbers(await read_all(reader, of=of)) == [1]


async def test_a_slow_transaction_that_began_in_the_span_is_not_lost(
    conn: asyncpg.Connection, reader: asyncpg.Connection
) -> None:
    # Their numbers say one order, the times when they began another.
    for number, minutes in enumerate((1, 4.9, 4.2, 5.1, 5.0, 5.9, 5.3, 9), start=1):
        await append(conn, number, minutes=minutes)
    for limit in (1, 100):
        assert numbers(await read_all(reader, since=at(4.9), until=at(5.2), limit=limit)) == [
            2,
            4,
            5,
        ]


async def test_a_log_that_was_rebased_into_one_transaction_is_read_all_the_same(
    conn: asyncpg.Connection, reader: asyncpg.Connection
) -> None:
    for number in range(1, 9):
        await append(conn, number, minutes=number * 10)
    await conn.execute("UPDATE events SET xid = '3' WHERE position <= 6")
    assert numbers(await read_all(reader, since=at(20), until=at(70))) == [2, 3, 4, 5, 6]


async def test_names_that_nobody_wants_come_without_their_text(
    conn: asyncpg.Connection, reader: asyncpg.Connection
) -> None:
    for number, name in enumerate(("a.b", "a%b", "axb", "b", "bb", "other"), start=1):
        await append(conn, number, name=name, follows=UUID(int=99))
    names = [parse_pattern("a%*"), parse_pattern("b"), parse_pattern("a.*")]
    stretches = await read_all(reader, names=names)
    assert numbers(stretches) == [1, 2, 4]
    rows = [row for stretch in stretches for row in stretch.rows]
    assert [row["id"].int for row in rows] == [1, 2, 3, 4, 5, 6]
    unwanted = rows[2]
    assert (unwanted["name"], unwanted["payload"]) == (None, None)
    assert (unwanted["follows"], unwanted["received_at"]) == (UUID(int=99), at(0))


async def test_what_nobody_wants_is_left_out_where_it_may_be_and_counted(
    conn: asyncpg.Connection, reader: asyncpg.Connection
) -> None:
    for number, name in enumerate("abbabbb", start=1):
        await append(conn, number, minutes=-number, name=name)
    stretches = await read_all(reader, names=[parse_pattern("a")], is_whole=False, limit=5)
    assert [_sent(stretch) for stretch in stretches] == [[(1, 1), (4, 4), (5, 5)], [(7, 2)]]
    assert [stretch.after is None for stretch in stretches] == [False, True]
    (row,) = stretches[1].rows
    assert (row["received_at"], row["reached_at"]) == (at(-7), at(-6))


async def test_nothing_is_left_out_behind_an_event_that_follows_another(
    conn: asyncpg.Connection, reader: asyncpg.Connection
) -> None:
    for number in range(1, 7):
        await append(conn, number, name="b", follows=UUID(int=9) if number == 3 else None)
    (stretch,) = await read_all(reader, names=[parse_pattern("a")], is_whole=False, limit=10)
    assert _sent(stretch) == [(number, number) for number in (3, 4, 5, 6)]


def _sent(stretch: Stretch) -> list[tuple[int, int]]:
    """Each row's event, and the how manieth of the stretch it is."""
    return [(row["id"].int, row["number"]) for row in stretch.rows]


async def test_only_the_asked_resources_are_read(
    conn: asyncpg.Connection, reader: asyncpg.Connection
) -> None:
    for number, user in enumerate("abcab", start=1):
        await append(conn, number, resource_id=user)
    assert numbers(await read_all(reader, of=["a", "c"])) == [1, 3, 4]


@pytest.mark.parametrize("of", [None, ["123"]])
async def test_a_stretch_is_bounded_in_the_bytes_that_are_wanted(
    conn: asyncpg.Connection, reader: asyncpg.Connection, of: list[str] | None
) -> None:
    payload = json.dumps({"text": "x" * 1_000})
    for number in range(1, 5):
        await append(conn, number, payload=payload)
        await append(conn, number + 10, name="unwanted", payload=payload)
    stretches = await read_all(
        reader, limit=100, bytes_max=2_500, names=[parse_pattern("order.*")], of=of
    )
    assert [len(list(stretch.events())) for stretch in stretches] == [3, 1]
    assert numbers(stretches) == [1, 2, 3, 4]
    assert sum(len(stretch.rows) for stretch in stretches) == 8


async def test_the_span_is_found_and_read_without_what_is_outside_of_it(
    conn: asyncpg.Connection, reader: asyncpg.Connection
) -> None:
    await conn.execute(
        "INSERT INTO events (received_at, occurred_at, xid, id, size, name, resource_id) "
        "SELECT $1::timestamptz + i * interval '1 second', now(), (i + 1000)::text::xid8, "
        "gen_random_uuid(), 50, 'order.created', (i % 100)::text "
        "FROM generate_series(0, 19999) AS i",
        at(0),
    )
    await conn.execute("ANALYZE events")
    since, until = at(100), at(101)
    span = await replay.span_of(reader, since=since, until=until)
    assert (span.xid_from, span.xid_until) == (1000 + 99 * 60, 1000 + 102 * 60)
    for query in (replay.FROM_XID, replay.UNTIL_XID):
        assert _rows_looked_at(await _plan(reader, query, since)) <= 200
    plan = await _plan(reader, replay.READ, since, until, span.xid_from, 0, 10**6, [], ["%"], 1_000,
                       span.xid_until, False)  # fmt: skip
    assert "xid_position_idx" in plan
    assert "Seq Scan" not in plan
    assert _rows_looked_at(plan) <= 180 + 2
    plan = await _plan(reader, replay.READ_OF_RESOURCES, *DAY, 0, 0, 10**6, [], ["%"], 10, ["7"],
                       True)  # fmt: skip
    assert "hashtextextended_position_idx" in plan
    assert "Seq Scan" not in plan
    assert _rows_looked_at(plan) <= 200 + 10 + 2


async def _plan(conn: asyncpg.Connection, query: str, *arguments: Any) -> str:
    text: str = await conn.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {query}", *arguments)
    return text


def _rows_looked_at(plan: str) -> float:
    """By all index scans together, those that a filter removed included."""

    def total(node: dict[str, Any]) -> float:
        own = 0.0
        if "Index" in node["Node Type"]:
            rows = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
            own = rows * node["Actual Loops"]
        return own + sum(total(child) for child in node.get("Plans", ()))

    return total(json.loads(plan)[0]["Plan"])


async def test_where_events_stand_is_found_by_their_ids(
    conn: asyncpg.Connection, reader: asyncpg.Connection
) -> None:
    ids = [await append(conn, number, minutes=-number) for number in (1, 2)]
    places = await replay.places_of(reader, [*ids, UUID(int=3)])
    assert places.keys() == set(ids)
    assert places[ids[0]] < places[ids[1]]


def test_the_names_wanted_are_those_that_a_trigger_could_want() -> None:
    shop = build.trigger(after=["order.created"], expect=["order.*", "!order.lost"])
    found = replay.names_wanted([shop])
    assert found is not None
    assert [pattern.text for pattern in found] == ["order.*", "order.created"]
    assert replay.names_wanted([shop, build.trigger(2, expect=["!order.lost"])]) is None


async def test_reading_again_holds_no_writer_up(
    conn: asyncpg.Connection, reader: asyncpg.Connection
) -> None:
    await append(conn, 1)
    async with reader.transaction():
        await read_all(reader)
        await asyncio.wait_for(append(conn, 2), timeout=5)
