"""`upshot trigger test`: triggers over a file of events, without a server."""

import io
import json
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.cli.conftest import Command, Ended, write
from upshot.cli.expected_firings import Came, differences
from upshot.cli.trigger_test import Progress
from upshot.core.limits import (
    DIFFERENCES_SHOWN_MAX,
    EXPECTED_FIRINGS_MAX,
    TEST_LINE_BYTES_MAX,
)
from upshot.core.simulation import Simulated

TRIGGER = """\
name: order-complete
deployment: post-order-complete
after: order.created
expect: order.complete
for_each: id
parameters:
  user_id: "{{ event.resource.id }}"
"""
SILENCE = "{name: silence, deployment: d, posture: Proactive, expect: beat, within: 60}"
ANY = "{name: any, deployment: d, expect: order.complete, parameters: {n: 17, ok: true}}"
A = "00000000-0000-0000-0000-00000000000a"


def line(name: str, resource: str, occurred: str, **fields: Any) -> str:
    when = f"2026-01-{occurred}Z"
    return json.dumps({"event": name, "resource": {"id": resource}, "occurred": when, **fields})


STORY = [
    line("order.created", "123", "01T10:00:00"),
    line("order.created", "456", "01T10:00:01"),
    line("order.complete", "123", "08T10:00:00", id=A),
]


def tried(upshot: Command, triggers: str, lines: list[str], *options: str) -> Ended:
    write("t.yaml", triggers)
    write("events.ndjson", "\n".join(lines))
    return upshot("trigger", "test", "-f", "t.yaml", "events.ndjson", *options)


def test_the_shops_story_needs_no_server_and_no_waiting(upshot: Command) -> None:
    ended = tried(upshot, TRIGGER, STORY)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == (
        "2026-01-08T10:00:00Z  order-complete  prefect.resource.id=123  order.complete  "
        '{"user_id": "123"}\n'
        "1 firing from 3 events.\n"
    )


def test_json_has_every_firing_in_full(upshot: Command) -> None:
    ended = tried(upshot, f"[{ANY}, {SILENCE}]", [*STORY, STORY[2]], "--json")
    at = "2026-01-08T10:00:00Z"
    alarms = [one for one in ended.json if one["trigger"] == "silence"]
    assert alarms[0] == {
        "trigger": "silence",
        "at": "2026-01-01T10:01:00Z",
        "labels": {},
        "event_id": None,
        "event_ids": [],
        "parameters": {},
    }
    assert [one for one in ended.json if one["trigger"] == "any"] == [
        {
            "trigger": "any",
            "at": at,
            "labels": {},
            "event_id": A,
            "event_ids": [A],
            "parameters": {"n": 17, "ok": True},
        }
    ]


def test_nothing_fired_is_an_empty_array(upshot: Command) -> None:
    assert tried(upshot, TRIGGER, STORY[:2], "--json").json == []
    assert tried(upshot, TRIGGER, []).out == "0 firings from 0 events.\n"


def test_an_alarm_has_the_time_at_which_the_clock_passes_its_deadline(upshot: Command) -> None:
    lines = ['{"now": "2026-01-01T10:00:00Z"}', '{"now": "2026-01-01T10:02:30.5Z"}']
    assert tried(upshot, SILENCE, lines).out == (
        "2026-01-01T10:01:00Z  silence  -  -  {}\n"
        "2026-01-01T10:02:00Z  silence  -  -  {}\n"
        "2 firings from 0 events.\n"
    )


def test_triggers_can_be_changed_by_lines(upshot: Command) -> None:
    document = {"name": "any", "deployment": "d", "expect": "b"}
    lines = [
        line("order.complete", "1", "01T10:00:00"),
        '{"disable": "any"}',
        line("order.complete", "2", "01T10:00:01"),
        '{"enable": "any"}',
        line("order.complete", "3", "01T10:00:02"),
        json.dumps({"put": document}),
        line("order.complete", "4", "01T10:00:03"),
        line("b", "5", "01T10:00:04"),
        '{"delete": "any"}',
        line("b", "6", "01T10:00:05"),
    ]
    ended = tried(upshot, ANY, lines, "--json")
    assert [one["at"] for one in ended.json] == [
        "2026-01-01T10:00:00Z",
        "2026-01-01T10:00:02Z",
        "2026-01-01T10:00:04Z",
    ]


