"""Takes runs from the server by long poll: a worker needs no open port."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from upshot.sdk.api import Api
from upshot.sdk.backoff import Backoff
from upshot.sdk.errors import Refused, Unreachable
from upshot.sdk.executions import Executions
from upshot.sdk.limits import ANSWER_SECONDS_MAX, CLAIM_WAIT_SECONDS, RUNS_PER_CLAIM_MAX
from upshot.sdk.run import Offer

log = logging.getLogger("upshot")


async def claim_runs(
    api: Api, executions: Executions, *, deployments: Sequence[str], limit: int, worker: str
) -> None:
    """Take runs of these deployments for as long as the task lives, at most `limit` at once."""
    backoff = Backoff()
    while True:
        await executions.fewer_than(limit)
        asked = {
            "deployments": list(deployments),
            "max": min(limit - executions.count, RUNS_PER_CLAIM_MAX),
            "wait": CLAIM_WAIT_SECONDS,
            "worker": worker,
        }
        try:
            answer = await api.call(
                "POST", "/v1/runs/claim", asked, within=CLAIM_WAIT_SECONDS + ANSWER_SECONDS_MAX
            )
        except (Unreachable, Refused) as error:
            wait = backoff.next(at_least=getattr(error, "retry_after", None))
            log.warning("no runs can be taken, trying again in %.1f s: %s", wait, error)
            await asyncio.sleep(wait)
            continue
        if backoff.failures:
            log.info("runs can be taken again from %s", api.server.url)
            backoff.reset()
        for item in answer["items"]:
            _take(executions, item)


def _take(executions: Executions, item: Any) -> None:
    try:
        offer = Offer.read(item)
    except (KeyError, TypeError, ValueError) as error:
        log.error("a run was offered that cannot be read: %r", error)
    else:
        executions.take(offer)
