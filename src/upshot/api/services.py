"""What the HTTP API works with, made by `main` and handed to `create_app`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Protocol, cast
from uuid import UUID

from fastapi import Depends, Request

from upshot.core.intake import NewEvent
from upshot.pipeline.ingest import Result
from upshot.settings import Settings
from upshot.storage.database import Database
from upshot.workers.offers import Offers


class Ingest(Protocol):
    """Where posted events go."""

    async def append(self, events: Sequence[NewEvent]) -> list[Result]:
        """Store the events; the answer, one result an event, comes after the commit."""

    async def evaluated(self, ids: Sequence[UUID], within: timedelta) -> bool:
        """Wait until the evaluator has passed these events. False: it had not, in that time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """`wake` tells a stage, by name, that there is work; `not_ready` says why, or None."""

    settings: Settings
    database: Database
    ingest: Ingest
    offers: Offers
    wake: Callable[[str], None]
    not_ready: Callable[[], str | None]
    now: Callable[[], datetime]


def services_of(request: Request) -> Services:
    return cast(Services, request.app.state.services)


async def _using(request: Request) -> Services:
    # A function that is not async would be run in a thread, for each request.
    return services_of(request)


Using = Annotated[Services, Depends(_using)]
