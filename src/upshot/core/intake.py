"""Reading what clients post as events: bytes in, a verdict for each event out, no side effects.

Most events are right, so each gets one typed decode and a glance. Whatever fails that, or only
looks as if it might, is read again slowly, by a reader that takes NaN, lone surrogates and the
like as values, so that every problem can be named with its place. Only the slow reader refuses;
only the typed decode builds events.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from hashlib import blake2b
from io import BytesIO
from itertools import islice, takewhile
from math import isfinite
from typing import Annotated, Final, TypeVar, cast
from uuid import UUID, SafeUUID

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from upshot.core.errors import Invalid, Malformed, Problem, TooLarge
from upshot.core.events import LONG_FORMS, OWN_EVENT_PREFIX, RESOURCE_ID, RESOURCE_ROLE, long_form
from upshot.core.limits import (
    EVENT_BYTES_MAX,
    EVENT_NAME_CHARS_MAX,
    EVENTS_PER_REQUEST_MAX,
    INTEGER_DIGITS_MAX,
    LABEL_NAME_CHARS_MAX,
    LABEL_VALUE_CHARS_MAX,
    LABELS_MAX,
    NESTING_MAX,
    OCCURRED_AHEAD_MAX,
    PROBLEM_ECHO_CHARS_MAX,
    PROBLEMS_LISTED_MAX,
    PROBLEMS_LOC_CHARS_MAX,
    RELATED_MAX,
)

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class NewEvent(Struct, frozen=True, gc=False):
    """An event that keeps every rule, ready to be stored. JSON is kept as text.

    A Struct and not a dataclass, because making a frozen dataclass of this size costs as much as
    reading the event.
    """

    id: UUID
    id_given: bool
    """The client sent the id, so the event may be a duplicate."""
    digest: bytes | None
    """16 bytes over what the client sent, without defaults; None where it sent no id."""
    name: str
    resource_id: str
    labels_json: str | None
    """The resource's other labels, in the long form; None where it has none."""
    related_json: str | None
    payload_json: str | None
    """The payload as it was sent, to the byte; None where it is absent or empty."""
    occurred: datetime
    follows: UUID | None
    size: int
    """Bytes, as received."""


@dataclass(frozen=True, slots=True)
class Refused:
    """An event that breaks a rule. `id` is what the client sent as such, when that can be read."""

    id: str | None
    problems: tuple[Problem, ...]


Verdict = NewEvent | Refused


@dataclass(frozen=True, slots=True)
class Reading:
    """What one request held, in its order. `single` says that it was one object, not a list."""

    verdicts: tuple[Verdict, ...]
    single: bool


def read_json(body: bytes, *, now: datetime, new_id: Callable[[], UUID]) -> Reading:
    """Read one event or an array of them.

    Raises Malformed where the body is no JSON (a NaN, a lone surrogate or an abyss of brackets
    costs only the event that holds it), Invalid for an empty array, TooLarge for too many events.
    """
    opening = body.lstrip(_SPACE)[:1]
    if opening not in (b"{", b"["):
        raise Malformed("The body must be a JSON object, or an array of objects.")
    single = opening == b"{"
    items = [body] if single else _array_items(body)
    verdicts: list[Verdict] = []
    try:
        for item in items:
            verdicts.append(_read_item(item, now=now, new_id=new_id))
    except _Broken as broken:
        start = 0 if single else _start_of_item(body, len(verdicts))
        raise _malformed(body, at=start + broken.at, why=broken.why) from None
    return Reading(verdicts=tuple(verdicts), single=single)


def read_ndjson(body: bytes, *, now: datetime, new_id: Callable[[], UUID]) -> Reading:
    """Read one event per line. Blank lines do not count, and a bad line loses nothing but itself.

    Raises Invalid where there is no event at all, TooLarge for too many.
    """
    lines = (line.strip(_SPACE) for line in BytesIO(body))
    items = _counted(line for line in lines if line)
    return Reading(
        verdicts=tuple(_read_line(item, now=now, new_id=new_id) for item in items), single=False
    )


