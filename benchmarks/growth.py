"""Growth: what ten thousand triggers and a million open keys cost each event."""

from contextlib import AsyncExitStack
from dataclasses import dataclass

from benchmarks.bench import BATCHED, Bench
from benchmarks.evaluate import events_per_second
from benchmarks.figures import BYTES, EVENTS_PER_SECOND, RATIO, Figure, Measured, ratios
from benchmarks.load import Register, Worked
from benchmarks.processes import expect
from benchmarks.product import DEPLOYMENT, Upshot, serving
from benchmarks.story import Story

USERS = 5_000
TRIGGERS = 10_000
KEYS, KEYS_FEW = 1_000_000, 1_000
RANDOM_USERS = 10_000
REGISTER_CONNECTIONS = 16


@dataclass(frozen=True, slots=True)
class _Side:
    upshot: Upshot
    story: Story


async def measure_triggers(bench: Bench) -> Measured:
    users, triggers = bench.amount(USERS), bench.amount(TRIGGERS)
    few = Story(open_keys=users)
    many = Story(open_keys=users, kinds=triggers)
    ones, others = await _compare(bench, users, few=few, many=many, triggers=triggers)
    return Measured(
        name="triggers",
        title=f"{triggers:,} triggers of which one concerns each event, against 1",
        note="As `evaluate`, on two servers in turn. The triggers differ in the names they expect.",
        settings={**BATCHED, "events_per_round": 2 * users, "triggers": triggers},
        figures=_figures(f"{triggers:,} triggers", others, "1 trigger", ones, mark=0.9),
    )


async def measure_keys(bench: Bench) -> Measured:
    users, keys = bench.amount(RANDOM_USERS), bench.amount(KEYS)
    few, many = Story(open_keys=KEYS_FEW), Story(open_keys=keys)
    async with AsyncExitStack() as stack:
        one = _Side(await stack.enter_async_context(bench.shop(few, enabled=False)), few)
        other = _Side(await stack.enter_async_context(bench.shop(many, enabled=False)), many)
        size = await other.upshot.sql.fetchval("SELECT pg_total_relation_size('windows')")
        ones, others = await _rounds(bench, one, other, users, at_random=True)
    figures = _figures(f"{keys:,} open keys", others, f"{KEYS_FEW:,} open keys", ones, mark=0.8)
    per_key = Figure(name="on disk for each open key", unit=BYTES, rounds=(size / keys,))
    return Measured(
        name="keys",
        title=f"{keys:,} open keys of one trigger, against {KEYS_FEW:,}",
        note="As `evaluate`, on two servers in turn. Users drawn at random complete an order and "
        "create the next, so as many keys close as open; one connection posts.",
        settings={**BATCHED, "connections": 1, "events_per_round": 2 * users},
        figures=(*figures, per_key),
    )


async def _compare(
    bench: Bench, users: int, *, few: Story, many: Story, triggers: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Events a second with few and with many, round by round."""
    async with AsyncExitStack() as stack:
        one = _Side(await stack.enter_async_context(bench.shop(few, enabled=False)), few)
        other = _Side(await stack.enter_async_context(serving()), many)
        await _register(bench, other.upshot, triggers)
        await bench.open_keys(other.upshot, many)
        return await _rounds(bench, one, other, users, at_random=False)


async def _rounds(
    bench: Bench, one: _Side, other: _Side, users: int, *, at_random: bool
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    async def evaluate(side: _Side) -> float:
        chapter = side.story.at_random(users) if at_random else side.story.chapter(users)
        return await events_per_second(bench, side.upshot, chapter)

    few, many = [], []
    for many_first in bench.in_turn():
        if many_first:
            many.append(await evaluate(other))
        few.append(await evaluate(one))
        if not many_first:
            many.append(await evaluate(other))
    return tuple(few[1:]), tuple(many[1:])


async def _register(bench: Bench, upshot: Upshot, triggers: int) -> None:
    await upshot.deploy(runner_port=bench.runner.port, enabled=False)
    command = Register(
        port=upshot.port,
        connections=REGISTER_CONNECTIONS,
        deployment=DEPLOYMENT,
        kinds=triggers,
    )
    await bench.load.ask(command, Worked)
    await upshot.settle()
    expect(await upshot.count("FROM triggers_in_force"), triggers, "triggers in force")


def _figures(
    many: str,
    with_many: tuple[float, ...],
    few: str,
    with_few: tuple[float, ...],
    *,
    mark: float,
) -> tuple[Figure, ...]:
    ratio = ratios(with_many, with_few)
    return (
        Figure(name=f"{many}, of {few}", unit=RATIO, rounds=ratio, at_least=mark),
        Figure(name=many, unit=EVENTS_PER_SECOND, rounds=with_many),
        Figure(name=few, unit=EVENTS_PER_SECOND, rounds=with_few),
    )
