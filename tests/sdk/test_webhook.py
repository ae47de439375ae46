"""The webhook endpoint takes what is signed, refuses everything else, and reports like a worker."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from standardwebhooks.webhooks import Webhook

import upshot
from tests.sdk.fake import FakeServer, offered
from upshot import ClientError, deployment
from upshot.sdk.limits import BODY_BYTES_MAX

pytestmark = pytest.mark.anyio

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OLD = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"


@deployment(name="ship")
def ship(user_id: str) -> str:
    return f"shipped to {user_id}"


@pytest.fixture
async def fake() -> AsyncIterator[FakeServer]:
    async with FakeServer() as server:
        yield server


@pytest.fixture
async def url(fake: FakeServer) -> AsyncIterator[str]:
    task = asyncio.ensure_future(
        upshot.aserve(ship, mode="webhook", secret=[SECRET, OLD], api_url=fake.url)
    )
    await fake.until(lambda: "ship" in fake.deployments)
    yield fake.deployments["ship"]["runner"]["url"]
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def signed(body: bytes, *, secret: str = SECRET, at: datetime | None = None) -> dict[str, str]:
    at = at or datetime.now(UTC)
    return {
        "webhook-id": "m",
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign("m", at, body.decode()),
    }


def called(
    deployment: str = "ship", parameters: dict[str, Any] | None = None, **more: Any
) -> bytes:
    return json.dumps(offered(deployment, parameters or {"user_id": "7"}, **more)).encode()


async def post(url: str, body: bytes, headers: dict[str, str]) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False) as http:
        return await http.post(url, content=body, headers=headers)


@pytest.mark.parametrize("secret", [SECRET, OLD])
async def test_a_signed_call_is_answered_202_and_reported_later(
    fake: FakeServer, url: str, secret: str
) -> None:
    body = called(run_id="a", lease="l")
    assert (await post(url, body, signed(body, secret=secret))).status_code == 202
    assert await fake.ended("a") == {
        "lease": "l",
        "state": "completed",
        "result": "shipped to 7",
    }


async def test_the_deployment_is_registered_with_its_address_and_both_secrets(
    fake: FakeServer, url: str
) -> None:
    runner = fake.deployments["ship"]["runner"]
    assert runner == {"type": "webhook", "url": url, "secret": [SECRET, OLD]}


async def test_what_is_not_signed_right_is_refused_and_not_run(fake: FakeServer, url: str) -> None:
    body = called()
    now = datetime.now(UTC)
    other = "whsec_" + "QUJD" * 8
    wrong = [
        {},
        signed(body, secret=other),
        signed(called()),
        signed(body, at=now - timedelta(minutes=6)),
        signed(body, at=now + timedelta(minutes=6)),
        {**signed(body), "webhook-id": "n"},
        {**signed(body), "webhook-timestamp": "1e9"},
        {**signed(body), "webhook-signature": "v1,"},
        {**signed(body), "webhook-signature": signed(body)["webhook-signature"][3:]},
    ]
    for headers in wrong:
        assert (await post(url, body, headers)).status_code == 401
    assert fake.reports == []


async def test_one_of_several_signatures_is_enough(fake: FakeServer, url: str) -> None:
    body = called(run_id="a")
    headers = signed(body)
    headers["webhook-signature"] = f"v1a,AAAA v1,AAAA {headers['webhook-signature']}"
    assert (await post(url, body, headers)).status_code == 202
    await fake.ended("a")


async def test_what_is_no_run_of_ours_is_refused(url: str) -> None:
    for body in (b"{}", b"[]", b"no json", called("another")):
        assert (await post(url, body, signed(body))).status_code == 422
    big = b"x" * (BODY_BYTES_MAX + 1)
    assert (await post(url, big, {})).status_code == 413
    async with httpx.AsyncClient(trust_env=False) as http:
        assert (await http.get(url)).status_code == 405


async def test_the_app_can_be_mounted_in_ones_own(fake: FakeServer) -> None:
    app = upshot.webhook_app(ship, secret=SECRET, api_url=fake.url)
    body = called(run_id="a")
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as http:
        assert (await http.post("/", content=body, headers=signed(body))).status_code == 202
    assert (await fake.ended("a"))["state"] == "completed"


@pytest.mark.parametrize("secret", [None, "", "plain", "whsec_", "whsec_?", [SECRET] * 3])
async def test_without_a_proper_secret_it_does_not_open(
    secret: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UPSHOT_WEBHOOK_SECRET", raising=False)
    with pytest.raises(ClientError, match="secret"):
        await upshot.aserve(ship, mode="webhook", secret=secret)
