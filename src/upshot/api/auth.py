"""Who may do what: API keys and their scopes; open on loopback until there is a key."""

import binascii
import hmac
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from upshot.api.services import Services
from upshot.core.errors import Forbidden, Unauthenticated
from upshot.core.limits import KEY_CACHED_FOR, KEYS_CACHED_MAX
from upshot.settings import LOOPBACK_HOSTS
from upshot.storage import api_keys
from upshot.storage.api_keys import Scope

ADMIN: Final[Scope] = "admin"


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of a token until then; None: no key has it."""

    scopes: frozenset[str] | None
    until: datetime


class Guard:
    """Admits requests. What it learns of a key from the database it remembers for a moment."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._known: dict[bytes, _Known] = {}
        self._open_until: datetime | None = None

    async def admit(self, request: HTTPConnection, scope: Scope) -> None:
        """Return if the request may do what needs this scope.

        Raises:
            Unauthenticated: there is no key with it, or an unknown one.
            Forbidden: the key has not the scope, or a browser brings it from another site.
        """
        if not await self.is_open_to(request):
            await self.admit_token(token_of(request.headers), scope)

    async def is_open_to(self, request: HTTPConnection) -> bool:
        """Whether no key is asked for.

        Raises:
            Forbidden: none is, but a browser brings the request from another site.
        """
        settings = self._services.settings
        on_loopback = settings.host in LOOPBACK_HOSTS
        if not (on_loopback or settings.insecure) or not await self._is_open():
            return False
        if on_loopback:
            _refuse_other_sites(request)
        return True

    async def admit_token(self, token: str | None, scope: Scope) -> None:
        """Return if this API key may do what needs this scope.

        Raises:
            Unauthenticated: there is no key, or it is unknown.
            Forbidden: the key has not the scope.
        """
        if token is None:
            raise Unauthenticated("An API key is needed: Authorization: Bearer upk_...")
        scopes = await self._scopes_of(token)
        if scopes is None:
            raise Unauthenticated("This API key is not known, or is revoked.")
        if not scopes & {ADMIN, scope}:
            raise Forbidden(f"This API key lacks the scope {scope!r}.")

    async def _is_open(self) -> bool:
        """Whether there is no key at all yet. That there is one holds for good."""
        if self._admin_key():
            return False
        now = self._services.now()
        if self._open_until is None or now >= self._open_until:
            async with self._services.database.begin() as conn:
                if await api_keys.any_active(conn):
                    self._open_until = None
                    return False
            self._open_until = now + KEY_CACHED_FOR
        return True

    async def _scopes_of(self, token: str) -> frozenset[str] | None:
        given = token.encode("utf-8", "surrogateescape")
        admin = self._admin_key().encode("utf-8", "surrogateescape")
        if admin and hmac.compare_digest(given, admin):
            return frozenset({ADMIN})
        hashed = api_keys.hash_of(token)
        now = self._services.now()
        known = self._known.get(hashed)
        if known is None or now >= known.until:
            async with self._services.database.begin() as conn:
                key = await api_keys.find_active(conn, hashed)
            if len(self._known) >= KEYS_CACHED_MAX:
                self._known.clear()
            known = _Known(key.scopes if key else None, now + KEY_CACHED_FOR)
            self._known[hashed] = known
        return known.scopes

    def _admin_key(self) -> str:
        key = self._services.settings.api_key
        return key.get_secret_value() if key else ""


def scope_of(*, method: str, path: str) -> Scope:
    """What a request needs, by the template of its path."""
    if method == "GET" or (method, path) == ("POST", "/v1/triggers/backtest"):
        return "read"
    if (method, path) == ("POST", "/v1/events"):
        return "events:write"
    if (method, path) in (("PATCH", "/v1/runs/{run_id}"), ("POST", "/v1/runs/claim")):
        return "runs"
    return ADMIN


def token_of(headers: Mapping[str, str]) -> str | None:
    """The API key that a request brings: as a Bearer token, or as the password of Basic."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    given = given.strip()
    match scheme.lower():
        case "bearer" if given:
            # Headers are read as Latin-1; keys are UTF-8.
            return given.encode("latin-1").decode("utf-8", "surrogateescape")
        case "basic" if given:
            return key_of_pair(_decoded(given))
    return None


def key_of_pair(pair: str) -> str:
    """The API key in `user:key`; the user may be any, or be left out."""
    return pair.partition(":")[2] or pair


def _decoded(given: str) -> str:
    try:
        return b64decode(given, validate=True).decode("utf-8", "surrogateescape")
    except (binascii.Error, ValueError):
        raise Unauthenticated("The Authorization header is no Basic that can be read.") from None


def _refuse_other_sites(request: HTTPConnection) -> None:
    """While no key is asked for, a page that somebody visits must not reach the server."""
    host = request.headers.get("host", "")
    if _hostname("//" + host) not in LOOPBACK_HOSTS:
        raise Forbidden(
            "While there is no API key, only localhost is answered; this request's Host is another."
        )
    origin = request.headers.get("origin")
    if origin is not None and _origin_host(origin) != host.lower():
        raise Forbidden("While there is no API key, requests of other web sites are refused.")


def _hostname(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _origin_host(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None
