"""What is printed, for people and for terminals."""

import pytest

from upshot.cli.output import local_time, plain


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (True, "yes"),
        (0, "0"),
        (["a", "b"], "a, b"),
        ([1.5], "[1.5]"),
        ({"größe": "[bold]"}, '{"größe": "[bold]"}'),
        ("two\nlines", "two\nlines"),
    ],
)
def test_values_are_shown_as_people_write_them(value: object, text: str) -> None:
    assert plain(value) == text


@pytest.mark.parametrize("text", ["\x1b[2J", "\x07", "\r", "\x9b31m", "\u202e"])
def test_what_others_wrote_cannot_drive_the_terminal(text: str) -> None:
    shown = plain(f"a{text}b")
    assert shown.isprintable()
    assert shown.startswith("a\\")


def test_a_time_that_is_not_there_is_shown_as_nothing() -> None:
    assert local_time(None) == ""
