"""What keeps the embedded Postgres from running."""

from upshot.core.errors import UpshotError


class EmbeddedUnavailable(UpshotError):
    """The embedded Postgres cannot run here; the message says why, and what to do."""
