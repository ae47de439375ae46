"""POST, list and show events."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.api.conftest import Api

pytestmark = pytest.mark.anyio

CREATED = {"event": "order.created", "resource": {"prefect.resource.id": "123"}}


async def post(api: Api, body: bytes | str, content_type: str = "application/json") -> Any:
    return await api.client.post("/v1/events", content=body, headers={"content-type": content_type})


async def test_one_event_is_accepted(api: Api) -> None:
    answer = await api.client.post("/v1/events", json=CREATED)
    assert answer.status_code == 201
    body = answer.json()
    assert (body["accepted"], body["duplicates"], body["rejected"]) == (1, 0, 0)
    assert [result["status"] for result in body["results"]] == ["accepted"]
    shown = await api.get(f"/v1/events/{body['results'][0]['id']}")
    assert shown["event"] == "order.created"


async def test_the_same_event_again_is_a_duplicate_and_other_content_is_rejected(api: Api) -> None:
    event = {**CREATED, "id": str(uuid4())}
    first = await api.client.post("/v1/events", json=[event])
    again = await api.client.post("/v1/events", json=[event])
    other = await api.client.post("/v1/events", json=[{**event, "payload": {"a": 1}}])
    assert first.json()["results"] == [{"id": event["id"], "status": "accepted"}]
    assert again.status_code == 201
    assert again.json()["results"] == [{"id": event["id"], "status": "duplicate"}]
    assert other.status_code == 422
    assert other.json()["results"][0]["error"]["errors"][0]["loc"] == [0, "id"]


async def test_a_bad_event_in_a_batch_is_rejected_with_its_index_and_its_neighbours_stored(
    api: Api,
) -> None:
    bad = {"event": "order.created", "resource": {"id": ""}, "payload": {"a": [1, "\0"]}}
    answer = await api.client.post("/v1/events", json=[CREATED, bad, CREATED])
    assert answer.status_code == 207
    body = answer.json()
    assert (body["accepted"], body["rejected"]) == (2, 1)
    assert [result["status"] for result in body["results"]] == ["accepted", "rejected", "accepted"]
    locs = [error["loc"] for error in body["results"][1]["error"]["errors"]]
    assert [1, "payload", "a", 1] in locs
    assert len((await api.get("/v1/events"))["items"]) == 2


async def test_a_single_bad_event_is_a_problem_that_names_the_place(api: Api) -> None:
    answer = await api.client.post("/v1/events", json={"event": "x", "resource": {"id": 5}})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["errors"][0]["loc"] == ["resource", "id"]
    assert answer.json()["results"][0]["status"] == "rejected"


async def test_a_bad_line_of_ndjson_loses_only_itself(api: Api) -> None:
    lines = [json.dumps(CREATED), "{broken", json.dumps(CREATED)]
    answer = await post(api, "\n".join(lines), "application/x-ndjson")
    assert answer.status_code == 207
    assert [one["status"] for one in answer.json()["results"]] == [
        "accepted",
        "rejected",
        "accepted",
    ]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"[", 400),
        (b"[{]", 400),
        (b"nonsense", 400),
        (b"5", 400),
        (b"\xff\xfe", 400),
        (b"[]", 422),
        (b"{}", 422),
        (b"[" * 100_000, 400),
        (b'{"event": NaN, "resource": {"id": "1"}}', 422),
        (b"[" + b"{}," * 1_001 + b"{}]", 413),
    ],
    ids=lambda value: repr(value)[:24],
)
async def test_what_is_no_event_is_a_problem(api: Api, body: bytes, status: int) -> None:
    answer = await post(api, body)
    assert answer.status_code == status, answer.text
    assert answer.json()["status"] == status
    assert answer.headers["content-type"] == "application/problem+json"


async def test_a_body_that_says_it_is_too_large_is_refused_unread(api: Api) -> None:
    async def unread() -> AsyncIterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    answer = await api.client.post(
        "/v1/events", content=unread(), headers={"content-length": str(5 * 1024 * 1024)}
    )
    assert answer.status_code == 413
    assert answer.headers["connection"] == "close"


async def test_a_chunked_body_is_cut_off_at_the_bound(api: Api) -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 65_536
            yield b" " * 65_536

    messages = endless()
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": await anext(messages), "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/v1/events", "raw_path": b"/v1/events",
        "query_string": b"", "root_path": "", "scheme": "http", "http_version": "1.1",
        "headers": [(b"host", b"127.0.0.1:8484")], "client": None, "server": None,
    }  # fmt: skip
    await api.app(scope, receive, send)
    assert sent[0]["status"] == 413
    assert read < 5 * 1024 * 1024


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {"content-type": "application/json; charset=latin-1"},
        {"content-type": "application/json", "content-encoding": "gzip"},
    ],
)
async def test_what_is_not_understood_is_unsupported(api: Api, headers: dict[str, str]) -> None:
    body = json.dumps(CREATED).encode()
    if "content-encoding" in headers:
        body = gzip.compress(body)
    answer = await api.client.post("/v1/events", content=body, headers=headers)
    assert answer.status_code == 415


async def test_without_a_content_type_it_is_json(api: Api) -> None:
    answer = await api.client.post("/v1/events", content=json.dumps(CREATED))
    assert answer.status_code == 201


async def test_wait_answers_once_the_events_are_evaluated(api: Api) -> None:
    posting = asyncio.create_task(
        api.client.post("/v1/events", json=CREATED, params={"wait": "evaluated"})
    )
    while not posting.done():
        await api.evaluate()
    answer = posting.result()
    assert answer.status_code == 201
    assert answer.json()["evaluated"] is True


async def test_wait_for_anything_else_is_refused(api: Api) -> None:
    answer = await api.client.post("/v1/events", json=CREATED, params={"wait": "done"})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["loc"] == ["query", "wait"]


async def test_an_event_is_shown_as_it_was_sent(api: Api) -> None:
    number = 2**64 + 1
    event = {
        "event": "order.created",
        "resource": {"id": "123", "name": "Order", "shop": "north"},
        "related": [{"id": "7", "role": "customer"}],
        "payload": {"total": number, "items": []},
        "occurred": "2026-01-02T03:04:05+01:00",
        "follows": str(uuid4()),
    }
    (event_id,) = await api.post_events(event)
    shown = await api.get(f"/v1/events/{event_id}")
    assert shown["resource"] == {
        "prefect.resource.id": "123",
        "prefect.resource.name": "Order",
        "shop": "north",
    }
    assert shown["related"] == [{"prefect.resource.id": "7", "prefect.resource.role": "customer"}]
    assert shown["payload"] == {"total": number, "items": []}
    assert shown["occurred"] == "2026-01-02T02:04:05Z"
    assert shown["follows"] == event["follows"]
    assert (shown["runs"], shown["errors"]) == ([], [])


async def test_an_event_shows_the_runs_it_led_to(api: Api) -> None:
    await api.shop()
    run_id = await api.order("123")
    (newest, *_) = (await api.get("/v1/events", event="order.complete"))["items"]
    shown = await api.get(f"/v1/events/{newest['id']}")
    assert shown["runs"] == [
        {
            "id": run_id,
            "trigger": "order-complete",
            "deployment": "post-order-complete",
            "state": "scheduled",
        }
    ]


@pytest.mark.parametrize(("path", "status"), [(str(uuid4()), 404), ("nonsense", 422)])
async def test_an_unknown_event_is_a_problem(api: Api, path: str, status: int) -> None:
    assert (await api.client.get(f"/v1/events/{path}")).status_code == status


async def test_events_are_listed_newest_first_page_by_page(api: Api) -> None:
    ids = [
        (await api.post_events({"event": f"e{number}", "resource": {"id": "1"}}))[0]
        for number in range(5)
    ]
    seen: list[str] = []
    cursor = None
    for _ in range(5):
        params = {"limit": 2} if cursor is None else {"limit": 2, "cursor": cursor}
        page = await api.get("/v1/events", **params)
        seen += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == ids[::-1]


@pytest.mark.parametrize(
    ("params", "found"),
    [
        ({}, ["b.two", "upshot.x", "b_two", "a.two", "a.one"]),
        ({"event": "a.*"}, ["a.two", "a.one"]),
        ({"event": ["a.*", "!a.one"]}, ["a.two"]),
        ({"event": "!a.*"}, ["b.two", "b_two"]),
        ({"event": "*"}, ["b.two", "b_two", "a.two", "a.one"]),
        ({"event": "b_two"}, ["b_two"]),
        ({"event": "*_two"}, ["b_two"]),
        ({"event": "%"}, []),
        ({"event": "upshot.*"}, ["upshot.x"]),
        ({"resource": "1"}, ["b_two", "a.one"]),
        ({"resource": "2*"}, ["b.two", "a.two"]),
        ({"resource": "1", "event": "a.*"}, ["a.one"]),
        ({"since": "2020-01-01T00:00:00Z"}, ["b.two", "upshot.x", "b_two", "a.two", "a.one"]),
        ({"until": "2020-01-01"}, []),
        ({"since": "2090-01-01"}, []),
    ],
    ids=str,
)
async def test_lists_are_narrowed_by_name_resource_and_time(
    api: Api, params: dict[str, Any], found: list[str]
) -> None:
    await api.post_events(
        {"event": "a.one", "resource": {"id": "1"}},
        {"event": "a.two", "resource": {"id": "2"}},
        {"event": "b_two", "resource": {"id": "1"}},
    )
    await api.conn.execute(
        "INSERT INTO events (occurred_at, id, size, name, resource_id) "
        "VALUES (now(), gen_random_uuid(), 1, 'upshot.x', 'upshot.y')"
    )
    await api.post_events({"event": "b.two", "resource": {"id": "2x"}})
    page = await api.get("/v1/events", **params)
    assert [item["event"] for item in page["items"]] == found
    assert page["next_cursor"] is None


@pytest.mark.parametrize(
    ("params", "loc"),
    [
        ({"limit": 0}, ["query", "limit"]),
        ({"limit": 501}, ["query", "limit"]),
        ({"limit": "x"}, ["query", "limit"]),
        ({"limit": 2**70}, ["query", "limit"]),
        ({"cursor": "nonsense"}, ["query", "cursor"]),
        ({"cursor": "W10"}, ["query", "cursor"]),
        ({"cursor": "WzEsMiwzXQ"}, ["query", "cursor"]),
        ({"cursor": "WzEsLTJd"}, ["query", "cursor"]),
        ({"since": "yesterday"}, ["query", "since"]),
        ({"since": "9999-12-31T23:59:59Z"}, ["query", "since"]),
        ({"event": "a\0"}, ["query", "event", 0]),
        ({"event": ""}, ["query", "event", 0]),
        ({"resource": "a\0"}, ["query", "resource"]),
    ],
    ids=str,
)
async def test_bad_parameters_are_refused_by_name(
    api: Api, params: dict[str, Any], loc: list[Any]
) -> None:
    answer = await api.client.get("/v1/events", params=params)
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["loc"] == loc


async def test_a_time_without_an_offset_is_utc(api: Api) -> None:
    answer: httpx.Response = await api.client.get(
        "/v1/events", params={"since": "2026-01-01T00:00:00", "until": "2026-02-01"}
    )
    assert answer.status_code == 200