def test_blank_lines_and_comments_are_skipped(upshot: Command) -> None:
    lines = ["\ufeff# the shop", "", *STORY[:2], "   ", "// later", STORY[2]]
    assert tried(upshot, TRIGGER, lines).out.endswith("1 firing from 3 events.\n")


def test_either_file_can_be_standard_input(upshot: Command) -> None:
    write("t.yaml", TRIGGER)
    write("events.ndjson", "\n".join(STORY))
    command = ("trigger", "test", "-f")
    from_events = upshot(*command, "t.yaml", "-", stdin="\n".join(STORY))
    from_triggers = upshot(*command, "-", "events.ndjson", stdin=TRIGGER)
    assert from_events.out == from_triggers.out
    assert from_events.out.endswith("1 firing from 3 events.\n")
    assert upshot(*command, "-", "-").code == 2


def test_one_trigger_needs_no_name(upshot: Command) -> None:
    unnamed = TRIGGER.partition("\n")[2]
    assert tried(upshot, unnamed, STORY, "--json").json[0]["trigger"] == "trigger"


def test_parameters_that_cannot_be_rendered_say_why(upshot: Command) -> None:
    triggers = 'deployment: d\nexpect: order.*\nparameters: {x: "{{ event.payload.nothing }}"}'
    (firing,) = tried(upshot, triggers, STORY[:1], "--json").json
    assert firing["parameters"] is None
    assert "nothing" in firing["error"]
    assert f"error: {firing['error']}\n" in tried(upshot, triggers, STORY[:1]).out


@pytest.mark.parametrize(
    "expected",
    [
        "1",
        "[{}]",
        "[{labels: {id: 123}}]",
        "[{labels: {prefect.resource.id: '123'}, trigger: order-complete}]",
        "[{at: 2026-01-08T10:00:00Z}]",
        "[{at: '2026-01-08T11:00:00+01:00'}]",
        "[{at: 2026-01-08 10:00:00}]",
        f"[{{event_id: {A.upper()}, event_ids: [{A}]}}]",
        "[{parameters: {user_id: '123'}}]",
    ],
)
def test_firings_that_came_as_expected_are_no_news(upshot: Command, expected: str) -> None:
    ended = tried(upshot, f"{TRIGGER}expect_firings: {expected}", STORY)
    assert (ended.code, ended.err) == (0, "")


@pytest.mark.parametrize(
    "expected",
    [
        "0",
        "2",
        "[]",
        "[{}, {}]",
        "[{trigger: other}]",
        "[{labels: {}}]",
        "[{labels: {id: 124}}]",
        "[{at: 2026-01-08T10:00:01Z}]",
        "[{event_id: null}]",
        "[{event_ids: []}]",
        "[{parameters: {}}]",
        "[{parameters: {user_id: 123}}]",
        "[{parameters: null}]",
        "[{error: 'no'}]",
    ],
)
def test_other_firings_than_expected_end_with_1(upshot: Command, expected: str) -> None:
    ended = tried(upshot, f"{TRIGGER}expect_firings: {expected}", STORY, "--json")
    assert ended.code == 1
    assert ended.err.startswith("t.yaml, line 8, trigger 'order-complete': ")
    assert len(ended.json) == 1


@pytest.mark.parametrize(
    ("expected", "code"),
    [
        ("{n: 17.0, ok: true}", 0),
        ("{n: true, ok: true}", 1),
        ("{n: 17, ok: 1}", 1),
        ("{n: '17', ok: true}", 1),
        ("{n: 17}", 1),
    ],
)
def test_values_are_compared_as_json(upshot: Command, expected: str, code: int) -> None:
    lines = [line("order.complete", "1", "01T10:00:00")]
    triggers = ANY[:-1] + f", expect_firings: [{{parameters: {expected}}}]}}"
    assert tried(upshot, triggers, lines).code == code


