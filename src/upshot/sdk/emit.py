"""`emit_event`: one line in an app, that neither blocks it nor loses anything in silence."""

import asyncio
import atexit
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from datetime import datetime
from typing import Any
from uuid import UUID

from upshot.sdk.emitter import Emitter
from upshot.sdk.errors import Unreachable
from upshot.sdk.events import Event
from upshot.sdk.limits import FLUSH_AT_EXIT_SECONDS_MAX, STORED_WITHIN_SECONDS_MAX
from upshot.sdk.server import Server


def emit_event(
    *,
    event: str,
    resource: Mapping[str, str],
    related: Sequence[Mapping[str, str]] | None = None,
    payload: Mapping[str, Any] | None = None,
    occurred: datetime | None = None,
    id: UUID | str | None = None,
    follows: UUID | str | Event | None = None,
    wait: bool = False,
) -> Event:
    """Send an event, in the background; with `wait` return once it is stored.

    `occurred` without an offset is UTC, and by default now. `follows` is the event, or its id, that
    came before.

    Raises:
        ValueError: it is no event.
        EventLost: with `wait`: it was refused, or there is no room in the queue.
        Unreachable: with `wait`: not stored within 30 s. It stays in the queue.
    """
    made = Event.make(
        event=event,
        resource=resource,
        related=related,
        payload=payload,
        occurred=occurred,
        id=id,
        follows=follows,
    )
    stored = _emitter().put(made)
    if wait:
        try:
            stored.result(STORED_WITHIN_SECONDS_MAX)
        except TimeoutError:
            raise _not_yet(made) from None
    return made


async def aemit_event(
    *,
    event: str,
    resource: Mapping[str, str],
    related: Sequence[Mapping[str, str]] | None = None,
    payload: Mapping[str, Any] | None = None,
    occurred: datetime | None = None,
    id: UUID | str | None = None,
    follows: UUID | str | Event | None = None,
    wait: bool = False,
) -> Event:
    """`emit_event` for async code: with `wait` the event loop goes on meanwhile."""
    made = Event.make(
        event=event,
        resource=resource,
        related=related,
        payload=payload,
        occurred=occurred,
        id=id,
        follows=follows,
    )
    stored: Future[None] = _emitter().put(made)
    if wait:
        try:
            # Shielded, since whoever stops waiting does not take the event back.
            await asyncio.wait_for(
                asyncio.shield(asyncio.wrap_future(stored)), STORED_WITHIN_SECONDS_MAX
            )
        except TimeoutError:
            raise _not_yet(made) from None
    return made


def flush_events(*, within: float = FLUSH_AT_EXIT_SECONDS_MAX) -> int:
    """Wait until everything emitted is sent, at most so many seconds; answers how many are left.

    The end of a process does it by itself.
    """
    return 0 if _current.emitter is None else _current.emitter.flush(within=within)


class _Current:
    """This process's emitter, made when the first event is emitted."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.emitter: Emitter | None = None


_current = _Current()


def _emitter() -> Emitter:
    with _current.lock:
        if _current.emitter is None:
            _current.emitter = Emitter(Server.named())
        return _current.emitter


def _not_yet(event: Event) -> Unreachable:
    return Unreachable(
        f"Event {event.id} ({event.event}) is not stored after {STORED_WITHIN_SECONDS_MAX:g} s. It "
        "stays in the queue and is sent when the server can be reached."
    )


def _close() -> None:
    if _current.emitter is not None:
        _current.emitter.close(within=FLUSH_AT_EXIT_SECONDS_MAX)


def _begin_anew() -> None:
    """A forked child has the queue and no thread; what waits in it is the parent's to send."""
    global _current
    _current = _Current()


atexit.register(_close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
