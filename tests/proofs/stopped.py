"""A server that is told to stop does so in time, and gives back what it could not end."""

import time

from tests.e2e.server import STOPS_WITHIN_SECONDS, serving
from tests.receiver import Receiver, hang, reply


async def prove(url: str) -> float:
    """Stop it while a runner hangs; answers the seconds that it took."""
    async with Receiver(hang(), reply()) as runner:
        async with serving(url) as server:
            await server.api.deploy("d", runner.url, seconds=300)
            await server.api.trigger("t", deployment="d", expect=["go"])
            run_id = await server.api.fired()
            await runner.called()
            began = time.monotonic()
            await server.stop()
            took = time.monotonic() - began
        async with serving(url) as server:
            run = await server.api.ended(run_id)
        assert run["state"] == "completed"
        assert [one["outcome"] for one in run["attempts"]] == ["released", "completed"]
        assert took < STOPS_WITHIN_SECONDS
        return took
