"""What single posts are compared to: an endpoint that parses the body, answers 201, keeps nothing.

It is served by the same uvicorn settings as Upshot.
"""

import asyncio
import socket

import msgspec
import uvicorn
import uvloop
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from benchmarks.processes import answer_commands

app = FastAPI()
_answered = 0


class Count(msgspec.Struct, frozen=True, tag=True):
    """How many requests were answered."""


class Counted(msgspec.Struct, frozen=True):
    requests: int


@app.post("/v1/events")
async def post(request: Request) -> Response:
    global _answered
    event = await request.json()
    _answered += 1
    return JSONResponse({"event": event["event"], "status": "accepted"}, 201)


async def answer(_: Count) -> msgspec.Struct:
    return Counted(_answered)


async def main() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as bound:
        config = uvicorn.Config(
            app,
            loop="none",
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[bound]))
        await answer_commands(Count, answer, bound.getsockname()[1])
        server.should_exit = True
        await serving


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
