"""`/api/events/out`: what there was, then what comes, without a gap or a double."""

import asyncio
from typing import Any

import asyncpg
import pytest

from tests.api.test_auth import make_key
from tests.e2e.server import Server, serving, until
from tests.prefect.clients import url_of
from tests.prefect.talking import Talk, authenticated, talking
from upshot.prefect.event_filters import Wanted
from upshot.prefect.tail import Tail
from upshot.storage import event_stream
from upshot.storage.database import Database
from upshot.workers.loops import Line
from upshot.workers.signals import Signals

pytestmark = pytest.mark.anyio

OUT = "/api/events/out"
SINCE = "2026-01-01T00:00:00Z"


def asking(backfill: bool = True, **filters: Any) -> dict[str, Any]:
    document = {"occurred": {"since": SINCE, "until": "2100-01-01T00:00:00Z"}, **filters}
    return {"type": "filter", "filter": document, "backfill": backfill}


def event(n: int, name: str = "counted") -> dict[str, Any]:
    return {"event": name, "resource": {"id": f"r.{n % 2}"}, "payload": {"n": n}}


async def heard(talk: Talk, number: int) -> list[int]:
    """The numbers of so many events."""
    found = [await talk.document() for _ in range(number)]
    assert all(one["type"] == "event" for one in found)
    return [one["event"]["payload"]["n"] for one in found]


async def post(server: Server, *numbers: int, name: str = "counted") -> None:
    await server.api.send("POST", "/v1/events", [event(n, name) for n in numbers])


async def test_what_there_was_comes_before_what_comes(database_url: str) -> None:
    async with serving(database_url) as server:
        await post(server, *range(700))
        async with authenticated(url_of(server), OUT) as talk:
            await talk.send(asking())
            assert await heard(talk, 700) == list(range(700))
            await post(server, *range(700, 710))
            assert await heard(talk, 10) == list(range(700, 710))


async def test_events_posted_all_along_are_told_once_each(database_url: str) -> None:
    async with serving(database_url) as server:
        posting = asyncio.create_task(_post_all(server, 1_000))
        await until(lambda: _some(server))
        async with authenticated(url_of(server), OUT) as talk:
            await talk.send(asking(event={"name": ["counted"]}))
            assert await heard(talk, 1_000) == list(range(1_000))
        await posting


async def _post_all(server: Server, number: int) -> None:
    for n in range(0, number, 5):
        await post(server, *range(n, n + 5))


async def _some(server: Server) -> bool:
    return bool((await server.api.get("/v1/events", event="counted"))["items"])


async def test_a_filter_is_held_in_what_was_and_in_what_comes(database_url: str) -> None:
    async with serving(database_url) as server:
        url = url_of(server)
        await post(server, 0, 1, 2, 3)
        await post(server, 4, 5, name="other")
        async with (
            authenticated(url, OUT) as by_resource,
            authenticated(url, OUT) as by_name,
            authenticated(url, OUT) as only_live,
        ):
            await by_resource.send(asking(resource={"id": ["r.1"]}))
            await by_name.send(asking(event={"prefix": ["oth"]}))
            await only_live.send(asking(backfill=False))
            assert await heard(by_resource, 3) == [1, 3, 5]
            assert await heard(by_name, 2) == [4, 5]
            # That it listens cannot be told but by what it hears.
            said = asyncio.create_task(only_live.document())
            n = 6
            while not said.done():
                await post(server, n)
                n += 1
                await asyncio.wait({said}, timeout=0.1)
            assert (await said)["event"]["payload"]["n"] >= 6
            live = [one for one in range(6, n) if one % 2]
            assert await heard(by_resource, len(live)) == live


async def test_upshot_s_own_events_have_to_be_asked_for(database_url: str) -> None:
    async with serving(database_url) as server:
        await server.api.deploy("d", "http://127.0.0.1:9/")
        await server.api.trigger("t", deployment="d", expect=["nothing"])
        await post(server, 1)
        async with (
            authenticated(url_of(server), OUT) as plain,
            authenticated(url_of(server), OUT) as own,
        ):
            await own.send(asking(event={"prefix": ["upshot."]}))
            assert (await own.document())["event"]["event"] == "upshot.trigger.saved"
            await plain.send(asking())
            assert await heard(plain, 1) == [1]
            await server.api.send("DELETE", "/v1/triggers/t")
            assert (await own.document())["event"]["event"] == "upshot.trigger.deleted"
            await post(server, 2)
            assert await heard(plain, 1) == [2]


