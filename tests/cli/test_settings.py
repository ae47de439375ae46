"""What `upshot settings` shows."""

from pathlib import Path
from typing import Any

from tests.cli.conftest import Command
from upshot.settings import Settings


def shown(upshot: Command) -> dict[str, Any]:
    ended = upshot("settings", "--json")
    assert ended.code == 0
    return {row["setting"]: row for row in ended.json}


def test_every_setting_is_shown(upshot: Command) -> None:
    expected = {f"UPSHOT_{name.upper()}" for name in Settings.model_fields}
    assert set(shown(upshot)) == expected
    assert all(name in upshot("settings").out for name in expected)


def test_each_value_is_shown_with_where_it_comes_from(upshot: Command) -> None:
    Path(".env").write_text("UPSHOT_PORT=9001\nUPSHOT_HOST=localhost\n")
    upshot.set(UPSHOT_PORT="9002")
    rows = shown(upshot)
    assert (rows["UPSHOT_PORT"]["value"], rows["UPSHOT_PORT"]["source"]) == (9002, "environment")
    assert (rows["UPSHOT_HOST"]["value"], rows["UPSHOT_HOST"]["source"]) == ("localhost", ".env")
    assert rows["UPSHOT_LOG_LEVEL"]["source"] == "default"
    assert rows["UPSHOT_EVENT_RETENTION"]["value"] == 30 * 24 * 3600


def test_people_read_days(upshot: Command) -> None:
    upshot.set(UPSHOT_RUN_RETENTION="PT90M")
    (line,) = (line for line in upshot("settings").out.splitlines() if "RUN_RETENTION" in line)
    assert "5400 s" in line
    (line,) = (line for line in upshot("settings").out.splitlines() if "EVENT_RETENTION" in line)
    assert "30 days" in line


def test_no_secret_is_shown(upshot: Command) -> None:
    upshot.set(UPSHOT_API_KEY="a://b:hush@c")
    for url in ("postgresql://u:hush@h/d", "postgresql:///d?password=hush", "hush"):
        upshot.set(UPSHOT_DATABASE_URL=url)
        for ended in (upshot("settings"), upshot("settings", "--json")):
            assert ended.code == 0
            assert "hush" not in ended.out
            assert "UPSHOT_API_KEY" in ended.out


def test_a_setting_that_does_not_exist_is_told(upshot: Command) -> None:
    upshot.set(UPSHOT_PROT="9000", UPSHOT_API_URL="http://127.0.0.1:1")
    assert upshot("settings").err == "UPSHOT_PROT is set, and Upshot has no such setting.\n"
