"""`upshot key`: API keys, made and revoked on the database itself."""

import asyncio
from typing import Annotated, Any, cast
from uuid import UUID

import typer

from upshot.cli.database import ready
from upshot.cli.options import AsJson
from upshot.cli.output import local_time, print_json, print_table, tell
from upshot.core.errors import Conflict, NotFound
from upshot.core.limits import NAME_CHARS_MAX
from upshot.settings import Settings
from upshot.storage import api_keys
from upshot.storage.api_keys import SCOPES, ApiKey, Scope

app = typer.Typer(
    no_args_is_help=True,
    help="API keys. These commands work on the database, so they need the server's settings and "
    "no key.",
)


def _name(text: str) -> str:
    if not text.strip() or len(text) > NAME_CHARS_MAX or not text.isprintable():
        raise typer.BadParameter(f"A name has 1 to {NAME_CHARS_MAX} printable characters.")
    return text


def _scopes(scopes: list[str]) -> list[str]:
    for scope in scopes:
        if scope not in SCOPES:
            raise typer.BadParameter(f"{scope!r} is no scope; there are {', '.join(SCOPES)}.")
    return scopes


@app.command()
def create(
    name: Annotated[str, typer.Option(callback=_name, help="Whose it is, such as the app's name.")],
    scope: Annotated[
        list[str],
        typer.Option(
            callback=_scopes,
            help="What it may do: events:write (post events), read, runs (report on runs), or "
            "admin (everything). Repeat it for several.",
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Make a key. Its token is printed now and never again; only a hash of it is kept.

    As soon as there is a key, a server on loopback asks for one as well.

    \b
    Examples:
      upshot key create --name shop --scope events:write
      export UPSHOT_API_KEY=$(upshot key create --name me --scope admin)
    """
    key, token = asyncio.run(_create(name, cast(list[Scope], scope)))
    if as_json:
        print_json({**_shown(key), "token": token})
        return
    tell(f"Key {key.name!r} ({key.id}) may do: {', '.join(sorted(key.scopes))}.")
    tell("Keep the token safe; it cannot be shown again:")
    typer.echo(token)


async def _create(name: str, scopes: list[Scope]) -> tuple[ApiKey, str]:
    async with ready(Settings()) as database, database.begin() as conn:
        return await api_keys.create(conn, name=name, scopes=scopes)


@app.command("list")
def list_all(as_json: AsJson = False) -> None:
    """Show the keys there are, without their tokens."""
    keys = [_shown(key) for key in asyncio.run(_list())]
    if as_json:
        print_json(keys)
        return
    print_table(
        ("ID", "NAME", "SCOPES", "CREATED", "REVOKED"),
        (
            (
                key["id"],
                key["name"],
                key["scopes"],
                local_time(key["created"]),
                local_time(key["revoked"]),
            )
            for key in keys
        ),
        empty="There are no keys. Make one: upshot key create --name shop --scope events:write",
    )


async def _list() -> list[ApiKey]:
    async with ready(Settings()) as database, database.begin() as conn:
        return await api_keys.list_all(conn)


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(help="The key's id, or its name if no other has it.")],
    as_json: AsJson = False,
) -> None:
    """Make a key worthless, for good. Servers notice within seconds."""
    revoked = asyncio.run(_revoke(key))
    if as_json:
        print_json(_shown(revoked))
    else:
        typer.echo(f"Key {revoked.name!r} ({revoked.id}) is revoked.")


async def _revoke(key: str) -> ApiKey:
    async with ready(Settings()) as database, database.begin() as conn:
        found = _named(await api_keys.list_all(conn), key)
        if not await api_keys.revoke(conn, found.id):
            raise Conflict(f"Key {found.name!r} ({found.id}) is revoked already.")
        (now,) = (one for one in await api_keys.list_all(conn) if one.id == found.id)
        return now


def _named(keys: list[ApiKey], key: str) -> ApiKey:
    """The key that is meant; of several with a name, the one that is not revoked."""
    wanted = _uuid(key)
    found = [one for one in keys if one.id == wanted] or [one for one in keys if one.name == key]
    active = [one for one in found if one.revoked_at is None] or found[-1:]
    if not active:
        raise NotFound(f"There is no key {key!r}. 'upshot key list' shows those there are.")
    if len(active) > 1:
        ids = ", ".join(str(one.id) for one in active)
        raise Conflict(f"{len(active)} keys are named {key!r}; say which by its id: {ids}.")
    return active[0]


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _shown(key: ApiKey) -> dict[str, Any]:
    return {
        "id": str(key.id),
        "name": key.name,
        "scopes": sorted(key.scopes),
        "created": key.created_at.isoformat(),
        "revoked": key.revoked_at and key.revoked_at.isoformat(),
    }
