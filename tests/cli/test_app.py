"""The command as a whole: help, version, errors and exit codes."""

import subprocess
import sys
from importlib.metadata import version

import pytest

from tests.cli.conftest import Command

COMMANDS = [
    ("demo",),
    ("serve",),
    ("status",),
    ("settings",),
    ("migrate",),
    ("rebase",),
    ("version",),
    ("event", "emit"),
    ("event", "list"),
    ("event", "show"),
    ("trigger", "list"),
    ("trigger", "show"),
    ("trigger", "apply"),
    ("trigger", "delete"),
    ("trigger", "enable"),
    ("trigger", "disable"),
    ("deployment", "list"),
    ("deployment", "show"),
    ("deployment", "apply"),
    ("deployment", "delete"),
    ("deployment", "run"),
    ("run", "list"),
    ("run", "show"),
    ("run", "retry"),
    ("run", "cancel"),
    ("key", "create"),
    ("key", "list"),
    ("key", "revoke"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(command: tuple[str, ...], upshot: Command) -> None:
    ended = upshot(*command, "--help")
    assert ended.code == 0
    assert f"Usage: upshot {' '.join(command)}" in ended.out


@pytest.mark.parametrize("group", ["event", "trigger", "deployment", "run", "key"])
def test_no_line_of_a_list_of_commands_is_cut_off(group: str, upshot: Command) -> None:
    for ended in (upshot("--help"), upshot(group, "--help")):
        commands = ended.out.partition("Commands:")[2]
        assert commands
        assert "..." not in commands


def test_the_version_is_the_packages(upshot: Command) -> None:
    assert upshot("version").out == upshot("--version").out == f"upshot {version('upshot')}\n"


def test_a_command_that_does_not_exist_is_an_error_of_usage(upshot: Command) -> None:
    assert upshot("runs").code == 2


def test_a_setting_that_is_wrong_is_told_in_one_line(upshot: Command) -> None:
    upshot.set(UPSHOT_PORT="many")
    ended = upshot("settings")
    assert ended.code == 1
    assert ended.err.startswith("Error: UPSHOT_PORT: Input should be a valid integer")
    assert ended.out == ""


def test_the_command_starts_without_loading_the_server() -> None:
    code = "import sys; import upshot.cli.app; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert {"upshot.main", "fastapi", "alembic", "sqlalchemy"}.isdisjoint(loaded)


def test_what_a_process_without_the_api_loads() -> None:
    """The supervisor loads it before it forks; the rest is loaded where it is used."""
    code = "import sys; import upshot.main; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert {"fastapi", "starlette", "uvicorn", "alembic"}.isdisjoint(loaded)
