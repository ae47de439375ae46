"""The trigger language: what a client may write, checked and brought into one form."""

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
    TypeAdapter,
    WithJsonSchema,
)

from upshot.core.events import long_form
from upshot.core.keys import parse_key_part, part_name
from upshot.core.limits import (
    DURATION_MAX,
    EVENT_NAME_CHARS_MAX,
    FOR_EACH_MAX,
    LABEL_NAME_CHARS_MAX,
    LABEL_VALUE_CHARS_MAX,
    LABELS_MAX,
    NAME_CHARS_MAX,
    PATTERNS_MAX,
    RELATED_MAX,
    TAGS_MAX,
    TEXT_CHARS_MAX,
    THRESHOLD_MAX,
)
from upshot.core.matching import parse_label_match
from upshot.core.patterns import parse_patterns
from upshot.core.templates import compile_parameters
from upshot.core.triggers import Reactive, Trigger

_timedelta: TypeAdapter[timedelta] = TypeAdapter(timedelta)


def _duration(value: object) -> timedelta:
    """Seconds as a number, or ISO 8601 such as `PT10M`."""
    if isinstance(value, timedelta):
        duration = value
    elif isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("must be seconds (a number) or ISO 8601 such as 'PT10M'")
    elif isinstance(value, str):
        if not value.startswith("P"):
            raise ValueError(f"{value!r} is no ISO 8601 duration such as 'PT10M' or 'P1D'")
        duration = _timedelta.validate_python(value)
    elif not abs(value) <= DURATION_MAX.total_seconds():
        raise ValueError(f"must be at most {DURATION_MAX.days} days")
    else:
        duration = timedelta(seconds=value)
    if not timedelta(0) <= duration <= DURATION_MAX:
        raise ValueError(f"must be between 0 and {DURATION_MAX.days} days")
    return duration


def seconds(duration: timedelta) -> int | float:
    """A duration as answered: whole seconds as an integer."""
    total = duration.total_seconds()
    return int(total) if total.is_integer() else total


Duration = Annotated[
    timedelta,
    BeforeValidator(_duration),
    PlainSerializer(seconds),
    WithJsonSchema(
        {
            "anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "format": "duration"}],
            "description": "Seconds, or ISO 8601 such as `PT10M`; answered in seconds.",
        }
    ),
]


