"""What an answer means, when a call is tried again, and what a runner is sent."""

import json
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upshot.core.delivery import (
    Accepted,
    Answer,
    Attempt,
    Completed,
    Failed,
    Gone,
    Refused,
    Responded,
    TimedOut,
    TryAgain,
    Unreached,
    Verdict,
    Webhook,
    call_body,
    judge,
    parse_retry_after,
    retry_at,
    webhook_problems,
)
from upshot.core.limits import RETRIES_DEFAULT, RETRY_AFTER_MAX

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
SECRET = "whsec_" + "A" * 32


# What an answer means.


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (Responded(200), Completed()),
        (Responded(201), Completed()),
        (Responded(202), Accepted()),
        (Responded(204), Completed()),
        (Responded(206), Completed()),
        (Responded(202, MINUTE), Accepted()),
        (Responded(302), Failed("HTTP 302: redirects are not followed")),
        (Responded(304), Failed("HTTP 304: redirects are not followed")),
        (Responded(400), Failed("HTTP 400")),
        (Responded(404, MINUTE), Failed("HTTP 404")),
        (Responded(408), TryAgain("HTTP 408")),
        (Responded(410), Gone("HTTP 410")),
        (Responded(422), Failed("HTTP 422")),
        (Responded(425), TryAgain("HTTP 425")),
        (Responded(429, MINUTE), TryAgain("HTTP 429", MINUTE)),
        (Responded(500), TryAgain("HTTP 500")),
        (Responded(503, MINUTE), TryAgain("HTTP 503", MINUTE)),
        (Responded(599), TryAgain("HTTP 599")),
        (Responded(101), Failed("HTTP 101")),
        (Responded(600), Failed("HTTP 600")),
        (Unreached("no connection"), TryAgain("no connection")),
        (TimedOut("no answer within 30 s"), TryAgain("no answer within 30 s")),
        (Refused("169.254.169.254 is never called"), Failed("169.254.169.254 is never called")),
    ],
)
def test_each_answer_has_its_outcome(answer: Answer, verdict: Verdict) -> None:
    assert judge(answer) == verdict


def test_an_attempt_records_either_a_response_or_an_error() -> None:
    answered = Attempt(NOW, MINUTE, Responded(500, text="oops"))
    assert (answered.status, answered.response_text, answered.error) == (500, "oops", None)
    timed_out = Attempt(NOW, MINUTE, TimedOut("too late"))
    assert (timed_out.status, timed_out.response_text, timed_out.error) == (None, None, "too late")


# When a call is tried again.


def test_the_default_retries_wait_from_five_seconds_to_ten_hours() -> None:
    waits = [
        retry_at(NOW, retries=RETRIES_DEFAULT, retries_used=used, after=None, jitter=0.0)
        for used in range(len(RETRIES_DEFAULT) + 1)
    ]
    seconds = [None if at is None else (at - NOW).total_seconds() for at in waits]
    assert seconds == [5, 30, 300, 1_800, 7_200, 18_000, 36_000, None]


def test_there_is_no_retry_when_none_is_configured() -> None:
    assert retry_at(NOW, retries=(), retries_used=0, after=MINUTE, jitter=0.0) is None


@pytest.mark.parametrize(
    ("retries_used", "after_seconds", "waited_seconds"),
    [
        (0, 1, 1),  # The first retry may be brought forward,
        (0, 90, 90),
        (1, 1, 30),  # the later ones only put off,
        (1, 90, 90),
        (1, 86_400, 3_600),  # by an hour at most.
        (6, 86_400, 36_000),
    ],
)
def test_retry_after_is_honoured(
    retries_used: int, after_seconds: int, waited_seconds: int
) -> None:
    at = retry_at(
        NOW,
        retries=RETRIES_DEFAULT,
        retries_used=retries_used,
        after=timedelta(seconds=after_seconds),
        jitter=0.0,
    )
    assert at == NOW + timedelta(seconds=waited_seconds)


