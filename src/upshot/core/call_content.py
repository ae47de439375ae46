"""What a webhook call carries, in the form that its runner asks for."""

import json
from dataclasses import dataclass
from typing import Final, assert_never

import msgspec

from upshot.core.delivery import Webhook

JSON: Final = "application/json"
TEXT: Final = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Content:
    """The body of a call, and what it is; None: there is none."""

    body: bytes
    media_type: str | None


NOTHING: Final = Content(b"", None)


def content_of(webhook: Webhook, *, run: bytes, parameters: str) -> Content:
    """The content of one call. `run` is the whole run and `parameters` a part of it, as JSON."""
    if webhook.method == "GET":
        return NOTHING
    match webhook.body:
        case "run":
            return Content(run, JSON)
        case "parameters":
            return Content(parameters.encode(), JSON)
        case "payload":
            return _payload_of(parameters)
        case _:
            assert_never(webhook.body)


def _payload_of(parameters: str) -> Content:
    """The parameter `payload`: a text as it is, all else as the JSON that it is, null as nothing.

    A text may itself be JSON, which templates write, and is then called so.
    """
    payload = bytes(
        msgspec.json.decode(parameters, type=dict[str, msgspec.Raw]).get("payload", b"")
    )
    if payload in (b"", b"null", b'""'):
        return NOTHING
    if not payload.startswith(b'"'):
        return Content(payload, JSON)
    # A half of a surrogate pair, which no UTF-8 can hold, becomes a question mark.
    text = json.loads(payload).encode("utf-8", "replace")
    return Content(text, JSON if _is_json(text) else TEXT)


def _is_json(text: bytes) -> bool:
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True
