"""The logs of flow runs."""

from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Body, Request, Response
from pydantic import AwareDatetime, Field

from upshot.api.answers import json_answer
from upshot.api.bodies import content_type_of, read_body
from upshot.api.services import Using
from upshot.core.language import Storable
from upshot.core.limits import BODY_BYTES_MAX, PREFECT_PAGE_MAX
from upshot.metrics import FLOW_LOG_LINES
from upshot.prefect.flow_filters import Ids, Offset, Operator, PageLimit, or_default
from upshot.prefect.log_lines import lines_of
from upshot.prefect.routing import Sent, new_router
from upshot.prefect.text_search import Terms, terms_of
from upshot.storage import flow_run_logs
from upshot.storage.flow_run_logs import Line, LinesWanted

router = new_router()

Level = Annotated[int, Field(ge=-(2**31), le=2**31 - 1)]


class Levels(Sent):
    ge_: Level | None = None
    le_: Level | None = None


class Times(Sent):
    after_: AwareDatetime | None = None
    before_: AwareDatetime | None = None


class OneOf(Sent):
    any_: Ids | None = None


class TextSearch(Sent):
    query: Annotated[str, Storable, Field(max_length=200)] = ""


class LogFilter(Sent):
    operator: Operator = "and_"
    level: Levels | None = None
    timestamp: Times | None = None
    flow_run_id: OneOf | None = None
    task_run_id: OneOf | None = None
    text: TextSearch | None = None

    def wanted(self) -> LinesWanted:
        level, times = self.level or Levels(), self.timestamp or Times()
        terms = terms_of(self.text.query) if self.text else Terms()
        return LinesWanted(
            run_ids=None if self.flow_run_id is None else self.flow_run_id.any_,
            task_run_ids=None if self.task_run_id is None else self.task_run_id.any_,
            level_min=level.ge_,
            level_max=level.le_,
            since=times.after_,
            until=times.before_,
            texts=terms.either,
            texts_needed=terms.all_of,
            texts_unwanted=terms.none_of,
            either=self.operator == "or_",
        )


class LogsListed(Sent):
    logs: LogFilter | None = None
    sort: Annotated[Literal["TIMESTAMP_ASC", "TIMESTAMP_DESC"], or_default("TIMESTAMP_ASC")] = (
        "TIMESTAMP_ASC"
    )
    limit: PageLimit = PREFECT_PAGE_MAX
    offset: Offset = 0


@router.post("/logs")
async def create_logs(services: Using, request: Request) -> Response:
    """Store lines. Those of runs that are not known are counted, and are nobody's mistake: a run
    may have been deleted meanwhile.
    """
    content_type_of(request)
    lines, dropped = lines_of(await read_body(request, limit=BODY_BYTES_MAX))
    stored = 0
    if lines:
        async with services.database.begin() as conn:
            stored = await flow_run_logs.append(conn, lines)
    FLOW_LOG_LINES.labels("stored").inc(stored)
    FLOW_LOG_LINES.labels("dropped").inc(dropped + len(lines) - stored)
    return json_answer(None, 201)


@router.post("/logs/filter")
async def list_logs(
    services: Using, asked: Annotated[LogsListed | None, Body()] = None
) -> Response:
    asked = asked or LogsListed()
    async with services.database.begin() as conn:
        found = await flow_run_logs.page(
            conn,
            (asked.logs or LogFilter()).wanted(),
            newest_first=asked.sort == "TIMESTAMP_DESC",
            limit=asked.limit,
            offset=asked.offset,
        )
    return json_answer([shown(line) for line in found])


def shown(line: Line) -> dict[str, Any]:
    """A line as the client reads it."""
    return {
        "id": _id_of(line),
        "created": line.at,
        "updated": line.at,
        "name": line.name,
        "level": line.level,
        "message": line.message,
        "timestamp": line.at,
        "flow_run_id": line.run_id,
        "task_run_id": line.task_run_id,
    }


def _id_of(line: Line) -> UUID:
    """Lines are numbered here; the client knows them by UUIDs."""
    return UUID(int=(line.run_id.int >> 64 << 64) | line.number)
