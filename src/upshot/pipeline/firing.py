"""Firings become runs: their parameters rendered, or the reason why they could not be."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from uuid import UUID

import msgspec
import structlog
from msgspec import structs

from upshot.core.contexts import context_of
from upshot.core.errors import UpshotError
from upshot.core.events import Event, event_json
from upshot.core.facts import Fire
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
from upshot.core.triggers import Proactive, Trigger
from upshot.core.windows import Seen
from upshot.storage.queue import NewRun

_PARAMETERS_CACHED_MAX = 10_000

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a deployment gives to the runs of its triggers; JSON as text."""

    parameters: str
    parameter_schema: str | None


def needed_by(firing: Firing) -> Iterator[Seen]:
    """The events that the firing's run tells of, or that its templates may reach."""
    fire, trigger = firing.fire, firing.trigger
    if fire.event is not None:
        yield fire.event
    if trigger.keeps_after and fire.after is not None:
        yield fire.after
    if trigger.keeps_events or any(
        condition.selection.names_own_events for _, condition in trigger.leaves
    ):
        yield from fire.counted


def filled(firing: Firing, events: Mapping[UUID, Event]) -> Firing:
    """With the events that its key did not keep, where the log still has them."""

    def whole(seen: Seen) -> Seen:
        return seen if seen.event is not None else structs.replace(seen, event=events.get(seen.id))

    fire = firing.fire
    return replace(
        firing,
        fire=Fire(
            event=fire.event and whole(fire.event),
            counted=tuple(map(whole, fire.counted)),
            after=fire.after and whole(fire.after),
            at=fire.at,
        ),
    )


def runs_of(firings: Sequence[Firing], defaults: Mapping[str, Defaults]) -> list[NewRun]:
    """The runs that firings make; `defaults` by the deployment's name."""
    return [run_of(firing, defaults.get(firing.trigger.deployment)) for firing in firings]


def run_of(firing: Firing, defaults: Defaults | None) -> NewRun:
    """The run that a firing makes. What cannot be rendered makes one that has failed already."""
    trigger, fire = firing.trigger, firing.fire
    event = _event_of(fire)
    # What a dead man's switch fires on is silence, and no run before it caused that.
    told = [] if _is_switch(trigger) else [event, *(seen.event for seen in fire.counted)]
    depth = depth_after(told)
    parameters = template = error = None
    if depth > CHAIN_DEPTH_MAX:
        error = LOOP
    elif defaults is None:
        error = f"There is no deployment {trigger.deployment!r}."
    else:
        parameters, template, error = _rendered(firing, defaults)
    return NewRun(
        id=firing.run_id,
        scheduled_at=firing.at + trigger.schedule_after,
        deployment=trigger.deployment,
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
    )


def _is_switch(trigger: Trigger) -> bool:
    condition = trigger.condition
    return isinstance(condition, Proactive) and condition.selection.after is None


def _event_of(fire: Fire) -> Event | None:
    return None if fire.event is None else fire.event.event


def _rendered(firing: Firing, defaults: Defaults) -> tuple[str | None, str | None, str | None]:
    """Rendered parameters, or a template left to be rendered in a child process, or an error."""
    try:
        trigger = firing.trigger
        compiled = _compiled(defaults.parameters, trigger.parameters)
        if compiled.heavy:
            context = context_of(firing, of_event=event_document)
            return None, json.dumps({"parameters": compiled.source, "context": context}), None
        rendered = compiled.render(context_of(firing, of_event=event_view))
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
