"""Commands on the database itself, with or without a server: `migrate`, `rebase`."""

import asyncio

import typer

from upshot.cli.options import AsJson
from upshot.cli.output import print_json
from upshot.settings import Settings


def migrate(as_json: AsJson = False) -> None:
    """Bring the database's schema to this version's.

    The embedded Postgres is migrated by 'upshot serve' itself; one of your own, named in
    UPSHOT_DATABASE_URL, is migrated by this command before a new version is started. Running it
    again changes nothing.
    """
    from upshot.cli import on_database

    revision = asyncio.run(on_database.migrate(Settings()))
    if as_json:
        print_json({"revision": revision})
    else:
        typer.echo(f"The database is at schema {revision}.")


def rebase(as_json: AsJson = False) -> None:
    """Go on with a database that was restored elsewhere.

    The log is read by the cluster's transaction ids, which begin anew when a dump is restored into
    another Postgres. This gives the log's events ids of the new cluster, so that exactly those are
    evaluated next that had not been. Stop every server first. In the cluster where it was, a
    database is left as it is.

    \b
    Example:
      pg_dump --dbname postgresql://old/upshot | psql postgresql://new/upshot
      UPSHOT_DATABASE_URL=postgresql://new/upshot upshot rebase
    """
    from upshot.cli import on_database

    rebased = asyncio.run(on_database.rebase_log(Settings()))
    if as_json:
        counts = {"evaluated": rebased.evaluated, "waiting": rebased.waiting} if rebased else {}
        print_json({"rebased": rebased is not None, **counts})
    elif rebased is None:
        typer.echo("Nothing to do: this database has not been moved to another cluster.")
    else:
        typer.echo(
            f"Rebased: {rebased.evaluated:,} events are evaluated, {rebased.waiting:,} wait to be. "
            "Start the server."
        )
