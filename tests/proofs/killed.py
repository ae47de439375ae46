"""State, runs and cursor move together: evaluators killed again and again make the same runs."""

import asyncio
import random
import time
from contextlib import AsyncExitStack

import asyncpg

from tests.e2e.server import Server, serving
from tests.proofs import shop
from upshot.storage import partitions
from upshot.storage.database import Database

WRITERS = 4
USERS_EACH = 20


async def prove(database: Database, url: str, *, seconds: float, seed: int) -> tuple[int, int]:
    """Two evaluator processes, one of them killed now and then, while four writers tell stories.

    Each user's events come from one writer that waits for each commit, so their order is known and
    a sequential model says which of them fire. Answers how many events and kills there were.
    """
    chance = random.Random(seed)
    looking = await database.connect()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(looking.close)
        await partitions.ensure_partitions(looking)
        await shop.register(database, **shop.SHOP)

        async def start() -> Server:
            """One that is ready to evaluate, or to take over."""
            return await stack.enter_async_context(serving(url, only="evaluate"))

        evaluators = [await start() for _ in range(2)]
        until = time.monotonic() + seconds
        writing = asyncio.gather(
            *(_write(database, random.Random(f"{seed}/{n}"), n, until) for n in range(WRITERS))
        )
        kills = 0
        while not writing.done():
            await asyncio.wait({writing}, timeout=chance.uniform(0.1, 0.8))
            if not writing.done():
                victim = chance.randrange(2)
                await evaluators[victim].kill()
                kills += 1
                evaluators[victim] = await start()
        stories = await writing
        expected = set().union(*(shop.firing_events(steps) for steps in stories))
        await _until_evaluated(looking)
        fired = await shop.events_with_runs(looking)
        assert len(fired) == len(set(fired)), "a firing made two runs"
        assert set(fired) == expected, "the runs are not those of the model"
        return sum(map(len, stories)), kills


async def _write(
    database: Database, chance: random.Random, writer: int, until: float
) -> list[shop.Step]:
    conn = await database.connect()
    users = [f"{writer}-{user}" for user in range(USERS_EACH)]
    written: list[shop.Step] = []
    try:
        while time.monotonic() < until:
            steps = shop.story(chance, users=users, length=chance.randint(1, 20))
            await shop.append_slowly(conn, steps, open_seconds=0)
            written += steps
        return written
    finally:
        await conn.close()


async def _until_evaluated(conn: asyncpg.Connection) -> None:
    """Wait for the evaluator to pass all there is; it tells nobody, so look again."""
    unread = (
        "SELECT EXISTS (SELECT FROM events LEFT JOIN cursors ON true WHERE cursors.name IS NULL "
        "OR page_snapshot IS NOT NULL OR NOT pg_visible_in_snapshot(xid, snapshot))"
    )
    async with asyncio.timeout(60):
        while await conn.fetchval(unread):
            await conn.execute("SELECT pg_sleep(0.1)")
