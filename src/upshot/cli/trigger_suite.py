"""The file that `upshot trigger test` takes: triggers, and the firings expected of them."""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Final

import yaml

from upshot.cli.expected_firings import Expected, read_expected
from upshot.core.errors import Invalid
from upshot.core.simulation import Simulation

NAME_OF_ONE: Final = "trigger"
"""What a trigger is called that is alone in its file and has no name."""

STDIN: Final = "-"

_SUITE_FIELDS: Final = {"triggers", "expect_firings"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What is expected of one trigger, or of all of them where `trigger` is None."""

    where: str
    trigger: str | None
    firings: Expected


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """Triggers that are known to be right, and what is expected of them."""

    triggers: tuple[dict[str, Any], ...]
    expectations: tuple[Expectation, ...]


def read_suite(file: Path) -> Suite:
    """A trigger, a list of them or several documents, as for `apply`; or `{triggers: [...]}`.

    Raises:
        Invalid: it cannot be read, or a trigger breaks a rule; the message names the line.
    """
    name = shown(file)
    expectations: list[Expectation] = []
    found: list[_Written] = []
    for document in _documents(file, name):
        found += _triggers_in(document, expectations)
    if not found:
        raise Invalid(f"{name} holds no trigger.")
    if len(found) == 1:
        found[0].fields.setdefault("name", NAME_OF_ONE)
    triggers: dict[str, dict[str, Any]] = {}
    for one in found:
        expected = one.fields.pop("expect_firings", None)
        trigger_name = _checked(one, taken=triggers)
        triggers[trigger_name] = one.fields
        if expected is not None:
            expectations.append(_expectation(one, expected, trigger_name))
    return Suite(triggers=tuple(triggers.values()), expectations=tuple(expectations))


def shown(file: Path) -> str:
    return "standard input" if str(file) == STDIN else str(file)


@dataclass(frozen=True, slots=True)
class _Written:
    """A part of a file as plain JSON, and the nodes that know which lines it stands on."""

    file: str
    node: yaml.Node
    value: Any

    @property
    def fields(self) -> dict[str, Any]:
        fields: dict[str, Any] = self.value
        return fields

    def where(self, loc: Sequence[str | int] = ()) -> str:
        """The file and line of what is at `loc`, or of as much of that as there is."""
        node, line = self.node, self.node.start_mark.line
        for step in loc:
            inner = _inner(node, step)
            if inner is None:
                break
            line, node = inner
        return f"{self.file}, line {line + 1}"

    def items(self) -> Iterator["_Written"]:
        assert isinstance(self.node, yaml.SequenceNode)
        for node, value in zip(self.node.value, self.value, strict=True):
            yield _Written(self.file, node, value)


def _inner(node: yaml.Node, step: str | int) -> tuple[int, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(step):
                return key.start_mark.line, value
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        return node.value[step].start_mark.line, node.value[step]
    return None


def _documents(file: Path, name: str) -> Iterator[_Written]:
    try:
        text = sys.stdin.read() if str(file) == STDIN else file.read_text(encoding="utf-8")
        loader = yaml.SafeLoader(text)
        while loader.check_node():
            node = loader.get_node()
            value = loader.construct_document(node)
            if node is not None and value is not None:
                yield _Written(name, node, _plain(value, f"{name}, line {_first_line(node)}"))
    except yaml.MarkedYAMLError as error:
        at = error.problem_mark or error.context_mark
        line = "" if at is None else f", line {at.line + 1}"
        raise Invalid(f"{name}{line} is no YAML: {error.problem or error.context}.") from None
    except OSError as error:
        raise Invalid(f"{name} cannot be read: {error.strerror}.") from None
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise Invalid(f"{name} cannot be read: {error}") from None


def _first_line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _plain(value: Any, where: str) -> Any:
    try:
        # YAML reads 2026-01-31 as a date, which JSON does not have.
        return json.loads(json.dumps(value, default=_text_of))
    except (TypeError, ValueError) as error:
        raise Invalid(f"{where} is no JSON: {error}.") from None


def _text_of(value: object) -> str:
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(f"{value!r} has no form in JSON")


def _triggers_in(document: _Written, expectations: list[Expectation]) -> Iterator[_Written]:
    if isinstance(document.value, list):
        for one in document.items():
            yield from _triggers_in(one, expectations)
    elif not isinstance(document.value, dict):
        raise Invalid(
            f"{document.where()} is no object with fields, such as 'name: order-complete'."
        )
    elif _is_suite(document.fields):
        for unknown in document.fields.keys() - _SUITE_FIELDS:
            raise Invalid(
                f"{document.where((unknown,))}: {unknown!r} is unknown beside 'triggers'; "
                "only 'expect_firings' can stand there."
            )
        if "expect_firings" in document.fields:
            expectations.append(_expectation(document, document.fields["expect_firings"], None))
        (triggers,) = (
            _Written(document.file, node, document.fields["triggers"])
            for key, node in document.node.value
            if key.value == "triggers"
        )
        if not isinstance(triggers.value, list):
            raise Invalid(f"{triggers.where()}: triggers must be a list.")
        yield from _triggers_in(triggers, expectations)
    else:
        yield document


def _is_suite(fields: dict[str, Any]) -> bool:
    """A compound trigger too has triggers."""
    return "triggers" in fields and "type" not in fields and "deployment" not in fields


def _checked(written: _Written, taken: dict[str, Any]) -> str:
    """The name of a trigger that is right."""
    try:
        Simulation([written.fields])
    except Invalid as error:
        loc = error.problems[0].loc if error.problems else ()
        raise Invalid(f"{written.where(loc)}: {error.message}") from None
    name = written.fields.get("name")
    if name is None:
        raise Invalid(f"{written.where()} has no name. Add one: 'name: order-complete'.")
    if name in taken:
        raise Invalid(f"{written.where(('name',))}: there is a trigger {name!r} already.")
    return str(name)


def _expectation(written: _Written, expected: Any, trigger: str | None) -> Expectation:
    try:
        firings = read_expected(expected)
    except Invalid as error:
        loc = error.problems[0].loc
        raise Invalid(f"{written.where(('expect_firings', *loc))}: {error.message}") from None
    where = written.where(("expect_firings",))
    if trigger is not None:
        where = f"{where}, trigger {trigger!r}"
    return Expectation(where=where, trigger=trigger, firings=firings)
