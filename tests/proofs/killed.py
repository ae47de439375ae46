"""State, runs and cursor move together: evaluators killed again and again make the same runs."""

import asyncio
import random
from contextlib import AsyncExitStack

import asyncpg

from tests.e2e.server import Server, serving
from tests.proofs import shop
from upshot.storage import partitions
from upshot.storage.database import Database

WRITERS = 4
USERS_EACH = 20


async def prove(database: Database, url: str, *, events: int, kills: int, seed: int) -> int:
    """Two evaluator processes, one of them killed now and then, while four writers tell stories.

    Each user's events come from one writer that waits for each commit, so their order is known and
    a sequential model says which of them fire. Answers how many events there were: `events` or
    more, since the writers go on until the last of the kills.
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
        last_kill = asyncio.Event()
        writing = asyncio.gather(
            *(
                _write(
                    database,
                    random.Random(f"{seed}/{n}"),
                    n,
                    events=events // WRITERS,
                    and_until=last_kill,
                )
                for n in range(WRITERS)
            )
        )
        for _ in range(kills):
            await asyncio.wait({writing}, timeout=chance.uniform(0.1, 0.8))
            victim = chance.randrange(2)
            await evaluators[victim].kill()
            evaluators[victim] = await start()
        last_kill.set()
        stories = await writing
        expected = set().union(*(shop.firing_events(steps) for steps in stories))
        await _until_evaluated(looking)
        fired = await shop.events_with_runs(looking)
        assert len(fired) == len(set(fired)), "a firing made two runs"
        assert set(fired) == expected, "the runs are not those of the model"
        return sum(map(len, stories))


async def _write(
    database: Database,
    chance: random.Random,
    writer: int,
    *,
    events: int,
    and_until: asyncio.Event,
) -> list[shop.Step]:
    conn = await database.connect()
    users = [f"{writer}-{user}" for user in range(USERS_EACH)]
    written: list[shop.Step] = []
    try:
        while len(written) < events or not and_until.is_set():
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
