"""What `POST /v1/events` takes and refuses, rule by rule, and that nothing else can come out."""

import json
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from random import Random
from typing import Any
from uuid import UUID

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from upshot.core.errors import Invalid, Malformed, TooLarge, UpshotError
from upshot.core.intake import Ids, NewEvent, Reading, Refused, Verdict, read_json, read_ndjson
from upshot.core.intake.quick import UNEXPLAINED
from upshot.core.intake.slow import Broken, refusal
from upshot.core.limits import (
    EVENT_BYTES_MAX,
    EVENT_NAME_CHARS_MAX,
    EVENTS_PER_REQUEST_MAX,
    INTEGER_DIGITS_MAX,
    KIB,
    LABEL_NAME_CHARS_MAX,
    LABEL_VALUE_CHARS_MAX,
    LABELS_MAX,
    MIB,
    NESTING_MAX,
    PROBLEM_ECHO_CHARS_MAX,
    PROBLEMS_LISTED_MAX,
    PROBLEMS_LOC_CHARS_MAX,
    RELATED_MAX,
)

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
MADE = UUID("01930000-0000-7000-8000-000000000000")
SENT = "0190163d-8694-739b-aea5-966c26f8ad91"
OTHER = "0190163d-8694-739b-aea5-966c26f8ad92"
GOOD = b'{"event":"order.created","resource":{"id":"123"}}'


def read(body: bytes) -> Reading:
    return read_json(body, now=NOW, new_id=lambda: MADE)


def read_lines(body: bytes) -> Reading:
    return read_ndjson(body, now=NOW, new_id=lambda: MADE)


def event(**fields: Any) -> dict[str, Any]:
    return {"event": "order.created", "resource": {"prefect.resource.id": "123"}, **fields}


def verdict(sent: object) -> Verdict:
    body = sent if isinstance(sent, bytes) else json.dumps(sent).encode()
    return read(body).verdicts[0]


def accepted(sent: object) -> NewEvent:
    found = verdict(sent)
    assert isinstance(found, NewEvent), found
    return found


def locs(sent: object) -> list[tuple[str | int, ...]]:
    found = verdict(sent)
    assert isinstance(found, Refused), found
    assert all(problem.msg for problem in found.problems)
    return [problem.loc for problem in found.problems]


def with_payload(text: bytes) -> bytes:
    return b'{"event":"order.created","resource":{"id":"123"},"payload":{"a":[1,2,3,%s]}}' % text


# What an event becomes.


def test_an_event_gets_the_servers_id_and_time_when_it_has_none() -> None:
    assert accepted(event()) == NewEvent(
        id=MADE,
        id_given=False,
        digest=None,
        name="order.created",
        resource_id="123",
        labels_json=None,
        related_json=None,
        payload_json=None,
        occurred=NOW,
        follows=None,
        size=len(json.dumps(event())),
    )


def test_an_event_keeps_all_that_was_sent() -> None:
    sent = event(
        id=SENT,
        follows=OTHER,
        occurred="2026-01-31T12:00:00.123456+02:00",
        resource={"prefect.resource.id": "123", "region": "eu", "empty": ""},
        related=[{"prefect.resource.id": "u", "prefect.resource.role": "user"}],
        payload={"total": 5},
    )
    found = accepted(sent)
    assert (found.id, found.id_given, found.follows) == (UUID(SENT), True, UUID(OTHER))
    assert found.occurred == datetime(2026, 1, 31, 10, 0, 0, 123456, tzinfo=UTC)
    assert found.occurred.utcoffset() == timedelta(0)
    assert json.loads(found.labels_json or "") == {"region": "eu", "empty": ""}
    assert json.loads(found.related_json or "") == sent["related"]
    assert found.payload_json == '{"total": 5}'


def test_labels_are_stored_in_the_long_form() -> None:
    found = accepted(
        event(
            resource={"id": "1", "name": "n", "role": "r", "prefect.resource.role": "r"},
            related=[{"role": "user", "id": "2", "other": "x"}],
        )
    )
    assert found.resource_id == "1"
    assert json.loads(found.labels_json or "") == {
        "prefect.resource.name": "n",
        "prefect.resource.role": "r",
    }
    assert json.loads(found.related_json or "") == [
        {"prefect.resource.id": "2", "prefect.resource.role": "user", "other": "x"}
    ]


