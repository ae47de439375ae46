"""CloudEvents over HTTP, as the official package sends them and as curl does."""

import gzip
import http.client
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import pytest
from cloudevents.core.bindings.http import HTTPMessage, to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent

from tests.api.conftest import Api

pytestmark = pytest.mark.anyio

BATCH = "application/cloudevents-batch+json"
STRUCTURED = "application/cloudevents+json"
GZIPPED = gzip.compress(b"{}", mtime=0)


def order(**attributes: Any) -> CloudEvent:
    return CloudEvent(
        attributes={
            "id": str(uuid4()),
            "specversion": "1.0",
            "type": "order.complete",
            "source": "/shop",
            "subject": "Zoë 1",
            "time": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
            "datacontenttype": "application/json",
            "region": "eu",
            **attributes,
        },
        data={"total": 99.5, "note": "€"},
    )


def batch_of(*events: CloudEvent) -> HTTPMessage:
    items = b",".join(to_structured_event(event).body for event in events)
    return HTTPMessage(headers={"content-type": BATCH}, body=b"[%s]" % items)


async def post(api: Api, message: HTTPMessage) -> httpx.Response:
    return await api.client.post("/v1/events", content=message.body, headers=message.headers)


MODES: list[Callable[[CloudEvent], HTTPMessage]] = [to_structured_event, to_binary_event, batch_of]


@pytest.mark.parametrize("write", MODES)
async def test_what_the_official_package_writes_is_stored(api: Api, write: Any) -> None:
    event = order()
    answer = await post(api, write(event))
    assert answer.status_code == 201, answer.text
    (result,) = answer.json()["results"]
    assert result == {"id": event.get_id(), "status": "accepted"}
    shown = await api.get(f"/v1/events/{event.get_id()}")
    assert (shown["event"], shown["occurred"]) == ("order.complete", "2026-01-02T03:04:05Z")
    assert shown["resource"] == {
        "prefect.resource.id": "Zoë 1",
        "source": "/shop",
        "datacontenttype": "application/json",
        "region": "eu",
    }
    assert shown["payload"] == {"total": 99.5, "note": "€"}


@pytest.mark.parametrize("event_id", [str(uuid4()), "A234-1234-1234"])
async def test_an_event_sent_again_in_any_mode_is_a_duplicate(api: Api, event_id: str) -> None:
    event = order(id=event_id)
    answers = [await post(api, write(event)) for write in MODES]
    assert [answer.status_code for answer in answers] == [201, 201, 201]
    assert [answer.json()["duplicates"] for answer in answers] == [0, 1, 1]
    assert len({answer.json()["results"][0]["id"] for answer in answers}) == 1
    assert len((await api.get("/v1/events"))["items"]) == 1


async def test_the_same_id_from_another_source_is_another_event(api: Api) -> None:
    message = batch_of(order(id="1", source="/a"), order(id="1", source="/b"))
    assert (await post(api, message)).json()["accepted"] == 2


async def test_the_same_id_with_other_content_is_rejected(api: Api) -> None:
    await post(api, to_binary_event(order(id="1")))
    answer = await post(api, to_structured_event(order(id="1", region="us")))
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["loc"] == ["id"]


@pytest.mark.parametrize(
    ("data", "payload"),
    [
        ("hello", {"data": "hello"}),
        (b"\0\xff", {"data_base64": "AP8="}),
        (None, {}),
    ],
)
@pytest.mark.parametrize("write", MODES)
async def test_data_that_is_no_object_is_kept_in_a_field(
    api: Api, write: Any, data: Any, payload: Any
) -> None:
    kind = "application/octet-stream" if isinstance(data, bytes) else "text/plain"
    event = CloudEvent(attributes={**order().get_attributes(), "datacontenttype": kind}, data=data)
    answer = await post(api, write(event))
    assert answer.status_code == 201, answer.text
    assert (await api.get(f"/v1/events/{event.get_id()}"))["payload"] == payload


async def test_a_cloudevent_fires_a_trigger(api: Api) -> None:
    await api.shop()
    for name in ("order.created", "order.complete"):
        answer = await post(api, to_binary_event(order(type=name, subject="123")))
        assert answer.status_code == 201
    await api.evaluate()
    (run,) = (await api.get("/v1/runs"))["items"]
    assert (await api.get(f"/v1/runs/{run['id']}"))["parameters"] == {"user_id": "123"}


