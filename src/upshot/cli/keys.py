"""`upshot key`: API keys, made and revoked on the database itself."""

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from upshot.cli.options import AsJson
from upshot.cli.output import local_time, print_json, print_table, tell
from upshot.core.limits import NAME_CHARS_MAX
from upshot.settings import Settings

if TYPE_CHECKING:
    from upshot.storage.api_keys import ApiKey, Scope

app = typer.Typer(
    no_args_is_help=True,
    help="API keys: made and revoked on the database itself.",
)


def _name(text: str) -> str:
    if not text.strip() or len(text) > NAME_CHARS_MAX or not text.isprintable():
        raise typer.BadParameter(f"A name has 1 to {NAME_CHARS_MAX} printable characters.")
    return text


def _scopes(scopes: list[str]) -> list[str]:
    from upshot.storage.api_keys import SCOPES

    for scope in scopes:
        if scope not in SCOPES:
            raise typer.BadParameter(f"{scope!r} is no scope; there are {', '.join(SCOPES)}.")
    return scopes


@app.command()
def create(
    name: Annotated[
        str,
        typer.Option(metavar="NAME", callback=_name, help="Whose it is, such as the app's name."),
    ],
    scope: Annotated[
        list[str],
        typer.Option(
            metavar="SCOPE",
            callback=_scopes,
            help="What it may do: events:write (post events), read, runs (report on runs), or "
            "admin (everything). Repeat it for several.",
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Make a key.

    Its token is printed now and never again; only a hash of it is kept. As soon as there is a key,
    a server on loopback asks for one as well.

    \b
    Examples:
      upshot key create --name shop --scope events:write
      export UPSHOT_API_KEY=$(upshot key create --name me --scope admin)
    """
    from upshot.cli import on_database

    scopes = cast("list[Scope]", scope)
    key, token = asyncio.run(on_database.create_key(Settings(), name=name, scopes=scopes))
    if as_json:
        print_json({**_shown(key), "token": token})
        return
    tell(f"Key {key.name!r} ({key.id}) may do: {', '.join(sorted(key.scopes))}.")
    tell("Keep the token safe; it cannot be shown again:")
    typer.echo(token)


@app.command("list")
def list_all(as_json: AsJson = False) -> None:
    """Show the keys there are, without their tokens."""
    from upshot.cli import on_database

    keys = [_shown(key) for key in asyncio.run(on_database.list_keys(Settings()))]
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


@app.command()
def revoke(
    key: Annotated[
        str, typer.Argument(metavar="KEY", help="The key's id, or its name if no other has it.")
    ],
    as_json: AsJson = False,
) -> None:
    """Make a key worthless, for good. Servers notice within seconds."""
    from upshot.cli import on_database

    revoked = asyncio.run(on_database.revoke_key(Settings(), key))
    if as_json:
        print_json(_shown(revoked))
    else:
        typer.echo(f"Key {revoked.name!r} ({revoked.id}) is revoked.")


def _shown(key: "ApiKey") -> dict[str, Any]:
    return {
        "id": str(key.id),
        "name": key.name,
        "scopes": sorted(key.scopes),
        "created": key.created_at.isoformat(),
        "revoked": key.revoked_at and key.revoked_at.isoformat(),
    }
