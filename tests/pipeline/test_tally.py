"""What waits to be counted, and what does not."""

from datetime import UTC, datetime

import pytest

from upshot.core.breaker import BreakerState, Called
from upshot.core.limits import BREAKER_SUCCESSES_WAIT_MAX
from upshot.pipeline.tally import Tally

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
WELL = Called(BreakerState.CLOSED, has_failed=False)
FAILED = Called(BreakerState.CLOSED, has_failed=True)
RAMPING = Called(BreakerState.HALF_OPEN, has_failed=False)


def test_successes_of_a_closed_breaker_wait_a_little() -> None:
    tally = Tally(NOW)
    tally.add("d", WELL)
    assert tally.take(NOW) == {}
    tally.add("d", WELL)
    assert tally.take(NOW + BREAKER_SUCCESSES_WAIT_MAX) == {"d": [WELL, WELL]}
    assert tally.take(NOW + 2 * BREAKER_SUCCESSES_WAIT_MAX) == {}


@pytest.mark.parametrize("called", [FAILED, RAMPING])
def test_what_may_turn_a_breaker_is_counted_at_once_with_all_that_waits(called: Called) -> None:
    tally = Tally(NOW)
    tally.add("d", WELL)
    tally.add("e", called)
    assert tally.take(NOW) == {"d": [WELL], "e": [called]}


def test_what_could_not_be_counted_comes_first_the_next_time() -> None:
    tally = Tally(NOW)
    tally.add("d", FAILED)
    taken = tally.take(NOW)
    tally.add("d", WELL)
    tally.give_back(taken)
    assert tally.take(NOW) == {"d": [FAILED, WELL]}
