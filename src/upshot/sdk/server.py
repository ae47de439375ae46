"""Where the server is, and what its answers mean."""

import os
from dataclasses import dataclass, field
from typing import Any, Final, Self

import httpx

from upshot.sdk.errors import ClientError, Refused, Unreachable
from upshot.sdk.limits import (
    ANSWER_SECONDS_MAX,
    CONNECT_SECONDS_MAX,
    DETAIL_CHARS_MAX,
    RETRY_AFTER_SECONDS_MAX,
)

URL_DEFAULT: Final = "http://127.0.0.1:8484"
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
_LATER: Final = frozenset({408, 425, 429})
_KEY_NEEDED: Final = frozenset({401, 403})


@dataclass(frozen=True, slots=True)
class Server:
    """An Upshot server's address, and the key for it if it wants one."""

    url: str
    api_key: str | None = field(repr=False)

    @classmethod
    def named(cls, *, url: str | None = None, api_key: str | None = None) -> Self:
        """What is not given comes from `UPSHOT_API_URL` and `UPSHOT_API_KEY`."""
        found = (url or os.environ.get("UPSHOT_API_URL") or URL_DEFAULT).rstrip("/")
        key = api_key or os.environ.get("UPSHOT_API_KEY") or None
        try:
            address = httpx.URL(found)
        except (httpx.InvalidURL, TypeError) as error:
            raise ClientError(f"{found!r} is no URL of a server: {error}.") from None
        if address.scheme not in ("http", "https") or not address.host:
            raise ClientError(f"{found!r} is no URL of a server, such as {URL_DEFAULT}.")
        if key is not None and not (key.isascii() and key.isprintable()):
            raise ClientError("UPSHOT_API_KEY holds characters that no key has.")
        return cls(url=found, api_key=key)

    def client(self) -> httpx.Client:
        return httpx.Client(**self._options())

    def async_client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(**self._options())

    def _options(self) -> dict[str, Any]:
        headers = {"accept": "application/json", "user-agent": "upshot-sdk"}
        if self.api_key is not None:
            headers["authorization"] = f"Bearer {self.api_key}"
        return {
            "base_url": self.url,
            "headers": headers,
            "timeout": httpx.Timeout(ANSWER_SECONDS_MAX, connect=CONNECT_SECONDS_MAX),
            # A proxy of the environment knows nothing of this machine's own addresses.
            "trust_env": httpx.URL(self.url).host not in _LOOPBACK,
            "limits": httpx.Limits(max_connections=None, max_keepalive_connections=20),
        }


def answer_of(response: httpx.Response) -> Any:
    """The JSON of a success; None without a body.

    Raises:
        Unreachable: the answer says to try again later.
        Refused: it is no success, or not what an Upshot server answers.
    """
    if response.status_code >= 500 or response.status_code in _LATER:
        raise Unreachable(
            f"{_called(response)} answered {response.status_code}: {_detail_of(response)}",
            retry_after=_retry_after(response),
        )
    if not response.is_success:
        hint = " Is UPSHOT_API_KEY set, and may it?" if response.status_code in _KEY_NEEDED else ""
        raise Refused(
            f"{_called(response)} answered {response.status_code}: {_detail_of(response)}{hint}",
            status=response.status_code,
            document=_document_of(response),
        )
    document = _document_of(response)
    if document is None and response.content:
        raise Refused(
            f"{_called(response)} answered with something that is no JSON; is that an Upshot?",
            status=response.status_code,
        )
    return document


def unreachable(error: httpx.HTTPError, server: Server) -> Unreachable:
    """What a broken connection is called."""
    what = "did not answer in time" if isinstance(error, httpx.TimeoutException) else (
        f"cannot be reached ({error or type(error).__name__})"
    )  # fmt: skip
    return Unreachable(f"{server.url} {what}.")


def _called(response: httpx.Response) -> str:
    return f"{response.request.method} {response.request.url}"


def _document_of(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return None


def _detail_of(response: httpx.Response) -> str:
    document = _document_of(response)
    detail = document.get("detail") if isinstance(document, dict) else None
    return str(detail or response.reason_phrase or "no reason given")[:DETAIL_CHARS_MAX]


def _retry_after(response: httpx.Response) -> float | None:
    try:
        seconds = float(response.headers["retry-after"])
    except (KeyError, ValueError):
        return None
    return min(max(seconds, 0.0), RETRY_AFTER_SECONDS_MAX) if seconds == seconds else None
