"""Deployments: made, changed, shown without their secrets."""

from datetime import timedelta
from typing import Annotated, Any, Final, Literal
from uuid import UUID, uuid4

from fastapi import Body, Path, Response
from pydantic import AfterValidator, AwareDatetime, BaseModel, Field, TypeAdapter, model_validator
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from upshot.api.answers import Listed, json_answer, no_answer
from upshot.api.bodies import MERGE_PATCH_BODY, validated
from upshot.api.paging import (
    DEFAULT,
    CursorText,
    Limit,
    decode_cursor,
    named_page,
    read_name,
)
from upshot.api.problems import BODY, prefixed, problems
from upshot.api.routing import new_router
from upshot.api.runners import RunnerWritten, patched, runner_of, runner_shown
from upshot.api.services import Using
from upshot.core.breaker import Breaker, BreakerState
from upshot.core.delivery import Runner, Webhook
from upshot.core.errors import Conflict, Invalid, NotFound, Problem
from upshot.core.language import Duration, JsonObject, Name, Strict, Tags, Text, seconds
from upshot.core.limits import (
    CONCURRENCY_DEFAULT,
    CONCURRENCY_MAX,
    ROWS_SHOWN_WITH_ONE_MAX,
)
from upshot.core.parameter_schema import compile_schema
from upshot.core.templates import compile_parameters
from upshot.storage import breakers, deployments
from upshot.storage.deployments import Deployment, DeploymentFields

RUN_TIMEOUT_DEFAULT: Final = timedelta(hours=1)

router = new_router("deployments")


def _positive(duration: timedelta) -> timedelta:
    if not duration:
        raise ValueError("must be more than 0")
    return duration


_READ_ONLY: Final = ("id", "created", "updated", "disabled_reason", "breaker")


class DeploymentWritten(Strict):
    """A deployment, as a client writes it. What is only shown may be sent back, and is ignored."""

    name: Name | None = Field(default=None, description="If sent, the name in the path.")
    description: Text = ""
    tags: Tags = Field(default=[])
    runner: RunnerWritten
    parameters: JsonObject = Field(
        default={},
        description="Defaults of the runs' parameters; JSON whose strings are Jinja templates.",
    )
    parameter_schema: JsonObject | None = Field(
        default=None,
        description="JSON Schema that rendered parameters must keep. References stay within it.",
    )
    max_concurrency: int = Field(
        default=CONCURRENCY_DEFAULT,
        ge=1,
        le=CONCURRENCY_MAX,
        strict=True,
        description="How many runs may be under way at once.",
    )
    run_timeout: Annotated[Duration, AfterValidator(_positive)] = Field(
        default=RUN_TIMEOUT_DEFAULT,
        description="How long a runner that answered 202 may say nothing.",
    )
    overlap: Literal["allow", "skip", "queue"] = Field(
        default="allow",
        description="What becomes of a run that is made while another of the same trigger and key "
        "is scheduled, running or retrying. `allow`: both run. `skip`: it is made as `cancelled` "
        "and not called. `queue`: it waits, in order, until the other has ended. Runs that were "
        "asked for have one key together. It holds for runs made from then on.",
    )
    enabled: bool = Field(
        default=True, strict=True, description="Disabled, its runs wait as `scheduled`."
    )

    @model_validator(mode="before")
    @classmethod
    def _without_what_is_only_shown(cls, document: Any) -> Any:
        if isinstance(document, dict):
            return {name: value for name, value in document.items() if name not in _READ_ONLY}
        return document


class BreakerShown(BaseModel):
    """Whether a runner is called, or only probed since it fails."""

    state: BreakerState = Field(
        description="`closed`: it is called. `open`: most calls failed, and all runs wait but for "
        "one each 30 s, a probe. `half-open`: a probe went well; more are called at once with "
        "every success."
    )
    since: AwareDatetime | None = Field(description="null: it has always been closed.")
    calls: int = Field(
        description="Of the last 5 minutes; open, of those before it opened; half-open, since then."
    )
    failures: int = Field(description="Those of the calls that failed and are tried again.")
    next_probe: AwareDatetime | None = Field(
        description="Open, when the oldest run that is due is called."
    )


