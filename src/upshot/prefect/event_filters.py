"""What a client wants to see of events: read from Prefect's filters, and decided for each event."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final, TypeVar
from uuid import UUID

from pydantic import AfterValidator, Field

from upshot.api.paging import Time
from upshot.core.events import (
    OWN_EVENT_PREFIX,
    RESOURCE_ID,
    RESOURCE_ROLE,
    Event,
    Labels,
    long_form,
)
from upshot.core.limits import (
    EVENT_FILTER_LISTS_MAX,
    EVENT_FILTER_TEXT_CHARS_MAX,
    EVENT_FILTER_VALUE_CHARS_MAX,
    EVENT_FILTER_VALUES_MAX,
)
from upshot.core.patterns import Pattern, parse_pattern
from upshot.prefect.routing import Sent


def _storable(text: str) -> str:
    if not text.isascii() and any("\ud800" <= one <= "\udfff" for one in text):
        raise ValueError("must not hold a lone surrogate")
    if "\0" in text:
        raise ValueError("must not hold the character U+0000")
    return text


Value = Annotated[str, Field(max_length=EVENT_FILTER_VALUE_CHARS_MAX), AfterValidator(_storable)]
Values = Annotated[list[Value], Field(max_length=EVENT_FILTER_VALUES_MAX)]
LabelsSent = Annotated[dict[Value, Value | Values], Field(max_length=EVENT_FILTER_VALUES_MAX)]


class Order(StrEnum):
    ASC = "ASC"
    DESC = "DESC"


class OccurredSent(Sent):
    since: Time | None = None
    until: Time | None = None


class NameSent(Sent):
    prefix: Values | None = None
    exclude_prefix: Values | None = None
    name: Values | None = None
    exclude_name: Values | None = None


class AnyResourceSent(Sent):
    id: Values | None = None
    id_prefix: Values | None = None
    labels: LabelsSent | None = None


class ResourceSent(AnyResourceSent):
    distinct: bool = False


class RelatedSent(Sent):
    id: Values | None = None
    role: Values | None = None
    resources_in_roles: (
        Annotated[list[tuple[Value, Value]], Field(max_length=EVENT_FILTER_VALUES_MAX)] | None
    ) = None
    labels: LabelsSent | None = None


class IdSent(Sent):
    id: Annotated[list[UUID], Field(max_length=EVENT_FILTER_VALUES_MAX)] | None = None


class TextSent(Sent):
    query: Annotated[str, Field(max_length=EVENT_FILTER_TEXT_CHARS_MAX), AfterValidator(_storable)]


_Several = Field(max_length=EVENT_FILTER_LISTS_MAX)


class FilterSent(Sent):
    """Prefect's `EventFilter`."""

    occurred: OccurredSent | None = None
    event: NameSent | None = None
    resource: ResourceSent | None = None
    related: RelatedSent | Annotated[list[RelatedSent], _Several] | None = None
    any_resource: AnyResourceSent | Annotated[list[AnyResourceSent], _Several] | None = None
    id: IdSent | None = None
    text: TextSent | None = None
    order: Order = Order.DESC


