"""Prefect's actions and Upshot's, put into each other's form; what Upshot has not is refused."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import msgspec
from pydantic import BeforeValidator, Field, TypeAdapter, model_validator

from upshot.api.bodies import validated
from upshot.api.problems import summary_of
from upshot.core.errors import Invalid, Problem
from upshot.prefect.routing import Sent
from upshot.prefect.templated import parameters_shown, source_of, text_shown, text_source
from upshot.storage.automations import Target

RUN: Final = "run-deployment"
WEBHOOK: Final = "call-webhook"
NOBODY: Final = UUID(int=0)
"""Stands for what is gone: the client refuses an action without an id."""

_NO_FLOW_RUNS: Final = (
    "Upshot's actions do not change flow runs. Run a deployment (run-deployment) whose flow does "
    "it with Prefect's client, or use the run's routes below /v1/runs."
)
_NO_POOLS: Final = (
    "Upshot has no work pools and no queues: served flows ask for their runs. Pausing the "
    "automation (pause-automation) keeps it from firing."
)
_NO_DEPLOYMENTS: Final = (
    "Upshot's actions do not pause deployments. Pause or resume the automation that runs it "
    "(pause-automation, resume-automation), or send PATCH /v1/deployments/<name> with enabled."
)
_INSTEAD: Final[Mapping[str, str]] = {
    "pause-deployment": _NO_DEPLOYMENTS,
    "resume-deployment": _NO_DEPLOYMENTS,
    "change-flow-run-state": _NO_FLOW_RUNS,
    "cancel-flow-run": _NO_FLOW_RUNS,
    "resume-flow-run": _NO_FLOW_RUNS,
    "suspend-flow-run": _NO_FLOW_RUNS,
    "delete-flow-run": "Upshot deletes runs by their age alone (UPSHOT_RUN_RETENTION), so that "
    "what happened stays to be seen.",
    "pause-work-pool": _NO_POOLS,
    "resume-work-pool": _NO_POOLS,
    "pause-work-queue": _NO_POOLS,
    "resume-work-queue": _NO_POOLS,
    "send-notification": "Upshot sends no notifications by itself. Use call-webhook with a "
    "Webhook block that has the address of your chat or mail service.",
    "declare-incident": "Incidents are a matter of Prefect Cloud. Use call-webhook with a Webhook "
    "block that has the address of your incident service.",
}


class _RunDeployment(Sent):
    source: Literal["selected", "inferred"] = "selected"
    deployment_id: UUID | None = None
    parameters: dict[str, Any] | None = None
    job_variables: dict[str, Any] | None = None
    schedule_after: Any = 0

    @model_validator(mode="after")
    def _names_what_it_runs(self) -> "_RunDeployment":
        _check_selected("deployment_id", self.source, self.deployment_id)
        return self


class _SetEnabled(Sent):
    source: Literal["selected", "inferred"] = "selected"
    automation_id: UUID | None = None

    @model_validator(mode="after")
    def _names_what_it_changes(self) -> "_SetEnabled":
        _check_selected("automation_id", self.source, self.automation_id)
        return self


def _as_text(payload: object) -> object:
    return payload if isinstance(payload, str) else msgspec.json.encode(payload or "").decode()


class _CallWebhook(Sent):
    block_document_id: UUID
    payload: Annotated[str, BeforeValidator(_as_text), Field()] = ""


_run: Final = TypeAdapter(_RunDeployment)
_set_enabled: Final = TypeAdapter(_SetEnabled)
_call: Final = TypeAdapter(_CallWebhook)


def ids_of(actions: Sequence[Any]) -> set[UUID]:
    """Of the deployments and blocks that actions name, as far as they can be read."""
    found = set()
    for action in actions:
        if isinstance(action, Mapping):
            for field in ("deployment_id", "block_document_id"):
                try:
                    found.add(UUID(str(action.get(field))))
                except ValueError:
                    continue
    return found


def actions_of(actions: Sequence[Any], targets: Iterable[Target]) -> list[dict[str, Any]]:
    """Actions as a client of Prefect sends them, in the form of a trigger's document.

    Raises:
        Invalid: Upshot has not such an action, or there is no such deployment or block.
    """
    if not actions:
        return [{"type": "nothing"}]
    targets = tuple(targets)
    deployments = {target.deployment_id: target.name for target in targets}
    blocks = {target.block_id: target.name for target in targets if target.block_id}
    return [
        _action(action, ("actions", place), deployments, blocks)
        for place, action in enumerate(actions)
    ]


def actions_shown(
    document: Mapping[str, Any], targets: Mapping[str, Target]
) -> list[dict[str, Any]]:
    """A stored trigger's actions as Prefect's client reads them; `targets` are by name."""
    return [_action_shown(action, targets) for action in stored_actions(document)]


def stored_actions(document: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """A trigger's actions; the plain form, which has a deployment instead, is one."""
    actions: Sequence[Mapping[str, Any]] | None = document.get("actions")
    if actions is not None:
        return actions
    plain = {field: document[field] for field in ("deployment", "parameters", "schedule_after")}
    return [{"type": "run", **plain, "kind": RUN}]


