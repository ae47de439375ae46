"""The circuit breaker of a deployment: a runner that is down is probed, not flooded."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import assert_never

from upshot.core.limits import (
    BREAKER_BUCKET,
    BREAKER_BUCKETS_MAX,
    BREAKER_CALLS_MIN,
    BREAKER_FAILED_PERCENT,
    BREAKER_WINDOW,
    PROBE_EVERY,
    PROBES_FREE_MAX,
)


class BreakerState(StrEnum):
    """`closed` calls; `open` only probes; `half-open` calls more with every success."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(frozen=True, slots=True)
class Called:
    """A call that has ended, and the breaker's state when its run was claimed.

    What failed is what would be tried again; a run that its runner refuses is no fault of it.
    """

    claimed_in: BreakerState
    has_failed: bool


@dataclass(frozen=True, slots=True)
class Bucket:
    """Calls of one stretch of time; `number` counts the stretches since 1970."""

    number: int
    calls: int
    failures: int


@dataclass(frozen=True, slots=True)
class Breaker:
    """Closed, `buckets` count the last few minutes; open, what opened it; half-open, since then.

    `calls_max` is how many calls may be under way, None leaves it to the deployment. `probe_at` is
    set while it is open. `since` is None for one that has always been closed.
    """

    state: BreakerState = BreakerState.CLOSED
    since: datetime | None = None
    buckets: tuple[Bucket, ...] = ()
    calls_max: int | None = None
    probe_at: datetime | None = None

    @property
    def calls(self) -> int:
        return sum(bucket.calls for bucket in self.buckets)

    @property
    def failures(self) -> int:
        return sum(bucket.failures for bucket in self.buckets)


def after(
    breaker: Breaker, calls: Sequence[Called], *, now: datetime, max_concurrency: int
) -> Breaker:
    """The breaker once these calls, in their order, have ended."""
    for call in calls:
        match breaker.state:
            case BreakerState.CLOSED:
                breaker = _closed_after(breaker, call, now)
            case BreakerState.OPEN:
                breaker = _open_after(breaker, call, now)
            case BreakerState.HALF_OPEN:
                breaker = _half_open_after(breaker, call, now)
            case _:
                assert_never(breaker.state)
        if breaker.state is BreakerState.HALF_OPEN:
            breaker = _closed_if_recovered(breaker, now, max_concurrency)
    return breaker


def is_free(claimed_in: BreakerState, *, attempt: int) -> bool:
    """Whether a failure of this attempt uses up no retry, since it was a probe.

    So many probes of one run are free, that a run which is itself the reason ends as well.
    """
    return claimed_in is BreakerState.OPEN and attempt <= PROBES_FREE_MAX


def tried_anew(breaker: Breaker, *, now: datetime) -> Breaker:
    """What an operator's reset makes of it: nothing is held against the runner any more.

    One that was not closed goes half-open, since what has piled up would fall on the runner.
    """
    if breaker.state is BreakerState.CLOSED:
        return replace(breaker, buckets=())
    return _half_open(now, calls_max=1)


def recent(breaker: Breaker, now: datetime) -> Breaker:
    """The breaker without what it counted too long ago to matter."""
    if breaker.state is not BreakerState.CLOSED:
        return breaker
    oldest = _number(now) - BREAKER_BUCKETS_MAX + 1
    return replace(breaker, buckets=tuple(b for b in breaker.buckets if b.number >= oldest))


def _closed_after(breaker: Breaker, call: Called, now: datetime) -> Breaker:
    breaker = _counted(breaker, call, now)
    calls, failures = breaker.calls, breaker.failures
    too_many = calls >= BREAKER_CALLS_MIN and failures * 100 >= calls * BREAKER_FAILED_PERCENT
    return _opened(breaker, now) if call.has_failed and too_many else breaker


def _open_after(breaker: Breaker, call: Called, now: datetime) -> Breaker:
    """Only a probe counts: the others were under way when the breaker opened."""
    if call.claimed_in is not BreakerState.OPEN:
        return breaker
    if call.has_failed:
        return replace(breaker, probe_at=now + PROBE_EVERY)
    return _counted(_half_open(now, calls_max=2), call, now)


def _half_open_after(breaker: Breaker, call: Called, now: datetime) -> Breaker:
    """One more call at once for each success, which doubles them in each round; half at a failure.

    Where not even one is left the runner is down again. Calls from before the breaker opened may
    have waited for their timeout and say nothing of the runner as it is now.
    """
    if call.claimed_in is BreakerState.CLOSED:
        return breaker
    breaker = _counted(breaker, call, now)
    allowed = breaker.calls_max or 0
    allowed = allowed // 2 if call.has_failed else allowed + 1
    return replace(breaker, calls_max=allowed) if allowed else _opened(breaker, now)


def _closed_if_recovered(breaker: Breaker, now: datetime, max_concurrency: int) -> Breaker:
    """A runner that fails a little may never get to the full number: time closes it as well."""
    assert breaker.since is not None
    is_full = (breaker.calls_max or 0) >= max_concurrency
    if not is_full and now - breaker.since < BREAKER_WINDOW:
        return breaker
    # Nothing of the recovery is held against the runner.
    return Breaker(BreakerState.CLOSED, since=now)


def _opened(breaker: Breaker, now: datetime) -> Breaker:
    return Breaker(
        BreakerState.OPEN,
        since=now,
        buckets=breaker.buckets,
        calls_max=1,
        probe_at=now + PROBE_EVERY,
    )


def _half_open(now: datetime, *, calls_max: int) -> Breaker:
    return Breaker(BreakerState.HALF_OPEN, since=now, calls_max=calls_max)


def _counted(breaker: Breaker, call: Called, now: datetime) -> Breaker:
    number = _number(now)
    *earlier, last = recent(breaker, now).buckets or (Bucket(number, 0, 0),)
    if last.number < number:
        earlier, last = [*earlier, last][1 - BREAKER_BUCKETS_MAX :], Bucket(number, 0, 0)
    last = Bucket(last.number, last.calls + 1, last.failures + call.has_failed)
    return replace(breaker, buckets=(*earlier, last))


def _number(at: datetime) -> int:
    return int(at.timestamp() // BREAKER_BUCKET.total_seconds())
