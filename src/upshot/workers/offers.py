"""Workers that wait for runs: woken when there are some, so that waiting costs next to nothing."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta

from upshot.core.errors import Overloaded
from upshot.core.limits import CLAIMS_WAITING_MAX
from upshot.pipeline.offer import Wanted, offer, take_back
from upshot.pipeline.prepare import render_template
from upshot.pipeline.render import Renderers
from upshot.storage import queue
from upshot.storage.queue import ClaimedRun
from upshot.workers.loops import OFFER, POLL_SECONDS, Line, wait_for_hint

CLAIMS_AT_ONCE_MAX = 2
"""One claims at a time in the whole cluster; more would only hold connections."""

IsGone = Callable[[], Awaitable[bool]]


@dataclass(eq=False, slots=True)
class _Waiting:
    """A worker that waits; `turn` is set when there is something for it, or nothing any more."""

    wanted: Wanted
    is_idle: bool = False
    turn: asyncio.Event = field(default_factory=asyncio.Event)


class Offers:
    """Hands out runs to the workers that ask this process for some."""

    def __init__(self, line: Line, renderers: Renderers) -> None:
        self._line = line
        self._renderers = renderers
        self._waiting: dict[_Waiting, None] = {}
        self._claiming = asyncio.Semaphore(CLAIMS_AT_ONCE_MAX)
        self._look = asyncio.Event()

    @property
    def waiting(self) -> int:
        """How many workers have found nothing and wait."""
        return sum(waiting.is_idle for waiting in self._waiting)

    async def rendered(self, template: str, *, parameter_schema: str | None) -> str:
        """The parameters of a run, as JSON, before it is begun by who does not claim it here.

        Raises:
            RenderFailed: there are none, or they break the deployment's schema.
        """
        return await render_template(self._renderers, template, parameter_schema=parameter_schema)

    async def take(self, wanted: Wanted, *, wait: timedelta, is_gone: IsGone) -> list[ClaimedRun]:
        """Runs for a worker; after `wait` none. What it cannot take, being gone, is given back.

        Raises:
            Overloaded: too many wait already.
        """
        if len(self._waiting) >= CLAIMS_WAITING_MAX:
            raise Overloaded(f"{CLAIMS_WAITING_MAX:,} workers wait already.", retry_after=5)
        if self._line.stopping.is_set():
            return []
        waiting = _Waiting(wanted)
        clock = asyncio.get_running_loop().time
        until = clock() + wait.total_seconds()
        try:
            while True:
                # It waits before it looks, so that nothing can come between.
                waiting.turn.clear()
                self._waiting[waiting] = None
                async with self._claiming:
                    claimed = await offer(self._line.database.driver, self._renderers, wanted)
                if claimed or clock() >= until or self._line.stopping.is_set():
                    break
                waiting.is_idle = True
                with suppress(TimeoutError):
                    await asyncio.wait_for(waiting.turn.wait(), until - clock())
                waiting.is_idle = False
                if not waiting.turn.is_set() or self._line.stopping.is_set() or await is_gone():
                    break
        finally:
            self._waiting.pop(waiting, None)
            if waiting.turn.is_set():
                # There may be more, or what it was woken for is left to others.
                self._look.set()
        if claimed and await is_gone():
            await take_back(self._line.database.driver, claimed)
            self._look.set()
            return []
        return claimed

    async def watch(self) -> None:
        """Look for what is due as long as anybody waits, and wake as many as there is work for."""
        try:
            with self._line.signals.listening(OFFER) as hint:
                self._look = hint
                while not self._line.stopping.is_set():
                    hint.clear()
                    if self._waiting:
                        self._wake(await self._due())
                    await wait_for_hint(hint, POLL_SECONDS)
        finally:
            if self._line.stopping.is_set():
                for waiting in self._waiting:
                    waiting.turn.set()

    async def _due(self) -> Mapping[str, int]:
        limit = sum(waiting.wanted.limit for waiting in self._waiting)
        async with self._line.database.driver() as conn, conn.transaction():
            return await queue.offered(conn, limit=limit)

    def _wake(self, due: Mapping[str, int]) -> None:
        """Whoever has waited for longest comes first."""
        left = dict(due)
        for waiting in list(self._waiting):
            if not left:
                return
            names = _wanted_of(left, waiting.wanted)
            if not names:
                continue
            del self._waiting[waiting]
            waiting.turn.set()
            room = waiting.wanted.limit
            for name in names:
                taken = min(room, left[name])
                room -= taken
                left[name] -= taken
                if not left[name]:
                    del left[name]


def _wanted_of(due: Mapping[str, int], wanted: Wanted) -> Sequence[str]:
    if wanted.deployments is None:
        return list(due)
    return [name for name in wanted.deployments if name in due]
