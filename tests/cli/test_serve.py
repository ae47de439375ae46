"""`upshot serve` where it does not start."""

import os
import socket
import subprocess
import sys

import pytest

from tests.cli.conftest import Command


@pytest.mark.parametrize(
    "options",
    [
        ["--port", "65536"],
        ["--port", "many"],
        ["--only", "api,evaluation"],
        ["--only", ""],
        ["--log-level", "loud"],
        ["--host"],
    ],
)
def test_options_that_make_no_sense_are_an_error_of_usage(
    options: list[str], upshot: Command
) -> None:
    assert upshot("serve", *options).code == 2


def serve(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "upshot", "serve", *options],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_port_that_is_taken_is_told_in_one_line(upshot: Command, database_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = serve("--port", port, UPSHOT_PORT="1", UPSHOT_DATABASE_URL=database_url)
    assert ended.returncode == 1
    assert f"Error: Upshot cannot listen on 127.0.0.1:{port}" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_server_that_others_can_reach_does_not_start_without_a_key(
    upshot: Command, database_url: str
) -> None:
    ended = serve("--host", "0.0.0.0", "--port", "0", "--database-url", database_url)
    assert ended.returncode == 1
    assert "without any API key" in ended.stderr
    assert "upshot key create" in ended.stderr
    assert "Traceback" not in ended.stderr
