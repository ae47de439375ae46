"""The OS user that Postgres runs as, and running its programs as that user."""

import os
import pwd
import subprocess
from dataclasses import dataclass
from pathlib import Path

from upshot.storage.embedded.data_dir import OS_USER, cluster_of, default_data_dir
from upshot.storage.embedded.errors import EmbeddedUnavailable


@dataclass(frozen=True, slots=True)
class Account:
    """The OS user that Postgres runs as when Upshot is root, since Postgres refuses to be root."""

    uid: int
    gid: int


def account_for(data_dir: Path) -> Account | None:
    if os.geteuid() != 0:
        return None
    account = _owner(cluster_of(data_dir)) or _ensure_account()
    closed = _first_closed([*reversed(data_dir.parents), data_dir], account)
    if closed not in (None, data_dir):
        raise EmbeddedUnavailable(
            f"Postgres runs as the user {OS_USER!r}, who may not enter {closed}, and so cannot "
            f"reach the data directory {data_dir}. Leave UPSHOT_DATA_DIR unset for "
            f"{default_data_dir()}, or name another one."
        )
    if closed == data_dir:
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


def _first_closed(folders: list[Path], account: Account) -> Path | None:
    """Which of these the account may not enter."""
    script = 'n=0; for f; do test -x "$f" || { echo $n; exit; }; n=$((n + 1)); done'
    probe = ["/bin/sh", "-c", script, "sh", *map(str, folders)]
    said = run_as(probe, account, cwd=Path("/")).stdout.strip()
    return folders[int(said)] if said else None


def give(path: Path, account: Account | None) -> None:
    if account is not None:
        os.chown(path, account.uid, account.gid)


def run_as(
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


def last_lines(said: str) -> str:
    return " / ".join(line.strip() for line in said.strip().splitlines()[-3:])
