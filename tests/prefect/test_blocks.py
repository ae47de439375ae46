"""Webhook blocks on `/api`: saved, read with and without their secrets, changed, deleted."""

from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.api.conftest import Api, MakeApi
from tests.api.test_auth import bearer, make_key
from upshot.prefect.webhook_blocks import SCHEMA_ID, TYPE_ID
from upshot.storage.api_keys import Scope
from upshot.storage.database import Database

pytestmark = pytest.mark.anyio

DOCUMENTS = "/api/block_documents/"
BY_NAME = "/api/block_types/slug/webhook/block_documents/name/"
URL = "https://hooks.example/T0/secret"
DATA: dict[str, Any] = {
    "method": "PUT",
    "url": URL,
    "headers": {"Authorization": "Bearer hush", "X-Shop": "north"},
    "verify": True,
}
HIDDEN = "********"


def document(name: str | None = "alerts", **changed: Any) -> dict[str, Any]:
    return {
        "name": name,
        "data": DATA,
        "block_schema_id": str(SCHEMA_ID),
        "block_type_id": str(TYPE_ID),
        **changed,
    }


async def save(api: Api, name: str = "alerts", **data: Any) -> str:
    """The id of a new block."""
    answer = await api.client.post(DOCUMENTS, json=document(name, data={**DATA, **data}))
    assert answer.status_code == 201, answer.text
    block_id: str = answer.json()["id"]
    return block_id


async def data_of(api: Api, block_id: str) -> dict[str, Any]:
    read: dict[str, Any] = await api.get(f"{DOCUMENTS}{block_id}", include_secrets=True)
    data: dict[str, Any] = read["data"]
    return data


async def status_of(api: Api, path: str, **params: Any) -> int:
    return (await api.client.get(path, params=params)).status_code


async def test_a_block_is_a_deployment_that_is_called_with_the_payload_alone(api: Api) -> None:
    await save(api)
    runner = (await api.get("/v1/deployments/alerts"))["runner"]
    assert (runner["type"], runner["method"], runner["body"]) == ("webhook", "PUT", "payload")
    assert runner["url"] == URL
    assert runner["headers"] == {"Authorization": "***", "X-Shop": "***"}


async def test_a_block_is_read_by_id_and_name_with_its_secrets_only_where_they_are_asked_for(
    api: Api,
) -> None:
    block_id = await save(api)
    for path in (f"{DOCUMENTS}{block_id}", f"{BY_NAME}alerts"):
        hidden = await api.get(path)
        assert hidden["data"] == {
            **DATA,
            "url": HIDDEN,
            "headers": {"Authorization": HIDDEN, "X-Shop": HIDDEN},
        }
        assert (await api.get(path, include_secrets=True))["data"] == DATA
        assert (hidden["id"], hidden["name"], hidden["is_anonymous"]) == (block_id, "alerts", False)
        assert hidden["block_schema"]["block_type"]["slug"] == "webhook"


@pytest.mark.parametrize("scope", ["read", "runs", "events:write"])
async def test_secrets_take_the_key_of_an_admin(
    make_prefect_api: MakeApi, database: Database, scope: Scope
) -> None:
    api = make_prefect_api(api_key="hunter2")
    api.client.headers.update(bearer("hunter2"))
    block_id = await save(api)
    asked = {"include_secrets": True}
    headers = bearer(await make_key(database, scope, "read"))
    for path in (f"{DOCUMENTS}{block_id}", f"{BY_NAME}alerts"):
        secret = await api.client.get(path, params=asked, headers=headers)
        plain = await api.client.get(path, headers=headers)
        assert (secret.status_code, plain.status_code) == (403, 200)
    listed = await api.client.post(f"{DOCUMENTS}filter", json=asked, headers=headers)
    assert listed.status_code == 403
    listed = await api.client.post(f"{DOCUMENTS}filter", json=asked)
    assert listed.json()[0]["data"] == DATA


@pytest.mark.parametrize(
    ("sent", "after"),
    [
        ({"url": "https://other.example/"}, {**DATA, "url": "https://other.example/"}),
        ({"url": HIDDEN, "method": "POST"}, {**DATA, "method": "POST"}),
        (
            {"headers": {"Authorization": HIDDEN, "X-New": "1"}},
            {**DATA, "headers": {"Authorization": "Bearer hush", "X-New": "1"}},
        ),
        ({"headers": {}, "note": [1]}, {**DATA, "headers": {}, "note": [1]}),
        ({}, DATA),
    ],
    ids=str,
)
async def test_an_update_changes_what_it_names_and_keeps_what_was_shown_obfuscated(
    api: Api, sent: dict[str, Any], after: dict[str, Any]
) -> None:
    block_id = await save(api)
    changed = await api.client.patch(f"{DOCUMENTS}{block_id}", json={"data": sent})
    assert (changed.status_code, changed.content) == (204, b"")
    assert await data_of(api, block_id) == after
    assert api.woken == ["deliver"]


