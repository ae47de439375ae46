"""Latency: from the post of an event to the runner's receipt of the call it causes."""

from benchmarks.bench import Bench
from benchmarks.figures import MILLISECONDS, Figure, Measured, percentile
from benchmarks.load import Pace, Paced
from benchmarks.processes import Done, expect
from benchmarks.product import Upshot, until
from benchmarks.runner import Calls, Count, Counted, Forget, Read
from benchmarks.story import Chapter, Story

PER_SECOND = 100
SECONDS = 20
CONNECTIONS = 16
MARK_P50, MARK_P99 = 8, 30


async def measure(bench: Bench) -> Measured:
    seconds = bench.amount(SECONDS) / bench.rounds
    users = int(seconds * PER_SECOND / 2)
    story = Story(open_keys=users)
    async with bench.shop(story, enabled=True) as upshot:
        rounds = [await _round(bench, upshot, story.chapter(users)) for _ in bench.in_turn()][1:]

    def figure(name: str, share: float, mark: int | None) -> Figure:
        values = tuple(percentile(one, share) for one in rounds)
        return Figure(name=name, unit=MILLISECONDS, rounds=values, at_most=mark)

    return Measured(
        name="latency",
        title="Latency: from the post to the runner's receipt",
        note="Posts of one event at a fixed rate, every second one firing; those are timed, from "
        "the moment they were due to be sent.",
        settings={
            "events_per_second": PER_SECOND,
            "seconds": seconds * bench.rounds,
            "firings": users * bench.rounds,
            "connections": CONNECTIONS,
        },
        figures=(
            figure("p50", 0.5, MARK_P50),
            figure("p99", 0.99, MARK_P99),
            figure("worst", 1.0, None),
        ),
    )


async def _round(bench: Bench, upshot: Upshot, chapter: Chapter) -> list[float]:
    """Milliseconds, one for each firing."""
    await bench.runner.ask(Forget(), Done)
    pace = Pace(port=upshot.port, connections=CONNECTIONS, per_second=PER_SECOND, chapter=chapter)
    sent = (await bench.load.ask(pace, Paced)).completed_at

    async def all_called() -> bool:
        return (await bench.runner.ask(Count(), Counted)).calls >= len(sent)

    await until(all_called, "every firing has reached the runner")
    await upshot.settle()
    calls = await bench.runner.ask(Read(), Calls)
    expect((await bench.runner.ask(Count(), Counted)).calls, chapter.users, "calls received")
    expect(calls.received_at.keys(), sent.keys(), "users called for")
    return [(calls.received_at[user] - at) * 1_000 for user, at in sent.items()]
