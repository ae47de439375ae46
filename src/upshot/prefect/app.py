"""Prefect's API, mounted as `/api` beside `/v1` and put together when it is first asked for."""

import asyncio
from collections.abc import Callable

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from upshot.workers.loops import Line
from upshot.workers.signals import Signals

PATH = "/api"


def mount(app: FastAPI, told_by: Line | None = None) -> None:
    """Serve Prefect's API below `/api` of this app.

    `told_by` tells when something is appended to the log; without it one has to look.
    """
    line = told_by or Line(app.state.services.database, Signals(), asyncio.Event())

    def make() -> FastAPI:
        # A sixth of all there is to import, and whoever has no Prefect does without.
        from upshot.prefect.operations import operations

        return operations(app.state, line)

    app.mount(PATH, _WithoutLastSlash(MadeWhenAsked(make)))


class MadeWhenAsked:
    """An app that is made for its first request, while others are served."""

    def __init__(self, make: Callable[[], FastAPI]) -> None:
        self._make = make
        self._made: FastAPI | None = None
        self._making = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._made is None:
            async with self._making:
                await asyncio.to_thread(self.made)
        await self.made()(scope, receive, send)

    def made(self) -> FastAPI:
        if self._made is None:
            self._made = self._make()
        return self._made


class _WithoutLastSlash:
    """The client writes `/flows/`, and later versions of it `/flows`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if path.endswith("/") and path.rstrip("/") != PATH:
            scope = {**scope, "path": path.rstrip("/")}
        await self._app(scope, receive, send)
