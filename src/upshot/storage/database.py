"""The way to Postgres: connections for hot paths, an engine for the rest, migrations."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.resources import files

import asyncpg
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from upshot.core.errors import UpshotError
from upshot.core.limits import BACKTESTS_AT_ONCE_MAX
from upshot.storage.log import READER_SETTINGS

CONNECT_SECONDS_MAX = 5.0
STATEMENT_SECONDS_MAX = 30.0
POOL_CONNECTIONS_MAX = 8
READER_KEPT_SECONDS = 5.0
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
        self._readers: asyncpg.Pool | None = None

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

    @asynccontextmanager
    async def reader(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection that reads the log, kept for a moment: who asks for page after page finds
        it again, with its plans.
        """
        if self._readers is None:
            self._readers = asyncpg.create_pool(
                connect=lambda *_, **__: self.connect(**READER_SETTINGS),
                min_size=0,
                max_size=BACKTESTS_AT_ONCE_MAX,
                max_inactive_connection_lifetime=READER_KEPT_SECONDS,
                reset=_left_as_it_was,
            )
            await self._readers
        async with self._readers.acquire() as conn:
            yield conn

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
        if await self.is_migrated():
            return
        async with self.engine.connect() as conn:
            await conn.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _MIGRATING})
            await conn.commit()
            try:
                await self._upgrade(conn)
            finally:
                await conn.rollback()
                await conn.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _MIGRATING})

    async def _upgrade(self, conn: AsyncConnection) -> None:
        if await self.is_migrated():
            return  # by another process, meanwhile
        # Alembic is much to import, and seldom needed.
        from upshot.storage.migrating import upgrade

        await conn.run_sync(upgrade)
        await conn.commit()

    async def is_migrated(self) -> bool:
        """Whether the schema is exactly this version's."""
        return await self.revision() == _newest_revision()

    async def revision(self) -> str | None:
        """Of the schema; None: there is none yet."""
        async with self.driver() as conn:
            try:
                revision: str | None = await conn.fetchval(
                    "SELECT version_num FROM alembic_version"
                )
            except asyncpg.UndefinedTableError:
                return None
            return revision

    async def close(self) -> None:
        if self._readers is not None:
            self._readers.terminate()
        await self.engine.dispose()


async def _left_as_it_was(_: asyncpg.Connection) -> None:
    """Who only reads changes no setting and takes no lock: there is nothing to ask for again."""


def _for_asyncpg(url: str) -> str:
    """SQLAlchemy's and Heroku's spellings of the scheme are understood too."""
    scheme, _, rest = url.partition("://")
    if scheme.split("+")[0] not in ("postgres", "postgresql") or not rest:
        raise WrongDatabase(
            f"UPSHOT_DATABASE_URL begins with {scheme!r}; "
            "write postgresql://user:password@host:5432/database."
        )
    return f"postgresql://{rest}"


def _newest_revision() -> str:
    """That of the last file of migrations, whose name begins with it."""
    versions = files("upshot") / "migrations" / "versions"
    return max(one.name for one in versions.iterdir() if one.name[0].isdigit()).partition("_")[0]


def without_password(url: str) -> str:
    """The address as it may be shown."""
    return make_url(url).render_as_string(hide_password=True)
