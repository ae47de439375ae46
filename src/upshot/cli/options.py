"""Options that many commands share."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from pydantic import TypeAdapter

from upshot.core.limits import LIST_LIMIT_DEFAULT

Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        help="The server's address. Default: UPSHOT_API_URL, or http://127.0.0.1:8484.",
        show_default=False,
    ),
]
Key = Annotated[
    str | None,
    typer.Option(
        "--key",
        help="An API key. UPSHOT_API_KEY keeps it out of sight of others on this machine.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Limit = Annotated[int, typer.Option("--limit", min=1, help="How many to show at most.")]
LIMIT = LIST_LIMIT_DEFAULT

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_iso_duration: TypeAdapter[timedelta] = TypeAdapter(timedelta)


def _time(text: str) -> str:
    """A time as the server reads it, from one or from how long ago it was."""
    ago = re.fullmatch(r"(\d{1,6})([smhdw])", text)
    try:
        if ago:
            back = timedelta(**{_UNITS[ago[2]]: int(ago[1])})
            return (datetime.now(UTC) - back).isoformat()
        if text.startswith("P"):
            back = _iso_duration.validate_python(text)
            return (datetime.now(UTC) - back).isoformat()
        return datetime.fromisoformat(text).astimezone(UTC).isoformat()
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{text!r} is no time; write 2026-01-31T12:00:00, or 90s, 15m, 2h, 7d for as long ago."
        ) from None


Since = Annotated[
    str | None,
    typer.Option(
        "--since",
        parser=_time,
        metavar="TIME",
        help="At or after this time: 2026-01-31T12:00:00, or 2h for two hours ago.",
        show_default=False,
    ),
]
Until = Annotated[
    str | None,
    typer.Option(
        "--until", parser=_time, metavar="TIME", help="Before this time.", show_default=False
    ),
]
