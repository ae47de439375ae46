"""Processes that outlive the command that starts them, and that a later command finds again."""

import fcntl
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from upshot.core.errors import Conflict
from upshot.core.limits import DEMO_STOPS_WITHIN

POLL_SECONDS = 0.05
LOG_LINES_SHOWN_MAX = 8


class Background:
    """One such process, by its name in a directory.

    It inherits a locked file, and the kernel keeps the lock for exactly as long as it lives; a
    pid in a file would prove nothing.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        self._state = directory / f"{name}.json"
        self._lock = directory / f"{name}.lock"

    def start(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        """Start it in a session of its own, out of reach of Ctrl-C. `notes` are kept beside it.

        Raises:
            Conflict: it runs already.
        """
        self._lock.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if not _try_lock(lock):
                raise Conflict(f"The {self.name} is being started by somebody else.")
            with self.log.open("wb") as log:
                process = subprocess.Popen(
                    command,
                    env={**os.environ, **(environment or {})},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    pass_fds=[lock],
                )
            self._state.touch(mode=0o600)
            self._state.write_text(json.dumps({**(notes or {}), "pid": process.pid}))
        finally:
            os.close(lock)

    @property
    def is_running(self) -> bool:
        try:
            lock = os.open(self._lock, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            return not _try_lock(lock)
        finally:
            os.close(lock)

    @property
    def notes(self) -> Mapping[str, Any]:
        """What was noted when it was started."""
        notes: Mapping[str, Any] = json.loads(self._state.read_text())
        return notes

    def said(self, after: int = 0) -> str:
        """What it has written since its log was `after` bytes long."""
        with self.log.open("rb") as log:
            log.seek(after)
            return log.read().decode(errors="replace")

    def last_words(self) -> str:
        return "\n".join(self.said().splitlines()[-LOG_LINES_SHOWN_MAX:])

    def stop(self) -> bool:
        """End it, in order if it can; False if it does not run."""
        if not self.is_running:
            return False
        pid: int = self.notes["pid"]
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
            if wait_until(lambda: not self.is_running, DEMO_STOPS_WITHIN.total_seconds()):
                break
        return True


def wait_until(is_so: Callable[[], bool], seconds: float) -> bool:
    """Look again and again until it is so; False when it takes longer."""
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
