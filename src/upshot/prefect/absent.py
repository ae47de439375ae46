"""What Prefect's server has and Upshot has not: answered with where to look instead."""

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

from fastapi import Response

from upshot.api.problems import problem_answer
from upshot.prefect.routing import ReadRoute, new_router

router = new_router(ReadRoute)

_NO_POOLS: Final = (
    "Upshot has no work pools, queues and workers; serve the flow, `flow.serve()`, where it is to "
    "run."
)
_NO_UI: Final = (
    "Upshot has no UI of Prefect's; look at /docs, `upshot status` and `upshot run list`."
)
_NO_TASK_WORKERS: Final = (
    "Upshot runs no background tasks, `task.delay()` and `serve(task)`; call the task in a flow "
    "and run a deployment of it."
)

INSTEAD: Final[Mapping[str, str]] = {
    "/work_pools": _NO_POOLS,
    "/work_queues": _NO_POOLS,
    "/artifacts": "Upshot keeps no artifacts; log what is worth reading, or return it from the "
    "flow and store it where you like.",
    "/variables": "Upshot has no variables; give values as a deployment's parameters, or in the "
    "environment of the process that serves the flow.",
    "/saved_searches": "Upshot keeps no saved searches; `upshot run list` filters runs.",
    "/flow_run_notification_policies": "Upshot has no notification policies; let an automation "
    "on `prefect.flow-run.Failed` call a webhook.",
    "/task_workers": _NO_TASK_WORKERS,
    "/task_run_states": "Upshot keeps no history of task runs' states; they are in the log as "
    "events: /api/events/filter with `prefect.task-run.*`.",
    "/block_capabilities": "Upshot keeps no blocks but webhooks; make others in the flow's code.",
    "/collections": "Upshot has no catalogue of collections and workers; see "
    "https://docs.prefect.io/integrations.",
    "/ui": _NO_UI,
    "/ui-settings": _NO_UI,
    "/admin/settings": "Upshot's settings are in its environment, UPSHOT_...; see the README.",
    "/admin/database": "Upshot's database is not touched over HTTP; begin anew with `upshot serve "
    "--data-dir` and an empty directory.",
    "/flow_runs/history": "Upshot draws no histories; ask /v1/runs or POST /api/flow_runs/filter.",
    "/flow_runs/lateness": "Upshot tells how late runs begin in /metrics: "
    "upshot_delivery_delay_seconds.",
    "/task_runs/history": "Upshot draws no histories; task runs are in the log as events: "
    "/api/events/filter with `prefect.task-run.*`.",
    "/templates": "Upshot checks templates when an automation is saved.",
}
"""By how the path begins; it is that, or goes on with a slash."""

OF_ONE: Final[Mapping[str, str]] = {
    "/flow_runs/{run_id}/graph": "Upshot draws no graphs; a run's tasks are in the log as events.",
    "/flow_runs/{run_id}/graph-v2": "Upshot draws no graphs; a run's tasks are in the log as "
    "events.",
    "/flow_runs/{run_id}/logs/download": "Upshot gives logs in pages: POST /api/logs/filter, or "
    "`prefect flow-run logs`.",
    "/flows/bulk_delete": "Delete flows one by one: DELETE /api/flows/{id}.",
    "/deployments/bulk_delete": "Delete deployments one by one: DELETE /api/deployments/{id}.",
    "/flow_runs/bulk_delete": "Upshot deletes runs by their age, UPSHOT_RUN_RETENTION.",
    "/flow_runs/bulk_set_state": "Set flow runs' states one by one, or retry and cancel many at "
    "once with `upshot run`.",
    "/deployments/{deployment_id}/create_flow_run/bulk": "Ask for flow runs one by one: "
    "POST /api/deployments/{id}/create_flow_run.",
}

_METHODS: Final = ["GET", "POST", "PUT", "PATCH", "DELETE"]


def _absent(sentence: str) -> Callable[[], Coroutine[Any, Any, Response]]:
    async def answer() -> Response:
        return problem_answer(501, sentence)

    return answer


for _path, _sentence in OF_ONE.items():
    router.add_api_route(_path, _absent(_sentence), methods=_METHODS)
for _begin, _sentence in INSTEAD.items():
    for _path in (_begin, _begin + "/{rest:path}"):
        router.add_api_route(_path, _absent(_sentence), methods=_METHODS)
