"""Asks for everything that the client of this release can ask a server of Upshot for.

The client makes each request from its own models, and reads each answer into them. What no method
of it asks for is requested as it would be, and read into the model that fits.
"""

import asyncio
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
from prefect import flow, task
from prefect.automations import Automation as Managed
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import (
    BlockDocumentCreate,
    BlockDocumentUpdate,
    BlockSchemaCreate,
    BlockTypeUpdate,
    GlobalConcurrencyLimitCreate,
    GlobalConcurrencyLimitUpdate,
    LogCreate,
)
from prefect.client.schemas.filters import (
    DeploymentFilter,
    FlowFilter,
    FlowRunFilter,
    LogFilter,
    TaskRunFilter,
)
from prefect.client.schemas.objects import (
    BlockDocument,
    BlockSchema,
    BlockType,
    Flow,
    FlowRun,
    TaskRun,
)
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.client.schemas.sorting import DeploymentSort, FlowRunSort, FlowSort
from prefect.events import Event, Resource
from prefect.events.actions import DoNothing, PauseAutomation, RunDeployment
from prefect.events.filters import EventFilter, EventNameFilter
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound, ProtectedBlockError
from prefect.states import Completed, Pending, Running

NOBODY = uuid4()


@flow
def bake(loaf: str = "rye") -> None: ...


@task
def knead(times: int) -> None: ...


async def main() -> None:
    async with get_client() as client:
        areas = (server, flows, deployments, schedules, flow_runs, inputs, task_runs, logs,
                 automations, blocks, limits, events, absent)  # fmt: skip
        for area in areas:
            await area(client)
            print(f"{area.__name__}: ok")


async def server(client: PrefectClient) -> None:
    assert await client.api_healthcheck() is None
    assert (await client.hello()).status_code == 200
    for path in ("/ready", "/version", "/admin/version", "/admin/storage"):
        await asked(client, "GET", path)
    assert "disabled" in await refused(asked(client, "GET", "/csrf-token"), 422)


async def flows(client: PrefectClient) -> None:
    flow_id = await client.create_flow(bake)
    assert await client.create_flow_from_name("bake") == flow_id
    assert (await client.read_flow(flow_id)).name == "bake"
    assert (await client.read_flow_by_name("bake")).id == flow_id
    only = FlowFilter(id={"any_": [flow_id]}, name={"like_": "bak"})
    found = await client.read_flows(flow_filter=only, sort=FlowSort.NAME_ASC, limit=5, offset=0)
    assert [one.id for one in found] == [flow_id]
    filters = {"flows": only.model_dump(mode="json")}
    assert await asked(client, "POST", "/flows/count", filters) == 1
    page = await asked(client, "POST", "/flows/paginate", {**filters, "sort": "NAME_ASC"})
    assert [Flow.model_validate(one).id for one in page["results"]] == [flow_id]
    await asked(client, "PATCH", f"/flows/{flow_id}", {"tags": ["oven"]})
    assert (await client.read_flow(flow_id)).tags == ["oven"]
    other = await client.create_flow_from_name("crumble")
    if hasattr(client, "delete_flow"):
        await client.delete_flow(other)
    else:
        await asked(client, "DELETE", f"/flows/{other}")
    await missing(client.read_flow(other))


