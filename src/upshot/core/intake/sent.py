"""An event as the client wrote it, and when it may have occurred."""

from datetime import UTC, datetime
from typing import Annotated, Final
from uuid import UUID

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from upshot.core.limits import (
    EVENT_NAME_CHARS_MAX,
    LABEL_NAME_CHARS_MAX,
    LABEL_VALUE_CHARS_MAX,
    LABELS_MAX,
    OCCURRED_AHEAD_MAX,
    RELATED_MAX,
)

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_LabelName = Annotated[str, Meta(min_length=1, max_length=LABEL_NAME_CHARS_MAX)]
_LabelValue = Annotated[str, Meta(max_length=LABEL_VALUE_CHARS_MAX)]
_LabelSet = Annotated[dict[_LabelName, _LabelValue], Meta(max_length=LABELS_MAX)]
_RelatedSets = Annotated[list[_LabelSet], Meta(max_length=RELATED_MAX)]


class Sent(Struct, forbid_unknown_fields=True, gc=False):
    """An event as the client wrote it. A null is as good as nothing, but was written."""

    event: Annotated[str, Meta(min_length=1, max_length=EVENT_NAME_CHARS_MAX)]
    resource: _LabelSet
    related: _RelatedSets | UnsetType | None = UNSET
    payload: Raw | UnsetType = UNSET
    occurred: datetime | UnsetType | None = UNSET
    id: UUID | UnsetType | None = UNSET
    follows: UUID | UnsetType | None = UNSET


def is_in_range(occurred: datetime, now: datetime) -> bool:
    return EPOCH <= occurred <= now + OCCURRED_AHEAD_MAX


def aware(occurred: datetime) -> datetime:
    """A time without offset is UTC."""
    return occurred if occurred.tzinfo else occurred.replace(tzinfo=UTC)
