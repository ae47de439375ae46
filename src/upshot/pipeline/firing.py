"""Firings become runs: their parameters rendered, or the reason why they could not be."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from uuid import UUID

import msgspec
import structlog
from msgspec import structs

from upshot.core.announcing import DEPLOYMENT, FLOW_RUN, Done, made_by
from upshot.core.contexts import context_of
from upshot.core.errors import UpshotError
from upshot.core.events import RESOURCE_ID, RESOURCE_ROLE, Event, Labels, event_json
from upshot.core.facts import Fire
from upshot.core.language import RUN_DEPLOYMENT
from upshot.core.lifecycle import LOOP, depth_after
from upshot.core.limits import CHAIN_DEPTH_MAX
from upshot.core.parameter_schema import breach_of
from upshot.core.runs import Firing
from upshot.core.templates import (
    Parameters,
    compile_parameters,
    event_document,
    event_view,
    merged_source,
)
from upshot.core.triggers import Proactive, Run, Trigger
from upshot.core.windows import Seen
from upshot.storage.queue import NewRun

_PARAMETERS_CACHED_MAX = 10_000

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a deployment gives to the runs of its triggers; JSON as text."""

    parameters: str
    parameter_schema: str | None
    id: UUID | None = None
    may_overlap: bool = True


def needed_by(firing: Firing) -> Iterator[Seen]:
    """The events that the firing's run tells of, or that its templates may reach."""
    fire, trigger = firing.fire, firing.trigger
    if fire.event is not None:
        yield fire.event
    if trigger.keeps_after and fire.after is not None:
        yield fire.after
    if trigger.keeps_events or trigger.names_own_events:
        yield from fire.counted


def filled(firing: Firing, events: Mapping[UUID, Event]) -> Firing:
    """With the events that its key did not keep, where the log still has them."""

    def whole(seen: Seen) -> Seen:
        return seen if seen.event is not None else structs.replace(seen, event=events.get(seen.id))

    fire = firing.fire
    return structs.replace(
        firing,
        fire=Fire(
            event=fire.event and whole(fire.event),
            counted=tuple(map(whole, fire.counted)),
            after=fire.after and whole(fire.after),
            at=fire.at,
        ),
    )


def depth_of(firing: Firing) -> int:
    """How many runs in a row led to it."""
    fire = firing.fire
    # What a dead man's switch fires on is silence, and no run before it caused that.
    if _is_switch(firing.trigger):
        return 0
    return depth_after([fired_by(fire), *[seen.event for seen in fire.counted]])


def run_of(
    firing: Firing,
    place: int,
    action: Run,
    *,
    deployment: str,
    defaults: Defaults | None,
    depth: int,
) -> NewRun:
    """The run that one of a firing's actions makes. What cannot be rendered has failed already."""
    trigger, fire = firing.trigger, firing.fire
    event = fired_by(fire)
    run_id = firing.id_of(str(place))
    parameters = template = error = None
    if depth > CHAIN_DEPTH_MAX:
        error = LOOP
    elif defaults is None:
        error = f"There is no deployment {deployment!r}."
    else:
        parameters, template, error = parameters_of(firing, action, deployment, defaults)
    return NewRun(
        id=run_id,
        scheduled_at=firing.at + action.schedule_after,
        deployment=deployment,
        trigger_id=trigger.id,
        trigger_version=trigger.version,
        trigger=trigger.name,
        key=msgspec.json.encode(firing.key).decode(),
        labels=msgspec.json.encode(firing.labels).decode(),
        event_id=None if fire.event is None else fire.event.id,
        event=None if event is None else event_json(event),
        after_id=None if fire.after is None else fire.after.id,
        event_ids=[seen.id for seen in fire.counted],
        parameters=parameters,
        template=template,
        error=error,
        depth=depth,
        may_overlap=defaults is None or defaults.may_overlap,
        action=None
        if trigger.is_plain
        else made_by(firing, done_by(run_id, place, action, defaults), depth=depth),
    )


def done_by(
    run_id: UUID, place: int, action: Run, defaults: Defaults | None, *, reason: str | None = None
) -> Done:
    """What is told of an action that has made this run."""
    related: list[Labels] = []
    if defaults is not None and defaults.id is not None:
        related.append({RESOURCE_ID: f"{DEPLOYMENT}{defaults.id}", RESOURCE_ROLE: "target"})
    if action.kind == RUN_DEPLOYMENT:
        related.append({RESOURCE_ID: f"{FLOW_RUN}{run_id}", RESOURCE_ROLE: "flow-run"})
    else:
        related.append({RESOURCE_ID: f"upshot.run.{run_id}", RESOURCE_ROLE: "run"})
    return Done(place, action, tuple(related), reason, made_run=True)


def _is_switch(trigger: Trigger) -> bool:
    condition = trigger.condition
    return isinstance(condition, Proactive) and condition.selection.after is None


def fired_by(fire: Fire) -> Event | None:
    """The firing's event, where it is known in full."""
    return None if fire.event is None else fire.event.event


def parameters_of(
    firing: Firing, action: Run, deployment: str, defaults: Defaults
) -> tuple[str | None, str | None, str | None]:
    """Rendered parameters, or a template left to be rendered in a child process, or an error."""
    try:
        compiled = _compiled(defaults.parameters, action.parameters)
        if compiled.heavy:
            context = context_of(firing, deployment=deployment, of_event=event_document)
            return None, json.dumps({"parameters": compiled.source, "context": context}), None
        context = context_of(
            firing, deployment=deployment, of_event=event_view, names=compiled.names
        )
        rendered = compiled.render(context)
        breach = breach_of(defaults.parameter_schema, rendered)
        if breach is not None:
            return None, None, breach
        return msgspec.json.encode(rendered).decode(), None, None
    except UpshotError as error:
        return None, None, error.message
    except Exception as error:
        log.exception("render_raised", trigger=firing.trigger.name)
        return None, None, f"The parameters could not be rendered: {error!r}"


@lru_cache(maxsize=_PARAMETERS_CACHED_MAX)
def _compiled(deployment: str, trigger: str) -> Parameters:
    return compile_parameters(merged_source(json.loads(deployment), json.loads(trigger)))
