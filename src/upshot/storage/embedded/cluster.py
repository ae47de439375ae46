"""Postgres' own directory: made once, and its settings."""

import shutil
from pathlib import Path
from typing import Final

from upshot.storage.embedded.accounts import give, last_lines, run_as
from upshot.storage.embedded.data_dir import PORT
from upshot.storage.embedded.errors import EmbeddedUnavailable
from upshot.storage.embedded.installation import MAJOR, Installation

# An acknowledged event is a committed one, so whatever makes a commit durable stays on. The rest
# suits one writer-heavy database on a small machine; docker-compose.yml says the same.
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

shared_buffers = 384MB
work_mem = 16MB
maintenance_work_mem = 128MB
wal_buffers = 16MB
# With pglz, changing rows after a checkpoint took five times the processor time.
wal_compression = off
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


def make_cluster(installation: Installation) -> None:
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
    give(partial, installation.account)
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


def _must_succeed(installation: Installation, program: str, *args: str) -> None:
    command = [str(installation.binaries / program), *args]
    result = run_as(command, installation.account, cwd=installation.data_dir)
    if result.returncode != 0:
        raise EmbeddedUnavailable(
            f"{program} failed in {installation.data_dir}: {last_lines(result.stderr)}"
        )
