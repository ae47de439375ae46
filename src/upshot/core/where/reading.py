"""What a condition asks: the fields that it names, what it goes over, and what is refused."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Final, NoReturn

from upshot.core.events import long_form
from upshot.core.where.paths import STEP_KINDS, EventPath, Step
from upshot.core.where.tokens import Kind, Token


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """`event.payload.items.all(x, ...)`: over a path's variable, or so many literal values."""

    over: str | None
    literals: int
    length: int
    """How many tokens there are between its brackets."""
    mentioned: tuple[str, ...]
    """The variables of the paths named between its brackets, each as often as it is."""
    collects: bool
    """Whether it makes a list, which the library copies whole for each item that it adds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The same condition with a variable in the place of each path."""

    text: str
    paths: Mapping[str, EventPath]
    """By the variable. No other name in `text` begins like those."""
    loops: tuple[Loop, ...]
    items: frozenset[str]
    """What the loops call their items."""
    mentioned: tuple[str, ...]
    """The variables outside of loops, each as often as it is there, but for what loops go over."""


_COLLECTING: Final = frozenset({"filter", "map"})
_LOOPING: Final = frozenset({"all", "exists", "exists_one", "existsOne"}) | _COLLECTING
_FUNCTIONS: Final = frozenset(
    {"double", "duration", "dyn", "has", "int", "size", "string", "timestamp", "uint"}
)
# fmt: off
_METHODS: Final = frozenset({
    "contains", "endsWith", "getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear",
    "getFullYear", "getHours", "getMilliseconds", "getMinutes", "getMonth", "getSeconds", "size",
    "startsWith",
}) | _LOOPING
# fmt: on
_CONSTANTS: Final = frozenset({"false", "null", "true"})
_CLOSING: Final = frozenset({")", "]", "}"})


def read(tokens: Sequence[Token]) -> Reading:
    """The syntax must have been checked.

    Raises:
        ValueError: names that do not exist, loops in each other, regular expressions.
    """
    return _Reader(tokens).read()


@dataclass(frozen=True, slots=True)
class _Body:
    """What is between a loop's brackets; `end` is where the last one is."""

    macro: int
    begin: int
    end: int
    item: str


