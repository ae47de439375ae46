"""The runs under way in this process: each worked on once, its lease renewed, its end reported."""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from upshot.sdk.api import Api
from upshot.sdk.backoff import Backoff
from upshot.sdk.calling import Completed, Failed, Outcome, Stopped, shortened
from upshot.sdk.errors import Refused, Unreachable
from upshot.sdk.limits import (
    GIVE_UP_SECONDS_MAX,
    HEARTBEAT_ANSWER_SECONDS_MAX,
    HEARTBEAT_SECONDS,
    OUTCOMES_REMEMBERED_MAX,
)
from upshot.sdk.run import Offer, Run

log = logging.getLogger("upshot")

Perform = Callable[[Run, Mapping[str, Any]], Awaitable[Outcome]]
"""Does the work of a run."""


class _UnderWay:
    """A run being worked on. `lease` is the newest under which it was offered."""

    def __init__(self, offer: Offer) -> None:
        self.run = offer.run
        self.parameters = offer.parameters
        self.lease = offer.lease
        self.lost: str | None = None

    @property
    def holds(self) -> bool:
        """Whether the newest lease is not known to be lost."""
        return self.lease != self.lost


class Executions:
    """Works on runs. One that is offered twice is not begun twice."""

    def __init__(
        self,
        api: Api,
        perform: Perform,
        *,
        limit: int,
        heartbeat_every: float = HEARTBEAT_SECONDS,
    ) -> None:
        self._api = api
        self._perform = perform
        self._room = asyncio.Semaphore(limit)
        self._heartbeat_every = heartbeat_every
        self._under_way: dict[str, _UnderWay] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended: OrderedDict[str, Outcome] = OrderedDict()
        self._fewer = asyncio.Condition()
        self.ending = False

    @property
    def count(self) -> int:
        return len(self._under_way)

    def take(self, offer: Offer) -> None:
        """Begin to work on it, unless that is being done already: then under the new lease."""
        known = self._under_way.get(offer.run.id)
        if known is not None:
            log.warning("run %s was offered again while it is worked on here", offer.run.id)
            known.lease = offer.lease
            return
        under_way = self._under_way[offer.run.id] = _UnderWay(offer)
        task = asyncio.create_task(self._work(under_way), name=f"upshot-run-{offer.run.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def fewer_than(self, count: int) -> None:
        """Wait until fewer than so many are under way."""
        async with self._fewer:
            await self._fewer.wait_for(lambda: self.count < count)

    async def end(self, *, within: float) -> None:
        """Let those under way finish for so many seconds; the others are stopped and given back."""
        self.ending = True
        if not self._tasks:
            return
        log.info("%d runs are under way; waiting for up to %g s", len(self._tasks), within)
        _, unfinished = await asyncio.wait(set(self._tasks), timeout=within)
        left = list(self._under_way.values())
        for under_way in left:
            under_way.run.cancel()
        for task in unfinished:
            task.cancel()
        if unfinished:
            await asyncio.wait(unfinished, timeout=GIVE_UP_SECONDS_MAX)
        await asyncio.gather(*map(self._give_back, left))

    async def _work(self, under_way: _UnderWay) -> None:
        run = under_way.run
        try:
            outcome = self._ended.get(run.id)
            if outcome is None:
                outcome = await self._performed(under_way)
                if isinstance(outcome, Stopped):
                    log.info("run %s of %s stopped: it was cancelled", run.id, run.deployment)
                    return
                if not isinstance(outcome, Failed) or not outcome.again:
                    self._remember(run.id, outcome)
            else:
                log.info("run %s has ended here before; reporting that again", run.id)
            await self._report(under_way, outcome)
        except Exception:
            log.exception("run %s of %s could not be worked on", run.id, run.deployment)
        finally:
            async with self._fewer:
                del self._under_way[run.id]
                self._fewer.notify_all()

    async def _performed(self, under_way: _UnderWay) -> Outcome:
        """Do the work, and say meanwhile that it goes on."""
        work = asyncio.ensure_future(self._perform_in_turn(under_way))
        try:
            while not (await asyncio.wait({work}, timeout=self._heartbeat_every))[0]:
                await self._heartbeat(under_way)
            return work.result()
        except asyncio.CancelledError:
            work.cancel()
            raise

    async def _perform_in_turn(self, under_way: _UnderWay) -> Outcome:
        run = under_way.run
        try:
            async with self._room:
                begun = time.monotonic()
                log.info("run %s of %s begins", run.id, run.deployment)
                outcome = await self._perform(run, under_way.parameters)
        except asyncio.CancelledError:
            return Stopped()
        if isinstance(outcome, Stopped) and not run.cancelled:
            return Failed("The function was cancelled from inside.")
        log.info(
            "run %s of %s %s after %.2f s",
            run.id,
            run.deployment,
            type(outcome).__name__.lower(),
            time.monotonic() - begun,
        )
        return outcome

    async def _heartbeat(self, under_way: _UnderWay) -> None:
        run, lease = under_way.run, under_way.lease
        if not under_way.holds:
            return
        report = {"lease": lease, "state": "running"}
        try:
            answer = await self._api.call(
                "PATCH", f"/v1/runs/{run.id}", report, within=HEARTBEAT_ANSWER_SECONDS_MAX
            )
        except Unreachable as error:
            log.warning("the lease of run %s could not be renewed: %s", run.id, error)
        except Refused as error:
            # It goes on: what it did so far is done, and if the run is offered here again, it is
            # reported then.
            under_way.lost = lease
            log.warning("the lease of run %s is lost: %s", run.id, error)
        else:
            if answer.get("cancel") and not run.cancelled:
                log.info("run %s of %s was cancelled", run.id, run.deployment)
                run.cancel()

    async def _give_back(self, under_way: _UnderWay) -> None:
        """Somebody else may begin it at once; unheard, it is offered again when the lease ends."""
        run = under_way.run
        report = {"lease": under_way.lease, "state": "released"}
        try:
            await self._api.call("PATCH", f"/v1/runs/{run.id}", report, within=GIVE_UP_SECONDS_MAX)
        except Unreachable as error:
            log.warning("run %s is unfinished and could not be given back: %s", run.id, error)
        except Refused as error:
            log.info("run %s was no longer held here: %s", run.id, error)
        else:
            log.warning("run %s of %s is given back unfinished", run.id, run.deployment)

    async def _report(self, under_way: _UnderWay, outcome: Outcome) -> None:
        """Until the server has heard it, or has given the run to somebody else."""
        run = under_way.run
        backoff = Backoff()
        while under_way.holds:
            lease = under_way.lease
            report = {"lease": lease, **_report_of(outcome)}
            try:
                await self._api.call("PATCH", f"/v1/runs/{run.id}", report)
            except Unreachable as error:
                wait = backoff.next(at_least=error.retry_after)
                log.warning("run %s ended and cannot be reported yet: %s", run.id, error)
                await asyncio.sleep(wait)
            except Refused as error:
                if error.status in (401, 403):
                    log.error("run %s ended and may not be reported: %s", run.id, error)
                    await asyncio.sleep(backoff.next())
                elif error.status in (400, 413, 422) and isinstance(outcome, Completed):
                    outcome = Failed(shortened(f"The server refused the result: {error}"))
                    self._remember(run.id, outcome)
                else:
                    under_way.lost = lease
                    self._say_unwanted(run, error)
            else:
                if isinstance(outcome, Failed):
                    # If it comes again, somebody asked for that: it is to be worked on then.
                    self._ended.pop(run.id, None)
                return

    def _say_unwanted(self, run: Run, error: Refused) -> None:
        if run.cancelled:
            self._ended.pop(run.id, None)
            log.info("run %s of %s ended after it was cancelled", run.id, run.deployment)
        else:
            log.warning("run %s ended here, and its lease is lost: %s", run.id, error)

    def _remember(self, run_id: str, outcome: Outcome) -> None:
        self._ended[run_id] = outcome
        self._ended.move_to_end(run_id)
        if len(self._ended) > OUTCOMES_REMEMBERED_MAX:
            self._ended.popitem(last=False)


def _report_of(outcome: Outcome) -> dict[str, Any]:
    match outcome:
        case Completed(result=result):
            return {"state": "completed", "result": result}
        case Failed(error=error, again=again):
            return {"state": "failed", "error": error, **({"retry": True} if again else {})}
        case Stopped():
            return {"state": "failed", "error": "The function was stopped."}
