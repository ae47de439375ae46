"""`serve`: registers deployments and works on their runs until the process is stopped."""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Literal

from upshot.sdk.api import Api
from upshot.sdk.deployments import Deployment, performer
from upshot.sdk.errors import ClientError
from upshot.sdk.executions import Executions
from upshot.sdk.limits import RUNS_AT_ONCE_DEFAULT, STOP_SECONDS_DEFAULT
from upshot.sdk.registration import register as register_all
from upshot.sdk.server import Server
from upshot.sdk.webhook import Endpoint, secrets_of, serve_endpoint
from upshot.sdk.worker import claim_runs

log = logging.getLogger("upshot")


def serve(
    *deployments: Deployment[..., Any],
    limit: int = RUNS_AT_ONCE_DEFAULT,
    mode: Literal["pull", "webhook"] = "pull",
    stop_within: float = STOP_SECONDS_DEFAULT,
    register: bool = True,
    managed_by: str | None = None,
    worker: str | None = None,
    api_url: str | None = None,
    api_key: str | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    url: str | None = None,
    secret: str | Sequence[str] | None = None,
) -> None:
    """Register deployments and their triggers, and work on their runs until the process is stopped.

    At most `limit` runs at once. SIGINT or SIGTERM ends it: runs under way have `stop_within`
    seconds to finish. Triggers that an earlier start made and the file no longer has are removed:
    those with the tag `managed_by:` and the deployment's name, or `managed_by` if that is given.
    With `register=False` nothing is registered, and a key with the scope `runs` is enough. The
    server is at `api_url`, or `UPSHOT_API_URL`.

    `mode="webhook"` needs `upshot[webhook]`: it listens on `host` and `port`, and has the server
    call `url` (by default that address) with calls signed by `secret` (or `UPSHOT_WEBHOOK_SECRET`).

    Raises:
        ClientError: something is not as it must be; it says what.
    """
    _show_log()
    with suppress(KeyboardInterrupt):
        asyncio.run(
            aserve(
                *deployments,
                limit=limit,
                mode=mode,
                stop_within=stop_within,
                register=register,
                managed_by=managed_by,
                worker=worker,
                api_url=api_url,
                api_key=api_key,
                host=host,
                port=port,
                url=url,
                secret=secret,
            )
        )


async def aserve(
    *deployments: Deployment[..., Any],
    limit: int = RUNS_AT_ONCE_DEFAULT,
    mode: Literal["pull", "webhook"] = "pull",
    stop_within: float = STOP_SECONDS_DEFAULT,
    register: bool = True,
    managed_by: str | None = None,
    worker: str | None = None,
    api_url: str | None = None,
    api_key: str | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    url: str | None = None,
    secret: str | Sequence[str] | None = None,
) -> None:
    """`serve` inside an event loop; cancelling it stops it as a signal does."""
    by_name = _by_name(deployments)
    if limit < 1:
        raise ClientError(f"limit is how many runs there may be at once: {limit} is too few.")
    server = Server.named(url=api_url, api_key=api_key)
    async with Api(server) as api:
        executions = Executions(api, performer(by_name), limit=limit)
        with _stopping_on_signals() as stopping:
            if mode == "pull":
                runner: dict[str, Any] = {"type": "pull"}
                name = worker or f"{socket.gethostname()}:{os.getpid()}"
                work = claim_runs(
                    api, executions, deployments=list(by_name), limit=limit, worker=name
                )
            else:
                secrets = secrets_of(secret)
                listening = socket.create_server((host, port))
                address = url or f"http://{host}:{listening.getsockname()[1]}/"
                runner = {"type": "webhook", "url": address, "secret": list(secrets)}
                endpoint = Endpoint(executions, list(by_name), secrets=secrets)
                work = serve_endpoint(endpoint, listening)

            async def registered_and_working() -> None:
                if register:
                    await register_all(api, deployments, runner=runner, managed_by=managed_by)
                log.info("serving %s from %s", ", ".join(by_name), server.url)
                await work

            try:
                await _until_stopped(registered_and_working(), stopping)
            finally:
                work.close()
                await executions.end(within=stop_within)
    log.info("stopped")


def _by_name(deployments: Sequence[Deployment[..., Any]]) -> dict[str, Deployment[..., Any]]:
    by_name = {deployment.name: deployment for deployment in deployments}
    if not deployments:
        raise ClientError("There is no deployment to serve.")
    if len(by_name) < len(deployments):
        raise ClientError("Two of the deployments have the same name.")
    return by_name


async def _until_stopped(work: Any, stopping: asyncio.Event) -> None:
    working, stopped = asyncio.ensure_future(work), asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
    finally:
        for task in (working, stopped):
            task.cancel()
        await asyncio.gather(working, stopped, return_exceptions=True)


@contextmanager
def _stopping_on_signals() -> Iterator[asyncio.Event]:
    """Set by the first SIGINT or SIGTERM; the second ends the process as if this were not here."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)

    def stop() -> None:
        log.info("stopping; once more to stop at once")
        stopping.set()
        remove()

    def remove() -> None:
        for number in numbers:
            with suppress(NotImplementedError, ValueError, RuntimeError):
                loop.remove_signal_handler(number)

    for number in numbers:
        # Not in a thread other than the main one, and not on Windows, where Ctrl-C ends the loop.
        with suppress(NotImplementedError, ValueError, RuntimeError):
            loop.add_signal_handler(number, stop)
    try:
        yield stopping
    finally:
        remove()


def _show_log() -> None:
    """Whoever has not set up logging sees what happens on the terminal."""
    if not log.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
