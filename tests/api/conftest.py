"""The API on a real database, its events stored by the real ingest, evaluated when a test says."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count, takewhile
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from starlette.routing import BaseRoute

from upshot.api.app import create_app
from upshot.api.services import Services
from upshot.core.intake import NewEvent
from upshot.pipeline.evaluate import Evaluator
from upshot.pipeline.ingest import Ingest, Result
from upshot.pipeline.render import Renderers
from upshot.settings import Settings
from upshot.storage import queue
from upshot.storage.database import Database
from upshot.workers import loops
from upshot.workers.offers import Offers
from upshot.workers.signals import Signals

RUNNER = {"type": "webhook", "url": "http://127.0.0.1:9000/run"}
SHOP = {
    "deployment": "post-order-complete",
    "after": ["order.created"],
    "expect": ["order.complete"],
    "for_each": ["prefect.resource.id"],
    "parameters": {"user_id": "{{ event.resource.id }}"},
}


@dataclass(slots=True)
class Clock:
    """The time as the API sees it, in the test's hand."""

    at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __call__(self) -> datetime:
        return self.at

    def advance(self, by: timedelta) -> None:
        self.at += by


@dataclass(frozen=True, slots=True)
class Posting:
    """The ingest stage, and the wait for the evaluator."""

    ingest: Ingest
    line: loops.Line

    async def append(self, events: Sequence[NewEvent]) -> list[Result]:
        return await self.ingest.append(events)

    async def evaluated(self, ids: Sequence[UUID], within: timedelta) -> bool:
        return await loops.evaluated(self.line, ids, within=within)


