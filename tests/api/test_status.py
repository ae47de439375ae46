"""Status, health, metrics, documentation, and what is answered when things are wrong."""

import re
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from tests.api.conftest import SHOP, Api, MakeApi
from upshot.storage.database import Database

pytestmark = pytest.mark.anyio


@pytest.fixture
async def away() -> AsyncIterator[Database]:
    """A database that nobody answers for."""
    database = Database(lambda: "postgresql://postgres@127.0.0.1:1/none")
    yield database
    await database.close()


async def test_status_tells_how_far_the_log_is_evaluated(api: Api) -> None:
    await api.shop()
    await api.evaluate()
    before = await api.get("/v1/status")
    assert (before["lag_seconds"], before["head"]) == (0, before["evaluated"])
    await api.post_events({"event": "order.created", "resource": {"id": "1"}})
    behind = await api.get("/v1/status")
    assert behind["lag_seconds"] > 0
    assert behind["head"] == behind["evaluated"] + 1
    await api.evaluate()
    after = await api.get("/v1/status")
    assert (after["lag_seconds"], after["evaluated"]) == (0, behind["head"])


async def test_status_counts_and_remembers_the_counts_for_a_moment(api: Api) -> None:
    await api.shop()
    await api.order("1")
    first = await api.get("/v1/status")
    assert first["runs"] == {"scheduled": 1, "running": 0, "retrying": 0}
    assert (first["triggers"], first["deployments"], first["open_keys"]) == (1, 1, 0)
    assert first["postgres"].startswith(("15", "16", "17", "18"))
    await api.put("/v1/triggers/second", SHOP)
    assert (await api.get("/v1/status"))["triggers"] == 1
    api.clock.advance(timedelta(seconds=11))
    assert (await api.get("/v1/status"))["triggers"] == 2


async def test_metrics_are_prometheus_text(api: Api) -> None:
    await api.post_events({"event": "order.created", "resource": {"id": "1"}})
    answer = await api.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert re.search(r'^upshot_events_total\{status="accepted"\} [1-9]', answer.text, re.M)
    assert re.search(r"^upshot_log_head 1\.0$", answer.text, re.M)
    assert re.search(r'^upshot_runs_open\{state="scheduled"\} 0\.0$', answer.text, re.M)


async def test_health_needs_nothing_and_readiness_says_what_is_missing(make_api: MakeApi) -> None:
    api = make_api(not_ready="waiting for Postgres")
    assert (await api.client.get("/healthz")).status_code == 200
    answer = await api.client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["detail"] == "waiting for Postgres"
    assert answer.headers["retry-after"]
    assert (await make_api().client.get("/readyz")).json() == {"ready": True}


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/triggers", None),
        ("GET", "/v1/events", None),
        ("PUT", "/v1/deployments/d", {"runner": {"url": "http://127.0.0.1:9000"}}),
        ("POST", "/v1/events", {"event": "x", "resource": {"id": "1"}}),
        ("GET", "/metrics", None),
    ],
)
@pytest.mark.parametrize("settings", [{}, {"api_key": "hunter2"}], ids=["open", "key"])
async def test_a_database_that_is_away_is_a_503_that_says_when_to_come_again(
    make_api: MakeApi, away: Database, settings: dict[str, Any], method: str, path: str, body: Any
) -> None:
    api = make_api(api_database=away, **settings)
    headers = {"authorization": "Bearer hunter2"}
    answer = await api.client.request(method, path, json=body, headers=headers)
    if settings and path == "/v1/events" and method == "POST":
        # Neither the key nor the ingest needs that database.
        assert answer.status_code == 201
        return
    assert answer.status_code == 503, answer.text
    assert answer.headers["retry-after"] == "2"
    assert answer.json()["status"] == 503


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/v1/events/", 404),
        ("DELETE", "/v1/events", 405),
        ("GET", "/v1/runs/x/retry", 405),
        ("GET", "/docs/assets/nothing", 404),
        ("GET", "/docs/assets/..%2f..%2fapp.py", 404),
    ],
)
async def test_what_does_not_exist_is_a_problem_too(
    api: Api, method: str, path: str, status: int
) -> None:
    answer = await api.client.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {
        "type": "about:blank",
        "title": answer.json()["title"],
        "status": status,
        "detail": answer.json()["detail"],
        "errors": [],
    }


async def test_a_mistake_of_ours_is_a_500_without_its_insides(api: Api) -> None:
    await api.shop()
    await api.conn.execute("UPDATE triggers SET document = '{\"password\": 1}'")
    answer = await api.client.patch("/v1/triggers/order-complete", json={"enabled": False})
    assert answer.status_code == 422
    await api.conn.execute("ALTER TABLE triggers ALTER document TYPE text")
    answer = await api.client.get("/v1/triggers")
    assert answer.status_code == 500
    assert "document" not in answer.text


BODIES: list[tuple[bytes, dict[str, str], int]] = [
    (b"{", {}, 400),
    (b"\xff", {}, 400),
    (b'{"description": NaN}', {}, 400),
    (b'{"description": 1e400}', {}, 400),
    (b'{"description": "\\ud800"}', {}, 400),
    (b'{"description": ' + b"9" * 5_000 + b"}", {}, 400),
    (b"[" * 100_000, {}, 400),
    (b'{"parameters": {"a": "\\u0000"}}', {}, 422),
    (b'{"a\\u0000": 1}', {}, 422),
    (b"", {}, 422),
    (b"null", {}, 422),
    (b'"x"', {}, 422),
    (b"[]", {}, 422),
    (b"{}", {"content-type": "text/plain"}, 415),
    (b"{}", {"content-type": "application/x-www-form-urlencoded"}, 415),
    (b"{}", {"content-type": "application/json", "content-encoding": "gzip"}, 415),
    (b" " * (1024 * 1024 + 1), {}, 413),
]


@pytest.mark.parametrize(("body", "headers", "status"), BODIES, ids=lambda one: repr(one)[:32])
@pytest.mark.parametrize(
    ("method", "path"),
    [("PUT", "/v1/deployments/d"), ("POST", "/v1/triggers"), ("PATCH", "/v1/triggers/t")],
)
async def test_a_hostile_body_is_a_4xx(
    api: Api, method: str, path: str, body: bytes, headers: dict[str, str], status: int
) -> None:
    answer = await api.client.request(method, path, content=body, headers=headers)
    # A patch that could be read is for a trigger that is not there.
    expected = {status, 404} if method == "PATCH" and status == 422 else {status}
    assert answer.status_code in expected, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


async def test_the_documentation_loads_nothing_from_elsewhere(api: Api) -> None:
    page = await api.client.get("/docs")
    loaded = re.findall(r"""(?:src|href|url)\s*[=:]\s*["']([^"']+)["']""", page.text)
    assert len(loaded) >= 3
    for url in loaded:
        assert url.startswith("/"), url
        assert (await api.client.get(url)).status_code == 200
    assert "default-src 'self'" in page.headers["content-security-policy"]


async def test_every_operation_is_documented_with_its_errors_and_scope(api: Api) -> None:
    described = await api.get("/openapi.json")
    names = []
    for path, operations in described["paths"].items():
        for operation in operations.values():
            names.append(operation["operationId"])
            assert operation["summary"]
            assert operation["description"]
            assert operation["tags"]
            if path.startswith("/v1/"):
                assert "Scope: `" in operation["description"]
                for status, answer in operation["responses"].items():
                    if int(status) >= 400:
                        assert list(answer["content"]) == ["application/problem+json"]
    assert len(set(names)) == len(names) > 20
