"""Deployments: made, changed, shown without their secrets, and run on demand."""

import json
from datetime import timedelta
from typing import Annotated, Any, Final, Literal
from uuid import UUID, uuid4

from fastapi import Body, Header, Path, Response
from pydantic import AfterValidator, AwareDatetime, Field, model_validator
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from upshot.api.answers import Listed, json_answer, no_answer
from upshot.api.bodies import MERGE_PATCH_BODY, merge_patch, validated
from upshot.api.paging import (
    DEFAULT,
    CursorText,
    Limit,
    decode_cursor,
    named_page,
    read_name,
)
from upshot.api.problems import BODY, problems
from upshot.api.routing import new_router
from upshot.api.runs import RunShown, run_answer
from upshot.api.services import Using
from upshot.core.delivery import Webhook, webhook_problems
from upshot.core.errors import Conflict, Invalid, NotFound, Problem
from upshot.core.language import Duration, JsonObject, Name, Strict, Tags, Text, seconds
from upshot.core.limits import (
    CONCURRENCY_DEFAULT,
    CONCURRENCY_MAX,
    IDEMPOTENCY_KEY_CHARS_MAX,
    PARAMETERS_BYTES_MAX,
    RETRIES_DEFAULT,
    RETRIES_MAX,
    ROWS_SHOWN_WITH_ONE_MAX,
    RUNNER_TIMEOUT_DEFAULT,
    URL_CHARS_MAX,
)
from upshot.core.parameter_schema import compile_schema, violations
from upshot.core.runs import run_id_of
from upshot.core.templates import RenderFailed, compile_parameters
from upshot.storage import deployments, runs
from upshot.storage.deployments import Deployment, DeploymentFields

HIDDEN: Final = "***"
"""What is shown in place of a secret, and what keeps it when it is sent back."""

_HIDDEN_FIELDS: Final = ("secret", "headers")

RUN_TIMEOUT_DEFAULT: Final = timedelta(hours=1)

router = new_router("deployments")


def _positive(duration: timedelta) -> timedelta:
    if not duration:
        raise ValueError("must be more than 0")
    return duration


Secret = Annotated[str, Field(max_length=256)]


