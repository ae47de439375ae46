"""Patterns for names and label values: `*` is any run of characters, `!p` excludes."""

from collections.abc import Iterable
from dataclasses import dataclass

from upshot.core.events import ANNOUNCED_PREFIX, OWN_EVENT_PREFIX


@dataclass(frozen=True, slots=True)
class Pattern:
    """One positive pattern. Everything but `*` is literal, and case counts."""

    text: str
    parts: tuple[str, ...]

    @property
    def is_literal(self) -> bool:
        return len(self.parts) == 1

    @property
    def prefix(self) -> str | None:
        """What stands before a single `*` at the end: `order.` of `order.*`. Otherwise None."""
        return self.parts[0] if len(self.parts) == 2 and not self.parts[1] else None

    def matches(self, value: str) -> bool:
        """Linear in the value's length, however many `*` there are."""
        if len(self.parts) == 1:
            return value == self.text
        head, *middle, tail = self.parts
        start, end = len(head), len(value) - len(tail)
        if start > end or not value.startswith(head) or not value.endswith(tail):
            return False
        for part in middle:
            found = value.find(part, start, end)
            if found < 0:
                return False
            start = found + len(part)
        return True


@dataclass(frozen=True, slots=True)
class Patterns:
    """A list of patterns: one of the positive (if there are any) and none of the negative."""

    positive: tuple[Pattern, ...]
    negative: tuple[Pattern, ...]

    @property
    def literals(self) -> tuple[str, ...] | None:
        """The only values that can match, when every positive pattern is literal. None: any may."""
        if self.positive and all(pattern.is_literal for pattern in self.positive):
            return tuple(pattern.text for pattern in self.positive)
        return None

    @property
    def only_excludes(self) -> bool:
        return bool(self.negative) and not self.positive

    def matches(self, value: str) -> bool:
        if self.positive:
            wanted = any(pattern.matches(value) for pattern in self.positive)
        else:
            wanted = bool(self.negative)
        return wanted and not self.excludes(value)

    def excludes(self, value: str) -> bool:
        return any(pattern.matches(value) for pattern in self.negative)

    def matches_name(self, name: str) -> bool:
        """As `matches`, but Upshot's own events need a pattern that begins with `upshot.`, and what
        is announced of firings one that begins with `prefect.automation.`.
        """
        prefix = own_prefix(name)
        if prefix is None:
            return self.matches(name)
        own = [p for p in self.positive if p.text.startswith(prefix)]
        return any(pattern.matches(name) for pattern in own) and not self.excludes(name)


def own_prefix(name: str) -> str | None:
    """What a pattern has to begin with to match an event of this name. None: it may be any."""
    return next((own for own in (OWN_EVENT_PREFIX, ANNOUNCED_PREFIX) if name.startswith(own)), None)


def parse_pattern(text: str) -> Pattern:
    return Pattern(text=text, parts=tuple(text.split("*")))


def parse_patterns(texts: Iterable[str]) -> Patterns:
    """`["parcel.*", "!parcel.lost"]`; an empty list matches nothing."""
    positive, negative = [], []
    for text in texts:
        if text.startswith("!"):
            negative.append(parse_pattern(text[1:]))
        else:
            positive.append(parse_pattern(text))
    return Patterns(positive=tuple(positive), negative=tuple(negative))
