"""Where the embedded Postgres lives, and where it cannot."""

import os
import pwd
from pathlib import Path
from typing import Final

from upshot.core.limits import SOCKET_PATH_BYTES_MAX
from upshot.storage.embedded.errors import EmbeddedUnavailable

PORT: Final = 5432
OS_USER: Final = "pgserver"

# pg_ctl hands its paths to a shell inside double quotes; a DSN splits hosts at commas.
UNSAFE_IN_PATHS: Final = frozenset('"$`\\,\n')


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


def check_path(data_dir: Path) -> None:
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
