"""A stretch of the log against the triggers in force: which keys it concerns, what fires."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from upshot.core.evaluation import Fact, Matched, step
from upshot.core.events import Event
from upshot.core.index import TriggerIndex
from upshot.core.keys import Key, key_hash
from upshot.core.runs import Firing
from upshot.core.triggers import Trigger
from upshot.core.windows import Window


@dataclass(frozen=True, slots=True)
class SetAside:
    """An event that could not be evaluated for a trigger, and why; all else went on."""

    event: Event
    trigger: Trigger | None
    reason: str


@dataclass(slots=True)
class KeyFacts:
    """The facts of one key of one trigger, in the order of the log."""

    trigger: Trigger
    key: Key
    facts: list[Fact] = field(default_factory=list)
    hash: UUID = field(init=False)

    def __post_init__(self) -> None:
        self.hash = key_hash(self.key)


@dataclass(slots=True)
class Concerned:
    """What a stretch of the log concerns."""

    keys: dict[tuple[UUID, Key], KeyFacts] = field(default_factory=dict)
    set_aside: list[SetAside] = field(default_factory=list)


@dataclass(slots=True)
class Advanced:
    """What became of the keys: their windows (None: closed), and the firings in log order."""

    windows: list[tuple[KeyFacts, Window | None]] = field(default_factory=list)
    firings: list[Firing] = field(default_factory=list)
    set_aside: list[SetAside] = field(default_factory=list)


def concerned_by(index: TriggerIndex, events: Iterable[Event]) -> Concerned:
    """Find the keys that these events concern. An event that raises is set aside."""
    concerned = Concerned()
    keys = concerned.keys
    for event in events:
        for candidate in index.candidates(event):
            trigger = candidate.trigger
            condition = trigger.condition
            try:
                if not condition.concerns(event):
                    continue
                key = condition.key_of(event)
            except Exception as error:
                concerned.set_aside.append(SetAside(event, trigger, _reason(error)))
                continue
            if key is None:
                continue
            facts = keys.get((trigger.id, key))
            if facts is None:
                facts = keys[trigger.id, key] = KeyFacts(trigger=trigger, key=key)
            facts.facts.append(
                Matched(event=event, opens=candidate.opens, expected=candidate.expected)
            )
    return concerned


def advance(
    keys: Iterable[KeyFacts], windows: Mapping[tuple[UUID, Key], Callable[[], Window]]
) -> Advanced:
    """Step every key through its facts, from the windows it had before (absent: none)."""
    advanced = Advanced()
    for key_facts in keys:
        trigger, key = key_facts.trigger, key_facts.key
        try:
            load = windows.get((trigger.id, key))
            window = load() if load else None
        except Exception as error:
            advanced.set_aside += [
                SetAside(fact.event, trigger, _reason(error)) for fact in key_facts.facts
            ]
            continue
        for fact in key_facts.facts:
            try:
                window, effects = step(trigger.condition, window, fact)
            except Exception as error:
                advanced.set_aside.append(SetAside(fact.event, trigger, _reason(error)))
                continue
            advanced.firings += [
                Firing(trigger=trigger, key=key, fire=fire, at=fact.event.received_at)
                for fire in effects
            ]
        advanced.windows.append((key_facts, window))
    return advanced


def in_log_order(events: Sequence[Event], firings: Iterable[Firing]) -> list[Firing]:
    """Firings in the order of the events that fired them."""
    order = {event.id: number for number, event in enumerate(events)}
    return sorted(firings, key=lambda firing: order[firing.fire.event.id])


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
