"""CloudEvents become plain events, by the same rules, whichever way they come."""

import json
import tracemalloc
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from upshot.core.errors import Invalid, Malformed, Problem, TooLarge, UpshotError
from upshot.core.intake import (
    NewEvent,
    Reading,
    Refused,
    Verdict,
    read_binary_cloudevent,
    read_cloudevent,
    read_cloudevents,
)
from upshot.core.intake.cloudevents import cloudevent_id
from upshot.core.intake.quick import UNEXPLAINED
from upshot.core.limits import (
    EVENT_BYTES_MAX,
    EVENT_NAME_CHARS_MAX,
    EVENTS_PER_REQUEST_MAX,
    LABEL_VALUE_CHARS_MAX,
    LABELS_MAX,
    MIB,
    NESTING_MAX,
)

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
MADE = UUID("01930000-0000-7000-8000-000000000000")
SENT = "0190163d-8694-739b-aea5-966c26f8ad91"
GOOD = b'{"specversion":"1.0","id":"7","source":"/shop","type":"order.created"}'


def ce(**attributes: Any) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": "A234-1234-1234",
        "source": "/shop",
        "type": "order.created",
        **attributes,
    }


def read(body: bytes) -> Reading:
    return read_cloudevent(body, now=NOW, new_id=lambda: MADE)


def read_batch(body: bytes) -> Reading:
    return read_cloudevents(body, now=NOW, new_id=lambda: MADE)


def read_binary(
    body: bytes = b"", content_type: str | None = None, **headers: str | list[str]
) -> Verdict:
    given = {"specversion": "1.0", "id": "7", "source": "/shop", "type": "order.created", **headers}
    pairs = [
        (name, one)
        for name, value in given.items()
        for one in (value if isinstance(value, list) else [value])
    ]
    reading = read_binary_cloudevent(
        body, headers=pairs, content_type=content_type, now=NOW, new_id=lambda: MADE
    )
    (verdict,) = reading.verdicts
    assert reading.single
    return verdict


def verdict(sent: object) -> Verdict:
    (found,) = read(sent if isinstance(sent, bytes) else json.dumps(sent).encode()).verdicts
    return found


def accepted(found: Verdict) -> NewEvent:
    assert isinstance(found, NewEvent), found
    return found


def problems(found: Verdict) -> tuple[Problem, ...]:
    assert isinstance(found, Refused), found
    assert found != UNEXPLAINED
    assert all(problem.msg for problem in found.problems)
    return found.problems


def locs(found: Verdict) -> list[tuple[str | int, ...]]:
    return [problem.loc for problem in problems(found)]


def labels(found: NewEvent) -> Any:
    return json.loads(found.labels_json or "{}")


# What an event becomes.


def test_each_attribute_has_its_place() -> None:
    found = accepted(
        verdict(
            ce(
                id=SENT,
                subject="123",
                time="2026-01-31T12:00:00.5+02:00",
                datacontenttype="application/json",
                dataschema="https://shop.example/order",
                partitionkey="eu",
                data={"total": 5},
            )
        )
    )
    assert (found.id, found.id_given) == (UUID(SENT), True)
    assert (found.name, found.resource_id) == ("order.created", "123")
    assert found.occurred == datetime(2026, 1, 31, 10, 0, 0, 500_000, tzinfo=UTC)
    assert found.payload_json == '{"total": 5}'
    assert labels(found) == {
        "source": "/shop",
        "datacontenttype": "application/json",
        "dataschema": "https://shop.example/order",
        "partitionkey": "eu",
    }


def test_without_a_subject_the_source_is_the_resource() -> None:
    found = accepted(verdict(ce(id=SENT)))
    assert (found.resource_id, labels(found)) == ("/shop", {"source": "/shop"})
    assert (found.occurred, found.payload_json) == (NOW, None)


def test_an_id_that_is_no_uuid_is_mapped_and_kept_as_a_label() -> None:
    found = accepted(verdict(ce(id="A234-1234-1234")))
    assert found.id == uuid5(uuid5(NAMESPACE_URL, "/shop"), "A234-1234-1234")
    assert labels(found)["cloudevents.id"] == "A234-1234-1234"


def test_the_mapping_of_ids_stays_what_it_is() -> None:
    # It stands in databases and in other people's code.
    mapped = cloudevent_id(source="/shop", event_id="7")
    assert mapped == UUID("b9f92cbb-d3e1-5823-a5ae-864ed38dd17a")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (ce(id="1", source="/shop"), ce(id="2", source="/shop")),
        (ce(id="1", source="/shop"), ce(id="1", source="/shop2")),
        (ce(id="21", source="/shop"), ce(id="1", source="/shop2")),
    ],
)
def test_another_id_or_source_is_another_event(one: Any, other: Any) -> None:
    assert accepted(verdict(one)).id != accepted(verdict(other)).id


