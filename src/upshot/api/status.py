"""How the server is: status, health, readiness, metrics."""

import asyncio
from datetime import datetime
from importlib.metadata import version
from typing import Final, cast

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, Field
from sqlalchemy.ext.asyncio import AsyncConnection

from upshot import metrics
from upshot.api.answers import json_answer
from upshot.api.problems import problem_answer, problems
from upshot.api.routing import new_router
from upshot.api.services import Services, Using
from upshot.core.breaker import BreakerState
from upshot.core.limits import BREAKERS_SHOWN_MAX, COUNTS_CACHED_FOR
from upshot.storage import breakers, status
from upshot.storage.breakers import NotClosed
from upshot.storage.status import Counts

VERSION: Final = version("upshot")
RETRY_AFTER_NOT_READY: Final = "2"

router = new_router("status")
health = APIRouter(tags=["status"])
own_metrics = new_router("status")


class RunsOpen(BaseModel):
    """Runs that have not ended."""

    scheduled: int
    running: int
    retrying: int


class Status(BaseModel):
    """How far the line has got, and how much there is. Counts are up to 10 s old."""

    version: str
    head: int = Field(description="The last position of the log that was handed out.")
    evaluated: int = Field(description="The highest position that is evaluated.")
    lag_seconds: float = Field(
        description="The age of the oldest event that is not yet evaluated; 0: all are."
    )
    runs: RunsOpen
    triggers: int
    deployments: int
    open_keys: int
    evaluation_errors: int = Field(description="Events set aside for a trigger.")
    postgres: str = Field(description="The database's version.")


class Alive(BaseModel):
    alive: bool


class Ready(BaseModel):
    ready: bool


class CountsCache:
    """Counts cost more than they are worth to be fresh."""

    def __init__(self) -> None:
        self._counts: Counts | None = None
        self._counted_at: datetime | None = None
        self._counting = asyncio.Lock()

    async def get(self, conn: AsyncConnection, now: datetime) -> Counts:
        async with self._counting:
            if (
                self._counts is None
                or self._counted_at is None
                or now - self._counted_at >= COUNTS_CACHED_FOR
            ):
                self._counts = await status.counts(conn)
                self._counted_at = now
            return self._counts


@router.get("/v1/status", summary="Status", response_model=Status, responses=problems())
async def show_status(request: Request, services: Using) -> Response:
    """Where the log's head is, how far it is evaluated, and how much there is of everything."""
    lag, counts = await _measure(request, services)
    return json_answer(
        {
            "version": VERSION,
            "head": lag.head,
            "evaluated": lag.evaluated,
            "lag_seconds": round(lag.seconds, 3),
            "runs": counts.open_runs,
            "triggers": counts.triggers,
            "deployments": counts.deployments,
            "open_keys": counts.open_keys,
            "evaluation_errors": counts.evaluation_errors,
            "postgres": counts.postgres,
        }
    )


@own_metrics.get(
    "/metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Metrics."},
        **problems(),
    },
)
async def show_metrics(request: Request, services: Using) -> Response:
    """Counters are of this server since it was started; gauges of the database."""
    lag, counts = await _measure(request, services)
    async with services.database.begin() as conn:
        not_closed = await breakers.not_closed(conn, limit=BREAKERS_SHOWN_MAX)
    answered = metrics.exposed(_measured(lag, counts, not_closed))
    return Response(answered, headers={"content-type": CONTENT_TYPE_LATEST})


def _measured(lag: status.Lag, counts: Counts, not_closed: NotClosed) -> metrics.Measured:
    found = metrics.Measured()
    found.add("upshot_log_head", "The last position of the log that was handed out.", lag.head)
    found.add("upshot_log_evaluated", "The highest position that is evaluated.", lag.evaluated)
    found.add(
        "upshot_log_lag_seconds",
        "The age of the oldest event that is not yet evaluated.",
        lag.seconds,
    )
    found.add("upshot_open_keys", "Keys of triggers that are open.", counts.open_keys)
    found.add("upshot_triggers", "Triggers registered.", counts.triggers)
    found.add("upshot_deployments", "Deployments registered.", counts.deployments)
    found.add_each(
        "upshot_runs_open", "Runs that have not ended, by state.", "state", counts.open_runs
    )
    found.add_each(
        "upshot_breakers",
        "Runners that are not called as usual, by their breakers' state.",
        "state",
        {
            state.value: not_closed.counts.get(state, 0)
            for state in (BreakerState.OPEN, BreakerState.HALF_OPEN)
        },
    )
    found.add_each(
        "upshot_breaker_not_closed",
        f"1 for a deployment whose runner is not called as usual; the first {BREAKERS_SHOWN_MAX} "
        "by name.",
        "deployment",
        dict.fromkeys(not_closed.names, 1),
    )
    return found


@health.get("/healthz", summary="Is it alive?", response_model=Alive)
async def healthz() -> Response:
    """200 as long as the process answers."""
    return json_answer({"alive": True})


@health.get(
    "/readyz",
    summary="Is it ready?",
    response_model=Ready,
    responses={503: problems()[503]},
)
async def readyz(services: Using) -> Response:
    """200 when everything can be served; else 503, with what is missing."""
    missing = services.not_ready()
    if missing is not None:
        return problem_answer(503, missing, headers={"retry-after": RETRY_AFTER_NOT_READY})
    return json_answer({"ready": True})


async def _measure(request: Request, services: Services) -> tuple[status.Lag, Counts]:
    cache = cast(CountsCache, request.app.state.counts)
    async with services.database.begin() as conn:
        lag = await status.lag(conn)
        return lag, await cache.get(conn, services.now())