def test_the_difference_shows_what_was_asked_of_the_firings_that_are_others(
    upshot: Command,
) -> None:
    labels = [f"{{labels: {{id: {n}}}}}" for n in (1, 2, 4, 5)]
    triggers = (
        "deployment: d\nexpect: a\nfor_each: id\n"
        f"expect_firings: [{', '.join(labels[:1] + labels[2:])}]"
    )
    lines = [line("a", str(n), "01T10:00:00") for n in (1, 2, 3, 5)]
    assert tried(upshot, triggers, lines).err == (
        "t.yaml, line 4, trigger 'trigger': 3 firings expected, 4 came:\n"
        "    1 firing as expected\n"
        '  - {"labels": {"prefect.resource.id": "4"}}\n'
        '  + {"labels": {"prefect.resource.id": "2"}}\n'
        '  + {"trigger": "trigger", "at": "2026-01-01T10:00:00Z", '
        '"labels": {"prefect.resource.id": "3"}, "parameters": {}}\n'
        "    1 firing as expected\n"
    )


def test_firings_in_another_order_are_not_those_expected(upshot: Command) -> None:
    triggers = (
        "deployment: d\nexpect: a\nfor_each: id\n"
        "expect_firings: [{labels: {id: 2}}, {labels: {id: 1}}]"
    )
    lines = [line("a", str(n), "01T10:00:00") for n in (1, 2)]
    ended = tried(upshot, triggers, lines)
    assert ended.code == 1
    assert "2 firings came, as many as expected, but not as expected:" in ended.err


def test_a_trigger_is_asked_for_its_own_firings_and_a_file_for_all(upshot: Command) -> None:
    own = TRIGGER.replace("\n", "\n  ").rstrip()
    triggers = (
        f"triggers:\n- {own}\n  expect_firings: 1\n- {ANY}\n"
        "expect_firings: [{trigger: order-complete}, {trigger: any}]\n"
    )
    assert tried(upshot, triggers, STORY).err == ""
    ended = tried(upshot, triggers.replace("expect_firings: 1", "expect_firings: 2"), STORY)
    assert ended.code == 1
    assert ended.err.startswith("t.yaml, line 9, trigger 'order-complete': 2 firings expected, 1 ")
    ended = tried(upshot, triggers.replace("{trigger: any}", ""), STORY)
    assert ended.err.startswith("t.yaml, line 11: 1 firing expected, 2 came:\n")


def test_a_compound_trigger_is_no_file_of_triggers(upshot: Command) -> None:
    triggers = (
        "type: compound\ndeployment: d\nrequire: all\nexpect_firings: 1\n"
        "triggers: [{expect: order.created}, {expect: order.complete}]\n"
    )
    assert tried(upshot, triggers, STORY).code == 0