def _read_line(line: bytes, *, now: datetime, new_id: Callable[[], UUID]) -> Verdict:
    try:
        return _read_item(line, now=now, new_id=new_id)
    except _Broken as broken:
        msg = f"The line is no JSON: {broken.why}, {_place(line, broken.at)}."
        return Refused(id=None, problems=(Problem((), msg),))


class Ids:
    """Makes UUIDs of version 7 (RFC 9562) that only ever grow, also within a millisecond and when
    the clock steps back. `clock` gives nanoseconds since 1970, `random` that many random bytes.

    One object belongs to one thread of one process.
    """

    __slots__ = ("_clock", "_end", "_last", "_ms", "_random", "_words")

    def __init__(self, *, random: Callable[[int], bytes], clock: Callable[[], int]) -> None:
        self._random = random
        self._clock = clock
        self._ms = -1
        self._last = self._end = 0
        self._words: Iterator[int] = iter(())

    def __call__(self) -> UUID:
        ms = self._clock() // 1_000_000
        if ms > self._ms:
            self._begin(ms)
        else:
            self._last += 1 + self._word()
            if self._last > self._end:
                self._begin(self._ms + 1)
        return _uuid(self._last)

    def _begin(self, ms: int) -> None:
        self._ms = ms
        high = ms << 80 | 0x7 << 76 | (self._word() & 0xFFF) << 64 | 0b10 << 62
        self._end = high | (1 << 62) - 1
        # It begins in the lower half of the 62 low bits, so that there is room to grow.
        self._last = high | self._word() << 29 | self._word() >> 3

    def _word(self) -> int:
        # One call of `random`, which is a system call, serves many ids.
        word = next(self._words, None)
        if word is None:
            self._words = iter(memoryview(self._random(_RANDOM_BLOCK_BYTES)).cast("I"))
            word = next(self._words)
        return word


_RANDOM_BLOCK_BYTES = 4_096
_set = object.__setattr__


def _uuid(number: int) -> UUID:
    """`UUID(int=number)` without its checks of the arguments, which cost twice as much."""
    made = UUID.__new__(UUID)
    _set(made, "int", number)
    _set(made, "is_safe", SafeUUID.unknown)
    return made


# One request: where its items begin and end.

_SPACE = b" \t\r\n"

_Batch = msgspec.defstruct(
    "_Batch",
    [(f"item_{index}", Raw | UnsetType, UNSET) for index in range(EVENTS_PER_REQUEST_MAX)],
    array_like=True,
    forbid_unknown_fields=True,
)
"""An array as a struct: unlike that of a list, its decode stops at the first item too many."""

_batch_decoder = msgspec.json.Decoder(_Batch)


def _array_items(body: bytes) -> list[bytes]:
    try:
        batch = _batch_decoder.decode(body)
    except msgspec.ValidationError:
        raise _too_many() from None
    except (msgspec.DecodeError, RecursionError):
        return _counted(body[start:end] for start, end in _item_spans(body))
    raws = takewhile(lambda raw: raw is not UNSET, msgspec.structs.astuple(batch))
    return _counted(map(bytes, raws))


def _counted(items: Iterable[bytes]) -> list[bytes]:
    counted = list(islice(items, EVENTS_PER_REQUEST_MAX + 1))
    if not counted:
        raise Invalid("The request holds no event.", [Problem((), "At least one event is needed.")])
    if len(counted) > EVENTS_PER_REQUEST_MAX:
        raise _too_many()
    return counted


def _too_many() -> TooLarge:
    return TooLarge(f"At most {EVENTS_PER_REQUEST_MAX:,} events fit into a request. Send several.")


def _start_of_item(body: bytes, index: int) -> int:
    start, _ = next(islice(_item_spans(body), index, None))
    return start


def _item_spans(body: bytes) -> Iterator[tuple[int, int]]:
    """Where the items of an array lie that no parser takes, such as one with a NaN in it.

    Brackets are counted and not paired: what is wrong inside an item shows when it is read.
    """
    depth = start = 0
    for at, change in _steps(_masked(body)):
        depth += change
        if depth == change:
            start = at + 1
        elif depth == 1 and change == 0:
            yield _trimmed(body, start, at)
            start = at + 1
        elif depth <= 0:
            end = at - change
            if depth < 0 or body[end:].strip(_SPACE):
                raise _malformed(body, at=end + depth, why="extra text after the array")
            yield _trimmed(body, start, end - 1)
            return
    raise _malformed(body, at=len(body), why="the array does not end")


