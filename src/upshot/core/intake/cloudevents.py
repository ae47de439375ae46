"""CloudEvents 1.0 (structured, in batches, in the headers of a message), as plain events.

Each is written down again as a plain event and read as one, so that the rules, the bounds and what
is kept to the byte are the same; only the places of problems are told in the sender's own terms.
"""

import base64
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from email.message import Message
from typing import Final
from urllib.parse import unquote
from uuid import NAMESPACE_URL, UUID, uuid5

import msgspec
from msgspec import Raw

from upshot.core.errors import Malformed, Problem
from upshot.core.intake.bodies import read_items
from upshot.core.intake.echoes import echo, listed
from upshot.core.intake.quick import UNEXPLAINED, UNREADABLE, read_item, too_large
from upshot.core.intake.rules import unkeepable
from upshot.core.intake.slow import Broken, read_slowly
from upshot.core.intake.splitting import SPACE, array_items, malformed
from upshot.core.intake.verdicts import Reading, Refused, Verdict
from upshot.core.limits import EVENT_BYTES_MAX

ID_LABEL: Final = "cloudevents.id"
"""The label that keeps an id which is no UUID."""

_REQUIRED: Final = ("specversion", "id", "source", "type")
_NOT_LABELS: Final = frozenset(
    {"specversion", "id", "type", "subject", "time", "data", "data_base64"}
)
_JSON: Final = "application/json"

_Attributes = Mapping[str, bytes]
"""Each attribute's JSON text; one that is null is left out."""


def read_cloudevent(body: bytes, *, now: datetime, new_id: Callable[[], UUID]) -> Reading:
    """Read one event in structured mode. Raises Malformed where the body is no JSON object."""
    if not body.lstrip(SPACE).startswith(b"{"):
        raise Malformed("The body must be a JSON object; several are sent as a batch.")
    return read_items(body, [body], single=True, read=_reader(now, new_id))


def read_cloudevents(body: bytes, *, now: datetime, new_id: Callable[[], UUID]) -> Reading:
    """Read a batch. Raises what `read_json` does for an array of plain events."""
    if not body.lstrip(SPACE).startswith(b"["):
        raise Malformed("The body must be a JSON array of CloudEvents.")
    return read_items(body, array_items(body), single=False, read=_reader(now, new_id))


def read_binary_cloudevent(
    body: bytes,
    *,
    headers: Iterable[tuple[str, str]],
    content_type: str | None,
    now: datetime,
    new_id: Callable[[], UUID],
) -> Reading:
    """Read one event in binary mode: `headers` are those named `ce-...`, without that prefix and
    with each byte of a value as a character (Latin-1); the body is the data.

    Raises Malformed where the data is said to be JSON and is not.
    """
    members = [(name, _header_text(value)) for name, value in headers if name != "datacontenttype"]
    if content_type:
        members.append(("datacontenttype", content_type))
    texts = [_member(name, json.dumps(value).encode()) for name, value in members]
    if body:
        texts.append(_data_member(body, content_type or _JSON))
    verdict = _read(b"{%s}" % b",".join(texts), now=now, new_id=new_id)
    if isinstance(verdict, Refused):
        problems = (Problem(_place_in_message(one.loc), one.msg) for one in verdict.problems)
        verdict = Refused(id=verdict.id, problems=tuple(problems))
    return Reading(verdicts=(verdict,), single=True)


def cloudevent_id(*, source: str, event_id: str) -> UUID:
    """The UUID that stands for the pair; anybody can compute it, so the rule must never change."""
    return uuid5(uuid5(NAMESPACE_URL, source), event_id)


def _reader(now: datetime, new_id: Callable[[], UUID]) -> Callable[[bytes], Verdict]:
    return lambda item: _read(item, now=now, new_id=new_id)


