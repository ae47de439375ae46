"""Backtests: what a trigger would have fired over stored events. Nothing is written."""

import json
from datetime import datetime
from typing import Annotated, Any, Final, Literal, cast
from uuid import UUID

from fastapi import Body, Request, Response
from pydantic import AwareDatetime, BaseModel, Field, TypeAdapter
from sqlalchemy.ext.asyncio import AsyncConnection

from upshot.api.answers import json_answer, raw
from upshot.api.bodies import validated
from upshot.api.events import EventShown
from upshot.api.paging import Time
from upshot.api.problems import BODY, prefixed, problems, summary_of
from upshot.api.routing import new_router
from upshot.api.services import Services, Using
from upshot.api.triggers import TriggerSent
from upshot.core.errors import Invalid, NotFound, Problem
from upshot.core.language import (
    TRIGGER_FIELDS,
    AnyTrigger,
    Name,
    Strict,
    compile_trigger,
    compiled_parameters,
)
from upshot.core.limits import (
    BACKTEST_HELD_FOR,
    BACKTEST_SPAN_DEFAULT,
    LIST_LIMIT_DEFAULT,
    LIST_LIMIT_MAX,
)
from upshot.core.runs import run_id_of
from upshot.core.triggers import Trigger
from upshot.pipeline.backtest import Backtests, Page, Running, Shown, Tried
from upshot.pipeline.firing import Defaults
from upshot.storage import deployments, triggers
from upshot.storage.deployments import Deployment

router = new_router("triggers")

UNNAMED: Final = "backtest"
"""The name, and the deployment, of a trigger that says none."""

_NEW, _OLD = 1, 2
_adapter: Final[TypeAdapter[AnyTrigger]] = TypeAdapter(TriggerSent)


class BacktestAsked(Strict):
    """A trigger, and the span of the log to try it on."""

    trigger: dict[str, Any] | None = Field(
        default=None,
        description="The trigger, as in `PUT /v1/triggers/{name}`; it need not exist. `name` and "
        "`deployment` may be left out. If the deployment exists, its default parameters and its "
        "`parameter_schema` are used. Needed unless there is a `cursor`.",
    )
    since: Time | None = Field(
        default=None,
        description="Events received at or after this time. Default: a day before `until`.",
    )
    until: Time | None = Field(
        default=None, description="Events received before this time. Default, and at most: now."
    )
    limit: int = Field(
        default=LIST_LIMIT_DEFAULT,
        ge=1,
        le=LIST_LIMIT_MAX,
        strict=True,
        description="How many firings to answer at most.",
    )
    cursor: str | None = Field(
        default=None,
        max_length=1_024,
        description="The `next_cursor` of the answer before: goes on where that ended. Besides it "
        f"only `limit` matters. It can be used once, for {BACKTEST_HELD_FOR.seconds // 60} "
        "minutes.",
    )
    against: Name | None = Field(
        default=None,
        description="The name of a registered trigger: answers only what differs from it.",
    )


class Firing(BaseModel):
    """A firing that would have been."""

    at: AwareDatetime = Field(description="When it would have fired.")
    key: list[str] = Field(description="The values of `for_each`, in its order.")
    labels: dict[str, str] = Field(description="The same by their labels.")
    event: EventShown | None = Field(description="The firing's event.")
    event_ids: list[UUID] = Field(description="The events that were counted, oldest first.")
    parameters: dict[str, Any] | None = Field(
        description="Rendered; null: see `error`. Of several `actions`, those of the first run."
    )
    error: str | None = Field(
        description="Why the run, or one of several, would have failed without a call."
    )
    only: Literal["new", "old"] | None = Field(
        default=None,
        description="With `against`: whether only the tried trigger has this firing, or only the "
        "registered one.",
    )


class BacktestAnswer(BaseModel):
    """What would have fired, as far as the backtest has got."""

    items: list[Firing]
    next_cursor: str | None = Field(description="To go on with; null: this is all.")
    events: int = Field(description="How many events were looked at, up to here.")
    concerned: int = Field(description="How many of them concerned the trigger.")
    same: int | None = Field(
        default=None, description="With `against`: how many firings both triggers have, up to here."
    )
    open_keys: int | None = Field(
        description="How many keys are open at the end; null where that is not reached yet."
    )
    since: AwareDatetime
    until: AwareDatetime
    reached: AwareDatetime = Field(description="Up to where the log is looked at.")
    note: str | None = Field(default=None, description="What else is to be known.")


_EXAMPLE: Final = {
    "trigger": {
        "after": ["order.created"],
        "expect": ["order.complete"],
        "for_each": ["prefect.resource.id"],
        "parameters": {"user_id": "{{ event.resource.id }}"},
    },
    "since": "2026-01-31T00:00:00Z",
}


