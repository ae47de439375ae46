"""What a paused run is given when it is resumed; pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from upshot.core.errors import Invalid
from upshot.core.parameter_schema import compile_schema, violations
from upshot.prefect.states import RESUMING, State, StateType, new_state


@dataclass(frozen=True, slots=True)
class InputWanted:
    """Under which keys a run keeps the schema of the input it waits for, and looks for it."""

    schema_key: str
    response_key: str


def input_of(state: State) -> InputWanted | None:
    """The input that a paused run waits for, if it does."""
    keys = state.state_details.get("run_input_keyset")
    if not isinstance(keys, Mapping) or not {"schema", "response"} <= keys.keys():
        return None
    return InputWanted(schema_key=str(keys["schema"]), response_key=str(keys["response"]))


def problem_of_input(given: Mapping[str, Any], schema: str | None) -> str | None:
    """Why the run cannot go on with this input; `schema` is JSON as text."""
    if schema is None:
        return "The run has not said yet what input it waits for. Try again."
    try:
        found = violations(compile_schema(msgspec.json.decode(schema)), given)
    except (Invalid, msgspec.DecodeError, TypeError):
        return "The schema of the input that the run waits for cannot be read."
    return f"The input breaks what the run waits for: {found[0].msg}" if found else None


def resumed(state: State, *, now: datetime) -> State:
    """What a paused run becomes when it is resumed."""
    if state.is_suspended:
        return new_state(StateType.SCHEDULED, now=now, name=RESUMING, scheduled_time=now)
    return new_state(StateType.RUNNING, now=now)
