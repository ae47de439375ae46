"""Conditions with `after`: what an event did to the window of its key."""

from datetime import datetime

from upshot.core.facts import Late, Matched
from upshot.core.history import Step
from upshot.core.patterns import Patterns
from upshot.core.phrases import Clock, an, duration, either, happens
from upshot.core.sentences.outcomes import Outcome, Told
from upshot.core.triggers import EventCondition, Proactive, Reactive
from upshot.core.windows import AfterWindow, Opened, Seen


def tell(condition: EventCondition, step: Step, clock: Clock, *, now: datetime) -> Told:
    return _Teller(condition, step, clock, now).told()


class _Teller:
    """One event, one key, and the windows before and after."""

    def __init__(self, condition: EventCondition, step: Step, clock: Clock, now: datetime) -> None:
        assert isinstance(step.fact, Matched)
        assert condition.selection.after is not None
        self._condition = condition
        self._after_patterns: Patterns = condition.selection.after
        self._step = step
        self._clock = clock
        self._now = now
        self._fact = step.fact
        self._seen = step.fact.seen()
        before, after = step.before, step.after
        self._before = before if isinstance(before, AfterWindow) else AfterWindow()
        self._after = after if isinstance(after, AfterWindow) else AfterWindow()

    def told(self) -> Told:
        was, opened = self._before.opened, self._after.opened
        if self._step.fire is not None:
            return Told(Outcome.FIRED, self._fired())
        if _has(self._after.waiting, self._seen):
            return Told(Outcome.DEFERRED, self._deferred())
        if any(
            isinstance(effect, Late) and effect.event.id == self._seen.id
            for effect in self._step.effects
        ):
            return Told(Outcome.LATE, self._missed())
        if self._is_satisfied(was, opened):
            return Told(Outcome.SATISFIED, self._satisfied(was))
        if opened is not None and _has(opened.counted, self._seen):
            return Told(Outcome.COUNTED, f"Counted: {self._progress(opened)}.")
        if self._fact.opens:
            return self._told_opener(was, opened)
        return self._told_not_counted(was)

    def _told_opener(self, was: Opened | None, opened: Opened | None) -> Told:
        closed_at = self._before.closed_at
        if closed_at is not None and self._seen.at < closed_at:
            happened, closed = self._clock.times(self._seen.at, closed_at)
            return Told(
                Outcome.IGNORED,
                f"Ignored: it happened at {happened}, before what closed the key at {closed}.",
            )
        assert opened is not None
        if opened.opener.id == self._seen.id:
            if was is None or not self._begins_earlier(was, opened):
                return self._told_opened(was, opened)
            begins = self._clock.time(self._seen.at)
            return Told(
                Outcome.EXTENDED,
                f"Extended: it came late, and the window now begins at {begins}; "
                f"{self._outlook(opened)}.",
            )
        assert was is not None
        if isinstance(self._condition, Proactive):
            since = self._clock.time(opened.opener.at)
            return Told(
                Outcome.IGNORED,
                f"Ignored: the key is open since {since} already; {self._outlook(opened)}.",
            )
        return self._told_open_already(was, opened)

    def _begins_earlier(self, was: Opened, opened: Opened) -> bool:
        """Whether it is the same window still, and not one of its own."""
        is_same = isinstance(self._condition, Reactive) or opened.ends_at == was.ends_at
        return self._seen.at < was.opener.at and is_same

    def _told_open_already(self, was: Opened, opened: Opened) -> Told:
        """Reactive: another `after` event while the key is open."""
        if opened.ends_at is None or was.ends_at is None:
            since = self._clock.time(opened.opener.at)
            return Told(Outcome.EXTENDED, f"Open already, since {since}: {self._outlook(opened)}.")
        if self._seen.at < opened.opener.at:
            ended = self._clock.time(self._seen.at + self._condition.within)
            begins = self._clock.time(opened.opener.at)
            return Told(
                Outcome.LATE,
                f"Too late: its own window was over at {ended}, before the open one began at "
                f"{begins}.",
            )
        ends, ended = self._clock.times(opened.ends_at, was.ends_at)
        if opened.ends_at == was.ends_at:
            return Told(Outcome.EXTENDED, f"The window ends at {ends} as before; "
                                          f"{self._outlook(opened)}.")  # fmt: skip
        return Told(
            Outcome.EXTENDED,
            f"Extended: the window ends at {ends} instead of {ended}; {self._outlook(opened)}.",
        )

    def _told_opened(self, was: Opened | None, opened: Opened) -> Told:
        anew = "Opened"
        if was is not None and was.ends_at is not None and self._seen.at >= was.ends_at:
            anew = f"Opened anew, since the window before was over at {self._time(was.ends_at)}"
        elif was is not None:
            anew = "Opened, late, and before the window that was open until now"
        if opened.counted:
            anew += f", with {len(opened.counted)} of {self._condition.threshold} there already"
        ends_at = opened.ends_at
        if not isinstance(self._condition, Proactive) and ends_at is not None:
            until = ends_at + self._condition.lateness
            if self._now > until:
                return Told(
                    Outcome.LATE,
                    f"Too late: it came {duration(self._now - ends_at)} after its own window was "
                    f"over at {self._time(ends_at)}.",
                )
            if self._now >= ends_at:
                return Told(
                    Outcome.OPENED,
                    f"{anew}: its window was over at {self._time(ends_at)}, before it came; fires "
                    f"only if {self._missing(opened)} inside it and comes by {self._time(until)}.",
                )
        return Told(Outcome.OPENED, f"{anew}: {self._outlook(opened)}.")

    def _told_not_counted(self, was: Opened | None) -> Told:
        """An expected event for which the key was not open."""
        happened_at, closed_at = self._seen.at, self._before.closed_at
        if was is None and closed_at is not None and happened_at <= closed_at:
            happened, closed = self._clock.times(happened_at, closed_at)
            return Told(
                Outcome.IGNORED,
                f"Ignored: it happened at {happened}, and the key was closed at {closed}.",
            )
        if was is not None and was.ends_at is not None and (
            was.opener.at <= happened_at < was.ends_at
        ):  # fmt: skip
            last = was.ends_at + self._condition.lateness
            return Told(
                Outcome.LATE,
                f"Too late: it happened inside the window that ended at {self._time(was.ends_at)}, "
                f"but came {duration(self._seen.received_at - last)} after {self._time(last)}, "
                f"when the lateness of {duration(self._condition.lateness)} was over.",
            )
        why = self._why_not_open(was)
        if not _has(self._after.early, self._seen) or not self._condition.lateness:
            return Told(Outcome.IGNORED, f"Ignored: {why}.")
        until = self._time(self._seen.received_at + self._condition.lateness)
        return Told(
            Outcome.EARLY,
            f"Early: {why}; counts if {an(self._after_patterns)} from before "
            f"{self._time(happened_at)} still comes by {until}.",
        )

    def _why_not_open(self, was: Opened | None) -> str:
        if was is None:
            return f"no {either(self._after_patterns)} has opened the key"
        happened_at = self._seen.at
        if happened_at < was.opener.at:
            happened, began = self._clock.times(happened_at, was.opener.at)
            return f"it happened at {happened}, before the window began at {began}"
        assert was.ends_at is not None
        over = self._time(was.ends_at)
        if happened_at == was.ends_at:
            return f"the window was over at {over}, and it happened then"
        return f"the window was over at {over}, {duration(happened_at - was.ends_at)} before it"

    def _fired(self) -> str:
        fire, condition = self._step.fire, self._condition
        assert fire is not None
        assert fire.after is not None
        opener, count = fire.after, condition.threshold
        if self._is_now(fire.event) and self._fact.expected and fire.after.id != self._seen.id:
            if count == 1:
                text = f"Fired: it happened {self._since(opener)}"
            else:
                text = f"Fired: {count} of {count} since the key was opened at "
                text += self._time(opener.at)
        else:
            text = f"Fired: it opened the key late, and {count} of {count} had come before it"
        opened = self._after.opened
        if opened is not None:
            text += f"; the key stays open from {self._time(opened.opener.at)}"
        return f"{text}."

    def _since(self, opener: Seen) -> str:
        name = f"`{opener.event.name}`" if opener.event else "the event"
        opened = f"{name} opened the key"
        passed = self._seen.at - opener.at
        return f"{duration(passed)} after {opened}" if passed else f"just when {opened}"

    def _deferred(self) -> str:
        opened = self._before.opened
        assert opened is not None
        assert opened.ends_at is not None
        assert opened.decided_at is not None
        ends, decided = self._clock.times(opened.ends_at, opened.decided_at)
        return (
            f"Deferred: the window that ended at {ends} is decided at {decided}, and this event "
            "is taken up after that."
        )

    def _missed(self) -> str:
        alarmed = self._before.alarmed
        assert alarmed is not None
        began, ended = self._clock.times(*alarmed)
        return (
            f"Too late: it happened inside the window from {began} to {ended}, and the alarm was "
            "given before it came."
        )

    def _is_satisfied(self, was: Opened | None, opened: Opened | None) -> bool:
        """Whether a proactive key has heard enough: its window is gone, or another one's."""
        if not isinstance(self._condition, Proactive):
            return False
        if self._after.closed_at != self._before.closed_at:
            return True
        is_expected = self._fact.expected and was is not None and self._seen.at >= was.opener.at
        return is_expected and (opened is None or opened.opener.id != (was and was.opener.id))

    def _satisfied(self, was: Opened | None) -> str:
        count = self._condition.threshold
        came = f"{count} of {count} came in time"
        if was is None or self._seen.at < was.opener.at:
            came = f"{count} of {count} had come before this {either(self._after_patterns)}"
        opened = self._after.opened
        if opened is None:
            return f"Satisfied: {came}, and there will be no alarm."
        return f"Satisfied, and open again: {came}; {self._outlook(opened)}."

    def _progress(self, opened: Opened) -> str:
        count, threshold = len(opened.counted), self._condition.threshold
        within = f" within {duration(self._condition.within)}" if self._condition.within else ""
        return f"{count} of {threshold}{within}; {self._outlook(opened)}"

    def _outlook(self, opened: Opened) -> str:
        """When it fires."""
        missing = self._missing(opened)
        if isinstance(self._condition, Proactive):
            assert opened.decided_at is not None
            assert opened.ends_at is not None
            if opened.decided_at < self._now:
                return (
                    f"its time was over at {self._time(opened.ends_at)}, so that it fires at once"
                )
            decided, ends = self._clock.times(opened.decided_at, opened.ends_at)
            if opened.decided_at == opened.ends_at:
                return f"fires at {decided} unless {missing} before then"
            return f"fires at {decided} unless {missing} before {ends}"
        if opened.ends_at is None:
            return f"fires when {missing}, however long it takes"
        return f"fires if {missing} before {self._time(opened.ends_at)}"

    def _missing(self, opened: Opened) -> str:
        count = len(opened.counted)
        return happens(
            self._condition.selection.expect, self._condition.threshold - count, more=count > 0
        )

    def _is_now(self, seen: Seen | None) -> bool:
        return seen is not None and seen.id == self._seen.id

    def _time(self, at: datetime) -> str:
        return self._clock.time(at)


def _has(several: tuple[Seen, ...], seen: Seen) -> bool:
    return any(one.id == seen.id for one in several)
