"""An evaluator that is suspended is relieved, and does no harm when it wakes."""

import signal
import time

from tests.e2e.server import serving

RELIEVED_WITHIN_SECONDS = 30.0


async def prove(url: str, *, events: int) -> float:
    """Suspend the one at work while another stands by; answers the seconds until its relief.

    A trigger fires for every event, so runs count evaluations.
    """
    fired = 0
    async with serving(url, only="api") as server, serving(url, only="evaluate") as first:
        await first.logged("evaluating")
        await server.api.deploy("waiting", "http://127.0.0.1:9/run", enabled=False)
        await server.api.trigger("t", deployment="waiting", expect=["go"])
        async with serving(url, only="evaluate") as standby:
            first.send_signal(signal.SIGSTOP)
            began = time.monotonic()
            await standby.logged("evaluating", within=RELIEVED_WITHIN_SECONDS)
            took = time.monotonic() - began
            assert await server.api.fired()
            first.send_signal(signal.SIGCONT)
            await first.logged("database_away")
            while fired < events:
                assert await server.api.fired()
                fired += 1
            await standby.kill()
        # The first one stood by meanwhile.
        assert await server.api.fired()
        assert len(await server.api.runs()) == events + 2
        return took
