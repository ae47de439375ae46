"""Compound and sequence: conditions on the firings of their children."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import chain
from uuid import UUID

from msgspec.structs import replace

from upshot.core.facts import ChildrenFired, Effects, Fire
from upshot.core.limits import CHILD_FIRINGS_MAX, EVENTS_KEPT_MAX
from upshot.core.triggers import Composite, Compound
from upshot.core.windows import ChildFiring, Collected, Seen


def collect(
    condition: Composite, window: Collected | None, fact: ChildrenFired
) -> tuple[Collected, Effects]:
    """Look at the children's firings once, after all of them have seen the event."""
    window = window or Collected()
    ordinal = window.ordinal + 1
    new = [
        ChildFiring(child, fire.at, ordinal, fire.event, fire.counted)
        for child, fire in fact.firings
        if window.fired_at is None or fire.at >= window.fired_at
    ]
    several = sorted((*window.firings, *new), key=lambda one: (*_order(one), one.child))
    if isinstance(condition, Compound):
        several = list({firing.child: firing for firing in several}.values())
        several.sort(key=lambda one: (*_order(one), one.child))
        used = _close_together(several, require=condition.require, within=condition.within)
    else:
        several = _newest_of_each(several)
        used = _last_chain(several, length=len(condition.children), within=condition.within)
    if used is None:
        return replace(window, firings=tuple(several), ordinal=ordinal), ()
    fired_at = used[-1].at
    return Collected(fired_at=fired_at, ordinal=ordinal), (_fire(used),)


def _close_together(
    firings: Sequence[ChildFiring], *, require: int, within: timedelta
) -> Sequence[ChildFiring] | None:
    """The newest `require` firings of which no two are further apart than `within`."""
    for last in range(len(firings), require - 1, -1):
        used = firings[last - require : last]
        if not within or used[-1].at - used[0].at <= within:
            return used
    return None


def _last_chain(
    firings: Sequence[ChildFiring], *, length: int, within: timedelta
) -> Sequence[ChildFiring] | None:
    """One firing of each child in their order, each later than the one before; begun last."""
    for first in reversed(firings):
        if first.child != 0:
            continue
        used = [first]
        for firing in firings:
            if len(used) == length:
                break
            if firing.child == len(used) and _order(firing) > _order(used[-1]):
                used.append(firing)
        if len(used) == length and (not within or used[-1].at - used[0].at <= within):
            return used
    return None


def _newest_of_each(firings: Sequence[ChildFiring]) -> list[ChildFiring]:
    counts: dict[int, int] = {}
    kept = []
    for firing in reversed(firings):
        counts[firing.child] = counts.get(firing.child, 0) + 1
        if counts[firing.child] <= CHILD_FIRINGS_MAX:
            kept.append(firing)
    return kept[::-1]


def _fire(used: Sequence[ChildFiring]) -> Fire:
    counted: dict[UUID, Seen] = {}
    several = chain.from_iterable(one.counted for one in used)
    for seen in sorted(several, key=lambda one: (one.at, one.received_at, one.id)):
        counted.setdefault(seen.id, seen)
    event = next((one.event for one in reversed(used) if one.event is not None), None)
    return Fire(event, tuple(counted.values())[-EVENTS_KEPT_MAX:], None, used[-1].at)


def _order(firing: ChildFiring) -> tuple[datetime, int]:
    return firing.at, firing.ordinal
