"""Where events and changes of a trigger stand in the log, found by its indexes."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from upshot.storage import replay, trigger_history
from upshot.storage.database import Database
from upshot.storage.events import Place
from upshot.storage.log import READER_SETTINGS
from upshot.storage.triggers import KEY_FORGOTTEN, SAVED

pytestmark = pytest.mark.anyio


@pytest.fixture
async def reader(database: Database) -> AsyncIterator[asyncpg.Connection]:
    conn = await database.connect(**READER_SETTINGS)
    yield conn
    await conn.close()


async def append(
    conn: asyncpg.Connection,
    name: str,
    resource_id: str,
    *,
    payload: str = "{}",
    follows: UUID | None = None,
) -> UUID:
    event_id = uuid4()
    await conn.execute(
        "INSERT INTO events (occurred_at, id, follows, size, name, resource_id, payload) "
        "VALUES (now(), $1, $2, 1, $3, $4, $5)",
        event_id,
        follows,
        name,
        resource_id,
        payload,
    )
    return event_id


async def append_many(conn: asyncpg.Connection, count: int) -> None:
    await conn.execute(
        "INSERT INTO events (occurred_at, id, size, name, resource_id) "
        "SELECT now(), gen_random_uuid(), 1, 'shown', 'r-' || n % 100 "
        "FROM generate_series(1, $1) AS n",
        count,
    )
    await conn.execute("ANALYZE events")


async def test_the_changes_of_one_trigger_come_in_the_order_of_the_log(
    reader: asyncpg.Connection,
) -> None:
    trigger_id, other_id = uuid4(), uuid4()
    mine = f"upshot.trigger.{trigger_id}"
    for number, name in enumerate((SAVED, KEY_FORGOTTEN, SAVED)):
        await append(reader, name, mine, payload=str(number))
        await append(reader, SAVED, f"upshot.trigger.{other_id}")
        await append(reader, "upshot.trigger.other", mine)
    entries = await trigger_history.entries_of(reader, trigger_id, limit=10)
    assert [(entry.name, entry.payload) for entry in entries] == [
        (SAVED, "0"),
        (KEY_FORGOTTEN, "1"),
        (SAVED, "2"),
    ]
    assert [entry.place for entry in entries] == sorted(entry.place for entry in entries)
    newest = await trigger_history.entries_of(reader, trigger_id, limit=2)
    assert [entry.payload for entry in newest] == ["1", "2"]


async def test_an_event_stands_where_it_is_and_is_not_evaluated_before_the_cursor_passed_it(
    reader: asyncpg.Connection,
) -> None:
    event_id = await append(reader, "a", "1")
    standing = await trigger_history.standing_of(reader, event_id)
    assert standing is not None
    assert standing.place == (await replay.places_of(reader, [event_id]))[event_id]
    assert (standing.is_evaluated, standing.held_until) == (False, None)
    assert await trigger_history.standing_of(reader, uuid4()) is None
    assert await trigger_history.received_at(reader, standing.place) is not None


async def test_the_floor_has_so_many_events_above_it(reader: asyncpg.Connection) -> None:
    ids = [await append(reader, "a", str(number % 2)) for number in range(10)]
    places = await replay.places_of(reader, ids)

    async def floor(count: int, resource_id: str | None) -> Place | None:
        return await trigger_history.floor_of(
            reader, before=places[ids[9]], count=count, resource_id=resource_id
        )

    assert await floor(3, None) == places[ids[5]]
    assert await floor(3, "1") == places[ids[1]]
    assert await floor(9, None) is None
    assert await floor(4, "1") is None


async def test_links_tell_what_an_event_follows(reader: asyncpg.Connection) -> None:
    first = await append(reader, "a", "1")
    second = await append(reader, "b", "2", follows=first)
    links = {
        link.id: link for link in await trigger_history.links_of(reader, [first, second, uuid4()])
    }
    assert {one: link.follows for one, link in links.items()} == {first: None, second: first}
    assert links[first].place < links[second].place


@pytest.mark.parametrize(
    ("query", "arguments", "index"),
    [
        (trigger_history.FLOOR, (2**62, 0, 100), "xid_position_idx"),
        (
            trigger_history.FLOOR_OF_RESOURCE,
            (2**62, 0, 10, "r-7"),
            "hashtextextended_position_idx",
        ),
        (
            trigger_history.ENTRIES,
            ("r-7", SAVED, KEY_FORGOTTEN, 10),
            "hashtextextended_position_idx",
        ),
        (trigger_history.STANDING, (uuid4(),), "id_idx"),
        (trigger_history.LINKS, ([uuid4()],), "id_idx"),
    ],
)
async def test_what_is_looked_up_is_found_by_an_index(
    reader: asyncpg.Connection, query: str, arguments: tuple[Any, ...], index: str
) -> None:
    await append_many(reader, 5_000)
    plan = "\n".join(row[0] for row in await reader.fetch(f"EXPLAIN {query}", *arguments))
    assert index in plan
    assert "Seq Scan on events" not in plan


async def test_a_floor_is_found_in_the_order_of_the_index(reader: asyncpg.Connection) -> None:
    await append_many(reader, 5_000)
    for query, arguments in (
        (trigger_history.FLOOR, (2**62, 0, 100)),
        (trigger_history.FLOOR_OF_RESOURCE, (2**62, 0, 10, "r-7")),
    ):
        plan = "\n".join(row[0] for row in await reader.fetch(f"EXPLAIN {query}", *arguments))
        assert "->  Sort  (" not in plan