def _read(item: bytes, *, now: datetime, new_id: Callable[[], UUID]) -> Verdict:
    """The verdict on one event's text. May raise Broken."""
    if len(item) > EVENT_BYTES_MAX:
        return too_large(item)
    try:
        decoded = _attributes_decoder.decode(item)
        attributes = {
            name: text for name, raw in decoded.items() if (text := bytes(raw)) != b"null"
        }
        plain = _plain_event(attributes)
    except UNREADABLE:
        return _refusal(item) or UNEXPLAINED
    # What is given twice shows as more quotation marks than the attributes have.
    quotes = sum(bytes(raw).count(b'"') + 2 for raw in decoded.values())
    if plain is None or item.count(b'"') != quotes:
        refused = _refusal(item)
        if refused is not None or plain is None:
            return refused or UNEXPLAINED
    verdict = read_item(plain, now=now, new_id=new_id)
    if isinstance(verdict, Refused):
        problems = listed(
            Problem(_place_in_event(one.loc, attributes), one.msg) for one in verdict.problems
        )
        return Refused(id=echo(_text(attributes["id"])), problems=problems)
    return verdict


_attributes_decoder = msgspec.json.Decoder(dict[str, Raw])
_text = msgspec.json.Decoder(str).decode


def _plain_event(attributes: _Attributes) -> bytes | None:
    """The event's text as a plain one, or None where an attribute breaks a rule of CloudEvents."""
    if not all(attributes.get(name, b"").startswith(b'"') for name in _REQUIRED):
        return None
    source, event_id = _text(attributes["source"]), _text(attributes["id"])
    if not (_text(attributes["specversion"]).startswith("1.") and source and event_id):
        return None
    labels = {"id": attributes.get("subject", attributes["source"])}
    for name, value in attributes.items():
        if name not in _NOT_LABELS:
            if value.startswith((b"{", b"[")):
                return None
            # A boolean or a number is kept as JSON writes it.
            labels[name] = value if value.startswith(b'"') else b'"%s"' % value
    own_id = _uuid_or_none(event_id)
    if own_id is None:
        labels[ID_LABEL] = attributes["id"]
        own_id = cloudevent_id(source=source, event_id=event_id)
    members = [_member("event", attributes["type"]), _member("id", b'"%s"' % str(own_id).encode())]
    if "data_base64" in attributes:
        if "data" in attributes or not _is_base64(_text(attributes["data_base64"])):
            return None
        members.append(b'"payload":{"data_base64":%s}' % attributes["data_base64"])
    elif "data" in attributes:
        data = attributes["data"]
        labels.setdefault("datacontenttype", b'"%s"' % _JSON.encode())
        members.append(b'"payload":%s' % (data if data.startswith(b"{") else b'{"data":%s}' % data))
    if "time" in attributes:
        members.append(_member("occurred", attributes["time"]))
    resource = b",".join(_member(name, value) for name, value in labels.items())
    return b'{"resource":{%s},%s}' % (resource, b",".join(members))


def _member(name: str, value: bytes) -> bytes:
    return b"%s:%s" % (msgspec.json.encode(name), value)


def _uuid_or_none(event_id: str) -> UUID | None:
    try:
        return msgspec.convert(event_id, UUID)
    except msgspec.ValidationError:
        return None


def _is_base64(value: str) -> bool:
    try:
        base64.b64decode(value, validate=True)
    except ValueError:
        return False
    return True


def _refusal(item: bytes) -> Refused | None:
    """Every breach of the rules for attributes. May raise Broken."""
    tree = read_slowly(item)
    if not isinstance(tree, tuple):
        return Refused(id=None, problems=(Problem((), "An event must be a JSON object."),))
    problems = listed(_problems_of(tree))
    return Refused(id=echo(dict(tree).get("id")), problems=problems) if problems else None


