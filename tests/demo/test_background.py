"""Processes that stay, and are found again."""

import os
import signal
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from upshot.core.errors import Conflict
from upshot.demo import background
from upshot.demo.background import Background, wait_until

WAITS = "import signal; print('here', flush=True); signal.pause()"
ENDS = "print('done')"
IGNORES = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + WAITS[14:]


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Background]:
    process = Background(tmp_path / "run", "one")
    yield process
    if process.is_running:
        os.kill(process.notes["pid"], signal.SIGKILL)


def start(process: Background, code: str) -> None:
    process.start([sys.executable, "-c", code], notes={"about": "it"})


def test_a_process_is_found_again_by_another_command(process: Background, tmp_path: Path) -> None:
    start(process, WAITS)
    found = Background(tmp_path / "run", "one")
    assert found.is_running
    assert found.notes["about"] == "it"
    assert wait_until(lambda: found.said() == "here\n", 10)
    assert found.stop()
    assert not process.is_running


def test_what_never_ran_is_not_running_and_needs_no_stop(process: Background) -> None:
    assert not process.is_running
    assert not process.stop()


def test_a_second_start_is_refused(process: Background) -> None:
    start(process, WAITS)
    with pytest.raises(Conflict):
        start(process, WAITS)


def test_a_process_that_ended_can_be_started_again(process: Background) -> None:
    start(process, ENDS)
    assert wait_until(lambda: not process.is_running, 10)
    assert process.last_words() == "done"
    start(process, WAITS)
    assert process.is_running


def test_a_process_that_was_killed_is_not_taken_for_running(process: Background) -> None:
    start(process, WAITS)
    os.kill(process.notes["pid"], signal.SIGKILL)
    assert wait_until(lambda: not process.is_running, 10)
    assert not process.stop()


def test_one_that_will_not_stop_is_killed(
    process: Background, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(process, IGNORES)
    assert wait_until(lambda: process.said() == "here\n", 10)
    monkeypatch.setattr(background, "DEMO_STOPS_WITHIN", timedelta(milliseconds=300))
    assert process.stop()
    assert not process.is_running


def test_what_is_noted_is_for_the_owner_alone(process: Background, tmp_path: Path) -> None:
    start(process, WAITS)
    assert (tmp_path / "run" / "one.json").stat().st_mode & 0o077 == 0
