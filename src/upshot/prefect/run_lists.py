"""Lists of runs of flows.

A state may follow from the line, the clock and what the client said, so runs are looked through one
by one: the newest of each deployment, and of those without one, as many as the limit allows.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import Body, Response
from sqlalchemy.ext.asyncio import AsyncConnection

from upshot.api.answers import json_answer
from upshot.api.services import Using
from upshot.core.limits import FILTER_VALUES_MAX, FLOW_RUNS_LOOKED_AT_MAX
from upshot.prefect.flow_filters import Filter, page_of
from upshot.prefect.routing import new_router
from upshot.prefect.run_filters import (
    FlowRunFilter,
    Looked,
    RunsCounted,
    RunsListed,
    RunsPaged,
    is_wanted,
    only_open,
    sorted_by,
)
from upshot.prefect.run_view import Known, flow_run_document, known_of
from upshot.storage import flow_deployments, flow_run_lists, flow_runs, flows
from upshot.storage.flow_run_lists import Among

router = new_router()


@router.post("/flow_runs/filter")
async def list_flow_runs(
    services: Using, asked: Annotated[RunsListed | None, Body()] = None
) -> Response:
    asked = asked or RunsListed()
    async with services.database.begin() as conn:
        found, now = await _found(conn, asked)
        shown = await _shown(conn, sorted_by(found, asked.sort), asked, now)
    return json_answer(shown)


@router.post("/flow_runs/paginate")
async def page_flow_runs(
    services: Using, asked: Annotated[RunsPaged | None, Body()] = None
) -> Response:
    asked = asked or RunsPaged()
    async with services.database.begin() as conn:
        found, now = await _found(conn, asked)
        shown = await _shown(conn, sorted_by(found, asked.sort), asked, now)
    return json_answer(page_of(shown, count=len(found), asked=asked))


@router.post("/flow_runs/count")
async def count_flow_runs(
    services: Using, asked: Annotated[RunsCounted | None, Body()] = None
) -> Response:
    async with services.database.begin() as conn:
        found, _ = await _found(conn, asked or RunsCounted())
    return json_answer(len(found))


async def _found(conn: AsyncConnection, asked: RunsCounted) -> tuple[list[Known], datetime]:
    """The runs that are wanted of those looked at, in no order; and the time."""
    asked.check()
    wanted = asked.flow_runs or FlowRunFilter()
    of_flows = await _flow_ids(conn, asked.flows)
    of_deployments = await _deployment_ids(conn, asked.deployments)
    parents = wanted.parent_flow_run_id.any_ if wanted.parent_flow_run_id else None
    looked_at = await flow_run_lists.candidates(
        conn, _among(wanted, of_flows, of_deployments), limit=FLOW_RUNS_LOOKED_AT_MAX
    )
    children: set[UUID] = set()
    if parents is not None:
        among = Among(parent_runs=parents)
        children = set(await flow_run_lists.candidates(conn, among, limit=FLOW_RUNS_LOOKED_AT_MAX))
    rows = await flow_runs.newest(conn, among=looked_at, limit=FLOW_RUNS_LOOKED_AT_MAX)
    now = await flow_runs.now(conn)
    found = []
    for row in rows:
        if of_flows is not None and row.flow_id not in of_flows:
            continue
        if of_deployments is not None and row.deployment_id not in of_deployments:
            continue
        known = known_of(row, now=now)
        if is_wanted(Looked(known=known, parent_is_wanted=row.id in children), wanted):
            found.append(known)
    return found, now


async def _shown(
    conn: AsyncConnection,
    found: Sequence[Known],
    asked: RunsListed | RunsPaged,
    now: datetime,
) -> list[dict[str, object]]:
    """A page of what was found, in full."""
    page = [known.run.id for known in found[asked.offset : asked.offset + asked.limit]]
    full = {run.id: run for run in await flow_runs.load_all(conn, page)}
    return [
        flow_run_document(known_of(full[run_id], now=now), now=now)
        for run_id in page
        if run_id in full
    ]


def _among(
    wanted: FlowRunFilter, of_flows: set[UUID] | None, of_deployments: set[UUID] | None
) -> Among:
    """Where to look. What any one of several may satisfy is looked for everywhere."""
    flow_ids = None if of_flows is None else list(of_flows)
    if wanted.operator == "or_":
        return Among(flows=flow_ids)
    deployment_ids = None if of_deployments is None else list(of_deployments)
    if deployment_ids is None and wanted.deployment_id is not None:
        deployment_ids = wanted.deployment_id.any_
    return Among(
        ids=wanted.id.any_ if wanted.id else None,
        parent_task_runs=wanted.parent_task_run_id.any_ if wanted.parent_task_run_id else None,
        parent_runs=wanted.parent_flow_run_id.any_ if wanted.parent_flow_run_id else None,
        deployments=deployment_ids,
        flows=flow_ids,
        only_open=only_open(wanted),
    )


async def _flow_ids(conn: AsyncConnection, wanted: Filter | None) -> set[UUID] | None:
    if wanted is None:
        return None
    found = await flows.page(
        conn,
        wanted.wanted(),
        of_deployments=None,
        sort="CREATED_DESC",
        limit=FILTER_VALUES_MAX,
        offset=0,
    )
    return {flow.id for flow in found}


async def _deployment_ids(conn: AsyncConnection, wanted: Filter | None) -> set[UUID] | None:
    if wanted is None:
        return None
    found = await flow_deployments.page(
        conn,
        wanted.wanted(),
        of_flows=None,
        sort="CREATED_DESC",
        limit=FILTER_VALUES_MAX,
        offset=0,
    )
    return {one.deployment.id for one in found}