async def deployments(client: PrefectClient) -> None:
    flow_id = await client.create_flow(bake)
    made = await client.create_deployment(
        flow_id, "daily", version="1", parameters={"loaf": "oat"}, description="Bread.",
        tags=["oven"], entrypoint="bakery.py:bake", path=".", paused=False,
        parameter_openapi_schema=bake.parameters.model_dump(), enforce_parameter_schema=True,
    )  # fmt: skip
    again = await client.create_deployment(flow_id, "daily", tags=["oven"], path=".")
    assert again == made
    shown = await client.read_deployment(made)
    assert (shown.name, shown.flow_id, shown.tags) == ("daily", flow_id, ["oven"])
    assert (await client.read_deployment_by_name("bake/daily")).id == made
    await missing(client.read_deployment_by_name("bake/weekly"))
    only = DeploymentFilter(id={"any_": [made]}, name={"any_": ["daily"]})
    found = await client.read_deployments(
        deployment_filter=only, sort=DeploymentSort.NAME_ASC, limit=5, offset=0
    )
    assert [one.id for one in found] == [made]
    filters = {"deployments": only.model_dump(mode="json")}
    assert await asked(client, "POST", "/deployments/count", filters) == 1
    page = await asked(client, "POST", "/deployments/paginate", {**filters, "limit": 5})
    assert [DeploymentResponse.model_validate(one).id for one in page["results"]] == [made]
    await client.set_deployment_paused_state(made, True)
    assert (await client.read_deployment(made)).paused
    await client.set_deployment_paused_state(made, False)
    for word, paused in (("pause", True), ("resume", False)):
        await asked(client, "POST", f"/deployments/{made}/{word}_deployment")
        assert (await client.read_deployment(made)).paused is paused
    await asked(client, "PATCH", f"/deployments/{made}", {"description": "Rolls."})
    assert (await client.read_deployment(made)).description == "Rolls."
    assert await asked(client, "GET", f"/deployments/{made}/work_queue_check") == []
    doomed = await client.create_deployment(flow_id, "doomed")
    await client.delete_deployment(doomed)
    await missing(client.read_deployment(doomed))
    await missing(client.delete_deployment(doomed))


async def schedules(client: PrefectClient) -> None:
    """There are none, and who asks for one hears what to do instead."""
    made = (await client.read_deployment_by_name("bake/daily")).id
    hourly = IntervalSchedule(interval=timedelta(hours=1))
    assert await client.read_deployment_schedules(made) == []
    await refused(client.create_deployment_schedules(made, [(hourly, True)]), 422)
    await refused(client.update_deployment_schedule(made, NOBODY, active=False), 404, 422)
    await refused(client.delete_deployment_schedule(made, NOBODY), 404, 422)
    await refused(asked(client, "POST", f"/deployments/{made}/schedule", {}), 422, 501)
    await refused(asked(client, "POST", f"/deployments/{made}/branch", {"branch": "b"}), 422)


async def flow_runs(client: PrefectClient) -> None:
    made = (await client.read_deployment_by_name("bake/daily")).id
    run = await client.create_flow_run_from_deployment(
        made, parameters={"loaf": "rye"}, name="first", tags=["early"], idempotency_key="once"
    )
    again = await client.create_flow_run_from_deployment(made, idempotency_key="once")
    assert again.id == run.id
    shown = await client.read_flow_run(run.id)
    assert (shown.name, shown.parameters, shown.deployment_id) == ("first", {"loaf": "rye"}, made)
    due = await client.get_scheduled_flow_runs_for_deployments(
        [made], scheduled_before=datetime.now(UTC) + timedelta(minutes=1)
    )
    assert [one.id for one in due] == [run.id]
    for state in (Pending(), Running(), Completed(message="baked")):
        answer = await client.set_flow_run_state(run.id, state)
        assert answer.status.value == "ACCEPT", answer
        assert answer.state.type == state.type
    states = await client.read_flow_run_states(run.id)
    assert [one.type.value for one in states] == ["SCHEDULED", "PENDING", "RUNNING", "COMPLETED"]
    await asked(client, "GET", f"/flow_run_states/{states[-1].id}")
    await client.update_flow_run(run.id, name="second", tags=["late"])
    renamed = await client.read_flow_run(run.id)
    assert (renamed.name, renamed.tags) == ("second", ["late"])
    await asked(client, "PATCH", f"/flow_runs/{run.id}/labels", {"shift": "night"})
    assert (await client.read_flow_run(run.id)).state.message == "baked"
    only = FlowRunFilter(id={"any_": [run.id]}, state={"type": {"any_": ["COMPLETED"]}})
    found = await client.read_flow_runs(
        flow_run_filter=only, sort=FlowRunSort.START_TIME_ASC, limit=5, offset=0
    )
    assert [one.id for one in found] == [run.id]
    filters = {"flow_runs": only.model_dump(mode="json")}
    assert await asked(client, "POST", "/flow_runs/count", filters) == 1
    page = await asked(client, "POST", "/flow_runs/paginate", {**filters, "limit": 5})
    assert [FlowRun.model_validate(one).id for one in page["results"]] == [run.id]
    adhoc = await client.create_flow_run(bake, name="adhoc", parameters={"loaf": "rye"})
    answer = await client.resume_flow_run(adhoc.id)
    assert answer.status.value == "ABORT", answer
    await client.set_flow_run_state(adhoc.id, Completed(), force=True)
    await client.delete_flow_run(adhoc.id)
    await missing(client.read_flow_run(adhoc.id))
    await missing(client.set_flow_run_state(NOBODY, Running()))


