"""Runners that ask which runs of their deployments they can begin."""

from typing import Annotated
from uuid import UUID

from fastapi import Response
from pydantic import Field

from upshot.api.answers import json_answer
from upshot.api.paging import Time
from upshot.api.services import Using
from upshot.core.limits import (
    FILTER_VALUES_MAX,
    FLOW_RUNS_POLLED_MAX,
    OWNED_KEPT_AFTER_THE_NEXT_FOR,
)
from upshot.prefect.flow_filters import or_default
from upshot.prefect.routing import Sent, new_router
from upshot.prefect.run_view import flow_run_document, known_of
from upshot.storage import automations, flow_run_lists, flow_runs, queue

router = new_router()


class Polled(Sent):
    deployment_ids: Annotated[list[UUID], Field(max_length=FILTER_VALUES_MAX)]
    scheduled_before: Time | None = None
    limit: Annotated[
        int, or_default(FLOW_RUNS_POLLED_MAX), Field(ge=0, le=FLOW_RUNS_POLLED_MAX)
    ] = FLOW_RUNS_POLLED_MAX


@router.post("/deployments/get_scheduled_flow_runs")
async def get_scheduled_flow_runs(services: Using, asked: Polled) -> Response:
    """Runs that are due by then and for which there is room, the first due first.

    Nothing is claimed: a runner has a run when it has proposed Pending. Who asks is alive, and so
    are the runs it works on.
    """
    async with services.database.begin() as conn:
        await flow_run_lists.note_polled(conn, asked.deployment_ids)
        await flow_runs.prolong_all(conn, asked.deployment_ids)
        # It has made its automations: those that it did not make again have not long to wait.
        owners = [f"prefect.deployment.{one}" for one in asked.deployment_ids]
        await automations.hasten(conn, owners, within=OWNED_KEPT_AFTER_THE_NEXT_FOR)
    async with services.database.begin() as conn:
        if await flow_run_lists.are_slots_changed(conn):
            await queue.hold_claims(conn)
        due = await flow_run_lists.due(
            conn, asked.deployment_ids, before=asked.scheduled_before, limit=asked.limit
        )
        found = {run.id: run for run in await flow_runs.load_all(conn, due)}
        now = await flow_runs.now(conn)
    return json_answer(
        [
            flow_run_document(known_of(found[run_id], now=now), now=now)
            for run_id in due
            if run_id in found
        ]
    )
