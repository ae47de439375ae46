"""`upshot serve` in a process of its own, told over HTTP what to do and by its log what it does."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import httpx

from tests.e2e import forks
from tests.e2e.forks import Forked

STARTS_WITHIN_SECONDS = 60.0
STOPS_WITHIN_SECONDS = 35.0
ANSWERS_WITHIN_SECONDS = 40.0
POLL_SECONDS = 0.05
OPEN_STATES = frozenset({"scheduled", "running", "retrying"})

SHOP: dict[str, Any] = {
    "after": ["order.created"],
    "expect": ["order.complete"],
    "for_each": ["prefect.resource.id"],
    "parameters": {"user_id": "{{ event.resource.id }}"},
}

T = TypeVar("T")


async def until(claim: Callable[[], Awaitable[T]], *, within: float = 30.0) -> T:
    """Ask until the answer is truthy, and answer it. For what no signal tells of."""
    never = asyncio.Event()
    async with asyncio.timeout(within):
        while not (answer := await claim()):
            with suppress(TimeoutError):
                await asyncio.wait_for(never.wait(), POLL_SECONDS)
        return answer


class Api:
    """What a client of the server does."""

    def __init__(self, url: str) -> None:
        self.http = httpx.AsyncClient(
            base_url=url,
            timeout=ANSWERS_WITHIN_SECONDS,
            trust_env=False,
            limits=httpx.Limits(max_connections=None),
        )

    async def get(self, path: str, **params: Any) -> Any:
        return _document(await self.http.get(path, params=params), 200)

    async def send(self, method: str, path: str, body: Any = None) -> Any:
        return _document(await self.http.request(method, path, json=body), 200, 201, 204)

    async def deploy(
        self,
        name: str,
        url: str,
        *,
        seconds: float = 30,
        retries: Sequence[float] = (),
        **more: Any,
    ) -> None:
        """A deployment whose webhook runner may take so many seconds."""
        runner = {"type": "webhook", "url": url, "timeout": seconds, "retries": list(retries)}
        await self.send("PUT", f"/v1/deployments/{name}", {"runner": runner, **more})

    async def trigger(self, name: str, *, deployment: str, **condition: Any) -> None:
        body = {"deployment": deployment, **condition}
        await self.send("PUT", f"/v1/triggers/{name}", body)

    async def post(self, *events: dict[str, Any]) -> list[str]:
        """Post events; answers their ids once the evaluator has passed them."""
        answer = await self.send("POST", "/v1/events?wait=evaluated", list(events))
        assert answer["evaluated"], answer
        return [result["id"] for result in answer["results"]]

    async def run_of(self, event_id: str) -> str:
        """The id of the one run that the event led to."""
        (run,) = (await self.get(f"/v1/events/{event_id}"))["runs"]
        return str(run["id"])

    async def fired(self, event: str = "go", resource: str = "1", **more: Any) -> str:
        """Post an event that fires one trigger; the id of its run."""
        (event_id,) = await self.post({"event": event, "resource": {"id": resource}, **more})
        return await self.run_of(event_id)

    async def ended(self, run_id: str, *, within: float = 30.0) -> Any:
        """The run, once it has ended."""

        async def ended() -> Any:
            run = await self.get(f"/v1/runs/{run_id}")
            return run if run["state"] not in OPEN_STATES else None

        return await until(ended, within=within)

    async def in_state(self, run_id: str, state: str, *, within: float = 30.0) -> Any:
        """The run, once it is in that state."""

        async def in_state() -> Any:
            run = await self.get(f"/v1/runs/{run_id}")
            return run if run["state"] == state else None

        return await until(in_state, within=within)

    async def all_evaluated(self, *, within: float = 60.0) -> None:
        """Wait until nothing of the log is left to evaluate."""

        async def none_waits() -> bool:
            return bool((await self.get("/v1/status"))["lag_seconds"] == 0)

        await until(none_waits, within=within)

    async def runs(self, **filters: Any) -> list[Any]:
        """All runs, page by page."""
        found: list[Any] = []
        cursor: dict[str, str] = {}
        while True:
            page = await self.get("/v1/runs", limit=500, **filters, **cursor)
            found += page["items"]
            if page["next_cursor"] is None:
                return found
            cursor = {"cursor": page["next_cursor"]}


class Server:
    """One process, and what it has logged."""

    def __init__(self, process: Forked) -> None:
        self.process = process
        self.log: list[dict[str, Any]] = []
        self.api = Api("http://127.0.0.1")
        self._said = asyncio.Condition()
        self._reading = asyncio.create_task(self._read_log())

    async def logged(self, event: str, *, within: float = STARTS_WITHIN_SECONDS) -> dict[str, Any]:
        """Wait for a line of the log."""

        def found() -> list[dict[str, Any]]:
            return [line for line in self.log if line.get("event") == event]

        def told() -> bool:
            return bool(found()) or self._reading.done()

        with suppress(TimeoutError):
            async with asyncio.timeout(within), self._said:
                await self._said.wait_for(told)
        assert found(), f"the server has not logged {event!r}: {self.log}"
        return found()[0]

    async def ready(self, *, within: float = STARTS_WITHIN_SECONDS) -> None:
        """Wait until the API can serve everything."""

        async def is_ready() -> bool:
            return (await self.api.http.get("/readyz")).status_code == 200

        await until(is_ready, within=within)

    async def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        """SIGTERM, and wait until it has stopped of its own accord."""
        await self._end(signal.SIGTERM)
        assert self.process.returncode == 0, self.log

    def send_signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    @property
    def processes(self) -> list[int]:
        """Those that do the work of a whole server, where this one only watches them."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [child for child in map(int, children) if _program(child) == _program(pid)]

    @property
    def resident_bytes(self) -> int:
        """Memory in use now, the renderers' not counted."""
        return sum(map(_resident_bytes, [self.process.pid, *self.processes]))

    async def _end(self, number: signal.Signals) -> None:
        if self.process.returncode is None:
            self.process.send_signal(number)
        async with asyncio.timeout(STOPS_WITHIN_SECONDS):
            await self.process.wait()
        await self._reading
        await self.api.http.aclose()

    async def _read_log(self) -> None:
        async for line in self.process.stderr:
            async with self._said:
                self.log.append(_parsed(line))
                self._said.notify_all()
        async with self._said:
            self._said.notify_all()