def _problems_of(tree: tuple[tuple[str, object], ...]) -> Iterator[Problem]:
    yield from unkeepable(tree, ())
    seen: set[str] = set()
    for name, value in tree:
        if name in seen:
            yield Problem((name,), "Given twice.")
        elif name not in _NOT_LABELS and isinstance(value, tuple | list):
            yield Problem((name,), "An extension is a string, a boolean or a number.")
        seen.add(name)
    fields = {name: value for name, value in tree if value is not None}
    for name in _REQUIRED:
        value = fields.get(name)
        if value is None:
            yield Problem((name,), f"Required: every CloudEvent has {', '.join(_REQUIRED)}.")
        elif not isinstance(value, str) or not value:
            yield Problem((name,), "Must be a string that is not empty.")
    version = fields.get("specversion")
    if isinstance(version, str) and version and not version.startswith("1."):
        yield Problem(("specversion",), "Must be 1.0: that is what is read.")
    encoded = fields.get("data_base64")
    if encoded is not None:
        if "data" in fields:
            yield Problem(("data_base64",), "Cannot stand beside `data`; send one of them.")
        if not isinstance(encoded, str) or not _is_base64(encoded):
            yield Problem(("data_base64",), "Must be base64.")


def _place_in_event(loc: tuple[str | int, ...], attributes: _Attributes) -> tuple[str | int, ...]:
    """A place in the plain event as one in the CloudEvent that it was made of."""
    match loc:
        case ("event", *_):
            return ("type",)
        case ("occurred", *_):
            return ("time",)
        case ("payload", *path):
            if "data_base64" in attributes:
                return ("data_base64",)
            wrapped = not attributes["data"].startswith(b"{")
            return ("data", *path[1:]) if wrapped else ("data", *path)
        case ("resource", "id" | "prefect.resource.id", *_):
            return ("subject",) if "subject" in attributes else ("source",)
        case ("resource", str(name), *_) if name == ID_LABEL and name not in attributes:
            return ("id",)
        case ("resource", *path):
            return tuple(path)
        case _:
            return loc


def _place_in_message(loc: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """A place in a structured event as one in the HTTP message that it was made of."""
    match loc:
        case ("data" | "data_base64", *path):
            return tuple(path)
        case ("datacontenttype", *_):
            return ("header", "content-type")
        case (str(name), *_):
            return ("header", f"ce-{name}")
        case _:
            return loc


def _header_text(value: str) -> str:
    """A header's value as the HTTP binding has it read: unquoted, then percent-decoded once.

    Bytes that are no UTF-8 become lone surrogates, and are refused where they stand.
    """
    value = value.strip(" \t")
    if len(value) > 1 and value[0] == value[-1] == '"':
        value = _ESCAPED.sub(r"\1", value[1:-1])
    raw = value.encode("latin-1").decode("utf-8", "surrogateescape")
    return unquote(raw, errors="surrogateescape")


_ESCAPED = re.compile(r"\\(.)")


def _data_member(body: bytes, content_type: str) -> bytes:
    """The body as the data of a structured event."""
    message = Message()
    message["content-type"] = content_type
    kind = message.get_content_type()
    if message.get_content_charset("utf-8") in ("utf-8", "utf8", "us-ascii"):
        if kind.endswith(("/json", "+json")):
            return b'"data":%s' % _json_value(body)
        if kind.startswith("text/") and _is_utf8(body):
            return b'"data":%s' % json.dumps(body.decode()).encode()
    return b'"data_base64":"%s"' % base64.b64encode(body)


def _is_utf8(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def _json_value(body: bytes) -> bytes:
    """The body, once it is sure to be one JSON value, so that nothing of it gets out of its place.

    A NaN, a lone surrogate and the like are left to be named with their places.
    """
    try:
        _raw_decoder.decode(body)
    except UNREADABLE:
        try:
            read_slowly(body)
        except Broken as broken:
            raise malformed(body, at=broken.at, why=broken.why) from None
    return body.strip(SPACE)


_raw_decoder = msgspec.json.Decoder(Raw)