def test_null_is_as_good_as_absent() -> None:
    nulls = ce(subject=None, time=None, data=None, data_base64=None, dataschema=None, more=None)
    with_nulls, without = accepted(verdict(nulls)), accepted(verdict(ce()))
    assert with_nulls == without


@pytest.mark.parametrize(
    ("value", "label"),
    [("eu", "eu"), ("", ""), (True, "true"), (False, "false"), (7, "7"), (-1.5, "-1.5")],
)
def test_extensions_become_labels(value: object, label: str) -> None:
    assert labels(accepted(verdict(ce(id=SENT, more=value))))["more"] == label


def test_an_extension_called_name_is_the_resources_name() -> None:
    assert labels(accepted(verdict(ce(id=SENT, name="Order"))))["prefect.resource.name"] == "Order"


@pytest.mark.parametrize(
    ("data", "payload"),
    [
        (b'{"n":18446744073709551617}', b'{"n":18446744073709551617}'),
        (b'{ "b" : 1.50,\t"a":\r\n"\\u00e9" }', b'{ "b" : 1.50,\t"a":\r\n"\\u00e9" }'),
        (b'{"twice":1,"twice":2}', b'{"twice":1,"twice":2}'),
        (b'"text"', b'{"data":"text"}'),
        (b"[1, 2]", b'{"data":[1, 2]}'),
        (b"5", b'{"data":5}'),
        (b"false", b'{"data":false}'),
    ],
)
def test_data_is_kept_to_the_byte(data: bytes, payload: bytes) -> None:
    found = accepted(verdict(GOOD[:-1] + b',"data":%s}' % data))
    assert (found.payload_json or "").encode() == payload
    assert labels(found)["datacontenttype"] == "application/json"


def test_data_in_base64_stays_so() -> None:
    found = accepted(verdict(ce(data_base64="AP8=", datacontenttype="image/png")))
    assert json.loads(found.payload_json or "") == {"data_base64": "AP8="}
    assert labels(found)["datacontenttype"] == "image/png"


@pytest.mark.parametrize("version", ["1.0", "1.0.2", "1.1"])
def test_every_1_x_is_read(version: str) -> None:
    accepted(verdict(ce(specversion=version)))


# What is refused, and where.


@pytest.mark.parametrize(
    ("sent", "loc"),
    [
        (ce(specversion="0.3"), ("specversion",)),
        (ce(specversion=1.0), ("specversion",)),
        (ce(specversion=None), ("specversion",)),
        (ce(type=""), ("type",)),
        (ce(type=5), ("type",)),
        (ce(type="x" * (EVENT_NAME_CHARS_MAX + 1)), ("type",)),
        (ce(type="upshot.run.completed"), ("type",)),
        (ce(type="a\0"), ("type",)),
        (ce(type="a\ud800"), ("type",)),
        (ce(id=""), ("id",)),
        (ce(id=7), ("id",)),
        (ce(id="\0"), ("id",)),
        (ce(id="\ud800"), ("id",)),
        (ce(id="x" * (LABEL_VALUE_CHARS_MAX + 1)), ("id",)),
        (ce(source=""), ("source",)),
        (ce(source={}), ("source",)),
        (ce(source="\0"), ("source",)),
        (ce(source="x" * (LABEL_VALUE_CHARS_MAX + 1)), ("source",)),
        (ce(subject=""), ("subject",)),
        (ce(subject=5), ("subject",)),
        (ce(subject="a\0"), ("subject",)),
        (ce(subject="x" * (LABEL_VALUE_CHARS_MAX + 1)), ("subject",)),
        (ce(time="yesterday"), ("time",)),
        (ce(time=5), ("time",)),
        (ce(time="2026-02-02T12:00:00Z"), ("time",)),
        (ce(time="9999-12-31T23:59:59Z"), ("time",)),
        (ce(more={}), ("more",)),
        (ce(more=[1]), ("more",)),
        (ce(more="\0"), ("more",)),
        (ce(more="x" * (LABEL_VALUE_CHARS_MAX + 1)), ("more",)),
        (ce(**{"": "x"}), ("",)),
        (ce(**{"prefect.resource.id": "other"}), ("source",)),
        (ce(**{f"l{n}": "x" for n in range(LABELS_MAX)}), ()),
        (ce(data={"a": [1, "\0"]}), ("data", "a", 1)),
        (ce(data=["\ud800"]), ("data", 0)),
        (ce(data=["\0"]), ("data", 0)),
        (ce(data="\0"), ("data",)),
        (ce(data_base64="?"), ("data_base64",)),
        (ce(data_base64=5), ("data_base64",)),
        (ce(data_base64="A"), ("data_base64",)),
        (ce(data_base64="é"), ("data_base64",)),
        (ce(data_base64="\ud800"), ("data_base64",)),
        (ce(data=1, data_base64="AA=="), ("data_base64",)),
        (GOOD[:-1] + b',"data":{"a":NaN}}', ("data", "a")),
        (GOOD[:-1] + b',"data":1e400}', ("data",)),
        (GOOD[:-1] + b',"data":{"a":%s}}' % (b"9" * 5_000), ("data", "a")),
        (GOOD[:-1] + b',"data":"\xff"}', ("data",)),
        (GOOD[:-1] + b',"more":NaN}', ("more",)),
        (GOOD[:-1] + b',"type":"b"}', ("type",)),
        (GOOD[:-1] + b',"more":"b","more":"b"}', ("more",)),
        (GOOD[:-1] + b',"data":' + b"[" * 100_000 + b"]" * 100_000 + b"}", ("data", *[0] * 63)),
        (b"[]", ()),
        ({"event": "order.created", "resource": {"id": "1"}}, ("specversion",)),
    ],
    ids=lambda value: repr(value)[:50],
)
def test_a_bad_event_is_refused_at_its_place_and_loses_only_itself(
    sent: object, loc: tuple[str | int, ...]
) -> None:
    item = sent if isinstance(sent, bytes) else json.dumps(sent).encode()
    before, found, after = read_batch(b"[%s,%s , %s]" % (GOOD, item, GOOD)).verdicts
    assert accepted(before).id == accepted(after).id
    if len(item) > 100_000:
        assert any(len(place) == NESTING_MAX for place in locs(found))
    else:
        assert loc in locs(found)
    if item.startswith(b"{"):
        assert verdict(item) == found


