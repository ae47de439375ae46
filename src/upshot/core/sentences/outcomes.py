"""The words for what became of an event."""

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """What an event did for a trigger. Of several, the first of these is told."""

    FIRED = "fired"
    SATISFIED = "satisfied"
    """An absence is no longer possible, or a silence is over."""
    COUNTED = "counted"
    OPENED = "opened"
    EXTENDED = "extended"
    """The window begins earlier, ends later, or is kept open."""
    POSTPONED = "postponed"
    """A dead man's switch gives its next alarm later."""
    DEFERRED = "deferred"
    """It waits for the decision of a window that it is too late for."""
    EARLY = "early"
    """The event that would open the key may still be under way."""
    LATE = "late"
    IGNORED = "ignored"
    NO_MATCH = "no match"
    NOT_SEEN = "not seen"
    """The trigger was not there, or disabled."""
    SET_ASIDE = "set aside"
    """It could not be evaluated."""
    HELD = "held"
    """It waits for the event that it follows."""
    WAITING = "waiting"
    """The evaluator has not come to it yet."""


@dataclass(frozen=True, slots=True)
class Told:
    """An outcome and its sentence."""

    outcome: Outcome
    sentence: str
