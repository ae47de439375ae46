"""Triggers as an app writes them beside its function; sent so that the same file looks the same."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, model_validator

from upshot.sdk.limits import NAME_CHARS_MAX

Patterns = str | AbstractSet[str] | Sequence[str]
"""One pattern or several; `*` stands for any run of characters, `!p` excludes."""

LabelPatterns = Mapping[str, Patterns]
Duration = float | timedelta | str
"""Seconds, a timedelta, or ISO 8601 such as `PT10M`."""


class Posture(StrEnum):
    """What a trigger waits for: that something happens, or that it does not."""

    Reactive = "Reactive"
    Proactive = "Proactive"


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, AbstractSet | list | tuple) or not all(
        isinstance(text, str) for text in value
    ):
        raise ValueError("must be a text, or a set or list of texts")
    return list(value)


def _patterns(value: Any) -> list[str]:
    """The order of patterns means nothing, and a set's differs from one process to the next."""
    return sorted(set(_texts(value)))


def _key_parts(value: Any) -> list[str]:
    """The order means something in composites: a list keeps it, a set is sorted."""
    return sorted(_texts(value)) if isinstance(value, AbstractSet) else _texts(value)


def _label_patterns(value: Any) -> dict[str, str | list[str]]:
    if not isinstance(value, Mapping):
        raise ValueError("must be an object of labels and patterns")
    return {
        label: patterns if isinstance(patterns, str) else _patterns(patterns)
        for label, patterns in sorted(value.items())
    }


def _related(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_label_patterns(one) for one in value]
    return _label_patterns(value)


def _duration(value: Any) -> float | str:
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("must be seconds, a timedelta, or ISO 8601 such as 'PT10M'")
    return int(value) if isinstance(value, float) and value.is_integer() else value


_Patterns = Annotated[Patterns, PlainValidator(_patterns)]
_KeyParts = Annotated[Patterns, PlainValidator(_key_parts)]
_LabelPatterns = Annotated[LabelPatterns, PlainValidator(_label_patterns)]
_Related = Annotated[LabelPatterns | Sequence[LabelPatterns], PlainValidator(_related)]
_Duration = Annotated[Duration, PlainValidator(_duration)]

_REGISTERED: Final = (
    "name", "parameters", "schedule_after", "enabled", "description", "tags",
)  # fmt: skip
"""What a trigger has beside its condition; the children of a composite have none of it."""


class _Trigger(BaseModel):
    """What all triggers share. Unknown fields are refused, so that a misspelt one is noticed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str | None = Field(default=None, max_length=NAME_CHARS_MAX)
    parameters: dict[str, Any] = {}
    schedule_after: _Duration | None = None
    enabled: bool | None = None
    description: str = ""
    tags: _Patterns = ()
    for_each: _KeyParts = ()

    def condition(self) -> dict[str, Any]:
        """When it fires, as the server is told. What is the default is left out."""
        return {
            name: _written(value)
            for name, field in type(self).model_fields.items()
            if name not in _REGISTERED
            and (value := getattr(self, name)) != field.default
            and value not in ([], {})
        }

    def document(self, *, deployment: str, managed_by: str) -> dict[str, Any]:
        """The trigger as it is registered."""
        return {
            **self.condition(),
            "deployment": deployment,
            "tags": sorted({*self.tags, managed_by}),
            **{
                name: value
                for name in ("parameters", "schedule_after", "enabled", "description")
                if (value := getattr(self, name)) not in (None, "", {})
            },
        }

    def name_for(self, deployment: str) -> str:
        """Its own name, or the deployment's and a hash of the condition: the same at each start."""
        if self.name is not None:
            return self.name
        written = json.dumps(self.condition(), sort_keys=True)
        suffix = f"-{hashlib.sha256(written.encode()).hexdigest()[:10]}"
        return deployment[: NAME_CHARS_MAX - len(suffix)] + suffix


class EventTrigger(_Trigger):
    """Fires when expected events have come (or, Proactive, have not), for each key by itself."""

    expect: _Patterns = ()
    after: _Patterns = ()
    match: _LabelPatterns = {}
    match_related: _Related = {}
    where: str | None = None
    posture: Posture | Literal["Reactive", "Proactive"] = Posture.Reactive
    threshold: int = Field(default=1, ge=1)
    within: _Duration | None = None
    lateness: _Duration | None = None
    repeat: bool | None = None


class _Composite(_Trigger):
    triggers: Sequence["AnyTrigger"] = Field(min_length=1)
    within: _Duration | None = None

    @model_validator(mode="after")
    def _children_are_conditions(self) -> Self:
        for child in self.triggers:
            given = [name for name in _REGISTERED if name in child.model_fields_set]
            if given:
                raise ValueError(
                    f"{given[0]} belongs to the {_kind(self)} trigger, not to one inside it"
                )
        return self

    def condition(self) -> dict[str, Any]:
        children = [child.condition() for child in self.triggers]
        return {"type": _kind(self), **super().condition(), "triggers": children}


class CompoundTrigger(_Composite):
    """Fires when all, any or so many of its triggers have."""

    require: Literal["any", "all"] | int = "all"


class SequenceTrigger(_Composite):
    """Fires when its triggers have, one after the other."""


AnyTrigger = EventTrigger | CompoundTrigger | SequenceTrigger
_Composite.model_rebuild()
CompoundTrigger.model_rebuild()
SequenceTrigger.model_rebuild()


def _kind(composite: _Composite) -> str:
    return "compound" if isinstance(composite, CompoundTrigger) else "sequence"


def _written(value: Any) -> Any:
    return str(value) if isinstance(value, Posture) else value
