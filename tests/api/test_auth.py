"""Who is admitted: keys and scopes, and what is open while there is no key."""

from datetime import timedelta
from typing import Any

import httpx
import pytest

from tests.api.conftest import Api, MakeApi
from upshot.storage import api_keys
from upshot.storage.api_keys import Scope
from upshot.storage.database import Database

pytestmark = pytest.mark.anyio

CREATED = {"event": "order.created", "resource": {"id": "123"}}


async def make_key(database: Database, *scopes: Scope) -> str:
    async with database.begin() as conn:
        _, token = await api_keys.create(conn, name="test", scopes=scopes)
    return token


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


async def test_on_loopback_everything_is_open_while_there_is_no_key(api: Api) -> None:
    assert (await api.client.get("/v1/triggers")).status_code == 200
    assert (await api.client.post("/v1/events", json=CREATED)).status_code == 201


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": "localhost:8484"}, 200),
        ({"host": "[::1]:8484"}, 200),
        ({"host": "evil.example"}, 403),
        ({"host": "127.0.0.1.evil.example"}, 403),
        ({"host": ""}, 403),
        ({"host": "[", "origin": "http://["}, 403),
        ({"origin": "http://127.0.0.1:8484"}, 200),
        ({"origin": "http://127.0.0.1:3000"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
    ],
    ids=str,
)
async def test_while_open_other_sites_are_refused(
    api: Api, headers: dict[str, str], status: int
) -> None:
    assert (await api.client.get("/v1/status", headers=headers)).status_code == status


async def test_the_first_key_closes_the_server(api: Api, database: Database) -> None:
    token = await make_key(database, "admin")
    assert (await api.client.get("/v1/triggers")).status_code == 401
    assert (await api.client.get("/v1/triggers", headers=bearer(token))).status_code == 200


async def test_with_a_key_the_host_may_be_any(make_api: MakeApi) -> None:
    api = make_api(api_key="hunter2", base_url="http://upshot.example")
    answer = await api.client.get(
        "/v1/triggers", headers={**bearer("hunter2"), "origin": "https://app.example"}
    )
    assert answer.status_code == 200


async def test_the_key_of_the_settings_is_admin_and_needs_no_database(make_api: MakeApi) -> None:
    api = make_api(api_key="hunter2")
    assert (await api.client.get("/v1/triggers")).status_code == 401
    assert (await api.client.get("/v1/triggers", headers=bearer("hunter3"))).status_code == 401
    for headers in (bearer("hunter2"), {"authorization": "bearer  hunter2"}):
        assert (await api.client.get("/v1/triggers", headers=headers)).status_code == 200


async def test_on_another_address_nothing_is_open_without_a_key(make_api: MakeApi) -> None:
    assert (await make_api(host="0.0.0.0").client.get("/v1/triggers")).status_code == 401


async def test_insecure_is_open_to_any_host(make_api: MakeApi) -> None:
    api = make_api(host="0.0.0.0", insecure=True, base_url="http://upshot.example")
    assert (await api.client.get("/v1/triggers")).status_code == 200


SHOP_DEPLOYMENT = {"runner": {"url": "http://127.0.0.1:9000/run"}}
CALLS: list[tuple[str, str, Any, Scope]] = [
    ("POST", "/v1/events", CREATED, "events:write"),
    ("GET", "/v1/events", None, "read"),
    ("GET", "/v1/status", None, "read"),
    ("GET", "/metrics", None, "read"),
    ("PUT", "/v1/deployments/d", SHOP_DEPLOYMENT, "admin"),
    ("DELETE", "/v1/triggers/t", None, "admin"),
    ("POST", "/v1/deployments/none/runs", {}, "admin"),
    ("POST", "/v1/runs/8a8c0f8e-4f0c-4c4e-9a51-111111111111/cancel", None, "admin"),
    ("PATCH", "/v1/runs/8a8c0f8e-4f0c-4c4e-9a51-111111111111", {}, "runs"),
]


@pytest.mark.parametrize(("method", "path", "body", "needed"), CALLS, ids=str)
async def test_each_call_needs_its_scope_and_admin_has_all(
    api: Api, database: Database, method: str, path: str, body: Any, needed: Scope
) -> None:
    for scope in api_keys.SCOPES:
        token = await make_key(database, scope)
        answer = await api.client.request(method, path, json=body, headers=bearer(token))
        admitted = scope in (needed, "admin")
        assert (answer.status_code != 403) is admitted, answer.text
        assert answer.status_code != 401


async def test_without_a_key_nothing_of_the_body_is_read(make_api: MakeApi) -> None:
    api = make_api(api_key="hunter2")
    answer = await api.client.post("/v1/events", content=b"x" * (5 * 1024 * 1024))
    assert answer.status_code == 401
    answer = await api.client.put("/v1/triggers/t", content=b"{broken")
    assert answer.status_code == 401


async def test_a_revoked_key_is_refused_within_seconds(api: Api, database: Database) -> None:
    token = await make_key(database, "admin")
    assert (await api.client.get("/v1/triggers", headers=bearer(token))).status_code == 200
    async with database.begin() as conn:
        (key,) = await api_keys.list_all(conn)
        assert await api_keys.revoke(conn, key.id)
    await make_key(database, "read")
    api.clock.advance(timedelta(seconds=6))
    assert (await api.client.get("/v1/triggers", headers=bearer(token))).status_code == 401


@pytest.mark.parametrize(
    "header",
    [
        b"", b"Bearer", b"Bearer ", b"Bearer \xff\xfe", b"Basic dXNlcjpwYXNz", b"\x00",
        b"Bearer \x00", b"Bearer " + b"x" * 60_000, "Bearer ключ".encode(),
    ],
    ids=lambda value: repr(value)[:24],
)  # fmt: skip
async def test_no_bytes_in_the_header_are_more_than_a_401(make_api: MakeApi, header: bytes) -> None:
    api = make_api(api_key="hunter2")
    request = httpx.Request(
        "GET", "http://127.0.0.1:8484/v1/triggers", headers=[(b"authorization", header)]
    )
    answer = await api.client.send(request)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.json()["status"] == 401


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/docs", "/openapi.json"])
async def test_health_and_documentation_need_no_key(make_api: MakeApi, path: str) -> None:
    api = make_api(api_key="hunter2", base_url="http://upshot.example")
    assert (await api.client.get(path)).status_code == 200
