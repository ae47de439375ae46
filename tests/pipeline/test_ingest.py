"""Ingest on a real database: shared commits, bounds, and one bad event among good ones."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from uuid import uuid4

import asyncpg
import pytest
from msgspec.structs import replace

from tests.e2e.server import until
from tests.proofs import shop
from upshot.core.errors import Overloaded
from upshot.core.intake import NewEvent
from upshot.core.limits import EVENTS_PER_REQUEST_MAX, PENDING_BYTES_MAX, PENDING_EVENTS_MAX
from upshot.pipeline.ingest import Conflicting, Duplicate, Ingest, Stored
from upshot.storage import partitions
from upshot.storage.database import Database

pytestmark = pytest.mark.anyio


@pytest.fixture
async def ingest(database: Database) -> AsyncIterator[Ingest]:
    """With one writer at work."""
    stage = Ingest(on_stored=lambda: None)
    writer = await database.connect()
    writing = asyncio.create_task(stage.write(writer))
    await opened(stage)
    yield stage
    writing.cancel()
    with suppress(asyncio.CancelledError):
        await writing
    await writer.close()


async def test_requests_that_wait_together_share_a_commit(
    ingest: Ingest, conn: asyncpg.Connection
) -> None:
    posts = [[new_event()] for _ in range(200)]
    results = await asyncio.gather(*(ingest.append(post) for post in posts))
    assert results == [[Stored()]] * 200
    commits = await conn.fetchval("SELECT count(DISTINCT xid) FROM events")
    assert await stored(conn) == 200
    assert commits < 20


async def test_each_request_of_a_shared_commit_gets_its_own_results(ingest: Ingest) -> None:
    event = new_event(id_given=True)
    other = replace(event, digest=bytes(16))
    first, second, third = await asyncio.gather(
        ingest.append([event]), ingest.append([new_event(), replace(event)]), ingest.append([other])
    )
    assert first == [Stored()]
    assert second == [Stored(), Duplicate()]
    assert isinstance(third[0], Conflicting)


async def test_an_event_that_the_database_refuses_is_rejected_and_its_neighbours_are_stored(
    ingest: Ingest, conn: asyncpg.Connection
) -> None:
    await conn.execute("ALTER TABLE events ADD CONSTRAINT no_curse CHECK (resource_id <> 'cursed')")
    posts = [[new_event()], [new_event(), new_event("cursed"), new_event()], [new_event()]]
    first, second, third = await asyncio.gather(*(ingest.append(post) for post in posts))
    assert first == third == [Stored()]
    assert second[0] == second[2] == Stored()
    assert isinstance(second[1], Conflicting)
    assert "no_curse" in second[1].reason
    assert "cursed" not in second[1].reason, "what Postgres shows of the row stays inside"
    assert await stored(conn) == 4


async def test_an_id_whose_event_was_refused_is_not_remembered(
    ingest: Ingest, conn: asyncpg.Connection
) -> None:
    await conn.execute("ALTER TABLE events ADD CONSTRAINT no_curse CHECK (resource_id <> 'cursed')")
    event = new_event("cursed", id_given=True)
    (result,) = await ingest.append([event])
    assert isinstance(result, Conflicting)
    await conn.execute("ALTER TABLE events DROP CONSTRAINT no_curse")
    assert await ingest.append([event]) == [Stored()]


async def test_one_bad_event_in_a_full_request_costs_few_transactions(
    ingest: Ingest, conn: asyncpg.Connection
) -> None:
    await conn.execute("ALTER TABLE events ADD CONSTRAINT no_curse CHECK (resource_id <> 'cursed')")
    events = [new_event() for _ in range(EVENTS_PER_REQUEST_MAX)]
    events[700] = new_event("cursed")
    results = await ingest.append(events)
    assert results.count(Stored()) == EVENTS_PER_REQUEST_MAX - 1
    assert isinstance(results[700], Conflicting)
    commits = await conn.fetchval("SELECT count(DISTINCT xid) FROM events")
    assert commits < 40


async def test_a_missing_partition_is_made_on_the_way(
    ingest: Ingest, conn: asyncpg.Connection
) -> None:
    for name in await partitions.names(conn):
        await conn.execute(f"DROP TABLE {name}")
    assert await ingest.append([new_event()]) == [Stored()]
    assert await stored(conn) == 1


async def test_too_many_waiting_events_are_refused_and_none_of_them_stored(
    database: Database, ingest: Ingest, conn: asyncpg.Connection
) -> None:
    # The writer cannot commit while the table is locked, so that events wait.
    locking = await database.connect()
    await locking.execute("BEGIN; LOCK TABLE events IN ACCESS EXCLUSIVE MODE")
    requests = PENDING_EVENTS_MAX // EVENTS_PER_REQUEST_MAX
    waiting = [
        asyncio.create_task(ingest.append([new_event() for _ in range(EVENTS_PER_REQUEST_MAX)]))
        for _ in range(requests)
    ]
    await asyncio.wait(waiting, timeout=0)
    with pytest.raises(Overloaded) as refused:
        await ingest.append([new_event("refused")])
    assert refused.value.retry_after > 0
    await locking.close()
    for results in await asyncio.gather(*waiting):
        assert set(results) == {Stored()}
    assert await stored(conn) == PENDING_EVENTS_MAX
    assert await conn.fetchval("SELECT count(*) FROM events WHERE resource_id = 'refused'") == 0
    assert await ingest.append([new_event()]) == [Stored()]


async def test_too_many_waiting_bytes_are_refused(ingest: Ingest, conn: asyncpg.Connection) -> None:
    with pytest.raises(Overloaded):
        await ingest.append([replace(new_event(), size=PENDING_BYTES_MAX + 1)])
    assert await stored(conn) == 0


async def test_events_that_wait_when_the_last_writer_is_lost_are_refused(
    database: Database, conn: asyncpg.Connection
) -> None:
    stage = Ingest(on_stored=lambda: None)
    with pytest.raises(Overloaded):
        await stage.append([new_event()])
    writer = await database.connect()
    process_id = writer.get_server_pid()
    writing = asyncio.create_task(stage.write(writer))
    await opened(stage)
    locking = await database.connect()
    await locking.execute("BEGIN; LOCK TABLE events IN ACCESS EXCLUSIVE MODE")
    under_way = asyncio.create_task(stage.append([new_event()]))
    await until(lambda: waits_for_a_lock(conn, process_id))
    next_one = asyncio.create_task(stage.append([new_event()]))
    await asyncio.wait({next_one}, timeout=0)
    await conn.execute("SELECT pg_terminate_backend($1)", process_id)
    for post in (under_way, next_one):
        with pytest.raises(Overloaded):
            await post
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
        await writing
    assert not stage.is_open
    await locking.close()
    assert await stored(conn) == 0


async def test_a_request_that_gave_up_waiting_is_not_stored(
    database: Database, ingest: Ingest, conn: asyncpg.Connection
) -> None:
    locking = await database.connect()
    await locking.execute("BEGIN; LOCK TABLE events IN ACCESS EXCLUSIVE MODE")
    under_way = asyncio.create_task(ingest.append([new_event("first")]))
    await until(lambda: somebody_waits_for_a_lock(conn))
    gives_up = asyncio.create_task(ingest.append([new_event("second")]))
    await asyncio.wait({gives_up}, timeout=0)
    gives_up.cancel()
    await asyncio.wait({gives_up})
    await locking.close()
    assert await under_way == [Stored()]
    assert await ingest.append([new_event("third")]) == [Stored()]
    rows = await conn.fetch("SELECT resource_id FROM events ORDER BY position")
    assert [row["resource_id"] for row in rows] == ["first", "third"]


def new_event(user: str = "1", *, id_given: bool = False) -> NewEvent:
    step = shop.Step(id=uuid4(), name=shop.CREATED, user=user)
    event = shop.new_event(step)
    return replace(event, id_given=True, digest=event.id.bytes) if id_given else event


async def opened(stage: Ingest) -> None:
    async def is_open() -> bool:
        return stage.is_open

    await until(is_open)


async def stored(conn: asyncpg.Connection) -> int:
    return int(await conn.fetchval("SELECT count(*) FROM events"))


async def waits_for_a_lock(conn: asyncpg.Connection, process_id: int) -> bool:
    query = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND pid = $1)"
    return bool(await conn.fetchval(query, process_id))


async def somebody_waits_for_a_lock(conn: asyncpg.Connection) -> bool:
    query = (
        "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND database = "
        "(SELECT oid FROM pg_database WHERE datname = current_database()))"
    )
    return bool(await conn.fetchval(query))
