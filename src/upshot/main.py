"""Puts the line together: the stages of a process, and the two processes of a whole server."""

import asyncio
import gc
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from dataclasses import replace
from functools import partial

import structlog
import uvloop

from upshot import __version__, supervisor
from upshot.core.errors import UpshotError
from upshot.core.networks import NetworkPolicy
from upshot.pipeline.call import Caller
from upshot.pipeline.deliver import Deliverer
from upshot.pipeline.ingest import Ingest
from upshot.pipeline.maintain import Retention
from upshot.pipeline.render import Renderers
from upshot.prefect import lost_runs
from upshot.settings import LOOPBACK_HOSTS, STAGES, Settings, Stage
from upshot.storage import api_keys, embedded
from upshot.storage import log as event_log
from upshot.storage.database import Database, is_away
from upshot.supervisor import Ties
from upshot.workers import loops
from upshot.workers.offers import Offers
from upshot.workers.signals import Signals

INGEST_WRITERS = 2
BACKLOG = 2048
GC_THRESHOLDS = (100_000, 50, 100)
WATCH_SECONDS = 1.0

API: tuple[Stage, ...] = ("api",)
REST: tuple[Stage, ...] = ("evaluate", "deliver", "maintain")
_READY, _IS_READY = "ready", "is ready?"

log = structlog.get_logger()


class Refusal(UpshotError):
    """The server will not start like this."""


