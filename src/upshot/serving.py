"""What a process serves by HTTP, and the uvicorn that serves it.

Imported by the process that needs it: it is half of all that there is to import.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID

import uvicorn
from fastapi import FastAPI

from upshot.api.app import create_app, create_health_app
from upshot.api.services import Services
from upshot.core.intake import NewEvent
from upshot.core.limits import SOCKET_MESSAGE_BYTES_MAX
from upshot.pipeline.ingest import Ingest, Result
from upshot.prefect.app import mount
from upshot.prefect.protocol import SocketProtocol
from upshot.settings import Settings
from upshot.workers import loops
from upshot.workers.offers import Offers

GRACE_SECONDS = 8
KEEP_ALIVE_SECONDS = 65  # longer than clients and proxies keep idle connections


class HttpServer(uvicorn.Server):
    """Leaves signals to whoever runs it: the stages have to stop as well, in order."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def http_server(app: FastAPI) -> HttpServer:
    return HttpServer(
        uvicorn.Config(
            app,
            loop="none",
            http="httptools",
            ws=SocketProtocol,
            ws_max_size=SOCKET_MESSAGE_BYTES_MAX,
            # A few compressed bytes could become any number.
            ws_per_message_deflate=False,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
        )
    )


def app_of(
    settings: Settings,
    *,
    has_api: bool,
    line: loops.Line,
    ingest: Ingest,
    offers: Offers,
    not_ready: Callable[[], str | None],
) -> FastAPI:
    """The HTTP API, or without that stage what tells how this process is."""
    services = Services(
        settings=settings,
        database=line.database,
        ingest=_Posting(ingest, line),
        offers=offers,
        wake=partial(loops.wake, line.signals),
        not_ready=not_ready,
        now=lambda: datetime.now(UTC),
    )
    if not has_api:
        return create_health_app(services)
    app = create_app(services)
    mount(app, line)
    return app


@dataclass(frozen=True, slots=True)
class _Posting:
    """What the API needs of the line: to append events, and to wait until they are evaluated."""

    stage: Ingest
    line: loops.Line

    async def append(self, events: Sequence[NewEvent]) -> list[Result]:
        return await self.stage.append(events)

    async def evaluated(self, ids: Sequence[UUID], within: timedelta) -> bool:
        return await loops.evaluated(self.line, ids, within=within)
