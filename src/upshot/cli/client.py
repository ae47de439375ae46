"""Talks to a server over its HTTP API; what goes wrong says what to do about it."""

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx
from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from upshot.core.errors import Conflict, Problem, UpshotError
from upshot.core.limits import EVALUATED_WAIT_MAX, LIST_LIMIT_MAX
from upshot.settings import LOOPBACK_HOSTS, Settings

ANSWER_SECONDS_MAX = EVALUATED_WAIT_MAX.total_seconds() + 10
CONNECT_SECONDS_MAX = 5.0
MERGE_PATCH = "application/merge-patch+json"


class Unreachable(UpshotError):
    """No server answers there."""


class Refused(UpshotError):
    """The server answered, and not with what was asked for."""


class ClientSettings(BaseSettings):
    """Where the server is and how to get in, from the environment or `.env`."""

    model_config = SettingsConfigDict(env_prefix="UPSHOT_", env_file=".env", extra="ignore")

    api_url: str | None = None
    api_key: SecretStr | None = None
    port: int = Field(default=Settings.model_fields["port"].default)


@dataclass(frozen=True, slots=True)
class Answer:
    """A status, and the JSON that came with it; None if nothing came."""

    status: int
    document: Any


class Client:
    """A connection to one server. Raises UpshotError for whatever is not a success."""

    def __init__(self, *, url: str, key: str | None) -> None:
        self.url = url.rstrip("/")
        self.has_key = key is not None
        headers = {"accept": "application/json"}
        if key is not None:
            headers["authorization"] = f"Bearer {_header_text(key)}"
        address = _address_of(self.url)
        self._http = httpx.Client(
            base_url=address,
            headers=headers,
            timeout=httpx.Timeout(ANSWER_SECONDS_MAX, connect=CONNECT_SECONDS_MAX),
            # A proxy of the environment knows nothing of this machine's own addresses.
            trust_env=address.host not in LOOPBACK_HOSTS,
        )

    def close(self) -> None:
        self._http.close()

    def call(
        self,
        method: str,
        path: str,
        *,
        document: Any = None,
        content_type: str = "application/json",
        query: Mapping[str, Any] | None = None,
        allowed: Collection[int] = (),
    ) -> Answer:
        """Send a request. A status in `allowed` is an answer too, besides every 2xx."""
        body = None if document is None else json.dumps(document).encode()
        asked = {name: value for name, value in (query or {}).items() if value is not None}
        try:
            response = self._http.request(
                method,
                path,
                content=body,
                headers={"content-type": content_type} if body is not None else None,
                params=asked or None,
            )
        except httpx.TimeoutException:
            raise Unreachable(f"{self.url} did not answer in time.") from None
        except httpx.ConnectError:
            raise Unreachable(
                f"No Upshot answers at {self.url}. Start one with 'upshot serve', or name "
                "another with --url or UPSHOT_API_URL."
            ) from None
        except httpx.HTTPError as error:
            raise Unreachable(f"{self.url} broke off: {error}.") from None
        answer = Answer(response.status_code, self._document_of(response))
        if response.is_success or response.status_code in allowed:
            return answer
        raise self._refusal(answer)

    def get(self, path: str, **query: Any) -> Any:
        return self.call("GET", path, query=query).document

    def find(self, path: str) -> Any:
        """What is there, or None."""
        answer = self.call("GET", path, allowed={404})
        return None if answer.status == 404 else answer.document

    def patch(self, path: str, document: Any) -> Any:
        return self.call("PATCH", path, document=document, content_type=MERGE_PATCH).document

    def items(self, path: str, *, limit: int, **query: Any) -> list[Any]:
        """The first `limit` items of a list, over as many pages as it takes."""
        found: list[Any] = []
        cursor = None
        while len(found) < limit:
            wanted = min(limit - len(found), LIST_LIMIT_MAX)
            page = self.get(path, limit=wanted, cursor=cursor, **query)
            found += page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        return found

    def _document_of(self, response: httpx.Response) -> Any:
        if not response.content:
            return None
        media_type = response.headers.get("content-type", "").partition(";")[0]
        try:
            if media_type in ("application/json", "application/problem+json"):
                return response.json()
        except ValueError:
            pass
        raise Refused(
            f"What answers at {self.url} is no Upshot: HTTP {response.status_code}, "
            f"{media_type or 'no content type'}. Name the server with --url or UPSHOT_API_URL."
        )

    def _refusal(self, answer: Answer) -> UpshotError:
        problem = answer.document if isinstance(answer.document, dict) else {}
        detail = problem.get("detail") or f"{self.url} answered HTTP {answer.status}."
        problems = [Problem(tuple(one["loc"]), one["msg"]) for one in problem.get("errors", ())]
        if answer.status == 401:
            return Refused(self._how_to_get_in(detail))
        if answer.status == 409:
            return Conflict(detail, problems)
        return Refused(detail, problems)

    def _how_to_get_in(self, detail: str) -> str:
        if self.has_key:
            return f"{detail} 'upshot key list', on the server's machine, shows those there are."
        return (
            f"{self.url} asks for an API key. Give one with UPSHOT_API_KEY or --key; on the "
            "server's machine, 'upshot key create --name me --scope read' makes one."
        )


@contextmanager
def connected(url: str | None, key: str | None) -> Iterator[Client]:
    """A client of the server that the options name, or else the environment."""
    settings = ClientSettings()
    given = key or (settings.api_key.get_secret_value() if settings.api_key else None)
    client = Client(
        url=url or settings.api_url or f"http://127.0.0.1:{settings.port}", key=given or None
    )
    try:
        yield client
    finally:
        client.close()


def path_of(*parts: str) -> str:
    """The path of a thing, whatever characters its name has."""
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)


def _address_of(url: str) -> httpx.URL:
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL:
        address = httpx.URL()
    if address.scheme not in ("http", "https") or not address.host:
        raise Unreachable(f"{url!r} is no server's address; write http://127.0.0.1:8484.")
    return address


def _header_text(key: str) -> str:
    if not key.isascii() or not key.isprintable() or " " in key:
        raise Refused("The API key has characters that no key has. Copy it again.")
    return key