async def test_an_update_may_replace_the_whole(api: Api) -> None:
    block_id = await save(api)
    whole = {"data": {"url": HIDDEN, "headers": None}, "merge_existing_data": False}
    changed = await api.client.patch(f"{DOCUMENTS}{block_id}", json=whole)
    assert changed.status_code == 204
    assert await data_of(api, block_id) == {"url": URL, "method": "POST", "headers": {}}


async def test_what_only_the_deployment_says_outlives_an_update_of_the_block(api: Api) -> None:
    block_id = await save(api)
    patch = {"runner": {"timeout": 5, "retries": [1], "body": "parameters"}, "max_concurrency": 2}
    assert (await api.client.patch("/v1/deployments/alerts", json=patch)).status_code == 200
    await api.client.patch(f"{DOCUMENTS}{block_id}", json={"data": {"method": "GET"}})
    shown = await api.get("/v1/deployments/alerts")
    runner = shown["runner"]
    assert (runner["method"], runner["timeout"], runner["retries"]) == ("GET", 5, [1])
    assert (runner["body"], shown["max_concurrency"]) == ("parameters", 2)


async def test_what_v1_makes_of_the_deployment_is_read_of_the_block(api: Api) -> None:
    block_id = await save(api)
    moved = {"runner": {"url": "https://moved.example/"}}
    await api.client.patch("/v1/deployments/alerts", json=moved)
    assert (await data_of(api, block_id))["url"] == "https://moved.example/"
    await api.client.patch("/v1/deployments/alerts", json={"runner": {"type": "pull"}})
    assert (await data_of(api, block_id))["url"] == ""
    assert (await api.client.delete("/v1/deployments/alerts")).status_code == 204
    assert await status_of(api, f"{DOCUMENTS}{block_id}") == 404


@pytest.mark.parametrize(
    ("data", "loc"),
    [
        ({"url": None}, ["data", "url"]),
        ({"url": 1}, ["data", "url"]),
        ({"url": "hooks.example"}, ["data", "url"]),
        ({"url": HIDDEN}, ["data", "url"]),
        ({"url": "https://user:hush@hooks.example/"}, ["data", "url"]),
        ({"method": "HEAD"}, ["data", "method"]),
        ({"method": ["GET"]}, ["data", "method"]),
        ({"headers": []}, ["data", "headers"]),
        ({"headers": {"a": 1}}, ["data", "headers", "a"]),
        ({"headers": {"a": HIDDEN}}, ["data", "headers", "a"]),
        ({"headers": {"Host": "x"}}, ["data", "headers", "Host"]),
        ({"headers": {"a": "ä"}}, ["data", "headers", "a"]),
        ({"verify": False}, ["data", "verify"]),
        ({"allow_private_urls": False}, ["data", "allow_private_urls"]),
        ({"note": "a\0b"}, ["data", "note"]),
    ],
    ids=str,
)
async def test_data_that_cannot_be_called_is_refused_with_its_place(
    api: Api, data: dict[str, Any], loc: list[str]
) -> None:
    new = await api.client.post(DOCUMENTS, json=document(data={**DATA, **data}))
    assert new.status_code == 422, new.text
    assert new.json()["errors"][0]["loc"] == loc
    assert "hush" not in new.text
    assert await status_of(api, f"{BY_NAME}alerts") == 404
    assert await status_of(api, "/v1/deployments/alerts") == 404


@pytest.mark.parametrize("name", ["", "a b", "Alerts", "a/b", "a" * 101, "ä", "a\0", "a\n", 7, []])
async def test_a_bad_name_is_refused_and_never_found(api: Api, name: Any) -> None:
    answer = await api.client.post(DOCUMENTS, json=document(name))
    assert answer.status_code in (409, 422), answer.text
    assert await api.conn.fetchval("SELECT count(*) FROM webhook_blocks") == 0


@pytest.mark.parametrize("name", ["%00", "a%20b", "%ff", "a" * 5_000, "none"])
async def test_names_that_no_block_has_are_not_found(api: Api, name: str) -> None:
    assert await status_of(api, f"{BY_NAME}{name}") == 404


