"""What the templates of a firing see."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from upshot.core.events import Event
from upshot.core.runs import Firing
from upshot.core.templates.shapes import CONTEXT
from upshot.core.windows import Seen

OfEvent = Callable[[Event], Mapping[str, Any]]
NAMES = tuple(CONTEXT)


def context_of(
    firing: Firing,
    *,
    deployment: str | None,
    of_event: OfEvent,
    names: Collection[str] = NAMES,
) -> dict[str, Any]:
    """`of_event` gives an event's form, `names` those of the context that are used.

    `after` and `events` are there where they were kept.
    """
    return {name: _OF_NAME[name](firing, deployment, of_event) for name in names}


def _seen(one: Seen | None, of_event: OfEvent) -> Mapping[str, Any] | None:
    return None if one is None or one.event is None else of_event(one.event)


def _events(firing: Firing, _: str | None, of_event: OfEvent) -> list[Any]:
    keeps = firing.trigger.keeps_events
    return [_seen(one, of_event) for one in firing.fire.counted] if keeps else []


_OF_NAME: Mapping[str, Callable[[Firing, str | None, OfEvent], Any]] = {
    "event": lambda firing, _, of_event: _seen(firing.fire.event, of_event),
    "after": lambda firing, _, of_event: (
        _seen(firing.fire.after, of_event) if firing.trigger.keeps_after else None
    ),
    "events": _events,
    "labels": lambda firing, _, __: firing.labels,
    "trigger": lambda firing, _, __: firing.trigger.document,
    "automation": lambda firing, _, __: firing.trigger.automation,
    "deployment": lambda _, deployment, __: {"name": deployment},
}
