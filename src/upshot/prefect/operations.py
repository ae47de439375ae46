"""Prefect's API put together: its operations, with their services, guard and limits."""

from fastapi import FastAPI, Request, Response
from starlette.datastructures import State
from starlette.exceptions import HTTPException

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

_PATH_CHARS_SHOWN = 200


def operations(state: State, line: Line) -> FastAPI:
    """All of it on the state of the app that it is a part of."""
    prefect = FastAPI(
        openapi_url=None,
        redirect_slashes=False,
        strict_content_type=False,
        exception_handlers={HTTPException: _not_routed, Exception: _not_routed},
    )
    state.sockets = Sockets()
    state.intake = Intake(state.services.ingest)
    state.tail = Tail(line)
    # What the server has once, whoever asks.
    prefect.state = state
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
    return prefect


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
