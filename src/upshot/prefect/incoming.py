"""Events as Prefect's client sends them, read by the rules of all events."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from upshot.core.errors import Problem
from upshot.core.events import LONG_FORMS
from upshot.core.intake import Refused, Verdict
from upshot.core.intake.quick import UNREADABLE, read_item
from upshot.core.intake.slow import Broken

SENT: Final = "sent."
"""Before a short label that says something else than its long form beside it."""


class _Known(Struct):
    """The fields that are read; a client may send others, of later versions or of its own."""

    event: Raw | UnsetType = UNSET
    resource: Raw | UnsetType = UNSET
    related: Raw | UnsetType = UNSET
    payload: Raw | UnsetType = UNSET
    occurred: Raw | UnsetType = UNSET
    id: Raw | UnsetType = UNSET
    follows: Raw | UnsetType = UNSET


_decoder = msgspec.json.Decoder(_Known)
_NAMES: Final = [(name, b'"%s":' % name.encode()) for name in _Known.__struct_fields__]
_NULL: Final = b"null"
_SHORT: Final = [b'"%s"' % name.encode() for name in LONG_FORMS]


def read_sent(item: bytes, *, now: datetime, new_id: Callable[[], UUID]) -> Verdict:
    """The verdict on one event's JSON text.

    An event without an id is given one here, so that storing it may be tried again. To Prefect
    `id`, `name` and `role` are labels like any other: one that differs from its long form beside it
    is kept under another name.
    """
    try:
        plain = _plain(_decoder.decode(item), new_id)
    except UNREADABLE:
        plain = item
    try:
        return read_item(plain, now=now, new_id=new_id)
    except Broken as broken:
        return Refused(id=None, problems=(Problem((), f"The event is no JSON: {broken.why}."),))


def _plain(known: _Known, new_id: Callable[[], UUID]) -> bytes:
    """The event's text with the fields that are read, and no others."""
    members = []
    for name, written in _NAMES:
        value = getattr(known, name)
        text = _NULL if value is UNSET else bytes(value)
        if name in ("resource", "related") and any(short in text for short in _SHORT):
            text = msgspec.json.encode(_told_apart(msgspec.json.decode(text)))
        if text != _NULL:
            members.append(written + text)
        elif name == "id":
            members.append(b'"id":"%s"' % str(new_id()).encode())
    return b"{%s}" % b",".join(members)


def _told_apart(labels: Any) -> Any:
    """A resource's labels, or those of several, with no short one that contradicts a long one."""
    if isinstance(labels, list):
        return [_told_apart(one) for one in labels]
    if not isinstance(labels, dict):
        return labels
    return {
        SENT + name if labels.get(LONG_FORMS.get(name, name), value) != value else name: value
        for name, value in labels.items()
    }
