"""A deployment of Prefect's client and one of Upshot's, translated both ways; pure."""

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from upshot.core.delivery import Pull
from upshot.core.errors import Invalid, Problem
from upshot.core.limits import (
    CONCURRENCY_MAX,
    FLOW_DETAILS_BYTES_MAX,
    FLOW_POLLED_WITHIN,
    FLOW_RUN_TIMEOUT,
    NAME_CHARS_MAX,
    PARAMETERS_NESTING_MAX,
    TEXT_CHARS_MAX,
)
from upshot.core.parameter_schema import compile_schema, violations
from upshot.prefect.templated import literal
from upshot.storage.deployments import Deployment, DeploymentFields
from upshot.storage.flow_deployments import FlowDeployment

_NOT_ALLOWED: Final = re.compile(r"[^A-Za-z0-9._-]")

SHOWN_AS_SENT: Final[Mapping[str, Any]] = {
    "version": None,
    "version_info": None,
    "labels": {},
    "path": None,
    "entrypoint": None,
    "job_variables": {},
    "pull_steps": None,
    "concurrency_limit": None,
    "concurrency_options": None,
    "parameter_openapi_schema": None,
    "enforce_parameter_schema": True,
    "storage_document_id": None,
    "infrastructure_document_id": None,
    "branch": None,
    "base": None,
    "root": None,
}
"""What Upshot has no column for and answers as it was sent, or so where it was not."""

_KEPT: Final = (*SHOWN_AS_SENT, "description", "parameters", "paused")


def upshot_name(*, flow: str, deployment: str) -> str:
    """What `/v1` calls it: a slug of both names, or of the one that both have."""
    name = flow if flow == deployment else f"{flow}.{deployment}"
    return _NOT_ALLOWED.sub("-", name).lstrip("-._")[:NAME_CHARS_MAX] or "flow"


def upshot_name_apart(name: str, deployment_id: UUID) -> str:
    """For where the name is another deployment's."""
    return f"{name[: NAME_CHARS_MAX - 9]}-{deployment_id.hex[:8]}"


def kept(stored: Mapping[str, Any], sent: Mapping[str, Any]) -> dict[str, Any]:
    """The details after a client has sent these fields.

    Raises:
        Invalid: they are larger than what is kept.
    """
    details = {**stored, **{name: sent[name] for name in _KEPT if name in sent}}
    size = len(json.dumps(details, ensure_ascii=False).encode())
    if size > FLOW_DETAILS_BYTES_MAX:
        message = f"The deployment has {size:,} bytes; at most {FLOW_DETAILS_BYTES_MAX:,} fit."
        raise Invalid(message, [Problem((), message)])
    return details


def new_fields(details: Mapping[str, Any], *, tags: list[str]) -> DeploymentFields:
    """What Upshot's deployment is at first."""
    return DeploymentFields(
        description=_description(details),
        tags=tags,
        runner=Pull(()),
        parameters=_parameters(details),
        parameter_schema=_enforced_schema(details),
        max_concurrency=_concurrency(details),
        run_timeout=FLOW_RUN_TIMEOUT,
        overlap="allow",
        enabled=True,
    )


def changed_fields(
    stored: Deployment, details: Mapping[str, Any], *, sent: Mapping[str, Any]
) -> DeploymentFields:
    """Upshot's deployment after a client has sent these; what it did not send stays."""
    concerns_schema = {"parameter_openapi_schema", "enforce_parameter_schema"} & sent.keys()
    return DeploymentFields(
        description=_description(details) if "description" in sent else stored.description,
        tags=sent.get("tags", stored.tags),
        runner=stored.runner if isinstance(stored.runner, Pull) else Pull(()),
        parameters=_parameters(details) if "parameters" in sent else stored.parameters,
        parameter_schema=_enforced_schema(details) if concerns_schema else stored.parameter_schema,
        max_concurrency=(
            _concurrency(details) if "concurrency_limit" in sent else stored.max_concurrency
        ),
        run_timeout=stored.run_timeout,
        overlap=stored.overlap,
        enabled=stored.enabled,
    )


def shown(found: FlowDeployment, now: datetime) -> dict[str, Any]:
    """A deployment as the client reads it."""
    stored, details = found.deployment, found.details
    polled = found.polled_at is not None and now - found.polled_at <= FLOW_POLLED_WITHIN
    return {
        "id": stored.id,
        "created": stored.created_at,
        "updated": stored.updated_at,
        "name": found.name,
        "flow_id": found.flow_id,
        **{name: details.get(name, default) for name, default in SHOWN_AS_SENT.items()},
        "description": _shown_description(stored, details),
        "tags": stored.tags,
        "parameters": shown_parameters(stored, details),
        "paused": bool(details.get("paused")) or not stored.enabled,
        "schedules": [],
        "global_concurrency_limit": None,
        "work_pool_name": None,
        "work_queue_name": None,
        "created_by": None,
        "updated_by": None,
        "status": "READY" if polled else "NOT_READY",
        "last_polled": found.polled_at,
    }


def shown_parameters(stored: Deployment, details: Mapping[str, Any]) -> dict[str, Any]:
    """As the client sent them, unless they were changed through `/v1` since."""
    if stored.parameters == _parameters(details):
        sent: dict[str, Any] = details.get("parameters") or {}
        return sent
    return stored.parameters


def breach_of_defaults(details: Mapping[str, Any]) -> str | None:
    """Why the default parameters break the schema that is to be kept, or None.

    Runs may give what is required and missing in them.
    """
    schema = _enforced_schema(details)
    if schema is None:
        return None
    optional = compile_schema({**schema, "required": []})
    found = violations(optional, details.get("parameters") or {})
    if not found:
        return None
    return f"{'.'.join(map(str, found[0].loc))}: {found[0].msg}"


def _parameters(details: Mapping[str, Any]) -> dict[str, Any]:
    """The client's parameters are values; here, strings in them would be templates."""
    try:
        return {name: literal(value) for name, value in (details.get("parameters") or {}).items()}
    except RecursionError:
        message = f"The parameters are nested more than {PARAMETERS_NESTING_MAX} deep."
        raise Invalid(message, [Problem(("parameters",), message)]) from None


def _description(details: Mapping[str, Any]) -> str:
    return (details.get("description") or "")[:TEXT_CHARS_MAX]


def _shown_description(stored: Deployment, details: Mapping[str, Any]) -> str | None:
    if stored.description == _description(details):
        return details.get("description")
    return stored.description


def _concurrency(details: Mapping[str, Any]) -> int:
    return details.get("concurrency_limit") or CONCURRENCY_MAX


def _enforced_schema(details: Mapping[str, Any]) -> dict[str, Any] | None:
    """None: it is not to be enforced, or is none that Upshot can check with."""
    schema: dict[str, Any] | None = details.get("parameter_openapi_schema")
    if not schema or not details.get("enforce_parameter_schema", True):
        return None
    try:
        compile_schema(schema)
    except Invalid:
        return None
    return schema
