"""The processes of one server: started before anything else, watched, and stopped together.

Python runs one thread at a time. With the API in one process and the rest of the line in another,
what is posted does not wait for what is evaluated.
"""

import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from upshot.core.errors import UpshotError

CRASHED = 70
"""The exit code of a process that ends by a mistake of ours; another one is started for it."""

RESTART_SECONDS_MIN, RESTART_SECONDS_MAX = 0.1, 5.0
RESTARTS_FORGOTTEN_SECONDS = 60.0
_WATCHED = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Ties:
    """What ties a process to the others.

    `peer` is one end of a socket whose other end the other process has. `alive` is the reading end
    of a pipe that is closed when the supervisor is gone, however it went.
    """

    peer: socket.socket
    alive: int


Work = Callable[[Ties], None]


def run(works: tuple[Work, Work]) -> int:
    """Run each in a process of its own until SIGTERM or SIGINT; answers the exit code.

    A process that crashes, or is killed, is started again. One that refuses to work (`UpshotError`)
    ends the others too. A second signal kills. To be called before there are threads or loops: the
    processes are forks of this one, and share its memory as long as nobody writes to it.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    try:
        return _Supervisor(works).run()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)


class _Supervisor:
    def __init__(self, works: Sequence[Work]) -> None:
        self._works = works
        self._peers = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._alive, self._kept_open = os.pipe()
        self._children: dict[int, int] = {}
        """By process id: which of the works it does."""
        self._due: dict[int, float] = dict.fromkeys(range(len(works)), 0.0)
        """When each work is to be started, by the monotonic clock."""
        self._started = [0.0] * len(works)
        self._pauses = [RESTART_SECONDS_MIN] * len(works)
        self._code: int | None = None

    def run(self) -> int:
        while self._code is None or self._children:
            self._start_due()
            received = signal.sigtimedwait(_WATCHED, self._until_due())
            if received is not None and received.si_signo != signal.SIGCHLD:
                self._stop(signal.Signals(received.si_signo))
            self._bury()
        return self._code

    def _start_due(self) -> None:
        for number, at in list(self._due.items()):
            if self._code is None and time.monotonic() >= at:
                del self._due[number]
                self._started[number] = time.monotonic()
                self._children[self._fork(number)] = number

    def _until_due(self) -> float:
        now = time.monotonic()
        return max(0.0, min((at - now for at in self._due.values()), default=1.0))

    def _fork(self, number: int) -> int:
        child = os.fork()
        if child:
            return child
        os.close(self._kept_open)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all of us
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)
        try:
            self._works[number](Ties(self._peers[number], self._alive))
        except UpshotError:
            # Whoever called us tells of it, as if there were one process.
            raise
        except BaseException:
            log.exception("process_failed")
            os._exit(CRASHED)
        os._exit(0)

    def _stop(self, number: signal.Signals) -> None:
        is_second = self._code is not None
        log.info("stopping", signal=number.name)
        self._code = 128 + number if is_second else 0
        self._tell(signal.SIGKILL if is_second else signal.SIGTERM)

    def _tell(self, number: signal.Signals) -> None:
        for child in self._children:
            os.kill(child, number)

    def _bury(self) -> None:
        while self._children:
            ended, status = os.waitpid(-1, os.WNOHANG)
            if not ended:
                return
            number = self._children.pop(ended, None)
            if number is None or self._code is not None:
                continue
            code = os.waitstatus_to_exitcode(status)
            if code == CRASHED or code < 0:
                self._start_again(number, code)
            else:
                self._code = code
                self._tell(signal.SIGTERM)

    def _start_again(self, number: int, code: int) -> None:
        """Soon, and later each time if it does not last."""
        now = time.monotonic()
        if now - self._started[number] > RESTARTS_FORGOTTEN_SECONDS:
            self._pauses[number] = RESTART_SECONDS_MIN
        pause = self._pauses[number]
        log.error("process_ended", code=code, again_in_seconds=pause)
        self._due[number] = now + pause
        self._pauses[number] = min(pause * 2, RESTART_SECONDS_MAX)
