"""`upshot demo`: a server, a runner and the shop's story, from nothing in a minute."""

import base64
import secrets
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from upshot.cli.client import Client, Refused, Unreachable
from upshot.cli.output import plain
from upshot.cli.story import tell_story
from upshot.core.errors import Conflict, Overloaded, UpshotError
from upshot.core.limits import POSTGRES_STARTS_WITHIN, SECRET_BYTES_MIN
from upshot.demo.background import POLL_SECONDS, Background, wait_until
from upshot.demo.runner import LISTENING
from upshot.settings import Settings

RUNNER_STARTS_SECONDS_MAX = 30.0
ANY_ADDRESS = ("0.0.0.0", "::")


class NotStarted(UpshotError):
    """Something that the demo needs did not come up; the message says what it said last."""


@dataclass(frozen=True, slots=True)
class Processes:
    """What the demo leaves running: the server, unless there was one, and the runner."""

    server: Background
    runner: Background


def demo(
    stop: Annotated[
        bool, typer.Option("--stop", help="Stop the server and the runner that a demo left.")
    ] = False,
) -> None:
    """See an event trigger a deployment, here and now.

    Starts a server with a Postgres of its own, unless one runs already, and a small runner; makes
    the shop's deployment and trigger; posts the events of two orders, and shows what came of it.
    Every request is shown as a curl command. The server and the runner stay, for you to go on.
    """
    settings = Settings()
    directory = settings.data_dir.expanduser() / "demo"
    processes = Processes(Background(directory, "server"), Background(directory, "runner"))
    if stop:
        _stop(processes)
        return
    client = Client(url=_url_of(settings), key=_key_of(settings))
    try:
        _ensure_server(client, processes.server)
        runner_url, secret = _ensure_runner(processes.runner)
        tell_story(client, processes.runner, runner_url=runner_url, secret=secret)
    finally:
        client.close()
    _say_goodbye(client.url, settings, directory, processes)


def _stop(processes: Processes) -> None:
    for process in (processes.runner, processes.server):
        stopped = process.stop()
        typer.echo(f"The {process.name} {'is stopped' if stopped else 'was not running'}.")


def _ensure_server(client: Client, server: Background) -> None:
    if _is_upshot(client):
        typer.echo(f"A server runs at {client.url} already; the demo uses that one.")
    elif not server.is_running:
        typer.echo(f"Starting a server: upshot serve   (it writes to {server.log})")
        server.start([sys.executable, "-m", "upshot", "serve"], notes={"url": client.url})
    elif server.notes["url"] != client.url:
        raise Conflict(
            f"A demo's server runs already, at {server.notes['url']}. Stop it with "
            "'upshot demo --stop', or set UPSHOT_PORT as it was."
        )
    with Console().status("The server starts..."):
        _wait_until_ready(client, server)
    typer.echo(f"The server is ready at {client.url}")


def _is_upshot(client: Client) -> bool:
    """Whether a server answers there; something else than Upshot is an error."""
    try:
        described = client.find("/openapi.json")
    except Unreachable:
        return False
    except UpshotError:
        described = None
    if not isinstance(described, dict) or described.get("info", {}).get("title") != "Upshot":
        raise Conflict(
            f"Something that is no Upshot answers at {client.url}. Choose another port: "
            "UPSHOT_PORT=8585 upshot demo"
        )
    return True


def _wait_until_ready(client: Client, server: Background) -> None:
    """Postgres may recover from a crash first, so this may take as long as that."""
    deadline = time.monotonic() + POSTGRES_STARTS_WITHIN.total_seconds()
    was_ours = server.is_running
    missing = "it does not answer"
    while time.monotonic() < deadline:
        try:
            answer = client.call("GET", "/readyz", allowed={503})
        except Unreachable as error:
            missing = error.message
        else:
            if answer.status == 200:
                return
            missing = answer.document["detail"]
        if was_ours and not server.is_running:
            raise NotStarted(f"The server ended:\n{server.last_words()}")
        time.sleep(POLL_SECONDS)
    raise Overloaded(f"The server at {client.url} is still not ready: {missing}")


def _ensure_runner(runner: Background) -> tuple[str, str]:
    """Where the runner listens, and the secret that its calls are signed with."""
    if not runner.is_running:
        secret = "whsec_" + base64.b64encode(secrets.token_bytes(SECRET_BYTES_MIN)).decode()
        runner.start(
            [sys.executable, "-m", "upshot.demo.runner"],
            environment={"RUNNER_SECRET": secret},
            notes={"secret": secret},
        )
    if not wait_until(
        lambda: runner.said().startswith(LISTENING) or not runner.is_running,
        RUNNER_STARTS_SECONDS_MAX,
    ):
        raise NotStarted("The runner does not start.")
    if not runner.is_running:
        raise NotStarted(f"The runner ended:\n{runner.last_words()}")
    url = runner.said().partition("\n")[0].removeprefix(LISTENING)
    typer.echo(f"A runner listens at {url}")
    return url, runner.notes["secret"]


def _url_of(settings: Settings) -> str:
    if settings.port == 0:
        raise Refused("The demo needs to know the port. Set UPSHOT_PORT to another than 0.")
    host = "127.0.0.1" if settings.host in ANY_ADDRESS else settings.host
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def _key_of(settings: Settings) -> str | None:
    return settings.api_key.get_secret_value() if settings.api_key else None


def _say_goodbye(url: str, settings: Settings, directory: Path, processes: Processes) -> None:
    command = "upshot" if Path(sys.argv[0]).name != "upshot" else sys.argv[0]
    is_default = url == f"http://127.0.0.1:{Settings.model_fields['port'].default}"
    elsewhere = "" if is_default else f" --url {url}"
    data = "in UPSHOT_DATABASE_URL" if settings.database_url else f"in {settings.data_dir}"
    stops = "stops both" if processes.server.is_running else "stops the runner"
    typer.echo(
        plain(
            f"\nThe server and the runner stay; complete order 456 yourself and look:\n"
            f"  {command} event emit order.complete --resource id=456 --wait{elsewhere}\n"
            f"  {command} run list{elsewhere}\n"
            f"  tail {processes.runner.log}\n"
            f"The API, to try out    {url}/docs\n"
            f"Data                   {data}\n"
            f"Logs                   {directory}\n"
            f"{command} demo --stop    {stops}"
        )
    )
