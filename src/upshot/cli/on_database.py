"""What commands do on the database itself; imported late, since it is much to import."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

import asyncpg
from sqlalchemy.exc import ArgumentError, DBAPIError

from upshot.core.errors import Conflict, NotFound, UpshotError
from upshot.settings import Settings
from upshot.storage import api_keys, embedded, rebase
from upshot.storage.api_keys import ApiKey, Scope
from upshot.storage.database import AWAY, Database, without_password

HIDDEN = "***"


class DatabaseUnusable(UpshotError):
    """The database cannot be reached, or is not ready for this."""


async def migrate(settings: Settings) -> str | None:
    """Bring the schema to this version's; answers its revision."""
    async with _opened(settings) as database:
        await database.migrate()
        return await database.revision()


async def rebase_log(settings: Settings) -> rebase.Rebased | None:
    """None: the database has not been moved."""
    async with _ready(settings) as database:
        conn = await database.connect()
        try:
            return await rebase.rebase(conn)
        finally:
            await conn.close()


async def create_key(
    settings: Settings, *, name: str, scopes: Sequence[Scope]
) -> tuple[ApiKey, str]:
    """The key and its token."""
    async with _ready(settings) as database, database.begin() as conn:
        return await api_keys.create(conn, name=name, scopes=scopes)


async def list_keys(settings: Settings) -> list[ApiKey]:
    async with _ready(settings) as database, database.begin() as conn:
        return await api_keys.list_all(conn)


async def revoke_key(settings: Settings, key: str) -> ApiKey:
    """Revoke the key of this id or name; answers it as it is now.

    Raises:
        NotFound: there is none.
        Conflict: it is revoked already, or the name is that of several.
    """
    async with _ready(settings) as database, database.begin() as conn:
        found = _named(await api_keys.list_all(conn), key)
        if not await api_keys.revoke(conn, found.id):
            raise Conflict(f"Key {found.name!r} ({found.id}) is revoked already.")
        (now,) = (one for one in await api_keys.list_all(conn) if one.id == found.id)
        return now


def _named(keys: Sequence[ApiKey], key: str) -> ApiKey:
    """The key that is meant; of several with a name, the one that is not revoked."""
    wanted = _uuid(key)
    found = [one for one in keys if one.id == wanted] or [one for one in keys if one.name == key]
    meant = [one for one in found if one.revoked_at is None] or found[-1:]
    if not meant:
        raise NotFound(f"There is no key {key!r}. 'upshot key list' shows those there are.")
    if len(meant) > 1:
        ids = ", ".join(str(one.id) for one in meant)
        raise Conflict(f"{len(meant)} keys are named {key!r}; say which by its id: {ids}.")
    return meant[0]


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


@asynccontextmanager
async def _ready(settings: Settings) -> AsyncIterator[Database]:
    """The database with this version's schema. Upshot's own is brought up to it, as servers do."""
    async with _opened(settings) as database:
        if settings.database_url is None:
            await database.migrate()
        elif not await database.is_migrated():
            raise DatabaseUnusable(
                f"The database {_shown(settings)} has not this version's schema. Run "
                "'upshot migrate' first."
            )
        yield database


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[Database]:
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
    except (*AWAY, asyncpg.PostgresError, DBAPIError, ValueError) as error:
        cause = getattr(error, "orig", None) or error
        raise DatabaseUnusable(
            f"The database {_shown(settings)} cannot be used: {str(cause) or type(cause).__name__}"
        ) from None
    finally:
        await database.close()
        if own is not None:
            await asyncio.to_thread(own.close)


def address_of(settings: Settings) -> str | None:
    """The database's address as it may be shown; None for the embedded one."""
    url = _url_of(settings)
    if url is None:
        return None
    try:
        shown = without_password(url)
    except (ArgumentError, ValueError):
        return HIDDEN
    # Postgres takes a password among the options too.
    return HIDDEN if "password=" in shown else shown


def _url_of(settings: Settings) -> str | None:
    return settings.database_url.get_secret_value() if settings.database_url else None


def _shown(settings: Settings) -> str:
    address = address_of(settings)
    return f"in {settings.data_dir}" if address is None else f"at {address}"
