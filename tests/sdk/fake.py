"""The calls of the server that the SDK makes, over real HTTP, answered as a test wants it."""

import asyncio
import json
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Self
from uuid import uuid4

from aiohttp import web

SIGNAL_WITHIN_SECONDS = 30.0

Answer = tuple[int, Any]


class FakeServer:
    """Hands out the runs that are offered, and keeps what it was told. An async context manager.

    `on_report` and `on_events` answer reports and events where they return something.
    """

    def __init__(self, *, port: int = 0) -> None:
        self.port = port
        self.deployments: dict[str, dict[str, Any]] = {}
        self.triggers: dict[str, dict[str, Any]] = {}
        self.reports: list[tuple[str, dict[str, Any]]] = []
        self.claims: list[dict[str, Any]] = []
        self.posts: list[list[dict[str, Any]]] = []
        self.keys: set[str | None] = set()
        self.calls: list[str] = []
        self.on_call: Callable[[str, str], Answer | None] = lambda method, path: None
        self.on_report: Callable[[str, dict[str, Any]], Answer | None] = lambda run, report: None
        self.on_events: Callable[[list[dict[str, Any]]], Answer | None] = lambda events: None
        self._offers: deque[dict[str, Any]] = deque()
        self._changed = asyncio.Condition()
        self._closing = False

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=2**23)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = int(self._runner.addresses[0][1])
        return self

    async def __aexit__(self, *_: object) -> None:
        async with self._changed:
            self._closing = True
            self._changed.notify_all()
        await self._runner.cleanup()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def offer(
        self,
        deployment: str,
        parameters: dict[str, Any] | None = None,
        *,
        run_id: str | None = None,
        lease: str | None = None,
        **more: Any,
    ) -> str:
        """Have the next claim answer this run; answers its id."""
        item = offered(deployment, parameters, run_id=run_id, lease=lease, **more)
        async with self._changed:
            self._offers.append(item)
            self._changed.notify_all()
        return str(item["run_id"])

    async def until(self, claim: Callable[[], object]) -> None:
        """Wait until it holds; whatever a client tells is a reason to look again."""
        async with asyncio.timeout(SIGNAL_WITHIN_SECONDS), self._changed:
            await self._changed.wait_for(claim)

    def said(self, run_id: str, *, state: str | None = None) -> list[dict[str, Any]]:
        """The reports on a run, or those of a state."""
        reports = [report for run, report in self.reports if run == run_id]
        return [report for report in reports if state in (None, report["state"])]

    async def ended(self, run_id: str) -> dict[str, Any]:
        """Wait for the report of its end."""

        def ends() -> list[dict[str, Any]]:
            return [one for one in self.said(run_id) if one["state"] != "running"]

        await self.until(ends)
        return ends()[0]

    async def _answer(self, request: web.Request) -> web.Response:
        self.keys.add(request.headers.get("authorization"))
        path = f"/{request.match_info['path']}"
        forced = self.on_call(request.method, path)
        if forced is None:
            status, document = await self._dispatch(request, path)
        else:
            status, document = forced
        async with self._changed:
            self.calls.append(f"{request.method} {path}")
            self._changed.notify_all()
        return web.Response(
            status=status,
            body=b"" if document is None else json.dumps(document).encode(),
            content_type="application/json",
        )

    async def _dispatch(self, request: web.Request, path: str) -> Answer:
        body: Any = await request.json() if request.can_read_body else None
        collection, _, name = path.removeprefix("/v1/").partition("/")
        routes: dict[tuple[str, str], Callable[[], Awaitable[Answer]]] = {
            ("POST", "runs"): lambda: self._claim(body),
            ("PATCH", "runs"): lambda: self._report(name, body),
            ("POST", "events"): lambda: self._events(body),
        }
        if (request.method, collection) in routes:
            return await routes[request.method, collection]()
        named = {"deployments": self.deployments, "triggers": self.triggers}[collection]
        return self._named(request.method, named, name, body)

    def _named(self, method: str, named: dict[str, dict[str, Any]], name: str, body: Any) -> Answer:
        match method:
            case "PUT":
                status = 200 if name in named else 201
                named[name] = {"enabled": True, "tags": [], **body, "name": name}
                return status, named[name]
            case "DELETE":
                return 204, named.pop(name) and None
            case _ if not name:
                return 200, {"items": list(named.values()), "next_cursor": None}
            case _ if name in named:
                return 200, named[name]
        return 404, {"detail": f"There is no {name}."}

    async def _claim(self, asked: dict[str, Any]) -> Answer:
        self.claims.append(asked)
        async with self._changed:
            self._changed.notify_all()
            await self._changed.wait_for(lambda: self._offers or self._closing)
            if self._closing:
                return 503, {"detail": "The server is going away."}
            items = [self._offers.popleft() for _ in range(min(asked["max"], len(self._offers)))]
        return 200, {"items": items}

    async def _report(self, run_id: str, report: dict[str, Any]) -> Answer:
        self.reports.append((run_id, report))
        answered = self.on_report(run_id, report)
        return answered or (200, {"state": report["state"], "lease_until": None, "cancel": False})

    async def _events(self, events: list[dict[str, Any]]) -> Answer:
        self.posts.append(events)
        answered = self.on_events(events)
        return answered or (201, stored(events))


async def logged(text: str) -> None:
    """Wait until the SDK says something with this text in it."""
    said = asyncio.Event()

    class Listening(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if text in record.getMessage():
                said.set()

    logger, handler = logging.getLogger("upshot"), Listening()
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        await asyncio.wait_for(said.wait(), SIGNAL_WITHIN_SECONDS)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def offered(
    deployment: str,
    parameters: dict[str, Any] | None = None,
    *,
    run_id: str | None = None,
    lease: str | None = None,
    **more: Any,
) -> dict[str, Any]:
    """A run as it is handed out."""
    return {
        "run_id": run_id or str(uuid4()),
        "deployment": deployment,
        "parameters": parameters or {},
        "trigger": None,
        "labels": {},
        "event": None,
        "attempt": 1,
        "scheduled_at": "2026-01-05T08:00:00Z",
        "lease": lease or str(uuid4()),
        "lease_until": "2026-01-05T08:00:30Z",
        **more,
    }


def stored(events: list[dict[str, Any]]) -> dict[str, Any]:
    return {"results": [{"id": event["id"], "status": "accepted"} for event in events]}
