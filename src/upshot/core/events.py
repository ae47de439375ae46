"""What an event is, and the short and long forms of its labels."""

from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

import msgspec
from msgspec import Struct

Labels = Mapping[str, str]

RESOURCE_ID = "prefect.resource.id"
RESOURCE_NAME = "prefect.resource.name"
RESOURCE_ROLE = "prefect.resource.role"

LONG_FORMS = {"id": RESOURCE_ID, "name": RESOURCE_NAME, "role": RESOURCE_ROLE}
"""Labels that may be written short; stored and shown in the long form."""

OWN_EVENT_PREFIX = "upshot."
"""Upshot's own events: clients cannot post them, and no catch-all pattern matches them."""

ANNOUNCED_PREFIX = "prefect.automation."
"""What is told of firings, which would fire a catch-all anew: none matches it."""

FLOW_EVENT_PREFIX = "prefect."
"""What Prefect's servers and clients tell of flows, automations and their runs."""


class Event(Struct, frozen=True, gc=False):
    """A stored event. `payload` is the JSON text as the client sent it, read only when needed.

    A Struct and not a dataclass: one is made for every event that is evaluated.
    """

    id: UUID
    name: str
    resource: Labels
    related: tuple[Labels, ...]
    payload: str
    occurred_at: datetime
    received_at: datetime
    follows: UUID | None = None

    @property
    def at(self) -> datetime:
        """The event's time in every window: nothing has happened after it was received."""
        return min(self.occurred_at, self.received_at)


def long_form(label: str) -> str:
    """`id` is `prefect.resource.id`, likewise `name` and `role`; all else is itself."""
    return LONG_FORMS.get(label, label)


def event_json(event: Event) -> str:
    """The event as it is shown and sent to runners; the payload's text is exactly what came."""
    return msgspec.json.encode(
        {
            "id": event.id,
            "event": event.name,
            "resource": event.resource,
            "related": event.related,
            "payload": msgspec.Raw(event.payload.encode()),
            "occurred": event.occurred_at,
            "received": event.received_at,
            "follows": event.follows,
        }
    ).decode()
