"""Deployments of flows: Upshot's, with what Prefect's client has beside."""

from dataclasses import replace
from typing import Annotated, Any, Final
from uuid import UUID, uuid4

from fastapi import Body, Response
from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncConnection

from upshot.api.answers import json_answer, no_answer
from upshot.api.deployments import delete_locked
from upshot.api.services import Services, Using
from upshot.core.errors import Conflict, Invalid, NotFound, Problem
from upshot.core.language import JsonObject, Storable, StorableJson, Tags
from upshot.core.limits import CONCURRENCY_MAX, FLOW_DETAILS_BYTES_MAX, OWNED_LOOKED_AT_MAX
from upshot.core.templates import compile_parameters
from upshot.prefect.deployment_fields import (
    breach_of_defaults,
    changed_fields,
    kept,
    new_fields,
    shown,
    upshot_name,
    upshot_name_apart,
)
from upshot.prefect.flow_filters import (
    Counted,
    DeploymentsListed,
    DeploymentsPaged,
    FlowName,
    page_of,
)
from upshot.prefect.routing import Sent, new_router
from upshot.storage import automations, deployments, flow_deployments, flows, triggers
from upshot.storage.flow_deployments import FlowDeployment
from upshot.storage.flows import Wanted

router = new_router()

_NO_SCHEDULES: Final = (
    "Upshot has no schedules: leave `schedules` (cron, interval, rrule) out, and let an app or a "
    "cron job post an event that a trigger waits for."
)
_NO_WORK_POOLS: Final = (
    "Upshot has no work pools and queues: leave them out and serve the flow, `flow.serve()`, where "
    "it is to run."
)
_NO_CANCEL_NEW: Final = (
    "Runs over the limit wait here; they are not cancelled. Leave the collision strategy "
    "CANCEL_NEW out, or have `overlap: skip` in the deployment under /v1."
)

LongText = Annotated[str, Storable, Field(max_length=FLOW_DETAILS_BYTES_MAX)]
Concurrency = Annotated[int, Field(ge=1, le=CONCURRENCY_MAX)]


class DeploymentChanged(Sent):
    """What may be sent of a deployment that there is. null leaves what has no null as it is."""

    paused: bool | None = None
    description: LongText | None = None
    tags: Tags | None = None
    version: LongText | None = None
    version_info: JsonObject | None = None
    labels: JsonObject | None = None
    path: LongText | None = None
    entrypoint: LongText | None = None
    parameters: JsonObject | None = None
    parameter_openapi_schema: JsonObject | None = None
    enforce_parameter_schema: bool | None = None
    job_variables: JsonObject | None = None
    pull_steps: Annotated[list[dict[str, Any]], StorableJson] | None = None
    concurrency_limit: Concurrency | None = None
    concurrency_options: JsonObject | None = None
    storage_document_id: UUID | None = None
    infrastructure_document_id: UUID | None = None
    branch: LongText | None = None
    base: UUID | None = None
    root: UUID | None = None
    schedules: list[Any] | None = None
    work_pool_name: LongText | None = None
    work_queue_name: LongText | None = None

    def sent(self) -> dict[str, Any]:
        """The fields that say something."""
        fields = {name: getattr(self, name) for name in self.model_fields_set}
        return {
            name: str(value) if isinstance(value, UUID) else value
            for name, value in fields.items()
            if value is not None or name not in _WITHOUT_NULL
        }

    def check(self) -> None:
        """Raises Invalid where it asks for what Upshot does in another way."""
        if self.schedules:
            raise _refused("schedules", _NO_SCHEDULES)
        for name in ("work_pool_name", "work_queue_name"):
            if getattr(self, name):
                raise _refused(name, _NO_WORK_POOLS)
        if (self.concurrency_options or {}).get("collision_strategy") == "CANCEL_NEW":
            raise _refused("concurrency_options", _NO_CANCEL_NEW)


_WITHOUT_NULL: Final = frozenset(
    {"enforce_parameter_schema", "job_variables", "labels", "parameters", "paused", "tags"}
)


class DeploymentCreated(DeploymentChanged):
    name: FlowName
    flow_id: UUID