def names_of(document: Mapping[str, Any]) -> set[str]:
    """Of the deployments that a stored trigger runs."""
    return {
        action["deployment"]
        for action in stored_actions(document)
        if action["type"] == "run" and action["deployment"] is not None
    }


def refuse_by_state(sent: Sequence[Any], field: str) -> None:
    """Raises Invalid where an automation has actions for going into a state, or out of it."""
    if sent:
        message = (
            "Upshot's triggers fire and are not in a state. Put these actions into `actions`; for "
            "what becomes well again, make an automation of its own."
        )
        raise Invalid(f"{field}: {message}", [Problem((field,), message)])


def _action(
    action: Any,
    loc: tuple[str | int, ...],
    deployments: Mapping[UUID, str],
    blocks: Mapping[UUID, str],
) -> dict[str, Any]:
    match _type_of(action):
        case "do-nothing":
            return {"type": "nothing"}
        case "run-deployment":
            run = _read(_run, action, loc)
            if run.job_variables:
                raise _invalid(
                    (*loc, "job_variables"),
                    "Upshot starts no infrastructure that could have variables. Give the flow "
                    "what it needs as parameters.",
                )
            name = None
            if run.deployment_id is not None:
                name = deployments.get(run.deployment_id)
                if name is None:
                    raise _unknown((*loc, "deployment_id"), "deployment", run.deployment_id)
            return {
                "type": "run",
                "deployment": name,
                "parameters": source_of(run.parameters or {}, (*loc, "parameters")),
                "schedule_after": run.schedule_after,
                "kind": RUN,
            }
        case "call-webhook":
            call = _read(_call, action, loc)
            name = blocks.get(call.block_document_id)
            if name is None:
                block_loc = (*loc, "block_document_id")
                raise _unknown(block_loc, "Webhook block", call.block_document_id)
            payload = {"payload": text_source(call.payload)}
            return {"type": "run", "deployment": name, "parameters": payload, "kind": WEBHOOK}
        case "pause-automation" | "resume-automation" as kind:
            other = _read(_set_enabled, action, loc).automation_id
            return {"type": kind.partition("-")[0], "trigger": other and str(other)}
        case str() as kind if kind in _INSTEAD:
            raise _invalid(loc, f"There is no action {kind!r} here. {_INSTEAD[kind]}")
        case None:
            raise _invalid((*loc, "type"), "Field required")
        case other:
            raise _invalid((*loc, "type"), f"There is no action {other!r}.")


def _type_of(action: Any) -> object:
    """The client leaves out a type that it did not set."""
    if not isinstance(action, Mapping):
        return None
    if action.get("type") is None:
        fields = {"deployment_id": RUN, "block_document_id": WEBHOOK}
        return next((kind for field, kind in fields.items() if field in action), None)
    return action["type"]


def _action_shown(action: Mapping[str, Any], targets: Mapping[str, Target]) -> dict[str, Any]:
    match action["type"]:
        case "run" if action.get("kind") == WEBHOOK:
            target = targets.get(action["deployment"])
            return {
                "type": WEBHOOK,
                "block_document_id": (target and target.block_id) or NOBODY,
                "payload": text_shown(action["parameters"].get("payload", "")),
            }
        case "run":
            name = action["deployment"]
            target = targets.get(name)
            return {
                "type": RUN,
                "source": "inferred" if name is None else "selected",
                "deployment_id": None
                if name is None
                else target.deployment_id
                if target
                else NOBODY,
                "parameters": parameters_shown(action["parameters"]),
                "job_variables": {},
                "schedule_after": float(action["schedule_after"]),
            }
        case "pause" | "resume" as kind:
            other = action["trigger"]
            return {
                "type": f"{kind}-automation",
                "source": "inferred" if other is None else "selected",
                "automation_id": other,
            }
        case _:
            return {"type": "do-nothing"}


def _check_selected(field: str, source: str, given: UUID | None) -> None:
    if (source == "selected") != (given is not None):
        said = (
            "needed where the source is 'selected'" if given is None else "for selected ones only"
        )
        raise ValueError(f"{field} is {said}")


def _read(adapter: TypeAdapter[Any], action: Any, loc: tuple[str | int, ...]) -> Any:
    try:
        return validated(adapter, action, known=())
    except Invalid as error:
        found = [Problem((*loc, *problem.loc), problem.msg) for problem in error.problems]
        raise Invalid(summary_of(found), found) from None


def _unknown(loc: tuple[str | int, ...], kind: str, given: UUID) -> Invalid:
    return _invalid(loc, f"There is no {kind} with the id {given}. Make it first.")


def _invalid(loc: tuple[str | int, ...], message: str) -> Invalid:
    return Invalid(f"{'.'.join(map(str, loc))}: {message}", [Problem(loc, message)])
