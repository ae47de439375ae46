"""The Postgres of a cluster: is it there, start it, stop it."""

import os
import shutil
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from upshot.core.limits import (
    POSTGRES_LOG_BYTES_MAX,
    POSTGRES_ORPHANS_LEAVE_WITHIN,
    POSTGRES_STARTS_WITHIN,
    POSTGRES_STOPS_WITHIN,
)
from upshot.storage.embedded.accounts import give, last_lines, run_as
from upshot.storage.embedded.cluster import SETTINGS
from upshot.storage.embedded.data_dir import PORT, socket_of
from upshot.storage.embedded.errors import EmbeddedUnavailable
from upshot.storage.embedded.installation import Installation

POLL_SECONDS: Final = 0.1

log = structlog.get_logger()


def run_server(installation: Installation) -> bool:
    """Leave with Postgres accepting connections. True if it had to be started."""
    bound_log(installation)
    deadline = time.monotonic() + POSTGRES_STARTS_WITHIN.total_seconds()
    # One that is starting, recovering or stopping listens already or still.
    while is_listening(installation):
        if _is_ready(installation):
            return False
        if time.monotonic() > deadline:
            raise EmbeddedUnavailable(
                f"Postgres in {installation.data_dir} has been starting or stopping for "
                f"{POSTGRES_STARTS_WITHIN}. Look at {installation.log_file}."
            )
        time.sleep(POLL_SECONDS)
    _start(installation)
    return True


def stop_server(installation: Installation) -> None:
    """Stop Postgres if it is there. One that does not stop in time is left as it is."""
    # Nobody there means that the pid file is stale, and pg_ctl would signal whoever has that pid.
    if not is_listening(installation):
        return
    seconds = int(POSTGRES_STOPS_WITHIN.total_seconds())
    result = _pg_ctl(installation, "stop", "--wait", "--mode", "fast", "--timeout", str(seconds))
    if result.returncode != 0:
        # It is left as it is: the next to start finds it gone, or running, and both are fine.
        log.warning("postgres_not_stopped", reason=last_lines(result.stderr))


def bound_log(installation: Installation) -> None:
    """Postgres appends to its log, so the file can be emptied under it."""
    log_file = installation.log_file
    with suppress(FileNotFoundError):
        if log_file.stat().st_size > POSTGRES_LOG_BYTES_MAX:
            shutil.copyfile(log_file, log_file.with_name("postgres.log.1"))
            os.truncate(log_file, 0)


def is_listening(installation: Installation) -> bool:
    """Ask the kernel: a pid in a file proves nothing after a crash or in a fresh container."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(socket_of(installation.data_dir)))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except BlockingIOError:
            return True  # Its queue of connections is full.
    return True


def _is_ready(installation: Installation) -> bool:
    probe = [str(installation.binaries / "pg_isready"), "--host", str(installation.cluster)]
    probe += ["--port", str(PORT), "--username", "postgres"]
    return run_as(probe, None, cwd=installation.data_dir).returncode == 0


def _start(installation: Installation) -> None:
    settings = installation.cluster / "upshot.conf"
    settings.write_text(SETTINGS)
    give(settings, installation.account)
    installation.log_file.touch(mode=0o600)
    give(installation.log_file, installation.account)
    deadline = time.monotonic() + POSTGRES_ORPHANS_LEAVE_WITHIN.total_seconds()
    while True:
        _disown_stale_pids(installation.cluster)
        said_before = installation.log_file.stat().st_size
        result = _pg_ctl(
            installation,
            *("start", "--wait", "--log", str(installation.log_file)),
            *("--timeout", str(int(POSTGRES_STARTS_WITHIN.total_seconds()))),
        )
        if result.returncode == 0:
            return
        said = _log_since(installation.log_file, said_before)
        # Sessions of a Postgres that was killed finish what they are at before they notice.
        if "shared memory block" not in said or time.monotonic() > deadline:
            raise EmbeddedUnavailable(
                f"Postgres did not start in {installation.data_dir}: "
                f"{last_lines(said) or last_lines(result.stderr)} "
                f"The whole story is in {installation.log_file}."
            )
        time.sleep(POLL_SECONDS)


def _disown_stale_pids(cluster: Path) -> None:
    """After a crash the pid in a lock file may be another process', and Postgres refuses to start
    beside it. Postgres overlooks the pid of the process that starts it, so we put ours there. The
    rest stays: Postgres checks by it that nothing of the dead server is left."""
    for name in ("postmaster.pid", f".s.PGSQL.{PORT}.lock"):
        with suppress(FileNotFoundError), (cluster / name).open("r+") as file:
            lines = file.read().splitlines()
            lines[:1] = [str(os.getpid())]
            file.seek(0)
            file.write("\n".join(lines) + "\n")
            file.truncate()


def _log_since(log_file: Path, position: int) -> str:
    with log_file.open("rb") as file:
        file.seek(position)
        return file.read(POSTGRES_LOG_BYTES_MAX).decode(errors="replace")


def _pg_ctl(installation: Installation, *args: str) -> subprocess.CompletedProcess[str]:
    command = [str(installation.binaries / "pg_ctl"), *args, "--pgdata", str(installation.cluster)]
    return run_as(command, installation.account, cwd=installation.data_dir)
