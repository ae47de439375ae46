"""Flows: names that the client registers before it deploys or runs them."""

from typing import Annotated, Any
from uuid import UUID, uuid4

from fastapi import Body, Response
from pydantic import Field
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from upshot.api.answers import json_answer, no_answer
from upshot.api.services import Using
from upshot.core.errors import Conflict, NotFound
from upshot.core.language import JsonObject, Tags
from upshot.core.limits import ROWS_SHOWN_WITH_ONE_MAX
from upshot.prefect.deployments import delete_with_its_automations
from upshot.prefect.flow_filters import Counted, FlowName, FlowsListed, FlowsPaged, page_of
from upshot.prefect.routing import Sent, new_router
from upshot.storage import flow_deployments, flows
from upshot.storage.flows import Flow, Wanted

router = new_router()


class FlowCreate(Sent):
    name: FlowName
    tags: Tags = Field(default=[])
    labels: JsonObject | None = None


class FlowUpdate(Sent):
    tags: Tags = Field(default=[])


@router.post("/flows")
async def create_flow(services: Using, written: FlowCreate) -> Response:
    """Make a flow, or answer the one that has this name."""
    async with services.database.begin() as conn:
        made = await flows.create(
            conn,
            flow_id=uuid4(),
            name=written.name,
            tags=written.tags,
            labels=written.labels or {},
        )
        flow = made or await flows.by_name(conn, written.name)
    if flow is None:
        raise Conflict(f"Flow {written.name!r} is being deleted. Try again.")
    return json_answer(shown(flow), 201 if made else 200)


@router.get("/flows/{flow_id}")
async def read_flow(services: Using, flow_id: UUID) -> Response:
    async with services.database.begin() as conn:
        flow = await flows.load(conn, flow_id)
    if flow is None:
        raise unknown_flow(flow_id)
    return json_answer(shown(flow))


@router.get("/flows/name/{name}")
async def read_flow_by_name(services: Using, name: FlowName) -> Response:
    async with services.database.begin() as conn:
        flow = await flows.by_name(conn, name)
    if flow is None:
        raise NotFound(f"There is no flow {name!r}.")
    return json_answer(shown(flow))


@router.post("/flows/filter")
async def list_flows(
    services: Using, asked: Annotated[FlowsListed | None, Body()] = None
) -> Response:
    async with services.database.begin() as conn:
        found = await _page(conn, asked or FlowsListed())
    return json_answer(found)


@router.post("/flows/paginate")
async def page_flows(
    services: Using, asked: Annotated[FlowsPaged | None, Body()] = None
) -> Response:
    asked = asked or FlowsPaged()
    async with services.database.begin() as conn:
        found, count = await _page(conn, asked), await _count(conn, asked)
    return json_answer(page_of(found, count=count, asked=asked))


@router.post("/flows/count")
async def count_flows(services: Using, asked: Annotated[Counted | None, Body()] = None) -> Response:
    async with services.database.begin() as conn:
        count = await _count(conn, asked or Counted())
    return json_answer(count)


@router.patch("/flows/{flow_id}")
async def update_flow(services: Using, flow_id: UUID, written: FlowUpdate) -> Response:
    if "tags" in written.model_fields_set:
        async with services.database.begin() as conn:
            if not await flows.set_tags(conn, flow_id, written.tags):
                raise unknown_flow(flow_id)
    return no_answer()


@router.delete("/flows/{flow_id}")
async def delete_flow(services: Using, flow_id: UUID) -> Response:
    """With its deployments; what their triggers still run is kept, with a 409."""
    async with services.database.begin() as conn:
        flow = await flows.lock(conn, flow_id)
        if flow is None:
            raise unknown_flow(flow_id)
        for one in await flow_deployments.of_flow(conn, flow_id, limit=ROWS_SHOWN_WITH_ONE_MAX):
            await delete_with_its_automations(conn, one.deployment.id)
        try:
            await flows.remove(conn, flow_id)
        except IntegrityError:
            raise Conflict(
                f"Flow {flow.name!r} has more than {ROWS_SHOWN_WITH_ONE_MAX} deployments. "
                "Delete some of them first."
            ) from None
    services.wake("evaluate")
    return no_answer()


def shown(flow: Flow) -> dict[str, Any]:
    """A flow as the client reads it."""
    return {
        "id": flow.id,
        "created": flow.created_at,
        "updated": flow.updated_at,
        "name": flow.name,
        "tags": flow.tags,
        "labels": flow.labels,
    }


def unknown_flow(flow_id: UUID) -> NotFound:
    return NotFound(f"There is no flow {flow_id}.")


async def _page(conn: AsyncConnection, asked: FlowsListed | FlowsPaged) -> list[dict[str, Any]]:
    asked.check()
    found = await flows.page(
        conn,
        asked.wanted_flows() or Wanted(),
        of_deployments=asked.wanted_deployments(),
        sort=asked.sort,
        limit=asked.limit,
        offset=asked.offset,
    )
    return [shown(flow) for flow in found]


async def _count(conn: AsyncConnection, asked: Counted) -> int:
    asked.check()
    return await flows.count(
        conn, asked.wanted_flows() or Wanted(), of_deployments=asked.wanted_deployments()
    )
