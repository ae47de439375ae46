"""A runner that answers 200 to every call at once, and remembers what came when."""

import asyncio
import time
from typing import cast

import msgspec
import uvloop

from benchmarks.processes import Done, answer_commands

OK = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nok"


class Forget(msgspec.Struct, frozen=True, tag=True):
    """Begin to count anew."""


class Count(msgspec.Struct, frozen=True, tag=True):
    """How many calls came."""


class Read(msgspec.Struct, frozen=True, tag=True):
    """What the calls said."""


class Counted(msgspec.Struct, frozen=True):
    calls: int


class Calls(msgspec.Struct, frozen=True, kw_only=True):
    """How many runs were called for, when each user was last, and what a body looks like."""

    runs: int
    received_at: dict[str, float]
    body: str


class _Parameters(msgspec.Struct):
    user_id: str


class _Body(msgspec.Struct):
    run_id: str
    parameters: _Parameters


_calls: list[tuple[float, bytes]] = []


async def answer(command: Forget | Count | Read) -> msgspec.Struct:
    match command:
        case Forget():
            _calls.clear()
            return Done()
        case Count():
            return Counted(len(_calls))
        case Read():
            return _read()


def _read() -> Calls:
    bodies = [(at, msgspec.json.decode(body, type=_Body)) for at, body in _calls]
    return Calls(
        runs=len({body.run_id for _, body in bodies}),
        received_at={body.parameters.user_id: at for at, body in bodies},
        body=_calls[-1][1].decode(),
    )


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods and not the class.
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        at = time.monotonic()
        self._received += data
        head_ends = self._received.find(b"\r\n\r\n")
        if head_ends < 0:
            return
        head = bytes(self._received[:head_ends]).lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        body = bytes(self._received[head_ends + 4 :])
        if len(body) >= length:
            _calls.append((at, body))
            self._received.clear()
            self._transport.write(OK)


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(_Connection, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    await answer_commands(Forget | Count | Read, answer, port)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        loop.run(main())
