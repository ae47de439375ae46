"""Answers: JSON written once, with stored JSON put in as it is."""

from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import msgspec
from fastapi import Response
from pydantic import BaseModel, Field

Item = TypeVar("Item")


class Listed(BaseModel, Generic[Item]):
    """A page of a list."""

    items: list[Item]
    next_cursor: str | None = Field(description="For the next page; null on the last.")


def json_answer(
    document: Any, status: int = 200, *, headers: Mapping[str, str] | None = None
) -> Response:
    return Response(
        msgspec.json.encode(document), status, headers=headers, media_type="application/json"
    )


def raw(text: str | None) -> msgspec.Raw | None:
    """Stored JSON, to be written as it stands."""
    return None if text is None else msgspec.Raw(text.encode())


def no_answer() -> Response:
    return Response(status_code=204)