async def test_a_bad_event_of_a_batch_is_rejected_with_its_index_and_its_neighbours_stored(
    api: Api,
) -> None:
    good = json.loads(to_structured_event(order()).body)
    items = [
        good,
        {**good, "id": str(uuid4()), "data": {"a": [1, "\0"]}},
        {**good, "id": str(uuid4()), "type": "upshot.run.completed"},
        {"event": "order.created", "resource": {"id": "1"}},
        {**good, "id": str(uuid4())},
    ]
    answer = await api.client.post(
        "/v1/events", content=json.dumps(items), headers={"content-type": BATCH}
    )
    assert answer.status_code == 207
    body = answer.json()
    assert (body["accepted"], body["rejected"]) == (2, 3)
    errors = [one["error"]["errors"] for one in body["results"] if one["status"] == "rejected"]
    assert errors[0][0]["loc"] == [1, "data", "a", 1]
    assert errors[1][0]["loc"] == [2, "type"]
    assert [3, "specversion"] in [error["loc"] for error in errors[2]]
    assert body["results"][1]["id"] == items[1]["id"]


async def test_a_bad_message_is_told_by_its_header(api: Api) -> None:
    headers = {"ce-specversion": "1.0", "ce-type": "a", "ce-id": "1"}
    answer = await api.client.post("/v1/events", json={}, headers=headers)
    assert answer.status_code == 422
    assert [error["loc"] for error in answer.json()["errors"]] == [["header", "ce-source"]]


@pytest.mark.parametrize("mark", ["ce-specversion", "ce-id", "ce-source", "ce-type"])
async def test_a_message_with_any_of_the_required_headers_is_a_cloudevent(
    api: Api, mark: str
) -> None:
    body = {"event": "order.created", "resource": {"id": "1"}}
    answer = await api.client.post("/v1/events", json=body, headers={mark: "1.0"})
    assert answer.status_code == 422
    assert len(answer.json()["errors"]) == 3


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"content-type": STRUCTURED}, b"[]", 400),
        ({"content-type": STRUCTURED}, b"{", 400),
        ({"content-type": STRUCTURED}, b"{}", 422),
        ({"content-type": BATCH}, b"{}", 400),
        ({"content-type": BATCH}, b"[]", 422),
        ({"content-type": BATCH}, b"[" + b"{}," * 1_000 + b"{}]", 413),
        ({"content-type": "application/cloudevents+xml"}, b"<event/>", 415),
        ({"content-type": "application/cloudevents+xml", "ce-id": "1"}, b"<event/>", 415),
        ({"content-type": "application/cloudevents"}, b"{}", 415),
        ({"content-type": f"{STRUCTURED}; charset=latin-1"}, b"{}", 415),
        ({"content-type": "text/plain", "ce-extension": "1"}, b"{}", 415),
        ({"content-type": "application/json", "ce-id": "1"}, b"{", 400),
        ({"content-encoding": "gzip", "ce-id": "1"}, GZIPPED, 415),
        ({"content-encoding": "gzip", "content-type": STRUCTURED}, GZIPPED, 415),
    ],
)
async def test_what_is_no_cloudevent_is_a_problem(
    api: Api, headers: dict[str, str], body: bytes, status: int
) -> None:
    answer = await api.client.post("/v1/events", content=body, headers=headers)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


async def test_a_large_batch_is_read_as_a_small_one(api: Api) -> None:
    event = json.loads(to_structured_event(order()).body)
    items = [{**event, "id": str(number), "data": {"text": "x" * 3_000}} for number in range(200)]
    answer = await api.client.post(
        "/v1/events", content=json.dumps(items), headers={"content-type": f"{BATCH}; charset=UTF-8"}
    )
    assert (answer.status_code, answer.json()["accepted"]) == (201, 200)


async def test_the_description_names_the_content_types(api: Api) -> None:
    operation = (await api.get("/openapi.json"))["paths"]["/v1/events"]["post"]
    assert {STRUCTURED, BATCH} < set(operation["requestBody"]["content"])
    assert "ce-specversion" in [parameter["name"] for parameter in operation["parameters"]]


def test_headers_may_be_any_bytes(base_url: str) -> None:
    connection = http.client.HTTPConnection(urlsplit(base_url).netloc, timeout=20)
    for value, status in ((b"caf\xc3\xa9", 201), (b"caf\xe9", 422), (b"%", 201), (b"%00", 422)):
        connection.putrequest("POST", "/v1/events")
        for name in ("ce-specversion", "ce-source", "ce-type"):
            connection.putheader(name, "1.0")
        connection.putheader("ce-id", str(uuid4()))
        connection.putheader("Ce-Subject", value)
        connection.putheader("content-length", "0")
        connection.endheaders()
        answer = connection.getresponse()
        said = json.loads(answer.read())
        assert answer.status == status, said
        assert status == 201 or said["errors"][0]["loc"] == ["header", "ce-subject"]
    connection.close()
