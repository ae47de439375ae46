"""What Jinja's expressions may look up, calculate and apply."""

from collections.abc import Mapping
from typing import Any

import jinja2
from jinja2.runtime import Context, LoopContext, Undefined
from jinja2.sandbox import SandboxedEnvironment
from jinja2.utils import missing

from upshot.core.events import long_form
from upshot.core.templates.bounds import calculated, short_enough
from upshot.core.templates.faults import Unfit, choice_among, kind_of
from upshot.core.templates.filters import FILTERS, LOOP_BOUND, TESTS, loop_items


class _Environment(SandboxedEnvironment):
    """Jinja whose lookups see data only, and whose operators cannot eat the memory."""

    intercepted_binops = frozenset(SandboxedEnvironment.default_binop_table)

    def getattr(self, obj: Any, attribute: str) -> Any:
        if type(obj) is LoopContext:
            return getattr(obj, attribute)
        return self.getitem(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Items alone: what Python's objects can do is out of reach, `items` is a field.

        Below what is undefined everything is the same undefined value, so that
        `event.payload.customer.name | default("")` means what it says.
        """
        if isinstance(argument, str):
            if isinstance(obj, Mapping):
                if argument in obj:
                    return obj[argument]
                label = long_form(argument)
                if label in obj:
                    return obj[label]
            elif isinstance(obj, Undefined):
                return obj
        elif isinstance(argument, Undefined):
            argument._fail_with_undefined_error()
        elif isinstance(obj, list | tuple | str) and isinstance(argument, int):
            if -len(obj) <= argument < len(obj):
                return obj[argument]
        elif isinstance(obj, Undefined):
            return obj
        return self.undefined(obj=obj, name=str(argument))

    def is_safe_callable(self, obj: Any) -> bool:
        return False

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        for operand in (left, right):
            if isinstance(operand, Undefined):
                operand._fail_with_undefined_error()
        if isinstance(left, int | float) and isinstance(right, int | float):
            return calculated(operator, left, right)
        if operator == "+" and isinstance(left, str) and isinstance(right, str):
            return short_enough(left + right)
        if operator == "+" and isinstance(left, list) and isinstance(right, list):
            return left + right
        raise Unfit(f"{kind_of(left)} {operator} {kind_of(right)} cannot be calculated")


class Missing(jinja2.StrictUndefined):
    """A name that is not there. Nothing can be done with it but ask whether it is defined, or
    give it a default; it cannot slip into a result inside a list either."""

    __slots__ = ()

    @property
    def _undefined_message(self) -> str:
        name, owner = self._undefined_name, self._undefined_obj
        if self._undefined_hint:
            return self._undefined_hint
        if owner is missing:
            return f"{name!r} is undefined"
        if isinstance(owner, Mapping):
            return f"{name!r} is undefined{choice_among(str(name), owner)}"
        if isinstance(owner, list | tuple):
            return f"{name!r} is undefined in a list of {len(owner)}"
        return f"{name!r} is looked up in {kind_of(owner)}, which has nothing below it"

    def __repr__(self) -> str:
        self._fail_with_undefined_error()


@jinja2.pass_context
def _as_it_is(context: Context, value: Any) -> Any:
    """Nothing to do; but a finalizer that asks for the context keeps Jinja from calculating
    constant expressions when it compiles, where neither bounds nor clocks are watching."""
    return value


def _environment() -> _Environment:
    environment = _Environment(
        undefined=Missing, finalize=_as_it_is, optimized=False, keep_trailing_newline=True
    )
    environment.globals.clear()
    environment.filters = {**FILTERS, LOOP_BOUND: loop_items}
    environment.tests = dict(TESTS)
    return environment


ENVIRONMENT = _environment()