async def inputs(client: PrefectClient) -> None:
    run = await client.create_flow_run(bake, state=Pending())
    await client.create_flow_run_input(run.id, "oven-1", '{"degrees": 200}', sender="baker")
    assert await client.read_flow_run_input(run.id, "oven-1") == '{"degrees": 200}'
    found = await client.filter_flow_run_input(run.id, "oven", limit=5, exclude_keys={"oven-2"})
    assert [(one.key, one.sender) for one in found] == [("oven-1", "baker")]
    await client.delete_flow_run_input(run.id, "oven-1")
    assert await client.filter_flow_run_input(run.id, "oven", limit=5, exclude_keys=set()) == []
    await client.set_flow_run_state(run.id, Completed(), force=True)


async def task_runs(client: PrefectClient) -> None:
    of_flow = await client.create_flow_run(bake, state=Running())
    run = await client.create_task_run(
        knead, flow_run_id=of_flow.id, dynamic_key="0", name="kneads", task_inputs={"times": []}
    )
    assert (await client.read_task_run(run.id)).name == "kneads"
    await client.set_task_run_name(run.id, "kneads well")
    assert (await client.read_task_run(run.id)).name == "kneads well"
    answer = await client.set_task_run_state(run.id, Running())
    assert answer.status.value == "ACCEPT", answer
    only = TaskRunFilter(id={"any_": [run.id]})
    assert [one.id for one in await client.read_task_runs(task_run_filter=only)] == [run.id]
    filters = {"task_runs": only.model_dump(mode="json")}
    assert await asked(client, "POST", "/task_runs/count", filters) == 1
    page = await asked(client, "POST", "/task_runs/paginate", {**filters, "limit": 5})
    assert [TaskRun.model_validate(one).id for one in page["results"]] == [run.id]
    await client.delete_task_run(run.id)
    await missing(client.read_task_run(run.id))
    await client.set_flow_run_state(of_flow.id, Completed(), force=True)


async def logs(client: PrefectClient) -> None:
    run = await client.create_flow_run(bake, state=Pending())
    line = LogCreate(
        name="oven", level=20, message="hot", timestamp=datetime.now(UTC), flow_run_id=run.id
    )
    await client.create_logs([line])
    wanted = LogFilter(flow_run_id={"any_": [run.id]}, level={"ge_": 20})
    assert [one.message for one in await client.read_logs(wanted, limit=5, offset=0)] == ["hot"]
    await client.set_flow_run_state(run.id, Completed(), force=True)


