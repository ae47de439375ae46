"""An id is stored once, whoever posts it again, when and where."""

import asyncio
from collections import Counter
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from tests.e2e.server import Server, serving

pytestmark = pytest.mark.anyio


async def test_an_id_posted_again_is_a_duplicate_or_rejected_across_restarts(
    database_url: str,
) -> None:
    event = {"event": "go", "resource": {"id": "1"}, "id": str(uuid4())}
    async with serving(database_url) as server:
        assert await statuses(server, event) == ["accepted"]
        assert await statuses(server, event) == ["duplicate"]
        await server.kill()
    async with serving(database_url) as server:
        assert await statuses(server, event) == ["duplicate"]
        other = {**event, "payload": {"total": 1}}
        refused = await server.api.http.post("/v1/events", json=other)
        assert refused.status_code == 422
        assert refused.json()["results"][0]["status"] == "rejected"
        fresh = {**event, "id": str(uuid4())}
        assert await statuses(server, event, other, fresh) == ["duplicate", "rejected", "accepted"]


async def test_an_id_twice_in_one_batch_is_stored_once(database_url: str) -> None:
    event = {"event": "go", "resource": {"id": "1"}, "id": str(uuid4())}
    other = {**event, "event": "stop"}
    async with serving(database_url, only="api") as server:
        assert await statuses(server, event, event, other) == ["accepted", "duplicate", "rejected"]


async def test_two_processes_given_the_same_events_at_once_store_each_once(
    database_url: str, conn: asyncpg.Connection
) -> None:
    events = [{"event": "go", "resource": {"id": "1"}, "id": str(uuid4())} for _ in range(300)]
    async with serving(database_url, only="api") as one, serving(database_url, only="api") as two:
        # The same events in the same and in the opposite order, in batches and as singles.
        answers = await asyncio.gather(
            *(statuses(one, *events[at : at + 50]) for at in range(0, 300, 50)),
            *(statuses(two, *events[at : at + 50][::-1]) for at in range(0, 300, 50)),
            *(statuses(one, event) for event in events[:60]),
            *(statuses(two, event) for event in events[:60]),
        )
    counted = Counter(status for answer in answers for status in answer)
    assert counted == {"accepted": 300, "duplicate": 300 + 120}
    assert await conn.fetchval("SELECT count(*) FROM events WHERE name = 'go'") == 300


async def statuses(server: Server, *events: dict[str, Any]) -> list[str]:
    answer = await server.api.http.post("/v1/events", json=list(events))
    assert answer.status_code in (201, 207), answer.text
    return [result["status"] for result in answer.json()["results"]]
