"""An order that is created before restarts and completed after them calls the runner once."""

import json

from tests.e2e.server import SHOP, serving
from tests.receiver import Receiver


async def prove(url: str, *, restarts: int) -> int:
    """Stop and kill the server in turns, an order created before each; answers the orders."""
    users = [str(number) for number in range(restarts)]
    async with Receiver() as runner:
        for number, user in enumerate(users):
            async with serving(url) as server:
                await server.api.deploy("post-order-complete", runner.url)
                await server.api.trigger("order", deployment="post-order-complete", **SHOP)
                await server.api.post({"event": "order.created", "resource": {"id": user}})
                await (server.kill() if number % 2 else server.stop())
        async with serving(url) as server:
            for user in users:
                run = await server.api.ended(await server.api.fired("order.complete", user))
                assert run["state"] == "completed"
        called = [json.loads(call.body)["parameters"] for call in runner.calls]
        assert called == [{"user_id": user} for user in users]
    return len(users)
