"""What the log is told when a flow's run passes into a state: `prefect.flow-run.<state>`."""

from datetime import datetime
from typing import Any

import msgspec

from upshot.core.events import RESOURCE_ID, RESOURCE_NAME, RESOURCE_ROLE, Labels
from upshot.core.intake import NewEvent
from upshot.core.lifecycle import FLOW_RUN_EVENT_PREFIX
from upshot.core.limits import RELATED_MAX, STATE_MESSAGE_TOLD_CHARS_MAX
from upshot.prefect.run_view import Known
from upshot.prefect.states import State, StateType


def transition_event(known: Known, *, before: State | None, now: datetime) -> NewEvent:
    """The event of the run's having become what it is; its id is the state's."""
    state, resource_id = known.state, f"{FLOW_RUN_EVENT_PREFIX}{known.run.id}"
    labels = _json(
        {
            RESOURCE_NAME: known.name,
            "prefect.run-count": str(known.progress.run_count),
            "prefect.state-message": _told(state.message),
            "prefect.state-name": state.name,
            "prefect.state-timestamp": state.timestamp.isoformat(),
            "prefect.state-type": state.type.value,
        }
    )
    related = _json(_related(known))
    payload = _json(
        {
            "intended": {"from": before and before.type.value, "to": state.type.value},
            "initial_state": before and _state_told(before),
            "validated_state": _state_told(state),
            **({"depth": known.run.depth} if known.run.depth else {}),
        }
    )
    return NewEvent(
        id=state.id,
        id_given=False,
        digest=None,
        name=f"{FLOW_RUN_EVENT_PREFIX}{state.name}",
        resource_id=resource_id,
        labels_json=labels.decode(),
        related_json=related.decode(),
        payload_json=payload.decode(),
        occurred=now,
        follows=None,
        size=len(labels) + len(related) + len(payload),
    )


def _related(known: Known) -> list[Labels]:
    run = known.run
    related: list[Labels] = [_one("flow", run.flow_id, run.flow_name or "")]
    if run.deployment_id is not None and run.deployment_name is not None:
        related.append(_one("deployment", run.deployment_id, run.deployment_name))
    if known.parent_task_run_id is not None:
        related.append(_one("task-run", known.parent_task_run_id, run.flow_name or ""))
    for tag in sorted({*known.details.tags, *_tags(run.flow_tags), *_tags(run.deployment_tags)}):
        related.append({RESOURCE_ID: f"prefect.tag.{tag}", RESOURCE_ROLE: "tag"})
    if run.trigger_id is not None:
        related.append(_one("automation", run.trigger_id, run.trigger or "", role="creator"))
    return related[:RELATED_MAX]


def _one(kind: str, id_: object, name: str, *, role: str | None = None) -> Labels:
    return {
        RESOURCE_ID: f"prefect.{kind}.{id_}",
        RESOURCE_ROLE: role or kind,
        RESOURCE_NAME: name,
    }


def _state_told(state: State) -> dict[str, Any]:
    told = {"type": state.type.value, "name": state.name}
    if state.message:
        told["message"] = _told(state.message)
    if state.type == StateType.PAUSED:
        told["pause_reschedule"] = str(state.is_suspended).lower()
    return told


def _told(message: str | None) -> str:
    return (message or "")[:STATE_MESSAGE_TOLD_CHARS_MAX]


def _tags(text: str | None) -> list[str]:
    return [] if text is None else msgspec.json.decode(text, type=list[str])


_json = msgspec.json.Encoder().encode