async def automations(client: PrefectClient) -> None:
    made = (await client.read_deployment_by_name("bake/daily")).id
    burnt = AutomationCore(
        name="burnt", description="Bakes again.", trigger=EventTrigger(
            expect={"loaf.burnt"}, after={"loaf.begun"}, for_each={"prefect.resource.id"},
            match=ResourceSpecification({"oven": "left*"}), posture=Posture.Reactive,
            threshold=2, within=timedelta(minutes=1),
        ), actions=[RunDeployment(deployment_id=made, parameters={"loaf": "{{ event.id }}"})],
    )  # fmt: skip
    automation_id = await client.create_automation(burnt)
    shown = await client.read_automation(automation_id)
    assert shown.trigger.expect == {"loaf.burnt"}
    assert shown.trigger.within == timedelta(minutes=1)
    (ran,) = shown.actions
    assert (ran.deployment_id, ran.parameters) == (made, {"loaf": "{{ event.id }}"})
    await client.update_automation(automation_id, burnt.model_copy(update={"name": "black"}))
    assert [one.id for one in await client.read_automations_by_name("black")] == [automation_id]
    assert automation_id in [one.id for one in await client.read_automations()]
    assert await asked(client, "POST", "/automations/count", {}) >= 1
    await client.pause_automation(automation_id)
    assert not (await client.read_automation(automation_id)).enabled
    await client.resume_automation(automation_id)
    assert (await client.find_automation("black")).enabled
    related = await client.read_resource_related_automations(f"prefect.deployment.{made}")
    assert automation_id in [one.id for one in related]
    owned = burnt.model_copy(update={"name": "owned", "owner_resource": "prefect.deployment.x"})
    await client.create_automation(owned)
    await client.delete_resource_owned_automations("prefect.deployment.x")
    assert await client.read_automations_by_name("owned") == []
    await client.delete_automation(automation_id)
    await gone(client.read_automation(automation_id))
    nothing = Managed(name="nothing", trigger=burnt.trigger, actions=[DoNothing()])
    created = await nothing.create()
    created.actions = [PauseAutomation(source="selected", automation_id=created.id)]
    await created.update()
    assert (await Managed.read(id=created.id)).actions == created.actions
    await created.delete()


async def blocks(client: PrefectClient) -> None:
    block = Webhook(method="PUT", url="http://127.0.0.1:9/oven", headers={"oven": "left"})
    block_id = await block.save("oven", overwrite=True)
    assert (await Webhook.load("oven")).url.get_secret_value() == "http://127.0.0.1:9/oven"
    document = await client.read_block_document(block_id)
    kind = await client.read_block_type_by_slug("webhook")
    BlockType.model_validate(await asked(client, "GET", f"/block_types/{kind.id}"))
    await asked(client, "PATCH", f"/block_types/{kind.id}", BlockTypeUpdate().model_dump())
    await protected(client.delete_block_type(kind.id))
    await refused(asked(client, "POST", "/block_types", {"slug": "webhook", "name": "W"}), 409)
    assert [one.slug for one in await client.read_block_types()] == ["webhook"]
    schema = await client.get_most_recent_block_schema_for_block_type(kind.id)
    BlockSchema.model_validate(await asked(client, "GET", f"/block_schemas/{schema.id}"))
    await client.read_block_schema_by_checksum(schema.checksum)
    assert len(await client.read_block_schemas()) == 1
    await client.create_block_schema(
        BlockSchemaCreate(fields=schema.fields, block_type_id=kind.id, capabilities=[])
    )
    await refused(asked(client, "DELETE", f"/block_schemas/{schema.id}"), 403, 404, 409, 501)
    assert [one.id for one in await client.read_block_documents()] == [block_id]
    assert [one.id for one in await client.read_block_documents_by_type("webhook")] == [block_id]
    assert (await client.read_block_document_by_name("oven", "webhook")).id == block_id
    assert await asked(client, "POST", "/block_documents/count", {}) == 1
    second = await client.create_block_document(
        BlockDocumentCreate(
            name="second", data=document.data, block_schema_id=schema.id, block_type_id=kind.id
        )
    )
    assert isinstance(second, BlockDocument)
    await client.update_block_document(second.id, BlockDocumentUpdate(data={"method": "GET"}))
    await client.delete_block_document(second.id)
    await missing(client.read_block_document(second.id))


