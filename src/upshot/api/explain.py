"""Why an event did or did not fire a trigger, recomputed from the log."""

import asyncio
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Path, Request, Response
from pydantic import AwareDatetime, BaseModel, Field

from upshot.api.answers import json_answer
from upshot.api.problems import problems
from upshot.api.routing import new_router
from upshot.api.services import Services, Using
from upshot.core.checks import Check
from upshot.core.errors import Overloaded
from upshot.core.evaluation import KeyState
from upshot.core.explanation import ChildExplained, State
from upshot.core.language import Name
from upshot.core.limits import EVENTS_KEPT_MAX, EXPLAINS_AT_ONCE_MAX, EXPLAINS_WAITING_MAX
from upshot.core.sentences.outcomes import Outcome
from upshot.core.windows import Seen
from upshot.pipeline.explain import Explained, explain_event

router = new_router("triggers")

ChildPath = Annotated[
    list[int] | None,
    Field(
        description="Of a composite: which of its children, a number for each level, from 0. null: "
        "the trigger itself."
    ),
]


class CheckShown(BaseModel):
    """One question about the event."""

    check: Literal["name", "match", "match_related", "where", "key", "state"]
    child: ChildPath
    passed: bool
    expected: Any
    actual: Any
    why: str | None = Field(description="What is wrong, where it did not pass.")


class SeenShown(BaseModel):
    """An event that a key remembers."""

    id: UUID
    event: str | None = Field(description="Its name.")
    time: AwareDatetime = Field(description="The event's time in windows.")


class StateShown(BaseModel):
    """What a key remembered."""

    state: KeyState
    count: int = Field(description="How many expected events had come, or children had fired.")
    needed: int
    started: AwareDatetime | None
    deadline: AwareDatetime | None = Field(
        description="When the window ends, or when an absence is decided. null: it has no end."
    )
    after: SeenShown | None = Field(description="The event that opened the key.")
    events: list[SeenShown] = Field(
        description=f"Those counted, the newest {EVENTS_KEPT_MAX}, oldest first."
    )
    fired: list[list[int]] = Field(description="Of a composite: the children that have fired.")
    missing: list[list[int]] = Field(description="Of a composite: those that have not.")


class ChildShown(BaseModel):
    """What the event did at one of a composite's children."""

    child: list[int]
    outcome: Outcome
    summary: str
    key: list[str]
    before: StateShown | None
    after: StateShown | None


class ExplanationShown(BaseModel):
    """What an event did to a trigger, and why."""

    trigger: Name
    version: int = Field(description="The trigger's version that was in force for the event.")
    enabled: bool = Field(description="Whether it was enabled then.")
    event_id: UUID
    outcome: Outcome
    summary: str = Field(
        description="The outcome in a sentence; times are UTC.",
        examples=[
            "Counted: 2 of 3 within 10 min; fires if one more `order.failed` happens before "
            "10:42:07."
        ],
    )
    checks: list[CheckShown] = Field(description="In order; of a composite, leaf by leaf.")
    key: list[str] | None = Field(description="null: the event concerns no key.")
    labels: dict[str, str] = Field(description="The key by its labels.")
    before: StateShown | None = Field(description="Before the event; null: nothing was remembered.")
    after: StateShown | None = Field(description="After it; null: nothing is remembered.")
    children: list[ChildShown] = Field(
        description="Of a composite: the children that the event reached, the leaves first."
    )
    complete: bool = Field(description="Whether all that led to it could be read again.")
    note: str | None = Field(description="Why not, and what that means.")
    runs: list[UUID] = Field(description="The runs that the event led to.")


@router.get(
    "/v1/triggers/{name}/explain/{event_id}",
    summary="Explain an event",
    response_model=ExplanationShown,
    responses=problems(404),
)
async def explain_to_user(
    request: Request,
    name: Annotated[Name, Path(description="The trigger's name.")],
    event_id: Annotated[UUID, Path(description="The event's id.")],
    services: Using,
) -> Response:
    """Why this event did or did not fire this trigger: each check with what was expected, the key's
    state before and after, and the outcome in a sentence.

    It is recomputed from the log, with the version of the trigger that was in force for the event.
    Where the log does not go back far enough, or too much would have to be read, `note` says so.
    """
    turns: Turns = request.app.state.explaining
    explained = await turns.explain(services, name, event_id)
    return json_answer(_shown(explained, event_id))


class Turns:
    """A few at a time: each reads a part of the log."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(EXPLAINS_AT_ONCE_MAX)
        self._waiting = 0

    async def explain(self, services: Services, name: str, event_id: UUID) -> Explained:
        if self._waiting >= EXPLAINS_WAITING_MAX:
            raise Overloaded("Too many explanations are asked for at once. Try again.")
        self._waiting += 1
        try:
            async with self._free:
                return await explain_event(
                    services.database,
                    name=name,
                    event_id=event_id,
                    key_retention=services.settings.key_retention,
                )
        finally:
            self._waiting -= 1


def _shown(explained: Explained, event_id: UUID) -> dict[str, Any]:
    explanation, trigger = explained.explanation, explained.trigger
    key = explanation.key
    return {
        "trigger": trigger.name,
        "version": trigger.version,
        "enabled": explained.enabled,
        "event_id": event_id,
        "outcome": explanation.outcome,
        "summary": explanation.sentence,
        "checks": [_check(one) for one in explanation.checks],
        "key": key,
        "labels": {} if key is None else trigger.labels_of(key),
        "before": _state(explanation.before),
        "after": _state(explanation.after),
        "children": [_child(one) for one in explanation.children],
        "complete": explained.note is None,
        "note": explained.note,
        "runs": explained.run_ids,
    }


def _check(check: Check) -> dict[str, Any]:
    return {
        "check": check.check,
        "child": check.child,
        "passed": check.passed,
        "expected": check.expected,
        "actual": check.actual,
        "why": check.why,
    }


def _child(child: ChildExplained) -> dict[str, Any]:
    return {
        "child": child.child,
        "outcome": child.outcome,
        "summary": child.sentence,
        "key": child.key,
        "before": _state(child.before),
        "after": _state(child.after),
    }


def _state(state: State | None) -> dict[str, Any] | None:
    if state is None:
        return None
    return {
        "state": state.state,
        "count": state.count,
        "needed": state.needed,
        "started": state.started_at,
        "deadline": state.deadline_at,
        "after": state.after and _seen(state.after),
        "events": [_seen(one) for one in state.events[-EVENTS_KEPT_MAX:]],
        "fired": state.fired,
        "missing": state.missing,
    }


def _seen(seen: Seen) -> dict[str, Any]:
    return {"id": seen.id, "event": seen.event and seen.event.name, "time": seen.at}
