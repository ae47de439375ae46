"""The `upshot` command, put together from a module for each noun."""

from typing import Annotated

import typer

from upshot import __version__
from upshot.cli import (
    database,
    demo,
    deployments,
    events,
    keys,
    runs,
    serve,
    settings,
    status,
    triggers,
)
from upshot.cli.exits import Commands

app = typer.Typer(
    name="upshot",
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        version()
        raise typer.Exit


@app.callback()
def upshot(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and exit.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """After this event, expect that one, then run a deployment.

    \b
    See it work:          upshot demo
    Run the server:       upshot serve
    Post an event:        upshot event emit order.created --resource id=123
    What has been run:    upshot run list

    Commands that show something take --json for scripts. They talk to the server at
    UPSHOT_API_URL (http://127.0.0.1:8484 by default) with the key in UPSHOT_API_KEY.
    """


app.command()(demo.demo)
app.command()(serve.serve)
app.command()(status.status)
app.add_typer(events.app, name="event")
app.add_typer(triggers.app, name="trigger")
app.add_typer(deployments.app, name="deployment")
app.add_typer(runs.app, name="run")
app.add_typer(keys.app, name="key")
app.command("settings")(settings.show)
app.command()(database.migrate)
app.command()(database.rebase)


@app.command()
def version() -> None:
    """Show the version."""
    typer.echo(f"upshot {__version__}")