class DeploymentShown(DeploymentWritten):
    """A deployment, as it is stored."""

    name: Name
    id: UUID
    disabled_reason: str | None = Field(description="Why Upshot disabled it: its runner is gone.")
    breaker: BreakerShown | None = Field(description="null: workers pull its runs.")
    created: AwareDatetime
    updated: AwareDatetime


_adapter: Final = TypeAdapter(DeploymentWritten)
NameInPath = Annotated[Name, Path(description="The deployment's name.")]
_EXAMPLE: Final = {"runner": {"type": "webhook", "url": "http://127.0.0.1:9000/run"}}


@router.put(
    "/v1/deployments/{name}",
    summary="Make or replace a deployment",
    response_model=DeploymentShown,
    responses={
        200: {"description": "It is replaced."},
        201: {"description": "It is made.", "model": DeploymentShown},
        **problems(*BODY),
    },
)
async def put_deployment(
    name: NameInPath,
    services: Using,
    written: Annotated[DeploymentWritten, Body(examples=[_EXAMPLE])],
) -> Response:
    """The same request again changes nothing. Secrets that are not sent are kept."""
    if written.name not in (None, name):
        message = "A deployment cannot be renamed; the name is the one in the path."
        raise Invalid(message, [Problem(("name",), message)])
    async with services.database.begin() as conn:
        stored = await deployments.lock(conn, name)
        if stored is None:
            fields = _fields_of(written, stored=None)
            made = await deployments.create(conn, name=name, deployment_id=uuid4(), fields=fields)
            if made is not None:
                return json_answer(shown(made, None), 201)
            # Somebody else has just made it.
            stored = await _locked(conn, name)
        replaced = await deployments.replace(
            conn, name=name, fields=_fields_of(written, stored=stored.runner)
        )
        breaker = await _breaker_kept(conn, before=stored, after=replaced)
    services.wake("deliver")
    return json_answer(shown(replaced, breaker))


@router.patch(
    "/v1/deployments/{name}",
    summary="Change a deployment",
    response_model=DeploymentShown,
    responses=problems(*BODY, 404),
    openapi_extra=MERGE_PATCH_BODY,
)
async def patch_deployment(
    name: NameInPath, services: Using, patch: Annotated[dict[str, Any], Body()]
) -> Response:
    """A merge patch (RFC 7396): what is not sent stays, null goes back to the default."""
    async with services.database.begin() as conn:
        stored = await _locked(conn, name)
        written = validated(
            _adapter,
            patched(shown(stored, None), patch),
            known=list(DeploymentWritten.model_fields),
        )
        if written.name not in (None, name):
            message = "A deployment cannot be renamed."
            raise Invalid(message, [Problem(("name",), message)])
        fields = _fields_of(written, stored=stored.runner)
        changed = await deployments.replace(conn, name=name, fields=fields)
        breaker = await _breaker_kept(conn, before=stored, after=changed)
    services.wake("deliver")
    return json_answer(shown(changed, breaker))


@router.get(
    "/v1/deployments/{name}",
    summary="Show a deployment",
    response_model=DeploymentShown,
    responses=problems(404),
)
async def show_deployment(name: NameInPath, services: Using) -> Response:
    """One deployment; its secrets and the values of its headers are shown as `***`."""
    async with services.database.begin() as conn:
        stored = await deployments.load(conn, name)
        if stored is None:
            raise unknown_deployment(name)
        found = await breakers.of_deployments(conn, [stored.id])
    return json_answer(shown(stored, found.get(stored.id)))


@router.get(
    "/v1/deployments",
    summary="List deployments",
    response_model=Listed[DeploymentShown],
    responses=problems(),
)
async def list_deployments(
    services: Using, limit: Limit = DEFAULT, cursor: CursorText = None
) -> Response:
    """By name."""
    after = decode_cursor(cursor, read_name) or ""
    async with services.database.begin() as conn:
        found = await deployments.page(conn, after=after, limit=limit + 1)
        of_each = await breakers.of_deployments(conn, [one.id for one in found])
    return named_page(found, limit=limit, shown=lambda one: shown(one, of_each.get(one.id)))


@router.post(
    "/v1/deployments/{name}/breaker/reset",
    summary="Call a runner that fails at once",
    response_model=DeploymentShown,
    responses=problems(404),
)
async def reset_breaker(name: NameInPath, services: Using) -> Response:
    """Without waiting for the next probe: one run is called, and with every success one more."""
    async with services.database.begin() as conn:
        stored = await _locked(conn, name)
        await breakers.reset(conn, stored.id)
        found = await breakers.of_deployments(conn, [stored.id])
    services.wake("deliver")
    return json_answer(shown(stored, found.get(stored.id)))


