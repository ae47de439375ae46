"""The HTTP API put together."""

from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from upshot.api import (
    asked_runs,
    backtest,
    claims,
    deployments,
    docs,
    events,
    explain,
    keys,
    retries,
    runs,
    status,
    triggers,
)
from upshot.api.auth import Guard
from upshot.api.bodies import Bodies
from upshot.api.problems import answer_to
from upshot.api.routing import answer
from upshot.api.services import Services
from upshot.pipeline.backtest import Backtests


def create_app(services: Services) -> FastAPI:
    """The HTTP API on these services."""
    app = _new_app(services, _App)
    for module in (
        events,
        triggers,
        backtest,
        explain,
        keys,
        deployments,
        asked_runs,
        claims,
        runs,
        retries,
        status,
    ):
        app.include_router(module.router)
    app.include_router(status.health)
    app.include_router(status.own_metrics)
    app.include_router(docs.router)
    app.mount("/docs/assets", StaticFiles(directory=docs.ASSETS), name="assets")
    return app


def create_health_app(services: Services) -> FastAPI:
    """What a process without the API serves of itself: health, readiness, metrics."""
    app = _new_app(services)
    app.include_router(status.health)
    app.include_router(status.own_metrics)
    return app


class _App(FastAPI):
    """Posting events goes past the framework's layers: they cost more than storing an event.

    What it is in the documentation is the same function.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != events.PATH or scope["method"] != "POST":
            await super().__call__(scope, receive, send)
            return
        scope["app"] = self
        request = Request(scope, receive, send)
        answered = await answer(request, events.post_events, scope=events.NEEDED_SCOPE)
        await answered(scope, receive, send)


def _new_app(services: Services, kind: type[FastAPI] = FastAPI) -> FastAPI:
    app = kind(
        title="Upshot",
        version=status.VERSION,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        strict_content_type=False,
        generate_unique_id_function=_operation_id,
        exception_handlers={HTTPException: _not_routed, Exception: _not_routed},
    )
    app.state.services = services
    app.state.guard = Guard(services)
    app.state.bodies = Bodies()
    app.state.counts = status.CountsCache()
    app.state.explaining = explain.Turns()
    app.state.backtests = Backtests(services.now)
    return app


def _operation_id(route: APIRoute) -> str:
    return route.name


async def _not_routed(_: Request, error: Exception) -> Response:
    """Paths and methods that do not exist."""
    return answer_to(error)
