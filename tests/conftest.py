"""An embedded Postgres for each process of a run, and a migrated database for each test."""

import asyncio
import os
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from upshot.storage import embedded, partitions
from upshot.storage.database import Database
from upshot.storage.embedded.accounts import account_for

WORKERS_MAX = 8
UUIDS = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
TEMPLATE = f"upshot_template_{os.environ.get('PYTEST_XDIST_WORKER', '')}"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """More than there are processors, since a test waits for half of its time."""
    return min(3 * (os.cpu_count() or 1) // 2, WORKERS_MAX)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    """Root's first Postgres makes the user that it runs as, which only one process can."""
    with tempfile.TemporaryDirectory() as folder:
        account_for(Path(folder))


def pytest_make_parametrize_id(val: object) -> str | None:
    """Every process has to call a case by the same name, also one about an id that was made up."""
    return UUIDS.sub("uuid", val) if isinstance(val, str) and UUIDS.search(val) else None


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """What a test has logged may be any text; reports go from process to process as UTF-8."""
    return _encodable((yield))


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of a Postgres, without the database's name: UPSHOT_TEST_POSTGRES or our own.

    One that is given is shared, and should take a hundred connections of each process.
    """
    given = os.environ.get("UPSHOT_TEST_POSTGRES")
    if given:
        yield given
        return
    data_dir = Path(tempfile.mkdtemp(prefix="upshot-test-"))
    data_dir.chmod(0o755)
    running = embedded.start(data_dir)
    asyncio.run(_do_without_fsync(running.url))
    try:
        yield running.url
    finally:
        running.close()
        shutil.rmtree(data_dir, ignore_errors=True)


@pytest.fixture(scope="session")
def databases(postgres: str) -> "Databases":
    databases = Databases(postgres)
    asyncio.run(databases.make_template())
    return databases


@pytest.fixture
def database_url(databases: "Databases") -> Iterator[str]:
    """The address of an empty database of this version's schema, with today's partitions."""
    name = asyncio.run(databases.take())
    yield address_of(databases.postgres, name)
    asyncio.run(databases.give_back(name))


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(lambda: database_url)
    yield database
    await database.close()


@pytest.fixture
async def conn(database: Database) -> AsyncIterator[asyncpg.Connection]:
    conn = await database.connect()
    yield conn
    await conn.close()


class Databases:
    """Clones of a migrated database. One whose schema a test has left alone is emptied and reused,
    which takes a tenth of the time that making another does."""

    # What the schema is made of; whoever adds, drops or alters something changes it.
    _SHAPE = """
        SELECT md5(string_agg(item, ',' ORDER BY item)) FROM (
            SELECT c.relname || a.attname || a.atttypid || a.attnotnull
              FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
             WHERE c.relnamespace = 'public'::regnamespace AND a.attnum > 0
            UNION ALL SELECT conname || conrelid FROM pg_constraint
            UNION ALL SELECT inhrelid::text || inhdetachpending FROM pg_inherits
            UNION ALL SELECT tgname FROM pg_trigger
        ) AS items (item)
    """

    # To truncate a table that nobody has used takes as long as one that is full, and most are not.
    _USED = """
        SELECT oid::regclass::text AS name FROM pg_class
         WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
           AND relname <> 'alembic_version' AND (pg_relation_size(oid) > 0 OR reltuples >= 0)
    """
    _RESTART_SEQUENCES = """
        SELECT setval(format('%I', sequencename)::regclass, start_value, false)
          FROM pg_sequences WHERE schemaname = 'public' AND last_value IS NOT NULL
    """

    def __init__(self, postgres: str) -> None:
        self.postgres = postgres
        self._idle: list[str] = []
        self._shapes: dict[str, str] = {}

    async def make_template(self) -> None:
        await self._in_postgres(
            f"DROP DATABASE IF EXISTS {TEMPLATE}", f"CREATE DATABASE {TEMPLATE}"
        )
        database = Database(lambda: address_of(self.postgres, TEMPLATE))
        await database.migrate()
        conn = await database.connect()
        await partitions.ensure_partitions(conn)
        await conn.close()
        await database.close()

    async def take(self) -> str:
        if self._idle:
            return self._idle.pop()
        name = f"test_{uuid4().hex}"
        await self._in_postgres(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
        conn = await asyncpg.connect(address_of(self.postgres, name))
        self._shapes[name] = await conn.fetchval(self._SHAPE)
        await conn.close()
        return name

    async def give_back(self, name: str) -> None:
        conn = await asyncpg.connect(address_of(self.postgres, name))
        try:
            await conn.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            is_as_it_was = await conn.fetchval(self._SHAPE) == self._shapes[name]
            if is_as_it_was:
                used = [row["name"] for row in await conn.fetch(self._USED)]
                if used:
                    await conn.execute(f"TRUNCATE {', '.join(used)} CASCADE")
                await conn.execute(self._RESTART_SEQUENCES)
        finally:
            await conn.close()
        if is_as_it_was:
            self._idle.append(name)
        else:
            await self._in_postgres(f"DROP DATABASE {name} WITH (FORCE)")

    async def _in_postgres(self, *statements: str) -> None:
        conn = await asyncpg.connect(self.postgres)
        try:
            for statement in statements:
                await conn.execute(statement)
        finally:
            await conn.close()


def address_of(postgres: str, name: str) -> str:
    """The same server's database of that name."""
    before, _, options = postgres.partition("?")
    return f"{before.rsplit('/', 1)[0]}/{name}{'?' + options if options else ''}"


async def _do_without_fsync(postgres: str) -> None:
    """Tests kill processes, and none pulls the machine's plug."""
    conn = await asyncpg.connect(postgres)
    await conn.execute("ALTER SYSTEM SET fsync = off")
    await conn.execute("SELECT pg_reload_conf()")
    await conn.close()


def _encodable(value: Any) -> Any:
    match value:
        case str():
            return value.encode(errors="backslashreplace").decode()
        case list() | tuple():
            return type(value)(map(_encodable, value))
        case dict():
            return {name: _encodable(one) for name, one in value.items()}
        case _:
            return value
