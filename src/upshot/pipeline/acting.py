"""What firings do: runs of deployments, triggers paused and resumed, and what is told of it all."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import assert_never
from uuid import UUID

import asyncpg

from upshot.core.announcing import AUTOMATION, DEPLOYMENT, Done, announced, inferred_id
from upshot.core.events import RESOURCE_ID, RESOURCE_ROLE
from upshot.core.intake import NewEvent
from upshot.core.lifecycle import LOOP
from upshot.core.limits import CHAIN_DEPTH_MAX
from upshot.core.runs import Firing
from upshot.core.timeline import SetAside
from upshot.core.triggers import Nothing, Run, SetEnabled
from upshot.pipeline.firing import Defaults, depth_of, done_by, fired_by, run_of
from upshot.storage import log, queue, switching
from upshot.storage.queue import NewRun


@dataclass(slots=True)
class Acted:
    """What came of some firings. `told` counts the entries that the log was given."""

    runs: list[NewRun] = field(default_factory=list)
    set_aside: list[SetAside] = field(default_factory=list)
    told: int = 0


@dataclass(slots=True)
class _Known:
    """What there is of all that the firings name, or their events tell of."""

    deployments: dict[str, Defaults]
    inferred: Mapping[UUID, str] = field(default_factory=dict)
    """Names of deployments."""
    triggers: Collection[UUID] = ()


async def act(conn: asyncpg.Connection, firings: Sequence[Firing]) -> Acted:
    """Do all that the firings' actions say. Needs a transaction.

    Raises:
        NoDay: the log has no partition for today. The transaction is void.
    """
    acted = Acted()
    known = _Known(await _deployments_of(conn, firings))
    others = [firing for firing in firings if not firing.trigger.only_runs]
    if others:
        known.inferred = await _inferred(conn, others, known.deployments)
        switched = await switching.set_enabled(conn, list(_switches(others)))
        known.triggers, acted.told = switched.there, switched.changes
    events: list[NewEvent] = []
    for firing in firings:
        if firing.trigger.only_runs:
            acted.runs += _runs_of(firing, known.deployments)
        else:
            events += _done(firing, known, acted)
    await log.append_told(conn, events)
    acted.told += len(events)
    if acted.runs:
        await queue.create(conn, acted.runs)
    return acted


async def _deployments_of(
    conn: asyncpg.Connection, firings: Iterable[Firing]
) -> dict[str, Defaults]:
    names = {run.deployment for firing in firings for _, run in firing.trigger.runs}
    rows = await queue.defaults_of(conn, sorted(name for name in names if name is not None))
    return {row["name"]: _defaults(row) for row in rows}


async def _inferred(
    conn: asyncpg.Connection, firings: Iterable[Firing], deployments: dict[str, Defaults]
) -> dict[UUID, str]:
    """The names of the deployments that the firings' events tell of; they are known from now on."""
    asked = {
        inferred_id(fired_by(firing.fire), DEPLOYMENT)
        for firing in firings
        if any(run.deployment is None for _, run in firing.trigger.runs)
    }
    ids = sorted(one for one in asked if one is not None)
    rows = await queue.defaults_by_id(conn, ids) if ids else []
    deployments.update((row["name"], _defaults(row)) for row in rows)
    return {row["id"]: row["name"] for row in rows}


def _defaults(row: asyncpg.Record) -> Defaults:
    may_overlap = row["overlap"] == "allow"
    return Defaults(row["parameters"], row["parameter_schema"], row["id"], may_overlap)


def _switches(firings: Iterable[Firing]) -> Iterator[tuple[UUID, bool]]:
    """Which triggers are to be enabled, or not, in order."""
    for firing in firings:
        for action in firing.trigger.actions:
            if isinstance(action, SetEnabled) and depth_of(firing) <= CHAIN_DEPTH_MAX:
                trigger_id = _trigger_id(firing, action)
                if trigger_id is not None:
                    yield trigger_id, action.enabled


def _trigger_id(firing: Firing, action: SetEnabled) -> UUID | None:
    return action.trigger_id or inferred_id(fired_by(firing.fire), AUTOMATION)


def _runs_of(firing: Firing, deployments: Mapping[str, Defaults]) -> list[NewRun]:
    depth = depth_of(firing)
    return [
        run_of(
            firing,
            place,
            action,
            deployment=action.deployment or "",
            defaults=deployments.get(action.deployment or ""),
            depth=depth,
        )
        for place, action in firing.trigger.runs
    ]


def _done(firing: Firing, known: _Known, acted: Acted) -> list[NewEvent]:
    """Every action of the firing done; what is told of it, if it is."""
    trigger, depth = firing.trigger, depth_of(firing)
    done: list[Done] = []
    for place, action in enumerate(trigger.actions):
        match action:
            case Run():
                done.append(_run(firing, place, action, known, acted, depth=depth))
            case SetEnabled():
                done.append(_switched(firing, place, action, known, depth=depth))
            case Nothing():
                done.append(Done(place, action))
            case _:
                assert_never(action)
    if trigger.announces and depth <= CHAIN_DEPTH_MAX:
        return list(announced(firing, done, depth=depth))
    acted.set_aside += [
        SetAside(fired_by(firing.fire), trigger, f"actions.{one.place}: {one.reason}")
        for one in done
        if one.reason is not None and not one.made_run
    ]
    return []


def _run(
    firing: Firing, place: int, action: Run, known: _Known, acted: Acted, *, depth: int
) -> Done:
    name = action.deployment
    if name is None:
        asked = inferred_id(fired_by(firing.fire), DEPLOYMENT)
        name = None if asked is None else known.inferred.get(asked)
        if name is None:
            return Done(place, action, reason=_not_inferred("deployment", asked))
    defaults = known.deployments.get(name)
    run = run_of(firing, place, action, deployment=name, defaults=defaults, depth=depth)
    acted.runs.append(run)
    return done_by(run.id, place, action, defaults, reason=run.error)


def _switched(firing: Firing, place: int, action: SetEnabled, known: _Known, *, depth: int) -> Done:
    trigger_id = _trigger_id(firing, action)
    if depth > CHAIN_DEPTH_MAX:
        return Done(place, action, reason=LOOP)
    if trigger_id is None:
        return Done(place, action, reason=_not_inferred("automation", None))
    target = {RESOURCE_ID: f"{AUTOMATION}{trigger_id}", RESOURCE_ROLE: "target"}
    is_there = trigger_id in known.triggers
    reason = None if is_there else _not_inferred("automation", trigger_id)
    return Done(place, action, (target,), reason)


def _not_inferred(what: str, asked: UUID | None) -> str:
    if asked is not None:
        return f"There is no {what} {asked}."
    return (
        f"No {what} could be inferred: neither the resource of the firing's event nor a related "
        f"one is 'prefect.{what}.<id>'."
    )