def _trimmed(body: bytes, start: int, end: int) -> tuple[int, int]:
    """The span without the white space at its ends."""
    text = body[start:end]
    return end - len(text.lstrip(_SPACE)), start + len(text.rstrip(_SPACE))


def _masked(text: bytes) -> bytes:
    """The text, as long as before, with no escaped quotation mark in it."""
    return text.replace(b"\\\\", b"__").replace(b'\\"', b"__")


# A string without its end runs to the end of the text: it must not be looked for again and again.
_TOKEN = re.compile(rb'"[^"]*"?|[\[{]+|[\]}]+|,')


def _steps(masked: bytes) -> Iterator[tuple[int, int]]:
    """Each run of brackets and each comma outside strings: where it begins, and by how many levels
    it leads down or up."""
    for token in _TOKEN.finditer(masked):
        start, end = token.span()
        first = masked[start]
        if first in b"[{":
            yield start, end - start
        elif first in b"]}":
            yield start, start - end
        elif first == _COMMA:
            yield start, 0


_COMMA = ord(",")


def _malformed(body: bytes, *, at: int, why: str) -> Malformed:
    return Malformed(f"The body is no JSON: {why}, {_place(body, at)}. Nothing was stored.")


def _place(text: bytes, at: int) -> str:
    line_start = text.rfind(b"\n", 0, at) + 1
    line = text.count(b"\n", 0, at) + 1
    column = len(text[line_start:at].decode("utf-8", "replace")) + 1
    return f"line {line}, column {column}"


# From here on: one item. The quick way first.

_LabelName = Annotated[str, Meta(min_length=1, max_length=LABEL_NAME_CHARS_MAX)]
_LabelValue = Annotated[str, Meta(max_length=LABEL_VALUE_CHARS_MAX)]
_LabelSet = Annotated[dict[_LabelName, _LabelValue], Meta(max_length=LABELS_MAX)]
_RelatedSets = Annotated[list[_LabelSet], Meta(max_length=RELATED_MAX)]


class _Sent(Struct, forbid_unknown_fields=True, gc=False):
    """An event as the client wrote it. A null is as good as nothing, but was written."""

    event: Annotated[str, Meta(min_length=1, max_length=EVENT_NAME_CHARS_MAX)]
    resource: _LabelSet
    related: _RelatedSets | UnsetType | None = UNSET
    payload: Raw | UnsetType = UNSET
    occurred: datetime | UnsetType | None = UNSET
    id: UUID | UnsetType | None = UNSET
    follows: UUID | UnsetType | None = UNSET


class _OnlyId(Struct):
    id: str | None = None


_Payload = dict[str, object]

_sent_decoder = msgspec.json.Decoder(_Sent)
_payload_decoder = msgspec.json.Decoder(_Payload | None)
_id_decoder = msgspec.json.Decoder(_OnlyId)
_canonical_encoder = msgspec.json.Encoder(order="deterministic")

_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def _read_item(item: bytes, *, now: datetime, new_id: Callable[[], UUID]) -> Verdict:
    if len(item) > EVENT_BYTES_MAX:
        return _too_large(item)
    try:
        sent = _sent_decoder.decode(item)
        payload, payload_json = _read_payload(sent)
    except _UNREADABLE:
        return _refusal(item, now) or _UNEXPLAINED
    if not (_looks_right(sent, now) and _looks_plain(item, sent, payload, payload_json)):
        refused = _refusal(item, now)
        if refused is not None:
            return refused
    return _new_event(sent, payload, payload_json, size=len(item), now=now, new_id=new_id)


def _too_large(item: bytes) -> Refused:
    try:
        sent_id = _id_decoder.decode(item).id
    except _UNREADABLE:
        sent_id = None
    msg = f"The event has {len(item):,} bytes; at most {EVENT_BYTES_MAX:,} fit."
    return Refused(id=_echo(sent_id), problems=(Problem((), msg),))


