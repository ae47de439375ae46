"""Figures: what the rounds of a benchmark gave, and the mark they are held to."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from statistics import median


@dataclass(frozen=True, slots=True)
class Unit:
    """How a quantity is written."""

    name: str
    decimals: int

    def write(self, value: float) -> str:
        return f"{value:,.{self.decimals}f}"


PER_SECOND = Unit("/s", 0)
EVENTS_PER_SECOND = Unit("events/s", 0)
CALLS_PER_SECOND = Unit("calls/s", 0)
RATIO = Unit("ratio", 2)
CORES = Unit("cores", 2)
MILLISECONDS = Unit("ms", 1)
BYTES = Unit("bytes", 0)
MEGABYTES = Unit("MB", 1)
SECONDS = Unit("s", 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One quantity, a value a round. At most one of `at_least` and `at_most` is its mark."""

    name: str
    unit: Unit
    rounds: tuple[float, ...]
    at_least: float | None = None
    at_most: float | None = None

    @property
    def median(self) -> float:
        return median(self.rounds)

    @property
    def low(self) -> float:
        return min(self.rounds)

    @property
    def high(self) -> float:
        return max(self.rounds)

    @property
    def is_met(self) -> bool | None:
        """Whether the median reaches the mark; None where there is none."""
        if self.at_least is not None:
            return self.median >= self.at_least
        if self.at_most is not None:
            return self.median <= self.at_most
        return None


@dataclass(frozen=True, slots=True)
class Measured:
    """What one benchmark found. `settings` says what it did, in numbers, `note` how to read it."""

    name: str
    title: str
    note: str
    settings: dict[str, float]
    figures: tuple[Figure, ...]


def ratios(these: Sequence[float], to: Sequence[float]) -> tuple[float, ...]:
    """Round by round, so that what the machine did to both sides cancels out."""
    return tuple(one / other for one, other in zip(these, to, strict=True))


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of them does not exceed."""
    ordered = sorted(values)
    return ordered[ceil(share * len(ordered)) - 1]
