"""Postgres may go away at any instant: nothing acknowledged is lost, and no process exits."""

import asyncio
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.server import Server, serving, until
from tests.receiver import Receiver
from upshot.storage import embedded
from upshot.storage.database import Database

CONNECTIONS = 4
WORKS_AGAIN_SECONDS_MAX = 5.0


class Cluster:
    """A Postgres of one's own, to be crashed."""

    def __init__(self, data_dir: Path, running: embedded.Embedded) -> None:
        self.data_dir = data_dir
        self.url = running.url
        self._running = running

    async def crash(self) -> None:
        """End it at once, as `pg_ctl stop -m immediate` does, and wait until it is gone."""
        await crash(self.data_dir, signal.SIGQUIT)

    async def start(self) -> None:
        assert await asyncio.to_thread(self._running.ensure_running)


@contextmanager
def empty_data_dir() -> Iterator[Path]:
    # Postgres' own user, when we are root, must be able to enter it.
    data_dir = Path(tempfile.mkdtemp(prefix="upshot-proof-", dir="/tmp"))
    data_dir.chmod(0o755)
    try:
        yield data_dir
    finally:
        shutil.rmtree(data_dir, ignore_errors=True)


@asynccontextmanager
async def own_cluster() -> AsyncIterator[Cluster]:
    """It has the schema, and is gone at the end."""
    with empty_data_dir() as data_dir:
        running = await asyncio.to_thread(embedded.start, data_dir)
        try:
            database = Database(lambda: running.url)
            await database.migrate()
            await database.close()
            yield Cluster(data_dir, running)
        finally:
            await asyncio.to_thread(running.close)


async def crash(data_dir: Path, number: signal.Signals) -> None:
    """Send the signal to the Postgres of that directory, and wait until nobody listens."""
    cluster = embedded.cluster_of(data_dir)
    process_id = int((cluster / "postmaster.pid").read_text().split()[0])
    os.kill(process_id, number)

    async def is_gone() -> bool:
        return not _has_listener(data_dir)

    await until(is_gone)


def _has_listener(data_dir: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(embedded.socket_of(data_dir))) == 0


async def prove(*, restarts: int, events_between: int) -> int:
    """Crash and start Postgres so many times under load; answers the events acknowledged."""
    async with (
        own_cluster() as cluster,
        Receiver() as runner,
        serving(cluster.url) as server,
        serving(cluster.url, only="evaluate,deliver") as second,
    ):
        await server.api.deploy("d", runner.url, max_concurrency=100, retries=[0.1] * 20)
        await server.api.trigger("t", deployment="d", expect=["go"])
        posters = [_Poster(server) for _ in range(CONNECTIONS)]
        posting = [asyncio.create_task(poster.post()) for poster in posters]
        try:
            for _ in range(restarts):
                await _acknowledged(posters, events_between)
                await cluster.crash()
                await _refused(posters)
                await cluster.start()
                at = time.monotonic()
                await _acknowledged(posters, 1)
                took = time.monotonic() - at
                assert took < WORKS_AGAIN_SECONDS_MAX, f"it took {took:.1f} s to work again"
        finally:
            for task in posting:
                task.cancel()
            await asyncio.gather(*posting, return_exceptions=True)
        acknowledged = [event_id for poster in posters for event_id in poster.acknowledged]
        await server.api.all_evaluated()
        await until(lambda: _all_ended(server), within=120)
        runs = await server.api.runs()
        assert {run["state"] for run in runs} == {"completed"}
        await _check_events(server, acknowledged)
        assert server.process.returncode is None
        assert second.process.returncode is None
        return len(acknowledged)


class _Poster:
    """One connection that posts and waits for the answer, whatever it is."""

    def __init__(self, server: Server) -> None:
        self._http = httpx.AsyncClient(
            base_url=server.api.http.base_url, timeout=30, trust_env=False
        )
        self.acknowledged: list[str] = []
        self.refused = 0

    async def post(self) -> None:
        async with self._http:
            while True:
                body = {"event": "go", "resource": {"id": str(len(self.acknowledged))}}
                answer = await self._http.post("/v1/events", json=body)
                if answer.status_code == 201:
                    self.acknowledged.append(answer.json()["results"][0]["id"])
                else:
                    check_refusal(answer)
                    self.refused += 1


def check_refusal(answer: httpx.Response) -> None:
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["retry-after"]) > 0
    assert answer.json()["title"] == "Service Unavailable"


async def _acknowledged(posters: list[_Poster], more: int) -> None:
    wanted = [len(poster.acknowledged) + more for poster in posters]

    async def are() -> bool:
        return all(
            len(poster.acknowledged) >= count for poster, count in zip(posters, wanted, strict=True)
        )

    await until(are, within=60)


async def _refused(posters: list[_Poster]) -> None:
    before = [poster.refused for poster in posters]

    async def are() -> bool:
        return all(poster.refused > count for poster, count in zip(posters, before, strict=True))

    await until(are, within=30)


async def _all_ended(server: Server) -> bool:
    for state in ("scheduled", "running", "retrying"):
        page: Any = await server.api.get("/v1/runs", state=state, limit=1)
        if page["items"]:
            return False
    return True


async def _check_events(server: Server, acknowledged: list[str]) -> None:
    for event_id in acknowledged:
        shown = await server.api.get(f"/v1/events/{event_id}")
        assert len(shown["runs"]) == 1, f"event {event_id} has {len(shown['runs'])} runs"
