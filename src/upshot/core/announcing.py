"""What the log is told of a firing that is announced, in the words of Prefect's automations.

That the trigger fired (`prefect.automation.triggered`), and of each action that it was begun
(`prefect.automation.action.triggered`) and how it ended (`.executed`, `.failed`). The ids follow
from the firing, so that the same firing is told of by the same events.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec
from msgspec import Struct

from upshot.core.events import RESOURCE_ID, RESOURCE_NAME, RESOURCE_ROLE, Event, Labels, event_json
from upshot.core.intake import NewEvent
from upshot.core.lifecycle import EndedRun
from upshot.core.runs import Firing
from upshot.core.triggers import Action, Compound, Proactive, Reactive, Run, Sequential, Trigger

AUTOMATION: Final = "prefect.automation."
DEPLOYMENT: Final = "prefect.deployment."
FLOW_RUN: Final = "prefect.flow-run."
"""How the ids of these resources begin; a UUID follows."""

TRIGGERED: Final = "prefect.automation.triggered"
ACTION_TRIGGERED: Final = "prefect.automation.action.triggered"
ACTION_EXECUTED: Final = "prefect.automation.action.executed"
ACTION_FAILED: Final = "prefect.automation.action.failed"

CALL_WEBHOOK: Final = "call-webhook"
"""The kind of action that is done when its run has ended; others are when it is made."""


@dataclass(frozen=True, slots=True)
class Done:
    """What one action of a firing has come to, `related` to what. `reason` says why it failed."""

    place: int
    action: Action
    related: tuple[Labels, ...] = ()
    reason: str | None = None
    made_run: bool = False


class _Told(Struct, frozen=True):
    """What is left to be told of an action; as it is kept with its run."""

    resource: dict[str, str]
    related: list[dict[str, str]]
    payload: dict[str, Any]


class MadeBy(Struct, frozen=True, omit_defaults=True):
    """Which of its trigger's actions made a run, and what is told when it ends."""

    place: int
    told: _Told | None = None


def inferred_id(event: Event | None, kind: str) -> UUID | None:
    """The first id of this kind of resource (`DEPLOYMENT`) that the event tells of."""
    for labels in () if event is None else (event.resource, *event.related):
        resource_id = labels.get(RESOURCE_ID, "")
        if resource_id.startswith(kind):
            try:
                return UUID(resource_id.removeprefix(kind))
            except ValueError:
                continue
    return None


def made_by(firing: Firing, done: Done, *, depth: int) -> str:
    """As JSON, to be kept with the run that this action has made."""
    told = None
    if firing.trigger.announces and _is_told_later(done):
        told = _Told(
            resource=_resource(firing.trigger),
            related=_related(firing, done),
            payload=_payload(firing, done, depth),
        )
    return msgspec.json.encode(MadeBy(done.place, told)).decode()


def place_of(action: str) -> int:
    """Which of its trigger's actions made a run, by what is kept with it."""
    return msgspec.json.decode(action, type=MadeBy).place


def announced(firing: Firing, done: Sequence[Done], *, depth: int) -> Iterator[NewEvent]:
    """What is told of the firing at once. `depth` is how many runs in a row led to it."""
    trigger = firing.trigger
    resource = _resource(trigger)
    yield _event(
        firing.id_of("triggered"),
        TRIGGERED,
        resource={name: label for name, label in resource.items() if name != _TRIGGER_TYPE},
        related=_causes(firing),
        payload={
            "triggering_labels": firing.labels,
            "triggering_event": _triggering_event(firing),
            "depth": depth,
        },
        occurred=firing.at,
    )
    for one in done:
        place, related, payload = (
            str(one.place),
            _related(firing, one),
            _payload(firing, one, depth),
        )
        yield _event(
            firing.id_of(place, "triggered"),
            ACTION_TRIGGERED,
            resource=resource,
            related=related,
            payload=payload,
            occurred=firing.at,
        )
        if not _is_told_later(one):
            yield _ended_action(
                firing.id_of(place, "ended"),
                _Told(resource, related, payload),
                reason=one.reason,
                occurred=firing.at,
            )


def announced_end(run: EndedRun, *, event_id: UUID) -> NewEvent | None:
    """What is told of the action whose run has ended. None: there is nothing to tell."""
    told = None if run.action is None else msgspec.json.decode(run.action, type=MadeBy).told
    if told is None:
        return None
    reason = None if run.state == "completed" else run.error or run.state
    return _ended_action(event_id, told, reason=reason, occurred=run.finished_at)


def _is_told_later(done: Done) -> bool:
    """Whether how its run ends is what there is to tell."""
    return done.made_run and isinstance(done.action, Run) and done.action.kind == CALL_WEBHOOK


def _ended_action(
    event_id: UUID, told: _Told, *, reason: str | None, occurred: datetime
) -> NewEvent:
    return _event(
        event_id,
        ACTION_EXECUTED if reason is None else ACTION_FAILED,
        resource=told.resource,
        related=told.related,
        payload=told.payload if reason is None else {**told.payload, "reason": reason},
        occurred=occurred,
    )


def _payload(firing: Firing, done: Done, depth: int) -> dict[str, Any]:
    return {
        "action_index": done.place,
        "action_type": done.action.kind,
        "invocation": str(firing.id_of(str(done.place))),
        "depth": depth,
    }


_TRIGGER_TYPE: Final = "prefect.trigger-type"


def _resource(trigger: Trigger) -> dict[str, str]:
    resource = {RESOURCE_ID: f"{AUTOMATION}{trigger.id}", RESOURCE_NAME: trigger.title}
    match trigger.condition:
        case Reactive():
            return {**resource, _TRIGGER_TYPE: "event", "prefect.posture": "Reactive"}
        case Proactive():
            return {**resource, _TRIGGER_TYPE: "event", "prefect.posture": "Proactive"}
        case Compound():
            return {**resource, _TRIGGER_TYPE: "compound"}
        case Sequential():
            return {**resource, _TRIGGER_TYPE: "sequence"}


def _related(firing: Firing, done: Done) -> list[dict[str, str]]:
    triggered = {
        RESOURCE_ID: f"prefect.event.{firing.id_of('triggered')}",
        RESOURCE_ROLE: "automation-triggered-event",
    }
    return [*map(dict, done.related), triggered, *_causes(firing)]


def _causes(firing: Firing) -> list[dict[str, str]]:
    event = firing.fire.event
    if event is None:
        return []
    return [{RESOURCE_ID: f"prefect.event.{event.id}", RESOURCE_ROLE: "triggering-event"}]


def _triggering_event(firing: Firing) -> msgspec.Raw | None:
    seen = firing.fire.event
    if seen is None or seen.event is None:
        return None
    return msgspec.Raw(event_json(seen.event).encode())


def _event(
    event_id: UUID,
    name: str,
    *,
    resource: Mapping[str, str],
    related: Sequence[Labels],
    payload: Mapping[str, Any],
    occurred: datetime,
) -> NewEvent:
    labels = _json({label: value for label, value in resource.items() if label != RESOURCE_ID})
    related_json, payload_json = _json(related), _json(payload)
    return NewEvent(
        id=event_id,
        id_given=False,
        digest=None,
        name=name,
        resource_id=resource[RESOURCE_ID],
        labels_json=labels.decode(),
        related_json=related_json.decode() if related else None,
        payload_json=payload_json.decode(),
        occurred=occurred,
        follows=None,
        size=len(labels) + len(related_json) + len(payload_json),
    )


_json = msgspec.json.Encoder().encode
