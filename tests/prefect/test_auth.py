"""Upshot's keys as Prefect's client sends them: Bearer, and Basic with any user."""

from base64 import b64encode

import pytest

from tests.api.conftest import Api, MakeApi
from upshot.storage import api_keys
from upshot.storage.api_keys import Scope

pytestmark = pytest.mark.anyio

KEY = "upk_secret-of-the-shop"


def basic(pair: bytes) -> bytes:
    return b"Basic " + b64encode(pair)


async def status(api: Api, header: bytes | None, path: str = "/api/admin/version") -> int:
    headers = [] if header is None else [(b"authorization", header)]
    answer = await api.client.get(path, headers=headers)
    if answer.status_code == 401:
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert answer.json()["detail"]
    return answer.status_code


@pytest.mark.parametrize(
    "header",
    [
        b"Bearer " + KEY.encode(),
        b"bearer  " + KEY.encode(),
        basic(b"admin:" + KEY.encode()),
        basic(b":" + KEY.encode()),
        basic(KEY.encode()),
    ],
)
async def test_a_key_is_taken_in_every_form(make_prefect_api: MakeApi, header: bytes) -> None:
    assert await status(make_prefect_api(api_key=KEY), header) == 200


@pytest.mark.parametrize(
    "header",
    [
        None,
        b"",
        b"Bearer",
        b"Bearer ",
        b"Bearer wrong",
        b"Bearer " + KEY.encode() + b"x",
        b"Bearer \xff\xfe\x80",
        b"Bearer " + "schlüssel".encode(),
        b"Bearer " + b"k" * 1_000_000,
        b"Basic",
        b"Basic ",
        b"Basic not base64!",
        b"Basic \xff\xfe",
        b"Basic " + "ü".encode(),
        b"Basic =",
        b"Basic YQ",
        basic(b""),
        basic(b"admin:wrong"),
        basic(b"admin:\xff\x00"),
        basic(b"\xff" * 100_000),
        b"Digest " + KEY.encode(),
        KEY.encode(),
    ],
)
async def test_whatever_is_no_key_is_401(make_prefect_api: MakeApi, header: bytes | None) -> None:
    api = make_prefect_api(api_key=KEY)
    assert await status(api, header) == 401
    assert await status(api, header, "/api/work_pools/a") == 401


@pytest.mark.parametrize("key", ["schlüssel-größer", "pass:with:colons"])
async def test_any_characters_make_a_key(make_prefect_api: MakeApi, key: str) -> None:
    api = make_prefect_api(api_key=key)
    assert await status(api, b"Bearer " + key.encode()) == 200
    assert await status(api, basic(b"admin:" + key.encode())) == 200


async def test_health_needs_no_key(make_prefect_api: MakeApi) -> None:
    api = make_prefect_api(api_key=KEY)
    assert await status(api, None, "/api/health") == 200
    assert await status(api, None, "/api/ready") == 200


@pytest.mark.parametrize(
    ("scopes", "allowed"),
    [
        (["read"], {"read"}),
        (["runs"], {"runs"}),
        (["read", "runs"], {"read", "runs"}),
        (["events:write"], {"events"}),
        (["admin"], {"read", "runs", "events", "admin"}),
    ],
)
async def test_each_operation_needs_a_scope(
    make_prefect_api: MakeApi, scopes: list[Scope], allowed: set[str]
) -> None:
    api = make_prefect_api()
    async with api.app.state.services.database.begin() as conn:
        _, token = await api_keys.create(conn, name="k", scopes=scopes)
    asked = {
        "read": [
            ("GET", "/flows/name/a"),
            ("POST", "/flows/filter"),
            ("POST", "/work_pools/filter"),
        ],
        "runs": [
            ("POST", "/flows"),
            ("POST", "/logs"),
            ("POST", "/v2/concurrency_limits/increment"),
        ],
        "events": [("POST", "/events")],
        "admin": [("POST", "/deployments"), ("DELETE", "/flows/a"), ("POST", "/automations")],
    }
    for need, requests in asked.items():
        for method, path in requests:
            answer = await api.client.request(
                method, f"/api{path}", json=[], headers={"authorization": f"Bearer {token}"}
            )
            assert (answer.status_code != 403) == (need in allowed), (method, path, answer.text)


async def test_a_client_is_told_to_wait_while_the_database_has_no_tables_yet(api: Api) -> None:
    await api.conn.execute("ALTER TABLE api_keys RENAME TO not_yet")
    assert await status(api, b"Bearer wrong") == 503
