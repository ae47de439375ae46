"""Makes one attempt of a webhook run, within one deadline and whatever the runner does."""

import asyncio
import codecs
import os
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Self
from uuid import UUID

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from upshot import __version__
from upshot.core.call_content import JSON
from upshot.core.delivery import (
    Answer,
    Attempt,
    Refused,
    Responded,
    TimedOut,
    Unreached,
    Webhook,
    parse_retry_after,
    webhook_problems,
)
from upshot.core.limits import (
    ATTEMPT_ERROR_CHARS_MAX,
    IDLE_CONNECTION_KEPT,
    RESOLVER_THREADS_MAX,
    RESPONSE_BYTES_KEPT_MAX,
    RESPONSE_BYTES_READ_MAX,
)
from upshot.core.networks import NetworkPolicy
from upshot.core.signatures import signature_headers


@dataclass(frozen=True, slots=True)
class _Target:
    """What all calls of a runner have in common."""

    url: URL
    headers: CIMultiDictProxy[str]


@dataclass(slots=True)
class _Exchange:
    """What is sent, and how far it has come, for those who must know when it ends early."""

    method: str
    url: URL
    headers: CIMultiDict[str]
    body: bytes
    now: Callable[[], datetime]
    opens_connection: bool = False
    status: int | None = None


# A trace of aiohttp's would tell as well when a connection is used again, at a fifth of a call.
_exchange: ContextVar[_Exchange] = ContextVar("exchange")


class Caller:
    """Calls runners. Use it as a context manager, inside one event loop.

    The number of calls at a time is not bounded here: whoever claims runs does that.
    """

    def __init__(
        self, *, networks: NetworkPolicy, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._networks = networks
        self._clock = clock

    async def __aenter__(self) -> Self:
        self._resolver = _Resolver(self._networks)
        self._session = self._open_session(keep_connections=True)
        self._session_without_reuse = self._open_session(keep_connections=False)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()
        await self._session_without_reuse.close()
        await self._resolver.close()

    async def call(
        self,
        webhook: Webhook,
        *,
        run_id: UUID,
        body: bytes,
        media_type: str | None = JSON,
        at: datetime,
    ) -> Attempt:
        """Make one attempt. Whatever the runner does is an answer; only cancellation is raised.

        Without a media type nothing is said of the body, which is none then.
        """
        started = self._clock()

        def elapsed() -> timedelta:
            return timedelta(seconds=self._clock() - started)

        target = _target(webhook, media_type)
        if isinstance(target, Refused):
            return Attempt(started_at=at, duration=elapsed(), answer=target)
        exchange = _Exchange(
            method=webhook.method,
            url=target.url,
            headers=_headers(target, webhook, run_id=run_id, body=body, at=at),
            body=body,
            now=lambda: at + elapsed(),
        )
        answer = await self._answer(exchange, within=webhook.timeout)
        return Attempt(started_at=at, duration=elapsed(), answer=answer)

    async def _answer(self, exchange: _Exchange, *, within: timedelta) -> Answer:
        seconds = within.total_seconds()
        try:
            async with asyncio.timeout(seconds):
                try:
                    return await self._send(exchange)
                except (aiohttp.ClientError, HttpProcessingError, OSError, ValueError) as error:
                    return _without_response(error, status=exchange.status)
        except TimeoutError:
            if exchange.status is None:
                return TimedOut(f"no answer within {seconds:g} s")
            return TimedOut(f"HTTP {exchange.status}, but no end of it within {seconds:g} s")

    async def _send(self, exchange: _Exchange) -> Responded:
        _exchange.set(exchange)
        try:
            return await _request(self._session, exchange)
        except aiohttp.ClientConnectorError:
            raise
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            # The runner may have closed an idle connection just as it was taken for this call.
            # That says nothing about the runner; the idempotency key makes a second send safe.
            if exchange.opens_connection or exchange.status is not None:
                raise
        return await _request(self._session_without_reuse, exchange)

    def _open_session(self, *, keep_connections: bool) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            limit=0,
            resolver=self._resolver,
            socket_factory=self._open_socket,
            force_close=not keep_connections,
            keepalive_timeout=(IDLE_CONNECTION_KEPT.total_seconds() if keep_connections else None),
        )
        return aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(),
            skip_auto_headers=("content-type",),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
        )

    def _open_socket(self, address: aiohttp.AddrInfoType) -> socket.socket:
        """The last look: the resolver is not asked about addresses that are written in a URL."""
        family, kind, protocol, _, where = address
        refusal = self._networks.refusal(str(where[0]))
        if refusal is not None:
            raise _AddressRefused(refusal)
        _exchange.get().opens_connection = True
        return socket.socket(family=family, type=kind, proto=protocol)


@lru_cache(maxsize=1_024)
def _target(webhook: Webhook, media_type: str | None) -> _Target | Refused:
    """Refused is what was wrong when the runner was saved, or became so since: it is never sent."""
    problems = webhook_problems(webhook)
    if problems:
        where = ".".join(str(step) for step in problems[0].loc)
        return Refused(_short(f"{where}: {problems[0].msg}"))
    try:
        url = _url(webhook.url)
    except ValueError as error:
        return Refused(_short(f"url: {error}"))
    headers = CIMultiDict({"user-agent": f"upshot/{__version__}"})
    if media_type is not None:
        headers["content-type"] = media_type
    for name, value in webhook.headers.items():
        headers[name] = value
    headers["accept-encoding"] = "identity"
    return _Target(url, CIMultiDictProxy(headers))


