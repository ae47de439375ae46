"""A webhook endpoint: verifies what is called, answers 202, and reports when the run has ended."""

import asyncio
import base64
import binascii
import hmac
import json
import os
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any, Final

from upshot.sdk.api import Api
from upshot.sdk.deployments import Deployment, performer
from upshot.sdk.errors import ClientError
from upshot.sdk.executions import Executions
from upshot.sdk.limits import (
    BODY_BYTES_MAX,
    GIVE_UP_SECONDS_MAX,
    RUNS_AT_ONCE_DEFAULT,
    RUNS_WAITING_MAX,
    SECRETS_MAX,
    TIMESTAMP_SKEW_SECONDS_MAX,
)
from upshot.sdk.run import Offer
from upshot.sdk.server import Server

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

_PREFIX: Final = "whsec_"
_MAKE_ONE: Final = 'Make one with: echo "whsec_$(openssl rand -base64 32)"'


def secrets_of(given: str | Sequence[str] | None) -> tuple[str, ...]:
    """What is given, or `UPSHOT_WEBHOOK_SECRET`; two, separated by a space, during a rotation.

    Raises:
        ClientError: there is none, or one that is none.
    """
    found = given or os.environ.get("UPSHOT_WEBHOOK_SECRET") or ""
    secrets = tuple(found.split()) if isinstance(found, str) else tuple(found)
    if not secrets:
        raise ClientError(
            "A webhook endpoint needs a secret, so that nobody else can start runs: give it as "
            f"secret= or UPSHOT_WEBHOOK_SECRET. {_MAKE_ONE}"
        )
    if len(secrets) > SECRETS_MAX:
        raise ClientError(f"There are {len(secrets)} secrets; at most {SECRETS_MAX} in a rotation.")
    for secret in secrets:
        _key(secret)
    return secrets


def is_signed(
    headers: Mapping[str, str], body: bytes, *, secrets: Sequence[str], now: float
) -> bool:
    """Whether one of the secrets signed this, not long ago, as Standard Webhooks says."""
    message_id, at = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not (at.isascii() and at.isdecimal() and abs(now - int(at)) <= TIMESTAMP_SKEW_SECONDS_MAX):
        return False
    signed = b".".join((message_id.encode(), at.encode(), body))
    given = [
        signature.removeprefix("v1,").encode()
        for signature in headers.get("webhook-signature", "").split()
        if signature.startswith("v1,")
    ]
    expected = [base64.b64encode(hmac.digest(_key(secret), signed, "sha256")) for secret in secrets]
    return any(hmac.compare_digest(one, other) for one in given for other in expected)


class Endpoint:
    """An ASGI app that takes runs from signed calls."""

    def __init__(
        self, executions: Executions, deployments: Sequence[str], *, secrets: Sequence[str]
    ) -> None:
        self._executions = executions
        self._deployments = frozenset(deployments)
        self._secrets = secrets

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"This answers HTTP, not {scope['type']}.")
        if scope["method"] != "POST":
            await _answer(send, 405, "Runs are posted.")
            return
        body = await _body(receive)
        if body is None:
            await _answer(send, 413, f"At most {BODY_BYTES_MAX:,} bytes fit.")
            return
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1")
            for name, value in scope["headers"]
        }
        status, detail = self._take(headers, body)
        await _answer(send, status, detail)

    def _take(self, headers: Mapping[str, str], body: bytes) -> tuple[int, str]:
        if not is_signed(headers, body, secrets=self._secrets, now=time.time()):
            return 401, "The signature is not right, or the call is old."
        try:
            offer = Offer.read(json.loads(body))
        except (KeyError, TypeError, ValueError) as error:
            return 422, f"This is no run: {error!r}"
        if offer.run.deployment not in self._deployments:
            return 422, f"Deployment {offer.run.deployment!r} is not served here."
        if self._executions.ending or self._executions.count >= RUNS_WAITING_MAX:
            return 503, "No more runs are taken here now."
        self._executions.take(offer)
        return 202, "It is worked on."


def webhook_app(
    *deployments: Deployment[..., Any],
    secret: str | Sequence[str] | None = None,
    limit: int = RUNS_AT_ONCE_DEFAULT,
    api_url: str | None = None,
    api_key: str | None = None,
) -> AsgiApp:
    """The endpoint as an ASGI app, to mount in one's own: for runners registered elsewhere."""
    server = Server.named(url=api_url, api_key=api_key)
    by_name = {deployment.name: deployment for deployment in deployments}
    secrets = secrets_of(secret)
    endpoints: list[Endpoint] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if not endpoints:
            # Made here, since it belongs to the event loop that serves.
            executions = Executions(Api(server), performer(by_name), limit=limit)
            endpoints.append(Endpoint(executions, list(by_name), secrets=secrets))
        await endpoints[0](scope, receive, send)

    return app


async def serve_endpoint(endpoint: Endpoint, listening: socket.socket) -> None:
    """Listen until the task is cancelled."""
    try:
        import uvicorn
    except ModuleNotFoundError:
        raise ClientError(
            "mode='webhook' needs an HTTP server: pip install 'upshot[webhook]'"
        ) from None
    config = uvicorn.Config(
        endpoint,
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GIVE_UP_SECONDS_MAX,
    )
    server = uvicorn.Server(config)
    serving = asyncio.ensure_future(server.serve(sockets=[listening]))
    try:
        await asyncio.shield(serving)
    finally:
        # Only so does it close the connections that are kept open.
        server.should_exit = True
        await serving


async def _body(receive: Receive) -> bytes | None:
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > BODY_BYTES_MAX:
            return None
        if not message.get("more_body"):
            return bytes(body)


async def _answer(send: Send, status: int, detail: str) -> None:
    body = json.dumps({"detail": detail}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    if status == 503:
        headers.append((b"retry-after", b"5"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(_PREFIX) or not key:
        raise ClientError(f"A webhook secret is {_PREFIX} and base64. {_MAKE_ONE}")
    return key
