"""What was acknowledged is stored and evaluated, though the server is killed amid the posting."""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx

from tests.e2e.server import Server, serving

CONNECTIONS = 8
BATCH_EVENTS_MAX = 60


@dataclass(slots=True)
class _Posted:
    """What the clients know: the events acknowledged, and those that got no answer."""

    acknowledged: list[UUID] = field(default_factory=list)
    unanswered: list[list[dict[str, Any]]] = field(default_factory=list)


async def prove(url: str, *, events: int, seed: int) -> int:
    """Kill the server at the moment at which so many are acknowledged, while more are on their way.

    A trigger fires for every event, so runs count evaluations. What got no answer is posted again,
    as a client would. Answers how many events were acknowledged before the kill.
    """
    posted = _Posted()
    async with serving(url) as server:
        await server.api.deploy("waiting", "http://127.0.0.1:9/run", enabled=False)
        await server.api.trigger("every", deployment="waiting", expect=["*"])
        enough = asyncio.Event()
        clients = [
            asyncio.create_task(_post(server, random.Random(f"{seed}/{n}"), posted, events, enough))
            for n in range(CONNECTIONS)
        ]
        await enough.wait()
        await server.kill()
        await asyncio.gather(*clients)
    before_kill = len(posted.acknowledged)
    async with serving(url) as server:
        for batch in posted.unanswered:
            answer = await server.api.http.post("/v1/events", json=batch)
            assert answer.status_code == 201, answer.text
            posted.acknowledged += [UUID(result["id"]) for result in answer.json()["results"]]
        await server.api.all_evaluated()
        await _check(url, posted.acknowledged)
    return before_kill


async def _post(
    server: Server, chance: random.Random, posted: _Posted, events: int, enough: asyncio.Event
) -> None:
    """One connection, which waits for each answer: singles, and batches with ids and without."""
    url = server.api.http.base_url
    async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as http:
        while True:
            batch = _batch(chance)
            try:
                answer = await http.post("/v1/events", json=batch if len(batch) > 1 else batch[0])
            except httpx.TransportError:
                if "id" in batch[0]:
                    posted.unanswered.append(batch)
                return
            assert answer.status_code == 201, answer.text
            posted.acknowledged += [UUID(result["id"]) for result in answer.json()["results"]]
            if len(posted.acknowledged) >= events:
                enough.set()


def _batch(chance: random.Random) -> list[dict[str, Any]]:
    size = chance.choice((1, 1, chance.randint(2, BATCH_EVENTS_MAX)))
    with_ids = chance.random() < 0.5
    return [
        {
            "event": "order.created",
            "resource": {"id": str(chance.randrange(100))},
            **({"id": str(uuid4())} if with_ids else {}),
        }
        for _ in range(size)
    ]


async def _check(url: str, acknowledged: Sequence[UUID]) -> None:
    conn = await asyncpg.connect(url)
    try:
        stored = Counter(
            row["id"] for row in await conn.fetch("SELECT id FROM events WHERE name LIKE 'order.%'")
        )
        evaluated = Counter(
            row["event_id"] for row in await conn.fetch("SELECT event_id FROM runs")
        )
    finally:
        await conn.close()
    lost = set(acknowledged) - stored.keys()
    assert not lost, f"{len(lost)} acknowledged events are lost"
    assert max(stored.values()) == 1, "an event is stored twice"
    assert evaluated == stored, "an event was not evaluated exactly once"