def _storable(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not hold the character \\u0000")
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise ValueError("must not hold half of a surrogate pair")
    return text


def _storable_json(value: Any) -> Any:
    """Nothing that Postgres would refuse inside JSON: `\\u0000`, lone surrogates, NaN."""
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
    except ValueError as error:
        raise ValueError(f"is no JSON: {error}") from None
    except RecursionError:
        raise ValueError("is nested too deep") from None
    _storable(text.replace("\\\\", "").replace("\\u0000", "\0"))
    return value


Storable = BeforeValidator(lambda value: _storable(value) if isinstance(value, str) else value)
StorableJson = BeforeValidator(_storable_json)

Name = Annotated[
    str,
    StringConstraints(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", min_length=1, max_length=NAME_CHARS_MAX
    ),
]
Text = Annotated[str, Storable, Field(max_length=TEXT_CHARS_MAX)]
Tag = Annotated[str, Storable, Field(min_length=1, max_length=NAME_CHARS_MAX)]
Tags = Annotated[list[Tag], Field(max_length=TAGS_MAX)]
JsonObject = Annotated[dict[str, Any], StorableJson]

EventPattern = Annotated[str, Storable, Field(min_length=1, max_length=EVENT_NAME_CHARS_MAX)]
LabelPattern = Annotated[str, Storable, Field(max_length=LABEL_VALUE_CHARS_MAX)]


def _listed(value: object) -> object:
    """One pattern may be written without its list."""
    return [value] if isinstance(value, str) else value


EventPatterns = Annotated[
    list[EventPattern], BeforeValidator(_listed), Field(max_length=PATTERNS_MAX)
]
LabelName = Annotated[
    str, Storable, Field(min_length=1, max_length=LABEL_NAME_CHARS_MAX), BeforeValidator(
        lambda label: long_form(label) if isinstance(label, str) else label
    ),
]  # fmt: skip
LabelPatterns = Annotated[
    dict[LabelName, LabelPattern | Annotated[list[LabelPattern], Field(max_length=PATTERNS_MAX)]],
    Field(max_length=LABELS_MAX),
]


def _key_part(value: object) -> object:
    return part_name(parse_key_part(value)) if isinstance(value, str) else value


KeyPartText = Annotated[
    str, Storable, BeforeValidator(_key_part), Field(max_length=LABEL_NAME_CHARS_MAX)
]


def _all_different(parts: list[str]) -> list[str]:
    if len(set(parts)) != len(parts):
        raise ValueError("names the same value twice")
    return parts


class Strict(BaseModel):
    """Unknown fields are refused, so that a misspelt `treshold` is noticed."""

    model_config = ConfigDict(extra="forbid", validate_default=True)


class EventCondition(Strict):
    """When an event trigger fires."""

    type: Literal["event"] = "event"
    expect: EventPatterns = Field(
        default=[],
        description="Patterns of the event names that count. Empty: every event.",
        examples=[["order.complete"]],
    )
    after: EventPatterns = Field(
        default=[],
        description="Patterns of the event names that open a key. Empty: nothing has to.",
        examples=[["order.created"]],
    )
    for_each: Annotated[
        list[KeyPartText], BeforeValidator(_listed), AfterValidator(_all_different)
    ] = Field(
        default=[],
        max_length=FOR_EACH_MAX,
        description="What keeps one key from another: a label, `related:<role>:<label>` or "
        "`payload.<path>`.",
        examples=[["prefect.resource.id"]],
    )
    match: LabelPatterns = Field(
        default={}, description="Labels the event's resource must have, with patterns."
    )
    match_related: LabelPatterns | Annotated[list[LabelPatterns], Field(max_length=RELATED_MAX)] = (
        Field(default={}, description="The same for related resources; a list must hold in full.")
    )
    posture: Literal["Reactive"] = Field(default="Reactive", description="Fires on what happened.")
    threshold: int = Field(
        default=1, ge=1, le=THRESHOLD_MAX, strict=True, description="How many expected events."
    )
    within: Duration = Field(
        default=timedelta(0), description="The window's length; 0 is no limit of time."
    )

    def compiled(self) -> Reactive:
        related = [self.match_related] if isinstance(self.match_related, dict) else (
            self.match_related
        )  # fmt: skip
        return Reactive(
            expect=parse_patterns(self.expect or ["*"]),
            after=parse_patterns(self.after) if self.after else None,
            match=parse_label_match(self.match),
            match_related=tuple(map(parse_label_match, related)),
            for_each=tuple(map(parse_key_part, self.for_each)),
            threshold=self.threshold,
            within=self.within,
        )

    def same_as(self, other: "EventCondition") -> bool:
        """Whether both mean the same; the order of patterns means nothing, that of keys does."""
        return _canonical(self) == _canonical(other)


class EventTrigger(EventCondition):
    """A trigger as a client writes it."""

    name: Name | None = Field(default=None, description="The trigger's name.")
    deployment: Name = Field(description="The deployment to run.", examples=["post-order-complete"])
    parameters: JsonObject = Field(
        default={},
        description="JSON whose strings are Jinja templates.",
        examples=[{"user_id": "{{ event.resource.id }}"}],
    )
    schedule_after: Duration = Field(
        default=timedelta(0), description="How long after the firing the run is due."
    )
    enabled: bool = Field(default=True, strict=True, description="A disabled trigger sees nothing.")
    description: Text = ""
    tags: Tags = []

    def condition(self) -> EventCondition:
        fields = EventCondition.model_fields
        return EventCondition.model_construct(**{name: getattr(self, name) for name in fields})


def compile_trigger(
    document: Mapping[str, Any], *, trigger_id: UUID, number: int, version: int
) -> Trigger:
    """The trigger that a stored document describes.

    Raises:
        pydantic.ValidationError, Invalid: the document breaks a rule of the language.
    """
    written = EventTrigger.model_validate(document)
    parameters = compile_parameters(written.parameters)
    return Trigger(
        id=trigger_id,
        number=number,
        version=version,
        name=written.name or "",
        condition=written.compiled(),
        deployment=written.deployment,
        parameters=json.dumps(written.parameters),
        schedule_after=written.schedule_after,
        keeps_after="after" in parameters.names,
        keeps_events="events" in parameters.names,
    )


def _canonical(condition: EventCondition) -> dict[str, Any]:
    written = condition.model_dump(include=set(EventCondition.model_fields))
    related = written["match_related"]
    return {
        **written,
        "expect": sorted(set(written["expect"] or ["*"])),
        "after": sorted(set(written["after"])),
        "match": _canonical_labels(written["match"]),
        "match_related": sorted(
            map(_canonical_labels, [related] if isinstance(related, dict) else related), key=str
        ),
    }


def _canonical_labels(labels: dict[str, str | list[str]]) -> list[tuple[str, list[str]]]:
    return sorted(
        (label, [value] if isinstance(value, str) else sorted(set(value)))
        for label, value in labels.items()
    )
