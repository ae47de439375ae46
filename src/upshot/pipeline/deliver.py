"""Deliver: claim due runs under a lease, call their runners outside any transaction, record it."""

import asyncio
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import assert_never
from uuid import UUID

import asyncpg
import structlog
from msgspec import structs

from upshot.core.breaker import BreakerState, Called, is_free
from upshot.core.call_content import content_of
from upshot.core.delivery import (
    Accepted,
    Attempt,
    Completed,
    Failed,
    Gone,
    TryAgain,
    Unreached,
    Verdict,
    Webhook,
    call_body,
    judge,
    retry_at,
)
from upshot.core.limits import CALLS_MAX, LEASE, PROBE_EVERY
from upshot.core.templates import RenderFailed
from upshot.metrics import ATTEMPT_SECONDS, ATTEMPTS, DELIVERY_DELAY_SECONDS, RUNS_FINISHED
from upshot.pipeline.call import Caller
from upshot.pipeline.prepare import render_left, unrendered
from upshot.pipeline.render import Renderers
from upshot.pipeline.tally import Calls, Tally
from upshot.storage import breakers, queue
from upshot.storage.breakers import Turned
from upshot.storage.database import REFUSED, reason_of
from upshot.storage.deployments import webhook_of
from upshot.storage.queue import ClaimedRun, Outcome

RENEW_EVERY = timedelta(seconds=10)
DRAIN_TURN_SECONDS = 1.0
_LOST = "the run was cancelled or taken over while its runner was called"
_STOPPED = "the server stopped before the runner had answered"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _InFlight:
    run: ClaimedRun
    started_at: datetime
    task: "asyncio.Task[None]"


@dataclass(slots=True)
class _Ended:
    """What calls have left to be written down."""

    outcomes: list[Outcome] = field(default_factory=list)
    gone: dict[str, str] = field(default_factory=dict)


