"""Upshot, a self-hosted event-trigger server, and what an app imports to use one."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from upshot.sdk import (
        ClientError,
        CompoundTrigger,
        Deployment,
        Event,
        EventLost,
        EventTrigger,
        Posture,
        Refused,
        Run,
        SequenceTrigger,
        Unreachable,
        aemit_event,
        aserve,
        cancelled,
        current_run,
        deployment,
        emit_event,
        flush_events,
        serve,
        webhook_app,
    )

__all__ = [
    "ClientError",
    "CompoundTrigger",
    "Deployment",
    "Event",
    "EventLost",
    "EventTrigger",
    "Posture",
    "Refused",
    "Run",
    "SequenceTrigger",
    "Unreachable",
    "__version__",
    "aemit_event",
    "aserve",
    "cancelled",
    "current_run",
    "deployment",
    "emit_event",
    "flush_events",
    "serve",
    "webhook_app",
]


def __getattr__(name: str) -> Any:
    """Imported when it is asked for, so that the server and the command do not load the SDK."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("upshot.sdk"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
