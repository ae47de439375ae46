"""The quick way for one item: a typed decode and a glance."""

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from hashlib import blake2b
from typing import cast
from uuid import UUID

import msgspec
from msgspec import UNSET, Struct

from upshot.core.errors import Problem
from upshot.core.events import LONG_FORMS, OWN_EVENT_PREFIX, RESOURCE_ID, RESOURCE_ROLE
from upshot.core.intake.echoes import echo
from upshot.core.intake.sent import Sent, aware, is_in_range
from upshot.core.intake.slow import refusal
from upshot.core.intake.verdicts import NewEvent, Refused, Verdict
from upshot.core.limits import EVENT_BYTES_MAX, INTEGER_DIGITS_MAX, NESTING_MAX


class _OnlyId(Struct):
    id: str | None = None


_Payload = dict[str, object]

_sent_decoder = msgspec.json.Decoder(Sent)
_payload_decoder = msgspec.json.Decoder(_Payload | None)
_id_decoder = msgspec.json.Decoder(_OnlyId)
_canonical_encoder = msgspec.json.Encoder(order="deterministic")

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def read_item(item: bytes, *, now: datetime, new_id: Callable[[], UUID]) -> Verdict:
    """The verdict on one item's text, without the white space around it. May raise Broken."""
    if len(item) > EVENT_BYTES_MAX:
        return too_large(item)
    try:
        sent = _sent_decoder.decode(item)
        payload, payload_json = _read_payload(sent)
    except UNREADABLE:
        return refusal(item, now) or UNEXPLAINED
    if not (_looks_right(sent, now) and _looks_plain(item, sent, payload, payload_json)):
        refused = refusal(item, now)
        if refused is not None:
            return refused
    return _new_event(sent, payload, payload_json, size=len(item), now=now, new_id=new_id)


def too_large(item: bytes) -> Refused:
    try:
        sent_id = _id_decoder.decode(item).id
    except UNREADABLE:
        sent_id = None
    msg = f"The event has {len(item):,} bytes; at most {EVENT_BYTES_MAX:,} fit."
    return Refused(id=echo(sent_id), problems=(Problem((), msg),))


UNEXPLAINED = Refused(id=None, problems=(Problem((), "The event cannot be read."),))
"""What the typed decode refuses and the slow reader would take: nothing that is known of."""


def _read_payload(sent: Sent) -> tuple[_Payload | None, str | None]:
    if sent.payload is UNSET:
        return None, None
    raw = bytes(sent.payload)
    payload = _payload_decoder.decode(raw)
    return payload, raw.decode() if payload else None


def _looks_right(sent: Sent, now: datetime) -> bool:
    """The rules that the types do not hold."""
    if sent.event.startswith(OWN_EVENT_PREFIX) or not _is_identified(sent.resource):
        return False
    for labels in sent.related or ():
        if not (_is_identified(labels) and (labels.get(RESOURCE_ROLE) or labels.get("role"))):
            return False
    return not sent.occurred or is_in_range(aware(sent.occurred), now)


def _is_identified(labels: Mapping[str, str]) -> bool:
    if _SHORT_FORMS.isdisjoint(labels):
        return bool(labels.get(RESOURCE_ID))
    for short, long in LONG_FORMS.items():
        if short in labels and labels.get(long, labels[short]) != labels[short]:
            return False
    return bool(labels.get(RESOURCE_ID) or labels.get("id"))


_SHORT_FORMS = frozenset(LONG_FORMS)


def _looks_plain(
    item: bytes, sent: Sent, payload: _Payload | None, payload_json: str | None
) -> bool:
    """Nothing in the text could hide what the decode does not see. A wrong "no" costs only time."""
    if b"\\u0000" in item or item.count(b'"') != _quotes_decoded(sent, payload_json):
        return False
    if len(item) <= 2 * NESTING_MAX:
        return True
    if item.count(b"{") + item.count(b"[") > NESTING_MAX and not _fits(payload, NESTING_MAX - 1):
        return False
    return len(item) <= INTEGER_DIGITS_MAX or not _LONG_NUMBER.search(item)


# Digits after a digit are not tried again, so that the search is linear.
_LONG_NUMBER = re.compile(rb"(?<![0-9])[0-9]{%d}" % (INTEGER_DIGITS_MAX + 1))


def _fits(payload: _Payload | None, levels: int) -> bool:
    """Whether arrays and objects are nested at most so many levels deep."""
    layer: list[object] = [payload] if payload else []
    for _ in range(levels):
        layer = [child for outer in layer for child in _members(outer) if type(child) in _OUTER]
        if not layer:
            return True
    return False


_OUTER = (dict, list)


def _members(outer: object) -> Iterable[object]:
    return outer.values() if isinstance(outer, dict) else cast(list[object], outer)


def _quotes_decoded(sent: Sent, payload_json: str | None) -> int:
    """How many quotation marks the text has if no field or label is in it twice."""
    quotes = 6 + 4 * len(sent.resource)
    if sent.payload is not UNSET:
        quotes += 2 + (payload_json.count('"') if payload_json else 0)
    if sent.related is not UNSET:
        quotes += 2 + 4 * sum(map(len, sent.related or ()))
    if sent.occurred is not UNSET:
        quotes += 4 if sent.occurred else 2
    if sent.id is not UNSET:
        quotes += 4 if sent.id else 2
    if sent.follows is not UNSET:
        quotes += 4 if sent.follows else 2
    return quotes


def _new_event(
    sent: Sent,
    payload: _Payload | None,
    payload_json: str | None,
    *,
    size: int,
    now: datetime,
    new_id: Callable[[], UUID],
) -> NewEvent:
    resource = _long_forms(sent.resource)
    related = [_long_forms(labels) for labels in sent.related or ()]
    occurred = aware(sent.occurred).astimezone(UTC) if sent.occurred else None
    follows = sent.follows or None
    digest = None
    if sent.id:
        content = [sent.event, resource, related, payload or {}, occurred, follows]
        digest = blake2b(_canonical_encoder.encode(content), digest_size=16).digest()
    resource_id = resource.pop(RESOURCE_ID)
    return NewEvent(
        id=sent.id or new_id(),
        id_given=bool(sent.id),
        digest=digest,
        name=sent.event,
        resource_id=resource_id,
        labels_json=msgspec.json.encode(resource).decode() if resource else None,
        related_json=msgspec.json.encode(related).decode() if related else None,
        payload_json=payload_json,
        occurred=occurred or now,
        follows=follows,
        size=size,
    )


def _long_forms(labels: dict[str, str]) -> dict[str, str]:
    if _SHORT_FORMS.isdisjoint(labels):
        return labels
    for short, long in LONG_FORMS.items():
        if short in labels:
            labels[long] = labels.pop(short)
    return labels
