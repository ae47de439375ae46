"""Definitions read from files."""

from pathlib import Path
from typing import Any

import pytest

from upshot.cli.definitions import read_definitions
from upshot.core.errors import Invalid


def read(tmp_path: Path, text: str) -> list[dict[str, Any]]:
    file = tmp_path / "definitions.yaml"
    file.write_text(text)
    return read_definitions(file)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("name: a", ["a"]),
        ('{"name": "a"}', ["a"]),
        ("- name: a\n- name: b", ["a", "b"]),
        ("name: a\n---\n- name: b\n- name: c\n---\n", ["a", "b", "c"]),
    ],
)
def test_a_file_holds_one_definition_or_several(
    tmp_path: Path, text: str, names: list[str]
) -> None:
    assert [one["name"] for one in read(tmp_path, text)] == names


def test_what_yaml_takes_for_a_date_stays_text(tmp_path: Path) -> None:
    (one,) = read(tmp_path, "name: a\nparameters: {day: 2026-01-31}")
    assert one["parameters"] == {"day": "2026-01-31"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no definition"),
        ("--- \n---\n", "holds no definition"),
        ("a", "definition 1 is no object"),
        ("- name: a\n- deployment: b", "definition 2 has no name"),
        ("name: 3", "has no name"),
        ("name: {", "cannot be read"),
        ("name: a\nx: !!python/object/apply:os.getcwd []", "cannot be read"),
        ("name: a\nx: !!binary aGk=", "is no JSON"),
        ("name: a\n? [1, 2]\n: b", "cannot be read"),
    ],
)
def test_what_is_no_definition_is_told(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(Invalid, match=message):
        read(tmp_path, text)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="cannot be read"):
        read_definitions(tmp_path / "nowhere.yaml")
