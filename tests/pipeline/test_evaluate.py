"""The evaluator on a real Postgres: what holds where in the log, and what a batch writes."""

import random
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from tests.proofs import shop
from tests.proofs.shop import COMPLETE, CREATED, Step, new_id
from upshot.pipeline.evaluate import CursorMoved, Evaluator
from upshot.storage import log, partitions, triggers
from upshot.storage.database import Database

pytestmark = pytest.mark.anyio

RETENTION = timedelta(days=90)
DOCUMENT: dict[str, Any] = {"type": "event", "deployment": "d", "enabled": True, **shop.SHOP}


@pytest.fixture
async def reading(database: Database) -> AsyncIterator[asyncpg.Connection]:
    conn = await database.connect(**log.READER_SETTINGS)
    await partitions.ensure_partitions(conn)
    yield conn
    await conn.close()


async def post(conn: asyncpg.Connection, *story: tuple[str, str]) -> list[UUID]:
    """Append events, (name, user) each; answers their ids."""
    steps = [Step(id=new_id(), name=name, user=user) for name, user in story]
    await shop.append_slowly(conn, steps, open_seconds=0)
    return [step.id for step in steps]


async def fired(reading: asyncpg.Connection) -> list[UUID]:
    """Evaluate all there is; answers the events of all runs so far."""
    evaluator = await Evaluator.load(reading, key_retention=RETENTION)
    while (await evaluator.turn()).events:
        pass
    return await shop.events_with_runs(reading)


async def save(
    database: Database, trigger: triggers.StoredTrigger, *, keys: triggers.Keys, **changed: Any
) -> triggers.StoredTrigger:
    """The trigger's next version, as the API saves it."""
    async with database.begin() as conn:
        saved = await triggers.replace(
            conn, trigger.id, name=trigger.name, document={**DOCUMENT, **changed}
        )
        await triggers.append_saved(conn, saved, keys=keys, condition_changed=True)
    return saved


async def registered(database: Database) -> triggers.StoredTrigger:
    await shop.register(database, **shop.SHOP)
    async with database.begin() as conn:
        trigger = await triggers.load(conn, "t")
    assert trigger is not None
    return trigger


async def test_a_trigger_sees_what_is_posted_after_it_and_nothing_from_before(
    database: Database, conn: asyncpg.Connection, reading: asyncpg.Connection
) -> None:
    await post(conn, (CREATED, "1"))
    await registered(database)
    (_, expected) = await post(conn, (CREATED, "2"), (COMPLETE, "2"))
    await post(conn, (COMPLETE, "1"))
    assert await fired(reading) == [expected]


async def test_a_backlog_is_judged_by_what_held_when_it_was_posted(
    database: Database, conn: asyncpg.Connection, reading: asyncpg.Connection
) -> None:
    trigger = await registered(database)
    (_, first) = await post(conn, (CREATED, "1"), (COMPLETE, "1"))
    disabled = await save(database, trigger, keys="keep", enabled=False)
    await post(conn, (CREATED, "2"), (COMPLETE, "2"))
    await save(database, disabled, keys="keep", enabled=True)
    (_, last) = await post(conn, (CREATED, "3"), (COMPLETE, "3"))
    assert await fired(reading) == [first, last]


async def test_keys_stay_open_while_a_trigger_is_disabled(
    database: Database, conn: asyncpg.Connection, reading: asyncpg.Connection
) -> None:
    trigger = await registered(database)
    await post(conn, (CREATED, "1"))
    disabled = await save(database, trigger, keys="keep", enabled=False)
    await save(database, disabled, keys="keep", enabled=True)
    (expected,) = await post(conn, (COMPLETE, "1"))
    assert await fired(reading) == [expected]


async def test_a_change_that_forgets_closes_the_open_keys_and_one_that_keeps_does_not(
    database: Database, conn: asyncpg.Connection, reading: asyncpg.Connection
) -> None:
    trigger = await registered(database)
    await post(conn, (CREATED, "1"))
    kept = await save(database, trigger, keys="keep", description="another")
    (expected,) = await post(conn, (COMPLETE, "1"))
    await post(conn, (CREATED, "2"))
    await save(database, kept, keys="forget", threshold=1, expect=[COMPLETE, "x"])
    await post(conn, (COMPLETE, "2"))
    assert await fired(reading) == [expected]


async def test_a_deleted_trigger_takes_its_keys_with_it(
    database: Database, conn: asyncpg.Connection, reading: asyncpg.Connection
) -> None:
    trigger = await registered(database)
    await post(conn, (CREATED, "1"))
    async with database.begin() as changing:
        await triggers.append_deleted(changing, trigger)
        await triggers.remove(changing, trigger.id)
    await post(conn, (COMPLETE, "1"))
    assert await fired(reading) == []
    assert await conn.fetchval("SELECT count(*) FROM windows") == 0
    assert await conn.fetchval("SELECT count(*) FROM triggers_in_force") == 0


async def test_an_older_version_read_after_a_newer_one_changes_nothing(
    database: Database, conn: asyncpg.Connection, reading: asyncpg.Connection
) -> None:
    trigger = await registered(database)
    newer = await save(database, trigger, keys="keep", description="newer")
    async with database.begin() as changing:
        await triggers.append_saved(changing, trigger, keys="forget", condition_changed=True)
    await post(conn, (CREATED, "1"), (COMPLETE, "1"))
    await fired(reading)
    assert await conn.fetchval("SELECT version FROM triggers_in_force") == newer.version
    assert await conn.fetchval("SELECT trigger_version FROM runs") == newer.version


