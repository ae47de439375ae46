"""States of runs, as Prefect's clients say and read them."""

import os
import time
from datetime import datetime
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

import msgspec
from msgspec import Struct

from upshot.core.intake import Ids


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


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


# Of the event loop's thread.
new_id = Ids(random=os.urandom, clock=time.time_ns)
_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(State)
