"""What is posted over HTTP makes the runs that the core alone fires, however it is cut up."""

import asyncio
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from difflib import unified_diff
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from tests.core.reference.lines import Line
from tests.core.reference.timelines import timelines, triggers
from tests.pipeline.timed import Made, Timed, timed
from upshot.core.simulation import Simulated, simulate
from upshot.storage.database import Database

_INSTANT = timedelta(microseconds=1)
_PARAMETERS: tuple[Line, ...] = (
    {},
    {"event": "{{ event }}", "labels": "{{ labels }}"},
    {"event": "{{ event }}", "after": "{{ after }}", "events": "{{ events }}"},
)
_OTHERS_MAX = 2


@dataclass(frozen=True, slots=True)
class World:
    """Triggers that see the same lines. `chance` decides what is cut where."""

    triggers: Sequence[Line]
    lines: Sequence[Line]
    chance: int


@st.composite
def worlds(draw: st.DrawFn) -> World:
    timeline = draw(timelines())
    others = draw(st.lists(triggers(), max_size=_OTHERS_MAX))
    parameters = draw(st.sampled_from(_PARAMETERS))

    def rendering(trigger: Line) -> Line:
        return {**trigger, "parameters": parameters}

    return World(
        triggers=[
            rendering(timeline.trigger),
            *(rendering({**other, "name": f"o{n}"}) for n, other in enumerate(others)),
        ],
        lines=[
            {"put": rendering(line["put"])} if "put" in line else line for line in timeline.lines
        ],
        chance=draw(st.integers(0, 2**32)),
    )


def prove(url: str, *, examples: int, seed: int) -> int:
    """Compare so many random worlds; answers how many runs there were.

    Raises:
        AssertionError: the runs are not what the core fires; with the smallest such case.
    """
    database = Database(lambda: url)
    with asyncio.Runner() as runner:
        beginning = timed(database)
        bench = runner.run(beginning.__aenter__())
        try:
            return _compare(runner, bench, examples=examples, seed=seed)
        finally:
            runner.run(beginning.__aexit__(None, None, None))
            runner.run(database.close())


def _compare(runner: asyncio.Runner, bench: Timed, *, examples: int, seed: int) -> int:
    runs = 0

    @seeded(seed)
    @settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
        report_multiple_bugs=False,
        database=None,
    )
    @given(worlds())
    def compare(world: World) -> None:
        nonlocal runs
        lines = [bench.moved(line) for line in world.lines]
        expected = _told(simulate(world.triggers, lines))
        try:
            made = _told(runner.run(_play(bench, world)))
        except Exception as error:
            error.add_note(_described(world, [], expected))
            raise
        runs += len(made)
        assert made == expected, _described(world, made, expected)

    compare()
    return runs


async def _play(bench: Timed, world: World) -> list[Made]:
    """The lines in their order, evaluated now and then, and to the end wherever they say `now`."""
    chance = random.Random(world.chance)
    await bench.empty()
    waiting: list[Line] = []
    started = False
    for line in map(bench.moved, world.lines):
        if not started:
            started = True
            _start_clock(bench, line)
            for trigger in world.triggers:
                await bench.put(trigger)
        if "event" in line:
            waiting.append(line)
        if "event" not in line or chance.random() < 0.3:
            await bench.post_moved(*waiting)
            waiting.clear()
        if "now" in line:
            bench.clock = max(bench.clock, datetime.fromisoformat(line["now"]))
            await _evaluate(bench, chance, until=bench.clock)
        elif "event" not in line:
            await _change(bench, line)
        elif not waiting and chance.random() < 0.5:
            # What is due at this moment waits for the other events of this moment.
            await _evaluate(bench, chance, until=bench.clock - _INSTANT)
    return await bench.made()


def _start_clock(bench: Timed, line: Line) -> None:
    bench.clock = datetime.fromisoformat(line.get("now") or line["received"])


async def _evaluate(bench: Timed, chance: random.Random, *, until: datetime) -> None:
    """In bites of any size, by an evaluator that is restarted between them or not."""
    is_behind = True
    while is_behind:
        progress = await bench.turn(
            events_max=chance.randint(1, 4),
            part_max=chance.randint(1, 4),
            due_max=await _due_together(bench, chance.randint(1, 3)),
            carefully=chance.random() < 0.3,
            decide_until=until,
        )
        is_behind = progress.is_behind or bool(progress.events)
        if chance.random() < 0.3:
            await bench.restart()
    await bench.settle()


async def _due_together(bench: Timed, some: int) -> int:
    """So many deadlines, and those of the same moment: nobody promises an order among them."""
    count = await bench.conn.fetchval(
        "SELECT count(*) FROM windows WHERE alarms AND deadline_at <= (SELECT deadline_at "
        "FROM windows WHERE alarms ORDER BY deadline_at OFFSET $1 - 1 LIMIT 1)",
        some,
    )
    return max(some, int(count))


async def _change(bench: Timed, line: Line) -> None:
    match line:
        case {"put": trigger}:
            await bench.put(trigger)
        case {"enable": name}:
            await bench.enable(name)
        case {"disable": name}:
            await bench.disable(name)
        case {"delete": name}:
            await bench.delete(name)
        case _:
            raise ValueError(f"The line {line!r} is none.")


def _told(firings: Iterable[Made | Simulated]) -> list[str]:
    """In an order that does not tell different keys at one moment from each other."""
    return sorted(
        f"{one.at:%H:%M:%S} {one.trigger} {json.dumps(one.labels, sort_keys=True)} "
        f"{one.event_id} {[str(event_id) for event_id in one.event_ids]} "
        f"{json.dumps(one.parameters, sort_keys=True, default=_written)} {one.error}"
        for one in firings
    )


def _written(value: Any) -> str:
    return str(value.isoformat()) if isinstance(value, datetime) else str(value)


def _described(world: World, made: list[str], expected: list[str]) -> str:
    return "\n".join(
        (
            f"The pipeline and the core disagree. Cut by chance {world.chance}:",
            *map(json.dumps, world.triggers),
            "---",
            *map(json.dumps, world.lines),
            "--- what was run (-) and what the core fires (+)",
            *list(unified_diff(made, expected, lineterm="", n=2))[2:],
        )
    )
