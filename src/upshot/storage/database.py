"""The way to Postgres: connections for hot paths, an engine for the rest, migrations."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.resources import as_file, files

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from upshot.core.errors import UpshotError

CONNECT_SECONDS_MAX = 5.0
STATEMENT_SECONDS_MAX = 30.0
POOL_CONNECTIONS_MAX = 8
_MIGRATING = 0x7570_7368  # the advisory lock of whoever migrates: "upsh"

AWAY = (
    OSError,
    asyncio.TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.PostgresSystemError,
)
"""What a database answers with that is away, starting, stopping or out of room. Nobody's row is at
fault, and it is worth trying again."""

REFUSED = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
)
"""What a database answers with that refuses what it is given, and would again. Only these may make
anybody look for the one row at fault."""


def is_away(error: BaseException) -> bool:
    """Whether this is one of `AWAY`, or what SQLAlchemy made of one."""
    return isinstance(error, AWAY) or (
        isinstance(error, DBAPIError) and isinstance(error.orig and error.orig.__cause__, AWAY)
    )


def reason_of(error: BaseException) -> str:
    """What went wrong, without Postgres' DETAIL: that shows rows, which do not belong into logs."""
    if isinstance(error, asyncpg.PostgresError) and error.args:
        return str(error.args[0])
    return str(error) or type(error).__name__


class WrongDatabase(UpshotError):
    """The database is reachable and is not one that this version can work with."""


class Database:
    """One Postgres database. `url` gives its address each time a connection is made."""

    def __init__(self, url: Callable[[], str]) -> None:
        self._url = url
        self.engine: AsyncEngine = create_async_engine(
            "postgresql+asyncpg://",
            async_creator=self.connect,
            pool_size=POOL_CONNECTIONS_MAX,
            max_overflow=0,
            pool_timeout=CONNECT_SECONDS_MAX,
            pool_pre_ping=True,
        )

    async def connect(self, **server_settings: str) -> asyncpg.Connection:
        """A connection of one's own. It talks UTC and calls itself `upshot`."""
        return await asyncpg.connect(
            _for_asyncpg(self._url()),
            timeout=CONNECT_SECONDS_MAX,
            command_timeout=STATEMENT_SECONDS_MAX,
            server_settings={
                "application_name": "upshot",
                "timezone": "UTC",
                "jit": "off",
                # What is promised does not depend on the cluster's defaults: a commit is on disk
                # before it is acknowledged, and each statement sees what is committed by then.
                "synchronous_commit": "on",
                "default_transaction_isolation": "read committed",
                # The log is read in the order of its index; a parallel plan would mix it.
                "max_parallel_workers_per_gather": "0",
                **server_settings,
            },
        )

    def begin(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """A pooled connection in a transaction that commits at the end of the block."""
        return self.engine.begin()

    @asynccontextmanager
    async def driver(self) -> AsyncIterator[asyncpg.Connection]:
        """A pooled connection as asyncpg has it, which knows no transactions but asyncpg's own.

        JSON is decoded on it already, where it is not asked for as text.
        """
        async with self.engine.connect() as conn:
            yield (await conn.get_raw_connection()).driver_connection

    async def migrate(self) -> None:
        """Bring the schema to this version's. Safe to call from several processes at once."""
        async with self.engine.connect() as conn:
            await conn.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _MIGRATING})
            await conn.commit()
            try:
                await conn.run_sync(_upgrade)
                await conn.commit()
            finally:
                await conn.rollback()
                await conn.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _MIGRATING})

    async def is_migrated(self) -> bool:
        """Whether the schema is exactly this version's."""
        async with self.engine.connect() as conn:
            return await conn.run_sync(lambda sync: _current(sync) == _head())

    async def close(self) -> None:
        await self.engine.dispose()


def _for_asyncpg(url: str) -> str:
    """SQLAlchemy's and Heroku's spellings of the scheme are understood too."""
    scheme, _, rest = url.partition("://")
    if scheme.split("+")[0] not in ("postgres", "postgresql") or not rest:
        raise WrongDatabase(
            f"UPSHOT_DATABASE_URL begins with {scheme!r}; "
            "write postgresql://user:password@host:5432/database."
        )
    return f"postgresql://{rest}"


def _config(location: str) -> Config:
    config = Config()
    config.set_main_option("script_location", location)
    return config


def _upgrade(connection: Connection) -> None:
    with as_file(files("upshot") / "migrations") as location:
        config = _config(str(location))
        revision = _current(connection)
        known = {script.revision for script in ScriptDirectory(str(location)).walk_revisions()}
        if revision is not None and revision not in known:
            raise WrongDatabase(
                f"The database is at schema {revision}, which this version does not know. "
                "It was migrated by a newer Upshot: run that version."
            )
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _current(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _head() -> str | None:
    with as_file(files("upshot") / "migrations") as location:
        return ScriptDirectory(str(location)).get_current_head()


def without_password(url: str) -> str:
    """The address as it may be shown."""
    return make_url(url).render_as_string(hide_password=True)