@pytest.mark.parametrize(
    "payload",
    [
        b'{"n":18446744073709551617}',
        b'{ "b" : 1.50,\t"a":\r\n"\\u00e9" }',
        '{"smile":"\U0001f600"}'.encode(),
        b'{"smile":"\\ud83d\\ude00"}',
        b'{"twice":1,"twice":2}',
        b'{"n":%s}' % (b"9" * INTEGER_DIGITS_MAX),
        b'{"n":-%s}' % (b"9" * INTEGER_DIGITS_MAX),
        b'{"n":0.%s}' % (b"1" * 10_000),
        b'{"no number":"%s"}' % (b"9" * 10_000),
        b'{"no control character":"\\\\u0000"}',
        b'{"no surrogate":"\\\\ud800"}',
        b'{"no field":"\\"event\\":"}',
        b'{"n":[1e308,-0,-0.0,1e-400]}',
        b'{"no number":"NaN"}',
        b'{"a":' * (NESTING_MAX - 1) + b"1" + b"}" * (NESTING_MAX - 1),
        b'{"wide":[%s]}' % b",".join([b"[{}]"] * 500),
    ],
    ids=lambda payload: payload[:24].decode(),
)
def test_a_payload_is_kept_to_the_byte(payload: bytes) -> None:
    found = accepted(b'{"event":"e","resource":{"id":"1"},"payload":%s}' % payload)
    assert (found.payload_json or "").encode() == payload


@pytest.mark.parametrize("payload", [b"{}", b"{ }", b"null"])
def test_an_empty_payload_is_none(payload: bytes) -> None:
    found = accepted(b'{"payload":%s,"event":"e","resource":{"id":"1"}}' % payload)
    assert found.payload_json is None


def test_null_is_as_good_as_absent() -> None:
    nulls = event(id=None, follows=None, occurred=None, related=None, payload=None)
    found, plain = accepted(nulls), accepted(event())
    assert [getattr(found, name) for name in NewEvent.__struct_fields__[:-1]] == [
        getattr(plain, name) for name in NewEvent.__struct_fields__[:-1]
    ]


def test_an_id_may_be_given_short_and_long_with_the_same_value() -> None:
    assert accepted(event(resource={"id": "7", "prefect.resource.id": "7"})).resource_id == "7"


@pytest.mark.parametrize(
    ("occurred", "expected"),
    [
        ("2026-01-31T10:00:00", datetime(2026, 1, 31, 10, tzinfo=UTC)),
        ("2026-01-31T10:00:00Z", datetime(2026, 1, 31, 10, tzinfo=UTC)),
        ("2026-01-31 10:00:00-05:00", datetime(2026, 1, 31, 15, tzinfo=UTC)),
        ("1970-01-01T00:00:00Z", datetime(1970, 1, 1, tzinfo=UTC)),
        ("2026-02-01T12:00:00Z", NOW + timedelta(hours=24)),
        ("2026-02-01T13:00:00+01:00", NOW + timedelta(hours=24)),
    ],
)
def test_a_time_without_offset_is_utc_and_others_are_turned_into_it(
    occurred: str, expected: datetime
) -> None:
    found = accepted(event(occurred=occurred)).occurred
    assert (found, found.utcoffset()) == (expected, timedelta(0))


# The digest.


def digest(**fields: Any) -> bytes | None:
    return accepted(event(id=SENT, **fields)).digest


def test_the_digest_has_16_bytes_and_only_events_with_an_id_have_one() -> None:
    assert len(digest() or b"") == 16
    assert accepted(event()).digest is None


def test_the_digest_does_not_depend_on_how_the_same_content_is_written() -> None:
    sent = event(
        id=SENT,
        resource={"id": "1", "region": "é"},
        related=[{"id": "2", "role": "user"}],
        payload={"a": {"b": [1, 2.5], "c": 2**70}, "d": None},
        occurred="2026-01-31T10:00:00Z",
        follows=OTHER,
    )
    written_otherwise = {
        "payload": {"d": None, "a": {"c": 2**70, "b": [1, 2.5]}},
        "follows": OTHER.upper(),
        "occurred": "2026-01-31T11:00:00+01:00",
        "related": [{"prefect.resource.role": "user", "prefect.resource.id": "2"}],
        "resource": {"region": "é", "prefect.resource.id": "1"},
        "event": "order.created",
        "id": SENT.replace("-", ""),
    }
    indented = json.dumps(written_otherwise, indent=3, ensure_ascii=False).encode()
    assert accepted(indented).digest == accepted(sent).digest


def test_the_digest_does_not_depend_on_the_servers_defaults() -> None:
    body = json.dumps(event(id=SENT)).encode()
    earlier = read_json(body, now=NOW, new_id=lambda: MADE).verdicts[0]
    later = read_json(body, now=NOW + timedelta(days=1), new_id=lambda: MADE).verdicts[0]
    assert isinstance(earlier, NewEvent)
    assert isinstance(later, NewEvent)
    assert earlier.digest == later.digest


