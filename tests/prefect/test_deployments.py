"""Deployments of flows on `/api`, and what `/v1` sees of them."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from tests.api.conftest import Api

pytestmark = pytest.mark.anyio

UNKNOWN = "00000000-0000-0000-0000-000000000000"
SCHEMA = {
    "title": "Parameters",
    "type": "object",
    "properties": {"user_id": {"type": "string", "position": 0, "title": "user_id"}},
    "required": ["user_id"],
    "definitions": {},
}


async def flow(api: Api, name: str = "orders") -> str:
    flow_id: str = (await api.client.post("/api/flows/", json={"name": name})).json()["id"]
    return flow_id


async def deployed(
    api: Api, name: str = "nightly", *, flow_name: str = "orders", **more: Any
) -> dict[str, Any]:
    answer = await api.client.post(
        "/api/deployments/", json={"flow_id": await flow(api, flow_name), "name": name, **more}
    )
    assert answer.status_code in (200, 201), answer.text
    made: dict[str, Any] = answer.json()
    return made


async def refusal(api: Api, **more: Any) -> tuple[int, str]:
    body = {"flow_id": await flow(api), "name": "nightly", **more}
    answer = await api.client.post("/api/deployments/", json=body)
    return answer.status_code, answer.json()["detail"]


async def test_a_deployment_of_a_flow_is_one_in_v1(api: Api) -> None:
    made = await deployed(
        api,
        description="Says thank you.",
        tags=["shop"],
        parameters={"user_id": "u1"},
        parameter_openapi_schema=SCHEMA,
        enforce_parameter_schema=True,
        entrypoint="shop.py:thank",
        path="/srv",
        version="7",
        labels={"team": "shop"},
        concurrency_limit=3,
    )
    plain = await api.get("/v1/deployments/orders.nightly")
    assert plain["id"] == made["id"]
    assert plain["runner"] == {"type": "pull", "retries": []}
    assert plain["description"] == "Says thank you."
    assert plain["tags"] == ["shop"]
    assert plain["parameters"] == {"user_id": "u1"}
    assert plain["parameter_schema"] == SCHEMA
    assert plain["max_concurrency"] == 3
    assert plain["run_timeout"] == 24 * 3600
    assert plain["enabled"] is True
    assert made["flow_id"] == await flow(api)
    assert made["parameter_openapi_schema"] == SCHEMA
    assert (made["entrypoint"], made["path"], made["version"]) == ("shop.py:thank", "/srv", "7")
    assert made["labels"] == {"team": "shop"}
    assert made["concurrency_limit"] == 3
    assert made["schedules"] == []
    assert made["paused"] is False
    assert (made["status"], made["last_polled"]) == ("NOT_READY", None)


async def test_the_same_flow_and_name_change_the_deployment(api: Api) -> None:
    flow_id = await flow(api)
    first = {"flow_id": flow_id, "name": "nightly", "version": "1", "tags": ["a"], "path": "/srv"}
    made = await api.client.post("/api/deployments/", json=first)
    again = await api.client.post(
        "/api/deployments/", json={"flow_id": flow_id, "name": "nightly", "version": "2"}
    )
    assert (made.status_code, again.status_code) == (201, 200)
    assert again.json()["id"] == made.json()["id"]
    assert (again.json()["version"], again.json()["path"]) == ("2", "/srv")
    assert again.json()["tags"] == ["a"]


async def test_many_at_once_make_one_deployment(api: Api) -> None:
    body = {"flow_id": await flow(api), "name": "nightly"}
    answers = await asyncio.gather(
        *(api.client.post("/api/deployments/", json=body) for _ in range(5))
    )
    assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 200, 201]
    assert len({answer.json()["id"] for answer in answers}) == 1


async def test_a_deployment_is_read_by_id_and_by_its_names(api: Api) -> None:
    made = await deployed(api, "tägliche Post", flow_name="send mail")
    by_id = await api.get(f"/api/deployments/{made['id']}/")
    by_names = await api.get("/api/deployments/name/send mail/tägliche Post")
    assert by_id == by_names == made
    assert (await api.get("/v1/deployments/send-mail.t-gliche-Post"))["id"] == made["id"]


async def test_a_deployment_that_is_called_like_its_flow_has_one_name_in_v1(api: Api) -> None:
    made = await deployed(api, "orders", flow_name="orders")
    assert (await api.get("/v1/deployments/orders"))["id"] == made["id"]


async def test_a_name_that_another_deployment_has_is_told_apart(api: Api) -> None:
    await api.put("/v1/deployments/orders.nightly", {"runner": {"type": "pull"}})
    made = await deployed(api)
    twin = await deployed(api, "nightly", flow_name="orders!")
    other = await deployed(api, "nightly", flow_name="orders?")
    names = {one["name"]: one["id"] for one in (await api.get("/v1/deployments"))["items"]}
    assert names[f"orders.nightly-{made['id'][:8]}"] == made["id"]
    assert names["orders-.nightly"] == twin["id"]
    assert names[f"orders-.nightly-{other['id'][:8]}"] == other["id"]
    assert (await api.get(f"/api/deployments/{made['id']}"))["name"] == "nightly"


async def test_deployments_of_v1_are_not_deployments_of_flows(api: Api) -> None:
    plain = (await api.put("/v1/deployments/d", {"runner": {"type": "pull"}})).json()
    assert (await api.client.post("/api/deployments/filter", json={})).json() == []
    assert (await api.client.get(f"/api/deployments/{plain['id']}")).status_code == 404


@pytest.mark.parametrize(
    "text", ["{{ event.id }}", "{% if %}", '100 {# no #} "quoted" \\ \n', "{{ '"]
)
async def test_parameters_are_values_even_where_they_look_like_templates(
    api: Api, text: str
) -> None:
    parameters = {"a": text, "b": {"c": [text, 1, None]}}
    made = await deployed(api, parameters=parameters)
    assert made["parameters"] == parameters
    asked = await api.client.post("/v1/deployments/orders.nightly/runs", json={})
    assert asked.status_code == 201, asked.text
    assert asked.json()["parameters"] == parameters


async def test_parameters_that_v1_changed_are_shown(api: Api) -> None:
    made = await deployed(api, parameters={"a": "{{ x }}"})
    await api.client.patch("/v1/deployments/orders.nightly", json={"parameters": {"a": "b"}})
    assert (await api.get(f"/api/deployments/{made['id']}"))["parameters"] == {"a": "b"}


async def test_a_schema_is_enforced_if_the_client_says_so_and_upshot_can(api: Api) -> None:
    await deployed(api, "a", parameter_openapi_schema=SCHEMA, enforce_parameter_schema=False)
    await deployed(
        api,
        "b",
        parameter_openapi_schema={"$ref": "http://elsewhere"},
        enforce_parameter_schema=True,
    )
    await deployed(api, "c", parameter_openapi_schema=SCHEMA, enforce_parameter_schema=True)
    schemas = {
        one["name"]: one["parameter_schema"] for one in (await api.get("/v1/deployments"))["items"]
    }
    assert schemas == {"orders.a": None, "orders.b": None, "orders.c": SCHEMA}


async def test_a_long_docstring_is_kept_whole(api: Api) -> None:
    made = await deployed(api, description="d" * 10_000)
    assert made["description"] == "d" * 10_000
    assert (await api.get("/v1/deployments/orders.nightly"))["description"] == "d" * 4_096


async def test_a_paused_deployment_is_shown_as_such_until_it_is_resumed(api: Api) -> None:
    made = await deployed(api, paused=False)
    path = f"/api/deployments/{made['id']}"
    assert (await api.client.patch(path, json={"paused": True})).status_code == 204
    assert (await api.get(path))["paused"] is True
    assert (await api.client.post(f"{path}/resume_deployment")).status_code == 200
    assert (await api.get(path))["paused"] is False
    assert (await api.client.post(f"{path}/pause_deployment")).status_code == 200
    assert (await api.get(path))["paused"] is True
    assert (await deployed(api, paused=False))["paused"] is False


async def test_a_runner_that_stops_does_not_stop_another_of_the_same_deployment(api: Api) -> None:
    made = await deployed(api)
    await api.client.patch(f"/api/deployments/{made['id']}", json={"paused": True})
    assert (await api.get("/v1/deployments/orders.nightly"))["enabled"] is True


async def test_what_v1_disabled_stays_so_when_a_runner_starts_and_can_be_resumed(api: Api) -> None:
    made = await deployed(api)
    await api.client.patch("/v1/deployments/orders.nightly", json={"enabled": False})
    assert (await deployed(api, paused=False))["paused"] is True
    assert (await api.get("/v1/deployments/orders.nightly"))["enabled"] is False
    await api.client.patch(f"/api/deployments/{made['id']}", json={"paused": False})
    assert (await api.get("/v1/deployments/orders.nightly"))["enabled"] is True


async def test_what_is_not_sent_stays(api: Api) -> None:
    made = await deployed(api, tags=["a"], parameters={"a": 1}, version="1", description="d")
    path = f"/api/deployments/{made['id']}"
    body = {"version": "2", "tags": None, "parameters": None, "description": None}
    assert (await api.client.patch(path, json=body)).status_code == 204
    changed = await api.get(path)
    assert (changed["version"], changed["tags"], changed["parameters"]) == ("2", ["a"], {"a": 1})
    assert changed["description"] is None


async def test_default_parameters_that_break_the_schema_are_refused_when_they_change(
    api: Api,
) -> None:
    made = await deployed(api, parameter_openapi_schema=SCHEMA)
    path = f"/api/deployments/{made['id']}"
    wrong = await api.client.patch(path, json={"parameters": {"user_id": 1}})
    assert wrong.status_code == 409
    assert "user_id" in wrong.json()["detail"]
    assert (await api.client.patch(path, json={"parameters": {}})).status_code == 204


async def test_a_deployment_is_ready_while_a_runner_asks_for_its_runs(api: Api) -> None:
    made = await deployed(api)
    await api.conn.execute("UPDATE flow_deployments SET polled_at = $1", api.clock.at)
    polled = await api.get(f"/api/deployments/{made['id']}")
    assert polled["status"] == "READY"
    assert polled["last_polled"] is not None
    api.clock.advance(timedelta(seconds=61))
    assert (await api.get(f"/api/deployments/{made['id']}"))["status"] == "NOT_READY"


async def test_a_deleted_deployment_cancels_its_open_runs(api: Api) -> None:
    made = await deployed(api)
    run = (await api.client.post("/v1/deployments/orders.nightly/runs", json={})).json()
    assert (await api.client.delete(f"/api/deployments/{made['id']}")).status_code == 204
    assert (await api.get(f"/v1/runs/{run['id']}"))["state"] == "cancelled"
    assert (await api.client.get("/v1/deployments/orders.nightly")).status_code == 404
    assert (await api.client.get(f"/api/deployments/{made['id']}")).status_code == 404


async def test_a_deployment_that_a_trigger_runs_is_not_deleted(api: Api) -> None:
    made = await deployed(api)
    trigger = {"deployment": "orders.nightly", "expect": ["order.complete"], "posture": "Reactive"}
    assert (await api.put("/v1/triggers/t", trigger)).status_code == 201
    for path in (f"/api/deployments/{made['id']}", f"/api/flows/{made['flow_id']}"):
        refused = await api.client.delete(path)
        assert refused.status_code == 409
        assert "'t'" in refused.json()["detail"]
    assert (await api.client.get(f"/api/flows/{made['flow_id']}")).status_code == 200


async def test_a_deleted_flow_takes_its_deployments_along(api: Api) -> None:
    made = await deployed(api)
    assert (await api.client.delete(f"/api/flows/{made['flow_id']}")).status_code == 204
    assert (await api.get("/v1/deployments"))["items"] == []


async def test_one_that_v1_deleted_is_gone_and_can_be_made_anew(api: Api) -> None:
    made = await deployed(api)
    assert (await api.client.delete("/v1/deployments/orders.nightly")).status_code == 204
    assert (await api.client.get(f"/api/deployments/{made['id']}")).status_code == 404
    assert (await deployed(api))["id"] != made["id"]


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ({}, ["a", "b", "c"]),
        ({"sort": "NAME_DESC", "limit": 1}, ["c"]),
        ({"sort": "CONCURRENCY_LIMIT_ASC", "limit": 1}, ["b"]),
        ({"flows": {"name": {"any_": ["mail"]}}}, ["c"]),
        ({"deployments": {"name": {"like_": "A"}}}, ["a"]),
        ({"deployments": {"tags": {"any_": ["x", "y"]}}}, ["a", "b"]),
        ({"deployments": {"tags": {"all_": ["x", "y"]}}}, ["b"]),
        ({"deployments": {"tags": {"is_null_": True}}}, ["c"]),
        ({"deployments": {"id": {"not_any_": []}}}, ["a", "b", "c"]),
        ({"flows": {"name": {"any_": ["orders"]}}, "deployments": {"name": {"any_": ["c"]}}}, []),
    ],
)
async def test_deployments_are_found_by_what_is_wanted(
    api: Api, body: dict[str, Any], found: list[str]
) -> None:
    await deployed(api, "a", tags=["x"])
    await deployed(api, "b", tags=["x", "y"], concurrency_limit=1)
    await deployed(api, "c", flow_name="mail")
    answer = await api.client.post("/api/deployments/filter", json=body)
    assert [one["name"] for one in answer.json()] == found


async def test_deployments_come_in_pages_and_are_counted(api: Api) -> None:
    for name in ("a", "b", "c"):
        await deployed(api, name)
    page = (await api.client.post("/api/deployments/paginate", json={"limit": 2})).json()
    assert [one["name"] for one in page["results"]] == ["a", "b"]
    assert (page["count"], page["pages"]) == (3, 2)
    counted = await api.client.post(
        "/api/deployments/count", json={"flows": {"name": {"any_": ["orders"]}}}
    )
    assert counted.json() == 3


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"schedules": [{"schedule": {"cron": "* * * * *"}}]}, "event"),
        ({"work_pool_name": "pool"}, "serve"),
        ({"work_queue_name": "queue"}, "serve"),
        ({"concurrency_options": {"collision_strategy": "CANCEL_NEW"}}, "wait"),
    ],
)
async def test_what_upshot_does_otherwise_is_refused_with_what_it_does(
    api: Api, more: dict[str, Any], word: str
) -> None:
    status, detail = await refusal(api, **more)
    assert status == 422
    assert word in detail
    made = await deployed(api)
    patched = await api.client.patch(f"/api/deployments/{made['id']}", json=more)
    assert patched.status_code == 422


@pytest.mark.parametrize(
    "more",
    [
        {"name": ""},
        {"name": "a\0"},
        {"name": None},
        {"flow_id": "nobody"},
        {"concurrency_limit": 0},
        {"concurrency_limit": 10**9},
        {"tags": ["t" * 200]},
        {"tags": "shop"},
        {"parameters": []},
        {"parameters": {"a": "\0"}},
        {"parameters": {"a": "x" * 70_000}},
        {"paused": "perhaps"},
        {"description": "d" * 300_000},
        {"labels": {"a": "x" * 300_000}},
        {"job_variables": 7},
        {"base": "x"},
    ],
)
async def test_what_cannot_be_kept_is_refused(api: Api, more: dict[str, Any]) -> None:
    status, _ = await refusal(api, **more)
    assert status == 422
    assert (await api.get("/v1/deployments"))["items"] == []


async def test_a_deployment_of_an_unknown_flow_is_404(api: Api) -> None:
    status, detail = await refusal(api, flow_id=UNKNOWN)
    assert status == 404
    assert UNKNOWN in detail


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "", None),
        ("PATCH", "", {"paused": True}),
        ("DELETE", "", None),
        ("POST", "/pause_deployment", None),
        ("POST", "/resume_deployment", None),
        ("GET", "/schedules", None),
    ],
)
async def test_an_unknown_deployment_is_404(api: Api, method: str, path: str, body: Any) -> None:
    answer = await api.client.request(method, f"/api/deployments/{uuid4()}{path}", json=body)
    assert answer.status_code == 404
    assert "There is no deployment" in answer.json()["detail"]


async def test_unknown_names_are_404(api: Api) -> None:
    await deployed(api)
    for path in ("orders/other", "other/nightly", "ord\N{PILE OF POO}ers/nightly"):
        assert (await api.client.get(f"/api/deployments/name/{path}")).status_code == 404


async def test_there_are_no_schedules_and_none_are_made(api: Api) -> None:
    made = await deployed(api)
    path = f"/api/deployments/{made['id']}/schedules"
    assert await api.get(path) == []
    schedule = [{"schedule": {"interval": 60}, "active": True}]
    assert (await api.client.post(path, json=schedule)).status_code == 422
    assert (await api.client.patch(f"{path}/{uuid4()}", json={})).status_code == 422
    assert (await api.client.delete(f"{path}/{uuid4()}")).status_code == 422


async def test_a_deployments_own_automations_go_with_it(api: Api) -> None:
    made = await deployed(api)
    automation = {
        "name": "on completion",
        "trigger": {"type": "event", "posture": "Reactive", "expect": ["order.complete"]},
        "actions": [{"type": "run-deployment", "source": "selected", "deployment_id": made["id"]}],
        "owner_resource": f"prefect.deployment.{made['id']}",
    }
    saved = await api.client.post("/api/automations/", json=automation)
    assert saved.status_code == 201, saved.text
    assert (await api.client.delete(f"/api/deployments/{made['id']}")).status_code == 204
    assert (await api.get("/v1/triggers"))["items"] == []
    assert "evaluate" in api.woken
    await api.post_events({"event": "order.complete", "resource": {"id": "u1"}})
    await api.evaluate()
    assert (await api.get("/v1/runs"))["items"] == []


async def test_json_that_is_nested_deep_is_refused(api: Api) -> None:
    made = await deployed(api)
    for depth in (40, 300, 600, 900, 1_100, 50_000):
        value = '{"a":' * depth + "1" + "}" * depth
        for name in ("parameters", "parameter_openapi_schema", "labels", "flow_runs"):
            for method, path in (
                ("PATCH", f"/api/deployments/{made['id']}"),
                ("POST", "/api/deployments/filter"),
            ):
                answer = await api.client.request(
                    method,
                    path,
                    content=f'{{"{name}": {value}}}',
                    headers={"content-type": "application/json"},
                )
                assert answer.status_code < 500, (depth, name, answer.text)
    assert (await api.client.post("/api/deployments/filter", json={})).status_code == 200
    assert (await api.client.get("/v1/deployments")).status_code == 200
