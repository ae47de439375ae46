"""Hints that there is work: at once within the process and to its peer, to others by NOTIFY."""

import asyncio
import socket
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import asyncpg

CHANNEL = "upshot"
NOTIFY_EVERY_SECONDS = 0.01
SOON_SECONDS = 0.05


class Signals:
    """Wakes loops by name. A hint may be lost; every loop looks for work by itself as well."""

    def __init__(self) -> None:
        self._listening: dict[str, set[asyncio.Event]] = defaultdict(set)
        self._soon: dict[str, asyncio.TimerHandle] = {}
        self._to_tell: set[str] = set()
        self._has_to_tell = asyncio.Event()
        self._peer: socket.socket | None = None
        self._heard_of_peer = b""

    def pair(self, peer: socket.socket) -> None:
        """From now on the process at the other end is told whatever nobody listens for here."""
        peer.setblocking(False)
        self._peer = peer
        asyncio.get_running_loop().add_reader(peer, self._hear_peer)

    def wake(self, name: str) -> None:
        """Wake who listens in this process; if nobody does, those in others."""
        if self._listening[name]:
            self.wake_here(name)
        elif self._peer is not None:
            self.wake_peer(name)
        else:
            self._to_tell.add(name)
            self._has_to_tell.set()

    def wake_soon(self, name: str) -> None:
        """Likewise a moment later, once for all who ask until then."""
        if name not in self._soon:
            self._soon[name] = asyncio.get_running_loop().call_later(
                SOON_SECONDS, self._wake_now, name
            )

    def _wake_now(self, name: str) -> None:
        del self._soon[name]
        self.wake(name)

    def wake_here(self, name: str) -> None:
        """Wake who listens in this process, and nobody else."""
        for event in self._listening[name]:
            event.set()
        if self._listening[name] and name in self._soon:
            # They look now, and see what they were to be woken for.
            self._soon.pop(name).cancel()

    def wake_peer(self, name: str) -> None:
        """Wake who listens in the other process of this server, if there is one."""
        if self._peer is not None:
            # Full: it has enough to do as it is.
            with suppress(BlockingIOError):
                self._peer.send(name.encode() + b"\n")

    def _hear_peer(self) -> None:
        assert self._peer is not None
        with suppress(BlockingIOError):
            *names, self._heard_of_peer = (self._heard_of_peer + self._peer.recv(65536)).split(
                b"\n"
            )
            for name in set(names):
                self.wake_here(name.decode())

    @contextmanager
    def listening(self, name: str) -> Iterator[asyncio.Event]:
        """An event that is set by `wake(name)`, here or in another process."""
        event = asyncio.Event()
        self._listening[name].add(event)
        try:
            yield event
        finally:
            self._listening[name].discard(event)

    async def exchange(self, conn: asyncpg.Connection) -> None:
        """Hear from other processes and tell them, until the connection is lost."""
        lost = asyncio.Event()
        conn.add_termination_listener(lambda *_: lost.set())
        await conn.add_listener(CHANNEL, self._heard)
        losing = asyncio.create_task(lost.wait())
        try:
            while not losing.done():
                telling = asyncio.create_task(self._has_to_tell.wait())
                await asyncio.wait({losing, telling}, return_when=asyncio.FIRST_COMPLETED)
                telling.cancel()
                names, self._to_tell = sorted(self._to_tell), set()
                self._has_to_tell.clear()
                if names and not losing.done():
                    await conn.execute(
                        "SELECT pg_notify($1, name) FROM unnest($2::text[]) AS name", CHANNEL, names
                    )
                    await asyncio.sleep(NOTIFY_EVERY_SECONDS)
        finally:
            losing.cancel()
        raise asyncpg.ConnectionDoesNotExistError("the listening connection was lost")

    def _heard(self, _conn: object, _pid: int, _channel: str, name: object) -> None:
        self.wake_here(str(name))
