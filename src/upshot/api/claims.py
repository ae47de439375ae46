"""Pull workers: they ask for due runs, and wait for some where there are none."""

from collections.abc import Iterable
from datetime import timedelta
from typing import Annotated, Any
from uuid import UUID

import msgspec
from fastapi import Body, Request, Response
from pydantic import AfterValidator, AwareDatetime, BaseModel, Field

from upshot.api.answers import json_answer
from upshot.api.problems import BODY, problems
from upshot.api.routing import new_router
from upshot.api.services import Services, Using
from upshot.core.delivery import call_body
from upshot.core.errors import Conflict, NotFound, Problem
from upshot.core.language import Duration, Name, Storable, Strict
from upshot.core.limits import (
    CLAIM_DEPLOYMENTS_MAX,
    CLAIM_WAIT_MAX,
    CLAIMED_AT_ONCE_MAX,
    WORKER_NAME_CHARS_MAX,
)
from upshot.pipeline.offer import Wanted
from upshot.storage import deployments
from upshot.storage.queue import ClaimedRun

router = new_router("runs")


def _wait_is_short(wait: timedelta) -> timedelta:
    if wait > CLAIM_WAIT_MAX:
        raise ValueError(f"must be at most {CLAIM_WAIT_MAX.total_seconds():.0f} seconds")
    return wait


class Claim(Strict):
    """What a worker can take."""

    deployments: list[Name] = Field(
        default=[],
        max_length=CLAIM_DEPLOYMENTS_MAX,
        description="Runs of these; none named: of all whose runner is `pull`.",
        examples=[["post-order-complete"]],
    )
    max: int = Field(
        default=1, ge=1, le=CLAIMED_AT_ONCE_MAX, strict=True, description="How many runs at most."
    )
    wait: Annotated[Duration, AfterValidator(_wait_is_short)] = Field(
        default=CLAIM_WAIT_MAX,
        description="How long to wait for one, at most 30 s. 0 answers at once.",
    )
    worker: Annotated[
        str,
        Storable,
        Field(
            min_length=1,
            max_length=WORKER_NAME_CHARS_MAX,
            description="The worker's name; attempts show it.",
        ),
    ] = "worker"


class Claimed(BaseModel):
    """A run that is the worker's until `lease_until`; each report `running` prolongs that."""

    run_id: UUID = Field(description="The same at every attempt.")
    deployment: str
    parameters: dict[str, Any]
    trigger: str | None = Field(description="null: somebody asked for the run.")
    labels: dict[str, Any]
    event: dict[str, Any] | None
    attempt: int
    scheduled_at: AwareDatetime
    lease: UUID = Field(description="To be sent with each report.")
    lease_until: AwareDatetime


class ClaimedRuns(BaseModel):
    """The oldest first; empty when the wait is over."""

    items: list[Claimed]


@router.post(
    "/v1/runs/claim",
    summary="Take runs, as a worker",
    response_model=ClaimedRuns,
    responses=problems(*BODY, 404, 409),
)
async def claim_runs(
    services: Using,
    request: Request,
    claim: Annotated[
        Claim | None, Body(examples=[{"deployments": ["post-order-complete"], "max": 1}])
    ] = None,
) -> Response:
    """For deployments whose runner is `pull`: due runs, each under a lease of 30 s.

    A run whose lease has run out is offered again. Whoever is gone when runs come gets none.
    """
    claim = claim or Claim()
    await _check(services, claim.deployments)
    wanted = Wanted(
        worker=claim.worker,
        deployments=frozenset(claim.deployments) or None,
        limit=claim.max,
    )
    claimed = await services.offers.take(wanted, wait=claim.wait, is_gone=request.is_disconnected)
    return json_answer({"items": [_shown(run) for run in claimed]})


async def _check(services: Services, names: Iterable[str]) -> None:
    """A worker that waits for what never comes is told so."""
    wanted = sorted(set(names))
    if not wanted:
        return
    async with services.database.begin() as conn:
        pulls = await deployments.pulling(conn, wanted)
    for name in wanted:
        where = [Problem(("deployments", list(names).index(name)), "Not to be pulled.")]
        if name not in pulls:
            raise NotFound(f"There is no deployment {name!r}.", where)
        if not pulls[name]:
            raise Conflict(
                f'Deployment {name!r} is called. Give it the runner {{"type": "pull"}}.', where
            )


def _shown(run: ClaimedRun) -> msgspec.Raw:
    return msgspec.Raw(
        call_body(
            run_id=run.id,
            deployment=run.deployment,
            parameters=run.parameters or "{}",
            trigger=run.trigger,
            labels=run.labels,
            event=run.event,
            attempt=run.attempt,
            scheduled_at=run.scheduled_at,
            lease=run.lease,
            lease_until=run.lease_until,
        )
    )
