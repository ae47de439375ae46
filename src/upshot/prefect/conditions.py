"""Prefect's triggers and Upshot's conditions, which mean the same, put into each other's form."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from upshot.core.errors import Invalid, Problem
from upshot.core.language import Duration
from upshot.core.limits import LATENESS_DEFAULT, NODES_DEEP_MAX, PROACTIVE_WITHIN_DEFAULT

Loc = tuple[str | int, ...]

_EVENT_FIELDS: Final = (
    "expect", "after", "for_each", "match", "match_related", "posture", "threshold", "within",
)  # fmt: skip
_SETS: Final = ("expect", "after", "for_each")
_COMPOSITE_FIELDS: Final = ("require", "within")
_duration: Final[TypeAdapter[timedelta]] = TypeAdapter(Duration)


def condition_of(trigger: Mapping[str, Any], loc: Loc = ("trigger",)) -> dict[str, Any]:
    """The condition of a trigger as a client of Prefect sends it; the language checks it further.

    Sets are sorted, since a client writes them in another order each time.

    Raises:
        Invalid: it is of a kind that Upshot has not, or too short for a Proactive trigger.
    """
    return _condition_of(trigger, loc, 0)


def trigger_shown(document: Mapping[str, Any]) -> dict[str, Any]:
    """What Prefect's language can say of a stored trigger."""
    if document["type"] != "event":
        shown = {
            "type": document["type"],
            "triggers": [trigger_shown(child) for child in document["triggers"]],
            "within": None if document["within"] is None else float(document["within"]),
        }
        return {**shown, "require": document["require"]} if "require" in document else shown
    related = document["match_related"]
    return {
        "type": "event",
        **{field: sorted(set(document[field])) for field in _SETS},
        "match": document["match"],
        # Clients before 3.1 read one object alone.
        "match_related": _one_or_more(related) if isinstance(related, list) else related,
        "posture": document["posture"],
        "threshold": document["threshold"],
        "within": float(document["within"]),
    }


def says_more(document: Mapping[str, Any]) -> bool:
    """Whether a stored trigger says what Prefect's language cannot, so that it is not shown."""
    if document["type"] != "event":
        return bool(document["for_each"]) or any(map(says_more, document["triggers"]))
    lateness = _duration.validate_python(document["lateness"])
    return (
        document["where"] is not None
        or document["repeat"] is not None
        or lateness != LATENESS_DEFAULT
    )


def _condition_of(trigger: Any, loc: Loc, depth: int) -> dict[str, Any]:
    if not isinstance(trigger, Mapping):
        raise _invalid(loc, "must be an object")
    if depth > NODES_DEEP_MAX:
        raise _invalid(loc, f"is nested deeper than {NODES_DEEP_MAX} levels")
    match _kind_of(trigger):
        case "event":
            return _event_condition(trigger, loc)
        case "compound" | "sequence" as kind:
            children = trigger.get("triggers")
            if not isinstance(children, list):
                raise _invalid((*loc, "triggers"), "must be a list of triggers")
            return {
                "type": kind,
                "triggers": [
                    _condition_of(child, (*loc, "triggers", place), depth + 1)
                    for place, child in enumerate(children)
                ],
                **_given(trigger, _COMPOSITE_FIELDS if kind == "compound" else ("within",)),
            }
        case "metric":
            raise _invalid(
                loc,
                "Upshot measures no metrics of flow runs. An event trigger on prefect.flow-run.* "
                "says what became of them; a Proactive one on prefect.flow-run.Completed says "
                "that one did not.",
            )
        case other:
            raise _invalid((*loc, "type"), f"{other!r} is no event, compound or sequence trigger")


def _kind_of(trigger: Mapping[str, Any]) -> object:
    """The client leaves out a type that it did not set."""
    if trigger.get("type") is not None:
        return trigger["type"]
    if "triggers" in trigger:
        return "compound" if "require" in trigger else "sequence"
    return "metric" if trigger.get("posture") == "Metric" else "event"


def _event_condition(trigger: Mapping[str, Any], loc: Loc) -> dict[str, Any]:
    if trigger.get("posture") == "Metric":
        return _condition_of({"type": "metric"}, loc, 0)
    condition = _given(trigger, _EVENT_FIELDS)
    for field in _SETS:
        patterns = condition.get(field)
        if isinstance(patterns, list) and all(isinstance(one, str) for one in patterns):
            condition[field] = sorted(set(patterns))
    if condition.get("posture") == "Proactive":
        within = _seconds(condition.get("within", 0))
        if not within:
            condition["within"] = PROACTIVE_WITHIN_DEFAULT.total_seconds()
        elif within < PROACTIVE_WITHIN_DEFAULT:
            raise _invalid(
                (*loc, "within"),
                "of a Proactive trigger must be at least 10 seconds here; PUT /v1/triggers takes "
                "shorter ones",
            )
    return {"type": "event", **condition}


def _given(trigger: Mapping[str, Any], fields: Sequence[str]) -> dict[str, Any]:
    return {field: trigger[field] for field in fields if trigger.get(field) is not None}


def _seconds(within: object) -> timedelta:
    """What is no duration is long enough here: the language refuses it."""
    try:
        return _duration.validate_python(within)
    except ValidationError:
        return PROACTIVE_WITHIN_DEFAULT


def _one_or_more(related: list[dict[str, Any]]) -> list[dict[str, Any]] | dict[str, Any]:
    return {} if not related else related[0] if len(related) == 1 else related


def _invalid(loc: Loc, message: str) -> Invalid:
    return Invalid(f"{'.'.join(map(str, loc))}: {message}", [Problem(loc, message)])
