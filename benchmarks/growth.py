"""Growth: what ten thousand triggers and a hundred thousand open keys cost each event."""

from contextlib import AsyncExitStack
from dataclasses import dataclass

from benchmarks.bench import BATCHED, Bench
from benchmarks.evaluate import events_per_second
from benchmarks.figures import EVENTS_PER_SECOND, RATIO, Figure, Measured, ratios
from benchmarks.load import Register, Worked
from benchmarks.processes import expect
from benchmarks.product import DEPLOYMENT, Upshot, serving
from benchmarks.story import Story

USERS = 5_000
TRIGGERS = 10_000
KEYS = 100_000
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
        figures=_figures(f"{triggers:,} triggers", others, "1 trigger", ones),
    )


async def measure_keys(bench: Bench) -> Measured:
    users, keys = bench.amount(USERS), bench.amount(KEYS)
    few, many = Story(open_keys=users), Story(open_keys=keys)
    ones, others = await _compare(bench, users, few=few, many=many, triggers=1)
    return Measured(
        name="keys",
        title=f"{keys:,} open keys, against {users:,}",
        note="As `evaluate`, on two servers in turn; as many keys close as open.",
        settings={**BATCHED, "events_per_round": 2 * users},
        figures=_figures(f"{keys:,} open keys", others, f"{users:,} open keys", ones),
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
        rounds = [
            await _round(bench, one, other, users, many_first=first) for first in bench.in_turn()
        ][1:]
    return tuple(few for few, _ in rounds), tuple(many for _, many in rounds)


async def _round(
    bench: Bench, one: _Side, other: _Side, users: int, *, many_first: bool
) -> tuple[float, float]:
    many = await _evaluate(bench, other, users) if many_first else 0.0
    few = await _evaluate(bench, one, users)
    return few, many or await _evaluate(bench, other, users)


async def _evaluate(bench: Bench, side: _Side, users: int) -> float:
    return await events_per_second(bench, side.upshot, side.story.chapter(users))


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
    many: str, with_many: tuple[float, ...], few: str, with_few: tuple[float, ...]
) -> tuple[Figure, ...]:
    return (
        Figure(name=f"{many}, of {few}", unit=RATIO, rounds=ratios(with_many, with_few)),
        Figure(name=many, unit=EVENTS_PER_SECOND, rounds=with_many),
        Figure(name=few, unit=EVENTS_PER_SECOND, rounds=with_few),
    )
