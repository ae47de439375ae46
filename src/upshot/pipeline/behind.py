"""One thing at a time, done while the next is prepared."""

import asyncio
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self


class Behind:
    """Runs one piece of work after the other, each while its caller goes on to the next.

    A failure shows at the next `do` or at the end of the block, where all has been done.
    """

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        if self._task is not None:
            if kind is None:
                await self._task
            else:
                self._task.cancel()
                await asyncio.wait([self._task])

    async def do(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Begin with it once the piece before is done."""
        if self._task is not None:
            await self._task
        self._task = asyncio.create_task(work())
