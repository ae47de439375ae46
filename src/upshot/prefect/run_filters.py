"""The filters of Prefect's client for runs of flows, and what they mean for one; pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import Field

from upshot.api.paging import Time
from upshot.core.errors import Invalid, Problem
from upshot.core.limits import FILTER_VALUES_MAX, PREFECT_PAGE_MAX
from upshot.prefect.flow_filters import (
    Filter,
    IdFilter,
    NameFilter,
    Offset,
    Operator,
    PageLimit,
    PageNumber,
    TagsFilter,
    Texts,
    or_default,
)
from upshot.prefect.routing import Sent
from upshot.prefect.run_view import Known
from upshot.prefect.states import FINAL, StateType


class NullableIds(IdFilter):
    is_null_: bool | None = None


class NullableTexts(Sent):
    any_: Texts | None = None
    not_any_: Texts | None = None
    is_null_: bool | None = None


class StateTypes(Sent):
    any_: Annotated[list[StateType], Field(max_length=FILTER_VALUES_MAX)] | None = None
    not_any_: Annotated[list[StateType], Field(max_length=FILTER_VALUES_MAX)] | None = None


class StateFilter(Sent):
    operator: Operator = "and_"
    type: StateTypes | None = None
    name: NullableTexts | None = None


class TimeFilter(Sent):
    before_: Time | None = None
    after_: Time | None = None
    is_null_: bool | None = None


class CreatedByFilter(Sent):
    id_: Annotated[list[UUID], Field(max_length=FILTER_VALUES_MAX)] | None = None
    type_: Texts | None = None
    is_null_: bool | None = None


class FlowRunFilter(Sent):
    operator: Operator = "and_"
    id: IdFilter | None = None
    name: NameFilter | None = None
    tags: TagsFilter | None = None
    deployment_id: NullableIds | None = None
    work_queue_name: NullableTexts | None = None
    state: StateFilter | None = None
    flow_version: NullableTexts | None = None
    start_time: TimeFilter | None = None
    end_time: TimeFilter | None = None
    expected_start_time: TimeFilter | None = None
    next_scheduled_start_time: TimeFilter | None = None
    parent_flow_run_id: IdFilter | None = None
    parent_task_run_id: NullableIds | None = None
    idempotency_key: NullableTexts | None = None
    created_by: CreatedByFilter | None = None


class RunsCounted(Sent):
    """What is asked of runs, their flows and their deployments."""

    flow_runs: FlowRunFilter | None = None
    flows: Filter | None = None
    deployments: Filter | None = None
    task_runs: dict[str, Any] | None = None
    work_pools: dict[str, Any] | None = None
    work_pool_queues: dict[str, Any] | None = None

    def check(self) -> None:
        """Raises Invalid where it filters by what runs cannot be found by."""
        for name in ("task_runs", "work_pools", "work_pool_queues"):
            if _says_something(getattr(self, name)):
                message = (
                    "Upshot finds flow runs by what they, their flows and their deployments are, "
                    f"and not by {name.replace('_', ' ')}; leave this filter out."
                )
                raise Invalid(message, [Problem((name,), message)])


Sort = Literal[
    "ID_DESC",
    "START_TIME_ASC",
    "START_TIME_DESC",
    "EXPECTED_START_TIME_ASC",
    "EXPECTED_START_TIME_DESC",
    "NAME_ASC",
    "NAME_DESC",
    "NEXT_SCHEDULED_START_TIME_ASC",
    "END_TIME_DESC",
]


class RunsListed(RunsCounted):
    sort: Annotated[Sort, or_default("ID_DESC")] = "ID_DESC"
    limit: PageLimit = PREFECT_PAGE_MAX
    offset: Offset = 0


class RunsPaged(RunsCounted):
    sort: Annotated[Sort, or_default("ID_DESC")] = "ID_DESC"
    limit: PageLimit = PREFECT_PAGE_MAX
    page: PageNumber = 1

    @property
    def offset(self) -> int:
        return (self.page - 1) * self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """A run as filters see it. `parent_is_wanted`: it is a subflow of a run that is asked for."""

    known: Known
    parent_is_wanted: bool = False


def is_wanted(looked: Looked, wanted: FlowRunFilter) -> bool:
    """Whether the run is what the filter asks for; one that asks nothing wants all."""
    answers = [
        *_of_itself(looked.known, wanted),
        *_of_its_times(looked.known, wanted),
        *_of_its_kin(looked, wanted),
    ]
    if not answers:
        return True
    return any(answers) if wanted.operator == "or_" else all(answers)


def only_open(wanted: FlowRunFilter) -> bool:
    """Whether it asks for runs that have not ended alone."""
    types = wanted.state and wanted.state.type and wanted.state.type.any_
    return (
        wanted.operator == "and_"
        and wanted.state is not None
        and wanted.state.operator == "and_"
        and types is not None
        and not FINAL & set(types)
    )


def sorted_by(found: Sequence[Known], sort: Sort) -> list[Known]:
    """In this order; what has no such time comes last, and equals those made last first."""
    newest = sorted(found, key=lambda known: (known.run.created_at, known.run.id), reverse=True)
    if sort == "ID_DESC":
        return newest
    if sort in ("NAME_ASC", "NAME_DESC"):
        return sorted(newest, key=lambda known: known.name, reverse=sort == "NAME_DESC")
    at = _TIMES[sort.rpartition("_")[0]]
    timed = [known for known in newest if at(known) is not None]
    timed.sort(key=lambda known: at(known) or _NEVER, reverse=sort.endswith("_DESC"))
    return [*timed, *(known for known in newest if at(known) is None)]


def _started(known: Known) -> datetime | None:
    return known.progress.started_at or known.run.started_at


def _ended(known: Known) -> datetime | None:
    return known.run.finished_at if known.state.is_final else None


def _expected(known: Known) -> datetime | None:
    return known.details.expected_start_time or known.run.scheduled_at


def _next(known: Known) -> datetime | None:
    return known.state.scheduled_time if known.state.type == StateType.SCHEDULED else None


_NEVER: Final = datetime.max
_TIMES: Final = {
    "START_TIME": _started,
    "END_TIME": _ended,
    "EXPECTED_START_TIME": _expected,
    "NEXT_SCHEDULED_START_TIME": _next,
}


def _of_itself(known: Known, wanted: FlowRunFilter) -> list[bool]:
    answers = []
    if wanted.id is not None:
        answers.append(_among(known.run.id, wanted.id.any_, wanted.id.not_any_))
    if wanted.name is not None:
        name = wanted.name
        answers.append(_among(known.name, name.any_) and _like(known.name, name.like_))
    if wanted.tags is not None:
        answers.append(_tagged(set(known.details.tags), wanted.tags))
    if wanted.state is not None:
        answers.append(_in_state(known, wanted.state))
    if wanted.flow_version is not None:
        answers.append(_texts(known.details.flow_version, wanted.flow_version))
    if wanted.work_queue_name is not None:
        answers.append(_texts(None, wanted.work_queue_name))
    if wanted.idempotency_key is not None:
        answers.append(_texts(known.idempotency_key, wanted.idempotency_key))
    return answers


def _of_its_times(known: Known, wanted: FlowRunFilter) -> list[bool]:
    asked = (
        (wanted.start_time, _started(known)),
        (wanted.end_time, _ended(known)),
        (wanted.expected_start_time, _expected(known)),
        (wanted.next_scheduled_start_time, _next(known)),
    )
    return [_at(at, times) for times, at in asked if times is not None]


def _of_its_kin(looked: Looked, wanted: FlowRunFilter) -> list[bool]:
    known, answers = looked.known, []
    if wanted.deployment_id is not None:
        answers.append(_ids(known.run.deployment_id, wanted.deployment_id))
    if wanted.parent_flow_run_id is not None:
        answers.append(wanted.parent_flow_run_id.any_ is None or looked.parent_is_wanted)
    if wanted.parent_task_run_id is not None:
        answers.append(_ids(known.parent_task_run_id, wanted.parent_task_run_id))
    if wanted.created_by is not None:
        answers.append(_made_by(known.run.trigger_id, wanted.created_by))
    return answers


def _among(value: Any, any_: Any, not_any_: Any = None) -> bool:
    return (any_ is None or value in any_) and (not_any_ is None or value not in not_any_)


def _like(text: str, like: str | None) -> bool:
    return like is None or like.lower() in text.lower()


def _is_null(value: Any, is_null: bool | None) -> bool:
    return is_null is None or (value is None) == is_null


def _ids(value: UUID | None, wanted: NullableIds) -> bool:
    return _among(value, wanted.any_, wanted.not_any_) and _is_null(value, wanted.is_null_)


def _texts(value: str | None, wanted: NullableTexts) -> bool:
    return _among(value, wanted.any_, wanted.not_any_) and _is_null(value, wanted.is_null_)


def _tagged(tags: set[str], wanted: TagsFilter) -> bool:
    answers = []
    if wanted.all_ is not None:
        answers.append(tags >= set(wanted.all_))
    if wanted.any_ is not None:
        answers.append(bool(tags & set(wanted.any_)))
    if wanted.is_null_ is not None:
        answers.append((not tags) == wanted.is_null_)
    if not answers:
        return True
    return any(answers) if wanted.operator == "or_" else all(answers)


def _in_state(known: Known, wanted: StateFilter) -> bool:
    answers = []
    if wanted.type is not None:
        answers.append(_among(known.state.type, wanted.type.any_, wanted.type.not_any_))
    if wanted.name is not None:
        answers.append(_texts(known.state.name, wanted.name))
    if not answers:
        return True
    return any(answers) if wanted.operator == "or_" else all(answers)


def _at(at: datetime | None, wanted: TimeFilter) -> bool:
    if not _is_null(at, wanted.is_null_):
        return False
    if wanted.before_ is None and wanted.after_ is None:
        return True
    return (
        at is not None
        and (wanted.before_ is None or at <= wanted.before_)
        and (wanted.after_ is None or at >= wanted.after_)
    )


def _made_by(trigger_id: UUID | None, wanted: CreatedByFilter) -> bool:
    return (
        _among(trigger_id, wanted.id_)
        and (wanted.type_ is None or (trigger_id is not None and "AUTOMATION" in wanted.type_))
        and _is_null(trigger_id, wanted.is_null_)
    )


def _says_something(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_says_something(one) for name, one in value.items() if name != "operator")
    return value is not None
