"""`upshot trigger test`: triggers against a file of events, with no server and no database."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Annotated, Any, BinaryIO, Final, TextIO

import typer

from upshot.cli.definitions import DefinitionFile
from upshot.cli.exits import ERROR
from upshot.cli.expected_firings import (
    Came,
    Expected,
    differences,
    document_of,
    read_expected,
    zulu,
)
from upshot.cli.options import AsJson
from upshot.cli.output import counted, plain, tell
from upshot.cli.trigger_suite import STDIN, Expectation, read_suite, shown
from upshot.core.errors import Invalid, UpshotError
from upshot.core.limits import PROGRESS_AFTER, TEST_LINE_BYTES_MAX
from upshot.core.simulation import Simulated, Simulation

UNREADABLE: Final = 2
"""The exit code where a file cannot be read or breaks a rule; ERROR is for other firings."""

_COMMENTS: Final = (b"#", b"//")


def play(
    file: DefinitionFile,
    events: Annotated[
        Path,
        typer.Argument(
            metavar="EVENTS", help="Events, one JSON object a line; - is standard input."
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Try triggers on a file of events, with no server and no waiting.

    Each line of EVENTS is an event, with its arrival in "received" (default: its "occurred"), or
    {"now": "<time>"}, which moves the clock on, {"disable": "<name>"}, {"enable": "<name>"},
    {"put": {trigger}} or {"delete": "<name>"}. Blank lines and those that begin with # or // are
    skipped. The triggers are there from the first line with a time.

    Expected firings can stand in "expect_firings", in their order: beside a trigger's fields (that
    trigger's), beside "triggers" in a file {triggers: [...]} (all), or as a line
    {"expect_firings": [...]} of EVENTS (all since the last such line). Each is an object with any
    of a firing's fields: trigger, at, labels, event_id, event_ids, parameters, error. A number
    instead of the list is how many.

    Exit code: 0 as expected, 1 other firings than those expected, 2 a file is wrong.

    \b
    Example:
      upshot trigger test -f trigger.yaml - <<END
      {"event": "order.created", "resource": {"id": "1"}, "occurred": "2026-01-31T10:00:00Z"}
      {"event": "order.complete", "resource": {"id": "1"}, "occurred": "2026-02-07T10:00:00Z"}
      {"expect_firings": [{"labels": {"id": "1"}}]}
      END
    """
    if str(file) == str(events) == STDIN:
        raise typer.BadParameter("standard input can be only one of the two files.")
    try:
        is_as_expected = _play(file, events, as_json)
    except Invalid as error:
        tell(f"Error: {error.message}")
        raise typer.Exit(UNREADABLE) from None
    if not is_as_expected:
        raise typer.Exit(ERROR)


class Progress:
    """How far a long run is: one line on a terminal, gone when something else is printed."""

    def __init__(self, out: TextIO, clock: Callable[[], float] = monotonic) -> None:
        self._out, self._clock = out, clock
        self._is_on = out.isatty()
        self._is_shown = False
        self._next_at = clock() + PROGRESS_AFTER.total_seconds()

    def tell(self, lines: int) -> None:
        if self._is_on and self._clock() >= self._next_at:
            self._next_at = self._clock() + 1
            self._is_shown = True
            self._out.write(f"\r{lines:,} lines\033[K")
            self._out.flush()

    def clear(self) -> None:
        if self._is_shown:
            self._is_shown = False
            self._out.write("\r\033[K")
            self._out.flush()


@dataclass(slots=True)
class _Ledger:
    """What is expected, and what came."""

    expectations: Sequence[Expectation]
    since_last_line: Came = field(default_factory=Came)
    is_as_expected: bool = True
    _came: list[Came] = field(init=False)

    def __post_init__(self) -> None:
        self._came = [Came() for _ in self.expectations]

    def add(self, firing: Simulated) -> None:
        self.since_last_line.add(firing)
        for expectation, came in zip(self.expectations, self._came, strict=True):
            if expectation.trigger in (None, firing.trigger):
                came.add(firing)

    def settle_line(self, where: str, expected: Expected) -> None:
        self._settle(where, expected, self.since_last_line)
        self.since_last_line = Came()

    def settle_all(self) -> None:
        for expectation, came in zip(self.expectations, self._came, strict=True):
            self._settle(expectation.where, expectation.firings, came)

    def _settle(self, where: str, expected: Expected, came: Came) -> None:
        found = differences(expected, came)
        if found:
            self.is_as_expected = False
            tell("\n".join([f"{where}: {found[0]}", *found[1:]]))


