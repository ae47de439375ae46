"""Composites: what the firings of its children came to."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from upshot.core.facts import ChildrenFired
from upshot.core.history import Step
from upshot.core.phrases import Clock, both, duration
from upshot.core.sentences.outcomes import Outcome, Told
from upshot.core.triggers import Composite, Compound, Sequential
from upshot.core.windows import ChildFiring, Collected


def tell(condition: Composite, step: Step, clock: Clock) -> Told:
    assert isinstance(step.fact, ChildrenFired)
    after = step.after
    assert isinstance(after, Collected)
    path, told = step.node.path, sorted({child for child, _ in step.fact.firings})
    names = children_named(path, told)
    if step.fire is not None:
        return Told(Outcome.FIRED, f"Fired: {names} fired, {_all(condition)}.")
    if not any(one.ordinal == after.ordinal for one in after.firings):
        return Told(Outcome.IGNORED, f"Ignored: {names} fired for {_why_old(step, after, clock)}.")
    count, outlook = _progress(condition, path, after, clock)
    return Told(Outcome.COUNTED, f"Counted: {names} fired, so that {count} have{outlook}.")


def standing(
    condition: Composite, path: tuple[int, ...], window: Collected | None, clock: Clock
) -> str:
    """How many of the children have fired, and which are missing."""
    count, outlook = _progress(condition, path, window, clock)
    return f"{count} have fired{outlook}"


def missing_of(condition: Composite, window: Collected | None) -> tuple[list[int], list[int]]:
    """Which children have fired, as far as that counts now, and which have not."""
    firings = window.firings if window is not None else ()
    if isinstance(condition, Compound):
        fired = {one.child for one in _newest_together(condition, firings)}
    else:
        fired = {one.child for one in _chain(condition, firings)}
    return sorted(fired), [n for n in range(len(condition.children)) if n not in fired]


def children_named(path: tuple[int, ...], children: Iterable[int]) -> str:
    """`child 0`, `children 0.1 and 0.2`."""
    names = [".".join(map(str, (*path, child))) for child in children]
    return f"{'child' if len(names) == 1 else 'children'} {both(names)}"


def _why_old(step: Step, after: Collected, clock: Clock) -> str:
    assert isinstance(step.fact, ChildrenFired)
    newest = max(fire.at for _, fire in step.fact.firings)
    if after.fired_at is not None and newest < after.fired_at:
        return f"a time before {clock.time(after.fired_at)}, when the composite fired last"
    return f"{clock.time(newest)}, and has fired for a later time already"


def _all(condition: Composite) -> str:
    within = f" within {duration(condition.within)}" if condition.within else ""
    if isinstance(condition, Sequential):
        return f"and all {len(condition.children)} have in their order{within}"
    return f"and {condition.require} of {len(condition.children)} have{within}"


def _progress(
    condition: Composite, path: tuple[int, ...], window: Collected | None, clock: Clock
) -> tuple[str, str]:
    """How many have fired, and when it fires."""
    firings = window.firings if window is not None else ()
    if isinstance(condition, Compound):
        return _progress_of_compound(condition, path, firings, clock)
    return _progress_of_sequence(condition, path, firings, clock)


def _progress_of_compound(
    condition: Compound, path: tuple[int, ...], firings: Sequence[ChildFiring], clock: Clock
) -> tuple[str, str]:
    together = _newest_together(condition, firings)
    fired = {one.child for one in together}
    missing = [n for n in range(len(condition.children)) if n not in fired]
    needed = condition.require - len(fired)
    who = children_named(path, missing)
    if needed < len(missing):
        who = f"{'one' if needed == 1 else needed} {'more ' if fired else ''}of {who}"
    does = f"{'does' if needed == 1 else 'do'}{' too' if fired and needed == len(missing) else ''}"
    by = _by(together[0].at if together else None, condition, clock)
    return f"{len(fired)} of {condition.require}", f"; fires if {who} {does}{by}"


def _progress_of_sequence(
    condition: Sequential, path: tuple[int, ...], firings: Sequence[ChildFiring], clock: Clock
) -> tuple[str, str]:
    chain = _chain(condition, firings)
    count = len(condition.children)
    missing = range(len(chain), count)
    who = children_named(path, missing)
    if not chain:
        return f"0 of {count}", f" in their order; fires if {who} do in turn"
    does = "does" if len(missing) == 1 else "do, in turn,"
    by = _by(chain[0].at, condition, clock)
    return f"{len(chain)} of {count}", f" in their order; fires if {who} {does} after it{by}"


def _by(first_at: datetime | None, condition: Composite, clock: Clock) -> str:
    if not condition.within or first_at is None:
        return ""
    return f" by {clock.time(first_at + condition.within)}"


def _newest_together(condition: Compound, firings: Sequence[ChildFiring]) -> Sequence[ChildFiring]:
    """The newest firing, and those not further from it than `within`."""
    if not condition.within or not firings:
        return firings
    return [one for one in firings if firings[-1].at - one.at <= condition.within]


def _chain(condition: Sequential, firings: Sequence[ChildFiring]) -> Sequence[ChildFiring]:
    """The longest beginning of the sequence that there is; of several, the one begun last."""
    best: list[ChildFiring] = []
    for place in range(len(firings) - 1, -1, -1):
        if firings[place].child != 0:
            continue
        found = [firings[place]]
        for one in firings[place:]:
            is_later = (one.at, one.ordinal) > (found[-1].at, found[-1].ordinal)
            is_near = not condition.within or one.at - found[0].at <= condition.within
            if one.child == len(found) and is_later and is_near:
                found.append(one)
        if len(found) > len(best):
            best = found
    return best
