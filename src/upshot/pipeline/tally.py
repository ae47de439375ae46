"""Calls that have ended, until the breakers are told of them."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from upshot.core.breaker import BreakerState, Called
from upshot.core.limits import BREAKER_SUCCESSES_WAIT_MAX

Calls = Mapping[str, Sequence[Called]]
"""By deployment, in the order in which they ended."""


class Tally:
    """That all is well as before may wait a little, so that not every turn writes a row more."""

    def __init__(self, now: datetime) -> None:
        self._calls: dict[str, list[Called]] = {}
        self._is_urgent = False
        self._taken_at = now

    def add(self, deployment: str, called: Called) -> None:
        self._calls.setdefault(deployment, []).append(called)
        self._is_urgent |= called.has_failed or called.claimed_in is not BreakerState.CLOSED

    def take(self, now: datetime) -> Calls:
        """What is to be counted now, if anything is."""
        if not self._is_urgent and now - self._taken_at < BREAKER_SUCCESSES_WAIT_MAX:
            return {}
        taken, self._calls = self._calls, {}
        self._is_urgent, self._taken_at = False, now
        return taken

    def give_back(self, calls: Calls) -> None:
        """They could not be counted; they come before those that have ended since."""
        for deployment, earlier in calls.items():
            self._calls[deployment] = [*earlier, *self._calls.get(deployment, ())]
        self._is_urgent |= bool(calls)
