"""The fields of an event that a condition names, and their values."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypedDict

import msgspec

from upshot.core.events import LONG_FORMS, Event, Labels

Step = str | int


@dataclass(frozen=True, slots=True)
class EventPath:
    """A field of the event and the fixed steps below it. `is_asked` is `has`: is it there?"""

    name: str
    steps: tuple[Step, ...]
    is_asked: bool = False

    def __str__(self) -> str:
        return f"event.{self.name}" + "".join(map(_written, self.steps))


class Missing(Exception):
    """The event has nothing there."""


STEP_KINDS: Final[Mapping[str, tuple[type, ...] | None]] = {
    "id": (),
    "event": (),
    "name": (),
    "resource": (str,),
    "related": (int, str),
    "payload": None,
    "occurred": (),
    "received": (),
    "follows": (),
}
"""The fields of an event, and the steps that lead into each; None: any."""

_FIELDS: Final[Mapping[str, Callable[[Event], Any]]] = {
    "id": lambda event: str(event.id),
    "event": lambda event: event.name,
    "name": lambda event: event.name,
    "resource": lambda event: _with_short_names(event.resource),
    "related": lambda event: [_with_short_names(labels) for labels in event.related],
    "occurred": lambda event: event.occurred_at,
    "received": lambda event: event.received_at,
    "follows": lambda event: None if event.follows is None else str(event.follows),
}


class Paths:
    """Looks several paths up in an event. Of the payload no more is made than they name."""

    def __init__(self, paths: Mapping[str, EventPath]) -> None:
        self._paths = tuple(paths.items())
        self._decode = _payload_decoder(paths.values())

    def values(self, event: Event) -> dict[str, Any]:
        """The value of each path that leads somewhere, by the path's variable."""
        payload = None if self._decode is None else self._decode(event.payload)
        found = {}
        for variable, path in self._paths:
            try:
                found[variable] = _value(event, path, payload)
            except Missing:
                continue
        return found


def _payload_decoder(paths: Iterable[EventPath]) -> Callable[[str], Any] | None:
    into = [path.steps[:1] for path in paths if path.name == "payload"]
    if not into:
        return None
    if () in into:
        return msgspec.json.Decoder().decode
    # Whatever a typed dict does not list is skipped, which is much faster than making it.
    fields: Any = TypedDict
    return msgspec.json.Decoder(
        fields("Payload", {str(step): Any for (step,) in into}, total=False)
    ).decode


def _value(event: Event, path: EventPath, payload: Any) -> Any:
    if path.name == "payload":
        value = payload
    elif path.name == "resource" and path.steps:
        # Its step is in the long form already.
        value = dict(event.resource)
    else:
        value = _FIELDS[path.name](event)
    if not path.steps:
        return True if path.is_asked else value
    *above, last = path.steps
    for step in above:
        value = _below(value, step)
    if not path.is_asked:
        return _below(value, last)
    if not isinstance(value, dict):
        raise Missing
    return last in value


def _below(value: Any, step: Step) -> Any:
    if isinstance(value, dict) and step in value:
        return value[step]
    if isinstance(value, list) and isinstance(step, int) and step < len(value):
        return value[step]
    raise Missing


def _with_short_names(labels: Labels) -> dict[str, str]:
    seen = dict(labels)
    for short, long in LONG_FORMS.items():
        if long in labels:
            seen[short] = labels[long]
    return seen


def _written(step: Step) -> str:
    if isinstance(step, int):
        return f"[{step}]"
    return f".{step}" if re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", step) else f'["{step}"]'
