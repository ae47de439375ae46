"""A state of a run in the bodies that clients send."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from upshot.api.paging import Time
from upshot.core.limits import (
    STATE_DATA_BYTES_MAX,
    STATE_MESSAGE_CHARS_MAX,
    STATE_NAME_CHARS_MAX,
)
from upshot.prefect.routing import Sent
from upshot.prefect.states import State, StateType, new_id


def _cut(limit: int) -> Callable[[object], object]:
    return lambda value: value[:limit] if isinstance(value, str) else value


def _fits(value: Any) -> Any:
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    size = len(msgspec.json.encode(plain))
    if size > STATE_DATA_BYTES_MAX:
        raise ValueError(f"has {size:,} bytes; at most {STATE_DATA_BYTES_MAX:,} fit")
    return value


_Short = Annotated[str, Field(max_length=STATE_NAME_CHARS_MAX)]


class DetailsSent(BaseModel):
    """What a client adds to a state. Fields that mean nothing here are kept as they are."""

    model_config = ConfigDict(extra="allow")

    scheduled_time: Time | None = None
    pause_timeout: Time | None = None
    pause_reschedule: bool = False
    pause_key: _Short | None = None
    run_input_keyset: dict[str, str] | None = None
    transition_id: UUID | None = None


class StateSent(Sent):
    """A state that a client proposes. A long message is cut, lest the run could not end."""

    type: StateType
    name: Annotated[_Short, Field(min_length=1)] | None = None
    message: Annotated[str, BeforeValidator(_cut(STATE_MESSAGE_CHARS_MAX))] | None = None
    state_details: Annotated[DetailsSent, AfterValidator(_fits)] = DetailsSent()
    data: Annotated[Any, AfterValidator(_fits)] = None

    def state(self, *, now: datetime, **details: Any) -> State:
        """The state that is proposed; `details` are those the server knows."""
        sent = self.state_details.model_dump(mode="json", exclude_unset=True)
        made = State(
            id=new_id(),
            type=self.type,
            name=self.name or self.type.value.capitalize(),
            timestamp=now,
            message=self.message,
            state_details={**sent, **details},
            data=self.data,
        )
        if self.type == StateType.SCHEDULED and made.scheduled_time is None:
            return made.with_details(scheduled_time=now.isoformat())
        return made
