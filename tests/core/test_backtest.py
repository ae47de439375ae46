"""Backtests: the same firings as in a simulation, however little of the past is remembered."""

import random
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from tests.core import build
from tests.core.build import at
from upshot.core.backtest import Backtest, Found, Side, bare
from upshot.core.events import RESOURCE_ID, Event
from upshot.core.limits import ENDED_WINDOWS_KEPT
from upshot.core.runs import Firing
from upshot.core.simulation import simulate
from upshot.core.triggers import Trigger
from upshot.core.windows import Seen

RETENTION = timedelta(days=90)
SHOP: dict[str, Any] = {
    "after": ["order.created"],
    "expect": ["order.complete"],
    "for_each": ["id"],
}
TRIGGERS: dict[str, dict[str, Any]] = {
    "counting": {"expect": ["order.complete"], "threshold": 3, "for_each": ["id"]},
    "in a span": {"expect": ["*"], "threshold": 2, "within": 20, "for_each": ["id"]},
    "shop": SHOP,
    "shop within a time": {**SHOP, "within": 25, "lateness": 10, "threshold": 2},
    "missed": {**SHOP, "posture": "Proactive", "within": 15},
    "heartbeat": {
        "after": ["order.created"],
        "expect": ["order.created"],
        "posture": "Proactive",
        "within": 30,
        "for_each": ["id"],
    },
    "switch": {"expect": ["order.complete"], "posture": "Proactive", "within": 12},
    "switches": {
        "expect": ["*"],
        "posture": "Proactive",
        "within": 12,
        "for_each": ["id"],
        "threshold": 2,
        "repeat": True,
    },
    "compound": {
        "type": "compound",
        "for_each": ["id"],
        "within": 40,
        "triggers": [{"expect": ["order.created"]}, {"expect": ["order.complete"], "threshold": 2}],
    },
    "sequence": {
        "type": "sequence",
        "triggers": [
            {"expect": ["order.created"]},
            {"expect": ["order.paid"], "posture": "Proactive", "within": 20},
            {"expect": ["order.complete"]},
        ],
    },
}


def story(seed: int, *, length: int = 120) -> list[Event]:
    """Events of three users in the order of their receipt; some late, some that follow others."""
    chance = random.Random(seed)
    seconds = 1.0
    events: list[Event] = []
    for number in range(1, length + 1):
        seconds += chance.choice((0, 0, 1, 2, 5))
        lag = chance.choice((0, 0, 0, 3, 40))
        event = build.event(
            chance.choice(("order.created", "order.complete", "order.paid")),
            resource_id=chance.choice("abc"),
            number=number,
            seconds=seconds - lag,
            received_after=lag,
        )
        if chance.random() < 0.2:
            follows = UUID(int=chance.randint(1, length + 20))
            event = Event(**{**_fields(event), "follows": follows})
        events.append(event)
    return events


def _fields(event: Event) -> dict[str, Any]:
    return {name: getattr(event, name) for name in event.__struct_fields__}


def play(
    backtest: Backtest, events: Sequence[Event], *, until: datetime, settled_every: int = 1
) -> list[Found]:
    """Drive it over the events, as who reads them from the log does."""
    by_id = {event.id: event for event in events}
    arrived: set[UUID] = set()

    def take(turns: Any) -> None:
        for turn in turns:
            while backtest.decide_next(before=turn.now):
                pass
            backtest.take(by_id[turn.id], now=turn.now)

    for number, event in enumerate(events):
        follows = event.follows
        is_known = follows in arrived and not (follows and backtest.waits(follows))
        take(
            backtest.arrive(
                event.id, follows=follows, received_at=event.received_at, is_known=is_known
            )
        )
        arrived.add(event.id)
        if number % settled_every == 0:
            backtest.settle()
    take(backtest.overdue(before=until))
    while backtest.end_next(until=until):
        backtest.settle()
    return list(backtest.found)


def started(new: Trigger, old: Trigger | None = None, **more: Any) -> Backtest:
    return Backtest(new, old, since=at(0), retention=RETENTION, **more)


def line(event: Event) -> dict[str, Any]:
    return {
        "id": str(event.id),
        "event": event.name,
        "resource": {"id": event.resource[RESOURCE_ID]},
        "occurred": event.occurred_at.isoformat(),
        "received": event.received_at.isoformat(),
        "follows": str(event.follows) if event.follows else None,
    }


def told(firing: Firing) -> tuple[Any, ...]:
    event = firing.fire.event
    return (
        firing.at,
        firing.labels,
        None if event is None else event.id,
        tuple(seen.id for seen in firing.fire.counted),
    )