def test_a_line_asks_for_the_firings_since_the_last_such_line(upshot: Command) -> None:
    lines = [
        STORY[0],
        '{"expect_firings": 0}',
        STORY[2],
        '{"expect_firings": [{"labels": {"id": "123"}}]}',
        '{"expect_firings": []}',
    ]
    assert tried(upshot, TRIGGER, lines).err == ""
    ended = tried(upshot, TRIGGER, [*lines[:1], *lines[2:3], *lines[1:2], *lines[3:]])
    assert ended.code == 1
    assert ended.err == (
        "events.ndjson, line 3: 0 firings expected, 1 came:\n"
        '  + {"trigger": "order-complete", "at": "2026-01-08T10:00:00Z", '
        '"labels": {"prefect.resource.id": "123"}, "parameters": {"user_id": "123"}}\n'
        "events.ndjson, line 4: 1 firing expected, 0 came:\n"
        '  - {"labels": {"prefect.resource.id": "123"}}\n'
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "t.yaml holds no trigger"),
        ("# nothing", "t.yaml holds no trigger"),
        ("name: {", "t.yaml, line 1 is no YAML"),
        ("name: a\n\nname: b: c", "t.yaml, line 3 is no YAML"),
        ("name: a\nx: !!binary aGk=", "t.yaml, line 1 is no JSON"),
        ("a", "t.yaml, line 1 is no object"),
        (f"- {ANY}\n- deployment: d", "t.yaml, line 2 has no name"),
        (f"- {ANY}\n---\n- {ANY}", "t.yaml, line 3: there is a trigger 'any' already"),
        ("name: a", "t.yaml, line 1: Trigger 'a': deployment: Field required"),
        (TRIGGER.replace("for_each", "foreach"), "t.yaml, line 5: Trigger 'order-complete': forea"),
        (TRIGGER + "threshold: 0", "t.yaml, line 8: Trigger 'order-complete': threshold: "),
        (TRIGGER.replace("}}", "}"), "t.yaml, line 7: Trigger 'order-complete': parameters.user_i"),
        ("triggers: []\nexpected: 1", "t.yaml, line 2: 'expected' is unknown beside 'triggers'"),
        ("triggers: 1", "t.yaml, line 1: triggers must be a list"),
        ("triggers: []", "t.yaml holds no trigger"),
        (f"{TRIGGER}expect_firings: many", "t.yaml, line 8: expect_firings must be a number, or"),
        (f"{TRIGGER}expect_firings: true", "t.yaml, line 8: expect_firings must be a number, or"),
        (f"{TRIGGER}expect_firings: -1", "t.yaml, line 8: expect_firings must be a number, or"),
        (
            f"{TRIGGER}expect_firings: [1]",
            "t.yaml, line 8: expect_firings.0 must be an object with fields of a firing",
        ),
        (
            f"{TRIGGER}expect_firings:\n- {{}}\n- at: noon",
            't.yaml, line 10: expect_firings.1.at cannot be "noon"',
        ),
        (
            f"{TRIGGER}expect_firings:\n- label: {{}}",
            "t.yaml, line 9: expect_firings.0.label is no field of a firing; those are trigger,",
        ),
        (f"{TRIGGER}expect_firings: [{{trigger: 1}}]", "expect_firings.0.trigger cannot be 1"),
        (f"{TRIGGER}expect_firings: [{{event_ids: 7}}]", "expect_firings.0.event_ids cannot be 7"),
        (f"{TRIGGER}expect_firings: [{{event_id: x}}]", "expect_firings.0.event_id cannot be"),
        (f"{TRIGGER}expect_firings: [{{labels: [x]}}]", "expect_firings.0.labels cannot be"),
        (f"{TRIGGER}expect_firings: [{{labels: {{id: {{}}}}}}]", "expect_firings.0.labels cannot "),
        (f"{TRIGGER}expect_firings: [{{parameters: 7}}]", "expect_firings.0.parameters cannot be"),
    ],
)
def test_a_file_of_triggers_that_is_wrong_ends_with_2_and_names_the_line(
    upshot: Command, text: str, message: str
) -> None:
    ended = tried(upshot, text, STORY)
    assert ended.code == 2
    assert message in ended.err
    assert ended.err.startswith("Error: t.yaml")
    assert ended.out == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "line 2: is no JSON:"),
        ("[" * 100_000, "line 2: is no JSON:"),
        ("[]", "line 2: is no JSON object."),
        ("{}", "line 2: is neither an event nor one of"),
        ('{"now": "noon"}', "line 2: now: 'noon' is no time such as"),
        ('{"enable": "nobody"}', "line 2: there is no trigger 'nobody'."),
        ('{"put": {"deployment": "d"}}', "line 2: the trigger has no name."),
        ('{"put": {"name": "a"}}', "line 2: Trigger 'a': deployment: Field required"),
        ('{"event": "a"}', "line 2: resource: "),
        ('{"event": "a", "resource": {"id": "1"}, "n": NaN}', "line 2: n: "),
        ('{"event": "a", "resource": {"id": "1"}, "expect_firings": 1}', "line 2: expect_firings"),
        ('{"expect_firings": {}}', "line 2: expect_firings must be a number, or a list"),
        ('{"expect_firings": 1, "now": 2}', "line 2: has other fields beside 'expect_firings'."),
        ("x" * (TEST_LINE_BYTES_MAX + 1), "line 2: is too long; at most 4194304 bytes fit"),
    ],
)
def test_a_line_that_is_wrong_ends_with_2_and_is_named(
    upshot: Command, text: str, message: str
) -> None:
    ended = tried(upshot, TRIGGER, [STORY[0], text, STORY[2]], "--json")
    assert ended.code == 2
    assert ended.err.startswith(f"Error: events.ndjson, {message}")
    assert ended.json == []


