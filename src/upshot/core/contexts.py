"""What the templates of a firing see."""

from collections.abc import Callable, Mapping
from typing import Any

from upshot.core.events import Event
from upshot.core.runs import Firing, trigger_document
from upshot.core.windows import Seen


def context_of(firing: Firing, *, of_event: Callable[[Event], Mapping[str, Any]]) -> dict[str, Any]:
    """`of_event` gives an event's form. `after` and `events` are there where they were kept."""
    fire, trigger = firing.fire, firing.trigger

    def seen(one: Seen | None) -> Mapping[str, Any] | None:
        return None if one is None or one.event is None else of_event(one.event)

    return {
        "event": seen(fire.event),
        "after": seen(fire.after) if trigger.keeps_after else None,
        "events": [seen(one) for one in fire.counted] if trigger.keeps_events else [],
        "labels": firing.labels,
        "trigger": trigger_document(trigger),
        "deployment": {"name": trigger.deployment},
    }