class Deliverer:
    """Turns of one transaction each: record what calls have ended, then claim what is due.

    `on_ended` is called when a call has ended, `on_told` when the log was told of runs. `all_ended`
    is set while no call is under way.
    """

    def __init__(
        self,
        *,
        caller: Caller,
        renderers: Renderers,
        on_ended: Callable[[], None],
        on_told: Callable[[], None] = lambda: None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._caller = caller
        self._renderers = renderers
        self._on_ended = on_ended
        self._on_told = on_told
        self._now = now
        self._in_flight: dict[UUID, _InFlight] = {}
        self.all_ended = asyncio.Event()
        self.all_ended.set()
        self._ended = _Ended()
        self._renewed_at = now()
        self._tally = Tally(now())

    @property
    def calls(self) -> int:
        return len(self._in_flight)

    async def turn(self, conn: asyncpg.Connection, *, claims: bool = True) -> int:
        """Write down what has ended, renew leases, claim and begin to call; answers the claims."""
        ended, self._ended = self._ended, _Ended()
        calls = self._tally.take(self._now())
        try:
            claimed, turned = await self._save(conn, ended, calls, claims=claims)
        except BaseException as error:
            # They are written down when the connection is back; their leases may be lost by then,
            # and then the fence keeps this from doing harm.
            self._ended.outcomes[:0] = ended.outcomes
            self._ended.gone.update(ended.gone)
            self._tally.give_back(calls)
            if not (ended.outcomes and isinstance(error, REFUSED)):
                raise
            log.warning("outcomes_refused", count=len(ended.outcomes), error=reason_of(error))
            await self._record_apart(conn)
            return await self.turn(conn, claims=claims)
        for outcome in ended.outcomes:
            ATTEMPTS.labels(outcome=outcome.outcome).inc()
            ATTEMPT_SECONDS.observe(outcome.duration)
            if outcome.state in ("completed", "failed"):
                RUNS_FINISHED.labels(state=outcome.state).inc()
        if any(outcome.state in ("completed", "failed") for outcome in ended.outcomes):
            self._on_told()
        for breaker in turned:
            _tell(breaker)
        for run in claimed:
            task = asyncio.create_task(self._attempt(run))
            self._in_flight[run.lease] = _InFlight(run, self._now(), task)
            self.all_ended.clear()
        return len(claimed)

    async def _save(
        self, conn: asyncpg.Connection, ended: _Ended, calls: Calls, *, claims: bool
    ) -> tuple[list[ClaimedRun], list[Turned]]:
        async with conn.transaction():
            if ended.outcomes:
                await queue.finish_if_leased(conn, ended.outcomes)
            for deployment, reason in sorted(ended.gone.items()):
                await queue.disable_deployment(conn, deployment, reason)
            await self._renew(conn)
            turned = await breakers.count(conn, calls) if calls else []
            room = CALLS_MAX - len(self._in_flight)
            if not claims or room <= 0:
                return [], turned
            return await queue.claim(conn, limit=room, lease=LEASE), turned

    async def _record_apart(self, conn: asyncpg.Connection) -> None:
        """Something in what has ended is refused: find it, so that the rest is on record."""
        for outcome in list(self._ended.outcomes):
            try:
                await _record(conn, outcome)
            except REFUSED as error:
                log.error("outcome_refused", run=str(outcome.run_id), error=reason_of(error))
                await _record(conn, _without_what_is_refused(outcome, error))
            self._ended.outcomes.remove(outcome)

    @property
    def has_ended(self) -> bool:
        """Whether a call has ended and waits to be written down."""
        return bool(self._ended.outcomes)

    async def drain(self, conn: asyncpg.Connection, *, within: timedelta) -> None:
        """Let calls end for so long, then give the rest back to be claimed by others.

        Meanwhile turns go on without claims, lest a lease runs out while its call goes on.
        """
        clock = asyncio.get_running_loop().time
        until = clock() + within.total_seconds()
        while self._in_flight and clock() < until:
            tasks = [call.task for call in self._in_flight.values()]
            seconds = min(DRAIN_TURN_SECONDS, until - clock())
            await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            await self.turn(conn, claims=False)
        for call in list(self._in_flight.values()):
            call.task.cancel()
            self._note(call.run, _cut_off(call, self._now(), outcome="released", why=_STOPPED))
        await self.turn(conn, claims=False)

    async def _renew(self, conn: asyncpg.Connection) -> None:
        """Prolong our leases now and then. A run no longer ours was cancelled: stop its call."""
        now = self._now()
        if not self._in_flight or now - self._renewed_at < RENEW_EVERY:
            return
        held = await queue.renew(
            conn, [(call.run.id, lease) for lease, call in self._in_flight.items()], lease=LEASE
        )
        self._renewed_at = now
        for lease, call in list(self._in_flight.items()):
            if lease not in held:
                call.task.cancel()
                self._note(call.run, _cut_off(call, now, outcome="lost", why=_LOST))

    async def _attempt(self, run: ClaimedRun) -> None:
        started_at = self._now()
        DELIVERY_DELAY_SECONDS.observe(max(0.0, (started_at - run.due_at).total_seconds()))
        try:
            await self._call(run)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            # A fault of our own must not stop the others, nor this run without a trace.
            log.exception("attempt_raised", run=str(run.id), attempt=run.attempt)
            self._note(run, self._outcome(run, _crashed(started_at, error)))
        finally:
            self._in_flight.pop(run.lease, None)
            if not self._in_flight:
                self.all_ended.set()
            self._on_ended()

    async def _call(self, run: ClaimedRun) -> None:
        started_at = self._now()
        parameters = run.parameters
        if run.template is not None:
            try:
                parameters = await render_left(self._renderers, run, run.template)
            except RenderFailed as error:
                self._note(run, unrendered(run, started_at, error))
                return
        parameters = parameters or "{}"
        whole = call_body(
            run_id=run.id,
            deployment=run.deployment,
            parameters=parameters,
            trigger=run.trigger,
            labels=run.labels,
            event=run.event,
            attempt=run.attempt,
            scheduled_at=run.scheduled_at,
            lease=run.lease,
        )
        webhook = _webhook(run.runner)
        content = content_of(webhook, run=whole, parameters=parameters)
        attempt = await self._caller.call(
            webhook,
            run_id=run.id,
            body=content.body,
            media_type=content.media_type,
            at=started_at,
        )
        verdict = judge(attempt.answer, can_report=webhook.can_report)
        has_failed = isinstance(verdict, TryAgain)
        self._tally.add(run.deployment, Called(BreakerState(run.breaker), has_failed))
        outcome = self._outcome(run, _Made(attempt, verdict), parameters=parameters)
        if isinstance(verdict, Gone):
            self._ended.gone[run.deployment] = f"Its runner answered {verdict.reason}."
        self._note(run, outcome)

    def _note(self, run: ClaimedRun, outcome: Outcome) -> None:
        self._ended.outcomes.append(outcome)
        # What went well is on record with its run; a line for each costs a tenth of delivering it.
        tell = log.debug if outcome.outcome == "completed" else log.info
        tell(
            "attempt",
            run=str(run.id),
            deployment=run.deployment,
            attempt=run.attempt,
            outcome=outcome.outcome,
            status=outcome.status,
        )

    def _outcome(self, run: ClaimedRun, made: "_Made", *, parameters: str | None = None) -> Outcome:
        state, outcome, error, again_after = self._next(run, made.verdict)
        return Outcome(
            run_id=run.id,
            lease=run.lease,
            state=state,
            attempt=run.attempt,
            started_at=made.attempt.started_at,
            duration=made.attempt.duration.total_seconds(),
            outcome=outcome,
            status=made.attempt.status,
            error=made.attempt.error or error,
            run_error=error,
            response=made.attempt.response_text,
            again_after=again_after,
            uses_retry=not _is_free(run),
            parameters=parameters if run.template is not None else None,
        )

    def _next(
        self, run: ClaimedRun, verdict: Verdict
    ) -> tuple[str, str, str | None, timedelta | None]:
        """The run's next state, the attempt's outcome, the error, how long until the next."""
        match verdict:
            case Completed():
                return "completed", "completed", None, None
            case Accepted():
                return "running", "accepted", None, None
            case Gone(reason):
                return "failed", "failed", f"{reason}: the deployment is disabled", None
            case Failed(reason):
                return "failed", "failed", reason, None
            case TryAgain(reason, after) if _is_free(run):
                return "retrying", "failed", reason, max(after or PROBE_EVERY, PROBE_EVERY)
            case TryAgain(reason, after):
                now = self._now()
                again_at = retry_at(
                    now,
                    retries=_webhook(run.runner).retries,
                    retries_used=run.retries_used,
                    after=after,
                    jitter=random.random(),
                )
                if again_at is None:
                    return "failed", "failed", f"{reason}; no retries are left", None
                return "retrying", "failed", reason, again_at - now
            case _:
                assert_never(verdict)


@dataclass(frozen=True, slots=True)
class _Made:
    attempt: Attempt
    verdict: Verdict


@lru_cache(maxsize=1_024)
def _webhook(runner: str) -> Webhook:
    return webhook_of(json.loads(runner))


def _is_free(run: ClaimedRun) -> bool:
    return is_free(BreakerState(run.breaker), attempt=run.attempt)


def _tell(breaker: Turned) -> None:
    # What it counted when it opened; nothing is counted yet when it closes.
    log.warning(
        "breaker",
        deployment=breaker.deployment,
        state=breaker.after.state.value,
        was=breaker.before.state.value,
        calls=breaker.after.calls,
        failures=breaker.after.failures,
    )


async def _record(conn: asyncpg.Connection, outcome: Outcome) -> None:
    async with conn.transaction():
        await queue.finish_if_leased(conn, [outcome])


def _without_what_is_refused(outcome: Outcome, error: asyncpg.PostgresError) -> Outcome:
    """The run fails, since another attempt would be refused as well."""
    return structs.replace(
        outcome,
        state="failed",
        outcome="failed",
        error=f"the database refuses the attempt's outcome: {reason_of(error)}",
        run_error=None,
        response=None,
        parameters=None,
        again_after=None,
    )


def _crashed(started_at: datetime, error: Exception) -> _Made:
    reason = f"internal error: {error!r}"
    return _Made(Attempt(started_at, timedelta(0), Unreached(reason)), TryAgain(reason))


def _cut_off(call: _InFlight, now: datetime, *, outcome: str, why: str) -> Outcome:
    """The call was given up. If the run is still ours it is due again at once."""
    return Outcome(
        run_id=call.run.id,
        lease=call.run.lease,
        state="retrying",
        attempt=call.run.attempt,
        started_at=call.started_at,
        duration=(now - call.started_at).total_seconds(),
        outcome=outcome,
        error=why,
        again_after=timedelta(0),
        uses_retry=False,
    )
