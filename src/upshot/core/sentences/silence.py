"""A dead man's switch: what an event changed of the silence of its key."""

from datetime import datetime

from upshot.core.evaluation import deadline_of, step
from upshot.core.facts import Fire, Matched, Tick
from upshot.core.history import Step
from upshot.core.phrases import Clock, duration, happens
from upshot.core.sentences.outcomes import Outcome, Told
from upshot.core.triggers import Proactive
from upshot.core.windows import Seen, Switch


def tell(condition: Proactive, done: Step, clock: Clock, *, now: datetime) -> Told:
    assert isinstance(done.fact, Matched)
    seen, before, after = done.fact.seen(), done.before, done.after
    assert isinstance(after, Switch)
    due_at = deadline_of(condition, after)
    if any(one.id == seen.id for one in after.waiting):
        assert due_at is not None
        return Told(
            Outcome.DEFERRED,
            f"Deferred: whether it was silent until {clock.time(_end(condition, after, due_at))} "
            f"is decided at {clock.time(due_at)}, and this event is taken up after that.",
        )
    outlook = _outlook(condition, after, due_at, clock, now)
    if not isinstance(before, Switch):
        return Told(Outcome.OPENED, f"Watched from now on: {outlook}.")
    if before.silent_since is not None:
        return _told_silent(condition, before, after, seen, clock, outlook)
    if all(one.id != seen.id for one in after.newest):
        return Told(Outcome.IGNORED, f"Ignored: newer events count already; {outlook}.")
    was_due_at = deadline_of(condition, before)
    if due_at is not None and was_due_at is not None and due_at > was_due_at:
        return Told(Outcome.POSTPONED, f"Postponed from {clock.time(was_due_at)}: {outlook}.")
    return Told(
        Outcome.COUNTED, f"Counted: {len(after.newest)} of {condition.threshold}; {outlook}."
    )


def _told_silent(
    condition: Proactive, before: Switch, after: Switch, seen: Seen, clock: Clock, outlook: str
) -> Told:
    assert before.silent_since is not None
    within = duration(condition.within)
    if after.silent_since is None:
        since = clock.time(before.silent_since)
        return Told(
            Outcome.SATISFIED,
            f"The silence is over, whose last alarm was at {since}: {outlook}.",
        )
    begin = seen.received_at - condition.within
    count = sum(one.at > begin for one in after.newest)
    if all(one.id != seen.id for one in after.newest) or seen.at <= begin:
        return Told(
            Outcome.IGNORED,
            f"Ignored: it happened more than {within} ago, and does not end the silence.",
        )
    return Told(
        Outcome.COUNTED,
        f"Counted: {count} of {condition.threshold} in the last {within}, so that the silence "
        "goes on.",
    )


def _outlook(
    condition: Proactive, window: Switch, due_at: datetime | None, clock: Clock, now: datetime
) -> str:
    if due_at is None or window.silent_since is not None:
        return "it is silent"
    ends_at = _end(condition, window, due_at)
    if due_at < now:
        return f"it was silent until {clock.time(ends_at)}, so that it fires at once"
    begins_at = ends_at - condition.within
    count = sum(begins_at < one.at < ends_at for one in window.newest)
    missing = happens(condition.selection.expect, max(1, condition.threshold - count), more=True)
    due, ends = clock.times(due_at, ends_at)
    return f"fires at {due} unless {missing} before {'then' if due_at == ends_at else ends}"


def _end(condition: Proactive, window: Switch, due_at: datetime) -> datetime:
    """The end of what is looked at when it is due: the time of the alarm that would come."""
    _, effects = step(condition, window, Tick(due_at))
    fire = effects[0]
    assert isinstance(fire, Fire)
    return fire.at
