"""Whether an event concerns a trigger, asked one check at a time, with what was expected."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final, Literal

from upshot.core.events import OWN_EVENT_PREFIX, RESOURCE_ID, RESOURCE_ROLE, Event, Labels
from upshot.core.keys import KeyPart, KeyRefused, key_of, part_name
from upshot.core.limits import CHECK_VALUE_CHARS_MAX
from upshot.core.matching import LabelMatch, related_hold
from upshot.core.patterns import Patterns, own_prefix
from upshot.core.phrases import either
from upshot.core.triggers import Node, Selection, Trigger

CheckName = Literal["name", "match", "match_related", "where", "key", "state"]

_NEAR: Final = 0.6


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One question about an event. `why` says what is wrong where it did not pass."""

    check: CheckName
    child: tuple[int, ...] | None
    """Which leaf of a composite asks; None: the trigger itself."""
    passed: bool
    expected: Any
    actual: Any
    why: str | None = None


def checks_of(trigger: Trigger, event: Event) -> list[Check]:
    """Name, match, match_related, where and key, in this order, of every leaf."""
    return [
        check
        for node, condition in trigger.leaves
        for check in _checks_of_leaf(node, condition.selection, event)
    ]


def first_failed(checks: Sequence[Check]) -> Check | None:
    """What kept an event from a trigger: of the leaf that it came nearest to. None: nothing did."""
    best, best_passed = None, -1
    for child in dict.fromkeys(check.child for check in checks):
        passed = 0
        for check in checks:
            if check.child != child:
                continue
            if not check.passed:
                if passed > best_passed:
                    best, best_passed = check, passed
                break
            passed += 1
        else:
            return None
    return best


def _checks_of_leaf(node: Node, selection: Selection, event: Event) -> Iterator[Check]:
    child = node.path or None
    yield _name(selection, event, child)
    yield _match(selection.match, event, child)
    yield _related(selection.match_related, event, child)
    yield _where(selection, event, child)
    yield _key(selection.for_each, event, child)


def _name(selection: Selection, event: Event, child: tuple[int, ...] | None) -> Check:
    asked = [selection.expect] if selection.after is None else [selection.after, selection.expect]
    passed = any(patterns.matches_name(event.name) for patterns in asked)
    return Check(
        check="name",
        child=child,
        passed=passed,
        expected={
            "expect": _texts(selection.expect),
            "after": selection.after and _texts(selection.after),
        },
        actual=event.name,
        why=None if passed else _why_name(event.name, asked),
    )


def _why_name(name: str, asked: Sequence[Patterns]) -> str:
    positive = [pattern.text for patterns in asked for pattern in patterns.positive]
    prefix = own_prefix(name)
    if prefix is not None and any(patterns.matches(name) for patterns in asked):
        whose = "Upshot's own events" if prefix == OWN_EVENT_PREFIX else "announcements"
        return f"the name is `{name}`, and {whose} need a pattern that begins with `{prefix}`"
    excluded = [one.text for patterns in asked for one in patterns.negative if one.matches(name)]
    if excluded:
        return f"the name `{name}` is excluded by `!{excluded[0]}`"
    near = get_close_matches(name, positive, n=1, cutoff=_NEAR)
    if not near:
        near = [text for text in positive if text.lower() == name.lower()]
    if len(positive) == 1:
        wanted = f"the name is `{name}`, and `{positive[0]}` is wanted"
    elif near:
        wanted = f"no pattern fits the name `{name}`; the nearest is `{near[0]}`"
    else:
        wanted = f"no pattern fits the name `{name}`, wanted is {_all_of(asked)}"
    if near and near[0].lower() == name.lower():
        wanted += " (case counts)"
    return wanted


def _all_of(asked: Sequence[Patterns]) -> str:
    return " or ".join(dict.fromkeys(map(either, asked)))


def _match(match: LabelMatch, event: Event, child: tuple[int, ...] | None) -> Check:
    return Check(
        check="match",
        child=child,
        passed=match.holds(event.resource),
        expected=_expected(match),
        actual=_asked_of(event.resource, (match,)),
        why=_why_match(match, event.resource),
    )


