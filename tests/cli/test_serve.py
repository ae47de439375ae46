"""`upshot serve` where it does not start, and what its options override."""

import socket

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


def test_a_port_that_is_taken_is_told_in_one_line(upshot: Command, database_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        upshot.set(UPSHOT_PORT="1", UPSHOT_DATABASE_URL=database_url)
        ended = upshot("serve", "--port", port)
    assert ended.code == 1
    assert f"Error: Upshot cannot listen on 127.0.0.1:{port}" in ended.err
    assert "Traceback" not in ended.err


def test_a_server_that_others_can_reach_does_not_start_without_a_key(
    upshot: Command, database_url: str
) -> None:
    ended = upshot("serve", "--host", "0.0.0.0", "--port", "0", "--database-url", database_url)
    assert ended.code == 1
    assert "without any API key" in ended.err
    assert "upshot key create" in ended.err
