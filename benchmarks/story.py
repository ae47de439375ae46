"""The shop's story at any length: users who create orders, and complete those made long before."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

CREATED, COMPLETE = "order.created", "order.complete"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chapter:
    """So many users, numbered from `opened` on, create an order.

    Each is followed by one that completes an order, numbered from `completed` on, if that is set.
    `kinds` of events are told apart by their names; each kind has a trigger of its own.
    With `among` set, they are so many users drawn at random from the first `among`, who complete an
    order and create the next; `opened` makes it another draw.
    """

    users: int
    opened: int
    completed: int | None = None
    kinds: int = 1
    among: int | None = None

    @property
    def length(self) -> int:
        return self.users * (1 if self.completed is None and self.among is None else 2)


class Story:
    """Chapter after chapter, with always as many open keys as the first one opened.

    No user both creates and completes in one chapter, so that every second event fires in whatever
    order the posts of a chapter arrive, and every firing finds its key in the database.
    """

    def __init__(self, *, open_keys: int, kinds: int = 1) -> None:
        self._kinds = kinds
        self._oldest = 0
        self._next = open_keys
        self.beginning = Chapter(users=open_keys, opened=0, kinds=kinds)

    def chapter(self, users: int) -> Chapter:
        assert users <= self._next - self._oldest, "a key would open and close in one chapter"
        chapter = Chapter(users=users, opened=self._next, completed=self._oldest, kinds=self._kinds)
        self._next += users
        self._oldest += users
        return chapter

    def at_random(self, users: int) -> Chapter:
        """Users drawn from those of the beginning; as many keys close as open."""
        self._next += users
        return Chapter(users=users, opened=self._next, kinds=1, among=self.beginning.users)


def trigger(*, deployment: str, kind: int = 0) -> dict[str, Any]:
    """The shop's trigger, for one kind of events."""
    return {
        "deployment": deployment,
        "after": [f"{CREATED}.{kind}"],
        "expect": [f"{COMPLETE}.{kind}"],
        "for_each": ["prefect.resource.id"],
        "parameters": {"user_id": "{{ event.resource.id }}"},
    }


def events(chapter: Chapter) -> Iterator[tuple[int, bytes]]:
    """Each event's user, and its JSON."""
    if chapter.among is not None:
        chance = Random(chapter.opened)
        for _ in range(chapter.users):
            user = chance.randrange(chapter.among)
            yield user, _event(COMPLETE, user, chapter.kinds)
            yield user, _event(CREATED, user, chapter.kinds)
        return
    for index in range(chapter.users):
        yield chapter.opened + index, _event(CREATED, chapter.opened + index, chapter.kinds)
        if chapter.completed is not None:
            user = chapter.completed + index
            yield user, _event(COMPLETE, user, chapter.kinds)


def bodies(chapter: Chapter, *, batch: int) -> Iterator[bytes]:
    """What is posted: single events, or arrays of so many."""
    if batch == 1:
        yield from (event for _, event in events(chapter))
        return
    told = events(chapter)
    while part := [event for _, (_, event) in zip(range(batch), told, strict=False)]:
        yield b"[" + b",".join(part) + b"]"


def user_id(user: int) -> str:
    return f"user-{user:07d}"


def _event(name: str, user: int, kinds: int) -> bytes:
    return (
        f'{{"event": "{name}.{user % kinds}", '
        f'"resource": {{"prefect.resource.id": "{user_id(user)}"}}, '
        f'"payload": {{"order": {user}, "total": 99.5, "currency": "EUR", '
        f'"items": [{{"sku": "A-100", "count": 2}}]}}}}'
    ).encode()
