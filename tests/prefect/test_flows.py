"""Flows on `/api`."""

from typing import Any

import pytest

from tests.api.conftest import Api

pytestmark = pytest.mark.anyio

UNKNOWN = "00000000-0000-0000-0000-000000000000"


async def flow(api: Api, name: str = "orders", **more: Any) -> str:
    answer = await api.client.post("/api/flows/", json={"name": name, **more})
    assert answer.status_code in (200, 201), answer.text
    flow_id: str = answer.json()["id"]
    return flow_id


async def names(api: Api, body: dict[str, Any]) -> list[str]:
    answer = await api.client.post("/api/flows/filter", json=body)
    assert answer.status_code == 200, answer.text
    return [one["name"] for one in answer.json()]


async def test_a_flow_is_made_once_by_its_name(api: Api) -> None:
    made = await api.client.post("/api/flows/", json={"name": "orders", "tags": ["a"]})
    again = await api.client.post("/api/flows", json={"name": "orders", "tags": ["b"]})
    assert (made.status_code, again.status_code) == (201, 200)
    assert again.json() == made.json()
    assert made.json()["tags"] == ["a"]
    assert made.json()["labels"] == {}


async def test_a_flow_is_read_by_id_and_by_name(api: Api) -> None:
    flow_id = await flow(api, "größe & more")
    by_id = await api.get(f"/api/flows/{flow_id}")
    by_name = await api.get("/api/flows/name/größe & more")
    assert by_id == by_name
    assert by_id["id"] == flow_id


async def test_tags_of_a_flow_are_changed(api: Api) -> None:
    flow_id = await flow(api)
    answer = await api.client.patch(f"/api/flows/{flow_id}", json={"tags": ["new"]})
    assert answer.status_code == 204
    assert (await api.get(f"/api/flows/{flow_id}"))["tags"] == ["new"]


async def test_a_deleted_flow_is_gone(api: Api) -> None:
    flow_id = await flow(api)
    assert (await api.client.delete(f"/api/flows/{flow_id}")).status_code == 204
    assert (await api.client.get(f"/api/flows/{flow_id}")).status_code == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"/api/flows/{UNKNOWN}"),
        ("PATCH", f"/api/flows/{UNKNOWN}"),
        ("DELETE", f"/api/flows/{UNKNOWN}"),
        ("GET", "/api/flows/name/unknown"),
    ],
)
async def test_an_unknown_flow_is_404(api: Api, method: str, path: str) -> None:
    body = {"tags": ["a"]} if method == "PATCH" else None
    answer = await api.client.request(method, path, json=body)
    assert answer.status_code == 404
    assert "There is no flow" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({}, ["bill", "order", "pay 100%"]),
        ({"name": {"any_": ["bill", "pay 100%", "other"]}}, ["bill", "pay 100%"]),
        ({"name": {"like_": "RD"}}, ["order"]),
        ({"name": {"like_": "%"}}, ["pay 100%"]),
        ({"tags": {"all_": ["a"]}}, ["bill", "order"]),
        ({"tags": {"all_": ["a", "b"]}}, ["order"]),
        ({"tags": {"any_": ["b", "c"]}}, ["order"]),
        ({"tags": {"is_null_": True}}, ["pay 100%"]),
        ({"tags": {"is_null_": False}}, ["bill", "order"]),
        ({"tags": {"operator": "or_", "all_": ["b"], "is_null_": True}}, ["order", "pay 100%"]),
        ({"name": {"like_": "bill"}, "tags": {"all_": ["b"]}}, []),
        (
            {"operator": "or_", "name": {"like_": "bill"}, "tags": {"all_": ["b"]}},
            ["bill", "order"],
        ),
        ({"id": {"any_": [UNKNOWN]}}, []),
        ({"id": {"any_": []}}, []),
    ],
)
async def test_flows_are_found_by_what_is_wanted(
    api: Api, wanted: dict[str, Any], found: list[str]
) -> None:
    await flow(api, "order", tags=["a", "b"])
    await flow(api, "bill", tags=["a"])
    await flow(api, "pay 100%")
    assert await names(api, {"flows": wanted}) == found
    counted = await api.client.post("/api/flows/count", json={"flows": wanted})
    assert counted.json() == len(found)


async def test_flows_come_in_pages(api: Api) -> None:
    for name in ("a", "b", "c"):
        await flow(api, name)
    answer = await api.client.post("/api/flows/paginate", json={"limit": 2, "page": 2})
    page = answer.json()
    assert [one["name"] for one in page["results"]] == ["c"]
    assert (page["count"], page["pages"], page["page"], page["limit"]) == (3, 2, 2, 2)
    assert await names(api, {"sort": "NAME_DESC", "limit": 1, "offset": 1}) == ["b"]
    assert await names(api, {"sort": "CREATED_DESC", "limit": 1}) == ["c"]
    assert await names(api, {"limit": None, "sort": None, "flows": None}) == ["a", "b", "c"]


@pytest.mark.parametrize(
    "body",
    [
        {"flows": {"id": {"any_": ["no-uuid"]}}},
        {"limit": 201},
        {"limit": -1},
        {"offset": -1},
        {"offset": 10**30},
        {"sort": "BEST"},
        {"flow_runs": {"id": {"any_": [UNKNOWN]}}},
        {"work_pools": {"name": {"any_": ["a"]}}},
        [],
        {"flows": {"name": {"like_": "\0"}}},
        {"flows": {"name": {"any_": ["a"] * 1_001}}},
    ],
)
async def test_a_filter_that_cannot_be_kept_is_refused(api: Api, body: Any) -> None:
    for path in ("/api/flows/filter", "/api/deployments/filter"):
        answer = await api.client.post(path, json=body)
        assert 400 <= answer.status_code < 500, answer.text


@pytest.mark.parametrize("body", [None, [], {}, {"name": ""}, {"name": "a\0"}, {"name": "ä" * 501}])
async def test_a_flow_without_a_name_that_can_be_kept_is_refused(api: Api, body: Any) -> None:
    assert (await api.client.post("/api/flows/", json=body)).status_code in (400, 422)


async def test_the_longest_name_is_kept(api: Api) -> None:
    name = "\N{PILE OF POO}" * 500
    flow_id = await flow(api, name)
    assert (await api.get(f"/api/flows/{flow_id}"))["name"] == name


async def test_half_a_surrogate_pair_is_no_name(api: Api) -> None:
    answer = await api.client.post(
        "/api/flows/",
        content=b'{"name": "\\ud800"}',
        headers={"content-type": "application/json"},
    )
    assert answer.status_code == 400
