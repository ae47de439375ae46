"""Commands that work on the database itself, with or without a server: `migrate`, `rebase`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import typer
from alembic.runtime.migration import MigrationContext
from sqlalchemy.exc import DBAPIError

from upshot.cli.options import AsJson
from upshot.cli.output import print_json
from upshot.core.errors import UpshotError
from upshot.settings import Settings
from upshot.storage import embedded
from upshot.storage.database import AWAY, Database, without_password
from upshot.storage.rebase import rebase as rebase_log


class DatabaseUnusable(UpshotError):
    """The database cannot be reached, or is not ready for this."""


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Database]:
    """The database that the settings name, whatever schema it has.

    Raises:
        DatabaseUnusable: it does not answer, or refuses what is asked of it.
    """
    url, own = _url_of(settings), None
    if url is None:
        own = await asyncio.to_thread(embedded.start, settings.data_dir)
        url = own.url
    address = url
    database = Database(lambda: address)
    try:
        yield database
    except (*AWAY, asyncpg.PostgresError, DBAPIError) as error:
        cause = getattr(error, "orig", None) or error
        raise DatabaseUnusable(
            f"The database {_shown(settings)} cannot be used: {str(cause) or type(cause).__name__}"
        ) from None
    finally:
        await database.close()
        if own is not None:
            await asyncio.to_thread(own.close)


@asynccontextmanager
async def ready(settings: Settings) -> AsyncIterator[Database]:
    """The same, with this version's schema. Upshot's own is brought up to it, as servers do."""
    async with opened(settings) as database:
        if settings.database_url is None:
            await database.migrate()
        elif not await database.is_migrated():
            raise DatabaseUnusable(
                f"The database {_shown(settings)} has not this version's schema. Run "
                "'upshot migrate' first."
            )
        yield database


def migrate(as_json: AsJson = False) -> None:
    """Bring the database's schema to this version's.

    The embedded Postgres is migrated by 'upshot serve' itself; one of your own, named in
    UPSHOT_DATABASE_URL, is migrated by this command before a new version is started. Running it
    again changes nothing.
    """
    revision = asyncio.run(_migrate(Settings()))
    if as_json:
        print_json({"revision": revision})
    else:
        typer.echo(f"The database is at schema {revision}.")


async def _migrate(settings: Settings) -> str | None:
    async with opened(settings) as database:
        await database.migrate()
        async with database.engine.connect() as conn:
            return await conn.run_sync(
                lambda sync: MigrationContext.configure(sync).get_current_revision()
            )


def rebase(as_json: AsJson = False) -> None:
    """Take a database into use that was dumped and restored into another Postgres.

    The log is read by the cluster's transaction ids, which began anew with the restore. This gives
    its events ids of the new cluster, so that exactly those are evaluated next that had not been.
    Stop every server first. In the cluster where it was, a database is left as it is.

    \b
    Example:
      pg_dump shop | psql new-shop
      UPSHOT_DATABASE_URL=postgresql://... upshot rebase
    """
    answer = asyncio.run(_rebase(Settings()))
    if as_json:
        print_json(answer)
    elif not answer["rebased"]:
        typer.echo("Nothing to do: this database has not been moved to another cluster.")
    else:
        typer.echo(
            f"Rebased: {answer['evaluated']:,} events are evaluated, "
            f"{answer['waiting']:,} wait to be. Start the server."
        )


async def _rebase(settings: Settings) -> dict[str, Any]:
    async with ready(settings) as database:
        conn = await database.connect()
        try:
            rebased = await rebase_log(conn)
        finally:
            await conn.close()
    if rebased is None:
        return {"rebased": False}
    return {"rebased": True, "evaluated": rebased.evaluated, "waiting": rebased.waiting}


def _url_of(settings: Settings) -> str | None:
    return settings.database_url.get_secret_value() if settings.database_url else None


def _shown(settings: Settings) -> str:
    url = _url_of(settings)
    return f"in {settings.data_dir}" if url is None else f"at {without_password(url)}"