@dataclass(slots=True)
class Api:
    """A client of the API, and what tests do behind its back."""

    app: FastAPI
    client: httpx.AsyncClient
    conn: asyncpg.Connection
    clock: Clock
    woken: list[str]
    line: loops.Line

    async def put(self, path: str, body: Any, **more: Any) -> httpx.Response:
        return await self.client.put(path, json=body, **more)

    async def get(self, path: str, **params: Any) -> Any:
        answer = await self.client.get(path, params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def post_events(self, *events: dict[str, Any]) -> list[str]:
        """Their ids."""
        answer = await self.client.post("/v1/events", json=list(events))
        assert answer.status_code == 201, answer.text
        return [result["id"] for result in answer.json()["results"]]

    async def shop(self, **more: Any) -> None:
        """The deployment and the trigger of the shop."""
        made = await self.put("/v1/deployments/post-order-complete", {"runner": RUNNER})
        assert made.status_code in (200, 201), made.text
        made = await self.put("/v1/triggers/order-complete", {**SHOP, **more})
        assert made.status_code in (200, 201), made.text

    async def evaluate(self) -> None:
        """Evaluate all that is posted."""
        evaluator = await Evaluator.load(self.conn, key_retention=timedelta(days=90))
        while (await evaluator.turn()).events:
            pass

    async def order(self, user: str) -> str:
        """An order that is created and complete, and evaluated; the id of the run it led to."""
        await self.post_events(
            {"event": "order.created", "resource": {"id": user}},
            {"event": "order.complete", "resource": {"id": user}},
        )
        await self.evaluate()
        run_id: str = (await self.get("/v1/runs", limit=1))["items"][0]["id"]
        return run_id

    async def claim(self) -> queue.ClaimedRun:
        """The one run that is due."""
        async with self.conn.transaction():
            (claimed,) = await queue.claim(self.conn, limit=10, lease=timedelta(seconds=30))
        return claimed

    async def claim_one(self) -> queue.ClaimedRun:
        """One of the runs that are due."""
        async with self.conn.transaction():
            (claimed,) = await queue.claim(self.conn, limit=1, lease=timedelta(seconds=30))
        return claimed

    async def end_attempt(self, run: queue.ClaimedRun, state: str, **more: Any) -> None:
        """Write down how the attempt of a claimed run ended."""
        outcome = queue.Outcome(
            run_id=run.id,
            lease=run.lease,
            state=state,
            attempt=run.attempt,
            started_at=datetime.now(UTC),
            duration=0.25,
            outcome="accepted" if state == "running" else state,
            **more,
        )
        async with self.conn.transaction():
            assert await queue.finish_if_leased(self.conn, [outcome]) == {run.id}


def settings_of(**settings: Any) -> Settings:
    """The defaults and these, whatever `.env` says."""
    arguments: dict[str, Any] = {"_env_file": None, **settings}
    return Settings(**arguments)


MakeApi = Callable[..., Api]

_READY_ROUTES: dict[str, list[BaseRoute]] = {}


@pytest.fixture
async def make_api(database: Database, conn: asyncpg.Connection) -> AsyncIterator[MakeApi]:
    """Makes APIs with settings of their own."""
    signals = Signals()
    ingest = Ingest(on_stored=lambda: None)
    line = loops.Line(database, signals, asyncio.Event())
    writer = await database.connect()
    writing = asyncio.create_task(ingest.write(writer))
    await opened(ingest)
    renderers = Renderers()
    offers = Offers(line, renderers)
    watching = asyncio.create_task(offers.watch())
    clients: list[httpx.AsyncClient] = []

    def make(
        *,
        base_url: str = "http://127.0.0.1:8484",
        not_ready: str | None = None,
        api_database: Database = database,
        **settings: Any,
    ) -> Api:
        woken: list[str] = []
        clock = Clock()
        app = create_app(
            Services(
                settings=settings_of(**settings),
                database=api_database,
                ingest=Posting(ingest, line),
                offers=offers,
                wake=woken.append,
                not_ready=lambda: not_ready,
                now=clock,
            )
        )
        share_routes(app, "v1")
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        client = httpx.AsyncClient(transport=transport, base_url=base_url)
        clients.append(client)
        return Api(app=app, client=client, conn=conn, clock=clock, woken=woken, line=line)

    yield make
    for client in clients:
        await client.aclose()
    line.stopping.set()
    signals.wake(loops.OFFER)
    await watching
    await renderers.stop()
    writing.cancel()
    await asyncio.wait({writing})
    await writer.close()


def share_routes(app: FastAPI, kind: str) -> None:
    """Give an app the routes of the first of its kind, which are the same.

    FastAPI makes them ready when they are first looked at, and that takes longer than most tests.
    """
    app.router.routes[:] = _READY_ROUTES.setdefault(kind, list(app.router.routes))


async def opened(ingest: Ingest) -> None:
    """Events are refused until a writer has its connection."""
    for _ in takewhile(lambda _: not ingest.is_open, count()):
        await asyncio.sleep(0)


@pytest.fixture
async def api(make_api: MakeApi) -> Api:
    return make_api()


@pytest.fixture
def base_url(database_url: str) -> Iterator[str]:
    """The address of the API, served by uvicorn on a loop of its own, with an evaluator."""
    bound = socket.create_server(("127.0.0.1", 0))
    stopping = threading.Event()
    server = threading.Thread(target=lambda: asyncio.run(serve(bound, database_url, stopping)))
    server.start()
    yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    stopping.set()
    server.join()


async def serve(
    bound: socket.socket,
    database_url: str,
    stopping: threading.Event,
    *,
    mount: Callable[[FastAPI], None] = lambda _: None,
) -> None:
    """Serve the API, and what `mount` adds to it, until it is told to stop."""
    database = Database(lambda: database_url)
    line = loops.Line(database, Signals(), asyncio.Event())
    ingest = Ingest(on_stored=lambda: line.signals.wake(loops.EVALUATE))
    renderers = Renderers()
    offers = Offers(line, renderers)
    app = create_app(
        Services(
            settings=settings_of(),
            database=database,
            ingest=Posting(ingest, line),
            offers=offers,
            wake=partial(loops.wake, line.signals),
            not_ready=lambda: None,
            now=lambda: datetime.now(UTC),
        )
    )
    mount(app)
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None))
    writer = await database.connect()
    async with asyncio.TaskGroup() as tasks:
        writing = tasks.create_task(ingest.write(writer))
        tasks.create_task(loops.evaluate(line, key_retention=timedelta(days=90)))
        tasks.create_task(offers.watch())
        tasks.create_task(server.serve(sockets=[bound]))
        await asyncio.to_thread(stopping.wait)
        server.should_exit = True
        line.stopping.set()
        writing.cancel()
    await renderers.stop()
    await writer.close()
    await database.close()