def _url(text: str) -> URL:
    """The URL exactly as it was given: some are signed, and `%2F` is not `/` in those."""
    return URL(text, encoded=text.isascii())


async def _request(session: aiohttp.ClientSession, exchange: _Exchange) -> Responded:
    async with session.request(
        exchange.method,
        exchange.url,
        data=exchange.body or None,
        headers=exchange.headers,
        allow_redirects=False,
    ) as response:
        exchange.status = response.status
        text = await _beginning(response)
        wait = response.headers.get("Retry-After")
        return Responded(
            status=response.status,
            retry_after=None if wait is None else parse_retry_after(wait, exchange.now()),
            text=text,
        )


async def _beginning(response: aiohttp.ClientResponse) -> str:
    """Read the body as it came over the wire, and hang up on a runner that sends too much."""
    kept = bytearray()
    read = 0
    while chunk := await response.content.readany():
        kept += chunk[: RESPONSE_BYTES_KEPT_MAX - len(kept)]
        read += len(chunk)
        if read > RESPONSE_BYTES_READ_MAX:
            response.close()
            break
    # A character cut in two by the bound is left out; what is no UTF-8, and NUL, which Postgres
    # does not store, become the replacement character.
    whole = read <= RESPONSE_BYTES_KEPT_MAX
    text = codecs.getincrementaldecoder("utf-8")("replace").decode(bytes(kept), final=whole)
    return text.replace("\0", "\ufffd")


def _headers(
    target: _Target, webhook: Webhook, *, run_id: UUID, body: bytes, at: datetime
) -> CIMultiDict[str]:
    message_id = str(run_id)
    headers = target.headers.copy()
    headers["idempotency-key"] = message_id
    headers.update(
        signature_headers(message_id=message_id, at=at, body=body, secrets=webhook.secrets)
    )
    return headers


class _AddressRefused(OSError):
    """The network policy forbids the address; the message says why."""


class _Resolver(AbstractResolver):
    """Names to the addresses that may be called.

    It has threads of its own: names that nobody answers for would otherwise fill those which
    the rest of the program shares.
    """

    def __init__(self, networks: NetworkPolicy) -> None:
        self._networks = networks
        self._threads = ThreadPoolExecutor(RESOLVER_THREADS_MAX, thread_name_prefix="resolve")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(
                self._threads, socket.getaddrinfo, host, port, family, socket.SOCK_STREAM
            )
        except UnicodeError:
            raise OSError("a part of the name is empty or too long") from None
        refusals = {str(where[0]): self._networks.refusal(str(where[0])) for *_, where in found}
        allowed: list[ResolveResult] = [
            {
                "hostname": host,
                "host": str(where[0]),
                "port": port,
                "family": kind,
                "proto": protocol,
                "flags": socket.AI_NUMERICHOST,
            }
            for kind, _, protocol, _, where in found
            if refusals[str(where[0])] is None
        ]
        if not allowed:
            raise _AddressRefused(next(text for text in refusals.values() if text is not None))
        return allowed

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def _without_response(error: Exception, *, status: int | None) -> Unreached | Refused:
    """What went wrong, in words that hold neither the URL's path nor any header sent."""
    match error:
        case aiohttp.InvalidURL():
            return Refused(_short(f"url: {error.description or 'cannot be called'}"))
        case aiohttp.ClientConnectorError(os_error=_AddressRefused() as refused):
            return Refused(_short(str(refused)))
        case aiohttp.ClientConnectorDNSError():
            why = f"no address for {error.host}: {_reason(error.os_error)}"
        case aiohttp.ClientConnectorCertificateError():
            why = f"TLS with {error.host}: {error.certificate_error}"
        case aiohttp.ClientConnectorSSLError():
            why = f"TLS with {error.host}: {_reason(error.os_error)}"
        case aiohttp.ClientConnectorError():
            why = f"no connection to {error.host}:{error.port}: {_system_reason(error.os_error)}"
        case aiohttp.ClientPayloadError() if status is not None:
            why = f"HTTP {status}, but its body broke off"
        case aiohttp.ServerDisconnectedError():
            why = "the runner closed the connection before it answered"
        case OSError():
            why = f"the connection broke: {_system_reason(error)}"
        case aiohttp.ClientResponseError():
            why = f"the answer is not HTTP: {error.message}"
        case _:
            why = f"{type(error).__name__}: {error}"
    return Unreached(_short(why))


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _system_reason(error: OSError) -> str:
    """The system's own words, since event loops put the address there once more."""
    return os.strerror(error.errno) if error.errno else str(error)


def _short(text: str) -> str:
    printable = "".join(char if char.isprintable() else " " for char in text)
    return " ".join(printable.split())[:ATTEMPT_ERROR_CHARS_MAX]
