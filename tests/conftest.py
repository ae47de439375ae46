"""One embedded Postgres for the whole run, and a migrated database of its own for each test."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from upshot.storage import embedded
from upshot.storage.database import Database

TEMPLATE = "upshot_template"


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of a Postgres, without the database's name: UPSHOT_TEST_POSTGRES or our own."""
    given = os.environ.get("UPSHOT_TEST_POSTGRES")
    if given:
        yield given
        return
    data_dir = Path(tempfile.mkdtemp(prefix="upshot-test-"))
    data_dir.chmod(0o755)
    running = embedded.start(data_dir)
    try:
        yield running.url
    finally:
        running.close()
        shutil.rmtree(data_dir, ignore_errors=True)


@pytest.fixture(scope="session")
def template(postgres: str) -> str:
    """The name of a database that has the schema, to be cloned."""

    async def make() -> None:
        await _execute(
            postgres, f"DROP DATABASE IF EXISTS {TEMPLATE}", f"CREATE DATABASE {TEMPLATE}"
        )
        database = Database(lambda: address_of(postgres, TEMPLATE))
        await database.migrate()
        await database.close()

    asyncio.run(make())
    return TEMPLATE


@pytest.fixture
def database_url(postgres: str, template: str) -> Iterator[str]:
    """The address of an empty database of this version's schema."""
    name = f"test_{uuid4().hex}"
    asyncio.run(
        _execute(postgres, f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
    )
    yield address_of(postgres, name)
    asyncio.run(_execute(postgres, f"DROP DATABASE {name} WITH (FORCE)"))


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


def address_of(postgres: str, name: str) -> str:
    """The same server's database of that name."""
    before, _, options = postgres.partition("?")
    return f"{before.rsplit('/', 1)[0]}/{name}{'?' + options if options else ''}"


async def _execute(postgres: str, *statements: str) -> None:
    conn = await asyncpg.connect(postgres)
    try:
        for statement in statements:
            await conn.execute(statement)
    finally:
        await conn.close()