def test_the_digest_tells_any_other_content() -> None:
    digests = [
        digest(),
        digest(event="order.complete"),
        digest(resource={"id": "124"}),
        digest(resource={"id": "123", "a": "b"}),
        digest(related=[{"id": "123", "role": "a"}]),
        digest(related=[{"id": "123", "role": "a"}, {"id": "123", "role": "a"}]),
        digest(payload={"a": 1}),
        digest(payload={"a": "1"}),
        digest(payload={"a": True}),
        digest(payload={"a": 2**64}),
        digest(payload={"a": 2**64 + 1}),
        digest(follows=OTHER),
        digest(occurred="2026-01-31T12:00:00Z"),
        digest(occurred="2026-01-31T12:00:00.000001Z"),
    ]
    assert len(set(digests)) == len(digests)


# What is refused, and where.

LABELS = {"prefect.resource.id": "1"}
ROLE = {"prefect.resource.role": "user"}
LONG_ID = ("resource", "prefect.resource.id")

REFUSED: dict[str, tuple[object, tuple[str | int, ...]]] = {
    "an item that is no object": ([1], ()),
    "no name": ({"resource": LABELS}, ("event",)),
    "a null name": (event(event=None), ("event",)),
    "an empty name": (event(event=""), ("event",)),
    "a name that is no string": (event(event=5), ("event",)),
    "a name too long": (event(event="x" * (EVENT_NAME_CHARS_MAX + 1)), ("event",)),
    "one of Upshot's own names": (event(event="upshot.run.failed"), ("event",)),
    "a NUL in the name": (event(event="a\0"), ("event",)),
    "a lone surrogate in the name": (event(event="a\ud800"), ("event",)),
    "no resource": ({"event": "e"}, ("resource",)),
    "a null resource": (event(resource=None), ("resource",)),
    "a resource that is no object": (event(resource=["id"]), ("resource",)),
    "no resource id": (event(resource={}), LONG_ID),
    "an empty resource id": (event(resource={"prefect.resource.id": ""}), LONG_ID),
    "an empty short resource id": (event(resource={"id": ""}), LONG_ID),
    "a resource id that is no string": (event(resource={"id": 123}), ("resource", "id")),
    "two resource ids": (event(resource={"id": "2", **LABELS}), ("resource", "id")),
    "a label that is no string": (event(resource={**LABELS, "n": 1}), ("resource", "n")),
    "a null label": (event(resource={**LABELS, "n": None}), ("resource", "n")),
    "an empty label name": (event(resource={**LABELS, "": "x"}), ("resource", "")),
    "a label value too long": (
        event(resource={**LABELS, "n": "x" * (LABEL_VALUE_CHARS_MAX + 1)}),
        ("resource", "n"),
    ),
    "a label name too long": (
        event(resource={**LABELS, "n" * (LABEL_NAME_CHARS_MAX + 1): "x"}),
        ("resource", "n" * PROBLEM_ECHO_CHARS_MAX),
    ),
    "too many labels": (
        event(resource={**LABELS, **{f"n{i}": "" for i in range(LABELS_MAX)}}),
        ("resource",),
    ),
    "a NUL in a label": (event(resource={**LABELS, "n": "\0"}), ("resource", "n")),
    "a NUL in a label's name": (event(resource={**LABELS, "a\0": "x"}), ("resource", "a\ufffd")),
    "a surrogate in a label": (event(resource={**LABELS, "n": "\udfff"}), ("resource", "n")),
    "related that is no list": (event(related={}), ("related",)),
    "related of something else": (event(related=[LABELS | ROLE, "x"]), ("related", 1)),
    "a null in related": (event(related=[None]), ("related", 0)),
    "related without id": (event(related=[ROLE]), ("related", 0, "prefect.resource.id")),
    "related without role": (event(related=[LABELS]), ("related", 0, "prefect.resource.role")),
    "related with an empty role": (
        event(related=[{**LABELS, "role": ""}]),
        ("related", 0, "prefect.resource.role"),
    ),
    "related with two roles": (
        event(related=[{**LABELS, **ROLE, "role": "admin"}]),
        ("related", 0, "role"),
    ),
    "too many related": (event(related=[LABELS | ROLE] * (RELATED_MAX + 1)), ("related",)),
    "a payload that is no object": (event(payload=[]), ("payload",)),
    "an unknown field": (event(evnt="x"), ("evnt",)),
    "an id that is no UUID": (event(id="123"), ("id",)),
    "an id that is no string": (event(id=123), ("id",)),
    "a lone surrogate as id": (event(id="\ud800"), ("id",)),
    "follows that is no UUID": (event(follows="{" + SENT + "}"), ("follows",)),
    "a time that is none": (event(occurred="yesterday"), ("occurred",)),
    "a time that is a number": (event(occurred=1_769_860_800), ("occurred",)),
    "a date without time": (event(occurred="2026-01-31"), ("occurred",)),
    "a day that never was": (event(occurred="2026-02-30T00:00:00Z"), ("occurred",)),
    "a time before 1970": (event(occurred="1969-12-31T23:59:59Z"), ("occurred",)),
    "a local time before 1970": (event(occurred="1970-01-01T00:00:00+00:01"), ("occurred",)),
    "the year 1": (event(occurred="0001-01-01T00:00:00+23:59"), ("occurred",)),
    "the year 9999": (event(occurred="9999-12-31T23:59:59-23:59"), ("occurred",)),
    "a time over 24 h ahead": (event(occurred="2026-02-01T12:00:00.000001Z"), ("occurred",)),
    "an event too large": (event(payload={"a": "x" * EVENT_BYTES_MAX}), ()),
    "a field given twice": (b'{"event":"a","event":"b","resource":{"id":"1"}}', ("event",)),
    "a payload given twice": (
        b'{"event":"a","payload":{"a":1},"resource":{"id":"1"},"payload":{"a":1}}',
        ("payload",),
    ),
    "a label given twice": (
        b'{"event":"a","resource":{"id":"1","a":"x","a":"x"}}',
        ("resource", "a"),
    ),
    "NUL in a payload": (with_payload(b'"\\u0000"'), ("payload", "a", 3)),
    "NUL in a payload's key": (with_payload(b'{"\\u0000":1}'), ("payload", "a", 3, "\ufffd")),
    "high surrogate": (with_payload(b'"\\ud800"'), ("payload", "a", 3)),
    "low surrogate": (with_payload(b'"\\uDFFFx"'), ("payload", "a", 3)),
    "surrogate in a key": (with_payload(b'{"\\ud800":1}'), ("payload", "a", 3, "\ufffd")),
    "surrogate in a value hidden by its twin": (
        with_payload(b'{"x":"\\ud800","x":1}'),
        ("payload", "a", 3, "x"),
    ),
    "NaN": (with_payload(b'{"b":NaN}'), ("payload", "a", 3, "b")),
    "Infinity": (with_payload(b"Infinity"), ("payload", "a", 3)),
    "minus Infinity": (with_payload(b"-Infinity"), ("payload", "a", 3)),
    "1e400": (with_payload(b"1e400"), ("payload", "a", 3)),
    "-1e400": (with_payload(b"-1e400"), ("payload", "a", 3)),
    "1e131071": (with_payload(b'{"b":1e131071}'), ("payload", "a", 3, "b")),
    "an integer of 1,001 digits": (
        with_payload(b"9" * (INTEGER_DIGITS_MAX + 1)),
        ("payload", "a", 3),
    ),
    "an integer of 5,000 digits": (with_payload(b"-" + b"9" * 5_000), ("payload", "a", 3)),
    "nesting one too deep": (
        with_payload(b"[" * (NESTING_MAX - 2) + b"]" * (NESTING_MAX - 2)),
        ("payload", "a", 3, *[0] * (NESTING_MAX - 3)),
    ),
    "nesting 100,000 deep": (
        with_payload(b"[" * 100_000 + b"]" * 100_000),
        ("payload", "a", 3, *[0] * (NESTING_MAX - 3)),
    ),
    "objects 20,000 deep": (
        with_payload(b'{"]":' * 20_000 + b"1" + b"}" * 20_000),
        ("payload", "a", 3, *["]"] * (NESTING_MAX - 3)),
    ),
    "bytes that are not UTF-8": (with_payload(b'"\xff"'), ("payload", "a", 3)),
    "half a character": (with_payload('"é"'.encode()[:2] + b'"'), ("payload", "a", 3)),
    "a surrogate in UTF-8": (with_payload(b'"\xed\xa0\x80"'), ("payload", "a", 3)),
    "a name that is not UTF-8": (b'{"event":"\xff","resource":{"id":"1"}}', ("event",)),
    "a key that is not UTF-8": (with_payload(b'{"\xff":1}'), ("payload", "a", 3, "\ufffd")),
}

