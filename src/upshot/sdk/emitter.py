"""Sends events in the background: in their order, in batches, again with the same ids."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx

from upshot.sdk.backoff import Backoff
from upshot.sdk.errors import ClientError, Refused, Unreachable
from upshot.sdk.events import Event
from upshot.sdk.limits import (
    BYTES_QUEUED_MAX,
    DROPPED_SAID_EVERY_SECONDS,
    EVENTS_NAMED_MAX,
    EVENTS_PER_REQUEST_MAX,
    EVENTS_QUEUED_MAX,
    REQUEST_BYTES_MAX,
)
from upshot.sdk.server import Server, answer_of, unreachable

log = logging.getLogger("upshot")

_TOO_LARGE = 413
_NOT_TAKEN = frozenset({400, 415, 422})


class EventLost(ClientError):
    """An event will not be stored: refused by the server, or no room in the queue."""


@dataclass(frozen=True, slots=True)
class _Queued:
    event: Event
    stored: Future[None]


class Emitter:
    """A bounded queue and a thread that empties it. `put` never waits."""

    def __init__(
        self,
        server: Server,
        *,
        queued_max: int = EVENTS_QUEUED_MAX,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._server = server
        # Made by the thread: reading the certificates takes longer than an app should wait.
        self._http: httpx.Client | None = None
        self._queued_max = queued_max
        self._clock = clock
        self._waiting: deque[_Queued] = deque()
        self._sending: list[_Queued] = []
        self._bytes = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._dropped_unsaid = 0
        self._said_dropped_at: float | None = None
        self.dropped = 0

    def put(self, event: Event) -> "Future[None]":
        """Queue it. The future is done when it is stored, and fails with EventLost when it is lost.

        When the queue is full it is this event that is dropped: those before it may be what it
        follows. That is counted, and said in the log.
        """
        queued = _Queued(event, Future())
        with self._changed:
            if self._closing or not self._fits(event):
                self._drop(queued)
                return queued.stored
            self._waiting.append(queued)
            self._bytes += len(event.body)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._send, name="upshot-events", daemon=True
                )
                self._thread.start()
            self._changed.notify_all()
        return queued.stored

    def flush(self, *, within: float) -> int:
        """Wait until all is sent, for at most so many seconds; answers how many events are left."""
        with self._changed:
            self._changed.wait_for(lambda: not self._left(), timeout=within)
            return len(self._left())

    def close(self, *, within: float) -> None:
        """Flush, say what could not be sent, and send nothing more."""
        self.flush(within=within)
        with self._changed:
            self._closing = True
            left = self._left()
            self._say_dropped()
            self._changed.notify_all()
        if left:
            log.error(
                "%d events could not be sent to %s and are lost: %s",
                len(left),
                self._server.url,
                _named([queued.event for queued in left]),
            )

    def _left(self) -> list[_Queued]:
        return [*self._sending, *self._waiting]

    def _fits(self, event: Event) -> bool:
        return (
            len(self._waiting) + len(self._sending) < self._queued_max
            and self._bytes + len(event.body) <= BYTES_QUEUED_MAX
        )

    def _drop(self, queued: _Queued) -> None:
        self.dropped += 1
        self._dropped_unsaid += 1
        now = self._clock()
        since = None if self._said_dropped_at is None else now - self._said_dropped_at
        if since is None or since >= DROPPED_SAID_EVERY_SECONDS:
            self._said_dropped_at = now
            self._say_dropped()
        queued.stored.set_exception(
            EventLost(
                f"Event {queued.event.id} ({queued.event.event}) is dropped: "
                f"{len(self._waiting) + len(self._sending):,} events wait to be sent already."
            )
        )

    def _say_dropped(self) -> None:
        if self._dropped_unsaid:
            log.error(
                "%d events dropped, %d in all: %d wait to be sent to %s already",
                self._dropped_unsaid,
                self.dropped,
                len(self._waiting) + len(self._sending),
                self._server.url,
            )
            self._dropped_unsaid = 0

    def _send(self) -> None:
        while batch := self._next_batch():
            try:
                self._deliver(batch)
            except Exception:
                log.exception("events could not be sent: %s", _named([one.event for one in batch]))
                self._fail(batch, "sending it raised")
            with self._changed:
                self._sending = []
                self._bytes -= sum(len(queued.event.body) for queued in batch)
                self._changed.notify_all()

    def _next_batch(self) -> list[_Queued]:
        """As much as fits into a request; nothing when it is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            size = 0
            while self._waiting and not self._closing and len(self._sending) < (
                EVENTS_PER_REQUEST_MAX
            ):  # fmt: skip
                size += len(self._waiting[0].event.body) + 1
                if self._sending and size > REQUEST_BYTES_MAX:
                    break
                self._sending.append(self._waiting.popleft())
            return self._sending

    def _deliver(self, batch: Sequence[_Queued]) -> None:
        """Until the server has taken or refused each of them."""
        backoff = Backoff()
        while True:
            try:
                answer = self._post([queued.event for queued in batch])
            except Unreachable as error:
                if not self._wait(backoff, error, at_least=error.retry_after):
                    return
            except Refused as error:
                if error.status == _TOO_LARGE and len(batch) > 1:
                    middle = len(batch) // 2
                    self._deliver(batch[:middle])
                    self._deliver(batch[middle:])
                    return
                results = _results_of(error.document)
                if results is None and error.status in (_TOO_LARGE, *_NOT_TAKEN):
                    self._fail(batch, str(error))
                    return
                if results is not None:
                    self._settle(batch, results)
                    return
                if not self._wait(backoff, error):
                    return
            else:
                if backoff.failures:
                    log.info("events are sent again to %s", self._server.url)
                self._settle(batch, _results_of(answer) or [])
                return

    def _post(self, events: Sequence[Event]) -> Any:
        body = b"[" + b",".join(event.body for event in events) + b"]"
        if self._http is None:
            self._http = self._server.client()
        try:
            response = self._http.post(
                "/v1/events", content=body, headers={"content-type": "application/json"}
            )
        except httpx.HTTPError as error:
            raise unreachable(error, self._server) from None
        return answer_of(response)

    def _wait(self, backoff: Backoff, error: ClientError, at_least: float | None = None) -> bool:
        """Wait before trying again; False when there is no more trying."""
        if not backoff.failures:
            log.warning("events wait until they can be sent: %s", error)
        wait = backoff.next(at_least=at_least)
        with self._changed:
            return not self._changed.wait_for(lambda: self._closing, timeout=wait)

    def _settle(self, batch: Sequence[_Queued], results: Sequence[Any]) -> None:
        for queued, result in zip(batch, results, strict=False):
            if result.get("status") == "rejected":
                self._fail([queued], (result.get("error") or {}).get("detail", "no reason given"))
            else:
                _done(queued.stored)
        for queued in batch[len(results) :]:
            _done(queued.stored)

    def _fail(self, batch: Sequence[_Queued], reason: str) -> None:
        for queued in batch:
            event = queued.event
            log.error("event %s (%s) is lost, it was refused: %s", event.id, event.event, reason)
            _done(
                queued.stored,
                EventLost(f"Event {event.id} ({event.event}) was refused: {reason}"),
            )


def _results_of(document: Any) -> list[Any] | None:
    results = document.get("results") if isinstance(document, dict) else None
    return results if isinstance(results, list) else None


def _done(stored: "Future[None]", error: EventLost | None = None) -> None:
    # Whoever waited may have given up.
    with suppress(Exception):
        if error is None:
            stored.set_result(None)
        else:
            stored.set_exception(error)


def _named(events: Sequence[Event]) -> str:
    names = ", ".join(f"{event.id} ({event.event})" for event in events[:EVENTS_NAMED_MAX])
    return names + (", ..." if len(events) > EVENTS_NAMED_MAX else "")