def test_every_breach_of_the_attributes_rules_is_listed() -> None:
    found = verdict(ce(specversion="0.3", id=None, type=1, more=[], data={"a": "\0"}))
    assert set(locs(found)) == {("specversion",), ("id",), ("type",), ("more",), ("data", "a")}


def test_a_refusal_carries_the_id_that_was_sent() -> None:
    for sent in (ce(id="7", type=""), ce(id="7", data="\0"), ce(id="7", time="x")):
        found = verdict(sent)
        assert isinstance(found, Refused)
        assert found.id == "7"


def test_an_event_that_is_too_large_says_its_size() -> None:
    text = json.dumps(ce(id="7", data="x" * EVENT_BYTES_MAX)).encode()
    (problem,) = problems(verdict(text))
    assert f"{len(text):,} bytes" in problem.msg


# The body as a whole.


@pytest.mark.parametrize("body", [b"", b"5", b"[%s]" % GOOD, b"nonsense", b"\xff"])
def test_one_event_is_an_object(body: bytes) -> None:
    with pytest.raises(Malformed):
        read(body)


@pytest.mark.parametrize("body", [b"", b"5", GOOD, b"[{]", b"[%s" % GOOD, b'[{"a":}]'])
def test_a_batch_is_an_array(body: bytes) -> None:
    with pytest.raises(Malformed):
        read_batch(body)


def test_a_broken_item_is_told_by_its_line_and_column() -> None:
    with pytest.raises(Malformed, match=r"line 2, column 10"):
        read_batch(b'[%s,\n{"type": }]' % GOOD)


def test_a_batch_holds_some_events_and_not_too_many() -> None:
    with pytest.raises(Invalid):
        read_batch(b"[]")
    with pytest.raises(TooLarge):
        read_batch(b"[%s]" % b",".join([GOOD] * (EVENTS_PER_REQUEST_MAX + 1)))


# Binary mode.


def test_the_attributes_may_come_as_headers() -> None:
    found = accepted(
        read_binary(
            b'{"total": 5}',
            "application/json",
            subject="123",
            time="2026-01-31T11:00:00Z",
            more="x",
        )
    )
    assert (found.name, found.resource_id, found.payload_json) == (
        "order.created",
        "123",
        '{"total": 5}',
    )
    assert found.occurred == NOW - timedelta(hours=1)
    assert labels(found) == {
        "source": "/shop",
        "more": "x",
        "datacontenttype": "application/json",
        "cloudevents.id": "7",
    }