every_refusal = pytest.mark.parametrize(("sent", "loc"), REFUSED.values(), ids=list(REFUSED))


def as_bytes(sent: object) -> bytes:
    return sent if isinstance(sent, bytes) else json.dumps(sent).encode()


@every_refusal
def test_an_event_is_refused_at_the_place_that_is_wrong_and_its_neighbours_are_kept(
    sent: object, loc: tuple[str | int, ...]
) -> None:
    before, found, after = read(b"[%s,\n%s , %s]" % (GOOD, as_bytes(sent), GOOD)).verdicts
    assert isinstance(found, Refused)
    assert [problem.loc for problem in found.problems] == [loc]
    assert before == after == accepted(GOOD)


@every_refusal
def test_a_line_is_refused_as_an_item_would_be(sent: object, loc: tuple[str | int, ...]) -> None:
    in_line = read_lines(b"%s\n%s\n%s" % (GOOD, as_bytes(sent), GOOD)).verdicts
    in_array = read(b"[%s,%s,%s]" % (GOOD, as_bytes(sent), GOOD)).verdicts
    assert in_line == in_array


def test_every_problem_of_an_event_is_listed() -> None:
    assert locs(
        {"evnt": "x", "resource": {"n": 1}, "payload": {"a": "\0"}, "id": "x", "occurred": 5}
    ) == [
        ("payload", "a"),
        ("evnt",),
        ("event",),
        ("resource", "n"),
        LONG_ID,
        ("id",),
        ("occurred",),
    ]