@router.delete(
    "/v1/deployments/{name}",
    summary="Delete a deployment",
    status_code=204,
    responses=problems(404, 409),
)
async def delete_deployment(name: NameInPath, services: Using) -> Response:
    """Its open runs are cancelled. One that triggers still run is kept, with a 409."""
    async with services.database.begin() as conn:
        await delete_locked(conn, await _locked(conn, name))
    return no_answer()


async def delete_locked(conn: AsyncConnection, stored: Deployment) -> None:
    """Delete a deployment whose row is locked, and cancel its open runs.

    Raises:
        Conflict: triggers run it.
    """
    name = stored.name
    using = await deployments.triggers_using(conn, name, limit=ROWS_SHOWN_WITH_ONE_MAX)
    if using:
        raise _in_use(name, using)
    await deployments.cancel_open_runs(conn, name, reason="deployment deleted")
    try:
        await deployments.remove(conn, name)
    except IntegrityError:
        raise _in_use(name, []) from None
    await breakers.forget(conn, stored.id)


def shown(deployment: Deployment, breaker: Breaker | None) -> dict[str, Any]:
    """A deployment as it is answered, without a secret in it."""
    return {
        "name": deployment.name,
        "id": deployment.id,
        "description": deployment.description,
        "tags": deployment.tags,
        "runner": runner_shown(deployment.runner),
        "parameters": deployment.parameters,
        "parameter_schema": deployment.parameter_schema,
        "max_concurrency": deployment.max_concurrency,
        "run_timeout": seconds(deployment.run_timeout),
        "overlap": deployment.overlap,
        "enabled": deployment.enabled,
        "disabled_reason": deployment.disabled_reason,
        "breaker": _breaker_shown(breaker or Breaker())
        if isinstance(deployment.runner, Webhook)
        else None,
        "created": deployment.created_at,
        "updated": deployment.updated_at,
    }


def _breaker_shown(breaker: Breaker) -> dict[str, Any]:
    return {
        "state": breaker.state.value,
        "since": breaker.since,
        "calls": breaker.calls,
        "failures": breaker.failures,
        "next_probe": breaker.probe_at,
    }


async def _breaker_kept(
    conn: AsyncConnection, *, before: Deployment, after: Deployment
) -> Breaker | None:
    """What is known of a runner says nothing of another."""
    if before.runner != after.runner:
        await breakers.forget(conn, before.id)
        return None
    return (await breakers.of_deployments(conn, [before.id])).get(before.id)


async def _locked(conn: AsyncConnection, name: str) -> Deployment:
    stored = await deployments.lock(conn, name)
    if stored is None:
        raise unknown_deployment(name)
    return stored


def unknown_deployment(name: str) -> NotFound:
    return NotFound(f"There is no deployment {name!r}.")


def _in_use(name: str, triggers: list[str]) -> Conflict:
    named = ", ".join(map(repr, triggers)) or "a trigger made just now"
    return Conflict(
        f"Deployment {name!r} is run by {named}. Delete these or give them another deployment."
    )


def _fields_of(written: DeploymentWritten, *, stored: Runner | None) -> DeploymentFields:
    """What is to be stored, with the secrets that were kept, or Invalid with what is wrong."""
    _check_parameters(written)
    return DeploymentFields(
        description=written.description,
        tags=written.tags,
        runner=runner_of(written.runner, stored),
        parameters=written.parameters,
        parameter_schema=written.parameter_schema,
        max_concurrency=written.max_concurrency,
        run_timeout=written.run_timeout,
        overlap=written.overlap,
        enabled=written.enabled,
    )


def _check_parameters(written: DeploymentWritten) -> None:
    with_loc: tuple[tuple[str, Any, Any], ...] = (
        ("parameters", compile_parameters, written.parameters),
        ("parameter_schema", compile_schema, written.parameter_schema),
    )
    for name, compile_it, value in with_loc:
        if value is None:
            continue
        try:
            compile_it(value)
        except Invalid as error:
            raise Invalid(error.message, prefixed(name, error.problems)) from None
