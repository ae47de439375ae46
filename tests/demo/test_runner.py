"""The demo's runner takes what is signed, once."""

import json
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime

import httpx
import pytest

from upshot.core.signatures import signature_headers
from upshot.demo.runner import BODY_BYTES_MAX, Runner

SECRET = "whsec_" + "c2VjcmV0" * 5
BODY = json.dumps(
    {"run_id": "r1", "deployment": "d", "attempt": 1, "parameters": {"user_id": "123"}}
).encode()


@pytest.fixture
def runner() -> Iterator[Runner]:
    with Runner(port=0, secret=SECRET) as runner:
        serving = threading.Thread(target=runner.serve_forever)
        serving.start()
        yield runner
        runner.shutdown()
        serving.join()


def post(runner: Runner, *, body: bytes = BODY, secret: str = SECRET) -> int:
    headers = signature_headers(
        message_id="r1", at=datetime.now(UTC), body=body, secrets=[secret] if secret else []
    )
    return httpx.post(runner.url, content=body, headers=headers, trust_env=False).status_code


def test_a_call_that_upshot_signed_is_taken_and_told(
    runner: Runner, capfd: pytest.CaptureFixture[str]
) -> None:
    assert post(runner) == 200
    said = capfd.readouterr().out
    assert 'run r1 of d, attempt 1, signature valid: {"user_id": "123"}' in said


def test_a_run_that_comes_twice_is_done_once(
    runner: Runner, capfd: pytest.CaptureFixture[str]
) -> None:
    assert [post(runner), post(runner)] == [200, 200]
    said = capfd.readouterr().out
    assert said.count("signature valid") == 1
    assert "r1 was done before" in said


@pytest.mark.parametrize("secret", ["", "whsec_" + "AAAA" * 10])
def test_a_call_that_is_not_signed_with_the_secret_is_refused(runner: Runner, secret: str) -> None:
    assert post(runner, secret=secret) == 401


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b"\xff"])
def test_a_call_that_makes_no_sense_is_refused(runner: Runner, body: bytes) -> None:
    assert post(runner, body=body) == 401


def test_a_body_that_is_too_large_is_refused_unread(runner: Runner) -> None:
    assert post(runner, body=bytes(BODY_BYTES_MAX + 1)) == 413


def test_an_answer_comes_in_one_piece(runner: Runner) -> None:
    """Of two the second would wait until the caller acknowledges the first: 40 ms a call."""
    port = httpx.URL(runner.url).port
    with socket.create_connection(("127.0.0.1", port), timeout=10) as caller:
        caller.sendall(b"POST /run HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}")
        head, _, body = caller.recv(65_536).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 401")
    assert json.loads(body)["error"]
