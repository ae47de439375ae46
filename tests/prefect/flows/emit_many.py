"""Emits events numbered from 0 through the client's own WebSocket, and says how far it is."""

import asyncio
import sys

from prefect.events import Event
from prefect.events.clients import get_events_client

RETRY_SECONDS = 0.1


async def main(number: int, checkpoint_every: int) -> None:
    async with get_events_client(checkpoint_every=checkpoint_every) as client:
        for n in range(number):
            event = Event(
                event="counted",
                resource={"prefect.resource.id": "counter"},
                payload={"n": n},
            )
            while True:
                try:
                    await client.emit(event)
                    break
                except OSError:
                    # 3.0.0 gives up at once where nobody listens; later releases try for a while.
                    await asyncio.sleep(RETRY_SECONDS)
            print("emitted", n, flush=True)
    print("closed", flush=True)


asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
