"""States of runs, as Prefect's clients say and read them."""

import os
import time
from collections.abc import Callable
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec
from msgspec import Struct
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from upshot.api.paging import Time
from upshot.core.intake import Ids
from upshot.core.limits import (
    STATE_DATA_BYTES_MAX,
    STATE_MESSAGE_CHARS_MAX,
    STATE_NAME_CHARS_MAX,
)
from upshot.prefect.routing import Sent


class StateType(StrEnum):
    SCHEDULED = "SCHEDULED"
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    CRASHED = "CRASHED"
    PAUSED = "PAUSED"
    CANCELLING = "CANCELLING"


FINAL: Final = frozenset(
    {StateType.COMPLETED, StateType.FAILED, StateType.CANCELLED, StateType.CRASHED}
)
"""In these a run has ended."""

LATE: Final = "Late"
RESUMING: Final = "Resuming"
AWAITING_RETRY: Final = "AwaitingRetry"


class State(Struct, frozen=True, kw_only=True):
    """A state of a run. `state_details` are as the client sent them, times as text."""

    id: UUID
    type: StateType
    name: str
    timestamp: datetime
    message: str | None = None
    state_details: dict[str, Any] = {}
    data: Any = None

    @property
    def is_final(self) -> bool:
        return self.type in FINAL

    @property
    def is_suspended(self) -> bool:
        """Paused without a process: whoever resumes it has it begun anew."""
        return self.type == StateType.PAUSED and bool(self.state_details.get("pause_reschedule"))

    @property
    def scheduled_time(self) -> datetime | None:
        return _time(self.state_details.get("scheduled_time"))

    @property
    def pause_timeout(self) -> datetime | None:
        return _time(self.state_details.get("pause_timeout"))

    @property
    def has_result(self) -> bool:
        """Whether it says where the result is."""
        return isinstance(self.data, dict) and self.data.get("type") != "unpersisted"

    def with_details(self, **details: Any) -> "State":
        return msgspec.structs.replace(self, state_details={**self.state_details, **details})


def new_state(
    type_: StateType,
    *,
    now: datetime,
    name: str | None = None,
    message: str | None = None,
    scheduled_time: datetime | None = None,
    data: Any = None,
    state_id: UUID | None = None,
) -> State:
    """A state of our own making. One that is scheduled is due at once if it does not say when."""
    details: dict[str, Any] = {}
    if type_ == StateType.SCHEDULED:
        details["scheduled_time"] = (scheduled_time or now).isoformat()
    return State(
        id=state_id or new_id(),
        type=type_,
        name=name or type_.value.capitalize(),
        timestamp=now,
        message=message,
        state_details=details,
        data=data,
    )


def state_json(state: State) -> str:
    """The state as it is stored."""
    return _encode(state).decode()


def stored_state(text: str) -> State:
    """The state that `state_json` wrote."""
    return _decoder.decode(text)


def state_document(state: State) -> dict[str, Any]:
    """The state as the client reads it."""
    return {
        "id": state.id,
        "type": state.type.value,
        "name": state.name,
        "timestamp": state.timestamp,
        "message": state.message,
        "state_details": state.state_details,
        "data": state.data,
        "created": state.timestamp,
        "updated": state.timestamp,
    }


def _cut(limit: int) -> Callable[[object], object]:
    return lambda value: value[:limit] if isinstance(value, str) else value


def _fits(value: Any) -> Any:
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    size = len(_encode(plain))
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


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


# Of the event loop's thread.
new_id = Ids(random=os.urandom, clock=time.time_ns)
_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(State)
