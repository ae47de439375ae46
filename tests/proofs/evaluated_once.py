"""Every event is evaluated once, whatever the commit order of concurrent writers."""

import asyncio
import random
from datetime import timedelta

from tests.proofs import shop
from upshot.pipeline.evaluate import Evaluator
from upshot.storage import partitions
from upshot.storage.database import Database

WRITERS = 16
OPEN_SECONDS_MAX = 0.02


async def prove(database: Database, *, posts_each: int, seed: int) -> int:
    """Sixteen writers, a fifth of their transactions held open, one foreign transaction throughout.

    A trigger fires for every event, so runs count evaluations. Answers the number of events.
    """
    foreign, evaluating, looking = [await database.connect() for _ in range(3)]
    try:
        await partitions.ensure_partitions(looking)
        await shop.register(database, **shop.EVERY_EVENT)
        await foreign.execute("BEGIN")
        await foreign.fetchval("SELECT pg_current_xact_id()")
        writing = asyncio.gather(
            *(
                _write(database, random.Random(f"{seed}/{writer}"), posts=posts_each)
                for writer in range(WRITERS)
            )
        )
        written: list[list[shop.Step]] = []
        evaluator = await Evaluator.load(evaluating, key_retention=timedelta(days=90))
        chance, idle = random.Random(seed), 0
        while not (writing.done() and idle):
            progress = await evaluator.turn(
                events_max=chance.choice((7, 50, 500)), part_max=chance.choice((3, 20, 500))
            )
            idle = 0 if progress.events else idle + 1
        written = await writing
        await foreign.execute("ROLLBACK")
        events = {step.id for steps in written for step in steps}
        evaluated = await shop.events_with_runs(looking)
        assert len(evaluated) == len(set(evaluated)), "an event was evaluated twice"
        assert set(evaluated) == events, "an event was not evaluated"
        return len(events)
    finally:
        for conn in (foreign, evaluating, looking):
            await conn.close()


async def _write(database: Database, chance: random.Random, *, posts: int) -> list[shop.Step]:
    conn = await database.connect()
    written = []
    try:
        for _ in range(posts):
            steps = shop.story(chance, users=["1", "2", "3"], length=chance.randint(1, 5))
            lingers = chance.random() < 0.2
            await shop.append_slowly(
                conn, steps, open_seconds=chance.uniform(0, OPEN_SECONDS_MAX) if lingers else 0
            )
            written += steps
        return written
    finally:
        await conn.close()
