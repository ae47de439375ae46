"""The ids that the server gives to events."""

from collections.abc import Callable, Iterator
from uuid import UUID

from upshot.core.uuids import uuid_of


class Ids:
    """Makes UUIDs of version 7 (RFC 9562) that only ever grow, also within a millisecond and when
    the clock steps back. `clock` gives nanoseconds since 1970, `random` that many random bytes.

    One object belongs to one thread of one process.
    """

    __slots__ = ("_clock", "_end", "_last", "_ms", "_random", "_words")

    def __init__(self, *, random: Callable[[int], bytes], clock: Callable[[], int]) -> None:
        self._random = random
        self._clock = clock
        self._ms = -1
        self._last = self._end = 0
        self._words: Iterator[int] = iter(())

    def __call__(self) -> UUID:
        ms = self._clock() // 1_000_000
        if ms > self._ms:
            self._begin(ms)
        else:
            self._last += 1 + self._word()
            if self._last > self._end:
                self._begin(self._ms + 1)
        return uuid_of(self._last)

    def _begin(self, ms: int) -> None:
        self._ms = ms
        high = ms << 80 | 0x7 << 76 | (self._word() & 0xFFF) << 64 | 0b10 << 62
        self._end = high | (1 << 62) - 1
        # It begins in the lower half of the 62 low bits, so that there is room to grow.
        self._last = high | self._word() << 29 | self._word() >> 3

    def _word(self) -> int:
        # One call of `random`, which is a system call, serves many ids.
        word = next(self._words, None)
        if word is None:
            self._words = iter(memoryview(self._random(_RANDOM_BLOCK_BYTES)).cast("I"))
            word = next(self._words)
        return word


_RANDOM_BLOCK_BYTES = 4_096
