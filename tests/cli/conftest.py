"""The command as its users run it: with arguments and an environment, read by what it prints."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.e2e.server import Server, serving
from upshot.cli.app import app


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that has ended: its exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Command:
    """Runs `upshot` with nothing set but what a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def set(self, **environment: str) -> None:
        for name, value in environment.items():
            self._monkeypatch.setenv(name, value)

    def __call__(self, *arguments: str, stdin: str | None = None) -> Ended:
        result = CliRunner().invoke(app, list(arguments), input=stdin, catch_exceptions=False)
        return Ended(result.exit_code, result.stdout, result.stderr)

    async def beside(self, *arguments: str, stdin: str | None = None) -> Ended:
        """The same, while the test's own loop goes on."""
        return await asyncio.to_thread(self, *arguments, stdin=stdin)


def write(name: str, text: str) -> None:
    """A file in the current directory, which is the test's own."""
    Path(name).write_text(text)


@pytest.fixture
def upshot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    for name in os.environ:
        if name.startswith("UPSHOT_") and not name.startswith("UPSHOT_TEST_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return Command(monkeypatch)


@pytest.fixture
async def server(database_url: str, upshot: Command) -> AsyncIterator[Server]:
    """A running server, which the command finds by UPSHOT_API_URL."""
    async with serving(database_url) as server:
        upshot.set(UPSHOT_API_URL=str(server.api.http.base_url))
        yield server