async def limits(client: PrefectClient) -> None:
    """None exist, so that everybody may begin."""
    assert await client.read_concurrency_limits(limit=5, offset=0) == []
    await missing(client.read_concurrency_limit_by_tag("oven"))
    await refused(client.delete_concurrency_limit_by_tag("oven"), 501)
    await refused(client.reset_concurrency_limit_by_tag("oven"), 501)
    await refused(client.create_concurrency_limit("oven", 1), 501)
    assert await client.read_global_concurrency_limits() == []
    await missing(client.read_global_concurrency_limit_by_name("oven"))
    await refused(client.delete_global_concurrency_limit_by_name("oven"), 501)
    changed = GlobalConcurrencyLimitUpdate(limit=2)
    await refused(client.update_global_concurrency_limit("oven", changed), 501)
    wanted = GlobalConcurrencyLimitCreate(name="oven", limit=1)
    await refused(client.create_global_concurrency_limit(wanted), 501)
    await client.increment_v1_concurrency_slots(["oven"], task_run_id=NOBODY)
    await client.decrement_v1_concurrency_slots(["oven"], NOBODY, occupancy_seconds=1)
    old = {} if hasattr(client, "renew_concurrency_lease") else {"create_if_missing": None}
    taken = await client.increment_concurrency_slots(["oven"], 1, mode="concurrency", **old)
    assert taken.json() == []
    await client.release_concurrency_slots(["oven"], 1, occupancy_seconds=1)
    lease = {"names": ["oven"], "slots": 1, "mode": "concurrency", "lease_duration": 60}
    leased = await asked(client, "POST", "/v2/concurrency_limits/increment-with-lease", lease)
    assert leased["limits"] == []
    held = {"lease_id": leased["lease_id"], "lease_duration": 60}
    renewal = f"/v2/concurrency_limits/leases/{leased['lease_id']}/renew"
    await asked(client, "POST", renewal, held)
    await asked(client, "POST", "/v2/concurrency_limits/decrement-with-lease", held)


async def events(client: PrefectClient) -> None:
    sent = [
        Event(event="oven.on", resource=Resource({"prefect.resource.id": f"oven.{number}"}))
        for number in range(3)
    ]
    body = [one.model_dump(mode="json") for one in sent]
    await asked(client, "POST", "/events", body)
    wanted = EventFilter(event=EventNameFilter(name=["oven.on"])).model_dump(mode="json")
    page = await asked(client, "POST", "/events/filter", {"filter": wanted, "limit": 2})
    found = [Event.model_validate(one) for one in page["events"]]
    following = await client._client.get(page["next_page"])
    found += [Event.model_validate(one) for one in following.json()["events"]]
    assert {one.id for one in found} == {one.id for one in sent}
    assert page["total"] == 3
    for countable in ("day", "time", "event", "resource"):
        counted = await asked(client, "POST", f"/events/count-by/{countable}", {"filter": wanted})
        assert sum(one["count"] for one in counted) == 3, counted
    assert await asked(client, "GET", "/events/count-by/event?limit=5")


async def absent(client: PrefectClient) -> None:
    """A sentence says what to do instead."""
    assert "serve" in await refused(client.read_work_pools(), 501)
    assert "serve" in await refused(client.read_work_queue(NOBODY), 501)
    assert "parameters" in await refused(client.read_variables(), 501)
    assert "log" in await refused(client.read_artifacts(), 501)
    assert "docs/prefect.md" in await refused(asked(client, "GET", "/nowhere"), 404)
    await refused(asked(client, "PUT", "/flows"), 405)


async def asked(client: PrefectClient, method: str, path: str, body: Any = None) -> Any:
    answer = await client._client.request(method, path, json=body)
    answer.raise_for_status()
    return answer.json() if answer.content else None


async def missing(asking: Awaitable[Any]) -> None:
    await refused(asking, 404)


async def protected(asking: Awaitable[Any]) -> None:
    try:
        got = await asking
    except ProtectedBlockError:
        return
    raise AssertionError(f"was answered {got!r}")


async def gone(asking: Awaitable[Any]) -> None:
    """As `missing`, by either of the two ways that releases have to say it of automations."""
    try:
        got = await asking
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
    else:
        status = 404 if got is None else 200
    assert status == 404


async def refused(asking: Awaitable[Any], *statuses: int) -> str:
    """The sentence with which it was refused."""
    try:
        got = await asking
    except (ObjectNotFound, ObjectAlreadyExists) as error:
        answer = error.http_exc.response
    except httpx.HTTPStatusError as error:
        answer = error.response
    else:
        raise AssertionError(f"was answered {got!r}")
    assert answer.status_code in statuses, (answer.status_code, answer.text)
    detail: str = answer.json()["detail"]
    assert detail.endswith((".", "`", "/")), detail
    return detail


if __name__ == "__main__":
    asyncio.run(main())
