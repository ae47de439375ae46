"""What every benchmark is given: the processes that load and answer, how many rounds, how much."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from rich.progress import Progress, TaskID

from benchmarks.load import Post, Worked
from benchmarks.processes import Child
from benchmarks.product import DEPLOYMENT, Upshot, serving
from benchmarks.story import Chapter, Story, trigger

BATCH_EVENTS = 500
OPEN_KEYS = "FROM windows WHERE started_at IS NOT NULL"
BATCH_CONNECTIONS = 4
QUICK_SHARE = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """`rounds` are those that count; one before them warms up."""

    rounds: int
    is_quick: bool
    load: Child
    runner: Child
    progress: Progress
    task: TaskID

    def amount(self, usual: int) -> int:
        """How much of a thing to do: a fifth of the usual for a quick look."""
        return usual // QUICK_SHARE if self.is_quick else usual

    def in_turn(self) -> Iterator[bool]:
        """A value for each round, the warm-up first: whether Upshot comes before the other side."""
        for number in range(self.rounds + 1):
            self.progress.update(self.task, completed=number, total=self.rounds + 1)
            yield number % 2 == 0
        self.progress.update(self.task, completed=self.rounds + 1)

    async def post(self, upshot: Upshot, chapter: Chapter) -> Worked:
        """Post a chapter in batches. One whose users come again is told by one connection only:
        of two that speak of a user at once, neither is first.
        """
        connections = BATCH_CONNECTIONS if chapter.among is None else 1
        return await self.load.ask(
            Post(
                port=upshot.port,
                connections=connections,
                batch=BATCH_EVENTS,
                chapter=chapter,
            ),
            Worked,
        )

    @asynccontextmanager
    async def shop(self, story: Story, *, enabled: bool) -> AsyncIterator[Upshot]:
        """A server with the shop's deployment and trigger, and the story's first keys open."""
        async with serving() as upshot:
            await upshot.deploy(runner_port=self.runner.port, enabled=enabled)
            await upshot.register(trigger(deployment=DEPLOYMENT))
            await self.open_keys(upshot, story)
            yield upshot

    async def open_keys(self, upshot: Upshot, story: Story) -> None:
        await self.post(upshot, story.beginning)
        await upshot.settle()
        await upshot.until_count(story.beginning.users, OPEN_KEYS)


BATCHED: dict[str, float] = {
    "events_per_request": BATCH_EVENTS,
    "connections": BATCH_CONNECTIONS,
}
