"""The trigger language: what a client may write, checked and brought into one form."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Annotated, Any, Final, Literal, Self, assert_never
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    PlainSerializer,
    StringConstraints,
    TypeAdapter,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticKnownError, core_schema

from upshot.core.errors import Invalid, Problem
from upshot.core.events import long_form
from upshot.core.keys import parse_key_part, part_name
from upshot.core.limits import (
    ACTIONS_MAX,
    DURATION_MAX,
    EVENT_NAME_CHARS_MAX,
    FOR_EACH_MAX,
    LABEL_NAME_CHARS_MAX,
    LABEL_VALUE_CHARS_MAX,
    LABELS_MAX,
    LATENESS_DEFAULT,
    LATENESS_MAX,
    NAME_CHARS_MAX,
    NODES_DEEP_MAX,
    NODES_MAX,
    PATTERNS_MAX,
    PROACTIVE_WITHIN_DEFAULT,
    RELATED_MAX,
    TAGS_MAX,
    TEXT_CHARS_MAX,
    THRESHOLD_MAX,
    WHERE_CHARS_MAX,
)
from upshot.core.matching import parse_label_match
from upshot.core.patterns import parse_patterns
from upshot.core.templates import Parameters, compile_parameters
from upshot.core.triggers import (
    Action,
    Compound,
    Nothing,
    Proactive,
    Reactive,
    Run,
    Selection,
    Sequential,
    SetEnabled,
    Trigger,
)
from upshot.core.triggers import EventCondition as EventCompiled
from upshot.core.where import compile_where

Loc = tuple[str | int, ...]
"""Where something stands in a document: names and indices from the top."""

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
ActionKind = Annotated[str, Storable, Field(min_length=1, max_length=NAME_CHARS_MAX)]

RUN_DEPLOYMENT: Final = "run-deployment"
"""What running a deployment is called where it is announced."""


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


def _where(text: str) -> str:
    compile_where(text)
    return text


WhereText = Annotated[
    str, Storable, Field(min_length=1, max_length=WHERE_CHARS_MAX), AfterValidator(_where)
]


def _all_different(parts: list[str]) -> list[str]:
    if len(set(parts)) != len(parts):
        raise ValueError("names the same value twice")
    return parts


ForEach = Annotated[
    list[KeyPartText],
    BeforeValidator(_listed),
    AfterValidator(_all_different),
    Field(max_length=FOR_EACH_MAX),
]


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
    for_each: ForEach = Field(
        default=[],
        description="What keeps one key from another: a label, `related:<role>:<label>` or "
        "`payload.<path>`. A child of a composite has the composite's, unless it names its own.",
        examples=[["prefect.resource.id"]],
    )
    match: LabelPatterns = Field(
        default={}, description="Labels the event's resource must have, with patterns."
    )
    match_related: LabelPatterns | Annotated[list[LabelPatterns], Field(max_length=RELATED_MAX)] = (
        Field(default={}, description="The same for related resources; a list must hold in full.")
    )
    where: WhereText | None = Field(
        default=None,
        description="A CEL expression over `event` that must hold.",
        examples=["event.payload.total > 100"],
    )
    posture: Literal["Reactive", "Proactive"] = Field(
        default="Reactive",
        description="`Reactive` fires on what happened, `Proactive` on what did not.",
    )
    threshold: int = Field(
        default=1, ge=1, le=THRESHOLD_MAX, strict=True, description="How many expected events."
    )
    within: Duration = Field(
        default=timedelta(0),
        validate_default=True,
        description="The window's length; 0 is no limit of time. Proactive: 10 s, and never 0.",
    )
    lateness: Duration = Field(
        default=LATENESS_DEFAULT,
        description="How far arrival may lag behind occurrence without changing the outcome; "
        "at most 15 minutes.",
    )
    repeat: bool | None = Field(
        default=None,
        strict=True,
        description="Proactive without `after`: fire again every `within` while the silence lasts. "
        "By default without `for_each`, not with it.",
    )

    @model_validator(mode="before")
    @classmethod
    def _with_defaults_of_posture(cls, written: Any) -> Any:
        if not isinstance(written, dict):
            return written
        written = {**written}
        if written.get("within") is None:
            written.pop("within", None)
            if written.get("posture") == "Proactive":
                written["within"] = PROACTIVE_WITHIN_DEFAULT
        if written.get("lateness", 0) is None:
            del written["lateness"]
        return written

    @field_validator("lateness")
    @classmethod
    def _bounded(cls, lateness: timedelta) -> timedelta:
        if lateness > LATENESS_MAX:
            raise ValueError(f"must be at most {int(LATENESS_MAX.total_seconds())} seconds")
        return lateness

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.posture == "Proactive" and not self.within:
            raise ValueError(
                "within must be more than 0 for a Proactive trigger: it says how long to wait "
                "before something is missed"
            )
        if self.repeat is not None and self.posture == "Reactive":
            raise ValueError("repeat is for Proactive triggers; leave it out")
        if self.repeat is not None and self.after:
            raise ValueError("repeat cannot go with after: each after event is missed once")
        return self

    def compiled(self, inherited: Sequence[str] = ()) -> EventCompiled:
        """`inherited`: the `for_each` of the composite that it is a child of."""
        related = [self.match_related] if isinstance(self.match_related, dict) else (
            self.match_related
        )  # fmt: skip
        selection = Selection(
            expect=parse_patterns(self.expect or ["*"]),
            after=parse_patterns(self.after) if self.after else None,
            match=parse_label_match(self.match),
            match_related=tuple(map(parse_label_match, related)),
            where=None if self.where is None else compile_where(self.where),
            for_each=tuple(map(parse_key_part, self.for_each or inherited)),
        )
        if self.posture == "Reactive":
            return Reactive(
                selection=selection,
                threshold=self.threshold,
                within=self.within,
                lateness=self.lateness,
            )
        repeats_by_default = not self.after and not selection.for_each
        return Proactive(
            selection=selection,
            threshold=self.threshold,
            within=self.within,
            lateness=self.lateness,
            repeat=repeats_by_default if self.repeat is None else self.repeat,
        )

    def canonical(self) -> dict[str, Any]:
        """What it means, whatever the order of its patterns."""
        written = self.model_dump(include=set(EventCondition.model_fields))
        related = written["match_related"]
        return {
            **written,
            "expect": sorted(set(written["expect"] or ["*"])),
            "after": sorted(set(written["after"])),
            "match": _canonical_labels(written["match"]),
            "match_related": sorted(
                map(_canonical_labels, [related] if isinstance(related, dict) else related),
                key=str,
            ),
        }


class _CompositeCondition(Strict):
    triggers: Annotated[list["ChildCondition"], Field(min_length=1, max_length=NODES_MAX)] = Field(
        description="The children: event triggers or composites, without name and deployment."
    )
    within: Duration | None = Field(
        default=None, description="How far apart their firings may be; null is no limit of time."
    )
    for_each: ForEach = Field(
        default=[],
        description="What keeps one key from another. Empty: its children's keys are not told "
        "apart.",
    )

    def canonical(self) -> dict[str, Any]:
        """What it means, whatever the order of its patterns."""
        mine = self.model_dump(include=set(type(self).model_fields) & _COMPOSITE_FIELDS)
        children = [child.canonical() for child in self.triggers]
        return {**mine, "within": self.within or timedelta(0), "triggers": children}


class CompoundCondition(_CompositeCondition):
    """When a compound trigger fires."""

    type: Literal["compound"]
    require: Literal["any", "all"] | Annotated[int, Field(ge=1, strict=True)] = Field(
        default="all", description="How many different children must have fired."
    )

    @model_validator(mode="after")
    def _requires_what_there_is(self) -> Self:
        if isinstance(self.require, int) and self.require > len(self.triggers):
            raise ValueError(
                f"require asks for {self.require} children, and there are {len(self.triggers)}"
            )
        return self

    def compiled(self, inherited: Sequence[str] = ()) -> Compound:
        for_each = self.for_each or inherited
        require = {"any": 1, "all": len(self.triggers)}.get(str(self.require), self.require)
        return Compound(
            children=tuple(child.compiled(for_each) for child in self.triggers),
            require=int(require),
            within=self.within or timedelta(0),
            for_each=tuple(map(parse_key_part, for_each)),
        )


class SequenceCondition(_CompositeCondition):
    """When a sequence trigger fires."""

    type: Literal["sequence"]

    def compiled(self, inherited: Sequence[str] = ()) -> Sequential:
        for_each = self.for_each or inherited
        return Sequential(
            children=tuple(child.compiled(for_each) for child in self.triggers),
            within=self.within or timedelta(0),
            for_each=tuple(map(parse_key_part, for_each)),
        )


def _type_of(written: Any) -> str:
    """The kind of a condition; an event trigger where nothing else is said."""
    kind = written.get("type") if isinstance(written, dict) else getattr(written, "type", None)
    return "event" if kind is None else str(kind)


class _ByType:
    """Tells the kinds of a trigger apart by `type`, where `models` gives a model for each."""

    def __init__(self, models: Callable[[], Mapping[str, type[BaseModel]]]) -> None:
        self._models = models

    def __get_pydantic_core_schema__(
        self, _source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.tagged_union_schema(
            {kind: handler.generate_schema(model) for kind, model in self._models().items()},
            discriminator=_type_of,
            custom_error_type="unknown_type",
            custom_error_message="type must be 'event', 'compound' or 'sequence'",
        )


AnyCondition = EventCondition | CompoundCondition | SequenceCondition
ChildCondition = Annotated[
    AnyCondition,
    _ByType(
        lambda: {
            "event": EventCondition,
            "compound": CompoundCondition,
            "sequence": SequenceCondition,
        }
    ),
]
_COMPOSITE_FIELDS: Final = {"type", "require", "within", "for_each"}


class RunAction(Strict):
    """Run a deployment."""

    type: Literal["run"]
    deployment: Name | None = Field(
        default=None,
        description="The deployment to run. null: the one that the firing's event tells of, by the "
        "first of its resource and related resources that is `prefect.deployment.<id>`.",
    )
    parameters: JsonObject = Field(
        default={}, description="JSON whose strings are Jinja templates."
    )
    schedule_after: Duration = Field(
        default=timedelta(0), description="How long after the firing the run is due."
    )
    kind: ActionKind = Field(
        default=RUN_DEPLOYMENT, description="What it is called where it is announced."
    )


class SetEnabledAction(Strict):
    """Pause a trigger, or resume it."""

    type: Literal["pause", "resume"]
    trigger: UUID | None = Field(
        default=None,
        description="The id of the trigger. null: the one that the firing's event tells of, by the "
        "first of its resource and related resources that is `prefect.automation.<id>`.",
    )


class NothingAction(Strict):
    """Do nothing: the firing may be worth its announcement alone."""

    type: Literal["nothing"]


AnyAction = Annotated[RunAction | SetEnabledAction | NothingAction, Field(discriminator="type")]
"""What a firing does, told apart by its `type`."""

_ACTION_TYPES: Final = ("run", "pause", "resume", "nothing")


class _Registered(Strict):
    """What a trigger has beside its condition."""

    name: Name | None = Field(default=None, description="The trigger's name.")
    actions: Annotated[list[AnyAction], Field(min_length=1, max_length=ACTIONS_MAX)] | None = Field(
        default=None,
        description="What each firing does, all of it and in this order, instead of running one "
        "`deployment`.",
    )
    deployment: Name | None = Field(
        default=None,
        description="The deployment to run. Needed, unless there are `actions`.",
        examples=["post-order-complete"],
    )
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
    title: Text | None = Field(
        default=None, description="What it is called where it is announced; by default its name."
    )
    announce: bool = Field(
        default=False,
        strict=True,
        description="Append what each firing does to the log, as `prefect.automation.triggered` "
        "and `prefect.automation.action.*`.",
    )

    @field_validator("deployment", "parameters", "schedule_after")
    @classmethod
    def _without_actions(cls, value: Any, info: ValidationInfo) -> Any:
        actions = info.data.get("actions", ())
        if actions is None and info.field_name == "deployment" and value is None:
            raise PydanticKnownError("missing")
        if actions and value:
            raise ValueError("cannot go with actions: each says what it runs; leave it out")
        return value


class EventTrigger(EventCondition, _Registered):
    """An event trigger as a client writes it."""


class _CompositeTrigger(_CompositeCondition, _Registered):
    @model_validator(mode="after")
    def _tree_is_sound(self) -> Self:
        problem = _tree_problem(self.triggers, self.for_each)
        if problem:
            raise ValueError(problem)
        return self


class CompoundTrigger(_CompositeTrigger, CompoundCondition):
    """A compound trigger as a client writes it: so many of its children have fired."""


class SequenceTrigger(_CompositeTrigger, SequenceCondition):
    """A sequence trigger as a client writes it: its children have fired in this order."""


AnyTrigger = EventTrigger | CompoundTrigger | SequenceTrigger

TriggerWritten = Annotated[
    AnyTrigger,
    _ByType(
        lambda: {"event": EventTrigger, "compound": CompoundTrigger, "sequence": SequenceTrigger}
    ),
]
"""A trigger of any kind, told apart by its `type`."""

TRIGGER_FIELDS: Final = tuple(
    {
        **EventTrigger.model_fields,
        **CompoundTrigger.model_fields,
        **SequenceTrigger.model_fields,
    }
)
"""The fields of any trigger: what a misspelt one may have meant."""

_trigger_adapter: TypeAdapter[AnyTrigger] = TypeAdapter(TriggerWritten)


def read_trigger(document: Mapping[str, Any]) -> AnyTrigger:
    """A trigger of any kind, checked but for its templates.

    Raises:
        pydantic.ValidationError: the document breaks a rule of the language.
    """
    return _trigger_adapter.validate_python(document)


def same_condition(one: AnyCondition, other: AnyCondition) -> bool:
    """Whether both mean the same; the order of patterns means nothing, that of keys does."""
    return one.canonical() == other.canonical()


def loc_without_kinds(loc: Sequence[str | int]) -> tuple[str | int, ...]:
    """Where a problem is, in what the client wrote: pydantic names the kind of trigger too, or of
    action or runner.
    """
    if loc[:1] == ("runner",) and loc[1:2] in (("webhook",), ("pull",)):
        return ("runner", *loc[2:])
    kinds = ("event", "compound", "sequence")
    at = loc.index("actions") + 2 if "actions" in loc[:3] else len(loc)
    if loc[at : at + 1] and loc[at] in _ACTION_TYPES:
        loc = (*loc[:at], *loc[at + 1 :])
    return tuple(
        step
        for place, step in enumerate(loc)
        if step not in kinds
        or not (
            place == 0
            or (place == 1 and loc[0] == "body")
            or (isinstance(loc[place - 1], int) and place > 1 and loc[place - 2] == "triggers")
        )
    )


def _tree_problem(children: Sequence[AnyCondition], for_each: Sequence[str]) -> str | None:
    """What is wrong with the tree as a whole: its size, its depth, keys that do not line up."""
    nodes = 0
    ahead: list[tuple[AnyCondition, Sequence[str], int, str]] = [
        (child, for_each, 1, f"triggers.{place}") for place, child in enumerate(children)
    ]
    while ahead:
        child, inherited, depth, where = ahead.pop()
        nodes += 1
        if depth > NODES_DEEP_MAX:
            return f"{where} is nested {depth} levels deep; at most {NODES_DEEP_MAX} are possible"
        if inherited and child.for_each and len(child.for_each) != len(inherited):
            return (
                f"{where}.for_each has {len(child.for_each)} parts and the composite's has "
                f"{len(inherited)}; the values line up by position, so give as many"
            )
        if not isinstance(child, EventCondition):
            ahead += [
                (grandchild, child.for_each or inherited, depth + 1, f"{where}.triggers.{place}")
                for place, grandchild in enumerate(child.triggers)
            ]
    if nodes > NODES_MAX:
        return f"there are {nodes} triggers in all; at most {NODES_MAX} fit"
    return None


def compile_trigger(
    document: Mapping[str, Any], *, trigger_id: UUID, number: int, version: int
) -> Trigger:
    """The trigger that a stored document describes.

    Raises:
        pydantic.ValidationError, Invalid: the document breaks a rule of the language.
    """
    written = read_trigger(document)
    names = {name for parameters in compiled_parameters(written) for name in parameters.names}
    return Trigger(
        id=trigger_id,
        number=number,
        version=version,
        name=written.name or "",
        title=written.title or written.name or "",
        condition=written.compiled(),
        actions=tuple(_actions(written)),
        is_plain=written.actions is None,
        announces=written.announce,
        keeps_after="after" in names,
        keeps_events="events" in names,
    )


def stored_document(written: AnyTrigger) -> dict[str, Any]:
    """A trigger as it is kept and shown, without its name, and without what few triggers have."""
    document = written.model_dump(mode="json", exclude={"name"})
    for name, default in _SELDOM.items():
        if document[name] == default:
            del document[name]
    return document


_SELDOM: Final = {"actions": None, "title": None, "announce": False}


def runs_written(
    written: AnyTrigger,
) -> Iterator[tuple[Loc, AnyTrigger | RunAction]]:
    """What names a deployment and parameters, and where it stands: the trigger, or its actions."""
    if written.actions is None:
        yield (), written
        return
    for place, action in enumerate(written.actions):
        if isinstance(action, RunAction):
            yield ("actions", place), action


def compiled_parameters(written: AnyTrigger) -> list[Parameters]:
    """Of all that it runs, in order.

    Raises:
        Invalid: a template is wrong; the problems say where in the trigger.
    """
    compiled = []
    for loc, run in runs_written(written):
        try:
            compiled.append(compile_parameters(run.parameters))
        except Invalid as error:
            problems = [Problem((*loc, "parameters", *one.loc), one.msg) for one in error.problems]
            raise Invalid(error.message, problems) from None
    return compiled


def _actions(written: AnyTrigger) -> Iterator[Action]:
    for action in [written] if written.actions is None else written.actions:
        match action:
            case SetEnabledAction():
                yield SetEnabled(action.trigger, enabled=action.type == "resume")
            case NothingAction():
                yield Nothing()
            case RunAction() | EventTrigger() | CompoundTrigger() | SequenceTrigger():
                yield Run(
                    deployment=action.deployment,
                    parameters=json.dumps(action.parameters),
                    schedule_after=action.schedule_after,
                    kind=action.kind if isinstance(action, RunAction) else RUN_DEPLOYMENT,
                )
            case _:
                assert_never(action)


def _canonical_labels(labels: dict[str, str | list[str]]) -> list[tuple[str, list[str]]]:
    return sorted(
        (label, [value] if isinstance(value, str) else sorted(set(value)))
        for label, value in labels.items()
    )
