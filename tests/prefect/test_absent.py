"""What Upshot has not of Prefect's API says so, and where to look."""

from typing import Any
from uuid import uuid4

import pytest

from tests.api.conftest import Api, MakeApi
from upshot.prefect.absent import INSTEAD, OF_ONE

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/artifacts/"),
        ("POST", "/artifacts/latest/filter"),
        ("GET", "/variables/name/a"),
        ("POST", "/variables/"),
        ("GET", "/work_pools/default"),
        ("POST", "/work_pools/filter"),
        ("POST", "/work_pools/a/workers/heartbeat"),
        ("GET", "/work_queues/name/a"),
        ("POST", "/saved_searches/"),
        ("POST", "/task_workers/filter"),
        ("GET", "/collections/views/aggregate-worker-metadata"),
        ("POST", "/flow_run_notification_policies/filter"),
        ("GET", "/ui-settings"),
        ("POST", "/ui/flow_runs/history"),
        ("GET", "/admin/settings"),
        ("POST", "/admin/database/clear"),
        ("POST", "/flow_runs/history"),
        ("POST", "/flow_runs/lateness"),
        ("GET", f"/flow_runs/{uuid4()}/graph-v2"),
        ("GET", f"/flow_runs/{uuid4()}/logs/download"),
        ("GET", f"/task_run_states/{uuid4()}"),
        ("POST", "/concurrency_limits/"),
        ("POST", "/v2/concurrency_limits/"),
        ("PATCH", "/v2/concurrency_limits/a"),
        ("DELETE", "/v2/concurrency_limits/a"),
        ("DELETE", "/concurrency_limits/tag/a"),
        ("POST", "/concurrency_limits/tag/a/reset"),
        ("POST", "/block_capabilities/"),
        ("POST", "/flows/bulk_delete"),
        ("POST", "/deployments/bulk_delete"),
    ],
)
async def test_what_is_not_there_says_what_is(api: Api, method: str, path: str) -> None:
    answer = await api.client.request(method, f"/api{path}", json={"name": "a"})
    assert answer.status_code == 501, answer.text
    assert "Upshot" in answer.json()["detail"] or "/api/" in answer.json()["detail"]


@pytest.mark.parametrize("sentence", [*INSTEAD.values(), *OF_ONE.values()])
def test_each_says_it_in_a_sentence(sentence: str) -> None:
    assert sentence.endswith(".")
    assert len(sentence) < 200


@pytest.mark.parametrize("path", ["/api/", "/api/nothing", "/api/flows/a/b/c", "/api//"])
async def test_an_unknown_path_is_404_with_where_to_read(api: Api, path: str) -> None:
    answer = await api.client.get(path)
    assert answer.status_code == 404
    assert "docs/prefect.md" in answer.json()["detail"]


async def test_a_wrong_method_is_405(api: Api) -> None:
    for method, path in (("PUT", "/api/flows"), ("DELETE", "/api/deployments/filter")):
        answer = await api.client.request(method, path)
        assert answer.status_code in (405, 422), answer.text


@pytest.mark.parametrize(
    ("path", "body", "answered"),
    [
        (
            "/v2/concurrency_limits/increment",
            {"names": ["a"], "slots": 1, "mode": "concurrency"},
            [],
        ),
        ("/v2/concurrency_limits/decrement", {"names": ["a"], "slots": 1}, []),
        ("/v2/concurrency_limits/filter", {"limit": 10, "offset": 0}, []),
        ("/concurrency_limits/increment", {"names": ["a"], "task_run_id": "b"}, []),
        ("/concurrency_limits/decrement", {"names": ["a"]}, []),
        ("/concurrency_limits/filter", {}, []),
    ],
)
async def test_there_are_no_concurrency_limits_to_wait_for(
    api: Api, path: str, body: Any, answered: Any
) -> None:
    answer = await api.client.post(f"/api{path}", json=body)
    assert (answer.status_code, answer.json()) == (200, answered)


async def test_a_lease_of_no_slots_is_given_renewed_and_released(api: Api) -> None:
    path = "/api/v2/concurrency_limits"
    leased = await api.client.post(f"{path}/increment-with-lease", json={"names": ["a"]})
    assert leased.json()["limits"] == []
    lease = leased.json()["lease_id"]
    renewed = await api.client.post(f"{path}/leases/{lease}/renew", json={"lease_duration": 60})
    released = await api.client.post(f"{path}/decrement-with-lease", json={"lease_id": lease})
    assert (renewed.status_code, released.status_code) == (204, 204)


async def test_an_unknown_limit_is_404(api: Api) -> None:
    for path in ("/v2/concurrency_limits/a", "/concurrency_limits/tag/a/b"):
        assert (await api.client.get(f"/api{path}")).status_code == 404


async def test_the_server_answers_for_itself(make_prefect_api: MakeApi) -> None:
    api = make_prefect_api()
    assert await api.get("/api/health") is True
    assert await api.get("/api/ready") is True
    assert (await make_prefect_api(not_ready="no database").client.get("/api/ready")).is_error
    csrf = await api.client.get("/api/csrf-token?client=a")
    assert csrf.status_code == 422
    assert "CSRF protection is disabled." in csrf.text
    version = await api.client.get(
        "/api/admin/version/", headers={"user-agent": "prefect/3.0.0 (API 0.8.4)"}
    )
    assert version.json() == "3.0.0"
