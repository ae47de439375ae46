"""What run a firing makes."""

import json
from typing import Any
from uuid import UUID

import pytest

from tests.core.build import NOON, event, trigger
from upshot.core.events import Event
from upshot.core.facts import Fire, Matched
from upshot.core.limits import CHAIN_DEPTH_MAX
from upshot.core.runs import Firing
from upshot.core.windows import Seen
from upshot.pipeline.firing import Defaults, depth_of, run_of
from upshot.storage.queue import NewRun

DEFAULTS = Defaults(parameters="{}", parameter_schema=None)
EVENT: dict[str, Any] = {
    "parameters": {"event": "{{ event }}", "id": "{{ labels.id }}"},
    "for_each": ["id"],
}


def seen(one: Event) -> Seen:
    return Matched(event=one, opens=False, expected=True).seen()


def completed(depth: int, *, number: int) -> Event:
    payload = json.dumps({"depth": depth})
    return event("upshot.run.completed", number=number, payload=payload)


def made(
    fired_by: Event | None,
    *,
    counted: tuple[Event, ...] = (),
    defaults: Defaults | None = DEFAULTS,
    **fields: Any,
) -> NewRun:
    fire = Fire(
        event=None if fired_by is None else seen(fired_by),
        counted=tuple(map(seen, counted)),
        after=None,
        at=NOON,
    )
    firing = Firing(
        trigger=trigger(expect=["a"], **fields), key=("7",), fire=fire, at=NOON, cause=("x",)
    )
    return run_by(firing, defaults)


def run_by(firing: Firing, defaults: Defaults | None) -> NewRun:
    """The run of its only action."""
    ((place, action),) = firing.trigger.runs
    return run_of(firing, place, action, deployment="d", defaults=defaults, depth=depth_of(firing))


def test_a_firing_without_an_event_makes_a_run_whose_templates_see_none() -> None:
    run = made(None, **EVENT)
    assert (run.event_id, run.event, run.depth, run.error) == (None, None, 0, None)
    assert json.loads(run.parameters or "") == {"event": None, "id": "7"}


def test_an_event_that_the_log_no_longer_has_is_still_named() -> None:
    forgotten = Seen(UUID(int=5), NOON, NOON, False, True, None)
    fire = Fire(event=forgotten, counted=(forgotten,), after=None, at=NOON)
    firing = Firing(trigger=trigger(**EVENT), key=("7",), fire=fire, at=NOON, cause=("x",))
    run = run_by(firing, DEFAULTS)
    assert (run.event_id, run.event, run.event_ids) == (UUID(int=5), None, [UUID(int=5)])


@pytest.mark.parametrize(("before", "is_called"), [(0, True), (9, True), (10, False)])
def test_a_run_is_not_called_when_more_than_ten_in_a_row_led_to_it(
    before: int, is_called: bool
) -> None:
    run = made(completed(before, number=1), counted=(completed(0, number=2),), **EVENT)
    assert run.depth == before + 1
    assert (run.error is None, run.parameters is not None) == (is_called, is_called)
    assert (run.depth <= CHAIN_DEPTH_MAX) == is_called
    assert is_called or "loop" in (run.error or "")


def test_the_counted_events_count_for_the_depth_as_well() -> None:
    counted = (completed(4, number=1), completed(2, number=2), event("a", number=3))
    assert made(counted[-1], counted=counted, **EVENT).depth == 5


def test_a_loop_is_a_loop_also_where_the_deployment_is_gone() -> None:
    assert "no deployment" in (made(event("a"), defaults=None, **EVENT).error or "")
    assert "loop" in (made(completed(10, number=1), defaults=None, **EVENT).error or "")
