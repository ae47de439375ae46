"""Triggers and events as they are written, brought into the form the model works on."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from tests.core.reference.facts import Seen
from upshot.core.events import Event, long_form
from upshot.core.keys import Key, KeyPart, KeyRefused, key_of, parse_key_part
from upshot.core.matching import LabelMatch, parse_label_match, related_hold
from upshot.core.patterns import Patterns, parse_patterns
from upshot.core.where import Where, compile_where

Written = Mapping[str, Any]

LATENESS = 60
PROACTIVE_WITHIN = 10


@dataclass(frozen=True, slots=True)
class Selection:
    """Which events concern an event trigger, and as what."""

    expect: Patterns
    after: Patterns | None
    match: LabelMatch
    match_related: tuple[LabelMatch, ...]
    where: Where | None
    for_each: tuple[KeyPart, ...]

    def key_of(self, event: Event) -> Key | None:
        """None: the event does not concern the trigger."""
        if not self.match.holds(event.resource):
            return None
        if not related_hold(self.match_related, event.related):
            return None
        if self.where is not None and not self.where.holds(event):
            return None
        try:
            return key_of(event, self.for_each)
        except KeyRefused:
            return None

    def seen(self, event: Event, order: int, now: datetime) -> Seen | None:
        opens = self.after is not None and self.after.matches_name(event.name)
        expected = self.expect.matches_name(event.name)
        if not (opens or expected):
            return None
        return Seen(
            id=event.id,
            at=event.at,
            arrived_at=event.received_at,
            order=order,
            opens=opens,
            expected=expected,
            evaluated_at=now,
        )


@dataclass(frozen=True, slots=True)
class Rules:
    """When an event trigger fires on the events that concern it."""

    threshold: int
    within: timedelta
    lateness: timedelta
    repeats: bool
    keyed: bool

    @property
    def grace(self) -> timedelta:
        """How long after the arrival of what it is counted from an absence may be decided."""
        return min(self.lateness, self.within)


def selection_of(trigger: Written, for_each: Sequence[KeyPart]) -> Selection:
    related = trigger.get("match_related") or []
    return Selection(
        expect=parse_patterns(_listed(trigger.get("expect")) or ["*"]),
        after=parse_patterns(_listed(trigger["after"])) if trigger.get("after") else None,
        match=parse_label_match(trigger.get("match") or {}),
        match_related=tuple(
            map(parse_label_match, [related] if isinstance(related, Mapping) else related)
        ),
        where=compile_where(trigger["where"]) if trigger.get("where") else None,
        for_each=tuple(for_each),
    )


def is_proactive(trigger: Written) -> bool:
    return trigger.get("posture") == "Proactive"


def rules_of(trigger: Written, *, keyed: bool) -> Rules:
    repeat = trigger.get("repeat")
    return Rules(
        threshold=trigger.get("threshold", 1),
        within=timedelta(seconds=_within(trigger)),
        lateness=timedelta(seconds=_given(trigger, "lateness", LATENESS)),
        repeats=not keyed if repeat is None else repeat,
        keyed=keyed,
    )


def for_each_of(trigger: Written) -> tuple[KeyPart, ...]:
    return tuple(map(parse_key_part, _listed(trigger.get("for_each"))))


def condition_of(trigger: Written) -> dict[str, Any]:
    """What makes the condition and nothing else, the same for triggers that mean the same."""
    kind = trigger.get("type", "event")
    common = {"type": kind, "for_each": [str(part) for part in for_each_of(trigger)]}
    if kind != "event":
        return {
            **common,
            "require": trigger.get("require", "all"),
            "within": trigger.get("within") or 0,
            "triggers": [condition_of(child) for child in trigger["triggers"]],
        }
    related = trigger.get("match_related") or []
    return {
        **common,
        "expect": sorted(set(_listed(trigger.get("expect")) or ["*"])),
        "after": sorted(set(_listed(trigger.get("after")))),
        "match": _canonical_labels(trigger.get("match") or {}),
        "match_related": sorted(
            map(_canonical_labels, [related] if isinstance(related, Mapping) else related)
        ),
        "where": trigger.get("where") or None,
        "proactive": is_proactive(trigger),
        "threshold": trigger.get("threshold", 1),
        "within": _within(trigger),
        "lateness": _given(trigger, "lateness", LATENESS),
        "repeat": trigger.get("repeat"),
    }


def event_of(line: Written, *, event_id: UUID, occurred: datetime, received: datetime) -> Event:
    follows = line.get("follows")
    return Event(
        id=event_id,
        name=line["event"],
        resource=_long(line["resource"]),
        related=tuple(map(_long, line.get("related") or [])),
        payload=json.dumps(line.get("payload") or {}),
        occurred_at=occurred,
        received_at=received,
        follows=UUID(follows) if follows else None,
    )


def time_of(written: str) -> datetime:
    """A time without an offset is read as UTC."""
    at = datetime.fromisoformat(written)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _within(trigger: Written) -> float:
    return _given(trigger, "within", PROACTIVE_WITHIN if is_proactive(trigger) else 0)


def _given(trigger: Written, field: str, default: float) -> float:
    value = trigger.get(field)
    return default if value is None else float(value)


def _long(labels: Mapping[str, str]) -> dict[str, str]:
    return {long_form(label): value for label, value in labels.items()}


def _listed(written: Any) -> list[str]:
    if written is None:
        return []
    return [written] if isinstance(written, str) else list(written)


def _canonical_labels(labels: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    return sorted((long_form(label), sorted(set(_listed(v)))) for label, v in labels.items())