def test_an_unknown_field_is_told_its_likely_name() -> None:
    found = verdict(event(payloads={}))
    assert isinstance(found, Refused)
    assert "'payload'" in found.problems[0].msg


def test_a_refusal_carries_the_id_that_was_sent() -> None:
    bad = {"evnt": 1, "id": SENT}
    too_large = event(id=SENT, payload={"a": "x" * EVENT_BYTES_MAX})
    for sent, sent_id in [(bad, SENT), (too_large, SENT), ({"id": 5}, None), ({}, None)]:
        found = verdict(sent)
        assert isinstance(found, Refused)
        assert found.id == sent_id


def test_what_is_told_about_one_event_is_bounded_and_can_be_encoded() -> None:
    deep_keys = b'{"%s":' % (b"k" * 300)
    many = with_payload(deep_keys * 60 + b"[%s]" % b",".join([b'"\\u0000"'] * 50) + b"}" * 60)
    found = verdict(many)
    assert isinstance(found, Refused)
    told = sum(len(str(part)) for problem in found.problems for part in problem.loc)
    assert told <= PROBLEMS_LOC_CHARS_MAX + NESTING_MAX * PROBLEM_ECHO_CHARS_MAX
    wide = verdict({f"\ud800{index}": "\0" for index in range(100)} | {"id": "\ud800" * 500})
    assert isinstance(wide, Refused)
    assert len(wide.problems) <= PROBLEMS_LISTED_MAX
    assert len(wide.id or "") == PROBLEM_ECHO_CHARS_MAX
    assert repr(wide).encode("utf-8")


# The body as a whole.


def test_one_object_is_told_from_an_array_of_one() -> None:
    assert read(b" \r\n\t" + GOOD + b"\n").single
    assert not read(b" \n[" + GOOD + b"]").single
    assert not read_lines(GOOD).single


@pytest.mark.parametrize("reader", [read, read_lines])
def test_an_events_size_is_that_of_its_own_text(reader: Callable[[bytes], Reading]) -> None:
    separator, around = (b", ", b"[%s ]") if reader is read else (b"\r\n", b"\n %s ")
    bodies = separator.join([GOOD, GOOD.replace(b":", b" : ")])
    sizes = [
        found.size for found in reader(around % bodies).verdicts if isinstance(found, NewEvent)
    ]
    assert sizes == [len(GOOD), len(GOOD.replace(b":", b" : "))]


def test_a_size_does_not_depend_on_a_neighbour_that_no_parser_takes() -> None:
    alone = read(b"[ %s ,%s]" % (GOOD, GOOD)).verdicts
    beside = read(b"[ %s ,%s\n, NaN ]" % (GOOD, GOOD)).verdicts
    assert beside[:2] == alone


BROKEN: dict[str, tuple[bytes, str]] = {
    "cut off": (b"[" + GOOD + b",\n" + GOOD[:-1], "line 2, column 49"),
    "a missing comma": (b"[" + GOOD + b"\n " + GOOD + b"]", "line 2, column 2"),
    "a comma too many": (b"[" + GOOD + b",\n]", "line 2, column 1"),
    "nothing between commas": (b"[" + GOOD + b",,NaN]", "line 1, column 52"),
    "brackets that do not pair": (b'[{"event":["a"}]]', "line 1, column 15"),
    "a bracket too many": (b"[" + GOOD + b"]]", "line 1, column 52"),
    "text after the end": (b"[" + GOOD + b"] x", "line 1, column 52"),
    "a name without quotes": (b"[\n{event:1}]", "line 2, column 2"),
    "a line break in a string": (b'["\n"]', "line 1, column 3"),
    "an escape that is none": ('["éé\\x"]'.encode(), "line 1, column 5"),
    "an open string": (b'["abc]', "line 1, column 7"),
    "a backslash at the end": (b'["abc\\', "line 1, column 7"),
    "a zero before a number": (b"[NaN,01]", "line 1, column 7"),
    "bytes outside strings": (b"[1,\xff]", "line 1, column 4"),
    "broken behind the abyss": (
        b"[%s,{]" % with_payload(b"[" * 5_000 + b"]" * 5_000),
        "line 1, column 100",
    ),
    "broken in the same event as the abyss": (
        b'{"event":"e","payload":[%s],\n"resource":}' % (b"[" * 5_000 + b"]" * 5_000),
        "line 2, column 12",
    ),
    "broken in a lone object": (b'{"event":\n"a" "b"}', "line 2, column 5"),
    "an abyss without end": (b"[" * 100_000, "column 100001"),
}