@router.post(
    "/v1/triggers/backtest",
    summary="Try a trigger on stored events",
    response_model=BacktestAnswer,
    responses=problems(*BODY, 404, 409),
)
async def backtest_trigger(
    services: Using, request: Request, asked: Annotated[BacktestAsked, Body(examples=[_EXAMPLE])]
) -> Response:
    """What the trigger would have fired, had it been registered at `since`. Nothing is written.

    An answer takes at most about 20 seconds; it may hold few firings or none and still have a
    `next_cursor`, which goes on.
    """
    backtests = cast(Backtests, request.app.state.backtests)
    with backtests.another():
        begun = None if asked.cursor is not None else await _begin(services, asked)
        async with services.database.reader() as conn:
            running = begun or backtests.take(asked.cursor or "")
            page = await running.page(conn, limit=asked.limit)
    return _answer(page, None if page.is_over else backtests.hold(running))


async def _begin(services: Services, asked: BacktestAsked) -> Running:
    if asked.trigger is None:
        raise _invalid("trigger", "Field required, unless there is a cursor.")
    new = _trigger(asked.trigger)
    since, until = _span(asked, services.now())
    async with services.database.begin() as conn:
        tried = Tried(new, await _defaults(conn, new))
        against = None if asked.against is None else await _registered(conn, asked.against)
    return Running(
        tried, against, since=since, until=until, retention=services.settings.key_retention
    )


def _trigger(document: dict[str, Any]) -> Trigger:
    """The trigger to be tried. Enabled or not is no matter."""
    named = {"name": UNNAMED, **document}
    if not document.get("actions"):
        named = {"deployment": UNNAMED, **named}
    try:
        written = validated(_adapter, named, known=TRIGGER_FIELDS)
    except Invalid as error:
        raise _inside("trigger", error) from None
    try:
        compiled_parameters(written)
    except Invalid as error:
        raise _inside("trigger", error) from None
    return compile_trigger(
        written.model_dump(mode="json"),
        trigger_id=run_id_of("backtest", written.name or UNNAMED),
        number=_NEW,
        version=1,
    )


def _span(asked: BacktestAsked, now: datetime) -> tuple[datetime, datetime]:
    until = min(asked.until or now, now)
    since = asked.since or until - BACKTEST_SPAN_DEFAULT
    if since >= until:
        raise _invalid("since", f"must be before until, which is {until.isoformat()}.")
    return since, until


async def _registered(conn: AsyncConnection, name: str) -> Tried:
    stored = await triggers.load(conn, name)
    if stored is None:
        raise NotFound(f"There is no trigger {name!r}.")
    trigger = compile_trigger(
        {"name": stored.name, **stored.document},
        trigger_id=stored.id,
        number=_OLD,
        version=stored.version,
    )
    return Tried(trigger, await _defaults(conn, trigger))


async def _defaults(conn: AsyncConnection, trigger: Trigger) -> dict[str, Defaults]:
    """What the deployments that it names give to its runs, those that exist already."""
    names = {run.deployment for _, run in trigger.runs if run.deployment is not None}
    found = [await deployments.load(conn, name) for name in sorted(names)]
    return {one.name: _defaults_of(one) for one in found if one is not None}


def _defaults_of(deployment: Deployment) -> Defaults:
    schema = deployment.parameter_schema
    return Defaults(
        json.dumps(deployment.parameters), None if schema is None else json.dumps(schema)
    )


def _answer(page: Page, cursor: str | None) -> Response:
    comparison = {} if page.same is None else {"same": page.same}
    note = {} if page.note is None else {"note": page.note}
    return json_answer(
        {
            "items": list(map(_shown, page.items)),
            "next_cursor": cursor,
            "events": page.events,
            "concerned": page.concerned,
            **comparison,
            "open_keys": page.open_keys,
            "since": page.since,
            "until": page.until,
            "reached": page.reached,
            **note,
        }
    )


def _shown(firing: Shown) -> dict[str, Any]:
    only = {} if firing.only is None else {"only": firing.only}
    return {
        "at": firing.at,
        "key": firing.key,
        "labels": firing.labels,
        "event": raw(firing.event),
        "event_ids": firing.event_ids,
        "parameters": raw(firing.parameters),
        "error": firing.error,
        **only,
    }


def _invalid(field: str, message: str) -> Invalid:
    return Invalid(f"{field}: {message}", [Problem((field,), message)])


def _inside(field: str, error: Invalid) -> Invalid:
    """A problem of what stands in a field, seen from outside."""
    found = prefixed(field, error.problems)
    return Invalid(summary_of(found), found)
