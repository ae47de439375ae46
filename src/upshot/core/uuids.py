"""UUIDs made quickly, where they are made by the thousand, and of what."""

from uuid import UUID, SafeUUID

_UNKNOWN = SafeUUID.unknown
_new = UUID.__new__
# Round UUID.__setattr__, which refuses everything.
_set_int = UUID.__dict__["int"].__set__
_set_is_safe = UUID.__dict__["is_safe"].__set__


def uuid_of(number: int) -> UUID:
    """`UUID(int=number)` without its checks of the arguments, which cost most of it."""
    made = _new(UUID)
    _set_int(made, number)
    _set_is_safe(made, _UNKNOWN)
    return made


def framed(*parts: str) -> bytes:
    """The parts as bytes in which no two lists of them are alike: each after its length."""
    pieces: list[bytes] = []
    for part in parts:
        encoded = part.encode()
        pieces += len(encoded).to_bytes(4, "big"), encoded
    return b"".join(pieces)
