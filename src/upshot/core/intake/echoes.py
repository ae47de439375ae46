"""What of a client's text may stand in an answer."""

import re
from collections.abc import Iterable
from itertools import islice

from upshot.core.errors import Problem
from upshot.core.limits import PROBLEM_ECHO_CHARS_MAX, PROBLEMS_LISTED_MAX, PROBLEMS_LOC_CHARS_MAX


def listed(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """The first problem of each place, bounded: an answer must not outgrow the request by much."""
    kept: dict[tuple[str | int, ...], Problem] = {}
    room = PROBLEMS_LOC_CHARS_MAX
    for problem in islice(problems, PROBLEMS_LISTED_MAX):
        loc = tuple(part if isinstance(part, int) else clean(part) for part in problem.loc)
        room -= sum(len(str(part)) for part in loc)
        kept.setdefault(loc, Problem(loc, problem.msg))
        if room <= 0:
            break
    return tuple(kept.values())


def clean(text: str) -> str:
    """The text's beginning, with a mark for each character that cannot be encoded or stored."""
    return UNKEEPABLE_CHARACTER.sub("\ufffd", text[:PROBLEM_ECHO_CHARS_MAX])


def echo(sent_id: object) -> str | None:
    return clean(sent_id) if isinstance(sent_id, str) else None


UNKEEPABLE_CHARACTER = re.compile("[\0\ud800-\udfff]")
