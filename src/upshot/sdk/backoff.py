"""How long to wait before trying again."""

import random
from collections.abc import Callable

from upshot.sdk.limits import BACKOFF_SECONDS_FIRST, BACKOFF_SECONDS_MAX


class Backoff:
    """Waits that double, each cut by up to half at random so that clients do not come as one."""

    def __init__(self, *, random: Callable[[], float] = random.random) -> None:
        self._random = random
        self.failures = 0

    def next(self, *, at_least: float | None = None) -> float:
        """Seconds to wait after another failure; `at_least` is what the server asked for."""
        longest = min(BACKOFF_SECONDS_FIRST * 2.0 ** min(self.failures, 30), BACKOFF_SECONDS_MAX)
        self.failures += 1
        return max(longest * (1 - self._random() / 2), at_least or 0.0)

    def reset(self) -> None:
        self.failures = 0
