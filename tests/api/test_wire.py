"""The API as uvicorn serves it: what arrives on the wire, however odd, is answered."""

import http.client
import json
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

MIB = 1024 * 1024


@pytest.fixture
def connection(base_url: str) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection(urlsplit(base_url).netloc, timeout=20)
    yield connection
    connection.close()


def test_odd_paths_and_queries_are_answered_without_a_server_error(
    connection: http.client.HTTPConnection,
) -> None:
    for target, status in (
        ("/v1/triggers/%00", 422),
        ("/v1/triggers/%ff", 422),
        ("/v1/triggers/%zz", 422),
        ("/v1/triggers/a%2Fb", 404),
        ("/v1/triggers/..%2f..%2fetc", 404),
        ("/v1/events?event=%00", 422),
        ("/v1/events?event=%ff", 200),
        ("/v1/events?event=%ed%a0%80", 200),
        ("/v1/events?resource=%00", 422),
        ("/v1/events?limit=%", 422),
        ("/v1/events?limit=1&limit=2", 200),
        ("/v1/events?&&==&", 200),
        ("/v1/runs?cursor=%00", 422),
        ("/v1/runs?since=%2B", 422),
        ("/v1/events/%00", 422),
        ("/v1/events?" + "event=x&" * 500, 422),
    ):
        connection.request("GET", target)
        answer = connection.getresponse()
        body = answer.read()
        assert answer.status == status, (target, body)


def test_a_chunked_body_over_the_bound_is_refused_and_the_connection_closed(
    connection: http.client.HTTPConnection,
) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b" " * 65_536

    # The server closes while the body is still being sent.
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        connection.request(
            "POST", "/v1/events", body=endless(), headers={"content-type": "application/json"}
        )


def test_a_chunked_body_within_the_bound_is_taken(connection: http.client.HTTPConnection) -> None:
    event = {"event": "x", "resource": {"id": "1"}, "payload": {"text": "y" * 200_000}}
    text = json.dumps([event] * 15).encode()
    pieces = (text[at : at + 10_000] for at in range(0, len(text), 10_000))
    connection.request("POST", "/v1/events", body=pieces)
    answer = connection.getresponse()
    assert answer.status == 201
    assert json.loads(answer.read())["accepted"] == 15


def test_a_large_body_of_garbage_is_answered_and_the_next_request_too(
    connection: http.client.HTTPConnection,
) -> None:
    for body in (b"[" * 4 * MIB, b"[" + b'{"a":NaN},' * 200_000 + b"{}]", b'"' * 4 * MIB):
        connection.request("POST", "/v1/events", body=body)
        answer = connection.getresponse()
        assert 400 <= answer.status < 500, answer.read()
        answer.read()
    connection.request("GET", "/healthz")
    assert connection.getresponse().status == 200


def test_headers_may_be_any_bytes(connection: http.client.HTTPConnection) -> None:
    for name, value in (
        ("authorization", b"Bearer \xff\xfe"),
        ("content-type", b"\xff/\xff; charset=\xff"),
        ("content-encoding", b"\xff"),
        ("idempotency-key", b"\xff"),
        ("origin", b"\xff"),
        ("accept", b"\xff"),
    ):
        connection.putrequest("PUT", "/v1/deployments/d")
        connection.putheader(name, value)
        connection.putheader("content-length", "2")
        connection.endheaders(b"{}")
        answer = connection.getresponse()
        assert 400 <= answer.status < 500, (name, answer.read())
        answer.read()
