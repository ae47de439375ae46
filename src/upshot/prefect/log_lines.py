"""Reading the lines of flows' logs: whatever characters a flow prints, none of them is lost."""

import json
import re
from datetime import UTC, datetime
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec

from upshot.core.errors import Invalid, Malformed
from upshot.core.limits import FLOW_NAME_CHARS_MAX, LOG_MESSAGE_CHARS_MAX
from upshot.storage.flow_run_logs import NewLine

_NOT_KEPT: Final = re.compile("[\0\ud800-\udfff]")
_LEVEL_MAX: Final = 32_767


class _Sent(msgspec.Struct):
    """A line as a client writes it."""

    name: str
    level: Annotated[int, msgspec.Meta(ge=-_LEVEL_MAX, le=_LEVEL_MAX)]
    message: str
    timestamp: Annotated[datetime, msgspec.Meta(tz=True)]
    flow_run_id: UUID | None = None
    task_run_id: UUID | None = None


_reader: Final = msgspec.json.Decoder(list[_Sent])


def lines_of(body: bytes) -> tuple[list[NewLine], int]:
    """The lines of runs in a body, and how many there are of none, such as a worker's own.

    What the database cannot keep of a text, U+0000 and halves of surrogate pairs, becomes U+FFFD.
    A message that is too long is cut, and says so.

    Raises:
        Malformed: the body is no JSON.
        Invalid: it is no list of lines; the message says which one is wrong.
    """
    sent = _read(body)
    lines = [
        NewLine(
            run_id=line.flow_run_id,
            task_run_id=line.task_run_id,
            at=_utc(line.timestamp, index),
            level=line.level,
            name=_kept(line.name)[:FLOW_NAME_CHARS_MAX],
            message=_cut(_kept(line.message)),
        )
        for index, line in enumerate(sent)
        if line.flow_run_id is not None
    ]
    return lines, len(sent) - len(lines)


def _read(body: bytes) -> list[_Sent]:
    try:
        return _reader.decode(body)
    except msgspec.ValidationError as error:
        raise _wrong(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # Half a surrogate pair is not JSON for msgspec; Python's own reader takes it.
        return _read_leniently(body)


def _read_leniently(body: bytes) -> list[_Sent]:
    try:
        value = json.loads(body.decode("utf-8", "replace"), strict=False)
    except (ValueError, RecursionError):
        raise Malformed("The body is no JSON.") from None
    try:
        return msgspec.convert(_cleaned(value), list[_Sent])
    except msgspec.ValidationError as error:
        raise _wrong(error) from None


def _cleaned(value: Any) -> Any:
    """A list of lines, or what else it is, without what msgspec cannot take in texts."""
    match value:
        case str():
            return _kept(value)
        case list():
            return [_cleaned_line(one) for one in value]
    return value


def _cleaned_line(line: Any) -> Any:
    if not isinstance(line, dict):
        return _kept(line) if isinstance(line, str) else line
    return {
        _kept(name): _kept(value) if isinstance(value, str) else value
        for name, value in line.items()
    }


def _wrong(error: msgspec.ValidationError) -> Invalid:
    return Invalid(f"These are no lines of a log: {error}.")


def _utc(at: datetime, index: int) -> datetime:
    try:
        return at.astimezone(UTC)
    except (OverflowError, ValueError):
        raise Invalid(
            f"These are no lines of a log: $[{index}].timestamp is too far off."
        ) from None


def _kept(text: str) -> str:
    return _NOT_KEPT.sub("\N{REPLACEMENT CHARACTER}", text)


def _cut(message: str) -> str:
    more = len(message) - LOG_MESSAGE_CHARS_MAX
    if more <= 0:
        return message
    return f"{message[:LOG_MESSAGE_CHARS_MAX]}... [{more:,} more characters are not kept]"
