"""Something did not happen: proactive triggers, one key at a time."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from tests.core.reference.facts import Firing, Seen, by_time, firing, newest
from tests.core.reference.reactive import NEVER, early_for
from tests.core.reference.reading import Rules


class OpenedProactive:
    """With `after`: an alarm for an opener that was not followed by enough expected events."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.closed_at = NEVER
        self.opener: Seen | None = None
        self.end = NEVER
        self.other_openers: list[Seen] = []
        self.counted: list[Seen] = []
        self.early: list[Seen] = []
        self.waiting: list[Seen] = []
        """At or after the end, and there before the decision: taken up after it."""

    @property
    def deadline(self) -> datetime | None:
        if self.opener is None:
            return None
        return max(self.end, self.opener.arrived_at + self.rules.grace)

    def arrive(self, event: Seen) -> None:
        if self.opener is not None and event.at >= self.end:
            self.waiting.append(event)
            return
        if event.expected and self._counts(event):
            self.counted.append(event)
            self._satisfied_with_enough()
            return
        if event.expected and event not in self.early:
            self.early.append(event)
        if event.opens and event.at >= self.closed_at:
            self._opened(event)

    def decide(self, _now: datetime) -> Firing | None:
        assert self.opener is not None
        alarm = firing(at=self.end, event=self.opener, counted=self.counted)
        self.closed_at = self.end
        self._close()
        self._take_up(self.waiting)
        return alarm

    def _counts(self, event: Seen) -> bool:
        if self.opener is None or not self.opener.at <= event.at < self.end:
            return False
        return self._is_there_in_time(event)

    def _is_there_in_time(self, event: Seen) -> bool:
        return self.deadline is not None and event.arrived_at <= self.deadline

    def _opened(self, event: Seen) -> None:
        if self.opener is None:
            self._open(event)
        elif event.at >= self.opener.at:
            self.other_openers.append(event)
        elif event.at + self.rules.within > self.opener.at:
            self.other_openers.append(self.opener)
            self.opener = event
        else:
            self._put_off()
            self._open(event)
        missing = self.rules.threshold - len(self.counted)
        early = early_for(event, self.early, self.end, self.rules.lateness)
        taken = [x for x in early if self._is_there_in_time(x)][:missing]
        self.early = [x for x in self.early if x not in taken]
        self.counted += taken
        self._satisfied_with_enough()

    def _open(self, opener: Seen) -> None:
        self.opener = opener
        self.end = opener.at + self.rules.within

    def _put_off(self) -> None:
        """What is open now comes after an earlier window, as if it had been waiting for it."""
        assert self.opener is not None
        present = {self.opener, *self.other_openers, *self.counted, *self.waiting}
        self._close()
        self.waiting = list(present)

    def _close(self) -> None:
        self.opener = None
        self.other_openers, self.counted = [], []

    def _satisfied_with_enough(self) -> None:
        if len(self.counted) < self.rules.threshold:
            return
        last = max(self.counted, key=by_time)
        openers = [x for x in self.other_openers if x.at > last.at]
        if last.opens:
            openers.append(last)
        self.closed_at = last.at
        self._close()
        if openers:
            self._open(min(openers, key=by_time))
            self.other_openers = [x for x in openers if x != self.opener]
        self._take_up(self.waiting)

    def _take_up(self, waiting: Iterable[Seen]) -> None:
        self.waiting = []
        for event in sorted(waiting, key=lambda seen: seen.order):
            if self.deadline is not None and self.deadline < event.arrived_at:
                self.waiting.append(event)
            else:
                self.arrive(event)


class Switch:
    """Without `after`, a dead man's switch: an alarm when too few events lie in the last `within`.

    `known` are the events taken up, of all times.
    """

    def __init__(self, rules: Rules, started_at: datetime) -> None:
        self.rules = rules
        self.started_at = None if rules.keyed else started_at
        self.known: list[Seen] = []
        self.alarmed_at: datetime | None = None
        """When the newest alarm was due while the key is silent."""
        self.waiting: list[Seen] = []
        """At or after the end, and there before the decision: taken up after it, or as soon as
        the end has moved behind them."""

    @property
    def deadline(self) -> datetime | None:
        if self.alarmed_at is not None:
            return self.alarmed_at + self.rules.within if self.rules.repeats else None
        if not self.known and self.started_at is None:
            return None
        end, counted_from = self._end()
        if counted_from is None:
            return end
        return max(end, counted_from.arrived_at + self.rules.grace)

    def arrive(self, event: Seen) -> None:
        if self.alarmed_at is None:
            self.waiting.append(event)
            self._take_what_lies_before_the_end()
            return
        self.known.append(event)
        since = event.evaluated_at - self.rules.within
        if sum(x.at > since for x in self.known) >= self.rules.threshold:
            self.alarmed_at = None

    def decide(self, now: datetime) -> Firing | None:
        """One alarm, however many are due by now; then the old rhythm."""
        w = self.rules.within
        end = self._end()[0] if self.alarmed_at is None else self.alarmed_at + w
        lasting = (x for x in self.known if end - w < x.at < end)
        alarm = firing(at=end, event=newest(self.known), counted=lasting)
        self.alarmed_at = end + w * ((now - end) // w)
        waiting, self.waiting = sorted(self.waiting, key=lambda seen: seen.order), []
        for event in waiting:
            if self.deadline is not None and self.deadline < event.arrived_at:
                self.waiting.append(event)
            else:
                self.arrive(replace(event, evaluated_at=event.arrived_at))
        return alarm

    def _take_what_lies_before_the_end(self) -> None:
        """The end moves with what is taken."""
        for event in sorted(self.waiting, key=by_time):
            first_of_all = not self.known and self.started_at is None
            if first_of_all or event.at < self._end()[0]:
                self.known.append(event)
                self.waiting.remove(event)

    def _end(self) -> tuple[datetime, Seen | None]:
        """The end, and the event that it is counted from, if it is one."""
        n, w = self.rules.threshold, self.rules.within
        known = sorted(self.known, key=by_time)
        base = known[0].at if self.started_at is None else self.started_at
        if len(known) >= n and known[-n].at >= base:
            return known[-n].at + w, known[-n]
        return base + w, known[0] if self.started_at is None else None