@given(
    st.integers(0, 6),
    st.none() | st.timedeltas(timedelta(0), RETRY_AFTER_MAX),
    st.floats(0, 1, exclude_max=True),
)
def test_jitter_adds_a_fifth_at_most_and_takes_nothing_off(
    retries_used: int, after: timedelta | None, jitter: float
) -> None:
    def wait(jitter: float) -> timedelta:
        at = retry_at(
            NOW, retries=RETRIES_DEFAULT, retries_used=retries_used, after=after, jitter=jitter
        )
        assert at is not None
        return at - NOW

    assert wait(0.0) <= wait(jitter) <= wait(0.0) * 1.2
    assert after is None or wait(jitter) >= after


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        (" 120 ", 120),
        ("-5", 0),
        ("3600", 3_600),
        ("3601", 3_600),
        ("9" * 5_000, 3_600),
        ("-" + "9" * 5_000, 0),
        ("Sun, 01 Mar 2026 12:01:30 GMT", 90),
        ("Sunday, 01-Mar-26 12:01:30 GMT", 90),
        ("Sun Mar  1 12:01:30 2026", 90),
        ("Sun, 01 Mar 2026 11:59:59 GMT", 0),
        ("Sun, 01 Mar 2026 13:02:00 +0100", 120),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 3_600),
        ("Fri, 31 Dec 9999 23:59:59 -2300", 3_600),
        ("Mon, 01 Jan 0001 00:00:00 +2300", 0),
        ("", None),
        ("soon", None),
        ("1.5", None),
        ("1e3", None),
        ("٣", None),
        ("Sun, 32 Mar 2026 12:01:30 GMT", None),
        ("Sun, 01 Mar 2026", None),
        (",,,,", None),
    ],
)
def test_retry_after_is_read_as_seconds_or_a_date(value: str, seconds: int | None) -> None:
    expected = None if seconds is None else timedelta(seconds=seconds)
    assert parse_retry_after(value, NOW) == expected


@given(st.text())
def test_no_retry_after_is_out_of_bounds_or_an_error(value: str) -> None:
    wait = parse_retry_after(value, NOW)
    assert wait is None or timedelta(0) <= wait <= RETRY_AFTER_MAX


@given(st.integers(0, 3_600), st.integers(-12, 12))
def test_a_date_means_the_wait_until_then(seconds: int, hours: int) -> None:
    date = (NOW + timedelta(seconds=seconds)).astimezone(timezone(timedelta(hours=hours)))
    assert parse_retry_after(format_datetime(date), NOW) == timedelta(seconds=seconds)


# What a runner is sent.


def body(*, lease_until: datetime | None = None, event: str | None = '{"event": "x"}') -> bytes:
    return call_body(
        run_id=UUID(int=1),
        deployment="ship",
        parameters='{"total": 18446744073709551617.10}',
        trigger=None,
        labels='{"prefect.resource.id": "Zoë"}',
        event=event,
        attempt=2,
        scheduled_at=NOW,
        lease=UUID(int=2),
        lease_until=lease_until,
    )


def test_the_body_has_the_fields_runners_are_promised() -> None:
    assert json.loads(body()) == {
        "run_id": "00000000-0000-0000-0000-000000000001",
        "deployment": "ship",
        "parameters": {"total": 18446744073709551617.10},
        "trigger": None,
        "labels": {"prefect.resource.id": "Zoë"},
        "event": {"event": "x"},
        "attempt": 2,
        "scheduled_at": "2026-03-01T12:00:00Z",
        "lease": "00000000-0000-0000-0000-000000000002",
    }


def test_stored_json_is_sent_exactly_as_stored() -> None:
    assert b'{"total": 18446744073709551617.10}' in body()
    assert json.loads(body(event=None))["event"] is None


def test_only_workers_that_pull_are_told_when_the_lease_ends() -> None:
    assert json.loads(body(lease_until=NOW))["lease_until"] == "2026-03-01T12:00:00Z"
    assert b"lease_until" not in body()


# What is wrong with a runner.


def webhook(
    url: str = "https://runner.example/run",
    headers: dict[str, str] | None = None,
    secrets: tuple[str, ...] = (),
    timeout: timedelta = timedelta(seconds=30),
    retries: tuple[float, ...] = RETRIES_DEFAULT,
) -> Webhook:
    return Webhook(url, headers or {}, secrets, timeout, retries)


