"""Two servers that speak Prefect's API: Prefect's own, and Upshot, each on a database of its own.

Prefect's is installed in an environment of its own, and both keep what they store in one Postgres
that is given, so that neither is helped by another.
"""

import asyncio
import os
import signal
import sys
import tempfile
import time
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import asyncpg

from benchmarks.processes import ROOT, Failed, running
from benchmarks.product import free_port

# Prefect's server of this version does not start with the newest FastAPI.
PREFECT: Final = ("prefect==3.8.8", "fastapi==0.140.*")
HOME: Final = ROOT / "build" / "prefect-server"
INSTALLED_WITHIN_SECONDS = 900.0
READY_WITHIN_SECONDS = 120.0

A_POSTGRES: Final = (
    "It must have the extension pg_trgm, which Prefect's server needs: Debian's `postgresql` with "
    "`postgresql-contrib` has it, the Postgres that Upshot brings has not."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """A running server. `runs` is its table of runs, `name` the column of an event's name."""

    title: str
    http: aiohttp.ClientSession
    sql: asyncpg.Connection
    runs: str
    name: str

    async def request(self, method: str, path: str, document: object = None) -> Any:
        """Raises Failed unless it is answered with 2xx."""
        async with self.http.request(method, f"/api{path}", json=document) as response:
            said = await response.text()
            if response.status >= 300:
                asked = f"{self.title}: {method} {path}"
                raise Failed(f"{asked} answered {response.status}: {said[:300]}")
            return await response.json() if said else None

    async def stored(self, names: list[str]) -> int:
        """How many events of these names are stored, of users."""
        return await self._count(
            f"FROM events WHERE {self.name} = ANY($1) AND resource_id LIKE 'user-%'", names
        )

    async def fired(self) -> int:
        """How often automations have fired for users, as the log tells."""
        return await self._count(
            f"FROM events WHERE {self.name} = 'prefect.automation.triggered' AND "
            "payload->'triggering_labels'->>'prefect.resource.id' LIKE 'user-%'"
        )

    async def runs_of(self, who: str) -> int:
        """How many runs there are for users whose names begin like this."""
        return await self._count(f"FROM {self.runs} WHERE parameters->>'user_id' LIKE $1", who)

    async def users_with_runs(self) -> int:
        return int(
            await self.sql.fetchval(
                f"SELECT count(DISTINCT parameters->>'user_id') FROM {self.runs} "
                "WHERE parameters->>'user_id' LIKE 'user-%'"
            )
        )

    async def _count(self, rows: str, *arguments: object) -> int:
        return int(await self.sql.fetchval(f"SELECT count(*) {rows}", *arguments))


async def install_prefect() -> dict[str, str]:
    """Make the environment unless it is there; answers what is in it."""
    wanted = "\n".join(PREFECT)
    stamp = HOME / "installed"
    if not stamp.exists() or stamp.read_text() != wanted:
        await _run(sys.executable, "-m", "venv", "--clear", str(HOME))
        pip = (str(HOME / "bin" / "python"), "-m", "pip", "--disable-pip-version-check")
        await _run(*pip, "install", "--quiet", *PREFECT)
        stamp.write_text(wanted)
    asked = "import importlib.metadata as m; print(*map(m.version, ('prefect', 'fastapi')))"
    prefect, fastapi = (await _run(str(HOME / "bin" / "python"), "-c", asked)).split()
    return {"prefect": prefect, "fastapi of prefect": fastapi}


@asynccontextmanager
async def prefect(postgres: str) -> AsyncIterator[Rival]:
    """`prefect server start`, with its defaults but for the database and no telemetry."""
    async with _database(postgres, "upshot_bench_prefect") as url:
        port = free_port()
        # Of what the caller's shell has set nothing may change what is measured.
        env = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        env |= {
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": _with_scheme(url, "postgresql+asyncpg"),
            "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
        }
        command = [
            str(HOME / "bin" / "prefect"),
            *("server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui"),
        ]
        async with _served(command, env, port=port, ready="/api/health") as http:
            sql = await asyncpg.connect(url)
            try:
                yield Rival(title="Prefect", http=http, sql=sql, runs="flow_run", name="event")
            finally:
                await sql.close(timeout=5)


@asynccontextmanager
async def upshot(postgres: str) -> AsyncIterator[Rival]:
    """`upshot serve`, with its defaults but for the database."""
    async with _database(postgres, "upshot_bench_upshot") as url:
        port = free_port()
        env = {name: value for name, value in os.environ.items() if not name.startswith("UPSHOT_")}
        env |= {"UPSHOT_DATABASE_URL": url, "UPSHOT_PORT": str(port)}
        command = [sys.executable, "-m", "upshot"]
        await _run(*command, "migrate", env=env)
        async with _served([*command, "serve"], env, port=port, ready="/readyz") as http:
            sql = await asyncpg.connect(url)
            try:
                yield Rival(title="Upshot", http=http, sql=sql, runs="runs", name="name")
            finally:
                await sql.close(timeout=5)


@asynccontextmanager
async def _database(postgres: str, name: str) -> AsyncIterator[str]:
    """The address of an empty database, which is dropped afterwards."""
    sql = await asyncpg.connect(postgres)
    try:
        await sql.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await sql.execute(f"CREATE DATABASE {name}")
        try:
            yield urlunsplit(urlsplit(postgres)._replace(path=f"/{name}"))
        finally:
            await sql.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    finally:
        await sql.close(timeout=5)


async def postgres_of(postgres: str) -> str:
    """The version of a Postgres that has what both need.

    Raises:
        Failed: it cannot be reached, or has not.
    """
    try:
        sql = await asyncpg.connect(postgres, timeout=10)
    except (OSError, TimeoutError, asyncpg.PostgresError) as error:
        raise Failed(f"The Postgres cannot be reached: {error}. {A_POSTGRES}") from None
    try:
        version = str(await sql.fetchval("SHOW server_version"))
        asked = "SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_trgm'"
        if not await sql.fetchval(asked):
            raise Failed(f"This Postgres will not do. {A_POSTGRES}")
    finally:
        await sql.close(timeout=5)
    return version


@asynccontextmanager
async def _served(
    command: list[str], env: Mapping[str, str], *, port: int, ready: str
) -> AsyncIterator[aiohttp.ClientSession]:
    """The server in a directory of its own, with all that it starts, until the block ends."""
    timeout = aiohttp.ClientTimeout(total=60)
    with tempfile.TemporaryDirectory(prefix="upshot-bench-", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        own = {"HOME": folder, "PREFECT_HOME": str(home / "prefect"), "UPSHOT_DATA_DIR": folder}
        with (home / "server.log").open("w+b") as log:
            options = {"stdin": DEVNULL, "stdout": log, "stderr": STDOUT}
            async with (
                running(command, env={**env, **own}, cwd=home, **options) as process,
                aiohttp.ClientSession(f"http://127.0.0.1:{port}", timeout=timeout) as http,
            ):
                try:
                    await _until_ready(process, http, ready, log)
                    yield http
                finally:
                    with suppress(ProcessLookupError):
                        process.terminate()
                    with suppress(TimeoutError):
                        await asyncio.wait_for(process.wait(), 20)
                    # What it started may have outlived it.
                    with suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)


async def _until_ready(
    process: asyncio.subprocess.Process, http: aiohttp.ClientSession, path: str, log: BinaryIO
) -> None:
    deadline = time.monotonic() + READY_WITHIN_SECONDS
    while process.returncode is None and time.monotonic() < deadline:
        with suppress(aiohttp.ClientError):
            async with http.get(path) as response:
                if response.status == 200:
                    return
        await asyncio.sleep(0.2)
    log.seek(0)
    raise Failed(f"the server did not become ready: {log.read().decode()[-2000:]}")


async def _run(*command: str, env: Mapping[str, str] = os.environ) -> str:
    """Run a program to its good end; answers what it printed."""
    process = await asyncio.create_subprocess_exec(
        *command, env=dict(env), stdin=DEVNULL, stdout=PIPE, stderr=PIPE, start_new_session=True
    )
    try:
        async with asyncio.timeout(INSTALLED_WITHIN_SECONDS):
            printed, said = await process.communicate()
    finally:
        with suppress(ProcessLookupError):
            process.kill()
    if process.returncode:
        raise Failed(f"{' '.join(command)} failed: {said.decode()[-2000:]}")
    return printed.decode()


def _with_scheme(url: str, scheme: str) -> str:
    return urlunsplit(urlsplit(url)._replace(scheme=scheme))
