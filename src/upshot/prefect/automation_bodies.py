"""Automations and filters as Prefect's client sends them, and automations as it reads them."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from upshot.api.bodies import validated
from upshot.api.paging import Time
from upshot.api.problems import summary_of
from upshot.core.errors import Conflict, Invalid, Problem
from upshot.core.language import (
    AnyTrigger,
    Storable,
    Tags,
    Text,
    TriggerWritten,
    read_trigger,
    stored_document,
)
from upshot.core.limits import (
    ACTIONS_MAX,
    FILTER_VALUES_MAX,
    LABEL_VALUE_CHARS_MAX,
    PREFECT_OFFSET_MAX,
    PREFECT_PAGE_MAX,
)
from upshot.prefect.actions import actions_of, actions_shown, refuse_by_state, stored_actions
from upshot.prefect.conditions import condition_of, says_more, trigger_shown
from upshot.prefect.routing import Sent
from upshot.prefect.templated import parameters_shown, source_of
from upshot.storage import automations as stored
from upshot.storage.automations import StoredAutomation, Target

_ACTION_FIELDS: Final = ("actions", "deployment", "parameters", "schedule_after", "announce")
_NO_CONDITION: Final = (*_ACTION_FIELDS, "enabled", "description", "tags", "title")
_trigger_adapter: Final[TypeAdapter[AnyTrigger]] = TypeAdapter(TriggerWritten)

Actions = Annotated[list[Any], Field(max_length=ACTIONS_MAX)]


class AutomationChanged(Sent):
    """What PUT takes; the owner stays."""

    name: Text
    description: Text = ""
    enabled: bool = True
    tags: Tags = Field(default=[])
    trigger: dict[str, Any]
    actions: Actions
    actions_on_trigger: Actions = Field(default=[])
    actions_on_resolve: Actions = Field(default=[])


class AutomationMade(AutomationChanged):
    """What POST takes."""

    owner_resource: Annotated[str, Storable, Field(max_length=LABEL_VALUE_CHARS_MAX)] | None = None


class _Exact(BaseModel):
    """Where an unknown field that is ignored would mean more than was asked for."""

    model_config = ConfigDict(extra="forbid")


class AutomationPatched(_Exact):
    """What PATCH takes."""

    enabled: bool | None = None


class _AnyId(_Exact):
    any_: Annotated[list[UUID], Field(max_length=FILTER_VALUES_MAX)] | None = None


class _AnyName(_Exact):
    any_: Annotated[list[str], Field(max_length=FILTER_VALUES_MAX)] | None = None


class _Created(_Exact):
    before_: Time | None = None


class _Enabled(_Exact):
    eq_: bool | None = None


class _Tags(_Exact):
    operator: Literal["and_", "or_"] = "and_"
    all_: Annotated[list[str], Field(max_length=FILTER_VALUES_MAX)] | None = None
    any_: Annotated[list[str], Field(max_length=FILTER_VALUES_MAX)] | None = None
    is_null_: bool | None = None

    def wanted(self) -> stored.Tags:
        return stored.Tags(
            all=self.all_,
            any=self.any_,
            none=self.is_null_,
            any_of_these=self.operator == "or_",
        )


class AutomationFilter(_Exact):
    """Which automations are asked for."""

    operator: Literal["and_", "or_"] = "and_"
    id: _AnyId | None = None
    name: _AnyName | None = None
    created: _Created | None = None
    enabled: _Enabled | None = None
    tags: _Tags | None = None

    def wanted(self) -> stored.Wanted:
        return stored.Wanted(
            ids=self.id.any_ if self.id else None,
            names=self.name.any_ if self.name else None,
            created_until=self.created.before_ if self.created else None,
            enabled=self.enabled.eq_ if self.enabled else None,
            tags=self.tags.wanted() if self.tags else None,
            any_of_these=self.operator == "or_",
        )


class Counted(Sent):
    """What `/count` takes, and `/filter` beside the page that it is to answer."""

    automations: AutomationFilter | None = None

    def wanted(self) -> stored.Wanted:
        return self.automations.wanted() if self.automations else stored.EVERY


class Filtered(Counted):
    """What `/filter` takes; null is the default, as the client writes it."""

    sort: stored.Sort | None = None
    limit: Annotated[int, Field(ge=0, le=PREFECT_PAGE_MAX)] | None = None
    offset: Annotated[int, Field(ge=0, le=PREFECT_OFFSET_MAX)] = 0


def written_of(sent: AutomationChanged, targets: Sequence[Target]) -> AnyTrigger:
    """The trigger that an automation is; `targets` are the deployments that its actions name.

    Raises:
        Invalid: Upshot has nothing like it; the problems say where in the automation.
    """
    refuse_by_state(sent.actions_on_trigger, "actions_on_trigger")
    refuse_by_state(sent.actions_on_resolve, "actions_on_resolve")
    document = {
        **condition_of(sent.trigger),
        "actions": actions_of(sent.actions, targets),
        "announce": True,
        "title": sent.name or None,
        "enabled": sent.enabled,
        "description": sent.description,
        "tags": sent.tags,
    }
    try:
        return validated(_trigger_adapter, document, known=())
    except Invalid as error:
        found = [
            problem
            if problem.loc[:1] and problem.loc[0] in _NO_CONDITION
            else Problem(("trigger", *problem.loc), problem.msg)
            for problem in error.problems
        ]
        raise Invalid(summary_of(found), found) from None


def replaced(automation: StoredAutomation, name: str, written: AnyTrigger) -> AnyTrigger:
    """An automation as PUT changes it: what is sent as it was shown stays as it is stored.

    Raises:
        Conflict: the condition changes, and the stored one says what is not shown here.
    """
    before, after = automation.trigger.document, stored_document(written)
    kept: set[str] = set()
    if trigger_shown(before) == trigger_shown(after):
        kept |= (before.keys() | after.keys()) - set(_NO_CONDITION)
    elif says_more(before):
        raise Conflict(
            f"Trigger {automation.trigger.name!r} has more to its condition than Prefect's "
            "language can say (where, lateness, repeat or for_each). Change it by PUT "
            f"/v1/triggers/{automation.trigger.name}."
        )
    if _comparable_actions(before) == _comparable_actions(after):
        kept |= set(_ACTION_FIELDS)
    if name == automation.name:
        kept.add("title")
    changed = {field: value for field, value in after.items() if field not in kept}
    return read_trigger({**changed, **{field: before[field] for field in kept & before.keys()}})


def shown(automation: StoredAutomation, targets: Mapping[str, Target]) -> dict[str, Any]:
    """An automation as it is answered; `targets` are by name."""
    document = automation.trigger.document
    return {
        "id": automation.trigger.id,
        "created": automation.trigger.created_at,
        "updated": automation.trigger.updated_at,
        "name": automation.name,
        "description": document["description"],
        "enabled": document["enabled"],
        "tags": document["tags"],
        "trigger": trigger_shown(document),
        "actions": actions_shown(document, targets),
        "actions_on_trigger": [],
        "actions_on_resolve": [],
        "owner_resource": automation.owner_resource,
    }


def _comparable_actions(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What they do, whichever of several ways it is written in."""
    return [
        {**action, "parameters": source_of(parameters_shown(action.get("parameters", {})))}
        for action in stored_actions(document)
    ]
