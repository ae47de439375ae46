"""That the core and the model fire alike on any timeline."""

import json
from collections.abc import Iterable
from difflib import unified_diff

from hypothesis import HealthCheck, given, seed, settings

from tests.core.reference.lines import FiredLike
from tests.core.reference.timeline import firings
from tests.core.reference.timelines import Timeline, timelines
from upshot.core.simulation import simulate

DIFFERENCES_SHOWN_MAX = 40


def agree(examples: int, *, chance: int | None = None) -> None:
    """Compare as many random timelines; `chance` makes them the same ones again.

    Raises:
        AssertionError: they do not; with the smallest such case, to be run by hand.
    """

    @settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    @given(timelines())
    def compare(timeline: Timeline) -> None:
        expected = _firings(firings([timeline.trigger], timeline.lines))
        fired = _firings(simulate([timeline.trigger], timeline.lines))
        assert fired == expected, _described(timeline, fired, expected)

    if chance is not None:
        compare = seed(chance)(compare)
    compare()


def _firings(fired: Iterable[FiredLike]) -> list[str]:
    """The order between different keys at the same moment is nobody's promise."""
    listed = [(one.at, one.trigger, sorted(one.labels.items()), one) for one in fired]
    return [
        f"{at:%H:%M:%S} {trigger} {labels} {one.event_id} {[str(id) for id in one.event_ids]}"
        for at, trigger, labels, one in sorted(listed, key=lambda item: item[:3])
    ]


def _described(timeline: Timeline, fired: list[str], expected: list[str]) -> str:
    return "\n".join(
        (
            "The core and the model disagree. Save the case, and `upshot trigger test` runs it:",
            "--- t.yaml (JSON is YAML)",
            json.dumps(timeline.trigger, indent=2),
            "--- timeline.ndjson",
            *map(json.dumps, timeline.lines),
            "--- what the core fired (-) and the model fired (+)",
            *list(unified_diff(fired, expected, lineterm="", n=2))[2:][:DIFFERENCES_SHOWN_MAX],
        )
    )
