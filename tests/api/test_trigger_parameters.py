"""A trigger's parameters are held against its deployment's schema when it is saved."""

from typing import Any

import httpx
import pytest

from tests.api.conftest import RUNNER, SHOP, Api

pytestmark = pytest.mark.anyio

SCHEMA = {
    "type": "object",
    "properties": {"user_id": {"type": "string"}, "count": {"type": "integer"}},
    "required": ["user_id"],
    "additionalProperties": False,
}
TRIGGER = "/v1/triggers/order-complete"


async def deploy(api: Api, **more: Any) -> None:
    deployment = {"runner": RUNNER, "parameter_schema": SCHEMA, **more}
    made = await api.put("/v1/deployments/post-order-complete", deployment)
    assert made.status_code in (200, 201), made.text


async def save(api: Api, parameters: dict[str, Any], **more: Any) -> httpx.Response:
    return await api.put(TRIGGER, {**SHOP, "parameters": parameters, **more})


@pytest.mark.parametrize(
    ("parameters", "loc", "said"),
    [
        ({}, ["user_id"], "nothing gives it"),
        ({"user_id": "x", "usr": "{{ event.id }}"}, ["usr"], "takes no such parameter"),
        ({"user_id": 5}, ["user_id"], '5 is not of type "string"'),
        ({"user_id": "{{ event.id }}", "count": "two"}, ["count"], 'not of type "integer"'),
    ],
)
async def test_what_every_run_would_break_is_refused_with_its_place(
    api: Api, parameters: dict[str, Any], loc: list[str], said: str
) -> None:
    await deploy(api)
    answer = await save(api, parameters)
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["loc"] == ["parameters", *loc]
    assert said in error["msg"]
    assert "'post-order-complete'" in answer.json()["detail"]
    assert (await api.get("/v1/triggers"))["items"] == []


@pytest.mark.parametrize(
    "parameters",
    [
        {"user_id": "{{ event.resource.id }}"},
        {"user_id": "123", "count": 2},
        {"user_id": "123", "count": "{{ event.payload.count }}"},
    ],
)
async def test_what_templates_give_is_left_to_the_run(api: Api, parameters: dict[str, Any]) -> None:
    await deploy(api)
    assert (await save(api, parameters)).status_code == 201


async def test_a_default_of_the_deployment_gives_what_the_trigger_does_not(api: Api) -> None:
    await deploy(api, parameters={"user_id": "{{ event.resource.id }}"})
    assert (await save(api, {})).status_code == 201
    assert (await save(api, {"user_id": 5})).status_code == 422


async def test_a_trigger_that_a_new_schema_breaks_can_be_disabled_and_not_saved_otherwise(
    api: Api,
) -> None:
    await deploy(api)
    await save(api, {"user_id": "123"})
    await deploy(api, parameter_schema={**SCHEMA, "required": ["user_id", "count"]})
    assert (await save(api, {"user_id": "123"})).status_code == 200
    patch = api.client.patch
    assert (await patch(TRIGGER, json={"description": "ships it"})).status_code == 422
    assert (await patch(TRIGGER, json={"enabled": False})).status_code == 200
    assert (await patch(TRIGGER, json={"enabled": True})).status_code == 422
    mended = {"enabled": True, "parameters": {"count": 1}}
    assert (await patch(TRIGGER, json=mended)).status_code == 200