class Server:
    """The stages of one process, their database, and the order they start and stop in.

    `ties`: those to the other process of the same server, if there is one. `bound`: where it
    listens already.
    """

    def __init__(
        self,
        settings: Settings,
        stages: Collection[Stage] = STAGES,
        *,
        ties: Ties | None = None,
        bound: socket.socket | None = None,
    ) -> None:
        self.settings = settings
        self._ties = ties
        self._bound = bound
        self._is_peer_ready = ties is None or "api" not in stages
        self.stages = frozenset(stages)
        self.signals = Signals()
        self.stopping = asyncio.Event()
        self.database = Database(self._url)
        self.ingest = Ingest(on_stored=lambda: loops.wake(self.signals, loops.EVALUATE))
        self._embedded: embedded.Embedded | None = None
        self._not_ready: str | None = "starting"
        self._line = loops.Line(self.database, self.signals, self.stopping)
        self._renderers = Renderers()
        self._offers = Offers(self._line, self._renderers)
        # Writers outlive the HTTP server, so that what it has taken in is still stored.
        self._http_closed = asyncio.Event()
        self._ingest_line = replace(self._line, stopping=self._http_closed)

    @property
    def is_supervised(self) -> bool:
        """Whether another process hears of signals, and tells this one."""
        return self._ties is not None

    def not_ready(self) -> str | None:
        """Why requests cannot be served now; None when they can."""
        if not self._is_peer_ready:
            return self._not_ready or "the evaluator is starting"
        if self._not_ready is None and "api" in self.stages and not self.ingest.is_open:
            return "the database is away"
        return self._not_ready

    async def run(self) -> None:
        """Serve until `stopping` is set.

        Raises:
            UpshotError: it cannot or will not start like this.
        """
        if self._ties is not None:
            self.signals.pair(self._ties.peer)
            asyncio.get_running_loop().add_reader(self._ties.alive, self._die)
        # HTTP first: while it is imported, the other process starts Postgres and migrates it.
        http = asyncio.create_task(self._serve_http())
        http.add_done_callback(lambda _: self.stopping.set())
        http.add_done_callback(lambda _: self._http_closed.set())
        preparing = asyncio.create_task(self._prepare())
        try:
            await asyncio.wait({preparing, http}, return_when=asyncio.FIRST_COMPLETED)
            if preparing.done():
                preparing.result()
                await self._run_stages()
        finally:
            self.stopping.set()
            # Not cancelled: a Postgres that is being started must be known, to be stopped again.
            await asyncio.wait({preparing})
            await http
            await self.database.close()
            if self._embedded is not None:
                await asyncio.to_thread(self._embedded.close)

    def _die(self) -> None:
        """Whoever kills the supervisor kills the server."""
        if self._bound is not None:
            # Before connections are closed, so that nobody who is cut off comes to us again.
            with suppress(OSError):
                self._bound.shutdown(socket.SHUT_RDWR)
        os._exit(supervisor.CRASHED)

    async def _run_stages(self) -> None:
        async with (
            Caller(networks=NetworkPolicy.parse(self.settings.runner_networks)) as caller,
            self._renderers as renderers,
            asyncio.TaskGroup() as tasks,
        ):
            line, ingest_line = self._line, self._ingest_line

            def keep(name: str, work: Callable[[], Awaitable[None]]) -> None:
                tasks.create_task(loops.keep(name, line, work))

            keep("signals", lambda: loops.exchange_signals(line))
            if self._ties is not None:
                keep("peer", self._know_peer)
            if self._embedded is not None:
                keep("embedded", partial(self._watch, self._embedded))
            # Every stage appends to the log: what was posted, and what became of runs.
            keep("partitions", lambda: loops.keep_partitions_ahead(line))
            if "api" in self.stages:
                for number in range(INGEST_WRITERS):
                    writing = partial(loops.ingest, ingest_line, self.ingest)
                    tasks.create_task(loops.keep(f"ingest-{number}", ingest_line, writing))
                keep("offers", self._offers.watch)
            if "evaluate" in self.stages:
                retention = self.settings.key_retention
                keep("evaluate", lambda: loops.evaluate(line, key_retention=retention))
            if "deliver" in self.stages:
                deliverer = Deliverer(
                    caller=caller,
                    renderers=renderers,
                    on_ended=lambda: self.signals.wake_here(loops.DELIVER),
                    on_told=lambda: self.signals.wake_soon(loops.EVALUATE),
                )
                keep("deliver", lambda: loops.deliver(line, deliverer))
            if "maintain" in self.stages:
                retained = Retention(
                    events=self.settings.event_retention, runs=self.settings.run_retention
                )
                keep("rescue", lambda: loops.rescue(line))
                keep("tidy", lambda: loops.tidy(line, retained))
                keep("lost-flow-runs", self._watch_flow_runs)
            log.info("ready", stages=sorted(self.stages), version=__version__)
            self._not_ready = None

    async def _know_peer(self) -> None:
        """The API is ready once the other process is. Either may be started anew."""
        asked, told = (_READY, _IS_READY) if "api" in self.stages else (_IS_READY, _READY)
        with self.signals.listening(asked) as hint:
            self.signals.wake_peer(told)
            while not self.stopping.is_set():
                await loops.wait_for_hint(hint, WATCH_SECONDS)
                if hint.is_set():
                    self._is_peer_ready = True
                    if "api" not in self.stages:
                        self.signals.wake_peer(told)
                hint.clear()

    async def _prepare(self) -> None:
        """Wait for the database, bring up its schema where it is our own, check the keys."""
        pause = 0.2
        while not self.stopping.is_set():
            try:
                await self._open_database()
                return
            except _Unmigrated as error:
                self._not_ready = error.message
                log.warning("waiting_for_migration", hint=error.message)
            except Exception as error:
                if not is_away(error):
                    raise
                self._not_ready = f"waiting for Postgres: {error}"
                log.warning("waiting_for_postgres", error=str(error))
            await loops.pause_or_stop(self.stopping, pause)
            pause = min(pause * 2, 2.0)

    async def _open_database(self) -> None:
        if self.settings.database_url is None:
            if self._embedded is None:
                await asyncio.to_thread(self._start_embedded)
            await self.database.migrate()
        elif not await self.database.is_migrated():
            raise _Unmigrated("The database has not this version's schema; run 'upshot migrate'.")
        async with loops.connection(self._line) as conn:
            await event_log.load_cursor(conn, event_log.EVALUATE)
        await self._check_keys()

    def _start_embedded(self) -> None:
        self._embedded = embedded.start(self.settings.data_dir)

    async def _check_keys(self) -> None:
        settings = self.settings
        if self._ties is not None and "api" not in self.stages:
            return
        if settings.host in LOOPBACK_HOSTS or settings.insecure or settings.api_key is not None:
            return
        async with self.database.begin() as conn:
            if not await api_keys.any_active(conn):
                raise Refusal(
                    f"Upshot would listen on {settings.host} without any API key, open to whoever "
                    "reaches it. Set UPSHOT_API_KEY, or make a key with 'upshot key create', or "
                    "say --insecure if that is what you want."
                )

    def _url(self) -> str:
        if self.settings.database_url is not None:
            return self.settings.database_url.get_secret_value()
        if self._embedded is None:
            raise ConnectionError("the embedded Postgres is not started yet")
        return self._embedded.url

    async def _watch(self, running: embedded.Embedded) -> None:
        """Start the embedded Postgres again if it has died."""
        while not self.stopping.is_set():
            if await asyncio.to_thread(running.ensure_running):
                log.warning("embedded_postgres_restarted")
            await loops.pause_or_stop(self.stopping, WATCH_SECONDS)

    async def _watch_flow_runs(self) -> None:
        await lost_runs.watch(
            self.database,
            wake=partial(loops.wake, self.signals),
            pause=partial(loops.pause_or_stop, self.stopping),
            stopping=self.stopping,
        )

    async def _serve_http(self) -> None:
        # Without the API there is nothing to listen for but health and metrics, on a port that
        # somebody has to name: several such processes may be on one machine.
        is_named = self._ties is None and "port" in self.settings.model_fields_set
        if "api" not in self.stages and not is_named:
            await self.stopping.wait()
            return
        bound = self._bound or _bind(self.settings.host, self.settings.port)
        # A third of all there is to import, and one of the two processes does without.
        from upshot.serving import app_of, http_server

        app = app_of(
            self.settings,
            has_api="api" in self.stages,
            line=self._line,
            ingest=self.ingest,
            offers=self._offers,
            not_ready=self.not_ready,
        )
        server = http_server(app)
        host, port = bound.getsockname()[:2]
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        log.info("listening", url=url, **({"docs": f"{url}/docs"} if "api" in self.stages else {}))
        serving = asyncio.create_task(server.serve(sockets=[bound]))
        stopping = asyncio.create_task(self.stopping.wait())
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        server.should_exit = True
        stopping.cancel()
        await serving


