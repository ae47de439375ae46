"""Prefect's API put together, to be mounted as `/api` beside `/v1`."""

import asyncio

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from upshot.api.problems import answer_to, problem_answer
from upshot.prefect import (
    absent,
    admin,
    automations,
    block_types,
    blocks,
    concurrency_limits,
    deployments,
    events,
    flow_runs,
    flows,
    logs,
    logs_out,
    new_runs,
    polling,
    run_inputs,
    run_lists,
    stream_in,
    stream_out,
    task_runs,
)
from upshot.prefect.sockets import Sockets
from upshot.prefect.stream_in import Intake
from upshot.prefect.tail import Tail
from upshot.workers.loops import Line
from upshot.workers.signals import Signals

PATH = "/api"
_PATH_CHARS_SHOWN = 200


def mount(app: FastAPI, line: Line | None = None) -> None:
    """Serve Prefect's API below `/api` of this app, with its services, guard and limits.

    `line` tells when something is appended to the log; without it one has to look.
    """
    prefect = FastAPI(
        openapi_url=None,
        redirect_slashes=False,
        strict_content_type=False,
        exception_handlers={HTTPException: _not_routed, Exception: _not_routed},
    )
    app.state.sockets = Sockets()
    app.state.intake = Intake(app.state.services.ingest)
    app.state.tail = Tail(line or Line(app.state.services.database, Signals(), asyncio.Event()))
    # What the server has once, whoever asks.
    prefect.state = app.state
    for module in (
        admin,
        automations,
        block_types,
        blocks,
        concurrency_limits,
        deployments,
        events,
        flow_runs,
        flows,
        logs,
        logs_out,
        new_runs,
        polling,
        run_inputs,
        run_lists,
        stream_in,
        stream_out,
        task_runs,
        absent,
    ):
        prefect.include_router(module.router)
    prefect.include_router(admin.without_key)
    app.mount(PATH, _WithoutLastSlash(prefect))


class _WithoutLastSlash:
    """The client writes `/flows/`, and later versions of it `/flows`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if path.endswith("/") and path.rstrip("/") != PATH:
            scope = {**scope, "path": path.rstrip("/")}
        await self._app(scope, receive, send)


async def _not_routed(request: Request, error: Exception) -> Response:
    """Paths that are not there, and methods."""
    asked = request.url.path[:_PATH_CHARS_SHOWN]
    match error:
        case HTTPException(status_code=404):
            detail = (
                f"There is no {asked} here; docs/prefect.md says what of Prefect's API there is."
            )
            return problem_answer(404, detail)
        case HTTPException(status_code=405):
            detail = f"{asked} is not to be asked with {request.method}; see docs/prefect.md."
            return problem_answer(405, detail, headers=error.headers)
    return answer_to(error)
