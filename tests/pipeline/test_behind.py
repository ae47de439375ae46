"""Work behind work: in order, one at a time, and no failure is lost."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from upshot.pipeline.behind import Behind

pytestmark = pytest.mark.anyio


async def test_each_is_done_after_the_one_before_while_the_caller_goes_on() -> None:
    done: list[str] = []
    may_end = asyncio.Event()

    async def first() -> None:
        await may_end.wait()
        done.append("first")

    async def second() -> None:
        done.append("second")

    async with Behind() as behind:
        await behind.do(first)
        done.append("went on")
        may_end.set()
        await behind.do(second)
    assert done == ["went on", "first", "second"]


async def test_a_failure_shows_before_the_next_is_begun() -> None:
    begun: list[str] = []
    with pytest.raises(ZeroDivisionError):
        await _all(failing, noting(begun))
    assert not begun


async def test_the_last_failure_shows_at_the_end() -> None:
    with pytest.raises(ZeroDivisionError):
        await _all(failing)


async def test_when_the_caller_fails_nothing_goes_on() -> None:
    ended: list[str] = []

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    with pytest.raises(ZeroDivisionError):
        await _beside(endless, failing)
    assert ended == ["cancelled"]


async def _all(*work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async with Behind() as behind:
        for one in work:
            await behind.do(one)


async def _beside(
    work: Callable[[], Coroutine[Any, Any, None]], caller: Callable[[], Coroutine[Any, Any, None]]
) -> None:
    async with Behind() as behind:
        await behind.do(work)
        await asyncio.sleep(0)
        await caller()


async def failing() -> None:
    raise ZeroDivisionError


def noting(begun: list[str]) -> Callable[[], Coroutine[Any, Any, None]]:
    async def note() -> None:
        begun.append("begun")

    return note