@dataclass(frozen=True, slots=True)
class LabelWanted:
    """A label whose value has to match one of the patterns, or not to, where `excludes` is true.

    As Prefect has it, one that is excluded is but another way to match. A resource without the
    label does not match.
    """

    label: str
    patterns: tuple[tuple[Pattern, bool], ...]

    def holds(self, labels: Labels) -> bool:
        value = labels.get(self.label)
        return value is not None and any(
            pattern.matches(value) is not excludes for pattern, excludes in self.patterns
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceWanted:
    """What one resource has to be, all of it; what is empty asks nothing."""

    ids: frozenset[str] = frozenset()
    prefixes: tuple[str, ...] = ()
    roles: frozenset[str] = frozenset()
    in_roles: frozenset[tuple[str, str]] = frozenset()
    labels: tuple[LabelWanted, ...] = ()

    @property
    def asks_nothing(self) -> bool:
        return self == _ANY_RESOURCE

    def holds(self, labels: Labels) -> bool:
        resource_id, role = labels.get(RESOURCE_ID, ""), labels.get(RESOURCE_ROLE, "")
        return (
            (not self.ids or resource_id in self.ids)
            and (not self.prefixes or resource_id.startswith(self.prefixes))
            and (not self.roles or role in self.roles)
            and (not self.in_roles or (resource_id, role) in self.in_roles)
            and all(label.holds(labels) for label in self.labels)
        )


_ANY_RESOURCE: Final = ResourceWanted()


@dataclass(frozen=True, slots=True)
class TextWanted:
    """Words in small letters: one of `some`, each of `every`, and none of `none`."""

    some: tuple[str, ...]
    every: tuple[str, ...]
    none: tuple[str, ...]

    def holds(self, event: Event) -> bool:
        text = _text_of(event)
        return (
            (not self.some or any(word in text for word in self.some))
            and all(word in text for word in self.every)
            and not any(word in text for word in self.none)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The events that a client wants to see; what is empty asks nothing.

    Upshot's own events (`upshot.*`) have to be asked for by a name or a prefix of theirs.
    """

    since: datetime | None = None
    until: datetime | None = None
    """Both by when an event occurred, and both included."""
    names: frozenset[str] = frozenset()
    prefixes: tuple[str, ...] = ()
    not_names: frozenset[str] = frozenset()
    not_prefixes: tuple[str, ...] = ()
    resource: ResourceWanted = _ANY_RESOURCE
    related: tuple[ResourceWanted, ...] = ()
    """For each of these, one of the related resources."""
    any_resource: tuple[ResourceWanted, ...] = ()
    """For each of these, the resource or one of the related ones."""
    ids: frozenset[UUID] = frozenset()
    text: TextWanted | None = None
    distinct: bool = False
    """Only one event of each resource."""
    ascending: bool = False

    @property
    def wants_own(self) -> bool:
        asked = (*self.names, *self.prefixes)
        return any(name.startswith(OWN_EVENT_PREFIX) for name in asked)

    def includes_name(self, name: str) -> bool:
        return (
            (self.wants_own or not name.startswith(OWN_EVENT_PREFIX))
            and (not self.names or name in self.names)
            and (not self.prefixes or name.startswith(self.prefixes))
            and name not in self.not_names
            and not (self.not_prefixes and name.startswith(self.not_prefixes))
        )

    def includes(self, event: Event) -> bool:
        return (
            (self.since is None or self.since <= event.occurred_at)
            and (self.until is None or event.occurred_at <= self.until)
            and (not self.ids or event.id in self.ids)
            and self.includes_name(event.name)
            and self.resource.holds(event.resource)
            and all(any(map(one.holds, event.related)) for one in self.related)
            and all(
                one.holds(event.resource) or any(map(one.holds, event.related))
                for one in self.any_resource
            )
            and (self.text is None or self.text.holds(event))
        )


def wanted_of(sent: FilterSent | None) -> Wanted:
    """What a filter says. A list that is empty says nothing."""
    if sent is None:
        return Wanted()
    occurred, name = sent.occurred or OccurredSent(), sent.event or NameSent()
    resource = sent.resource or ResourceSent()
    return Wanted(
        since=occurred.since,
        until=occurred.until,
        names=frozenset(name.name or ()),
        prefixes=tuple(name.prefix or ()),
        not_names=frozenset(name.exclude_name or ()),
        not_prefixes=tuple(name.exclude_prefix or ()),
        resource=_resource_of(resource),
        related=_asked(_related_of(one) for one in _listed(sent.related)),
        any_resource=_asked(_resource_of(one) for one in _listed(sent.any_resource)),
        ids=frozenset((sent.id and sent.id.id) or ()),
        text=_text_wanted(sent.text.query) if sent.text else None,
        distinct=resource.distinct,
        ascending=sent.order is Order.ASC,
    )


_Item = TypeVar("_Item", bound=Sent)


def _listed(sent: Sequence[_Item] | _Item | None) -> Sequence[_Item]:
    if sent is None:
        return ()
    return sent if isinstance(sent, Sequence) else (sent,)


def _asked(found: Iterable[ResourceWanted]) -> tuple[ResourceWanted, ...]:
    return tuple(one for one in found if not one.asks_nothing)


def _resource_of(sent: AnyResourceSent) -> ResourceWanted:
    return ResourceWanted(
        ids=frozenset(sent.id or ()),
        prefixes=tuple(sent.id_prefix or ()),
        labels=_labels_of(sent.labels),
    )


def _related_of(sent: RelatedSent) -> ResourceWanted:
    return ResourceWanted(
        ids=frozenset(sent.id or ()),
        roles=frozenset(sent.role or ()),
        in_roles=frozenset(sent.resources_in_roles or ()),
        labels=_labels_of(sent.labels),
    )


def _labels_of(sent: Mapping[str, str | list[str]] | None) -> tuple[LabelWanted, ...]:
    return tuple(
        LabelWanted(
            long_form(label),
            tuple(
                (parse_pattern(value.removeprefix("!")), value.startswith("!"))
                for value in ([values] if isinstance(values, str) else values)
            ),
        )
        for label, values in (sent or {}).items()
    )


def _text_of(event: Event) -> str:
    """What text is looked for in: the name, the values of labels, the payload; in small letters."""
    values = [value for labels in (event.resource, *event.related) for value in labels.values()]
    payload = event.payload
    if "\\" in payload:
        payload = json.dumps(json.loads(payload), ensure_ascii=False)
    return " ".join([event.name, *values, payload]).lower()


def _text_wanted(query: str) -> TextWanted | None:
    """`word "some words" +needed -unwanted !unwanted`; a backslash keeps a quotation mark."""
    found: dict[str, list[str]] = {"": [], "+": [], "-": []}
    at = 0
    while at < len(query):
        sign = ""
        if query[at] in "+-!":
            sign = "+" if query[at] == "+" else "-"
            at += 1
        if at < len(query) and query[at] == '"':
            word, at = _quoted(query, at + 1)
        else:
            start = at
            while at < len(query) and not query[at].isspace() and query[at] != '"':
                at += 1
            word = query[start:at]
            if at == start:
                at += 1
        if word.strip():
            found[sign].append(word.lower())
    if not any(found.values()):
        return None
    return TextWanted(tuple(found[""]), tuple(found["+"]), tuple(found["-"]))


def _quoted(query: str, at: int) -> tuple[str, int]:
    """What stands up to the next quotation mark, and where to go on behind it."""
    word = []
    while at < len(query) and query[at] != '"':
        if query[at] == "\\" and query[at + 1 : at + 2] in ('"', "\\"):
            at += 1
        word.append(query[at])
        at += 1
    return "".join(word), at + 1
