"""Reading what clients post as events: bytes in, a verdict for each event out, no side effects.

Most events are right, so each gets one typed decode and a glance (`quick`). Whatever fails that, or
only looks as if it might, is read again slowly, by a reader that takes NaN, lone surrogates and the
like as values (`slow`), so that every problem can be named with its place (`rules`). Only the slow
reader refuses; only the typed decode builds events.
"""

from upshot.core.intake.bodies import read_json, read_ndjson
from upshot.core.intake.cloudevents import (
    read_binary_cloudevent,
    read_cloudevent,
    read_cloudevents,
)
from upshot.core.intake.ids import Ids
from upshot.core.intake.verdicts import NewEvent, Reading, Refused, Verdict

__all__ = [
    "Ids",
    "NewEvent",
    "Reading",
    "Refused",
    "Verdict",
    "read_binary_cloudevent",
    "read_cloudevent",
    "read_cloudevents",
    "read_json",
    "read_ndjson",
]
