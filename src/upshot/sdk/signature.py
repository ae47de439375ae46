"""A function's parameters: their JSON Schema, and JSON checked against them."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import pydantic_core
from pydantic import PydanticUserError, TypeAdapter, ValidationError
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticUndefinedAnnotation

from upshot.sdk.errors import ClientError

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


class Signature:
    """What a function takes, as pydantic reads its annotations.

    They are read when first needed, when every type that the file names is defined.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._name = getattr(function, "__name__", str(function))
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
                raise ClientError(
                    f"Parameter {parameter.name!r} of {self._name} has no name for callers; "
                    "parameters of a deployment are given by name."
                )

    @functools.cached_property
    def _adapter(self) -> TypeAdapter[Arguments]:
        @functools.wraps(self._function)
        def arguments(*args: Any, **kwargs: Any) -> Arguments:
            return args, kwargs

        called: Any = arguments
        try:
            return TypeAdapter(called)
        except (PydanticUserError, PydanticUndefinedAnnotation) as error:
            raise ClientError(f"The parameters of {self._name} cannot be read: {error}") from None

    def schema(self) -> dict[str, Any]:
        try:
            return self._adapter.json_schema()
        except PydanticInvalidForJsonSchema as error:
            raise ClientError(
                f"A parameter of {self._name} has a type that JSON cannot carry: {error}"
            ) from None

    def arguments(self, parameters: Mapping[str, Any]) -> Arguments:
        """What to call the function with.

        Raises:
            ValueError: these parameters are not what the function takes; it says which, why.
        """
        try:
            return self._adapter.validate_json(pydantic_core.to_json(parameters))
        except ValidationError as error:
            wrong = "; ".join(
                f"{'.'.join(map(str, one['loc']))}: {one['msg']}"
                for one in error.errors(include_url=False, include_context=False)
            )
            raise ValueError(f"The parameters are not what {self._name} takes: {wrong}") from None
