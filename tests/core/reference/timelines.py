"""Random triggers and random timelines, on a grid so coarse that ties and exact ends are common."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from hypothesis import strategies as st

from tests.core.reference.lines import FIRST_DAY, Line

NAMES = ("a", "b", "c")
KEYS = ("1", "2")
STEP_SECONDS = 5
EVENTS_MAX = 14
NESTING_MAX = 3
UNKNOWN_ID = "00000000-0000-0000-0000-0000000000ff"

WITHINS = (10, 10, 20, 45)
LATENESSES = (None, None, 0, 10, 20)
ONE_PART = (["id"], ["related:user:id"], ["payload.k"])
GAPS = (0, 0, 1, 1, 1, 2, 4)
LAGS = (0, 0, 0, 0, 1, 2, 3, 5, 12, 14)
WAITS = (0, 1, 2, 9, 13, 185)

_names = st.lists(st.sampled_from(NAMES), min_size=1, max_size=2, unique=True)


@dataclass(frozen=True, slots=True)
class Timeline:
    trigger: Line
    lines: Sequence[Line]


@st.composite
def triggers(draw: st.DrawFn) -> Line:
    return {"name": "t", "deployment": "d", **draw(_conditions(depth=NESTING_MAX, parts=None))}


@st.composite
def timelines(draw: st.DrawFn) -> Timeline:
    trigger = draw(triggers())
    changes = draw(st.booleans()) and draw(st.booleans())
    lines: list[Line] = []
    clock, is_there = 0, True
    for number in range(draw(st.integers(1, EVENTS_MAX))):
        kind = draw(st.integers(0, 19))
        if kind == 0:
            clock += draw(st.sampled_from(WAITS))
            lines.append({"now": _time(clock)})
        elif kind <= 2 and changes and lines:
            change, is_there = draw(_changes(trigger, is_there=is_there))
            lines.append(change)
        else:
            clock += draw(st.sampled_from(GAPS))
            lines.append(draw(_events(number, clock)))
    lines.append({"now": _time(clock + draw(st.sampled_from(WAITS)))})
    return Timeline(trigger=trigger, lines=lines)


@st.composite
def _conditions(draw: st.DrawFn, *, depth: int, parts: int | None) -> Line:
    """`parts` is how many a key has to have; None is as many as it likes."""
    kind = draw(st.sampled_from(("event", "event", "compound", "sequence")))
    if depth == 1 or kind == "event":
        return draw(_event_conditions(parts=parts))
    for_each = draw(_for_eaches(parts=parts))
    count = draw(st.integers(1, 3))
    inner = (len(for_each) or parts) or None
    child = _conditions(depth=depth - 1, parts=inner)
    condition: Line = {
        "type": kind,
        "triggers": draw(st.lists(child, min_size=count, max_size=count)),
        "within": draw(st.sampled_from((None, 0, *WITHINS))),
        "for_each": for_each,
    }
    if kind == "compound":
        condition["require"] = draw(st.sampled_from(("any", "all", *range(1, count + 1))))
    return condition


@st.composite
def _event_conditions(draw: st.DrawFn, *, parts: int | None) -> Line:
    condition: Line = {
        "expect": draw(st.one_of(_names, _names, st.just([]))),
        "after": draw(st.one_of(st.just([]), _names)),
        "for_each": draw(_for_eaches(parts=parts)),
        "threshold": draw(st.sampled_from((1, 1, 2, 3))),
    }
    lateness = draw(st.sampled_from(LATENESSES))
    if lateness is not None:
        condition["lateness"] = lateness
    if draw(st.booleans()):
        condition["within"] = draw(st.sampled_from((0, *WITHINS)))
        return condition
    condition["posture"] = "Proactive"
    condition["within"] = draw(st.sampled_from(WITHINS))
    if not condition["after"]:
        condition["repeat"] = draw(st.sampled_from((None, True, False)))
    return condition


@st.composite
def _for_eaches(draw: st.DrawFn, *, parts: int | None) -> list[str]:
    """Where a composite above has a key, its own length or nothing, which is the composite's."""
    if parts == 2:
        return draw(st.sampled_from(([], ["payload.k", "id"])))
    if parts == 1:
        return draw(st.sampled_from(([], *ONE_PART)))
    return draw(st.sampled_from(([], [], *ONE_PART, ["id", "payload.k"])))


@st.composite
def _events(draw: st.DrawFn, number: int, clock: int) -> Line:
    lag = draw(st.sampled_from(LAGS))
    line: Line = {
        "event": draw(st.sampled_from(NAMES)),
        "id": _id(number),
        "occurred": _time(clock - lag),
        "received": _time(clock),
        "resource": {"id": draw(st.sampled_from(KEYS))},
    }
    user = draw(st.sampled_from((*KEYS, None)))
    if user is not None:
        line["related"] = [{"id": user, "role": "user"}]
    payload = draw(st.sampled_from((1, "1", 2.0, None)))
    if payload is not None:
        line["payload"] = {"k": payload}
    match draw(st.integers(0, 29)):
        case 0 | 1 | 2:
            line["follows"] = draw(st.sampled_from([*map(_id, range(EVENTS_MAX)), UNKNOWN_ID]))
        case 3 if number:
            line["id"] = _id(draw(st.integers(0, number - 1)))
        case 4:
            line["occurred"] = _time(clock + 1)
    return line


@st.composite
def _changes(draw: st.DrawFn, trigger: Line, *, is_there: bool) -> tuple[Line, bool]:
    """A change that can be made, and whether the trigger is there after it."""
    kinds = ("disable", "enable", "put", "other", "delete") if is_there else ("put", "other")
    kind = draw(st.sampled_from(kinds))
    match kind:
        case "put":
            enabled = draw(st.booleans())
            return {"put": {**trigger, "enabled": enabled, "description": "again"}}, True
        case "other":
            return {"put": draw(triggers())}, True
        case _:
            return {kind: trigger["name"]}, kind != "delete"


def _time(steps: int) -> str:
    return (FIRST_DAY + timedelta(hours=10, seconds=STEP_SECONDS * steps)).isoformat()


def _id(number: int) -> str:
    return f"00000000-0000-0000-0000-{number:012x}"
