"""Patterns for names and label values."""

import fnmatch
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upshot.core.patterns import parse_pattern, parse_patterns


@pytest.mark.parametrize(
    ("patterns", "value", "matches"),
    [
        (["order.created"], "order.created", True),
        (["order.created"], "order.createdx", False),
        (["order.*"], "order.", True),
        (["order.*"], "order.created", True),
        (["order.*"], "orders", False),
        (["*"], "", True),
        (["*.failed"], "run.failed", True),
        (["a*b*c"], "a-b-b-c", True),
        (["a*b*c"], "a-c-b", False),
        (["ab*ba"], "aba", False),
        (["ab*ba"], "abba", True),
        (["a?c"], "abc", False),
        (["a?c"], "a?c", True),
        (["[ab]"], "a", False),
        (["[ab]"], "[ab]", True),
        (["Order"], "order", False),
        (["line*end"], "line\nend", True),
        (["parcel.*", "!parcel.lost"], "parcel.sent", True),
        (["parcel.*", "!parcel.lost"], "parcel.lost", False),
        (["!north", "!south"], "east", True),
        (["!north", "!south"], "south", False),
        (["!n*"], "north", False),
        ([], "anything", False),
        ([], "", False),
    ],
)
def test_a_list_matches_one_positive_and_no_negative(
    patterns: list[str], value: str, matches: bool
) -> None:
    assert parse_patterns(patterns).matches(value) is matches


@pytest.mark.parametrize(
    ("patterns", "matches"),
    [
        (["*"], False),
        (["*.failed"], False),
        (["up*"], False),
        (["!order.*"], False),
        (["upshot.*"], True),
        (["upshot.run.failed"], True),
        (["upshot.*", "!*.failed"], False),
        (["order.*", "upshot.run.*"], True),
    ],
)
def test_own_events_need_a_pattern_that_begins_with_upshot(
    patterns: list[str], matches: bool
) -> None:
    assert parse_patterns(patterns).matches_name("upshot.run.failed") is matches


@pytest.mark.parametrize(
    ("patterns", "matches"),
    [
        (["*"], False),
        (["prefect.*"], False),
        (["*.triggered"], False),
        (["!order.*"], False),
        (["upshot.*"], False),
        (["prefect.automation.*"], True),
        (["prefect.automation.triggered"], True),
        (["*", "prefect.automation.*"], True),
        (["prefect.automation.*", "!*.triggered"], False),
    ],
)
def test_what_is_announced_needs_a_pattern_that_names_it(
    patterns: list[str], matches: bool
) -> None:
    assert parse_patterns(patterns).matches_name("prefect.automation.triggered") is matches


def test_many_stars_take_linear_time() -> None:
    # A backtracking matcher would need longer than the universe has.
    assert not parse_pattern("*a" * 500 + "b").matches("a" * 8192)


@given(st.text("ab*", max_size=8), st.text("ab", max_size=12))
def test_stars_mean_what_they_mean_to_fnmatch(pattern: str, value: str) -> None:
    expected = re.match(fnmatch.translate(pattern), value) is not None
    assert parse_pattern(pattern).matches(value) is expected
