"""Something happened: reactive triggers, one key at a time."""

from datetime import UTC, datetime, timedelta

from tests.core.reference.facts import EVENTS_SHOWN, Firing, Seen, by_time, firing, newest
from tests.core.reference.reading import Rules

FOREVER = datetime.max.replace(tzinfo=UTC)
NEVER = datetime.min.replace(tzinfo=UTC)


class Counting:
    """Without `after`: fires when enough unspent events lie in a span shorter than `within`."""

    deadline: datetime | None = None

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.unspent: list[Seen] = []
        self.quiet_until = NEVER

    def arrive(self, event: Seen) -> Firing | None:
        if event.at < self.quiet_until:
            return None
        self.unspent.append(event)
        span = self._span() if self.rules.within else self._every_nth()
        if span is None:
            return None
        # Without `within` the order is that of arrival, in which they were counted.
        shown = tuple(span[-EVENTS_SHOWN:])
        return Firing(at=max(x.at for x in span), event=event, counted=shown)

    def decide(self, _now: datetime) -> Firing | None:
        return None

    def _every_nth(self) -> list[Seen] | None:
        if len(self.unspent) < self.rules.threshold:
            return None
        span, self.unspent = self.unspent, []
        return span

    def _span(self) -> list[Seen] | None:
        """The earliest span of enough events, which are then spent with all before its end."""
        n, w = self.rules.threshold, self.rules.within
        oldest_kept = max(x.at for x in self.unspent) - (w + self.rules.lateness)
        self.unspent = sorted((x for x in self.unspent if x.at >= oldest_kept), key=by_time)
        spans = [self.unspent[i : i + n] for i in range(len(self.unspent) - n + 1)]
        short = [span for span in spans if span[-1].at - span[0].at < w]
        if not short:
            return None
        self.quiet_until = short[0][0].at + w
        self.unspent = [x for x in self.unspent if x.at >= self.quiet_until]
        return short[0]


class OpenedReactive:
    """With `after`: the window is what the openers seen since the key last closed make of it."""

    deadline: datetime | None = None

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.closed_at = NEVER
        self.openers: list[Seen] = []
        self.counted: list[Seen] = []
        self.early: list[Seen] = []

    @property
    def begin(self) -> datetime:
        return min(opener.at for opener in self.openers)

    @property
    def end(self) -> datetime:
        return self._after_within(max(opener.at for opener in self.openers))

    def arrive(self, event: Seen) -> Firing | None:
        if event.expected and self._counts(event):
            self.counted.append(event)
            return self._fired(by=event)
        if event.expected:
            self.early.append(event)
        if event.opens and event.at >= self.closed_at:
            return self._opened(event)
        return None

    def decide(self, _now: datetime) -> Firing | None:
        return None

    def _counts(self, event: Seen) -> bool:
        if not self.openers or not self.begin <= event.at < self.end:
            return False
        lateness = self.rules.lateness
        return not self.rules.within or event.arrived_at <= self.end + lateness

    def _opened(self, opener: Seen) -> Firing | None:
        own_end = self._after_within(opener.at)
        if self.openers and own_end <= self.begin:
            return self._over_already(opener, own_end)
        if self.openers and opener.at >= self.end:
            self.openers, self.counted = [], []
        self.openers.append(opener)
        missing = self.rules.threshold - len(self.counted)
        self.counted += self._take_early(opener, self.end, missing)
        return self._fired(by=None)

    def _over_already(self, opener: Seen, end: datetime) -> Firing | None:
        """A window before the open one: only what came early can complete it, at once."""
        n = self.rules.threshold
        if len(early_for(opener, self.early, end, self.rules.lateness)) < n:
            return None
        counted = self._take_early(opener, end, n)
        last = max(counted, key=by_time)
        self.closed_at = max(self.closed_at, last.at)
        return firing(at=last.at, event=last, counted=counted)

    def _take_early(self, opener: Seen, end: datetime, count: int) -> list[Seen]:
        taken = early_for(opener, self.early, end, self.rules.lateness)[:count]
        self.early = [x for x in self.early if x not in taken]
        return taken

    def _fired(self, *, by: Seen | None) -> Firing | None:
        if len(self.counted) < self.rules.threshold:
            return None
        counted, self.counted = self.counted, []
        self.closed_at = max(x.at for x in counted)
        self.openers = [opener for opener in self.openers if opener.at > self.closed_at]
        return firing(at=self.closed_at, event=by or newest(counted), counted=counted)

    def _after_within(self, at: datetime) -> datetime:
        return at + self.rules.within if self.rules.within else FOREVER


def early_for(opener: Seen, early: list[Seen], end: datetime, lateness: timedelta) -> list[Seen]:
    """What came before its opener did, happened after it, and counts for it; in order of time."""
    return sorted(
        (
            x
            for x in early
            if opener.at < x.at < end and opener.arrived_at - x.arrived_at <= lateness
        ),
        key=by_time,
    )