NO_FILTERS: list[Any] = [
    "no json",
    {"type": "other"},
    {"type": "filter"},
    {"type": "filter", "filter": []},
    {"type": "filter", "filter": {"occurred": {"since": "yesterday"}}},
    {"type": "filter", "filter": {"occurred": {"since": "0001-01-01T00:00:00Z"}}},
    {"type": "filter", "filter": {"event": {"name": [7]}}},
    {"type": "filter", "filter": {"event": {"name": ["\0"]}}},
    {"type": "filter", "filter": {"text": {"query": "x" * 201}}},
]


async def test_what_is_no_filter_is_told_so(database_url: str) -> None:
    async with serving(database_url) as server:
        for said in NO_FILTERS:
            async with authenticated(url_of(server), OUT) as talk:
                await talk.send(said)
                code, reason = await talk.closed()
                assert (code, bool(reason)) == (1002, True), said


async def test_a_key_that_may_not_read_is_refused(database: Database, database_url: str) -> None:
    may, may_not = await make_key(database, "read"), await make_key(database, "events:write")
    async with serving(database_url) as server:
        async with authenticated(url_of(server), OUT, may) as talk:
            await talk.ping(b"!")
            assert await talk.pong() == b"!"
        async with talking(url_of(server), OUT) as talk:
            await talk.send({"type": "auth", "token": may_not})
            code, reason = await talk.closed()
            assert (code, reason) == (1008, "This API key lacks the scope 'read'.")


async def test_who_does_not_listen_is_cut_off_and_memory_stays(database_url: str) -> None:
    async with serving(database_url) as server:
        url = url_of(server)
        async with authenticated(url, OUT) as deaf, authenticated(url, OUT) as listening:
            await deaf.send(asking(event={"name": ["counted"]}))
            await listening.send(asking(event={"name": ["last"]}))
            big = {**event(0), "payload": {"n": 0, "text": "x" * 200_000}}
            for _ in range(15):
                await server.api.send("POST", "/v1/events", [big] * 15)
            await server.api.send("POST", "/v1/events", event(1, "last"))
            assert await heard(listening, 1) == [1]
            assert (await deaf.closed())[0] in (1006, 1013)


async def test_an_event_committed_late_is_told(database: Database, database_url: str) -> None:
    """Its transaction began before those that were read already."""
    early, late = await database.connect(), await database.connect()
    insert = (
        "INSERT INTO events (occurred_at, id, size, name, resource_id) "
        "VALUES (now(), gen_random_uuid(), 1, $1, 'r')"
    )
    tail = Tail(Line(database, Signals(), asyncio.Event()))
    transaction = late.transaction()
    await transaction.start()
    await late.execute(insert, "late")
    async with tail.subscribed(Wanted()) as subscriber:
        await early.execute(insert, "early")
        assert '"event":"early"' in await subscriber.next()
        await transaction.commit()
        assert '"event":"late"' in await subscriber.next()
        async with tail.subscribed(Wanted()) as another:
            now = await event_stream.cursor_now(early)
            assert another.since.snapshot.split(":")[1] <= now.snapshot.split(":")[1]
    for conn in (early, late):
        await conn.close()


async def test_a_lost_connection_of_the_tail_misses_nothing(
    database: Database, conn: asyncpg.Connection
) -> None:
    tail = Tail(Line(database, Signals(), asyncio.Event()))
    insert = (
        "INSERT INTO events (occurred_at, id, size, name, resource_id) "
        "VALUES (now(), gen_random_uuid(), 1, $1, 'r')"
    )
    async with tail.subscribed(Wanted()) as subscriber:
        await conn.execute(insert, "before")
        assert '"event":"before"' in await subscriber.next()
        async with conn.transaction():
            ended = await conn.fetchval(
                "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity "
                "WHERE application_name = 'upshot tail' AND datname = current_database()"
            )
            assert ended == 1
            await conn.execute(insert, "meanwhile")
        assert '"event":"meanwhile"' in await subscriber.next()