_UNEXPLAINED = Refused(id=None, problems=(Problem((), "The event cannot be read."),))
"""What the typed decode refuses and the slow reader would take: nothing that is known of."""


def _read_payload(sent: _Sent) -> tuple[_Payload | None, str | None]:
    if sent.payload is UNSET:
        return None, None
    raw = bytes(sent.payload)
    payload = _payload_decoder.decode(raw)
    return payload, raw.decode() if payload else None


def _looks_right(sent: _Sent, now: datetime) -> bool:
    """The rules that the types do not hold."""
    if sent.event.startswith(OWN_EVENT_PREFIX) or not _is_identified(sent.resource):
        return False
    for labels in sent.related or ():
        if not (_is_identified(labels) and (labels.get(RESOURCE_ROLE) or labels.get("role"))):
            return False
    return not sent.occurred or _is_in_range(_aware(sent.occurred), now)


def _is_identified(labels: Mapping[str, str]) -> bool:
    if _SHORT_FORMS.isdisjoint(labels):
        return bool(labels.get(RESOURCE_ID))
    for short, long in LONG_FORMS.items():
        if short in labels and labels.get(long, labels[short]) != labels[short]:
            return False
    return bool(labels.get(RESOURCE_ID) or labels.get("id"))


_SHORT_FORMS = frozenset(LONG_FORMS)


def _is_in_range(occurred: datetime, now: datetime) -> bool:
    return EPOCH <= occurred <= now + OCCURRED_AHEAD_MAX


