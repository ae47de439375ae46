"""Runs that somebody asks for, without an event."""

import json
from typing import Annotated, Any
from uuid import uuid4

from fastapi import Body, Header, Response
from pydantic import Field

from upshot.api.deployments import NameInPath, unknown_deployment
from upshot.api.problems import BODY, prefixed, problems
from upshot.api.routing import new_router
from upshot.api.runs import RunShown, run_answer
from upshot.api.services import Using
from upshot.core.errors import Invalid, Problem
from upshot.core.language import JsonObject, Strict
from upshot.core.limits import IDEMPOTENCY_KEY_CHARS_MAX, PARAMETERS_BYTES_MAX
from upshot.core.parameter_schema import compile_schema, violations
from upshot.core.runs import run_id_of
from upshot.core.templates import RenderFailed, as_literal, compile_parameters
from upshot.storage import deployments, runs
from upshot.storage.deployments import Deployment

router = new_router("deployments")


class RunAsked(Strict):
    """A run on demand."""

    parameters: JsonObject = Field(
        default={},
        description="Values, over the deployment's defaults; what looks like a template is text.",
        examples=[{"user_id": "123"}],
    )


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
            raise unknown_deployment(name)
        run_id = uuid4()
        if idempotency_key is not None:
            run_id = run_id_of("manual", deployment.id.hex, idempotency_key)
            repeated = await run_answer(conn, run_id, status=200)
            if repeated is not None:
                return repeated
        parameters, template = prepared(deployment, given)
        made = await runs.create_asked_for(
            conn, run_id=run_id, deployment=name, parameters=parameters, template=template
        )
        answer = await run_answer(conn, run_id, status=201 if made else 200)
    assert answer is not None
    services.wake("deliver")
    return answer


def prepared(
    deployment: Deployment, given: dict[str, Any]
) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Rendered parameters, or what a child process has yet to render."""
    size = len(json.dumps(given, ensure_ascii=False).encode())
    if size > PARAMETERS_BYTES_MAX:
        message = f"The parameters have {size:,} bytes; at most {PARAMETERS_BYTES_MAX:,} fit."
        raise Invalid(message, [Problem(("parameters",), message)])
    context = _empty_context(deployment.name)
    try:
        defaults = compile_parameters(
            {name: value for name, value in deployment.parameters.items() if name not in given}
        )
        if defaults.heavy:
            source = {
                **defaults.source,
                **{parameter: as_literal(value) for parameter, value in given.items()},
            }
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


def _empty_context(deployment: str) -> dict[str, Any]:
    """What templates see of a run that no event caused."""
    return {
        "event": None,
        "after": None,
        "events": [],
        "labels": {},
        "trigger": None,
        "automation": None,
        "deployment": {"name": deployment},
    }