@pytest.mark.parametrize(
    ("body", "content_type", "payload"),
    [
        (b"[1]", "application/json; charset=utf-8", {"data": [1]}),
        (b" {} ", None, None),
        (b' {"a": 1}\n', "application/vnd.shop+json", {"a": 1}),
        (b"null", "application/json", None),
        (b"hello", "text/plain", {"data": "hello"}),
        ("Zoë".encode(), "text/plain; charset=UTF-8", {"data": "Zoë"}),
        ("Zoë".encode("latin-1"), "text/plain; charset=latin-1", {"data_base64": "Wm/r"}),
        ("Zoë".encode("latin-1"), "text/plain", {"data_base64": "Wm/r"}),
        (b'"Zo\xeb"', "application/json; charset=latin-1", {"data_base64": "Ilpv6yI="}),
        (b"\0\xff", "application/octet-stream", {"data_base64": "AP8="}),
        (b"", "application/octet-stream", None),
    ],
    ids=repr,
)
def test_the_body_is_the_data(body: bytes, content_type: str | None, payload: object) -> None:
    found = accepted(read_binary(body, content_type))
    assert (json.loads(found.payload_json) if found.payload_json else None) == payload


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
        ('"quoted \\"text\\" %41"', 'quoted "text" A'),
        ("100%", "100%"),
        ("%2541", "%41"),
        ("é".encode().decode("latin-1"), "é"),
        (" plain\t", "plain"),
    ],
)
def test_headers_are_unquoted_and_percent_decoded_once(header: str, text: str) -> None:
    assert accepted(read_binary(subject=header)).resource_id == text


def test_the_same_event_is_the_same_in_every_mode() -> None:
    binary = accepted(read_binary(b'{"a":[1]}', "application/json", subject="1"))
    written = ce(id="7", subject="1", data={"a": [1]})
    structured = accepted(verdict(written))
    (batched,) = read_batch(json.dumps([written]).encode()).verdicts
    assert (binary.id, binary.digest) == (structured.id, structured.digest)
    assert accepted(batched) == structured


@pytest.mark.parametrize(
    ("found", "loc"),
    [
        (read_binary(type=""), ("header", "ce-type")),
        (read_binary(type=["a", "b"]), ("header", "ce-type")),
        (read_binary(type=[]), ("header", "ce-type")),
        (read_binary(specversion="0.3"), ("header", "ce-specversion")),
        (read_binary(subject="a%00"), ("header", "ce-subject")),
        (read_binary(subject="%FF"), ("header", "ce-subject")),
        (read_binary(subject="%ED%A0%80"), ("header", "ce-subject")),
        (read_binary(time="now"), ("header", "ce-time")),
        (read_binary(b"x", "text/" + "x" * LABEL_VALUE_CHARS_MAX), ("header", "content-type")),
        (read_binary(b'{"a": NaN}', "application/json"), ("a",)),
        (read_binary(b'["\\u0000"]', "application/json"), (0,)),
        (read_binary(b'"\xff"', "application/json"), ()),
        (read_binary(b"a\0", "text/plain"), ()),
        (read_binary(b"1", "application/json", data="2"), ()),
    ],
)
def test_what_is_wrong_in_a_message_is_told_by_header_or_by_path(
    found: Verdict, loc: tuple[str | int, ...]
) -> None:
    assert loc in locs(found)


@pytest.mark.parametrize(
    "body", [b"{", b"{}, 1", b'1},"type":"x"', b"nonsense", b"[1]]", b"\xff", b'"a" "b"', b" "]
)
def test_data_that_says_it_is_json_and_is_not_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed, match=r"line 1, column \d"):
        read_binary(body, "application/json")


# Hostile input.


@given(
    body=st.one_of(
        st.binary(max_size=60),
        st.recursive(
            st.none()
            | st.booleans()
            | st.floats()
            | st.text(st.characters(), max_size=5)
            | st.sampled_from(["1.0", "\ud800", "\0"])
            | st.integers(),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from([*ce(), "data", "data_base64", "time", "more", ""]), inner
                )
            ),
            max_leaves=8,
        ).map(lambda value: json.dumps(value).encode()),
    )
)
@example(body=b'{"a":"')
def test_any_bytes_end_in_verdicts_or_in_one_of_our_own_errors(body: bytes) -> None:
    for reader in (read, read_batch):
        try:
            verdicts = reader(body).verdicts
        except UpshotError:
            continue
        for found in verdicts:
            assert isinstance(found, NewEvent) or problems(found)


@given(
    body=st.binary(max_size=30) | st.sampled_from([b"{}", b"[", b'"', b"NaN"]),
    content_type=st.sampled_from([None, "application/json", "text/plain", "a/b", ";", "="])
    | st.text(st.characters(max_codepoint=255), max_size=10),
    subject=st.text(st.characters(max_codepoint=255), max_size=10),
    name=st.text(st.characters(max_codepoint=127), min_size=1, max_size=5),
)
def test_any_message_ends_in_a_verdict_or_in_malformed(
    body: bytes, content_type: str | None, subject: str, name: str
) -> None:
    try:
        found = read_binary(body, content_type, subject=subject, **{name: subject})
    except Malformed:
        return
    assert isinstance(found, NewEvent) or problems(found)


def test_a_hostile_batch_takes_memory_in_proportion_to_its_length() -> None:
    body = b"[%s]" % b",".join([b'{"specversion":' + b"[" * 4_000 + b"]" * 4_000 + b"}"] * 400)
    tracemalloc.start()
    reading = read_batch(body)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(reading.verdicts) == 400
    assert peak < 20 * MIB
