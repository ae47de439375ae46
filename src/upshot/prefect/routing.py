"""How every operation of `/api` runs: admit, read, do, and answer problems in one way."""

from typing import ClassVar

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from upshot.api.auth import ADMIN
from upshot.api.routing import Route
from upshot.core.limits import BODY_BYTES_MAX
from upshot.storage.api_keys import Scope


class Sent(BaseModel):
    """What a client sends. Fields of other versions of the client are ignored."""

    model_config = ConfigDict(extra="ignore")


class PrefectRoute(Route):
    """Like every route, but that logs come in large bodies and that reading is often a POST."""

    json_bytes_max = BODY_BYTES_MAX
    _reads: ClassVar[tuple[str, ...]] = ("/filter", "/count", "/paginate", "/filter/next")
    _of_runs: ClassVar[tuple[str, ...]] = (
        "/flow_runs",
        "/task_runs",
        "/logs",
        "/flow_run_states",
        "/v2/concurrency_limits/",
        "/concurrency_limits/",
    )
    _for_runs: ClassVar[tuple[str, ...]] = ("/flows", "/deployments/get_scheduled_flow_runs")

    def needed_scope(self, method: str) -> Scope:
        """What runs a flow that is deployed needs `runs` and `read`; its events, `events:write`.
        Serving a flow makes deployments and automations, which needs `admin`.
        """
        path = self.path
        if method == "GET" or path.endswith(self._reads) or "/count-by/" in path:
            return "read"
        if path == "/events":
            return "events:write"
        if path.startswith(self._of_runs) or (method == "POST" and path in self._for_runs):
            return "runs"
        return ADMIN


class ReadRoute(PrefectRoute):
    """What changes nothing, whatever its method."""

    def needed_scope(self, method: str) -> Scope:
        return "read"


def new_router(route: type[PrefectRoute] = PrefectRoute) -> APIRouter:
    return APIRouter(route_class=route)
