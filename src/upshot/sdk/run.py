"""The run that a function is called for, as the function can see it."""

import threading
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

from pydantic import TypeAdapter

_time: TypeAdapter[datetime] = TypeAdapter(datetime)


@dataclass(frozen=True, slots=True)
class Run:
    """A run under way: what fired it, and whether somebody has cancelled it since."""

    id: str
    deployment: str
    attempt: int
    scheduled_at: datetime
    trigger: str | None
    labels: Mapping[str, Any]
    event: Mapping[str, Any] | None
    _cancelled: threading.Event = field(default_factory=threading.Event, repr=False, compare=False)
    _stops: list[Callable[[], object]] = field(default_factory=list, repr=False, compare=False)

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Let the function know that its work is no longer wanted."""
        self._cancelled.set()
        for stop in self._stops:
            stop()

    def stops_by(self, stop: Callable[[], object]) -> None:
        """What else to do when it is cancelled."""
        self._stops.append(stop)


@dataclass(frozen=True, slots=True)
class Offer:
    """A run that the server hands out, with the lease under which it may be reported on."""

    run: Run
    parameters: Mapping[str, Any]
    lease: str

    @classmethod
    def read(cls, document: Any) -> Self:
        """From what a claim answers, or the body of a webhook.

        Raises:
            ValueError, KeyError, TypeError: it is neither.
        """
        if not isinstance(document, Mapping) or not isinstance(document["parameters"], Mapping):
            raise TypeError("a run is an object, and so are its parameters")
        run = Run(
            id=str(document["run_id"]),
            deployment=str(document["deployment"]),
            attempt=int(document["attempt"]),
            scheduled_at=_time.validate_python(document["scheduled_at"]),
            trigger=document.get("trigger"),
            labels=document.get("labels") or {},
            event=document.get("event"),
        )
        return cls(run=run, parameters=document["parameters"], lease=str(document["lease"]))


_current: ContextVar[Run] = ContextVar("upshot_run")


def current_run() -> Run:
    """The run that this function is called for; LookupError where there is none."""
    try:
        return _current.get()
    except LookupError:
        raise LookupError("No run is under way here: the function was called directly.") from None


def cancelled() -> bool:
    """Whether the run under way was cancelled; plain functions ask, async ones are cancelled.

    Outside of a run it is False.
    """
    run = _current.get(None)
    return run is not None and run.cancelled


def enter(run: Run) -> None:
    """Make it the current run, in this context and those copied from it."""
    _current.set(run)
