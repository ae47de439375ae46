"""The one tree of errors: requests refused, promises broken; there is no HTTP in it."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong and where: `loc` is a path, such as `("resource", "name")`."""

    loc: tuple[str | int, ...]
    msg: str


class UpshotError(Exception):
    """Base of all errors that a caller can be told. It says what, which one, and what to do."""

    def __init__(self, message: str, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.problems = tuple(problems)


class Malformed(UpshotError):
    """The request could not be read at all: no JSON, no UTF-8."""


class Invalid(UpshotError):
    """The request was read and breaks a rule; `problems` says which, where."""


class Unsupported(UpshotError):
    """The request's content type is none that is understood."""


class TooLarge(UpshotError):
    """The request is over a bound of `limits`."""


class NotFound(UpshotError):
    """There is no such thing."""


class Conflict(UpshotError):
    """The request is right, and the state of things does not allow it."""


class Unauthenticated(UpshotError):
    """No key, or one that is not known."""


class Forbidden(UpshotError):
    """A known key without the scope, or a browser's request from elsewhere."""


class Overloaded(UpshotError):
    """A bound is reached or the database is away; nothing was stored. Try again later."""

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after
