"""The circuit breaker: when it opens, what closes it, and how a recovered runner is spared."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from upshot.core.breaker import (
    Breaker,
    BreakerState,
    Called,
    after,
    is_free,
    recent,
    tried_anew,
)
from upshot.core.limits import BREAKER_BUCKETS_MAX, BREAKER_WINDOW, PROBE_EVERY, PROBES_FREE_MAX

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN


def called(script: str, claimed_in: BreakerState = CLOSED) -> list[Called]:
    """`+` went well, `-` failed."""
    return [Called(claimed_in, sign == "-") for sign in script]


def went(
    breaker: Breaker, calls: Sequence[Called], *, now: datetime = NOW, max_concurrency: int = 8
) -> Breaker:
    return after(breaker, calls, now=now, max_concurrency=max_concurrency)


@pytest.fixture
def opened() -> Breaker:
    return went(Breaker(), called("-" * 10))


@pytest.fixture
def probed(opened: Breaker) -> Breaker:
    return went(opened, called("+", OPEN))


@pytest.mark.parametrize(
    ("script", "state"),
    [
        ("-" * 9, CLOSED),
        ("-" * 10, OPEN),
        ("+++" + "-" * 7, OPEN),
        ("++++" + "-" * 9, CLOSED),
        ("++++" + "-" * 10, OPEN),
        ("-" * 7 + "+++", CLOSED),  # a success never opens it
        ("-" * 7 + "+++-", OPEN),
        ("+-" * 100, CLOSED),
    ],
)
def test_it_opens_at_seventy_percent_of_at_least_ten_calls(
    script: str, state: BreakerState
) -> None:
    assert went(Breaker(), called(script)).state is state


def test_failures_spread_over_more_than_five_minutes_do_not_open_it() -> None:
    breaker = Breaker()
    for minute in range(60):
        breaker = went(breaker, called("-"), now=NOW + timedelta(minutes=minute))
        assert breaker.state is CLOSED
        assert breaker.failures <= 5
    assert len(breaker.buckets) <= BREAKER_BUCKETS_MAX


def test_what_was_long_ago_is_not_shown() -> None:
    breaker = went(Breaker(), called("--+"))
    assert (breaker.calls, breaker.failures) == (3, 2)
    assert recent(breaker, NOW + timedelta(minutes=4)).calls == 3
    assert recent(breaker, NOW + BREAKER_WINDOW).calls == 0


def test_open_it_waits_for_a_probe_and_tells_what_opened_it(opened: Breaker) -> None:
    assert (opened.calls, opened.failures, opened.since) == (10, 10, NOW)
    assert opened.calls_max == 1
    assert opened.probe_at == NOW + PROBE_EVERY
    assert recent(opened, NOW + timedelta(hours=2)) == opened


@pytest.mark.parametrize("script", ["-----", "+++++"])
def test_calls_that_were_under_way_when_it_opened_change_nothing(
    opened: Breaker, script: str
) -> None:
    assert went(opened, called(script), now=NOW + timedelta(seconds=20)) == opened


def test_a_failed_probe_is_followed_by_another_after_a_while(opened: Breaker) -> None:
    later = NOW + PROBE_EVERY
    breaker = went(opened, called("-", OPEN), now=later)
    assert breaker.state is OPEN
    assert breaker.since == NOW
    assert breaker.probe_at == later + PROBE_EVERY


def test_after_a_good_probe_calls_double_in_each_round_until_it_closes(probed: Breaker) -> None:
    breaker, rounds = probed, []
    while breaker.state is HALF_OPEN:
        assert breaker.probe_at is None
        assert breaker.calls_max is not None
        rounds.append(breaker.calls_max)
        breaker = went(breaker, called("+" * breaker.calls_max, HALF_OPEN), max_concurrency=64)
    assert rounds == [2, 4, 8, 16, 32]
    assert breaker == Breaker(CLOSED, since=NOW)


def test_one_call_at_a_time_is_all_there_is_to_ramp_up(opened: Breaker) -> None:
    assert went(opened, called("+", OPEN), max_concurrency=1).state is CLOSED


def test_failures_halve_the_calls_until_it_is_open_again(probed: Breaker) -> None:
    breaker = went(probed, called("++", HALF_OPEN))
    assert breaker.calls_max == 4
    halved = went(breaker, called("-", HALF_OPEN))
    assert (halved.state, halved.calls_max) == (HALF_OPEN, 2)
    again = went(halved, called("--", HALF_OPEN), now=NOW + timedelta(minutes=1))
    assert again.state is OPEN
    assert again.since == NOW + timedelta(minutes=1)
    assert again.probe_at == NOW + timedelta(minutes=1) + PROBE_EVERY


def test_half_open_a_call_that_hung_since_before_it_opened_says_nothing(probed: Breaker) -> None:
    assert went(probed, called("---+")) == probed


def test_a_runner_that_fails_a_little_is_called_in_full_after_five_minutes(
    probed: Breaker,
) -> None:
    breaker, now, longest = probed, NOW, NOW + 2 * BREAKER_WINDOW
    while breaker.state is HALF_OPEN and now < longest:
        now += timedelta(seconds=5)
        breaker = went(breaker, called("+++-", HALF_OPEN), now=now, max_concurrency=1_000)
        assert len(breaker.buckets) <= BREAKER_BUCKETS_MAX
    assert breaker.state is CLOSED
    assert now == NOW + BREAKER_WINDOW


def test_a_reset_of_an_open_one_calls_at_once_but_not_all_at_once(opened: Breaker) -> None:
    breaker = tried_anew(opened, now=NOW)
    assert (breaker.state, breaker.calls_max, breaker.probe_at) == (HALF_OPEN, 1, None)
    assert went(breaker, called("-", HALF_OPEN)).state is OPEN


def test_a_reset_of_a_closed_one_forgets_what_it_counted() -> None:
    nearly = went(Breaker(), called("-" * 9))
    assert went(tried_anew(nearly, now=NOW), called("-")).state is CLOSED
    assert went(nearly, called("-")).state is OPEN


@pytest.mark.parametrize(
    ("claimed_in", "attempt", "free"),
    [
        (OPEN, 1, True),
        (OPEN, PROBES_FREE_MAX, True),
        (OPEN, PROBES_FREE_MAX + 1, False),
        (HALF_OPEN, 1, False),
        (CLOSED, 1, False),
    ],
)
def test_probes_are_free_but_not_without_end(
    claimed_in: BreakerState, attempt: int, *, free: bool
) -> None:
    assert is_free(claimed_in, attempt=attempt) is free