@pytest.mark.parametrize(("body", "place"), BROKEN.values(), ids=list(BROKEN))
def test_a_body_that_is_no_json_is_malformed_at_a_line_and_column(body: bytes, place: str) -> None:
    with pytest.raises(Malformed) as refused:
        read(body)
    assert place in refused.value.message


@pytest.mark.parametrize(
    "body", [b"", b"  ", b"5", b'"event"', b"null", b"nul", b"\xef\xbb\xbf[]", b"\xff\xfe[\0]\0"]
)
def test_a_body_that_is_neither_object_nor_array_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed):
        read(body)


@pytest.mark.parametrize(
    "line", [b"{", b"x", b'{"event": "a"', b"[1", b"\xff", b"{}{}", b'{"a":NaN,}']
)
def test_ndjson_loses_only_the_line_that_is_no_json(line: bytes) -> None:
    before, found, after = read_lines(b"\n\n%s\n \r\n%s\n%s\n" % (GOOD, line, GOOD)).verdicts
    assert before == after == accepted(GOOD)
    assert isinstance(found, Refused)
    assert [problem.loc for problem in found.problems] == [()]
    assert "line 1, column" in found.problems[0].msg


@pytest.mark.parametrize("body", [b"[]", b"[ \n ]"])
def test_an_empty_array_is_invalid(body: bytes) -> None:
    with pytest.raises(Invalid):
        read(body)


@pytest.mark.parametrize("body", [b"", b"\n \r\n\t"])
def test_lines_without_an_event_are_invalid(body: bytes) -> None:
    with pytest.raises(Invalid):
        read_lines(body)


def test_a_request_holds_at_most_so_many_events() -> None:
    most = [GOOD] * EVENTS_PER_REQUEST_MAX
    for items in (most, [*most[1:], b"NaN"]):
        assert len(read(b"[%s]" % b",".join(items)).verdicts) == EVENTS_PER_REQUEST_MAX
        assert len(read_lines(b"\n".join(items)).verdicts) == EVENTS_PER_REQUEST_MAX
        with pytest.raises(TooLarge):
            read(b"[%s]" % b",".join([*items, GOOD]))
        with pytest.raises(TooLarge):
            read_lines(b"\n".join([*items, GOOD]))


