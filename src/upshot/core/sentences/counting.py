"""Reactive without `after`: what an event added to the count of its key."""

from collections.abc import Sequence

from upshot.core.facts import Matched
from upshot.core.history import Step
from upshot.core.phrases import Clock, duration, happens
from upshot.core.sentences.outcomes import Outcome, Told
from upshot.core.triggers import Reactive
from upshot.core.windows import Counting, Seen


def tell(condition: Reactive, step: Step, clock: Clock) -> Told:
    assert isinstance(step.fact, Matched)
    seen = step.fact.seen()
    before = step.before if isinstance(step.before, Counting) else Counting()
    after = step.after if isinstance(step.after, Counting) else Counting()
    if step.fire is not None:
        return Told(Outcome.FIRED, _fired(condition, after, clock))
    if any(one.id == seen.id for one in after.counted):
        return Told(Outcome.COUNTED, _counted(condition, after, seen, clock))
    if before.quiet_until is not None and seen.at < before.quiet_until:
        happened, until = clock.times(seen.at, before.quiet_until)
        return Told(
            Outcome.IGNORED,
            f"Ignored: it happened at {happened}; the key has fired, and is quiet until {until}.",
        )
    newest = after.counted[-1].at
    kept = condition.within + condition.lateness
    return Told(
        Outcome.IGNORED,
        f"Ignored: it happened {duration(newest - seen.at)} before the newest event that counts, "
        f"at {clock.time(newest)}; only {duration(kept)} are remembered.",
    )


def _fired(condition: Reactive, after: Counting, clock: Clock) -> str:
    count = condition.threshold
    text = f"Fired: {count} of {count}"
    if condition.within and count > 1:
        text += f" within {duration(condition.within)}"
    if after.quiet_until is None:
        return f"{text}."
    return f"{text}; quiet until {clock.time(after.quiet_until)}."


def _counted(condition: Reactive, after: Counting, seen: Seen, clock: Clock) -> str:
    expect, threshold = condition.selection.expect, condition.threshold
    if not condition.within:
        count = len(after.counted)
        missing = happens(expect, threshold - count, more=True)
        return f"Counted: {count} of {threshold}; fires when {missing}."
    span = _best_span(condition, after.counted, seen)
    count = len(span)
    return (
        f"Counted: {count} of {threshold} within {duration(condition.within)}; fires if "
        f"{happens(expect, threshold - count, more=True)} before "
        f"{clock.time(span[0].at + condition.within)}."
    )


def _best_span(condition: Reactive, counted: Sequence[Seen], seen: Seen) -> Sequence[Seen]:
    """The most events in one span, this one among them; of several, the span that begins last."""
    best: Sequence[Seen] = ()
    for first, begin in enumerate(counted):
        span = [one for one in counted[first:] if one.at < begin.at + condition.within]
        if any(one.id == seen.id for one in span) and len(span) >= len(best):
            best = span
    return best
