"""Builders with defaults, for what the tests of the core are about."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from upshot.core.events import RESOURCE_ID, Event, Labels
from upshot.core.language import EventCondition, compile_trigger
from upshot.core.triggers import Condition, Selection, Trigger

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    """So many seconds after noon."""
    return NOON + timedelta(seconds=seconds)


def event(
    name: str = "order.created",
    *,
    resource_id: str = "123",
    seconds: float = 0,
    number: int = 0,
    labels: Labels | None = None,
    related: Sequence[Labels] = (),
    payload: str = "{}",
    received_after: float = 0,
) -> Event:
    """An event that happened `seconds` after noon; `number` makes its id."""
    return Event(
        id=UUID(int=number),
        name=name,
        resource={RESOURCE_ID: resource_id, **(labels or {})},
        related=tuple(related),
        payload=payload,
        occurred_at=at(seconds),
        received_at=at(seconds + received_after),
    )


def condition(**fields: Any) -> Condition:
    """The condition a client would write with these fields."""
    return EventCondition.model_validate(fields).compiled()


def selection(**fields: Any) -> Selection:
    """What a condition with these fields looks for in an event."""
    return EventCondition.model_validate(fields).compiled().selection


def trigger(
    number: int = 1, *, version: int = 1, parameters: Mapping[str, Any] | None = None, **fields: Any
) -> Trigger:
    return compile_trigger(
        {"name": f"t{number}", "deployment": "d", "parameters": parameters or {}, **fields},
        trigger_id=UUID(int=number),
        number=number,
        version=version,
    )
