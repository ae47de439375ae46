"""UUIDs made quickly, where they are made by the thousand."""

from uuid import UUID, SafeUUID

_UNKNOWN = SafeUUID.unknown
_set = object.__setattr__


def uuid_of(number: int) -> UUID:
    """`UUID(int=number)` without its checks of the arguments, which cost most of it."""
    made = UUID.__new__(UUID)
    _set(made, "int", number)
    _set(made, "is_safe", _UNKNOWN)
    return made
