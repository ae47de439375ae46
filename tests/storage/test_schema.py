"""The migrations make the schema that the code is written for."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from importlib.resources import as_file, files
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql.base import ischema_names

from tests.conftest import address_of
from upshot.core.windows import AfterWindow, Counting, Opened, Seen, decode_window
from upshot.storage.database import Database, WrongDatabase
from upshot.storage.schema import PgSnapshot, Xid8, metadata

pytestmark = pytest.mark.anyio


async def test_the_migrations_make_the_tables_of_the_schema(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Types of Postgres that SQLAlchemy does not know by itself.
    monkeypatch.setitem(ischema_names, "xid8", Xid8)
    monkeypatch.setitem(ischema_names, "pg_snapshot", PgSnapshot)

    def differences(conn: Connection) -> list[object]:
        known = set(metadata.tables)
        context = MigrationContext.configure(
            conn,
            opts={
                "compare_type": True,
                "include_object": lambda _object, name, kind, _reflected, _other: (
                    kind != "table" or name in known
                ),
            },
        )
        return list(compare_metadata(context, metadata))

    async with database.engine.connect() as conn:
        assert await conn.run_sync(differences) == []


async def test_migrating_again_changes_nothing(database: Database) -> None:
    assert await database.is_migrated()
    await database.migrate()
    assert await database.is_migrated()


async def test_a_database_without_a_schema_has_no_revision(postgres: str) -> None:
    database = Database(lambda: address_of(postgres, "postgres"))
    assert await database.revision() is None
    assert not await database.is_migrated()
    await database.close()


async def test_the_newest_revision_is_the_one_that_alembic_finds(database: Database) -> None:
    with as_file(files("upshot") / "migrations") as location:
        head = ScriptDirectory(str(location)).get_current_head()
    assert await database.revision() == head


async def test_a_schema_of_a_newer_version_is_left_alone(at_0001: Database) -> None:
    conn = await at_0001.connect()
    await conn.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(WrongDatabase, match="schema 9999, which this version does not know"):
        await at_0001.migrate()
    await conn.close()


async def test_commits_are_durable_whatever_the_clusters_defaults(
    database: Database, conn: asyncpg.Connection
) -> None:
    name = await conn.fetchval("SELECT current_database()")
    await conn.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    await conn.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
    ours = await database.connect()
    assert await ours.fetchval("SHOW synchronous_commit") == "on"
    assert await ours.fetchval("SHOW transaction_isolation") == "read committed"
    await ours.close()
    await conn.execute(f"ALTER DATABASE {name} RESET ALL")


@pytest.fixture
async def at_0001(postgres: str) -> AsyncIterator[Database]:
    """A database at the schema of the first version."""
    name = f"old_{uuid4().hex}"
    server = await asyncpg.connect(postgres)
    await server.execute(f"CREATE DATABASE {name}")
    database = Database(lambda: address_of(postgres, name))
    async with database.engine.begin() as conn:
        await conn.run_sync(lambda sync: upgrade(sync, to="0001"))
    yield database
    await database.close()
    await server.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await server.close()


def upgrade(connection: Connection, *, to: str) -> None:
    with as_file(files("upshot") / "migrations") as location:
        config = Config()
        config.set_main_option("script_location", str(location))
        config.attributes["connection"] = connection
        command.upgrade(config, to)


async def test_open_windows_of_the_first_version_get_their_times(at_0001: Database) -> None:
    started, ends = datetime(2026, 1, 31, 12, 0, 0, 5, UTC), datetime(2026, 1, 31, 13, tzinfo=UTC)
    seen = [uuid4().hex, microseconds(started)]
    later = [uuid4().hex, microseconds(started) + 1]
    states = {
        1: ["opened", seen, microseconds(ends), 0, []],
        2: ["opened", seen, None, 1, [later]],
        3: ["counting", 2, [seen, later], None],
        4: ["counting", 0, [], microseconds(ends)],
    }
    conn = await at_0001.connect()
    await conn.executemany(
        "INSERT INTO windows VALUES ($1, $2, now(), '[\"1\"]', $3)",
        [(number, UUID(int=number), json.dumps(state)) for number, state in states.items()],
    )
    await at_0001.migrate()
    rows = await conn.fetch("SELECT * FROM windows ORDER BY trigger_number")
    assert [(row["started_at"], row["deadline_at"]) for row in rows] == [
        (started, ends),
        (started, None),
        (started, None),
        (None, ends),
    ]
    assert [(row["trigger_number"], row["key_hash"], row["key"]) for row in rows] == [
        (number, UUID(int=number), '["1"]') for number in states
    ]
    assert {(row["node"], row["alarms"]) for row in rows} == {(0, False)}
    opener = Seen(UUID(hex=str(seen[0])), started, started, True, False, None)
    one, two = (
        Seen(UUID(hex=str(event_id)), started + more, started + more, False, True, None)
        for event_id, more in ((seen[0], NOTHING), (later[0], timedelta(microseconds=1)))
    )
    assert [decode_window(row["state"]) for row in rows] == [
        AfterWindow(opened=Opened(opener, ends)),
        AfterWindow(opened=Opened(opener, None, None, (two,))),
        Counting(counted=(one, two)),
        Counting(quiet_until=ends),
    ]
    await conn.close()


async def test_events_kept_with_a_window_of_the_first_version_stay_with_it(
    at_0001: Database,
) -> None:
    event_id = uuid4()
    fields = ["a", {"id": "1"}, [{"role": "r"}], '{"x": 1}', 1, 2, None]
    state = ["opened", [event_id.hex, 1, fields], None, 0, []]
    conn = await at_0001.connect()
    await conn.execute(
        "INSERT INTO windows VALUES (1, $1, now(), '[]', $2)", uuid4(), json.dumps(state)
    )
    await at_0001.migrate()
    window = decode_window(await conn.fetchval("SELECT state FROM windows"))
    assert isinstance(window, AfterWindow)
    assert window.opened is not None
    event = window.opened.opener.event
    assert event is not None
    assert (event.id, event.name, event.payload) == (event_id, "a", '{"x": 1}')
    assert event.received_at - event.occurred_at == timedelta(microseconds=1)
    await conn.close()


async def test_more_windows_are_converted_than_are_read_at_once(at_0001: Database) -> None:
    conn = await at_0001.connect()
    state: list[Any] = ["opened", [uuid4().hex, 0], None, 0, []]
    await conn.execute(
        "INSERT INTO windows SELECT 1 + n / 6000, md5(n::text)::uuid, now(), '[]', $1 "
        "FROM generate_series(1, 12000) AS n",
        json.dumps(state),
    )
    await at_0001.migrate()
    assert await conn.fetchval("SELECT count(*) FROM windows WHERE started_at = 'epoch'") == 12_000
    await conn.close()


NOTHING = timedelta(0)


def microseconds(at: datetime) -> int:
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