@pytest.mark.parametrize("fields", TRIGGERS.values(), ids=TRIGGERS)
@pytest.mark.parametrize("seed", range(5))
def test_it_fires_as_the_simulation_does(fields: dict[str, Any], seed: int) -> None:
    events, until = story(seed), at(2_000)
    simulated = simulate(
        [{"name": "t", "deployment": "d", **fields}],
        [{"now": at(0).isoformat()}, *map(line, events), {"now": until.isoformat()}],
    )
    expected = [(one.at, one.labels, one.event_id, one.event_ids) for one in simulated]
    for settled_every in (1, 10_000):
        backtest = started(build.trigger(**fields), stale_max=settled_every)
        found = play(backtest, events, until=until, settled_every=settled_every)
        assert [told(one.firing) for one in found] == expected
    assert expected, "the story does not fire it"


def test_what_it_remembers_holds_no_event() -> None:
    for fields in TRIGGERS.values():
        backtest = started(build.trigger(**fields))
        for event in story(1):
            backtest.take(event, now=event.received_at)
            backtest.settle()
            assert not [seen for seen in _seen_in(list(backtest.windows())) if seen.event]


def _seen_in(value: Any) -> Iterator[Seen]:
    """All that windows remember, wherever it stands in them."""
    if isinstance(value, Seen):
        yield value
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _seen_in(one)
    elif hasattr(value, "__struct_fields__"):
        yield from _seen_in([getattr(value, name) for name in value.__struct_fields__])


def test_bare_windows_mean_the_same() -> None:
    backtest = started(build.trigger(**TRIGGERS["compound"]))
    for event in story(1, length=5):
        backtest.take(event, now=event.received_at)
    windows = list(backtest.windows())
    assert [seen.id for seen in _seen_in(windows)]
    assert [_ids(window) for window in map(bare, windows)] == [_ids(window) for window in windows]


def _ids(window: Any) -> list[UUID]:
    return [seen.id for seen in _seen_in(window)]


def test_the_same_trigger_against_itself_has_no_difference() -> None:
    for fields in TRIGGERS.values():
        alone = play(started(build.trigger(**fields)), story(2), until=at(2_000))
        backtest = started(build.trigger(**fields), build.trigger(2, **fields))
        assert play(backtest, story(2), until=at(2_000)) == []
        assert backtest.same == len(alone)


def test_only_what_one_of_two_triggers_has_is_told_and_whose_it_is() -> None:
    new, old = build.trigger(1, **{**SHOP, "match": {"id": ["a", "b"]}}), build.trigger(2, **{
        **SHOP, "match": {"id": ["b", "c"]}
    })  # fmt: skip
    events = [
        build.event(name, resource_id=user, number=number, seconds=number)
        for number, (name, user) in enumerate(
            [(name, user) for name in ("order.created", "order.complete") for user in "abc"], 1
        )
    ]
    backtest = started(new, old)
    found = play(backtest, events, until=at(100))
    assert [(one.only, one.firing.key) for one in found] == [
        (Side.NEW, ("a",)),
        (Side.OLD, ("c",)),
    ]
    assert backtest.same == 1
    assert backtest.concerned == 4, "those of the new trigger alone"


def test_a_firing_at_another_time_is_another_firing() -> None:
    fields = {**SHOP, "posture": "Proactive"}
    backtest = started(build.trigger(1, **fields, within=10), build.trigger(2, **fields, within=20))
    found = play(backtest, [build.event(number=1, seconds=1)], until=at(100))
    assert [(one.only, one.firing.at) for one in found] == [(Side.NEW, at(11)), (Side.OLD, at(21))]


def test_keys_long_over_are_forgotten_and_open_ones_are_not() -> None:
    backtest = started(build.trigger(**SHOP))
    play(
        backtest,
        [
            build.event("order.created", resource_id="a", number=1, seconds=1),
            build.event("order.complete", resource_id="a", number=2, seconds=2),
            build.event("order.created", resource_id="b", number=3, seconds=3),
        ],
        until=at(10),
    )
    assert backtest.remembered == 3, "two keys, and the event that opened one"
    later = ENDED_WINDOWS_KEPT + timedelta(minutes=1)
    backtest.end_next(until=at(10) + later)
    backtest.settle()
    assert backtest.remembered == 2
    assert sum(backtest.are_open()) == 1


def test_a_window_whose_time_is_over_is_not_open() -> None:
    backtest = started(build.trigger(**SHOP, within=10))
    play(backtest, [build.event(number=1, seconds=1)], until=at(5))
    assert sum(backtest.are_open()) == 1
    backtest.end_next(until=at(11))
    assert sum(backtest.are_open()) == 0


def test_an_event_that_cannot_be_evaluated_is_counted_and_the_rest_goes_on() -> None:
    backtest = started(build.trigger(expect=["*"], for_each=["id"]))
    events = [
        build.event(resource_id="x" * 2_000, number=1, seconds=1),
        build.event(resource_id="a", number=2, seconds=2),
    ]
    assert len(play(backtest, events, until=at(10))) == 1
    assert backtest.set_aside == 1
    assert backtest.reason is not None
    assert "1024" in backtest.reason
