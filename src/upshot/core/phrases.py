"""How durations, times, counts and patterns read in a sentence."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final

from upshot.core.patterns import Patterns

_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
_NAMED_MAX: Final = 3


def duration(value: timedelta) -> str:
    """`10 min`, `1 h 30 min`, `1.5 s`, `250 ms`: the two greatest units."""
    total = abs(value).total_seconds()
    if 0 < total < 1:
        return f"{round(total * 1000, 3):g} ms"
    if total < 60:
        return f"{round(total, 3):g} s"
    whole, parts = round(total), []
    for size, unit in _UNITS:
        count, whole = divmod(whole, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


@dataclass(frozen=True, slots=True)
class Clock:
    """Times as they read on one day, in UTC: of another day they have the date too."""

    day: date

    @classmethod
    def of(cls, at: datetime) -> "Clock":
        return cls(at.astimezone(UTC).date())

    def time(self, at: datetime, *, exactly: bool = False) -> str:
        at = at.astimezone(UTC)
        text = f"{at:%H:%M:%S}"
        if exactly:
            text = f"{text}.{at.microsecond:06}".rstrip("0").rstrip(".")
        return text if at.date() == self.day else f"{at:%Y-%m-%d} {text}"

    def times(self, *several: datetime) -> list[str]:
        """Those that differ also read differently."""
        shown = [self.time(at) for at in several]
        if len(set(shown)) == len(set(several)):
            return shown
        return [self.time(at, exactly=True) for at in several]


def either(patterns: Patterns) -> str:
    """What would match: `` `a` or `b` ``."""
    names = [f"`{pattern.text}`" for pattern in patterns.positive]
    if len(names) > _NAMED_MAX:
        return f"{', '.join(names[:2])} or one of {len(names) - 2} others"
    if "`*`" in names or not names:
        names = ["event"]
        if patterns.negative:
            names = [f"event other than `{patterns.negative[0].text}`"]
    return _joined(names, "or")


def both(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return _joined(names, "and")


def happens(patterns: Patterns, count: int = 1, *, more: bool = False) -> str:
    """`` `a` happens ``, `` one more `a` happens ``, `` 3 `a` happen ``."""
    what = either(patterns)
    is_any = what.startswith("event")
    if count > 1:
        several = what.replace("event", "events", 1) if is_any else what
        return f"{count} more {several} happen" if more else f"{count} {several} happen"
    if more:
        return f"one more {what} happens"
    return f"an {what} happens" if is_any else f"{what} happens"


def an(patterns: Patterns) -> str:
    """`` an `order.created` ``, `` a `beat` ``."""
    what = either(patterns)
    return f"{'an' if what.lstrip('`')[:1].lower() in 'aeiou' else 'a'} {what}"


def _joined(names: Sequence[str], word: str) -> str:
    return f" {word} ".join(filter(None, (", ".join(names[:-1]), names[-1])))