async def test_of_a_key_that_has_fired_only_what_closed_it_is_remembered(
    database: Database, conn: asyncpg.Connection, reading: asyncpg.Connection
) -> None:
    await registered(database)
    await post(conn, (CREATED, "1"), (COMPLETE, "1"))
    assert len(await fired(reading)) == 1
    row = await reading.fetchrow("SELECT started_at, deadline_at, state FROM windows")
    assert row["started_at"] is row["deadline_at"] is None
    assert len(row["state"]) < 80


async def test_batches_cut_anywhere_make_the_same_runs(
    database: Database, conn: asyncpg.Connection, reading: asyncpg.Connection
) -> None:
    await registered(database)
    chance = random.Random(7)
    steps = shop.story(chance, users=["1", "2", "3", "4"], length=300)
    for start in range(0, len(steps), 20):
        await shop.append_slowly(conn, steps[start : start + 20], open_seconds=0)
    evaluator = await Evaluator.load(reading, key_retention=RETENTION)
    while (
        await evaluator.turn(events_max=chance.randint(1, 30), part_max=chance.randint(1, 10))
    ).events:
        # As good as a restart: what is held in memory is read again.
        evaluator = await Evaluator.load(reading, key_retention=RETENTION)
    fired_by = await shop.events_with_runs(reading)
    assert len(fired_by) == len(set(fired_by))
    assert set(fired_by) == shop.firing_events(steps)


async def test_a_page_that_is_just_full_is_not_the_end_of_the_log(
    database: Database, conn: asyncpg.Connection, reading: asyncpg.Connection
) -> None:
    await registered(database)
    evaluator = await Evaluator.load(reading, key_retention=RETENTION)
    while (await evaluator.turn()).events:
        pass
    await post(conn, (CREATED, "1"))
    assert (await evaluator.turn(events_max=1)).is_behind
    assert (await evaluator.turn(events_max=1)).events == 0
    (expected,) = await post(conn, (COMPLETE, "1"))
    await evaluator.turn(events_max=1)
    assert await shop.events_with_runs(reading) == [expected]


async def test_of_two_evaluators_the_second_to_commit_saves_nothing(
    database: Database, conn: asyncpg.Connection, reading: asyncpg.Connection
) -> None:
    await registered(database)
    other = await database.connect()
    first = await Evaluator.load(reading, key_retention=RETENTION)
    second = await Evaluator.load(other, key_retention=RETENTION)
    await post(conn, (CREATED, "1"), (COMPLETE, "1"))
    await first.turn()
    with pytest.raises((CursorMoved, asyncpg.UniqueViolationError)):
        await second.turn()
    assert len(await shop.events_with_runs(conn)) == 1
    await other.close()


async def test_a_trigger_of_a_deployment_that_is_gone_makes_a_failed_run_that_says_so(
    database: Database, conn: asyncpg.Connection, reading: asyncpg.Connection
) -> None:
    trigger = await registered(database)
    await save(database, trigger, keys="keep")
    await conn.execute("ALTER TABLE triggers DROP CONSTRAINT triggers_deployment_fkey")
    await conn.execute("DELETE FROM deployments")
    await post(conn, (CREATED, "1"), (COMPLETE, "1"))
    await fired(reading)
    run = await conn.fetchrow("SELECT state, error FROM runs")
    assert (run["state"], run["error"]) == ("failed", "There is no deployment 'd'.")
    assert await conn.fetchval("SELECT count(*) FROM run_queue") == 0


async def test_a_trigger_that_can_no_longer_be_read_is_set_aside_and_the_rest_goes_on(
    database: Database, conn: asyncpg.Connection, reading: asyncpg.Connection
) -> None:
    await registered(database)
    async with database.begin() as changing:
        broken = await triggers.create(
            changing, trigger_id=uuid4(), name="broken", document={**DOCUMENT, "threshold": 0}
        )
        assert broken is not None
        await triggers.append_saved(changing, broken, keys="forget", condition_changed=True)
    (_, expected) = await post(conn, (CREATED, "1"), (COMPLETE, "1"))
    assert await fired(reading) == [expected]
    assert "threshold" in await conn.fetchval("SELECT error FROM evaluation_errors")


async def test_a_change_that_the_database_refuses_is_set_aside_and_the_rest_goes_on(
    database: Database, conn: asyncpg.Connection, reading: asyncpg.Connection
) -> None:
    trigger = await registered(database)
    evaluator = await Evaluator.load(reading, key_retention=RETENTION)
    await evaluator.turn()
    await conn.execute("ALTER TABLE triggers_in_force ADD CHECK (version <> 2)")
    await save(database, trigger, keys="keep", description="cursed")
    (_, expected) = await post(conn, (CREATED, "1"), (COMPLETE, "1"))
    with pytest.raises(asyncpg.CheckViolationError):
        await evaluator.turn()
    evaluator = await Evaluator.load(reading, key_retention=RETENTION)
    progress = await evaluator.turn(carefully=True)
    assert progress.set_aside == 1
    assert await shop.events_with_runs(reading) == [expected]
