"""`/api/events/in` as bytes: who is let in, what a pong means, and what becomes of bad messages."""

import asyncio
import base64
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from tests.api.test_auth import make_key
from tests.e2e.server import Server, serving, until
from tests.prefect.clients import url_of
from tests.prefect.talking import Refused, Talk, authenticated, talking
from upshot.core.limits import EVENT_BYTES_MAX
from upshot.storage.database import Database

pytestmark = pytest.mark.anyio

IN = "/api/events/in"


def event(n: int, **more: Any) -> dict[str, Any]:
    """As the client's model dumps one."""
    return {
        "id": str(uuid4()),
        "event": "counted",
        "resource": {"prefect.resource.id": "counter"},
        "related": [],
        "payload": {"n": n},
        "occurred": "2026-01-31T12:00:00Z",
        "follows": None,
        **more,
    }


async def stored(server: Server) -> list[int]:
    page = await server.api.get("/v1/events", event="counted", limit=500)
    return [event["payload"]["n"] for event in reversed(page["items"])]


async def acknowledged(talk: Talk, payload: bytes = b"?") -> None:
    await talk.ping(payload)
    assert await talk.pong() == payload


async def test_an_open_server_takes_events_with_and_without_the_subprotocol(
    database_url: str,
) -> None:
    async with serving(database_url) as server:
        url = url_of(server)
        async with authenticated(url, IN) as talk:
            assert talk.subprotocol == "prefect"
            await talk.send(event(0), event(1))
            await acknowledged(talk)
        async with talking(url, f"{IN}/", subprotocols=()) as old:
            assert old.subprotocol is None
            await acknowledged(old, b"before anything")
            await old.send(event(2))
            await acknowledged(old)
        assert await stored(server) == [0, 1, 2]


async def test_a_pong_comes_after_the_commit_of_all_before_the_ping(
    database_url: str, conn: asyncpg.Connection
) -> None:
    async with serving(database_url) as server, authenticated(url_of(server), IN) as talk:
        async with conn.transaction():
            await conn.execute("LOCK TABLE event_ids IN ACCESS EXCLUSIVE MODE")
            await talk.send(*map(event, range(3)))
            await talk.ping(b"stored?")
            pong = asyncio.create_task(talk.pong())

            async def commit_waits() -> bool:
                waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
                return bool(await conn.fetchval(waiting))

            await until(commit_waits)
            assert not pong.done()
        assert await pong == b"stored?"
        assert await stored(server) == [0, 1, 2]


async def test_closing_is_answered_after_the_commit_too(
    database_url: str, conn: asyncpg.Connection
) -> None:
    async with serving(database_url) as server, authenticated(url_of(server), IN) as talk:
        await talk.send(*map(event, range(100)))
        code, _ = await talk.close()
        assert code == 1000
        assert await conn.fetchval("SELECT count(*) FROM events WHERE name = 'counted'") == 100


async def test_while_the_database_is_away_nothing_is_acknowledged_and_nothing_lost(
    postgres: str, database_url: str, conn: asyncpg.Connection
) -> None:
    name = await conn.fetchval("SELECT current_database()")
    elsewhere = await asyncpg.connect(postgres)
    async with serving(database_url) as server, authenticated(url_of(server), IN) as talk:
        await elsewhere.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        try:
            await elsewhere.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                "WHERE datname = $1 AND application_name LIKE 'upshot %'",
                name,
            )
            await server.logged("database_away")
            # Who comes meanwhile is asked to come again, and not turned away for good.
            async with talking(url_of(server), IN) as later:
                assert (await later.closed())[0] == 1013
            await talk.send(*map(event, range(3)))
            await talk.ping(b"stored?")
            pong = asyncio.create_task(talk.pong())
            assert not await _is_ready(server)
            assert not pong.done()
        finally:
            await elsewhere.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
            await elsewhere.close()
        assert await pong == b"stored?"
        assert await stored(server) == [0, 1, 2]


async def _is_ready(server: Server) -> bool:
    return (await server.api.http.get("/readyz")).status_code == 200


async def test_what_is_sent_again_is_stored_once(database_url: str) -> None:
    async with serving(database_url) as server:
        sent = list(map(event, range(10)))
        for talked in (sent[:7], sent[3:]):
            async with authenticated(url_of(server), IN) as talk:
                await talk.send(*talked)
                await acknowledged(talk)
        assert await stored(server) == list(range(10))


