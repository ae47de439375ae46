"""What flow runs are sent while they run or wait."""

from typing import Any
from uuid import uuid4

import pytest

from tests.api.conftest import Api
from tests.prefect.test_logs import run_of
from upshot.core.limits import FLOW_RUN_INPUTS_MAX

pytestmark = pytest.mark.anyio


async def send(api: Api, run_id: str, key: str, value: str = "1", **more: Any) -> int:
    answer = await api.client.post(
        f"/api/flow_runs/{run_id}/input", json={"key": key, "value": value, **more}
    )
    return answer.status_code


async def keys(api: Api, run_id: str, **body: Any) -> list[str]:
    answer = await api.client.post(f"/api/flow_runs/{run_id}/input/filter", json=body)
    assert answer.status_code == 200, answer.text
    return [one["key"] for one in answer.json()]


async def test_an_input_is_read_as_it_was_sent_and_deleted(api: Api) -> None:
    run_id = await run_of(api)
    path = f"/api/flow_runs/{run_id}/input/answer-1"
    assert await send(api, run_id, "answer-1", '{"a": "größe\\u0000"}', sender="me") == 201
    read = await api.client.get(path)
    assert (read.status_code, read.text) == (200, '{"a": "größe\\u0000"}')
    assert read.headers["content-type"].startswith("text/plain")
    assert (await api.client.delete(path)).status_code == 204
    assert (await api.client.delete(path)).status_code == 404
    assert (await api.client.get(path)).status_code == 404


async def test_a_key_is_used_once(api: Api) -> None:
    run_id = await run_of(api)
    assert await send(api, run_id, "k") == 201
    assert await send(api, run_id, "k", "2") == 409
    assert (await api.client.get(f"/api/flow_runs/{run_id}/input/k")).text == "1"


async def test_inputs_are_found_by_how_their_key_begins(api: Api) -> None:
    run_id, other = await run_of(api), await run_of(api)
    for key in ("a_-2", "a_-1", "ab-1", "b"):
        assert await send(api, run_id, key) == 201
    assert await send(api, other, "a_-3") == 201
    assert await keys(api, run_id, prefix="a_", limit=9) == ["a_-2", "a_-1"]
    assert await keys(api, run_id, prefix="a_") == ["a_-2"]
    assert await keys(api, run_id, prefix="a", exclude_keys=["a_-2"], limit=9) == ["a_-1", "ab-1"]
    assert await keys(api, run_id, prefix="%", limit=9) == []
    assert await keys(api, str(uuid4()), prefix="") == []


async def test_inputs_of_an_unknown_run_are_404(api: Api) -> None:
    assert await send(api, str(uuid4()), "k") == 404
    assert (await api.client.get(f"/api/flow_runs/{uuid4()}/input/k")).status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        {"key": "a b", "value": "1"},
        {"key": "", "value": "1"},
        {"key": "k\n", "value": "1"},
        {"key": "ä", "value": "1"},
        {"key": "k" * 501, "value": "1"},
        {"key": "k"},
        {"key": "k", "value": {}},
        {"key": "k", "value": "\0"},
        {"key": "k", "value": "v" * 600_000},
        {"key": "k", "value": "1", "sender": "\0"},
    ],
)
async def test_an_input_that_cannot_be_kept_is_refused(api: Api, body: dict[str, Any]) -> None:
    run_id = await run_of(api)
    answer = await api.client.post(f"/api/flow_runs/{run_id}/input", json=body)
    assert answer.status_code == 422


async def test_a_run_keeps_so_many_inputs(api: Api) -> None:
    run_id = await run_of(api)
    await api.conn.execute(
        "INSERT INTO flow_run_inputs (run_id, key, value) "
        "SELECT $1, 'k' || n, '1' FROM generate_series(1, $2) n",
        run_id,
        FLOW_RUN_INPUTS_MAX,
    )
    assert await send(api, run_id, "k") == 409
    await api.client.delete(f"/api/flow_runs/{run_id}/input/k1")
    assert await send(api, run_id, "k") == 201