HOSTILE: dict[str, Callable[[int], bytes]] = {
    "brackets": lambda size: b"[" * size,
    "pairs of brackets": lambda size: b"[[" + b"[]," * (size // 3) + b"NaN]]",
    "items": lambda size: b"[" + b"1," * (size // 2) + b"1]",
    "items beside a NaN": lambda size: b"[NaN" + b",{}" * (size // 3) + b"]",
    "strings": lambda size: b"[[" + b'"",' * (size // 3) + b"NaN]]",
    "escaped quotes in an open string": lambda size: b'["' + b'\\"' * (size // 2),
    "backslashes": lambda size: b'["' + b"\\" * size,
    "lines": lambda size: b"1\n" * (size // 2),
    "blank lines": lambda size: b"\n" * size,
    # These are one event each, which has a bound of its own.
    "digits": lambda size: b"[" + with_payload(b"1" * (size // 5)) + b"]",
    "short runs of digits": lambda size: (
        b"[" + with_payload(b'"' + (b"1" * 999 + b" ") * (size // 5_000) + b'"') + b"]"
    ),
    "an unknown field of great length": lambda size: b'{"%s":1}' % (b"e" * (size // 5)),
    "unknown fields": lambda size: (
        b"{" + b",".join(b'"f%d":1' % index for index in range(size // 50)) + b"}"
    ),
    "labels twice": lambda size: (
        b'{"event":"a","resource":{' + b'"id":"1",' * (size // 50) + b'"id":"1"}}'
    ),
    "small things beside a NUL": lambda size: with_payload(
        b'"\\u0000",' + b"[]," * (size // 13) + b"1"
    ),
}

every_hostile_body = pytest.mark.parametrize("hostile", HOSTILE.values(), ids=list(HOSTILE))


@pytest.mark.timeout(10)
@every_hostile_body
def test_a_hostile_body_takes_no_more_than_linear_time(hostile: Callable[[int], bytes]) -> None:
    # It takes tenths of a second; what is quadratic in a MiB would take minutes.
    body = hostile(MIB)
    for reader in (read, read_lines):
        assert (outcome(reader, body) or Reading((), single=False)).verdicts is not None


@every_hostile_body
def test_a_hostile_body_takes_memory_in_proportion_to_its_length(
    hostile: Callable[[int], bytes],
) -> None:
    half, whole = peak_bytes(hostile(MIB // 16)), peak_bytes(hostile(MIB // 8))
    assert whole < 32 * MIB // 8
    # Python's lists of freed objects serve some uncounted, the more so the smaller the body.
    assert whole < 2.5 * half + 128 * KIB


def peak_bytes(body: bytes) -> int:
    tracemalloc.start()
    try:
        for reader in (read, read_lines):
            outcome(reader, body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return peak


def outcome(reader: Callable[[bytes], Reading], body: bytes) -> Reading | None:
    """The reading, or None where the body was refused as a whole. Anything else is a fault."""
    try:
        return reader(body)
    except UpshotError:
        return None


# Any bytes at all.

texts = st.text(max_size=6) | st.sampled_from(["", "id", "NaN", '"', "\\u0000", "é\U0001f600"])
bad_texts = texts | st.sampled_from(["\0", "\ud800", "\udfff", "a\udc80"])


def json_values(text: st.SearchStrategy[str], *, finite: bool) -> st.SearchStrategy[Any]:
    floats = st.floats(allow_nan=not finite, allow_infinity=not finite)
    leaves = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | floats | text
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
        max_leaves=8,
    )


good_labels = st.dictionaries(
    st.sampled_from(["name", "region", "prefect.resource.role"]) | st.text("ab", min_size=1),
    texts,
    max_size=4,
)
good_events = st.fixed_dictionaries(
    {
        "event": st.text(min_size=1, max_size=9).filter(lambda name: "\0" not in name),
        "resource": good_labels.map(lambda labels: {**labels, "id": "1"}),
    },
    optional={
        "id": st.uuids().map(str),
        "follows": st.none() | st.uuids().map(str),
        "occurred": st.datetimes(
            min_value=datetime(1970, 1, 3),
            max_value=datetime(2026, 1, 30),
            timezones=st.sampled_from([UTC, timezone(timedelta(hours=-5, minutes=-30))]),
        ).map(datetime.isoformat),
        "related": st.lists(
            good_labels.map(lambda labels: {**labels, "id": "2", "role": "r"}), max_size=3
        ),
        "payload": st.dictionaries(texts, json_values(texts, finite=True), max_size=3),
    },
).filter(lambda sent: "\0" not in repr(sent) and "\\x00" not in repr(sent))
any_events = st.fixed_dictionaries(
    {},
    optional={
        name: json_values(bad_texts, finite=False) | field
        for name, field in {
            "event": st.just("a"),
            "resource": st.just({"id": "1"}) | st.dictionaries(bad_texts, bad_texts, max_size=4),
            "related": st.lists(
                st.just({"id": "1", "role": "x"}) | st.dictionaries(texts, texts, max_size=4),
                max_size=3,
            ),
            "payload": st.dictionaries(bad_texts, json_values(bad_texts, finite=False), max_size=3),
            "occurred": st.datetimes().map(datetime.isoformat),
            "id": st.uuids().map(str),
            "follows": st.uuids().map(str),
            "evnt": st.just("a"),
        }.items()
    },
)
TOKENS = [
    *[character.encode() for character in '{}[]",:\\ \n\0-.019eE+utfn'],
    *[b"NaN", b"Infinity", b"1e400", b"\\u0000", b"\\ud800", b"\\udc00", b"\\u0069", b'\\"'],
    *[b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"null", b'"id":"1",', b'"event":"b",'],
    *[b"[" * 70, b"]" * 70, b"[" * 70 + b"]" * 70, b"9" * 1_001, b"[[]," * 2_000, b"]" * 2_000],
]


@st.composite
def damaged(draw: st.DrawFn, texts_of_events: st.SearchStrategy[bytes]) -> bytes:
    """A text with a few pieces cut out, doubled or put in."""
    text = draw(texts_of_events)
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 8)))
        token = draw(st.sampled_from([*TOKENS, text[start:end] * 2]))
        text = text[:start] + token + text[end:]
    return text


written = st.tuples(good_events | any_events, st.booleans(), st.sampled_from([None, 1])).map(
    lambda drawn: json.dumps(drawn[0], ensure_ascii=drawn[1], indent=drawn[2]).encode(
        "utf-8", "surrogatepass"
    )
)


@settings(deadline=None)
@given(sent=good_events, ascii_only=st.booleans(), indent=st.sampled_from([None, 2]))
def test_what_keeps_the_rules_is_accepted_as_it_was_sent(
    sent: dict[str, Any], ascii_only: bool, indent: int | None
) -> None:
    assume(not sent["event"].startswith("upshot."))
    agree = sent["resource"], *sent.get("related", [])
    assume(not any("role" in labels and "prefect.resource.role" in labels for labels in agree))
    assume(not any("name" in labels and "prefect.resource.name" in labels for labels in agree))
    found = accepted(json.dumps(sent, ensure_ascii=ascii_only, indent=indent).encode())
    long = {"id": "prefect.resource.id", "name": "prefect.resource.name"}
    long["role"] = "prefect.resource.role"
    resource = {long.get(name, name): value for name, value in sent["resource"].items()}
    assert found.name == sent["event"]
    assert found.resource_id == resource.pop("prefect.resource.id")
    assert json.loads(found.labels_json or "{}") == resource
    assert json.loads(found.payload_json or "{}") == sent.get("payload", {})
    assert json.loads(found.related_json or "[]") == [
        {long.get(name, name): value for name, value in labels.items()}
        for labels in sent.get("related", [])
    ]
    assert found.id_given == ("id" in sent)
    if "occurred" in sent:
        assert found.occurred == datetime.fromisoformat(sent["occurred"])


@settings(deadline=None)
@given(item=damaged(written))
def test_the_quick_way_accepts_exactly_what_the_slow_way_finds_nothing_wrong_with(
    item: bytes,
) -> None:
    found = outcome(read_lines, item.replace(b"\n", b" "))
    assume(found is not None)
    assert found is not None
    (only,) = found.verdicts
    try:
        slowly = refusal(item.replace(b"\n", b" ").strip(b" \t\r"), NOW)
    except Broken:
        assert isinstance(only, Refused)
        assert "no JSON" in only.problems[0].msg
    else:
        assert only == slowly if slowly else isinstance(only, NewEvent)


@settings(deadline=None)
@given(item=damaged(written))
def test_an_item_is_judged_alike_alone_among_others_and_in_a_line(item: bytes) -> None:
    flat = item.replace(b"\n", b" ")
    alone = outcome(read, flat)
    assume(alone is not None and alone.single)
    assert alone is not None
    beside = read(b"[%s,%s,NaN]" % (GOOD, flat.strip(b" \t\r"))).verdicts
    assert len(beside) == 3
    line = read_lines(flat).verdicts
    assert without_size(line[0]) == without_size(beside[1]) == without_size(alone.verdicts[0])


def without_size(found: Verdict) -> list[object]:
    names = NewEvent.__struct_fields__ if isinstance(found, NewEvent) else ("id", "problems")
    return [getattr(found, name) for name in names if name != "size"]


@settings(deadline=None)
@given(body=st.binary(max_size=60) | damaged(st.lists(written, max_size=4).map(b",".join)))
def test_any_bytes_end_in_verdicts_or_in_one_of_our_own_errors(body: bytes) -> None:
    for reader, text in ((read, body), (read, b"[%s]" % body), (read_lines, body)):
        found = outcome(reader, text)
        for each in found.verdicts if found else ():
            assert isinstance(each, NewEvent) or each.problems
            assert each != UNEXPLAINED
            assert repr(each).encode()


# The ids that the server makes.


def ids_at(times: Iterator[int], seed: int = 1) -> Ids:
    return Ids(random=Random(seed).randbytes, clock=lambda: next(times))


def test_an_id_is_a_uuid_of_version_7_that_begins_with_its_millisecond() -> None:
    ms = int(NOW.timestamp() * 1_000)
    made = ids_at(iter([ms * 1_000_000 + 999_999]))()
    assert (made.version, made.int >> 80) == (7, ms)
    assert made == UUID(str(made))
    assert hash(made) == hash(UUID(int=made.int))
    assert made.is_safe is UUID(int=made.int).is_safe
    assert UUID(bytes=made.bytes).variant == "specified in RFC 4122"


@settings(deadline=None)
@given(steps=st.lists(st.integers(-3_000_000, 3_000_000), min_size=2, max_size=300))
def test_ids_only_grow_whatever_the_clock_does(steps: list[int]) -> None:
    times = iter([10**18 + sum(steps[:count]) for count in range(len(steps))])
    ids = ids_at(times)
    made = [ids() for _ in steps]
    assert all(earlier < later for earlier, later in pairwise(made))
    assert {each.version for each in made} == {7}


def test_ids_grow_even_by_dice_that_only_show_zero() -> None:
    ids = Ids(random=bytes, clock=lambda: 5_000_000)
    assert ids() < ids() < ids()


def test_ids_that_run_out_within_a_millisecond_take_the_next() -> None:
    ids = Ids(random=lambda size: b"\xff" * size, clock=lambda: 5_000_000)
    first = ids()
    ids._last = ids._end
    assert ids().int >> 80 == (first.int >> 80) + 1


def test_two_makers_of_ids_do_not_meet() -> None:
    one, two = (ids_at(iter([5_000_000] * 500), seed) for seed in (1, 2))
    assert not {one() for _ in range(500)} & {two() for _ in range(500)}