async def test_names_are_unique_among_blocks_and_not_taken_from_deployments(api: Api) -> None:
    runner = {"type": "webhook", "url": "http://127.0.0.1:9000/run"}
    await api.put("/v1/deployments/alerts", {"runner": runner})
    block_id = await save(api)
    again = await api.client.post(DOCUMENTS, json=document())
    assert again.status_code == 409
    names = {one["name"] for one in (await api.get("/v1/deployments"))["items"]}
    assert names == {"alerts", f"alerts-{block_id.replace('-', '')[:8]}"}


async def test_a_name_of_dashes_and_an_anonymous_block_have_deployments(api: Api) -> None:
    await save(api, "---")
    anonymous = await api.client.post(DOCUMENTS, json=document(None, is_anonymous=True))
    assert anonymous.status_code == 201, anonymous.text
    name = anonymous.json()["name"]
    names = {one["name"] for one in (await api.get("/v1/deployments"))["items"]}
    assert names == {"webhook", name}
    listed = (await api.client.post(f"{DOCUMENTS}filter", json={})).json()
    assert [one["name"] for one in listed] == ["---"]
    all_of_them = {"block_documents": {"is_anonymous": None}}
    count = await api.client.post(f"{DOCUMENTS}count", json=all_of_them)
    assert count.json() == 2


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        (None, ["a-1", "a-2", "b"]),
        ({"offset": None, "limit": None, "block_schema_type": None}, ["a-1", "a-2", "b"]),
        ({"offset": 1, "limit": 1}, ["a-2"]),
        ({"limit": 0}, []),
        ({"block_documents": {"name": {"any_": ["b", "c", "%"]}}}, ["b"]),
        ({"block_documents": {"name": {"like_": "A-"}}}, ["a-1", "a-2"]),
        ({"block_documents": {"name": {"like_": "%\\"}}}, []),
        ({"block_documents": {"id": {"any_": []}}}, []),
        ({"block_documents": {"block_type_id": {"any_": [str(UUID(int=1))]}}}, []),
        ({"block_types": {"slug": {"any_": ["webhook"]}}}, ["a-1", "a-2", "b"]),
        ({"block_types": {"slug": {"any_": ["secret"]}}}, []),
        ({"block_schemas": {"block_capabilities": {"all_": ["notify"]}}}, []),
    ],
    ids=str,
)
async def test_blocks_are_listed_by_name(api: Api, asked: Any, names: list[str]) -> None:
    for name in ("b", "a-2", "a-1"):
        await save(api, name)
    listed = await api.client.post(f"{DOCUMENTS}filter", json=asked)
    assert listed.status_code == 200, listed.text
    assert [one["name"] for one in listed.json()] == names
    assert all(one["data"]["url"] == HIDDEN for one in listed.json())
    paged = isinstance(asked, dict) and (asked.get("limit") is not None or asked.get("offset"))
    count = await api.client.post(f"{DOCUMENTS}count", json=asked)
    assert count.json() == (3 if paged else len(names))


@pytest.mark.parametrize(
    "asked",
    [
        {"offset": -1},
        {"limit": 201},
        {"offset": 10**30},
        {"limit": "many"},
        {"include_secrets": []},
        {"block_documents": {"name": {"like_": "a\0"}}},
        {"block_documents": {"id": {"any_": ["x"]}}},
        [],
        "x",
    ],
    ids=str,
)
async def test_a_filter_that_cannot_be_read_is_refused(api: Api, asked: Any) -> None:
    for path in ("filter", "count"):
        assert (await api.client.post(DOCUMENTS + path, json=asked)).status_code == 422


async def test_the_type_and_any_version_of_its_schema_are_there(api: Api) -> None:
    found = await api.get("/api/block_types/slug/webhook")
    assert found == await api.get(f"/api/block_types/{TYPE_ID}")
    assert found["slug"] == "webhook"
    assert (await api.client.post("/api/block_types/filter", json={})).json() == [found]
    changed = await api.client.patch(f"/api/block_types/{TYPE_ID}", json={"logo_url": "https://x"})
    assert changed.status_code == 204
    for checksum in ("sha256:1", "sha256:2"):
        schema = await api.get(f"/api/block_schemas/checksum/{checksum}", version="3.8.8")
        assert (schema["checksum"], schema["id"]) == (checksum, str(SCHEMA_ID))
        assert schema["fields"]["secret_fields"] == ["url", "headers.*"]
    assert (await api.get(f"/api/block_schemas/{SCHEMA_ID}"))["block_type_id"] == str(TYPE_ID)
    listed = await api.client.post("/api/block_schemas/filter", json={"limit": 1})
    assert [one["id"] for one in listed.json()] == [str(SCHEMA_ID)]
    made = await api.client.post("/api/block_schemas/", json={"block_type_id": str(TYPE_ID)})
    assert made.status_code == 200