def test_a_time_that_no_calendar_reaches_is_told(upshot: Command) -> None:
    ended = tried(upshot, SILENCE, ['{"now": "9999-12-31T23:59:59Z"}'])
    assert ended.code == 2
    assert ended.err.startswith("Error: events.ndjson, line 1: no calendar reaches")


def test_a_line_that_is_no_utf_8_is_named(upshot: Command) -> None:
    write("t.yaml", TRIGGER)
    with open("events.ndjson", "wb") as file:
        file.write(f"{STORY[0]}\n".encode() + b'{"now": "\xff"}\n')
    ended = upshot("trigger", "test", "-f", "t.yaml", "events.ndjson")
    assert ended.code == 2
    assert ended.err.startswith("Error: events.ndjson, line 2: is no JSON:")


def test_a_file_that_is_not_there_ends_with_2(upshot: Command) -> None:
    write("t.yaml", TRIGGER)
    ended = upshot("trigger", "test", "-f", "t.yaml", "nowhere.ndjson")
    assert (ended.code, ended.err) == (
        2,
        "Error: nowhere.ndjson cannot be read: No such file or directory.\n",
    )
    ended = upshot("trigger", "test", "-f", "nowhere.yaml", "t.yaml")
    assert (ended.code, ended.err) == (
        2,
        "Error: nowhere.yaml cannot be read: No such file or directory.\n",
    )


def test_what_events_hold_cannot_drive_the_terminal(upshot: Command) -> None:
    lines = [line("order.complete", "1\x1b[2J\n2", "01T10:00:00")]
    triggers = "deployment: d\nexpect: order.*\nfor_each: id\n"
    ended = tried(upshot, triggers, lines)
    assert "prefect.resource.id=1\\x1b[2J\\n2  order.complete" in ended.out


def firing(n: int) -> Simulated:
    return Simulated(
        trigger="t",
        at=datetime(2026, 1, 1, tzinfo=UTC),
        labels={"n": str(n)},
        event_id=None,
        event_ids=(),
        parameters={},
    )


def test_however_many_firings_come_only_as_many_are_kept_as_can_be_expected() -> None:
    came = Came()
    for n in range(EXPECTED_FIRINGS_MAX + 2):
        came.add(firing(n))
    assert len(came.first) == EXPECTED_FIRINGS_MAX
    assert differences(EXPECTED_FIRINGS_MAX + 2, came) == []
    assert differences(tuple(came.first), came) != []


def test_of_many_differences_the_first_are_shown() -> None:
    came = Came()
    for n in range(100):
        came.add(firing(n))
    found = differences(0, came)
    assert len(found) == 1 + 2 * DIFFERENCES_SHOWN_MAX + 1
    assert found[-1].strip() == "..."


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_long_run_shows_its_progress_on_a_terminal() -> None:
    now = 0.0
    terminal = Terminal()
    progress = Progress(terminal, clock=lambda: now)
    progress.tell(1_000)
    progress.clear()
    assert terminal.getvalue() == ""
    now = 2.0
    progress.tell(2_000)
    progress.tell(2_001)
    assert terminal.getvalue() == "\r2,000 lines\033[K"
    progress.clear()
    assert terminal.getvalue().endswith("\r\033[K")


def test_progress_is_for_terminals_alone() -> None:
    now = 0.0
    file = io.StringIO()
    progress = Progress(file, clock=lambda: now)
    now = 60.0
    progress.tell(1_000_000)
    progress.clear()
    assert file.getvalue() == ""


def test_neither_the_server_nor_a_database_driver_is_loaded(upshot: Command) -> None:
    write("t.yaml", TRIGGER)
    write("events.ndjson", "\n".join(STORY))
    program = (
        "import sys\n"
        "from upshot.cli.app import app\n"
        "app(['trigger', 'test', '-f', 't.yaml', 'events.ndjson'], standalone_mode=False)\n"
        "print(sorted({'fastapi', 'sqlalchemy', 'asyncpg', 'aiohttp'} & set(sys.modules)))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert ended.stdout.splitlines()[-2:] == ["1 firing from 3 events.", "[]"]