@router.post("/deployments")
async def create_deployment(services: Using, written: DeploymentCreated) -> Response:
    """Make a deployment, or change the flow's deployment of this name."""
    written.check()
    sent = written.sent()
    async with services.database.begin() as conn:
        flow = await flows.lock(conn, written.flow_id)
        if flow is None:
            raise NotFound(f"There is no flow {written.flow_id}. Register it first: POST /flows.")
        stored = await flow_deployments.lock_named(conn, flow_id=flow.id, name=written.name)
        if stored is None:
            deployment_id = await _create(conn, flow, written.name, sent)
        else:
            deployment_id = await _change(conn, stored, sent)
        found = await _found(conn, deployment_id)
    services.wake("deliver")
    return json_answer(shown(found, services.now()), 200 if stored else 201)


@router.get("/deployments/{deployment_id}")
async def read_deployment(services: Using, deployment_id: UUID) -> Response:
    async with services.database.begin() as conn:
        found = await _found(conn, deployment_id)
    return json_answer(shown(found, services.now()))


@router.get("/deployments/name/{flow_name}/{deployment_name}")
async def read_deployment_by_name(
    services: Using, flow_name: FlowName, deployment_name: FlowName
) -> Response:
    async with services.database.begin() as conn:
        found = await flow_deployments.by_names(conn, flow=flow_name, name=deployment_name)
    if found is None:
        raise NotFound(f"There is no deployment {flow_name}/{deployment_name}.")
    return json_answer(shown(found, services.now()))


@router.patch("/deployments/{deployment_id}")
async def update_deployment(
    services: Using, deployment_id: UUID, written: DeploymentChanged
) -> Response:
    written.check()
    await _update(services, deployment_id, written.sent())
    return no_answer()


@router.post("/deployments/{deployment_id}/pause_deployment")
async def pause_deployment(services: Using, deployment_id: UUID) -> Response:
    await _update(services, deployment_id, {"paused": True})
    return json_answer(None)


@router.post("/deployments/{deployment_id}/resume_deployment")
async def resume_deployment(services: Using, deployment_id: UUID) -> Response:
    await _update(services, deployment_id, {"paused": False})
    return json_answer(None)


@router.delete("/deployments/{deployment_id}")
async def delete_deployment(services: Using, deployment_id: UUID) -> Response:
    """Its open runs are cancelled, its own automations deleted. What others run is kept: 409."""
    async with services.database.begin() as conn:
        if not await delete_with_its_automations(conn, deployment_id):
            raise unknown_deployment(deployment_id)
    services.wake("evaluate")
    return no_answer()


@router.post("/deployments/filter")
async def list_deployments(
    services: Using, asked: Annotated[DeploymentsListed | None, Body()] = None
) -> Response:
    async with services.database.begin() as conn:
        found = await _page(conn, services, asked or DeploymentsListed())
    return json_answer(found)


@router.post("/deployments/paginate")
async def page_deployments(
    services: Using, asked: Annotated[DeploymentsPaged | None, Body()] = None
) -> Response:
    asked = asked or DeploymentsPaged()
    async with services.database.begin() as conn:
        found, count = await _page(conn, services, asked), await _count(conn, asked)
    return json_answer(page_of(found, count=count, asked=asked))


@router.post("/deployments/count")
async def count_deployments(
    services: Using, asked: Annotated[Counted | None, Body()] = None
) -> Response:
    async with services.database.begin() as conn:
        count = await _count(conn, asked or Counted())
    return json_answer(count)


@router.get("/deployments/{deployment_id}/schedules")
async def read_schedules(services: Using, deployment_id: UUID) -> Response:
    async with services.database.begin() as conn:
        await _found(conn, deployment_id)
    return json_answer([])


@router.post("/deployments/{deployment_id}/schedules")
@router.patch("/deployments/{deployment_id}/schedules/{schedule_id}")
@router.delete("/deployments/{deployment_id}/schedules/{schedule_id}")
@router.post("/deployments/{deployment_id}/schedule")
async def change_schedules(deployment_id: str, schedule_id: str = "") -> Response:
    raise _refused("schedules", _NO_SCHEDULES)


