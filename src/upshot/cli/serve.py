"""`upshot serve`: the server, in the foreground."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal, cast

import typer

from upshot.settings import STAGES, Settings, Stage


def _stages(text: str | None) -> str | None:
    if text is None:
        return None
    unknown = [name for name in text.split(",") if name not in STAGES]
    if unknown:
        raise typer.BadParameter(f"{unknown[0]!r} is no stage; there are {', '.join(STAGES)}.")
    return text


def serve(
    host: Annotated[
        str | None,
        typer.Option(help="The address to listen on. [UPSHOT_HOST]", show_default=False),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="The port to listen on. [UPSHOT_PORT]", show_default=False
        ),
    ] = None,
    database_url: Annotated[
        str | None,
        typer.Option(
            help="A Postgres to use instead of the embedded one; as UPSHOT_DATABASE_URL its "
            "password stays out of sight.",
            show_default=False,
        ),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            help="Where the embedded Postgres lives. [UPSHOT_DATA_DIR]",
            show_default=False,
        ),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(
            metavar="STAGES",
            callback=_stages,
            help=f"Run only these stages, separated by commas: {','.join(STAGES)}.",
            show_default=False,
        ),
    ] = None,
    insecure: Annotated[
        bool,
        typer.Option("--insecure", help="Allow an address that is not loopback without API keys."),
    ] = False,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"] | None,
        typer.Option(help="The least severe log line to write.", show_default=False),
    ] = None,
) -> None:
    """Run the server until it is stopped with Ctrl-C or SIGTERM.

    Without UPSHOT_DATABASE_URL it starts a Postgres of its own in the data directory. Options
    override the environment, which overrides a .env file in the current directory.

    \b
    Examples:
      upshot serve
      upshot serve --port 9000
      upshot serve --host 0.0.0.0               needs an API key: see 'upshot key create'
      upshot serve --only api                   in one process, and the rest in another:
      upshot serve --only evaluate,deliver,maintain
    """
    overrides: dict[str, Any] = {
        "host": host,
        "port": port,
        "database_url": database_url,
        "data_dir": data_dir,
        "insecure": insecure or None,
        "log_level": log_level,
    }
    given = {name: value for name, value in overrides.items() if value is not None}
    stages = cast(list[Stage], only.split(",")) if only else STAGES
    settings = Settings(**given)
    with TemporaryDirectory(prefix="upshot-metrics-") as counted:
        # What the processes of a server count, they count together.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = counted
        # The server is much to import, and no other command needs it.
        from upshot.main import serve as run_server

        run_server(settings, stages)
