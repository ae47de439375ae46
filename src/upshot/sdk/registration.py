"""Tells the server of deployments and triggers, and takes back what the file no longer has."""

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar
from urllib.parse import quote

from upshot.sdk.api import Api
from upshot.sdk.backoff import Backoff
from upshot.sdk.deployments import Deployment
from upshot.sdk.errors import ClientError, Refused, Unreachable
from upshot.sdk.limits import NAME_CHARS_MAX, TRIGGERS_PER_PAGE
from upshot.sdk.triggers import AnyTrigger

log = logging.getLogger("upshot")

MANAGED_BY: Final = "managed_by:"
"""Begins the tag of what a file has registered; the rest names the file's deployment or app."""

T = TypeVar("T")


async def register(
    api: Api,
    deployments: Sequence[Deployment[..., Any]],
    *,
    runner: Mapping[str, Any],
    managed_by: str | None,
) -> None:
    """Make or replace deployments and triggers, and remove triggers that an earlier start made.

    Those carry the same `managed_by` tag. A server that is away is waited for.

    Raises:
        Refused: the server does not accept something; it says what.
        ClientError: two triggers have the same name.
    """
    wanted = _named(deployments)
    for deployment in deployments:
        document = deployment.document(runner=runner, managed_by=_tag(deployment, managed_by))
        await _patiently(partial(_put_deployment, api, deployment, document))
    known = await _patiently(partial(_triggers, api))
    for name, (deployment, trigger) in wanted.items():
        tag = _tag(deployment, managed_by)
        document = trigger.document(deployment=deployment.name, managed_by=tag)
        await _patiently(partial(_put_trigger, api, name, document, known.get(name)))
    tags = {_tag(deployment, managed_by) for deployment in deployments}
    for name, stored in known.items():
        if name not in wanted and tags & set(stored["tags"]):
            await _patiently(partial(_delete_trigger, api, name))


def tag_of(owner: str) -> str:
    """The tag of what this deployment or app has registered."""
    tag = f"{MANAGED_BY}{owner}"
    if len(tag) <= NAME_CHARS_MAX:
        return tag
    digest = hashlib.sha256(owner.encode()).hexdigest()[:16]
    return f"{tag[: NAME_CHARS_MAX - len(digest) - 1]}-{digest}"


def _tag(deployment: Deployment[..., Any], managed_by: str | None) -> str:
    return tag_of(managed_by or deployment.name)


def _named(
    deployments: Sequence[Deployment[..., Any]],
) -> dict[str, tuple[Deployment[..., Any], AnyTrigger]]:
    named: dict[str, tuple[Deployment[..., Any], AnyTrigger]] = {}
    for deployment in deployments:
        for trigger in deployment.triggers:
            name = trigger.name_for(deployment.name)
            if name in named:
                raise ClientError(
                    f"Two triggers of {deployment.name!r} are named {name!r}, or have the same "
                    "condition and no name. Give each a name of its own."
                )
            named[name] = (deployment, trigger)
    return named


async def _patiently(attempt: Callable[[], Awaitable[T]]) -> T:
    """Until the server is there."""
    backoff = Backoff()
    while True:
        try:
            return await attempt()
        except Unreachable as error:
            wait = backoff.next(at_least=error.retry_after)
            log.warning("cannot register yet, trying again in %.1f s: %s", wait, error)
            await asyncio.sleep(wait)


async def _put_deployment(
    api: Api, deployment: Deployment[..., Any], document: dict[str, Any]
) -> None:
    path = f"/v1/deployments/{quote(deployment.name)}"
    stored = await _found(api, path)
    if stored is not None and not stored["enabled"]:
        # Somebody disabled it, or its runner was gone; a start of the file is no reason to undo it.
        document = {**document, "enabled": False}
        log.warning("deployment %s is disabled: its runs wait", deployment.name)
    try:
        await api.call("PUT", path, document)
    except Refused as error:
        if not _is_about_schema(error):
            raise
        log.warning("parameters of %s are checked here only: %s", deployment.name, error)
        await api.call("PUT", path, {**document, "parameter_schema": None})


def _is_about_schema(error: Refused) -> bool:
    """JSON Schema can say more than the server takes, such as what refers to itself."""
    document = error.document
    problems = document.get("errors") if isinstance(document, dict) else None
    return error.status == 422 and any(
        problem["loc"][:1] == ["parameter_schema"] for problem in problems or ()
    )


async def _put_trigger(
    api: Api, name: str, document: dict[str, Any], stored: Mapping[str, Any] | None
) -> None:
    if stored is not None:
        if not any(tag.startswith(MANAGED_BY) for tag in stored["tags"]):
            log.warning("trigger %s was made elsewhere; this file has it from now on", name)
        # One that was disabled by hand stays so, unless the file says something about it.
        document = {"enabled": stored["enabled"], **document}
    answer = await api.call("PUT", f"/v1/triggers/{quote(name)}", document)
    forgotten = (answer.get("keys") or {}).get("forgotten")
    if forgotten:
        log.warning("trigger %s has a new condition: %d open keys are forgotten", name, forgotten)


async def _delete_trigger(api: Api, name: str) -> None:
    try:
        await api.call("DELETE", f"/v1/triggers/{quote(name)}")
    except Refused as error:
        if error.status != 404:
            raise
    log.info("trigger %s is removed: the file no longer has it", name)


async def _found(api: Api, path: str) -> Any:
    try:
        return await api.call("GET", path)
    except Refused as error:
        if error.status != 404:
            raise
    return None


async def _triggers(api: Api) -> dict[str, Any]:
    found: dict[str, Any] = {}
    query: dict[str, Any] = {"limit": TRIGGERS_PER_PAGE}
    while True:
        page = await api.call("GET", "/v1/triggers", query=query)
        found |= {trigger["name"]: trigger for trigger in page["items"]}
        if page["next_cursor"] is None:
            return found
        query["cursor"] = page["next_cursor"]
