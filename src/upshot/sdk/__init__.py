"""What an app imports: triggers, deployments and `serve`, `emit_event`. It stands alone."""

from upshot.sdk.deployments import Deployment, deployment
from upshot.sdk.emit import aemit_event, emit_event, flush_events
from upshot.sdk.emitter import EventLost
from upshot.sdk.errors import ClientError, Refused, Unreachable
from upshot.sdk.events import Event
from upshot.sdk.run import Run, cancelled, current_run
from upshot.sdk.serving import aserve, serve
from upshot.sdk.triggers import CompoundTrigger, EventTrigger, Posture, SequenceTrigger
from upshot.sdk.webhook import webhook_app

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
