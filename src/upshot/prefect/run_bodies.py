"""What clients send of runs: to make them, to change them, to propose a state."""

import json
import re
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from fastapi import Request
from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter

from upshot.api.bodies import content_type_of, parse_json, read_body, validated
from upshot.core.errors import Invalid, Malformed, Problem
from upshot.core.language import JsonObject, Storable, Tags
from upshot.core.limits import (
    BODY_BYTES_MAX,
    FLOW_NAME_CHARS_MAX,
    FLOW_RUN_DETAILS_BYTES_MAX,
    FLOW_RUN_PARAMETERS_BYTES_MAX,
    FLOW_RUN_RETRIES_MAX,
    IDEMPOTENCY_KEY_CHARS_MAX,
    PAUSE_KEYS_MAX,
    RETRY_SECONDS_MAX,
    TEXT_CHARS_MAX,
)
from upshot.prefect.flow_filters import FlowName, or_default
from upshot.prefect.orchestration import Policy
from upshot.prefect.routing import Sent
from upshot.prefect.state_bodies import StateSent

_NOT_KEPT: Final = re.compile("[\0\ud800-\udfff]")


def _at_most(limit: int) -> AfterValidator:
    def check(value: Any) -> Any:
        size = len(json.dumps(value, ensure_ascii=False).encode())
        if size > limit:
            raise ValueError(f"has {size:,} bytes; at most {limit:,} fit")
        return value

    return AfterValidator(check)


Kept = Annotated[JsonObject, or_default({}), _at_most(FLOW_RUN_DETAILS_BYTES_MAX)]
RunParameters = Annotated[JsonObject, or_default({}), _at_most(FLOW_RUN_PARAMETERS_BYTES_MAX)]
Version = Annotated[str, Storable, Field(max_length=TEXT_CHARS_MAX)]
RunTags = Annotated[Tags, or_default([])]
IdempotencyKey = Annotated[str, Storable, Field(min_length=1, max_length=IDEMPOTENCY_KEY_CHARS_MAX)]


class PolicySent(Sent):
    """How a run is to be orchestrated."""

    retries: Annotated[int, Field(ge=0, le=FLOW_RUN_RETRIES_MAX)] | None = None
    retry_delay: Annotated[float, Field(ge=0, le=RETRY_SECONDS_MAX, allow_inf_nan=False)] | None = (
        None
    )
    pause_keys: Annotated[
        list[Annotated[str, Field(max_length=FLOW_NAME_CHARS_MAX)]],
        or_default([]),
        Field(max_length=PAUSE_KEYS_MAX),
    ] = Field(default=[])
    resuming: Annotated[bool, or_default(False)] = False
    retry_type: Literal["in_process", "reschedule"] | None = None

    def policy(self) -> Policy:
        return Policy(
            retries=self.retries,
            retry_delay=self.retry_delay,
            pause_keys=frozenset(self.pause_keys),
            resuming=self.resuming,
            retry_type=self.retry_type,
        )


PolicyGiven = Annotated[PolicySent, BeforeValidator(lambda value: {} if value is None else value)]


class SetStateSent(Sent):
    """A state that is proposed."""

    state: StateSent
    force: Annotated[bool, or_default(False)] = False


class RunCreated(Sent):
    """What is sent to make a run, with or without its deployment."""

    state: StateSent | None = None
    name: FlowName | None = None
    parameters: RunParameters = Field(default={})
    context: Kept = Field(default={})
    parent_task_run_id: UUID | None = None
    empirical_policy: PolicyGiven = PolicySent()
    tags: RunTags = Field(default=[])
    labels: Kept = Field(default={})
    idempotency_key: IdempotencyKey | None = None
    job_variables: Kept | None = None
    work_pool_name: Version | None = None
    work_queue_name: Version | None = None

    def check(self) -> None:
        """Raises Invalid where it asks for what Upshot does not have."""
        for field in ("work_pool_name", "work_queue_name"):
            if getattr(self, field):
                message = "Upshot has no work pools and queues; serve the flow where it is to run."
                raise Invalid(message, [Problem((field,), message)])


class FlowRunCreated(RunCreated):
    flow_id: UUID
    deployment_id: UUID | None = None
    flow_version: Version | None = None


class FlowRunOfDeployment(RunCreated):
    enforce_parameter_schema: bool | None = None


class FlowRunChanged(Sent):
    """What is to change of a run; what is not sent stays."""

    name: FlowName | None = None
    flow_version: Version | None = None
    parameters: RunParameters = Field(default={})
    empirical_policy: PolicyGiven = PolicySent()
    tags: RunTags = Field(default=[])
    infrastructure_pid: Version | None = None
    job_variables: Kept | None = None


class ResumeSent(Sent):
    run_input: JsonObject | None = None


async def set_state_sent(request: Request) -> SetStateSent:
    """The proposal in a request. What the database cannot keep of a text, U+0000 and halves of
    surrogate pairs, becomes U+FFFD: an exception may have any message, and its run must end.

    Raises:
        Malformed: the body is no JSON.
        Invalid: it is no proposal.
    """
    content_type_of(request)
    body = await read_body(request, limit=BODY_BYTES_MAX)
    try:
        document = parse_json(body)
    except (Malformed, Invalid):
        document = _read_leniently(body)
    return validated(_set_state, document, known=tuple(SetStateSent.model_fields))


def _read_leniently(body: bytes) -> Any:
    try:
        value = json.loads(body.decode("utf-8", "replace"), parse_constant=lambda _: None)
        return _kept(value)
    except (ValueError, RecursionError):
        raise Malformed("The body is no JSON.") from None


def _kept(value: Any) -> Any:
    match value:
        case str():
            return _NOT_KEPT.sub("\N{REPLACEMENT CHARACTER}", value)
        case list():
            return [_kept(one) for one in value]
        case dict():
            return {_kept(name): _kept(one) for name, one in value.items()}
        case float() if value in (float("inf"), float("-inf")):
            return None
        case _:
            return value


_set_state: Final = TypeAdapter(SetStateSent)
