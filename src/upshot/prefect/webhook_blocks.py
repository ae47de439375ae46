"""The one type of block there is, `webhook`, and its data as the runner of a deployment."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, cast, get_args
from uuid import UUID

from upshot.api.problems import prefixed
from upshot.core.delivery import Method, Runner, Webhook, webhook_problems
from upshot.core.errors import Invalid, Problem

SLUG: Final = "webhook"
TYPE_ID: Final = UUID("6f1a3f5c-8a60-4a53-9c1f-3d6a0b7f2e10")
SCHEMA_ID: Final = UUID("b7a4d7d2-54b0-4a58-8f0a-0c2f6b1d9e11")

OBFUSCATED: Final = "********"
"""What is shown in place of a secret, and what keeps it when it is sent back."""

_METHODS: Final = get_args(Method)
_OF_THE_RUNNER: Final = ("method", "url", "headers")

_FIELDS: Final[Mapping[str, Any]] = {
    "title": "Webhook",
    "type": "object",
    "block_type_slug": SLUG,
    "block_schema_references": {},
    "secret_fields": ["url", "headers.*"],
    "required": ["url"],
    "properties": {
        "method": {"title": "Method", "type": "string", "default": "POST", "enum": list(_METHODS)},
        "url": {"title": "URL", "type": "string", "format": "password", "writeOnly": True},
        "headers": {"title": "Headers", "type": "object"},
    },
}
CHECKSUM: Final = "sha256:" + hashlib.sha256(json.dumps(_FIELDS).encode()).hexdigest()


def type_shown() -> dict[str, Any]:
    return {
        "id": TYPE_ID,
        "created": None,
        "updated": None,
        "name": "Webhook",
        "slug": SLUG,
        "logo_url": None,
        "documentation_url": None,
        "description": "An HTTP endpoint that automations call: a deployment with a plain webhook.",
        "code_example": None,
        "is_protected": True,
    }


def schema_shown(checksum: str = CHECKSUM) -> dict[str, Any]:
    """The type's schema. Versions of the client differ in what they send beside these fields,
    so that any checksum of theirs stands for it.
    """
    return {
        "id": SCHEMA_ID,
        "created": None,
        "updated": None,
        "checksum": checksum,
        "fields": _FIELDS,
        "block_type_id": TYPE_ID,
        "block_type": type_shown(),
        "capabilities": [],
        "version": "non-versioned",
    }


def runner_of(data: Mapping[str, Any]) -> Webhook:
    """The runner that a block's data describes: it is called with the payload alone.

    Raises:
        Invalid: with what is wrong, in words that repeat no secret.
    """
    found = _shape_problems(data)
    if not found:
        runner = _runner_of(data)
        found = [
            problem for problem in webhook_problems(runner) if problem.loc[0] in _OF_THE_RUNNER
        ]
        if not found:
            return runner
    raise Invalid(f"The block cannot be used: {found[0].msg}", prefixed("data", found))


def changed(runner: Runner, data: Mapping[str, Any]) -> Webhook:
    """A block's runner after a change of its data; what only a deployment says stays."""
    called = runner_of(data)
    if not isinstance(runner, Webhook):
        return called
    return replace(runner, url=called.url, method=called.method, headers=called.headers)


def rest_of(data: Mapping[str, Any]) -> dict[str, Any]:
    """What the runner does not say. It is kept, and given back as it came."""
    return {name: value for name, value in data.items() if name not in _OF_THE_RUNNER}


def data_of(runner: Runner, rest: Mapping[str, Any]) -> dict[str, Any]:
    """A block's data, with its secrets. A deployment that is pulled now has no address."""
    if not isinstance(runner, Webhook):
        runner = Webhook("")
    return {
        **rest,
        "method": runner.method,
        "url": runner.url,
        "headers": dict(runner.headers),
    }


def obfuscated(data: Mapping[str, Any]) -> dict[str, Any]:
    return {**data, "url": OBFUSCATED, "headers": dict.fromkeys(data["headers"], OBFUSCATED)}


def merged(before: Mapping[str, Any], sent: Mapping[str, Any], *, keep: bool) -> dict[str, Any]:
    """The data after an update; with `keep` what is not sent stays. What was shown obfuscated
    and is sent back so stays in any case.
    """
    after = {**before, **sent} if keep else dict(sent)
    if after.get("url") == OBFUSCATED:
        after["url"] = before["url"]
    if isinstance(after.get("headers"), Mapping):
        after["headers"] = {
            name: before["headers"].get(name, value) if value == OBFUSCATED else value
            for name, value in after["headers"].items()
        }
    return after


def _shape_problems(data: Mapping[str, Any]) -> list[Problem]:
    found = []
    if not isinstance(data.get("url"), str):
        found.append(Problem(("url",), "The URL must be a string."))
    if data.get("method", "POST") not in _METHODS:
        found.append(Problem(("method",), f"The method must be one of {', '.join(_METHODS)}."))
    headers = data.get("headers")
    if not isinstance(headers, Mapping | None):
        found.append(Problem(("headers",), "Headers are an object of names to strings."))
    else:
        found += [
            Problem(("headers", name), message)
            for name, value in (headers or {}).items()
            if (message := _value_problem(value)) is not None
        ]
    if data.get("verify", True) is not True:
        said = "Upshot always checks certificates. Give the endpoint one that it can check."
        found.append(Problem(("verify",), said))
    if data.get("allow_private_urls", True) is not True:
        said = (
            "Which networks may be called is a setting of the server: UPSHOT_RUNNER_NETWORKS. "
            "Leave this field out."
        )
        found.append(Problem(("allow_private_urls",), said))
    return found


def _value_problem(value: Any) -> str | None:
    if not isinstance(value, str):
        return "The value must be a string."
    return "There is no value stored that could be kept." if value == OBFUSCATED else None


def _runner_of(data: Mapping[str, Any]) -> Webhook:
    return Webhook(
        url=data["url"],
        method=cast(Method, data.get("method", "POST")),
        headers=dict(data.get("headers") or {}),
        body="payload",
    )
