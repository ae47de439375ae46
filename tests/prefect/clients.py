"""Prefect's own clients, each in an environment of its own, started as processes."""

import asyncio
import os
import re
import signal
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.server import Server

ROOT = Path(__file__).parents[2]
FLOWS = Path(__file__).parent / "flows"
SAYS_WITHIN_SECONDS = 60.0
ENDS_WITHIN_SECONDS = 60.0
STOPS_WITHIN_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Client:
    """A release of the `prefect` package; `make test` installs what its lock says."""

    name: str

    @property
    def version(self) -> str:
        lock = (ROOT / "requirements" / f"prefect-{self.name}.txt").read_text()
        found = re.search(r"^prefect==(\S+)", lock, re.MULTILINE)
        assert found, f"requirements/prefect-{self.name}.txt names no version of prefect"
        return found[1]

    @property
    def python(self) -> Path:
        """The interpreter that can import it."""
        home = ROOT / "build" / f"prefect-{self.name}"
        if not (home / "installed").exists():
            raise FileNotFoundError(
                f"Prefect {self.version} is not installed in {home}. "
                "`make test` (or `make clients` alone) installs it."
            )
        return home / "bin" / "python"

    @property
    def command(self) -> str:
        """The script that is the command `prefect`."""
        return str(self.python.with_name("prefect"))


NEWEST, OLDEST = Client("newest"), Client("oldest")
CLIENTS = (NEWEST, OLDEST)


@pytest.fixture(params=CLIENTS, ids=lambda client: client.name)
def client(request: pytest.FixtureRequest) -> Client:
    """Each of them in turn."""
    made: Client = request.param
    return made


@dataclass(frozen=True, slots=True)
class Shell:
    """A client with a home of its own, pointed at a server. `url` is the server's, without /api."""

    client: Client
    home: Path
    url: str

    async def run(
        self,
        *arguments: str | Path,
        env: Mapping[str, str] | None = None,
        within: float = ENDS_WITHIN_SECONDS,
    ) -> str:
        """Run a script to its good end; answers what it printed."""
        async with self.start(*arguments, env=env) as program:
            status = await program.ended(within=within)
        assert status == 0, f"{arguments} ended with {status}:\n{program.text}"
        return program.text

    async def cli(self, *arguments: str, env: Mapping[str, str] | None = None) -> str:
        """The `prefect` command."""
        return await self.run(self.client.command, *arguments, env=env)

    @asynccontextmanager
    async def start(
        self, *arguments: str | Path, env: Mapping[str, str] | None = None
    ) -> AsyncIterator["Program"]:
        """The same as a process that goes on; killed at the end with those it started."""
        # A flow can be served from the folder it is in, or one above.
        script = arguments[0]
        cwd = script.parent if isinstance(script, Path) else self.home
        program = Program(
            await asyncio.create_subprocess_exec(
                self.client.python, *arguments, env=self._env() | dict(env or {}), cwd=cwd,
                stdin=PIPE, stdout=PIPE, stderr=STDOUT, limit=2**20, start_new_session=True,
            )
        )  # fmt: skip
        try:
            yield program
        finally:
            await program.gone()

    def _env(self) -> dict[str, str]:
        """Nothing of the caller's but the path: no proxies, no profile, no telemetry."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "PREFECT_HOME": str(self.home / ".prefect"),
            "PREFECT_API_URL": f"{self.url}/api",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_LOGGING_COLORS": "false",
            "PREFECT_CLI_COLORS": "false",
            "PREFECT_RUNNER_POLL_FREQUENCY": "1",
            "DO_NOT_TRACK": "1",
            "COLUMNS": "200",
            "PYTHONUNBUFFERED": "1",
        }


class Program:
    """One process of a client, and what it and those it started have printed."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.lines: list[str] = []
        self._said = asyncio.Condition()
        self._reading = asyncio.create_task(self._read())

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def saying(self, part: str) -> list[str]:
        """The lines printed so far that contain it."""
        return [line for line in self.lines if part in line]

    async def said(
        self, part: str, *, times: int = 1, within: float = SAYS_WITHIN_SECONDS
    ) -> list[str]:
        """Wait until so many lines contain it."""

        def enough() -> bool:
            return len(self.saying(part)) >= times or self._reading.done()

        try:
            async with asyncio.timeout(within), self._said:
                await self._said.wait_for(enough)
        except TimeoutError:
            raise AssertionError(f"{part!r} was not printed:\n{self.text}") from None
        found = self.saying(part)
        assert len(found) >= times, f"ended without printing {part!r}:\n{self.text}"
        return found

    async def ended(self, *, within: float = ENDS_WITHIN_SECONDS) -> int:
        """Its status, once it has ended of its own accord and all it printed has been read."""
        try:
            async with asyncio.timeout(within):
                await asyncio.shield(self._reading)
                return await self.process.wait()
        except TimeoutError:
            raise AssertionError(f"did not end within {within} s:\n{self.text}") from None

    async def tell(self, line: str = "") -> None:
        """Write a line to its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())
        await self.process.stdin.drain()

    def signal(self, number: signal.Signals) -> None:
        """To this process alone, not to those it started."""
        self.process.send_signal(number)

    async def gone(self) -> None:
        """Kill what is left of it and of those it started."""
        self._kill_group()
        await self.process.wait()
        async with asyncio.timeout(STOPS_WITHIN_SECONDS):
            await self._reading

    def _kill_group(self) -> None:
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            async with self._said:
                self.lines.append(line.decode(errors="replace").rstrip())
                self._said.notify_all()
        async with self._said:
            self._said.notify_all()


def url_of(server: Server) -> str:
    return str(server.api.http.base_url).rstrip("/")
