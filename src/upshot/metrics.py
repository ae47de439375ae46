"""What Prometheus can read of this server, and of the database it works on."""

import os
from collections.abc import Iterable, Mapping
from typing import Final

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

DIRECTORY_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
"""Names the directory in which processes count together; read when this module is imported."""

EVENTS: Final = Counter(
    "upshot_events", "Events posted, by what became of them.", ["status"]
)  # accepted, duplicate, rejected
EVENTS_EVALUATED: Final = Counter("upshot_events_evaluated", "Events that were evaluated.")
EVENTS_LATE: Final = Counter(
    "upshot_events_late", "Expected events that came after the alarm that missed them."
)
EVALUATION_ERRORS: Final = Counter(
    "upshot_evaluation_errors", "Events set aside because they could not be evaluated."
)
KEYS_FORGOTTEN: Final = Counter(
    "upshot_keys_forgotten", "Open keys forgotten because they were kept for long enough."
)
FLOW_LOG_LINES: Final = Counter(
    "upshot_flow_log_lines", "Lines that flows logged, by what became of them.", ["status"]
)  # stored, dropped
RUNS_MADE: Final = Counter("upshot_runs_made", "Runs that triggers made.")
RUNS_FINISHED: Final = Counter("upshot_runs_finished", "Runs that ended, by state.", ["state"])
ATTEMPTS: Final = Counter("upshot_attempts", "Calls of runners, by outcome.", ["outcome"])
ATTEMPT_SECONDS: Final = Histogram("upshot_attempt_seconds", "How long calls of runners took.")
DELIVERY_DELAY_SECONDS: Final = Histogram(
    "upshot_delivery_delay_seconds",
    "From when an attempt was due to its beginning.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600, float("inf")),
)


def counted() -> CollectorRegistry:
    """What is counted, in all processes of this server if there are several."""
    if DIRECTORY_VARIABLE not in os.environ:
        return REGISTRY
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry


class Measured(Collector):
    """What is read from the database when it is asked for."""

    def __init__(self) -> None:
        self._families: list[Metric] = []

    def add(self, name: str, help_text: str, value: float) -> None:
        self._families.append(GaugeMetricFamily(name, help_text, value=value))

    def add_each(self, name: str, help_text: str, label: str, values: Mapping[str, float]) -> None:
        family = GaugeMetricFamily(name, help_text, labels=[label])
        for labelled, value in values.items():
            family.add_metric([labelled], value)
        self._families.append(family)

    def collect(self) -> Iterable[Metric]:
        return self._families


def exposed(measured: Measured) -> bytes:
    """Everything, in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(measured)
    return generate_latest(counted()) + generate_latest(registry)
