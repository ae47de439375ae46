"""Deadlines come in time, a great many at once hold nothing up, and a kill loses none."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from tests.e2e.server import Server, serving, until
from upshot.workers.loops import pause_or_stop

WITHIN = timedelta(hours=1)
POSTS_PER_SECOND = 20
_BATCH_EVENTS = 1_000
_LEAD = timedelta(seconds=3)
"""How long before the first deadline its key is open at the latest."""
_OPENED_PER_SECOND_MIN = 1_500

PARCEL: dict[str, Any] = {
    "after": ["sent"],
    "expect": ["arrived"],
    "for_each": ["id"],
    "posture": "Proactive",
    "within": WITHIN.total_seconds(),
    "lateness": 0,
}
_EACH = "SELECT count(*) AS runs, count(DISTINCT labels::text) AS keys FROM runs WHERE trigger = $1"
_LATE = (
    "SELECT percentile_disc(0.99) WITHIN GROUP (ORDER BY created_at - scheduled_at) "
    "FROM runs WHERE trigger = $1"
)
_LAG = (
    "SELECT max(r.created_at - e.received_at) FROM runs AS r JOIN events AS e ON e.id = r.event_id "
    "WHERE r.trigger = 'order'"
)
_ANY_OPEN = "SELECT EXISTS (SELECT FROM windows WHERE alarms)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """How late 99 % of the alarms were at the most when they came at a steady rate; how long a
    burst took; how long a post took to be answered, and to be evaluated, at worst in either."""

    late: timedelta
    burst: timedelta
    answered: timedelta
    evaluated: timedelta


async def prove(
    url: str, *, per_second: int, seconds: int, burst: int, killed: int, down: timedelta
) -> Seen:
    """Alarms at a steady rate, then a burst, then some that are due while the server is killed.

    Raises:
        AssertionError: an alarm did not come, or came twice, or an event was not evaluated.
    """
    conn = await asyncpg.connect(url)
    try:
        async with serving(url, only="api,evaluate") as server:
            await server.api.deploy("waiting", "http://127.0.0.1:9/run", enabled=False)
            await server.api.trigger("order", deployment="waiting", expect=["order"])
            async with _steady_posts(server) as answered:
                gap = timedelta(seconds=1) / per_second
                await _open(server, "steady", per_second * seconds, lambda n: n * gap)
                await _all_decided(conn)
                late: timedelta = await conn.fetchval(_LATE, "steady")
                due_at = await _open(server, "burst", burst, lambda _: timedelta(0))
                await _all_decided(conn)
                took = datetime.now(UTC) - due_at
            due_at = await _open(server, "killed", killed, lambda _: timedelta(0))
            assert due_at > datetime.now(UTC), "the server was not killed before the deadlines"
            await server.kill()
        await conn.fetchval("SELECT pg_sleep_until($1)", due_at + down)
        async with serving(url, only="api,evaluate"):
            await _all_decided(conn)
        expected = {"steady": per_second * seconds, "burst": burst, "killed": killed}
        for name, keys in expected.items():
            made = await conn.fetchrow(_EACH, name)
            assert (made["runs"], made["keys"]) == (keys, keys), f"{name}: {made}"
        made = await conn.fetchrow(_EACH, "order")
        assert made["runs"] == len(answered), f"{len(answered)} orders were posted: {made}"
        return Seen(
            late=late,
            burst=took,
            answered=timedelta(seconds=max(answered)),
            evaluated=await conn.fetchval(_LAG),
        )
    finally:
        await conn.close()


async def _open(
    server: Server, name: str, keys: int, after: Callable[[int], timedelta]
) -> datetime:
    """Open so many keys of a trigger of that name; answers when the first of them is due.

    Events of long ago open them, so that the deadlines do not depend on when they are posted.
    """
    await server.api.trigger(name, deployment="waiting", **PARCEL, match={"id": f"{name}-*"})
    due_at = datetime.now(UTC) + _LEAD + timedelta(seconds=keys / _OPENED_PER_SECOND_MIN)
    for start in range(0, keys, _BATCH_EVENTS):
        events = [
            {
                "event": "sent",
                "resource": {"id": f"{name}-{n}"},
                "occurred": (due_at + after(n) - WITHIN).isoformat(),
            }
            for n in range(start, min(keys, start + _BATCH_EVENTS))
        ]
        await server.api.send("POST", "/v1/events", events)
    # The order of one client is kept, so when this is evaluated all before it is.
    await server.api.post({"event": "opened", "resource": {"id": name}})
    return due_at


async def _all_decided(conn: asyncpg.Connection) -> None:
    async def none_open() -> bool:
        return not await conn.fetchval(_ANY_OPEN)

    await until(none_open, within=300)


@asynccontextmanager
async def _steady_posts(server: Server) -> AsyncIterator[Sequence[float]]:
    """Post at a steady rate, however fast that is answered; gives how many seconds each took."""
    answered: list[float] = []
    stopping = asyncio.Event()

    async def post() -> None:
        began = time.monotonic()
        order = {"event": "order", "resource": {"id": "1"}}
        await server.api.send("POST", "/v1/events", order)
        answered.append(time.monotonic() - began)

    async def keep_posting(tasks: asyncio.TaskGroup) -> None:
        while not stopping.is_set():
            tasks.create_task(post())
            await pause_or_stop(stopping, 1 / POSTS_PER_SECOND)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(keep_posting(tasks))
        try:
            yield answered
        finally:
            stopping.set()