class Runner(Strict):
    """A webhook: an HTTP endpoint that is called with each run."""

    type: Literal["webhook"] = "webhook"
    url: str = Field(
        max_length=URL_CHARS_MAX,
        description="Where to POST.",
        examples=["http://127.0.0.1:9000/run"],
        json_schema_extra={"format": "uri"},
    )
    headers: dict[str, str | None] | None = Field(
        default={},
        description="Headers to add; their values are shown as `***`. A header that is not sent, "
        "or sent as `***`, keeps its value; null removes it.",
        examples=[{"authorization": "Bearer 7c6f"}],
    )
    secret: Secret | list[Secret] | None = Field(
        default=None,
        description="Signs calls as Standard Webhooks (`whsec_...`); two during a rotation. Shown "
        "as `***`. Sent as `***`, or not at all, it is kept (a `***` in a list keeps the one that "
        "was in its turn); null removes it.",
        examples=["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
    )
    timeout: Duration = Field(
        default=RUNNER_TIMEOUT_DEFAULT, description="For one call, from beginning to end."
    )
    retries: list[Duration] = Field(
        default=[timedelta(seconds=wait) for wait in RETRIES_DEFAULT],
        max_length=RETRIES_MAX,
        description="Seconds to wait before each further attempt.",
    )


_READ_ONLY: Final = ("id", "created", "updated", "disabled_reason")


class DeploymentWritten(Strict):
    """A deployment, as a client writes it. What is only shown may be sent back, and is ignored."""

    name: Name | None = Field(default=None, description="If sent, the name in the path.")
    description: Text = ""
    tags: Tags = Field(default=[])
    runner: Runner
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
    overlap: Literal["allow"] = "allow"
    enabled: bool = Field(
        default=True, strict=True, description="Disabled, its runs wait as `scheduled`."
    )

    @model_validator(mode="before")
    @classmethod
    def _without_what_is_only_shown(cls, document: Any) -> Any:
        if isinstance(document, dict):
            return {name: value for name, value in document.items() if name not in _READ_ONLY}
        return document


class DeploymentShown(DeploymentWritten):
    """A deployment, as it is stored."""

    name: Name
    id: UUID
    disabled_reason: str | None = Field(description="Why Upshot disabled it: its runner is gone.")
    created: AwareDatetime
    updated: AwareDatetime


class RunAsked(Strict):
    """A run on demand."""

    parameters: JsonObject = Field(
        default={},
        description="Values, over the deployment's defaults; what looks like a template is text.",
        examples=[{"user_id": "123"}],
    )


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
                return json_answer(shown(made), 201)
            # Somebody else has just made it.
            stored = await _locked(conn, name)
        replaced = await deployments.replace(
            conn, name=name, fields=_fields_of(written, stored=stored.runner)
        )
    services.wake("deliver")
    return json_answer(shown(replaced))


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
        written = validated(DeploymentWritten, _patched(shown(stored), patch))
        if written.name not in (None, name):
            message = "A deployment cannot be renamed."
            raise Invalid(message, [Problem(("name",), message)])
        fields = _fields_of(written, stored=stored.runner)
        changed = await deployments.replace(conn, name=name, fields=fields)
    services.wake("deliver")
    return json_answer(shown(changed))


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
        raise _unknown(name)
    return json_answer(shown(stored))


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
    return named_page(found, limit=limit, shown=shown)


@router.delete(
    "/v1/deployments/{name}",
    summary="Delete a deployment",
    status_code=204,
    responses=problems(404, 409),
)
async def delete_deployment(name: NameInPath, services: Using) -> Response:
    """Its open runs are cancelled. One that triggers still run is kept, with a 409."""
    async with services.database.begin() as conn:
        await _locked(conn, name)
        using = await deployments.triggers_using(conn, name, limit=ROWS_SHOWN_WITH_ONE_MAX)
        if using:
            raise _in_use(name, using)
        await deployments.cancel_open_runs(conn, name, reason="deployment deleted")
        try:
            await deployments.remove(conn, name)
        except IntegrityError:
            raise _in_use(name, []) from None
    return no_answer()


@router.post(
    "/v1/deployments/{name}/runs",
    summary="Run a deployment now",
    status_code=201,
    response_model=RunShown,
    responses={
        201: {"description": "The run is made."},
        200: {"description": "A run was made with this Idempotency-Key before.", "model": RunShown},
        **problems(*BODY, 404),
    },
)
async def run_deployment(
    name: NameInPath,
    services: Using,
    asked: Annotated[RunAsked | None, Body(examples=[{"parameters": {"user_id": "123"}}])] = None,
    idempotency_key: Annotated[
        str | None,
        Header(
            min_length=1,
            max_length=IDEMPOTENCY_KEY_CHARS_MAX,
            description="The same key again answers the same run.",
        ),
    ] = None,
) -> Response:
    """The parameters are laid over the deployment's defaults and checked against its schema."""
    given = asked.parameters if asked else {}
    async with services.database.begin() as conn:
        deployment = await deployments.hold(conn, name)
        if deployment is None:
            raise _unknown(name)
        run_id = uuid4()
        if idempotency_key is not None:
            run_id = run_id_of("manual", deployment.id.hex, idempotency_key)
            repeated = await run_answer(conn, run_id, status=200)
            if repeated is not None:
                return repeated
        parameters, template = _prepared(deployment, given)
        made = await runs.create_asked_for(
            conn, run_id=run_id, deployment=name, parameters=parameters, template=template
        )
        answer = await run_answer(conn, run_id, status=201 if made else 200)
    assert answer is not None
    services.wake("deliver")
    return answer


def shown(deployment: Deployment) -> dict[str, Any]:
    """A deployment as it is answered, without a secret in it."""
    return {
        "name": deployment.name,
        "id": deployment.id,
        "description": deployment.description,
        "tags": deployment.tags,
        "runner": _runner_shown(deployment.runner),
        "parameters": deployment.parameters,
        "parameter_schema": deployment.parameter_schema,
        "max_concurrency": deployment.max_concurrency,
        "run_timeout": seconds(deployment.run_timeout),
        "overlap": deployment.overlap,
        "enabled": deployment.enabled,
        "disabled_reason": deployment.disabled_reason,
        "created": deployment.created_at,
        "updated": deployment.updated_at,
    }


def _runner_shown(runner: Webhook) -> dict[str, Any]:
    hidden: Any = [HIDDEN] * len(runner.secrets)
    return {
        "type": "webhook",
        "url": runner.url,
        "headers": dict.fromkeys(runner.headers, HIDDEN),
        "secret": hidden if len(hidden) > 1 else (hidden[0] if hidden else None),
        "timeout": seconds(runner.timeout),
        "retries": [seconds(timedelta(seconds=wait)) for wait in runner.retries],
    }


async def _locked(conn: AsyncConnection, name: str) -> Deployment:
    stored = await deployments.lock(conn, name)
    if stored is None:
        raise _unknown(name)
    return stored


def _unknown(name: str) -> NotFound:
    return NotFound(f"There is no deployment {name!r}.")


def _in_use(name: str, triggers: list[str]) -> Conflict:
    named = ", ".join(map(repr, triggers)) or "a trigger made just now"
    return Conflict(
        f"Deployment {name!r} is run by {named}. Delete these or give them another deployment."
    )


def _patched(document: dict[str, Any], patch: dict[str, Any]) -> Any:
    """The merge. What is hidden is left out, which keeps it, and null for it stays null."""
    shown_runner = {
        name: value for name, value in document["runner"].items() if name not in _HIDDEN_FIELDS
    }
    merged = merge_patch({**document, "runner": shown_runner}, patch)
    runner = patch.get("runner")
    if not isinstance(runner, dict):
        return merged
    for field in _HIDDEN_FIELDS:
        if field in runner and runner[field] is None:
            merged["runner"][field] = None
    headers = runner.get("headers")
    if isinstance(headers, dict):
        merged["runner"]["headers"].update(
            {name: None for name, value in headers.items() if value is None}
        )
    return merged


def _fields_of(written: DeploymentWritten, *, stored: Webhook | None) -> DeploymentFields:
    """What is to be stored, with the secrets that were kept, or Invalid with what is wrong."""
    _check_parameters(written)
    return DeploymentFields(
        description=written.description,
        tags=written.tags,
        runner=_runner_of(written.runner, stored),
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


def prefixed(name: str, found: tuple[Problem, ...] | list[Problem]) -> list[Problem]:
    """Problems inside a field, seen from outside."""
    return [Problem((name, *problem.loc), problem.msg) for problem in found]


def _runner_of(written: Runner, stored: Webhook | None) -> Webhook:
    found: list[Problem] = []
    runner = Webhook(
        url=written.url,
        headers=_headers_of(written, stored, found),
        secrets=_secrets_of(written, stored, found),
        timeout=written.timeout,
        retries=tuple(wait.total_seconds() for wait in written.retries),
    )
    found += webhook_problems(runner)
    if found:
        raise Invalid(f"The runner cannot be used: {found[0].msg}", prefixed("runner", found))
    return runner


def _headers_of(written: Runner, stored: Webhook | None, found: list[Problem]) -> dict[str, str]:
    kept = {name.lower(): value for name, value in (stored.headers if stored else {}).items()}
    if written.headers is None:
        return {}
    sent = {name.lower() for name in written.headers}
    headers = {
        name: value
        for name, value in (stored.headers if stored else {}).items()
        if name.lower() not in sent
    }
    for name, value in written.headers.items():
        if value == HIDDEN and name.lower() in kept:
            headers[name] = kept[name.lower()]
        elif value == HIDDEN:
            found.append(Problem(("headers", name), "There is no value stored that could be kept."))
        elif value is not None:
            headers[name] = value
    return headers


def _secrets_of(written: Runner, stored: Webhook | None, found: list[Problem]) -> tuple[str, ...]:
    kept = stored.secrets if stored else ()
    sent = written.secret
    if "secret" not in written.model_fields_set:
        return kept
    if sent is None:
        return ()
    if sent == HIDDEN and kept:
        return kept
    still = iter(kept)
    secrets = []
    for index, secret in enumerate(sent if isinstance(sent, list) else [sent]):
        value = next(still, None) if secret == HIDDEN else secret
        if value is None:
            loc = ("secret", index) if isinstance(sent, list) else ("secret",)
            found.append(Problem(loc, "There is no secret stored that could be kept."))
        else:
            secrets.append(value)
    return tuple(secrets)


def _prepared(
    deployment: Deployment, given: dict[str, Any]
) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Rendered parameters, or what a child process has yet to render."""
    size = len(json.dumps(given, ensure_ascii=False).encode())
    if size > PARAMETERS_BYTES_MAX:
        message = f"The parameters have {size:,} bytes; at most {PARAMETERS_BYTES_MAX:,} fit."
        raise Invalid(message, [Problem(("parameters",), message)])
    context = empty_context(deployment.name)
    try:
        defaults = compile_parameters(
            {name: value for name, value in deployment.parameters.items() if name not in given}
        )
        if defaults.heavy:
            source = {**defaults.source, **_as_literals(given)}
            compile_parameters(source)
            return None, {"parameters": source, "context": context}
        rendered = {**defaults.render(context), **given}
    except (Invalid, RenderFailed) as error:
        raise Invalid(error.message, prefixed("parameters", error.problems)) from None
    if deployment.parameter_schema is not None:
        found = violations(compile_schema(deployment.parameter_schema), rendered)
        if found:
            raise Invalid(
                f"The parameters break the deployment's schema: {found[0].msg}",
                prefixed("parameters", found),
            )
    return rendered, None


def empty_context(deployment: str) -> dict[str, Any]:
    """What templates see of a run that no event caused."""
    return {
        "event": None,
        "after": None,
        "events": [],
        "labels": {},
        "trigger": None,
        "deployment": {"name": deployment},
    }


def _as_literals(value: Any) -> Any:
    """Templates that render to just this value, whatever its strings look like."""
    match value:
        case str() if "{" in value:
            escaped = "".join(
                char
                if char.isascii() and (char.isalnum() or char in " .,:;/@-_")
                else f"\\U{ord(char):08x}"
                for char in value
            )
            return f"{{{{ '{escaped}' }}}}"
        case list():
            return [_as_literals(item) for item in value]
        case dict():
            return {name: _as_literals(item) for name, item in value.items()}
        case _:
            return value
