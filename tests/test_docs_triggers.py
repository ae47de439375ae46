"""Every example of docs/triggers.md does what the page says."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from upshot.cli.triggers import app
from upshot.core import limits
from upshot.core.errors import Invalid
from upshot.core.events import long_form
from upshot.core.simulation import Simulated, simulate

PAGE = Path(__file__).parents[1] / "docs" / "triggers.md"
TEXT = PAGE.read_text(encoding="utf-8")
REFUSED = "# refused: "
ANY_TRIGGER = "{name: any, deployment: any}"
ANY_TIME = '{"now": "2026-03-02T10:00:00Z"}'


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block, under the heading that it belongs to."""

    line: int
    heading: str
    language: str
    text: str

    @property
    def refusal(self) -> str | None:
        first = self.text.splitlines()[0]
        return first.removeprefix(REFUSED) if first.startswith(REFUSED) else None


@dataclass(frozen=True, slots=True)
class Example:
    """A trigger and its timeline; where one of them is refused, the other may be missing."""

    trigger: Block | None
    timeline: Block | None

    @property
    def refusal(self) -> str | None:
        written = [block for block in (self.trigger, self.timeline) if block is not None]
        return next((block.refusal for block in written if block.refusal), None)

    @property
    def id(self) -> str:
        block = self.trigger or self.timeline
        assert block is not None
        return f"{block.line}-{block.heading}"


FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROSE = FENCED.sub("", TEXT)
HEADINGS = re.findall(r"^#+ (.+)$", PROSE, re.MULTILINE)


def blocks() -> list[Block]:
    found = []
    for match in FENCED.finditer(TEXT):
        before = TEXT[: match.start()]
        heading = re.findall(r"^#+ (.+)$", FENCED.sub("", before), re.MULTILINE)[-1]
        found.append(Block(before.count("\n") + 1, heading, match[1], match[2]))
    return found


def examples() -> list[Example]:
    found: list[Example] = []
    trigger: Block | None = None
    for block in blocks():
        if block.language == "ndjson":
            found.append(Example(trigger, block))
            trigger = None
        elif block.language == "yaml":
            if trigger is not None:
                found.append(Example(trigger, None))
            trigger = block
    return found if trigger is None else [*found, Example(trigger, None)]


EXAMPLES = examples()
PLAYED = [example for example in EXAMPLES if example.refusal is None]
REFUSALS = [example for example in EXAMPLES if example.refusal is not None]


def triggers_of(example: Example) -> list[dict[str, Any]]:
    document = yaml.safe_load(ANY_TRIGGER if example.trigger is None else example.trigger.text)
    return document if isinstance(document, list) else [document]


def lines_of(example: Example) -> list[dict[str, Any]]:
    if example.timeline is None:
        return [json.loads(ANY_TIME)]
    written = example.timeline.text.splitlines()
    return [json.loads(line) for line in written if line and not line.startswith("#")]


def play(example: Example) -> tuple[list[Simulated], list[dict[str, Any]]]:
    """What fired, and what the page says that it should be."""
    lines = lines_of(example)
    expected = lines.pop()["expect_firings"]
    return simulate(triggers_of(example), lines), expected


def as_shown(firing: Simulated) -> dict[str, Any]:
    return {
        "trigger": firing.trigger,
        "at": firing.at,
        "labels": firing.labels,
        "event_id": firing.event_id and str(firing.event_id),
        "event_ids": [str(id) for id in firing.event_ids],
        "parameters": firing.parameters,
    }


def as_compared(expected: Mapping[str, Any]) -> dict[str, Any]:
    """The expected fields in the form of those that came."""
    compared = {**expected}
    if "at" in compared:
        compared["at"] = datetime.fromisoformat(compared["at"])
    if "labels" in compared:
        labels = compared["labels"]
        compared["labels"] = {_long(label): value for label, value in labels.items()}
    return compared


def _long(part: str) -> str:
    if not part.startswith("related:"):
        return long_form(part)
    related, role, label = part.split(":", 2)
    return f"{related}:{role}:{long_form(label)}"


@pytest.mark.parametrize("example", PLAYED, ids=[example.id for example in PLAYED])
def test_an_example_fires_what_the_page_says(example: Example) -> None:
    fired, expected = play(example)
    wanted = [as_compared(one) for one in expected]
    fields = [set(one) for one in wanted] + [{"at"}] * len(fired)
    came = [
        {name: value for name, value in as_shown(one).items() if name in fields[place]}
        for place, one in enumerate(fired)
    ]
    assert came == wanted
    assert [one.error for one in fired] == [None] * len(fired)