class _Unmigrated(UpshotError):
    """The database has another schema than this version's."""


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise Refusal(
            f"Upshot cannot listen on {host}:{port}: {error.strerror or error}. "
            "Choose another with --port or UPSHOT_PORT, or stop what listens there."
        ) from None
    bound.listen(BACKLOG)
    bound.setblocking(False)
    return bound


def serve(settings: Settings, stages: Collection[Stage] = STAGES) -> None:
    """Run the server in the foreground until SIGTERM or SIGINT; a second one ends it at once.

    A whole server is two processes: the API, and the rest of the line.

    Raises:
        UpshotError: it cannot or will not start like this.
        SystemExit: with another code than 0.
    """
    configure_logging(settings.log_level)
    _collect_seldom()
    if frozenset(stages) != frozenset(STAGES):
        _run(Server(settings, stages))
        return
    # Bound here, it stays bound while a process of the API is replaced by another.
    bound = _bind(settings.host, settings.port)

    def serve_rest(ties: Ties) -> None:
        bound.close()
        _run(Server(settings, REST, ties=ties))

    code = supervisor.run(
        (lambda ties: _run(Server(settings, API, ties=ties, bound=bound)), serve_rest)
    )
    if code:
        raise SystemExit(code)


def _run(server: Server) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(server))


def _collect_seldom() -> None:
    """Look for cycles less often: batches hold many objects, few of them in cycles.

    By default Python looks after every 700 new containers, which took a third of the evaluator's
    time.
    """
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


async def _serve(server: Server) -> None:
    loop = asyncio.get_running_loop()

    def stop(number: int) -> None:
        if not server.is_supervised:
            if server.stopping.is_set():
                os._exit(128 + number)
            log.info("stopping", signal=signal.Signals(number).name)
        server.stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        if number == signal.SIGTERM or not server.is_supervised:
            loop.add_signal_handler(number, stop, number)
    await server.run()
    log.info("stopped", stages=sorted(server.stages))


def configure_logging(level: str) -> None:
    """One JSON object a line on standard error; on a terminal, lines for people."""
    renderer: structlog.typing.Processor = structlog.processors.JSONRenderer()
    if sys.stderr.isatty():
        renderer = structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