def _play(file: Path, events: Path, as_json: bool) -> bool:
    """Whether all came as expected."""
    suite = read_suite(file)
    simulation = Simulation(suite.triggers)
    ledger, progress = _Ledger(suite.expectations), Progress(sys.stderr)
    names = [str(trigger["name"]) for trigger in suite.triggers]
    event_count = firing_count = 0
    with _printing(as_json, names) as show:
        try:
            for number, line in _lines(events):
                progress.tell(number)
                with _located(events, number):
                    if "expect_firings" in line and "event" not in line:
                        progress.clear()
                        ledger.settle_line(f"{shown(events)}, line {number}", _expected_in(line))
                        continue
                    event_count += "event" in line
                    for firing in simulation.play(line):
                        progress.clear()
                        firing_count += 1
                        show(firing)
                        ledger.add(firing)
        finally:
            progress.clear()
    if not as_json:
        typer.echo(f"{counted(firing_count, 'firing')} from {counted(event_count, 'event')}.")
    ledger.settle_all()
    return ledger.is_as_expected


def _lines(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The lines that say something, with their numbers."""
    with _opened(file) as stream:
        number = 0
        while raw := stream.readline(TEST_LINE_BYTES_MAX + 1):
            number += 1
            text = raw.removeprefix(b"\xef\xbb\xbf").strip() if number == 1 else raw.strip()
            if text and not text.startswith(_COMMENTS):
                with _located(file, number):
                    line = _object(text)
                yield number, line


def _object(text: bytes) -> dict[str, Any]:
    if len(text) > TEST_LINE_BYTES_MAX:
        raise Invalid(f"is too long; at most {TEST_LINE_BYTES_MAX} bytes fit a line.")
    try:
        line = json.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise Invalid(f"is no JSON: {error}.") from None
    if not isinstance(line, dict):
        raise Invalid("is no JSON object.")
    return line


def _expected_in(line: dict[str, Any]) -> Expected:
    if len(line) != 1:
        raise Invalid("has other fields beside 'expect_firings'.")
    return read_expected(line["expect_firings"])


@contextmanager
def _located(file: Path, number: int) -> Iterator[None]:
    try:
        yield
    except UpshotError as error:
        raise Invalid(f"{shown(file)}, line {number}: {error.message}", error.problems) from None


@contextmanager
def _opened(file: Path) -> Iterator[BinaryIO]:
    if str(file) == STDIN:
        yield sys.stdin.buffer
        return
    try:
        stream = file.open("rb")
    except OSError as error:
        raise Invalid(f"{file} cannot be read: {error.strerror}.") from None
    with stream:
        yield stream


@contextmanager
def _printing(as_json: bool, names: Sequence[str]) -> Iterator[Callable[[Simulated], None]]:
    """Prints each firing as it comes; the array ends well whatever happens."""
    if not as_json:
        width = max(map(len, names))
        yield lambda firing: print(_line_of(firing, width))
        return
    count = 0

    def show(firing: Simulated) -> None:
        nonlocal count
        document = json.dumps(document_of(firing), ensure_ascii=False)
        sys.stdout.write(f"{',' if count else '['}\n  {document}")
        count += 1

    try:
        yield show
    finally:
        typer.echo("\n]" if count else "[]")


def _line_of(firing: Simulated, width: int) -> str:
    labels = ", ".join(f"{name}={value}" for name, value in firing.labels.items())
    rendered = json.dumps(firing.parameters, ensure_ascii=False)
    line = "  ".join(
        (
            zulu(firing.at),
            f"{firing.trigger:{width}}",
            labels or "-",
            firing.event or "-",
            rendered if firing.error is None else f"error: {firing.error}",
        )
    )
    return plain(line).replace("\n", "\\n")
