"""The filters and tests of templates: Jinja's own, bounded, and the few that replace them."""

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jinja2
from jinja2.filters import FILTERS as JINJA_FILTERS
from jinja2.filters import make_attrgetter
from jinja2.tests import TESTS as JINJA_TESTS

from upshot.core.limits import LOOP_ITEMS_MAX, ROUND_DIGITS_MAX
from upshot.core.templates.bounds import check_length, short_enough
from upshot.core.templates.faults import Unfit
from upshot.core.templates.meter import Meter


def _bounded(of: Callable[..., Any]) -> Callable[..., Any]:
    """Jinja's filter, but with a list where it gives a generator, and no long text."""

    @functools.wraps(of)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        result = of(*args, **kwargs)
        if isinstance(result, str):
            return short_enough(result)
        return list(result) if isinstance(result, Iterator) else result

    return bounded


def _replaced(value: Any, old: str, new: str, count: int = -1) -> str:
    text = str(value)
    times = text.count(old) if count < 0 else min(count, text.count(old))
    check_length(len(text) + times * (len(new) - len(old)))
    return text.replace(old, new, count)


@jinja2.pass_environment
def _joined(
    environment: jinja2.Environment, value: Any, d: str = "", attribute: str | int | None = None
) -> str:
    if attribute is not None:
        value = map(make_attrgetter(environment, attribute), value)
    texts = [str(item) for item in value]
    check_length(sum(map(len, texts)) + len(d) * len(texts))
    return d.join(texts)


def _rounded(value: float, precision: int = 0, method: str = "common") -> Any:
    if not -ROUND_DIGITS_MAX <= precision <= ROUND_DIGITS_MAX:
        raise Unfit(f"the precision is over {ROUND_DIGITS_MAX} digits")
    return JINJA_FILTERS["round"](value, precision, method)


def _json_text(value: Any) -> str:
    return json.dumps(Meter().plain(value), ensure_ascii=False)


def loop_items(value: Any) -> list[Any]:
    items: list[Any] = []
    for item in value:
        if len(items) == LOOP_ITEMS_MAX:
            raise Unfit(f"a loop runs over more than {LOOP_ITEMS_MAX} items")
        items.append(item)
    return items


LOOP_BOUND = "items of a loop"
"""No template can spell this filter's name; the compiler puts it round what is looped over."""

# fmt: off
_LIGHT_NAMES = (
    "abs", "capitalize", "count", "d", "default", "first", "float", "int", "last", "length",
    "lower", "string", "title", "trim", "truncate", "upper",
)
_HEAVY_NAMES = (
    "dictsort", "items", "list", "map", "max", "min", "reject", "rejectattr", "select",
    "selectattr", "sort", "sum", "unique", "urlencode",
)
_TEST_NAMES = (
    "boolean", "defined", "divisibleby", "eq", "equalto", "even", "false", "float", "ge",
    "greaterthan", "gt", "in", "integer", "iterable", "le", "lessthan", "lower", "lt",
    "mapping", "ne", "none", "number", "odd", "sequence", "string", "true", "undefined",
    "upper", "==", "!=", "<", "<=", ">", ">=",
)
# fmt: on
_OWN_LIGHT: dict[str, Callable[..., Any]] = {
    "replace": _replaced,
    "round": _rounded,
    "tojson": _json_text,
}
_OWN_HEAVY: dict[str, Callable[..., Any]] = {"join": _joined}

FILTERS: Mapping[str, Any] = {
    **{name: _bounded(JINJA_FILTERS[name]) for name in (*_LIGHT_NAMES, *_HEAVY_NAMES)},
    **_OWN_LIGHT,
    **_OWN_HEAVY,
}
"""All that a template may name."""

LIGHT = frozenset((*_LIGHT_NAMES, *_OWN_LIGHT))
"""Those whose result cannot grow."""

TESTS: Mapping[str, Any] = {name: JINJA_TESTS[name] for name in _TEST_NAMES}