async def test_a_bad_message_loses_nothing_but_itself_and_is_told_of(database_url: str) -> None:
    bad = [
        "no json",
        "[]",
        '"text"',
        "null",
        '{"event": "x"}',
        b"\x00\xff",
        '{"event": "counted", "resource": {"prefect.resource.id": "1"}, "payload": {"n": NaN}}',
        {**event(-1), "payload": {"n": "\0"}},
        '{"event": "counted\\ud800", "resource": {"prefect.resource.id": "1"}}',
        {**event(-1), "occurred": "9999-12-31T23:59:59Z"},
        {**event(-1), "id": "no uuid"},
        {**event(-1), "event": "upshot.run.completed"},
        {**event(-1), "resource": {"prefect.resource.id": 7}},
        {**event(-1), "payload": {"n": "x" * EVENT_BYTES_MAX}},
        "[" * 100_000,
    ]
    async with serving(database_url) as server, authenticated(url_of(server), IN) as talk:
        await talk.send(event(0), *bad, event(1, unknown_field=[1], size_bytes=7))
        await acknowledged(talk)
        assert await stored(server) == [0, 1]
        told = [line for line in server.log if line["event"] == "events_rejected"]
        assert sum(line["count"] for line in told) == len(bad)
        metrics = (await server.api.http.get("/metrics")).text
        assert f'upshot_events_total{{status="rejected"}} {len(bad)}.0' in metrics


async def test_a_message_that_is_far_too_large_closes_the_socket(database_url: str) -> None:
    async with serving(database_url) as server, authenticated(url_of(server), IN) as talk:
        await talk.send(event(0))
        await acknowledged(talk)
        await talk.send("x" * (3 * 1024 * 1024))
        code, _ = await talk.closed()
        assert code == 1009
        assert await stored(server) == [0]


async def test_with_keys_only_those_that_may_post_are_let_in(
    database: Database, database_url: str, conn: asyncpg.Connection
) -> None:
    may, may_not = await make_key(database, "events:write"), await make_key(database, "read")
    async with serving(database_url) as server:
        url = url_of(server)
        basic = base64.b64encode(f"user:{may}".encode()).decode()
        for token, headers in (
            (may, {}),
            (f"user:{may}", {}),
            (None, {"authorization": f"Bearer {may}"}),
            (f"user:{may}", {"authorization": f"Basic {basic}"}),
        ):
            async with talking(url, IN, headers=headers) as talk:
                await talk.send({"type": "auth", "token": token})
                assert await talk.document() == {"type": "auth_success"}
        for said in (
            {"type": "auth", "token": None},
            {"type": "auth", "token": "wrong"},
            {"type": "auth", "token": "\0\ud800"},
            {"type": "auth", "token": 7},
            {"type": "auth", "token": may_not},
            event(0),
            "no json",
        ):
            async with talking(url, IN) as talk:
                await talk.ping()
                assert await talk.pong() == b"?"
                await talk.send(said)
                code, reason = await talk.closed()
                assert (code, bool(reason)) == (1008, True)
        for authorization, status in ((None, 401), ("Bearer no", 401), (f"Bearer {may_not}", 403)):
            headers = {"authorization": authorization} if authorization else {}
            with pytest.raises(Refused) as refused:
                async with talking(url, IN, subprotocols=(), headers=headers):
                    pass
            assert refused.value.status == status
        assert await conn.fetchval("SELECT count(*) FROM events WHERE name = 'counted'") == 0


async def test_another_site_s_page_is_refused(database_url: str) -> None:
    async with serving(database_url) as server:
        with pytest.raises(Refused) as refused:
            async with talking(url_of(server), IN, headers={"origin": "https://elsewhere.example"}):
                pass
        assert refused.value.status == 403


async def test_a_server_that_stops_closes_and_keeps_what_it_has(
    database_url: str, conn: asyncpg.Connection
) -> None:
    async with serving(database_url) as server, authenticated(url_of(server), IN) as talk:
        await talk.send(*map(event, range(10)))
        await acknowledged(talk)
        await server.stop()
        code, _ = await talk.closed()
        assert code == 1012
        assert await conn.fetchval("SELECT count(*) FROM events WHERE name = 'counted'") == 10
