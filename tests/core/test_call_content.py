"""What a call carries, in each form that a runner may ask for."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upshot.core.call_content import JSON, NOTHING, TEXT, Content, content_of
from upshot.core.delivery import Accepted, Completed, Method, Responded, TryAgain, Webhook, judge

URL = "http://127.0.0.1:9000/run"
RUN = b'{"run_id": "1"}'


def payload(parameters: str) -> Content:
    return content_of(Webhook(URL, body="payload"), run=RUN, parameters=parameters)


def test_a_runner_gets_the_run_unless_it_asks_for_the_parameters_alone() -> None:
    parameters = '{"n": 18446744073709551617}'
    usual = content_of(Webhook(URL), run=RUN, parameters=parameters)
    alone = content_of(Webhook(URL, body="parameters"), run=RUN, parameters=parameters)
    assert usual == Content(RUN, JSON)
    assert alone == Content(parameters.encode(), JSON)


@pytest.mark.parametrize(
    ("parameters", "content"),
    [
        ('{"payload": "an order of \\u00c4nne"}', Content("an order of Änne".encode(), TEXT)),
        ('{"payload": "{\\"user\\": \\"1\\"}"}', Content(b'{"user": "1"}', JSON)),
        ('{"payload": "12"}', Content(b"12", JSON)),
        ('{"payload": "{\\"user\\":"}', Content(b'{"user":', TEXT)),
        ('{"payload": "{} {}"}', Content(b"{} {}", TEXT)),
        ('{"payload": {"n": 18446744073709551617}}', Content(b'{"n": 18446744073709551617}', JSON)),
        ('{"payload": [1, "a"], "other": 1}', Content(b'[1, "a"]', JSON)),
        ('{"payload": 0}', Content(b"0", JSON)),
        ('{"payload": false}', Content(b"false", JSON)),
        ('{"payload": null}', NOTHING),
        ('{"payload": ""}', NOTHING),
        ('{"other": 1}', NOTHING),
        ("{}", NOTHING),
    ],
    ids=str,
)
def test_a_payload_is_sent_as_it_is(parameters: str, content: Content) -> None:
    assert payload(parameters) == content


def test_a_payload_that_is_nested_too_deep_to_be_read_is_text() -> None:
    deep = "[" * 100_000
    assert payload(json.dumps({"payload": deep})) == Content(deep.encode(), TEXT)


@given(st.text())
def test_every_text_can_be_sent(text: str) -> None:
    assert payload(json.dumps({"payload": text})).body == text.encode("utf-8", "replace")


def test_a_get_has_no_body_in_any_form() -> None:
    for webhook in (
        Webhook(URL, method="GET"),
        Webhook(URL, method="GET", body="parameters"),
        Webhook(URL, method="GET", body="payload"),
    ):
        assert content_of(webhook, run=RUN, parameters='{"payload": "x"}') == NOTHING


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_only_a_runner_that_is_told_the_lease_may_answer_first_and_report_later(
    method: Method,
) -> None:
    accepted = Responded(202)
    assert judge(accepted, can_report=Webhook(URL, method=method).can_report) == Accepted()
    for webhook in (Webhook(URL, method="GET"), Webhook(URL, method=method, body="payload")):
        assert judge(accepted, can_report=webhook.can_report) == Completed()
        assert judge(Responded(503), can_report=webhook.can_report) == TryAgain("HTTP 503")