@asynccontextmanager
async def serving(
    database_url: str | None = None,
    *,
    only: str | None = None,
    data_dir: Path | None = None,
    port: int = 0,
    log_level: str = "info",
) -> AsyncIterator[Server]:
    """A server that is ready, on a port of its own; killed at the end if it still runs."""
    async with starting(
        database_url, only=only, data_dir=data_dir, port=port, log_level=log_level
    ) as server:
        await server.ready()
        yield server


@asynccontextmanager
async def starting(
    database_url: str | None = None,
    *,
    only: str | None = None,
    data_dir: Path | None = None,
    port: int = 0,
    log_level: str = "info",
) -> AsyncIterator[Server]:
    """A server that listens, and may not be ready."""
    options = ["--port", str(port), "--log-level", log_level]
    options += ["--database-url", database_url] if database_url else []
    options += ["--only", only] if only else []
    options += ["--data-dir", str(data_dir)] if data_dir else []
    server = Server(await forks.start("serve", *options))
    try:
        await server.api.http.aclose()
        server.api = Api((await server.logged("listening"))["url"])
        yield server
    finally:
        if server.process.returncode is None:
            # A suspended process is killed as well.
            await server.kill()


def is_running(pid: int) -> bool:
    """Whether there is such a process, and it is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _program(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def _resident_bytes(pid: int) -> int:
    statm = Path(f"/proc/{pid}/statm").read_text()
    return int(statm.split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _document(answer: httpx.Response, *expected: int) -> Any:
    assert answer.status_code in expected, f"{answer.status_code} {answer.text}"
    return answer.json() if answer.content else None


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        parsed: dict[str, Any] = json.loads(line)
    except ValueError:
        return {"text": line.decode(errors="replace")}
    return parsed
