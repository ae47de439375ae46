"""The calls that serving runs takes."""

from types import TracebackType
from typing import Any, Self

import httpx

from upshot.sdk.limits import ANSWER_SECONDS_MAX, CONNECT_SECONDS_MAX
from upshot.sdk.server import Server, answer_of, unreachable


class Api:
    """A connection to one server. Raises Unreachable or Refused for what is no success."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._http = server.async_client()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._http.aclose()

    async def call(
        self,
        method: str,
        path: str,
        document: Any = None,
        *,
        query: dict[str, Any] | None = None,
        within: float = ANSWER_SECONDS_MAX,
    ) -> Any:
        """Send a request, and answer the JSON of its success. `within`: seconds between bytes."""
        try:
            response = await self._http.request(
                method, path, json=document, params=query, timeout=_timeout(within)
            )
        except httpx.HTTPError as error:
            raise unreachable(error, self.server) from None
        return answer_of(response)


def _timeout(within: float) -> httpx.Timeout:
    return httpx.Timeout(within, connect=CONNECT_SECONDS_MAX)