@pytest.mark.parametrize(
    "right",
    [
        webhook(),
        webhook("http://127.0.0.1:9000/run?token=a%20b&c=d"),
        webhook("http://my_runner:8080"),
        webhook("http://[::1]:9000/"),
        webhook("https://bücher.example/"),
        webhook(headers={"Authorization": "Bearer x.y", "Content-Type": "text/plain", "X-E": ""}),
        webhook(headers={"Cookie": "a=b; c=d", "User-Agent": "shop\t1"}),
        webhook(secrets=(SECRET, SECRET)),
        webhook(timeout=timedelta(seconds=300), retries=()),
        webhook(timeout=timedelta(milliseconds=1), retries=(0.0,) * 20),
    ],
)
def test_nothing_is_wrong_with_an_ordinary_runner(right: Webhook) -> None:
    assert webhook_problems(right) == []


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "absolute"),
        ("runner.example/run", "absolute"),
        ("/run", "absolute"),
        ("ftp://runner.example/", "absolute"),
        ("file:///etc/passwd", "absolute"),
        ("http://", "absolute"),
        ("http:///run", "absolute"),
        ("http://:80/", "absolute"),
        ("http://runner.example:99999/", "Port out of range"),
        ("http://runner.example:0/", "Port 0"),
        ("http://runner.example:x/", "cannot be read"),
        ("http://[::1/", "cannot be read"),
        ("http://user:pass@runner.example/", "Authorization"),
        ("http://user@runner.example/", "Authorization"),
        ("http://@runner.example/", "Authorization"),
        ("http://runner.example/#part", "fragment"),
        ("http://runner.example/a b", "spaces"),
        ("http://runner.example/\r\nX: y", "control"),
        ("http://runner.example/\0", "control"),
        ("http://runner.example/\ud800", "control"),
        ("http://runner.example/" + "a" * 2_048, "2048"),
    ],
)
def test_a_url_that_cannot_be_called_is_refused(url: str, says: str) -> None:
    [problem] = webhook_problems(webhook(url))
    assert problem.loc == ("url",)
    assert says in problem.msg
    assert "pass" not in problem.msg


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("Host", "elsewhere", "itself"),
        ("content-length", "5", "itself"),
        ("Transfer-Encoding", "chunked", "itself"),
        ("Connection", "close", "itself"),
        ("Accept-Encoding", "gzip", "itself"),
        ("Expect", "100-continue", "itself"),
        ("Webhook-Id", "1", "itself"),
        ("webhook-signature", "v1,x", "itself"),
        ("Idempotency-Key", "1", "itself"),
        ("", "x", "name"),
        ("X Y", "x", "name"),
        ("X:", "x", "name"),
        ("X\r\nY", "x", "name"),
        ("Ünder", "x", "name"),
        ("X" * 129, "x", "name"),
        ("X-A", "hush\r\nX-B: y", "line break"),
        ("X-A", "hush\n", "line break"),
        ("X-A", "hush\0", "printable"),
        ("X-A", " hush", "space"),
        ("X-A", "hush ", "space"),
        ("X-A", "hush \x7f", "printable"),
        ("X-A", "hush é", "ASCII"),
        ("X-A", "hush €", "ASCII"),
        ("X-A", "h" * 4_097, "4097"),
    ],
)
def test_a_header_that_cannot_be_sent_is_refused(name: str, value: str, says: str) -> None:
    [problem] = webhook_problems(webhook(headers={name: value}))
    assert problem.loc == ("headers", name)
    assert says in problem.msg
    assert "hush" not in problem.msg


def test_a_header_given_twice_is_refused() -> None:
    [problem] = webhook_problems(webhook(headers={"X-A": "1", "x-a": "2"}))
    assert problem.loc == ("headers", "x-a")


@pytest.mark.parametrize(
    ("wrong", "loc"),
    [
        (webhook(secrets=("hush",)), ("secret",)),
        (webhook(secrets=(SECRET, "hush")), ("secret", 1)),
        (webhook(secrets=(SECRET,) * 3), ("secret",)),
        (webhook(headers={f"X-{n}": "" for n in range(51)}), ("headers",)),
        (webhook(timeout=timedelta(0)), ("timeout",)),
        (webhook(timeout=timedelta(seconds=301)), ("timeout",)),
        (webhook(retries=(1.0,) * 21), ("retries",)),
        (webhook(retries=(1.0, -1.0)), ("retries", 1)),
        (webhook(retries=(float("nan"),)), ("retries", 0)),
        (webhook(retries=(float("inf"),)), ("retries", 0)),
        (webhook(retries=(604_801.0,)), ("retries", 0)),
    ],
)
def test_what_is_out_of_bounds_is_refused_at_its_place(
    wrong: Webhook, loc: tuple[str | int, ...]
) -> None:
    [problem] = webhook_problems(wrong)
    assert problem.loc == loc
    assert "hush" not in problem.msg


def test_all_problems_are_told_at_once() -> None:
    wrong = webhook("runner", headers={"Host": "x"}, secrets=("x",), timeout=timedelta(0))
    locs = [problem.loc for problem in webhook_problems(wrong)]
    assert locs == [("url",), ("headers", "Host"), ("secret",), ("timeout",)]


def test_a_printed_webhook_shows_neither_headers_nor_secrets() -> None:
    shown = repr(webhook(headers={"Authorization": "hush"}, secrets=(SECRET,)))
    assert "hush" not in shown
    assert SECRET not in shown
