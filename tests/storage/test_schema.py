"""The migrations make the schema that the code is written for."""

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql.base import ischema_names

from upshot.storage.database import Database
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
