"""Claims on a running Postgres: the first starts it, the last to be given up stops it."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from upshot.core.limits import POSTGRES_STARTS_WITHIN
from upshot.storage.embedded.accounts import account_for
from upshot.storage.embedded.cluster import make_cluster
from upshot.storage.embedded.data_dir import PORT, check_path
from upshot.storage.embedded.errors import EmbeddedUnavailable
from upshot.storage.embedded.installation import Installation, binaries_for, installed_package
from upshot.storage.embedded.server import (
    POLL_SECONDS,
    bound_log,
    is_listening,
    run_server,
    stop_server,
)


class Embedded:
    """A claim on the running Postgres of a data directory, until `close`."""

    def __init__(self, installation: Installation, claim: int) -> None:
        self._installation = installation
        self._claim: int | None = claim

    @property
    def url(self) -> str:
        """For asyncpg. The port is named, lest a `PGPORT` in the environment chooses another."""
        host = quote(str(self._installation.cluster), safe="")
        return f"postgresql://postgres@/postgres?host={host}&port={PORT}"

    def ensure_running(self) -> bool:
        """Start Postgres again if it died, and keep its log short. True if it had to be started.

        One that still recovers or is busy is left alone.
        """
        bound_log(self._installation)
        if is_listening(self._installation):
            return False
        with _one_at_a_time(self._installation.data_dir):
            if self._claim is None:
                return False
            return run_server(self._installation)

    def close(self) -> None:
        """Give up the claim. Whoever gives up the last one stops Postgres."""
        with _one_at_a_time(self._installation.data_dir):
            if self._claim is None:
                return
            try:
                if _nobody_else_claims(self._claim):
                    stop_server(self._installation)
            finally:
                os.close(self._claim)
                self._claim = None


def start(data_dir: Path) -> Embedded:
    """Run Postgres in `data_dir`, or join the one that runs there. Blocks: after a crash, minutes.

    A claim is a shared `flock`, which the kernel drops with the process, whichever way it dies.
    """
    package = installed_package()
    data_dir = data_dir.expanduser().resolve()
    check_path(data_dir)
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as err:
        raise EmbeddedUnavailable(
            f"The data directory {data_dir} cannot be made: {err.strerror}. "
            "Name another one in UPSHOT_DATA_DIR."
        ) from err
    with _one_at_a_time(data_dir):
        account = account_for(data_dir)
        binaries = binaries_for(package, data_dir, account)
        installation = Installation(data_dir=data_dir, binaries=binaries, account=account)
        claim = _open_lock(data_dir / "in-use.lock")
        try:
            fcntl.flock(claim, fcntl.LOCK_SH)
            make_cluster(installation)
            run_server(installation)
        except BaseException:
            os.close(claim)
            raise
    return Embedded(installation, claim)


@contextmanager
def _one_at_a_time(data_dir: Path) -> Iterator[None]:
    """Starting and stopping exclude each other among all processes that use `data_dir`."""
    lock = _open_lock(data_dir / "starting.lock")
    try:
        deadline = time.monotonic() + POSTGRES_STARTS_WITHIN.total_seconds()
        while not _try_lock(lock):
            if time.monotonic() > deadline:
                raise EmbeddedUnavailable(
                    f"Another process has been starting or stopping Postgres in {data_dir} for "
                    f"{POSTGRES_STARTS_WITHIN}. Look at {data_dir / 'postgres.log'}."
                )
            time.sleep(POLL_SECONDS)
        yield
    finally:
        os.close(lock)


def _open_lock(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as err:
        raise EmbeddedUnavailable(
            f"{path} cannot be opened: {err.strerror}. The data directory belongs to another user: "
            "run Upshot as that user, or name another directory in UPSHOT_DATA_DIR."
        ) from err


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _nobody_else_claims(claim: int) -> bool:
    # Raising a shared lock may lose it when somebody else holds one too. That is fine: the claim
    # is given up anyway, and nobody can start or stop meanwhile.
    return _try_lock(claim)
