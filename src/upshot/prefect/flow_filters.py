"""The filters of Prefect's client for flows and deployments, as far as they are known here."""

from typing import Annotated, Any, Literal, Protocol
from uuid import UUID

from pydantic import BeforeValidator, Field

from upshot.core.errors import Invalid, Problem
from upshot.core.language import Storable
from upshot.core.limits import (
    FILTER_VALUES_MAX,
    FLOW_NAME_CHARS_MAX,
    PREFECT_OFFSET_MAX,
    PREFECT_PAGE_MAX,
)
from upshot.prefect.routing import Sent
from upshot.storage.flows import DeploymentSort, Sort, TagsWanted, Wanted

FlowName = Annotated[str, Storable, Field(min_length=1, max_length=FLOW_NAME_CHARS_MAX)]
"""The name of a flow or of one of its deployments."""

Texts = Annotated[list[Annotated[str, Storable]], Field(max_length=FILTER_VALUES_MAX)]
Ids = Annotated[list[UUID], Field(max_length=FILTER_VALUES_MAX)]
Operator = Literal["and_", "or_"]


def or_default(default: Any) -> BeforeValidator:
    """null means what is not sent means."""
    return BeforeValidator(lambda value: default if value is None else value)


PageLimit = Annotated[int, or_default(PREFECT_PAGE_MAX), Field(ge=0, le=PREFECT_PAGE_MAX)]
Offset = Annotated[int, or_default(0), Field(ge=0, le=PREFECT_OFFSET_MAX)]
PageNumber = Annotated[int, or_default(1), Field(ge=1, le=PREFECT_OFFSET_MAX // PREFECT_PAGE_MAX)]


class IdFilter(Sent):
    any_: Ids | None = None
    not_any_: Ids | None = None


class NameFilter(Sent):
    any_: Texts | None = None
    like_: Annotated[str, Storable, Field(max_length=FLOW_NAME_CHARS_MAX)] | None = None


class TagsFilter(Sent):
    operator: Operator = "and_"
    all_: Texts | None = None
    any_: Texts | None = None
    is_null_: bool | None = None


class Filter(Sent):
    """Of flows, or of deployments: both have an id, a name and tags."""

    operator: Operator = "and_"
    id: IdFilter | None = None
    name: NameFilter | None = None
    tags: TagsFilter | None = None

    def wanted(self) -> Wanted:
        ids, name, tags = self.id or IdFilter(), self.name or NameFilter(), self.tags
        return Wanted(
            ids=ids.any_,
            not_ids=ids.not_any_,
            names=name.any_,
            like=name.like_,
            tags=_tags_wanted(tags or TagsFilter()),
            either=self.operator == "or_",
        )


def _tags_wanted(tags: TagsFilter) -> TagsWanted:
    return TagsWanted(
        all_of=tags.all_,
        any_of=tags.any_,
        none=tags.is_null_,
        either=tags.operator == "or_",
    )


class Counted(Sent):
    """What is asked of flows, or of deployments."""

    flows: Filter | None = None
    deployments: Filter | None = None
    flow_runs: dict[str, Any] | None = None
    task_runs: dict[str, Any] | None = None
    work_pools: dict[str, Any] | None = None
    work_queues: dict[str, Any] | None = None
    work_pool_queues: dict[str, Any] | None = None

    def wanted_flows(self) -> Wanted | None:
        """None: all."""
        return None if self.flows is None else self.flows.wanted()

    def wanted_deployments(self) -> Wanted | None:
        return None if self.deployments is None else self.deployments.wanted()

    def check(self) -> None:
        """Raises Invalid where it filters by what flows and deployments cannot be found by."""
        for name in ("flow_runs", "task_runs", "work_pools", "work_queues", "work_pool_queues"):
            if _says_something(getattr(self, name)):
                message = (
                    "Upshot finds flows and deployments by id, name and tags, "
                    f"and not by {name.replace('_', ' ')}; leave this filter out."
                )
                raise Invalid(message, [Problem((name,), message)])


class Listed(Counted):
    limit: PageLimit = PREFECT_PAGE_MAX
    offset: Offset = 0


class Paged(Counted):
    limit: PageLimit = PREFECT_PAGE_MAX
    page: PageNumber = 1

    @property
    def offset(self) -> int:
        return (self.page - 1) * self.limit


class FlowsListed(Listed):
    sort: Annotated[Sort, or_default("NAME_ASC")] = "NAME_ASC"


class FlowsPaged(Paged):
    sort: Annotated[Sort, or_default("NAME_ASC")] = "NAME_ASC"


class DeploymentsListed(Listed):
    sort: Annotated[DeploymentSort, or_default("NAME_ASC")] = "NAME_ASC"


class DeploymentsPaged(Paged):
    sort: Annotated[DeploymentSort, or_default("NAME_ASC")] = "NAME_ASC"


class Page(Protocol):
    """Which page of a list is asked for."""

    limit: int
    page: int


def page_of(results: list[dict[str, Any]], *, count: int, asked: Page) -> dict[str, Any]:
    """A page as `paginate` answers it."""
    return {
        "results": results,
        "count": count,
        "limit": asked.limit,
        "pages": -(-count // asked.limit) if asked.limit else 0,
        "page": asked.page,
    }


def _says_something(asked: dict[str, Any] | None) -> bool:
    """Whether anything but empty filters is in there."""
    inner: list[Any] = [asked]
    while inner:
        value = inner.pop()
        if isinstance(value, dict):
            inner += [one for name, one in value.items() if name != "operator"]
        elif value is not None:
            return True
    return False