def _looks_plain(
    item: bytes, sent: _Sent, payload: _Payload | None, payload_json: str | None
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


def _quotes_decoded(sent: _Sent, payload_json: str | None) -> int:
    """How many quotation marks the text has if no field or label is in it twice."""
    quotes = 6 + 4 * len(sent.resource)
    if sent.payload is not UNSET:
        quotes += 2 + (payload_json.count('"') if payload_json else 0)
    if sent.related is not UNSET:
        quotes += 2 + 4 * sum(map(len, sent.related or ()))
    for value in (sent.occurred, sent.id, sent.follows):
        if value is not UNSET:
            quotes += 4 if value else 2
    return quotes


def _new_event(
    sent: _Sent,
    payload: _Payload | None,
    payload_json: str | None,
    *,
    size: int,
    now: datetime,
    new_id: Callable[[], UUID],
) -> NewEvent:
    resource = _long_forms(sent.resource)
    related = [_long_forms(labels) for labels in sent.related or ()]
    occurred = _aware(sent.occurred).astimezone(UTC) if sent.occurred else None
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


def _aware(occurred: datetime) -> datetime:
    return occurred if occurred.tzinfo else occurred.replace(tzinfo=UTC)


# The slow way: every problem, with its place.


@dataclass(frozen=True, slots=True)
class _Unkeepable:
    """Stands in the tree for a value that JSON text can say and Upshot cannot keep."""

    why: str


_Object = tuple[tuple[str, object], ...]
"""What the slow reader makes of a JSON object: pairs, so that a name given twice is seen."""


_T = TypeVar("_T", UUID, datetime)


class _Broken(Exception):
    """The item is no JSON. `at` is the offset of the fault in it, in bytes."""

    def __init__(self, *, at: int, why: str) -> None:
        super().__init__(why)
        self.at = at
        self.why = why


def _refusal(item: bytes, now: datetime) -> Refused | None:
    tree = _read_slowly(item)
    problems = _listed(_problems(tree, now))
    if not problems:
        return None
    sent_id = dict(tree).get("id") if isinstance(tree, tuple) else None
    return Refused(id=_echo(sent_id), problems=problems)


def _read_slowly(item: bytes) -> object:
    # Bytes that are not UTF-8 become lone surrogates, and are refused where they stand.
    text = item.decode("utf-8", "surrogateescape")
    try:
        return _slow_decoder.decode(text)
    except RecursionError:
        return _read_slowly(_without_the_deepest(item))
    except json.JSONDecodeError as error:
        at = len(text[: error.pos].encode("utf-8", "surrogateescape"))
        raise _Broken(at=at, why=error.msg.lower()) from None


def _without_the_deepest(item: bytes) -> bytes:
    """The item with `[]` in place of what is nested too deeply; all else stays where it was."""
    pieces: list[bytes] = []
    depth = kept_from = cut_from = 0
    for start, change in _steps(_masked(item)):
        before, depth = depth, depth + change
        if before <= NESTING_MAX < depth:
            cut_from = start + NESTING_MAX - before
            pieces.append(item[kept_from:cut_from])
            kept_from = len(item)
        elif depth <= NESTING_MAX < before:
            kept_from = start + before - NESTING_MAX
            pieces.append(b"[]".ljust(kept_from - cut_from))
    return b"".join([*pieces, item[kept_from:]])


def _read_integer(text: str) -> object:
    if len(text.lstrip("-")) <= INTEGER_DIGITS_MAX:
        return int(text)
    return _Unkeepable(f"The integer has more than {INTEGER_DIGITS_MAX:,} digits.")


def _read_float(text: str) -> object:
    value = float(text)
    if isfinite(value):
        return value
    return _Unkeepable("The number is too large for a double; send it as a string.")


def _read_constant(text: str) -> object:
    return _Unkeepable(f"{text} is no JSON; send null or a string.")


_slow_decoder = json.JSONDecoder(
    object_pairs_hook=tuple,
    parse_int=_read_integer,
    parse_float=_read_float,
    parse_constant=_read_constant,
)


def _listed(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """The first problem of each place, bounded: an answer must not outgrow the request by much."""
    listed: dict[tuple[str | int, ...], Problem] = {}
    room = PROBLEMS_LOC_CHARS_MAX
    for problem in islice(problems, PROBLEMS_LISTED_MAX):
        loc = tuple(part if isinstance(part, int) else _clean(part) for part in problem.loc)
        room -= sum(len(str(part)) for part in loc)
        listed.setdefault(loc, Problem(loc, problem.msg))
        if room <= 0:
            break
    return tuple(listed.values())


def _clean(text: str) -> str:
    return _UNKEEPABLE_CHARACTER.sub("\ufffd", text[:PROBLEM_ECHO_CHARS_MAX])


def _echo(sent_id: object) -> str | None:
    return _clean(sent_id) if isinstance(sent_id, str) else None


_UNKEEPABLE_CHARACTER = re.compile("[\0\ud800-\udfff]")


def _problems(tree: object, now: datetime) -> Iterator[Problem]:
    if not isinstance(tree, tuple):
        yield Problem((), "An event must be a JSON object.")
        return
    yield from _unkeepable(tree, ())
    fields = dict(tree)
    yield from _field_problems(tree)
    yield from _name_problems(fields.get("event"))
    yield from _label_problems(fields.get("resource"), ("resource",), required=(RESOURCE_ID,))
    yield from _related_problems(fields.get("related"))
    if not isinstance(fields.get("payload"), tuple | None):
        yield Problem(("payload",), "Must be a JSON object.")
    for name in ("id", "follows"):
        if fields.get(name) is not None and _parsed(fields[name], UUID) is None:
            yield Problem((name,), "Must be a UUID, as text.")
    yield from _time_problems(fields.get("occurred"), now)


_ALWAYS_KEEPABLE = (int, float, type(None))


def _unkeepable(value: object, loc: tuple[str | int, ...]) -> Iterator[Problem]:
    if isinstance(value, str):
        found = _UNKEEPABLE_CHARACTER.search(value)
        if found:
            yield Problem(loc, _why_unkeepable(found.group()))
    elif isinstance(value, _Unkeepable):
        yield Problem(loc, value.why)
    elif len(loc) >= NESTING_MAX:
        yield Problem(loc, f"Is nested more than {NESTING_MAX} levels deep.")
    elif isinstance(value, list):
        for index, child in enumerate(value):
            if not isinstance(child, _ALWAYS_KEEPABLE):
                yield from _unkeepable(child, (*loc, index))
    elif isinstance(value, tuple):
        for name, child in value:
            if _UNKEEPABLE_CHARACTER.search(name):
                yield from _unkeepable(name, (*loc, name))
            if not isinstance(child, _ALWAYS_KEEPABLE):
                yield from _unkeepable(child, (*loc, name))


def _why_unkeepable(character: str) -> str:
    if character == "\0":
        return "Holds the character U+0000, which cannot be stored."
    return "Holds a lone surrogate, or bytes that are not UTF-8."


def _field_problems(pairs: _Object) -> Iterator[Problem]:
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            yield Problem((name,), "Given twice.")
        elif name not in _Sent.__struct_fields__:
            yield Problem((name,), _unknown_field(_clean(name)))
        seen.add(name)


def _unknown_field(name: str) -> str:
    near = get_close_matches(name, _Sent.__struct_fields__, n=1)
    if near:
        return f"Unknown field; did you mean '{near[0]}'?"
    return f"Unknown field; an event has {', '.join(_Sent.__struct_fields__)}."


def _name_problems(name: object) -> Iterator[Problem]:
    loc = ("event",)
    if name is None:
        yield Problem(loc, "Required: the event's name.")
    elif not isinstance(name, str) or not name:
        yield Problem(loc, "Must be a string that is not empty.")
    elif len(name) > EVENT_NAME_CHARS_MAX:
        yield Problem(loc, f"Has {len(name):,} characters; at most {EVENT_NAME_CHARS_MAX:,} fit.")
    elif name.startswith(OWN_EVENT_PREFIX):
        yield Problem(loc, f"Names that begin with '{OWN_EVENT_PREFIX}' are Upshot's own events.")


def _label_problems(
    labels: object, loc: tuple[str | int, ...], *, required: tuple[str, ...]
) -> Iterator[Problem]:
    if labels is None:
        yield Problem(loc, f"Required: an object of labels, with '{RESOURCE_ID}'.")
        return
    if not isinstance(labels, tuple):
        yield Problem(loc, "Must be an object of labels, string to string.")
        return
    if len(labels) > LABELS_MAX:
        yield Problem(loc, f"Has {len(labels):,} labels; at most {LABELS_MAX} fit.")
    for name, value in labels:
        why = _why_no_label(name, value)
        if why:
            yield Problem((*loc, name), why)
    yield from _disagreements(labels, loc)
    values = {long_form(name): value for name, value in labels}
    for name in required:
        if not values.get(name):
            yield Problem((*loc, name), "Required, and not empty.")


def _why_no_label(name: str, value: object) -> str | None:
    if not name:
        return "A label's name must not be empty."
    if len(name) > LABEL_NAME_CHARS_MAX:
        return f"A label's name has at most {LABEL_NAME_CHARS_MAX} characters."
    if not isinstance(value, str):
        return "A label's value must be a string."
    if len(value) > LABEL_VALUE_CHARS_MAX:
        return f"A label's value has at most {LABEL_VALUE_CHARS_MAX:,} characters."
    return None


def _disagreements(labels: _Object, loc: tuple[str | int, ...]) -> Iterator[Problem]:
    seen: dict[str, object] = {}
    for name, value in labels:
        if name in seen:
            yield Problem((*loc, name), "Given twice.")
        seen[name] = value
    for short, long in LONG_FORMS.items():
        if short in seen and seen.get(long, seen[short]) != seen[short]:
            yield Problem((*loc, short), f"Is short for '{long}', which is given another value.")


def _related_problems(related: object) -> Iterator[Problem]:
    loc = ("related",)
    if related is None:
        return
    if not isinstance(related, list):
        yield Problem(loc, "Must be a list of label sets.")
        return
    if len(related) > RELATED_MAX:
        yield Problem(loc, f"Has {len(related):,} label sets; at most {RELATED_MAX} fit.")
    for index, labels in enumerate(related):
        yield from _label_problems(labels, (*loc, index), required=(RESOURCE_ID, RESOURCE_ROLE))


def _time_problems(value: object, now: datetime) -> Iterator[Problem]:
    loc = ("occurred",)
    if value is None:
        return
    occurred = _parsed(value, datetime)
    if occurred is None:
        yield Problem(loc, "Must be a time such as '2026-01-31T12:00:00Z' (RFC 3339).")
    elif not _is_in_range(_aware(occurred), now):
        yield Problem(loc, "Is before 1970, or more than 24 hours ahead of the server's clock.")


def _parsed(value: object, kind: type[_T]) -> _T | None:
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, UnicodeEncodeError):
        return None
