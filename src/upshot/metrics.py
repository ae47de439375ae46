"""What Prometheus can read of this process, and of the database it works on."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

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
RUNS_MADE: Final = Counter("upshot_runs_made", "Runs that triggers made.")
RUNS_FINISHED: Final = Counter("upshot_runs_finished", "Runs that ended, by state.", ["state"])
ATTEMPTS: Final = Counter("upshot_attempts", "Calls of runners, by outcome.", ["outcome"])
ATTEMPT_SECONDS: Final = Histogram("upshot_attempt_seconds", "How long calls of runners took.")
DELIVERY_DELAY_SECONDS: Final = Histogram(
    "upshot_delivery_delay_seconds",
    "From when an attempt was due to its beginning.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600, float("inf")),
)

# Read from the database when they are asked for.
HEAD: Final = Gauge("upshot_log_head", "The last position of the log that was handed out.")
EVALUATED: Final = Gauge("upshot_log_evaluated", "The highest position that is evaluated.")
LAG_SECONDS: Final = Gauge(
    "upshot_log_lag_seconds", "The age of the oldest event that is not yet evaluated."
)
OPEN_KEYS: Final = Gauge("upshot_open_keys", "Keys of triggers that are open.")
RUNS_OPEN: Final = Gauge("upshot_runs_open", "Runs that have not ended, by state.", ["state"])
BREAKERS: Final = Gauge(
    "upshot_breakers", "Runners that are not called as usual, by their breakers' state.", ["state"]
)  # open, half-open
BREAKER_NOT_CLOSED: Final = Gauge(
    "upshot_breaker_not_closed",
    "1 for a deployment whose runner is not called as usual; the first 100 by name.",
    ["deployment"],
)
TRIGGERS: Final = Gauge("upshot_triggers", "Triggers registered.")
DEPLOYMENTS: Final = Gauge("upshot_deployments", "Deployments registered.")
