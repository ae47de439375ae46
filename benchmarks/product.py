"""Upshot as a user runs it: `upshot serve`, default settings, an embedded Postgres of its own."""

import asyncio
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import aiohttp
import asyncpg

from benchmarks.processes import Failed, expect, running
from upshot.storage import embedded

DEPLOYMENT = "post-order-complete"
READY_WITHIN_SECONDS = 60.0
DONE_WITHIN_SECONDS = 120.0
POLL_SECONDS = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """An `upshot serve` that is ready, so many seconds after it was started."""

    process: asyncio.subprocess.Process
    port: int
    http: aiohttp.ClientSession
    seconds: float


class Upshot:
    """A running server: its API, and its database to count in. `pid` is that of `upshot serve`."""

    def __init__(
        self,
        *,
        pid: int,
        port: int,
        http: aiohttp.ClientSession,
        sql: asyncpg.Connection,
        postgres: str,
    ) -> None:
        self.pid = pid
        self.port = port
        self.sql = sql
        self.postgres = postgres
        self._http = http

    async def deploy(self, *, runner_port: int, enabled: bool) -> None:
        """The shop's deployment. Disabled, its runs are made and wait."""
        runner = {"type": "webhook", "url": f"http://127.0.0.1:{runner_port}/run"}
        document = {"runner": runner, "enabled": enabled}
        await self.request("PUT", f"/v1/deployments/{DEPLOYMENT}", document)

    async def change_deployment(self, **fields: object) -> None:
        await self.request("PATCH", f"/v1/deployments/{DEPLOYMENT}", fields)

    async def register(self, document: dict[str, Any]) -> None:
        await self.request("PUT", "/v1/triggers/order-complete", document)

    async def request(self, method: str, path: str, document: object) -> Any:
        async with self._http.request(method, path, json=document) as response:
            if response.status >= 300:
                said = (await response.text())[:300]
                raise Failed(f"{method} {path} answered {response.status}: {said}")
            return await response.json()

    async def events(self) -> int:
        """How many are stored that clients posted."""
        return await self.count("FROM events WHERE name NOT LIKE 'upshot.%'")

    async def count(self, rows: str, *arguments: object) -> int:
        found: int = await self.sql.fetchval(f"SELECT count(*) {rows}", *arguments)
        return found

    async def settle(self) -> None:
        """Wait until every event is evaluated, so that nothing of it runs beside what follows."""

        async def is_settled() -> bool:
            async with self._http.get("/v1/status") as response:
                return float((await response.json())["lag_seconds"]) == 0

        await until(is_settled, "all events are evaluated")
        expect(await self.count("FROM evaluation_errors"), 0, "events set aside")

    async def until_head(self) -> None:
        """Wait until the evaluator has seen the last position, in a way that costs it little."""

        async def is_there() -> bool:
            return bool(
                await self.sql.fetchval(
                    "SELECT position >= last_value FROM cursors, events_position"
                )
            )

        await until(is_there, "the last event is evaluated")

    async def until_count(self, wanted: int, rows: str, *arguments: object) -> float:
        """Wait for exactly so many rows; answers when they were there, by the monotonic clock."""

        async def is_there() -> bool:
            return await self.count(rows, *arguments) >= wanted

        ended_at = await until(is_there, f"there are {wanted} {rows}")
        expect(await self.count(rows, *arguments), wanted, f"rows {rows}")
        return ended_at


async def until(is_so: Callable[[], Awaitable[bool]], what: str) -> float:
    """Ask again and again; answers when it was so, by the monotonic clock."""
    deadline = time.monotonic() + DONE_WITHIN_SECONDS
    while not await is_so():
        if time.monotonic() > deadline:
            raise Failed(f"not within {DONE_WITHIN_SECONDS:g} s: {what}")
        await asyncio.sleep(POLL_SECONDS)
    return time.monotonic()


@asynccontextmanager
async def serving() -> AsyncIterator[Upshot]:
    """`upshot serve` on an empty data directory that is removed afterwards."""
    with data_directory() as data_dir:
        async with serving_in(data_dir) as upshot:
            yield upshot


@asynccontextmanager
async def serving_in(data_dir: Path) -> AsyncIterator[Upshot]:
    """`upshot serve` on a data directory that is kept."""
    # Postgres is claimed before the server starts, and so stopped even if that is killed.
    with closing(embedded.start(data_dir)) as postgres:
        async with started(data_dir) as server:
            sql = await asyncpg.connect(postgres.url)
            try:
                yield Upshot(
                    pid=server.process.pid,
                    port=server.port,
                    http=server.http,
                    sql=sql,
                    postgres=postgres.url,
                )
            finally:
                await sql.close(timeout=5)


@asynccontextmanager
async def started(data_dir: Path) -> AsyncIterator[Server]:
    """`upshot serve` alone, which starts its Postgres and stops it, unless that is claimed."""
    port = free_port()
    with (data_dir / "server.log").open("w+b") as log:
        started_at = time.monotonic()
        async with (
            running(
                [sys.executable, "-m", "upshot", "serve"],
                env=_environment(port=port, data_dir=data_dir),
                cwd=data_dir,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            ) as process,
            aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http,
        ):
            await _until_ready(process, http, log)
            seconds = time.monotonic() - started_at
            yield Server(process=process, port=port, http=http, seconds=seconds)


async def postgres_settings() -> dict[str, str]:
    """Those of the embedded Postgres that Upshot sets to something else than Postgres would."""
    with data_directory() as data_dir, closing(embedded.start(data_dir)) as postgres:
        sql = await asyncpg.connect(postgres.url)
        try:
            rows = await sql.fetch(
                "SELECT name, current_setting(name) AS value FROM pg_settings "
                "WHERE sourcefile LIKE '%/upshot.conf' AND setting IS DISTINCT FROM boot_val "
                "ORDER BY name"
            )
        finally:
            await sql.close(timeout=5)
    return {row["name"]: row["value"] or "''" for row in rows}


@contextmanager
def data_directory() -> Iterator[Path]:
    """A temporary one."""
    data_dir = Path(tempfile.mkdtemp(prefix="upshot-bench-"))
    try:
        # As root, Postgres runs as another user, who must be able to enter.
        data_dir.chmod(0o755)
        yield data_dir
    finally:
        shutil.rmtree(data_dir, ignore_errors=True)


def _environment(*, port: int, data_dir: Path) -> dict[str, str]:
    """Nothing but defaults, whatever the shell has set."""
    # What is started again and again should not be compiled as often.
    others = ("UPSHOT_", "PYTHONDONTWRITEBYTECODE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    return {**kept, "UPSHOT_PORT": str(port), "UPSHOT_DATA_DIR": str(data_dir)}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port: int = bound.getsockname()[1]
        return port


async def _until_ready(
    process: asyncio.subprocess.Process, http: aiohttp.ClientSession, log: BinaryIO
) -> None:
    deadline = time.monotonic() + READY_WITHIN_SECONDS
    while process.returncode is None and time.monotonic() < deadline:
        try:
            async with http.get("/readyz") as response:
                if response.status == 200:
                    return
        except aiohttp.ClientError:
            pass
        await asyncio.sleep(POLL_SECONDS)
    log.seek(0)
    raise Failed(f"upshot serve did not become ready: {log.read().decode()[-2000:]}")
