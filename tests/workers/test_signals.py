"""Hints: who is woken, when, and by which way."""

import asyncio
import socket
from contextlib import closing

import pytest

from upshot.workers import signals
from upshot.workers.signals import Signals

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _soon_is_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "SOON_SECONDS", 0.001)


async def soon_is_over() -> None:
    over = asyncio.Event()
    asyncio.get_running_loop().call_later(signals.SOON_SECONDS * 2, over.set)
    await over.wait()


async def test_who_is_to_be_woken_soon_is_woken_once_for_all_who_ask() -> None:
    waking = Signals()
    with waking.listening("work") as hint:
        waking.wake_soon("work")
        waking.wake_soon("work")
        assert not hint.is_set()
        async with asyncio.timeout(10):
            await hint.wait()
        hint.clear()
        await soon_is_over()
        assert not hint.is_set()


async def test_who_is_woken_before_is_not_woken_again_soon() -> None:
    waking = Signals()
    with waking.listening("work") as hint:
        waking.wake_soon("work")
        waking.wake_here("work")
        assert hint.is_set()
        hint.clear()
        await soon_is_over()
        assert not hint.is_set()
        waking.wake_soon("work")
        async with asyncio.timeout(10):
            await hint.wait()


async def test_what_is_heard_here_keeps_nothing_from_who_listens_elsewhere() -> None:
    waking = Signals()
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    with closing(ours), closing(theirs):
        waking.pair(ours)
        waking.wake_soon("work")
        waking.wake_here("work")
        async with asyncio.timeout(10):
            told = await asyncio.get_running_loop().sock_recv(theirs, 100)
        assert told == b"work\n"
        asyncio.get_running_loop().remove_reader(ours)
