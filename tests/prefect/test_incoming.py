"""What Prefect's client sends, as events."""

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from upshot.core.intake import NewEvent, Refused, Verdict
from upshot.prefect.incoming import read_sent

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
NEW = UUID("01890000-0000-7000-8000-000000000001")


def read(sent: Any) -> Verdict:
    text = sent if isinstance(sent, bytes) else json.dumps(sent).encode()
    return read_sent(text, now=NOW, new_id=lambda: NEW)


def event(**more: Any) -> dict[str, Any]:
    return {"event": "e", "resource": {"prefect.resource.id": "r"}, **more}


def kept(sent: Any) -> NewEvent:
    verdict = read(sent)
    assert isinstance(verdict, NewEvent), verdict
    return verdict


def test_an_event_without_an_id_is_given_one_that_counts_as_its_own() -> None:
    for sent in (event(), event(id=None)):
        new = kept(sent)
        assert (new.id, new.id_given) == (NEW, True)


def test_the_same_event_has_the_same_digest_whatever_else_is_sent() -> None:
    plain, more = event(id=str(NEW)), event(id=str(NEW), received="x", related=[], follows=None)
    assert kept(plain).digest == kept(more).digest
    assert kept(plain).digest != kept({**plain, "payload": {"n": 1}}).digest


def test_a_payload_is_kept_to_the_byte() -> None:
    text = b'{"event":"e","x":0,"resource":{"prefect.resource.id":"r"},"payload":{"n": 1e2 }}'
    assert kept(text).payload_json == '{"n": 1e2 }'


def test_a_field_given_twice_is_what_it_was_last() -> None:
    text = b'{"event":"first","event":"last","resource":{"prefect.resource.id":"r"}}'
    assert kept(text).name == "last"


def test_a_short_label_beside_its_long_form_is_kept() -> None:
    resource = {"prefect.resource.id": "user.5", "id": "5", "name": "Ann", "role": "admin"}
    new = kept(event(resource=resource))
    assert new.resource_id == "user.5"
    assert json.loads(new.labels_json or "") == {
        "sent.id": "5",
        "prefect.resource.name": "Ann",
        "prefect.resource.role": "admin",
    }
    related = {"prefect.resource.id": "a", "prefect.resource.role": "b", "role": "c", "id": "a"}
    new = kept(event(related=[related]))
    assert json.loads(new.related_json or "") == [
        {"prefect.resource.id": "a", "prefect.resource.role": "b", "sent.role": "c"}
    ]


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"7",
        b"[]",
        b"{",
        b'{"event": "e"}',
        b"\xff",
        b"[" * 100_000,
        b'{"resource": ' + b"[" * 100_000,
        event(payload={"n": float("nan")}),
        event(resource={"id": 1, "prefect.resource.id": 2}),
        event(resource=[{"id": "1"}]),
        event(related={"id": "1"}),
        event(related=[["id"]]),
        event(event="\0"),
        event(event="\ud800"),
        event(id="x"),
        event(follows="x"),
        event(occurred="tomorrow"),
        event(occurred="2026-03-01T00:00:00Z"),
        event(event="upshot.trigger.saved"),
    ],
    ids=lambda sent: str(sent)[:40],
)
def test_what_is_no_event_is_refused(sent: Any) -> None:
    verdict = read(sent)
    assert isinstance(verdict, Refused)
    assert verdict.problems