def _why_match(match: LabelMatch, labels: Labels) -> str | None:
    for label, patterns in match.labels:
        value = labels.get(label)
        if value is None:
            return f"the resource has no label `{label}`, and {_wanted(patterns)} is wanted"
        if not patterns.matches(value):
            if patterns.excludes(value):
                return f"the label `{label}` is `{_short(value)}`, which is excluded"
            return f"the label `{label}` is `{_short(value)}`, and {_wanted(patterns)} is wanted"
    return None


def _wanted(patterns: Patterns) -> str:
    if not patterns.positive and not patterns.negative:
        return "nothing at all"
    if not patterns.positive:
        return f"anything but `{patterns.negative[0].text}`"
    if any(pattern.text == "*" for pattern in patterns.positive):
        return "any value"
    return either(patterns)


def _related(asked: Sequence[LabelMatch], event: Event, child: tuple[int, ...] | None) -> Check:
    asking = [one for one in asked if not one.asks_nothing]
    failed = next((one for one in asking if not related_hold([one], event.related)), None)
    return Check(
        check="match_related",
        child=child,
        passed=failed is None,
        expected=[_expected(one) for one in asking],
        actual=[_asked_of(labels, asking) for labels in event.related] if asking else [],
        why=None if failed is None else _why_related(failed, event),
    )


def _why_related(match: LabelMatch, event: Event) -> str:
    if not event.related:
        return "there are no related resources"
    if match.only_excludes:
        return "a related resource has a value that is excluded"
    label, patterns = match.labels[0]
    if len(match.labels) == 1:
        return f"no related resource has a label `{label}` like {_wanted(patterns)}"
    return f"no related resource has all of {', '.join(f'`{name}`' for name, _ in match.labels)}"


def _where(selection: Selection, event: Event, child: tuple[int, ...] | None) -> Check:
    where = selection.where
    if where is None:
        return Check(check="where", child=child, passed=True, expected=None, actual=None)
    verdict = where.verdict(event)
    if verdict.error is not None:
        error = verdict.error.rstrip(".")
        why = f"`{where.text}` could not be evaluated, which counts as no: {error}"
    else:
        why = f"`{where.text}` is false"
    return Check(
        check="where",
        child=child,
        passed=verdict.holds,
        expected=where.text,
        actual=verdict.error if verdict.error is not None else verdict.holds,
        why=None if verdict.holds else why,
    )


def _key(parts: Sequence[KeyPart], event: Event, child: tuple[int, ...] | None) -> Check:
    values: dict[str, str | None] = {}
    why = None
    for part in parts:
        name = part_name(part)
        try:
            key = key_of(event, (part,))
        except KeyRefused as error:
            values[name] = None
            why = why or error.message
            continue
        values[name] = _short(key[0]) if key else None
        if key is None:
            why = why or f"the event has no `{name}` to make a key of, or has it empty"
    return Check(
        check="key",
        child=child,
        passed=why is None,
        expected=[part_name(part) for part in parts],
        actual=values,
        why=why,
    )


def _expected(match: LabelMatch) -> dict[str, list[str]]:
    return {label: _texts(patterns) for label, patterns in match.labels}


def _asked_of(labels: Labels, asked: Sequence[LabelMatch]) -> dict[str, str | None]:
    """What a resource has of the labels asked for, and which resource it is."""
    shown = {name: labels[name] for name in (RESOURCE_ID, RESOURCE_ROLE) if name in labels}
    names = [label for match in asked for label, _ in match.labels]
    return {name: value and _short(value) for name, value in {
        **shown, **{name: labels.get(name) for name in names}
    }.items()}  # fmt: skip


def _texts(patterns: Patterns) -> list[str]:
    return [
        *(pattern.text for pattern in patterns.positive),
        *(f"!{pattern.text}" for pattern in patterns.negative),
    ]


def _short(value: str) -> str:
    return value if len(value) <= CHECK_VALUE_CHARS_MAX else f"{value[:CHECK_VALUE_CHARS_MAX]}..."