class _Reader:
    """Tokens are named by their index. Outside of them there is one of no kind and no text."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self._tokens = tokens
        self._opening: dict[int, int] = {}
        self._closing: dict[int, int] = {}
        self._variables: dict[EventPath, str] = {}
        self._mentions: list[tuple[int, str]] = []
        self._gone_over: dict[int, str] = {}
        self._pair_brackets()
        self._bodies = self._find_bodies()

    def read(self) -> Reading:
        text = " ".join(self._rewritten())
        return Reading(
            text=text,
            paths={variable: path for path, variable in self._variables.items()},
            loops=tuple(map(self._loop, self._bodies)),
            items=frozenset(body.item for body in self._bodies),
            mentioned=tuple(one for at, one in self._mentions if self._body_around(at) is None),
        )

    def _text(self, at: int) -> str:
        return self._tokens[at].text if 0 <= at < len(self._tokens) else ""

    def _kind(self, at: int) -> Kind | None:
        return self._tokens[at].kind if 0 <= at < len(self._tokens) else None

    def _pair_brackets(self) -> None:
        opened: list[int] = []
        for at, token in enumerate(self._tokens):
            if token.text in ("(", "[", "{"):
                opened.append(at)
            elif token.text in _CLOSING:
                self._opening[at] = opened.pop()
                self._closing[self._opening[at]] = at

    # Loops

    def _find_bodies(self) -> list[_Body]:
        bodies: list[_Body] = []
        for at, token in enumerate(self._tokens):
            if not self._is_call(at) or self._text(at - 1) != "." or token.text not in _LOOPING:
                continue
            if bodies and at < bodies[-1].end:
                raise ValueError(
                    f"{token.text}(...) stands inside {self._text(bodies[-1].macro)}(...), which "
                    "could take too long. Ask one beside the other, or send what is asked for."
                )
            bodies.append(_Body(at, at + 2, self._closing[at + 1], self._item(at)))
        return bodies

    def _item(self, macro: int) -> str:
        name, item = self._text(macro), self._text(macro + 2)
        if self._kind(macro + 2) is not Kind.NAME or self._text(macro + 3) != ",":
            raise ValueError(
                f"{name}(...) needs a name for each item and a question about it: "
                f"event.payload.items.{name}(item, item.price > 10)."
            )
        if item == "event" or item.startswith("_") or item in _CONSTANTS:
            raise ValueError(f"{item!r} cannot be the name of an item in {name}(...).")
        return item

    def _body_around(self, at: int) -> _Body | None:
        return next((body for body in self._bodies if body.begin <= at < body.end), None)

    def _loop(self, body: _Body) -> Loop:
        over = self._gone_over.get(body.macro)
        return Loop(
            over=over,
            literals=0 if over is not None else self._literals_before(body.macro),
            length=body.end - body.begin,
            mentioned=tuple(one for at, one in self._mentions if body.begin <= at < body.end),
            collects=self._text(body.macro) in _COLLECTING,
        )

    def _literals_before(self, macro: int) -> int:
        """How many values there are in the list before `.all(`."""
        begin, end = self._opening.get(macro - 2, macro), macro - 2
        inside = self._tokens[begin + 1 : end]
        is_list = self._text(begin) == "[" and not self._ends_value(begin - 1)
        if not is_list or not all(_is_literal(token) for token in inside):
            raise ValueError(
                f"{self._text(macro)}(...) goes over a field, such as event.payload.items, or over "
                "a list of texts and numbers, such as ['a', 'b']; not over anything calculated."
            )
        return len(inside)

    def _ends_value(self, at: int) -> bool:
        return self._kind(at) in (Kind.NAME, Kind.TEXT, Kind.NUMBER) or self._text(at) in _CLOSING

    # Names

    def _rewritten(self) -> Iterator[str]:
        at = 0
        while at < len(self._tokens):
            if self._is_root(at) and self._text(at) == "event":
                path, end = self._path(at)
                yield self._mention(path, at, end)
            elif self._is_asked(at):
                path, end = self._path(at + 2)
                yield self._mention(replace(path, is_asked=True), at, end)
                end += 1
            else:
                self._check(at)
                yield self._text(at)
                end = at + 1
            at = end

    def _mention(self, path: EventPath, begin: int, end: int) -> str:
        variable = self._variables.setdefault(path, f"_{len(self._variables)}")
        if any(body.macro == end + 1 for body in self._bodies):
            self._gone_over[end + 1] = variable
        else:
            self._mentions.append((begin, variable))
        return variable

    def _is_root(self, at: int) -> bool:
        return self._kind(at) is Kind.NAME and self._text(at - 1) != "."

    def _is_call(self, at: int) -> bool:
        return self._kind(at) is Kind.NAME and self._text(at + 1) == "("

    def _is_asked(self, at: int) -> bool:
        """Whether this is `has(event.a.b)`, of fixed steps alone."""
        if not self._is_call(at) or (self._text(at), self._text(at + 2)) != ("has", "event"):
            return False
        _, end = self._path(at + 2)
        return self._text(end) == ")"

    def _path(self, begin: int) -> tuple[EventPath, int]:
        """The path that begins with the `event` here, and where it ends."""
        name, at = self._field(begin), begin + 3
        steps: list[Step] = []
        while (found := self._step(at)) is not None:
            step, at = found
            steps.append(step)
        path = EventPath(name, tuple(steps))
        kinds = STEP_KINDS[name]
        if kinds is not None and not _fit(steps, kinds):
            _refuse_steps(path)
        if name in ("resource", "related"):
            long = tuple(long_form(step) if isinstance(step, str) else step for step in steps)
            path = EventPath(name, long)
        return path, at

    def _field(self, at: int) -> str:
        name, known = self._text(at + 2), ", ".join(STEP_KINDS)
        if self._text(at + 1) != "." or self._is_call(at + 2):
            raise ValueError(f"Name a field of the event, such as event.payload; it has {known}.")
        if name not in STEP_KINDS:
            raise ValueError(f"event has no field {name!r}{_like(name)}; it has {known}.")
        return name

    def _step(self, at: int) -> tuple[Step, int] | None:
        """The fixed step that begins here and where it ends: `.name`, `["name"]`, `[0]`."""
        if self._text(at) == "." and not self._is_call(at + 1):
            return self._text(at + 1), at + 2
        if self._text(at) == "[" and self._text(at + 2) == "]":
            inside = self._text(at + 1)
            if self._kind(at + 1) is Kind.TEXT and "\\" not in inside:
                return inside[1:-1], at + 3
            if self._kind(at + 1) is Kind.NUMBER and inside.isdecimal():
                return int(inside), at + 3
        return None

    def _check(self, at: int) -> None:
        name = self._text(at)
        if self._kind(at) is not Kind.NAME:
            if name == "." and not self._ends_value(at - 1):
                raise ValueError("A name cannot begin with a dot; all names begin with event.")
        elif self._is_call(at):
            self._check_call(name, is_method=self._text(at - 1) == ".")
        elif self._is_root(at) and name not in _CONSTANTS:
            body = self._body_around(at)
            if body is None or name != body.item:
                raise ValueError(
                    f"There is no {name!r} here. All that a condition knows is event, such as "
                    "event.payload.total or event.resource.id; texts stand in quotes."
                )

    def _check_call(self, name: str, *, is_method: bool) -> None:
        if name in (_METHODS if is_method else _FUNCTIONS):
            return
        if name == "matches":
            raise ValueError(
                "matches(...) is not available: regular expressions could take too long. Use "
                "contains, startsWith or endsWith, or a pattern in match."
            )
        if name in _METHODS:
            raise ValueError(f"{name}(...) is written after a value and a dot: x.{name}(...).")
        if name in _FUNCTIONS:
            raise ValueError(f"{name}(...) is written before its value: {name}(x).")
        there = ", ".join(sorted(_FUNCTIONS | _METHODS))
        raise ValueError(f"There is no function {name!r}{_like(name)}; there are {there}.")


def _is_literal(token: Token) -> bool:
    return token.kind in (Kind.TEXT, Kind.NUMBER) or token.text in (",", "-", "true", "false")


def _fit(steps: Sequence[Step], kinds: Sequence[type]) -> bool:
    return len(steps) <= len(kinds) and all(map(isinstance, steps, kinds))


def _refuse_steps(path: EventPath) -> NoReturn:
    ways = {
        "resource": 'Labels are written event.resource.id or event.resource["any.label"].',
        "related": "Related resources are a list: event.related[0].id, or "
        'event.related.exists(r, r.role == "shop").',
    }
    raise ValueError(f"{path} leads nowhere. {ways.get(path.name, 'It has no fields.')}")


def _like(name: str) -> str:
    close = get_close_matches(name, [*STEP_KINDS, *_FUNCTIONS, *_METHODS], n=1)
    return f" (did you mean {close[0]}?)" if close else ""