@router.post("/deployments/{deployment_id}/branch")
async def create_branch(deployment_id: str) -> Response:
    raise Invalid(
        "Upshot has no branches of deployments; serve the other version under a name of its own."
    )


@router.get("/deployments/{deployment_id}/work_queue_check")
async def check_work_queues(deployment_id: str) -> Response:
    """No queue would be found: runs are pulled by whoever serves the flow."""
    return json_answer([])


async def delete_with_its_automations(conn: AsyncConnection, deployment_id: UUID) -> bool:
    """Delete a deployment and the automations that it owns. False: there is none.

    Raises:
        Conflict: other triggers run it.
    """
    owner = f"prefect.deployment.{deployment_id}"
    # Before the deployment's row, as whoever makes an automation locks them.
    await automations.lock_owner(conn, owner)
    stored = await flow_deployments.lock(conn, deployment_id)
    if stored is None:
        return False
    for owned in await automations.lock_of_owner(conn, owner, limit=OWNED_LOOKED_AT_MAX):
        await triggers.append_deleted(conn, owned.trigger)
        await triggers.remove(conn, owned.trigger.id)
    await delete_locked(conn, stored.deployment)
    return True


def unknown_deployment(deployment_id: UUID) -> NotFound:
    return NotFound(f"There is no deployment {deployment_id}.")


async def _create(conn: AsyncConnection, flow: flows.Flow, name: str, sent: dict[str, Any]) -> UUID:
    """Make a deployment of a flow whose row is locked; answers its id."""
    details = kept({}, sent)
    fields = new_fields(details, tags=sent.get("tags", []))
    compile_parameters(fields.parameters)
    deployment_id = uuid4()
    plain = upshot_name(flow=flow.name, deployment=name)
    for upshot in (plain, upshot_name_apart(plain, deployment_id)):
        if await deployments.create(conn, name=upshot, deployment_id=deployment_id, fields=fields):
            await flow_deployments.add(
                conn, deployment_id=deployment_id, flow_id=flow.id, name=name, details=details
            )
            return deployment_id
    raise Conflict(f"The name {plain!r} is taken in /v1. Give the deployment another name.")


async def _change(
    conn: AsyncConnection, stored: FlowDeployment, sent: dict[str, Any], *, enable: bool = False
) -> UUID:
    """Change a deployment whose row is locked; answers its id."""
    details = kept(stored.details, sent)
    fields = changed_fields(stored.deployment, details, sent=sent)
    if enable:
        fields = replace(fields, enabled=True)
    compile_parameters(fields.parameters)
    await deployments.replace(conn, name=stored.deployment.name, fields=fields)
    await flow_deployments.set_details(conn, stored.deployment.id, details)
    return stored.deployment.id


async def _update(services: Services, deployment_id: UUID, sent: dict[str, Any]) -> None:
    async with services.database.begin() as conn:
        stored = await flow_deployments.lock(conn, deployment_id)
        if stored is None:
            raise unknown_deployment(deployment_id)
        breach = "parameters" in sent and breach_of_defaults(kept(stored.details, sent))
        if breach:
            raise Conflict(f"The parameters break the deployment's schema: {breach}")
        await _change(conn, stored, sent, enable=sent.get("paused") is False)
    services.wake("deliver")


async def _found(conn: AsyncConnection, deployment_id: UUID) -> FlowDeployment:
    found = await flow_deployments.load(conn, deployment_id)
    if found is None:
        raise unknown_deployment(deployment_id)
    return found


async def _page(
    conn: AsyncConnection, services: Services, asked: DeploymentsListed | DeploymentsPaged
) -> list[dict[str, Any]]:
    asked.check()
    found = await flow_deployments.page(
        conn,
        asked.wanted_deployments() or Wanted(),
        of_flows=asked.wanted_flows(),
        sort=asked.sort,
        limit=asked.limit,
        offset=asked.offset,
    )
    return [shown(one, services.now()) for one in found]


async def _count(conn: AsyncConnection, asked: Counted) -> int:
    asked.check()
    return await flow_deployments.count(
        conn, asked.wanted_deployments() or Wanted(), of_flows=asked.wanted_flows()
    )


def _refused(name: str, message: str) -> Invalid:
    return Invalid(message, [Problem((name,), message)])
