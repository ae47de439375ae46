"""Why an event did or did not fire a trigger: each check, the states around it, and a sentence."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import assert_never

from upshot.core.checks import Check, first_failed
from upshot.core.evaluation import KeyState, describe
from upshot.core.events import Event
from upshot.core.history import Moment, Step
from upshot.core.keys import Key
from upshot.core.limits import EXPLAIN_SENTENCES_MAX
from upshot.core.phrases import Clock
from upshot.core.sentences import after, collected, counting, silence
from upshot.core.sentences.outcomes import Outcome, Told
from upshot.core.triggers import (
    Compound,
    Condition,
    Node,
    Proactive,
    Reactive,
    Sequential,
    Trigger,
)
from upshot.core.windows import Collected, Seen, Window

Path = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What a key remembers. `fired` and `missing` are children, of a composite."""

    state: KeyState
    count: int
    needed: int
    started_at: datetime | None
    deadline_at: datetime | None
    after: Seen | None
    events: tuple[Seen, ...]
    fired: tuple[Path, ...] = ()
    missing: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildExplained:
    """What the event did at one of a composite's children, or their children."""

    child: Path
    outcome: Outcome
    sentence: str
    key: Key
    before: State | None
    after: State | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What an event did to a trigger."""

    outcome: Outcome
    sentence: str
    checks: tuple[Check, ...]
    key: Key | None = None
    before: State | None = None
    after: State | None = None
    children: tuple[ChildExplained, ...] = ()


def explain(trigger: Trigger, event: Event, moment: Moment, checks: Sequence[Check]) -> Explanation:
    """`checks` are those of the event, and `moment` its turn under this trigger."""
    clock = Clock.of(event.at)
    told = [(step, _tell(step, clock, moment)) for step in moment.steps]
    checks = (*checks, *(_state_check(step, said) for step, said in told if _is_leaf(step.node)))
    if moment.error is not None:
        sentence = f"Set aside: it could not be evaluated: {moment.error}"
        return Explanation(outcome=Outcome.SET_ASIDE, sentence=sentence, checks=checks)
    if not told:
        return Explanation(outcome=Outcome.NO_MATCH, sentence=no_match(checks), checks=checks)
    root = trigger.nodes[0]
    if _is_leaf(root):
        ((step, said),) = told
        return Explanation(
            outcome=said.outcome,
            sentence=said.sentence,
            checks=checks,
            key=step.key,
            before=_state(root, step.before),
            after=_state(root, step.after),
        )
    return _of_composite(root, moment, told, checks, clock)


def no_match(checks: Sequence[Check]) -> str:
    """What kept the event from the trigger."""
    failed = first_failed(checks)
    if failed is None:
        return "No match: it does not concern the trigger."
    why = failed.why
    if failed.child is not None:
        return f"No match with any child; nearest is child {_dotted(failed.child)}: {why}."
    return f"No match: {why}."


def _of_composite(
    root: Node,
    moment: Moment,
    told: Sequence[tuple[Step, Told]],
    checks: tuple[Check, ...],
    clock: Clock,
) -> Explanation:
    children = tuple(
        ChildExplained(
            child=step.node.path,
            outcome=said.outcome,
            sentence=said.sentence,
            key=step.key,
            before=_state(step.node, step.before),
            after=_state(step.node, step.after),
        )
        for step, said in told
        if step.node.parent is not None
    )
    key = told[0][0].key if root.condition.for_each else ()
    at_root = next(((step, said) for step, said in told if step.node.parent is None), None)
    if at_root is not None:
        step, said = at_root
        return Explanation(
            outcome=said.outcome,
            sentence=said.sentence,
            checks=checks,
            key=key,
            before=_state(root, step.before),
            after=_state(root, step.after),
            children=children,
        )
    return Explanation(
        outcome=_first_outcome(children),
        sentence=_said_of(root, moment.root, children, clock),
        checks=checks,
        key=key,
        before=_state(root, moment.root),
        after=_state(root, moment.root),
        children=children,
    )


def _first_outcome(children: Sequence[ChildExplained]) -> Outcome:
    """Of those that did not go on to their composite, the one that weighs most."""
    outcomes = {one.outcome for one in children if one.outcome is not Outcome.FIRED}
    return next(outcome for outcome in Outcome if outcome in outcomes)


def _said_of(
    root: Node, window: Window | None, children: Sequence[ChildExplained], clock: Clock
) -> str:
    several = [one for one in children if one.outcome is not Outcome.FIRED]
    said = [
        f"Child {_dotted(one.child)}: {one.sentence[0].lower()}{one.sentence[1:]}"
        for one in several[:EXPLAIN_SENTENCES_MAX]
    ]
    if len(several) > len(said):
        said.append(f"So it goes for {len(several) - len(said)} more.")
    assert isinstance(root.condition, Compound | Sequential)
    collected_before = window if isinstance(window, Collected) else None
    said.append(f"So far {collected.standing(root.condition, root.path, collected_before, clock)}.")
    return " ".join(said)


def _tell(step: Step, clock: Clock, moment: Moment) -> Told:
    condition: Condition = step.node.condition
    match condition:
        case Reactive() | Proactive() if condition.selection.after is not None:
            return after.tell(condition, step, clock, now=moment.now)
        case Reactive():
            return counting.tell(condition, step, clock)
        case Proactive():
            return silence.tell(condition, step, clock, now=moment.now)
        case Compound() | Sequential():
            return collected.tell(condition, step, clock)
        case _:
            assert_never(condition)


def _state_check(step: Step, told: Told) -> Check:
    condition = step.node.condition
    assert isinstance(condition, Reactive | Proactive)
    passed = told.outcome not in (Outcome.IGNORED, Outcome.LATE)
    return Check(
        check="state",
        child=step.node.path or None,
        passed=passed,
        expected={
            "posture": type(condition).__name__,
            "threshold": condition.threshold,
            "within": condition.within.total_seconds(),
        },
        actual=told.outcome.value,
        why=told.sentence,
    )


def _state(node: Node, window: Window | None) -> State | None:
    if window is None:
        return None
    shown = describe(node.condition, window)
    state = State(
        state=shown.state,
        count=shown.count,
        needed=shown.needed,
        started_at=shown.started_at,
        deadline_at=shown.deadline_at,
        after=shown.after,
        events=shown.counted,
    )
    if isinstance(node.condition, Compound | Sequential) and isinstance(window, Collected):
        fired, missing = collected.missing_of(node.condition, window)
        return replace(
            state,
            count=len(fired),
            fired=tuple((*node.path, child) for child in fired),
            missing=tuple((*node.path, child) for child in missing),
        )
    return state


def _is_leaf(node: Node) -> bool:
    return isinstance(node.condition, Reactive | Proactive)


def _dotted(path: Path) -> str:
    return ".".join(map(str, path))
