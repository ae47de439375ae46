"""Whether an event's labels are those a trigger asks for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from upshot.core.events import RESOURCE_ID, Labels, long_form
from upshot.core.patterns import Patterns, parse_patterns

LabelPatterns = Mapping[str, str | Sequence[str]]
"""As written in a trigger: label to a pattern or a list of patterns."""


@dataclass(frozen=True, slots=True)
class LabelMatch:
    """Every label must be present, and its value match."""

    labels: tuple[tuple[str, Patterns], ...]

    @property
    def asks_nothing(self) -> bool:
        return not self.labels

    @property
    def only_excludes(self) -> bool:
        return bool(self.labels) and all(patterns.only_excludes for _, patterns in self.labels)

    @property
    def literal_resource_ids(self) -> tuple[str, ...] | None:
        """The only `prefect.resource.id` values that can match, where they are literal."""
        for label, patterns in self.labels:
            if label == RESOURCE_ID and patterns.literals is not None:
                return patterns.literals
        return None

    def holds(self, labels: Labels) -> bool:
        for label, patterns in self.labels:
            value = labels.get(label)
            if value is None or not patterns.matches(value):
                return False
        return True

    def excludes(self, labels: Labels) -> bool:
        """Whether any label has a value that its negative patterns name."""
        return any(
            (value := labels.get(label)) is not None and patterns.excludes(value)
            for label, patterns in self.labels
        )


def parse_label_match(written: LabelPatterns) -> LabelMatch:
    return LabelMatch(
        labels=tuple(
            (long_form(label), parse_patterns([value] if isinstance(value, str) else value))
            for label, value in written.items()
        )
    )


def related_hold(asked: Sequence[LabelMatch], related: Sequence[Labels]) -> bool:
    """Whether every asked object holds; one related resource may serve several of them.

    An object with a positive pattern needs one related resource that satisfies all of it. An
    object of negatives alone holds when no related resource has an excluded value.
    """
    return all(_related_holds(match, related) for match in asked)


def _related_holds(match: LabelMatch, related: Sequence[Labels]) -> bool:
    if match.asks_nothing:
        return True
    if match.only_excludes:
        return not any(match.excludes(labels) for labels in related)
    return any(match.holds(labels) for labels in related)
