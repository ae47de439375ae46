"""Stored: what ten million stored events cost each new one."""

from contextlib import AsyncExitStack
from dataclasses import dataclass

from benchmarks.bench import BATCHED, Bench
from benchmarks.copying import copy_history
from benchmarks.evaluate import Told, tell
from benchmarks.figures import BYTES, EVENTS_PER_SECOND, RATIO, Figure, Measured, ratios
from benchmarks.product import DEPLOYMENT, Upshot, serving
from benchmarks.story import Story, trigger

USERS = 20_000
STORED, STORED_QUICK, STORED_FEW = 10_000_000, 1_000_000, 100_000
SETTLED_EVENTS = 500_000
MARK = 0.9
LOG_BYTES = "SELECT sum(pg_total_relation_size(relid)) FROM pg_partition_tree('events')"


@dataclass(frozen=True, slots=True)
class _Side:
    upshot: Upshot
    story: Story


async def measure(bench: Bench) -> Measured:
    users, stored = bench.amount(USERS), STORED_QUICK if bench.is_quick else STORED
    async with AsyncExitStack() as stack:
        few, many = [
            _Side(await stack.enter_async_context(serving()), Story(open_keys=users))
            for _ in range(2)
        ]
        for side, events in ((few, STORED_FEW), (many, stored)):
            await _fill(bench, side, events)
        size = float(await many.upshot.sql.fetchval(LOG_BYTES))
        in_log = await many.upshot.events()
        with_few, with_many = await _rounds(bench, few, many, users)
    return Measured(
        name="stored",
        title=f"{stored:,} stored events, against {STORED_FEW:,}",
        note="As `evaluate`, on two servers in turn. What is stored are the shop's events, copied "
        "into the log and then evaluated by the server before there was a trigger; afterwards "
        "VACUUM and CHECKPOINT, since they stand for history. Stored is counted to the last 2xx, "
        "evaluated to the last run, of the same posts.",
        settings={**BATCHED, "events_per_round": 2 * users, "open_keys": users},
        figures=(
            *_figures(
                "stored",
                tuple(one.stored for one in with_many),
                tuple(one.stored for one in with_few),
            ),
            *_figures(
                "evaluated",
                tuple(one.evaluated for one in with_many),
                tuple(one.evaluated for one in with_few),
            ),
            Figure(name="on disk for each stored event", unit=BYTES, rounds=(size / in_log,)),
        ),
    )


async def _fill(bench: Bench, side: _Side, events: int) -> None:
    """Give the server a history, and then its trigger."""
    upshot = side.upshot
    for first in range(0, events, SETTLED_EVENTS):
        await copy_history(upshot, range(first, min(first + SETTLED_EVENTS, events)))
    await upshot.sql.execute("VACUUM (ANALYZE) events")
    await upshot.sql.execute("CHECKPOINT")
    await upshot.deploy(runner_port=bench.runner.port, enabled=False)
    await upshot.register(trigger(deployment=DEPLOYMENT))
    await bench.open_keys(upshot, side.story)


async def _rounds(
    bench: Bench, few: _Side, many: _Side, users: int
) -> tuple[list[Told], list[Told]]:
    async def told(side: _Side) -> Told:
        return await tell(bench, side.upshot, side.story.chapter(users))

    with_few, with_many = [], []
    for many_first in bench.in_turn():
        if many_first:
            with_many.append(await told(many))
        with_few.append(await told(few))
        if not many_first:
            with_many.append(await told(many))
    return with_few[1:], with_many[1:]


def _figures(what: str, many: tuple[float, ...], few: tuple[float, ...]) -> tuple[Figure, ...]:
    return (
        Figure(
            name=f"{what}, with many, of few", unit=RATIO, rounds=ratios(many, few), at_least=MARK
        ),
        Figure(name=f"{what}, with many", unit=EVENTS_PER_SECOND, rounds=many),
        Figure(name=f"{what}, with few", unit=EVENTS_PER_SECOND, rounds=few),
    )
