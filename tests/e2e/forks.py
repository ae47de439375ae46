"""Starts the server as a fork of a process that has imported it: importing is most of a start."""

import asyncio
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from asyncio import StreamReader, StreamReaderProtocol
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from upshot.cli.entry import main as upshot

ROOT = Path(__file__).parents[2]
LINE_BYTES_MAX = 2**20
IMPORTED_BEFORE = (
    "upshot.cli.app",
    "upshot.main",
    "upshot.serving",
    "uvicorn.protocols.http.httptools_impl",
)


class Forked:
    """`upshot` in a process of its own, to be used as one that asyncio has started."""

    def __init__(self, pid: int, *, stderr: StreamReader, told: StreamReader) -> None:
        self.pid = pid
        self.stderr = stderr
        self.returncode: int | None = None
        self._ending = asyncio.create_task(self._end(told))

    def send_signal(self, number: signal.Signals) -> None:
        if self.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def wait(self) -> int:
        return await asyncio.shield(self._ending)

    async def _end(self, told: StreamReader) -> int:
        self.returncode = int(await told.read())
        return self.returncode


async def start(*arguments: str) -> Forked:
    """Run `upshot` with these arguments, in this process' environment and directory of now."""
    order = {
        "arguments": arguments,
        "environment": dict(os.environ),
        "directory": str(Path.cwd()),
    }
    (order_read, order_written), (log_read, log_written), (told, tell) = (
        os.pipe() for _ in range(3)
    )
    theirs = (order_read, log_written, tell)
    try:
        socket.send_fds(_forker(), [b"."], theirs)
    finally:
        for fd in theirs:
            os.close(fd)
    with os.fdopen(order_written, "w") as writing:
        json.dump(order, writing)
    stderr, telling = await _reader_of(log_read), await _reader_of(told)
    return Forked(int(await telling.readline()), stderr=stderr, told=telling)


async def _reader_of(fd: int) -> StreamReader:
    reader = StreamReader(limit=LINE_BYTES_MAX)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: StreamReaderProtocol(reader), os.fdopen(fd, "rb"))
    return reader


@cache
def _forker() -> socket.socket:
    """What begins to fork with the first order, and ends when this process does."""
    ours, its = socket.socketpair()
    with its:
        subprocess.Popen(
            [sys.executable, "-m", __name__, str(its.fileno())],
            cwd=ROOT,
            pass_fds=[its.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
    return ours


def main() -> None:
    """Fork whenever a byte comes, which brings along the order, the log and whom to tell."""
    with tempfile.TemporaryDirectory() as counted:
        # As `upshot serve` does before it imports them, which then names a directory of its own.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = counted
        for name in IMPORTED_BEFORE:
            importlib.import_module(name)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the keepers
    asked = socket.socket(fileno=int(sys.argv[1]))
    while True:
        byte, fds, *_ = socket.recv_fds(asked, 1, 3)
        if not byte:
            return
        if os.fork() == 0:
            asked.close()
            _keep(*fds)
            return
        for fd in fds:
            os.close(fd)


def _keep(order: int, log: int, tell: int) -> None:
    """Be the server; or its parent, who alone learns how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    server = os.fork()
    if server == 0:
        os.close(tell)
        with os.fdopen(order) as reading:
            asked = json.load(reading)
        os.dup2(log, sys.stderr.fileno())
        os.close(log)
        _run(asked["arguments"], asked["environment"], asked["directory"])
        return
    os.close(order)
    os.close(log)
    os.write(tell, b"%d\n" % server)
    _, status = os.waitpid(server, 0)
    os.write(tell, b"%d\n" % os.waitstatus_to_exitcode(status))
    os._exit(0)


def _run(arguments: Sequence[str], environment: dict[str, str], directory: str) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    sys.argv = ["upshot", *arguments]
    upshot()


if __name__ == "__main__":
    main()