@pytest.mark.parametrize("example", REFUSALS, ids=[example.id for example in REFUSALS])
def test_what_the_page_calls_refused_is_refused(example: Example) -> None:
    assert example.refusal is not None
    with pytest.raises(Invalid, match=re.escape(example.refusal)):
        simulate(triggers_of(example), lines_of(example))


def test_no_example_stands_alone() -> None:
    alone = [one.id for one in PLAYED if one.trigger is None or one.timeline is None]
    assert alone == []
    assert {block.language for block in blocks()} == {"sh", "yaml", "ndjson"}


def test_every_part_of_the_language_has_its_example() -> None:
    without = {"Thirty seconds", "Limits", "Seeing what a trigger does", "Coming from Prefect"}
    page = re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]
    parts = {part.splitlines()[0]: part for part in page}
    assert without <= set(parts)
    assert [name for name in parts if name not in without and "```ndjson" not in parts[name]] == []


def test_the_thirty_seconds_can_be_pasted_and_lead_to_one_firing(tmp_path: Path) -> None:
    (pasted,) = (block.text for block in blocks() if block.language == "sh")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    shell = subprocess.run(
        ["sh", "-e"],
        input=pasted,
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    *_, firing, count = shell.stdout.splitlines()
    assert firing.startswith("2026-03-16T09:30:00Z")
    assert '{"user_id": "123"}' in firing
    assert count == "1 firing from 3 events."


@pytest.mark.parametrize("example", EXAMPLES, ids=[example.id for example in EXAMPLES])
def test_an_example_can_be_saved_and_run(example: Example, tmp_path: Path) -> None:
    trigger, events = tmp_path / "t.yaml", tmp_path / "events.ndjson"
    trigger.write_text(ANY_TRIGGER if example.trigger is None else example.trigger.text)
    events.write_text(ANY_TIME if example.timeline is None else example.timeline.text)
    played = CliRunner().invoke(app, ["test", "-f", str(trigger), str(events)])
    assert played.exit_code == (0 if example.refusal is None else 2), played.output


def test_links_inside_the_page_lead_to_headings() -> None:
    anchors = {re.sub(r"[^\w\- ]", "", name.lower()).replace(" ", "-") for name in HEADINGS}
    links = re.findall(r"\]\(#([^)]+)\)", PROSE)
    assert [link for link in links if link not in anchors] == []
    assert len(links) > 10


def test_the_limits_on_the_page_are_those_of_the_code() -> None:
    table = re.split(r"^## ", PROSE.split("\n## Limits\n")[1], flags=re.MULTILINE)[0]
    written = dict(re.findall(r"^\| (.+?) \| (.+) \|$", table, re.MULTILINE))
    del written["what"]
    assert written == {
        "`threshold`": f"{limits.THRESHOLD_MAX:,}",
        "`within`, `schedule_after`": f"{limits.DURATION_MAX.days:,} days",
        "`lateness`": f"{_minutes(limits.LATENESS_MAX)} minutes; "
        f"{_minutes(limits.LATENESS_DEFAULT)} minute where nothing is said",
        "patterns in a list": f"{limits.PATTERNS_MAX}, each as long as a name "
        f"({limits.EVENT_NAME_CHARS_MAX:,} characters) or a label's value",
        "parts of `for_each`": f"{limits.FOR_EACH_MAX}; a value {limits.KEY_VALUE_CHARS_MAX:,} "
        "characters",
        "`where`": f"{limits.WHERE_CHARS_MAX:,} characters; about {limits.WHERE_STEPS_MAX:,} steps "
        "for one event, or else the answer is no",
        "a composite": f"{limits.NODES_MAX} triggers in all, {limits.NODES_DEEP_MAX} deep",
        "`actions`": f"{limits.ACTIONS_MAX}",
        "a template": f"{limits.TEMPLATE_CHARS_MAX:,} characters; rendered parameters "
        f"{limits.PARAMETERS_BYTES_MAX // limits.KIB} KiB",
        "`events` in templates": f"the newest {limits.EVENTS_KEPT_MAX}",
        "expected events that wait for their `after` event": f"{limits.EARLY_MAX:,} a key",
        "`follows`": f"{_minutes(limits.HELD_FOR_MAX)} minutes; "
        f"{limits.HELD_EVENTS_MAX:,} events held at a time",
        "a chain of runs": f"{limits.CHAIN_DEPTH_MAX} deep",
    }


def _minutes(duration: timedelta) -> int:
    return duration // timedelta(minutes=1)