async def test_other_types_are_not_there_and_this_one_stays(api: Api) -> None:
    for path in ("", "/block_documents", "/block_documents/name/x"):
        answer = await api.client.get(f"/api/block_types/slug/secret{path}")
        assert answer.status_code == 501
        assert "environment" in answer.json()["detail"]
    other = await api.client.post("/api/block_types/", json={"name": "Secret", "slug": "secret"})
    same = await api.client.post("/api/block_types/", json={"name": "Webhook", "slug": "webhook"})
    assert (other.status_code, same.status_code) == (501, 409)
    for path in (f"/api/block_types/{TYPE_ID}", f"/api/block_schemas/{SCHEMA_ID}"):
        assert (await api.client.delete(path)).status_code == 403


async def test_what_is_not_there_is_a_404_that_names_it(api: Api) -> None:
    none = str(uuid4())
    answers = [
        await api.client.get(f"{DOCUMENTS}{none}"),
        await api.client.patch(f"{DOCUMENTS}{none}", json={"data": {}}),
        await api.client.delete(f"{DOCUMENTS}{none}"),
        await api.client.get(f"/api/block_types/{none}"),
        await api.client.get(f"/api/block_schemas/{none}"),
        await api.client.post(DOCUMENTS, json=document(block_type_id=none)),
        await api.client.post(DOCUMENTS, json=document(block_schema_id=none)),
    ]
    assert [answer.status_code for answer in answers] == [404] * len(answers)
    assert all(none in answer.json()["detail"] for answer in answers)


async def test_a_deleted_block_takes_its_deployment_and_its_open_runs_with_it(api: Api) -> None:
    block_id = await save(api)
    run = (await api.client.post("/v1/deployments/alerts/runs")).json()
    assert (await api.client.delete(f"{DOCUMENTS}{block_id}")).status_code == 204
    assert await status_of(api, f"{DOCUMENTS}{block_id}") == 404
    assert await status_of(api, "/v1/deployments/alerts") == 404
    shown = await api.get(f"/v1/runs/{run['id']}")
    assert (shown["state"], shown["error"]) == ("cancelled", "deployment deleted")
    await save(api)


async def test_a_block_that_a_trigger_calls_is_kept(api: Api) -> None:
    block_id = await save(api)
    trigger = {"deployment": "alerts", "expect": ["order.complete"]}
    assert (await api.put("/v1/triggers/tell", trigger)).status_code == 201
    refused = await api.client.delete(f"{DOCUMENTS}{block_id}")
    assert refused.status_code == 409
    assert "'tell'" in refused.json()["detail"]
    assert await status_of(api, f"{DOCUMENTS}{block_id}") == 200


async def test_a_block_that_an_automation_calls_is_kept_until_that_is_gone(api: Api) -> None:
    block_id = await save(api)
    automation = {
        "name": "tell the chat",
        "trigger": {"type": "event", "expect": ["order.complete"], "posture": "Reactive"},
        "actions": [{"type": "call-webhook", "block_document_id": block_id, "payload": "x"}],
    }
    made = await api.client.post("/api/automations/", json=automation)
    assert made.status_code == 201, made.text
    for path in (f"{DOCUMENTS}{block_id}", "/v1/deployments/alerts"):
        assert (await api.client.delete(path)).status_code == 409
    gone = await api.client.delete(f"/api/automations/{made.json()['id']}")
    assert gone.status_code == 204
    assert (await api.client.delete(f"{DOCUMENTS}{block_id}")).status_code == 204


async def test_blocks_take_the_key_of_an_admin_to_be_changed(
    make_prefect_api: MakeApi, database: Database
) -> None:
    api = make_prefect_api(api_key="hunter2")
    headers = bearer(await make_key(database, "read", "runs", "events:write"))
    assert (await api.client.post(DOCUMENTS, json=document())).status_code == 401
    for answer in (
        await api.client.post(DOCUMENTS, json=document(), headers=headers),
        await api.client.patch(f"{DOCUMENTS}{uuid4()}", json={"data": {}}, headers=headers),
        await api.client.delete(f"{DOCUMENTS}{uuid4()}", headers=headers),
    ):
        assert answer.status_code == 403
