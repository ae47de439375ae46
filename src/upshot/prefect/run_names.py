"""Names for runs that nobody has named: two words that the run's id always gives."""

from typing import Final
from uuid import UUID

_HOW: Final = (
    "amber", "ample", "ancient", "apt", "azure", "bold", "brave", "brisk", "calm", "candid",
    "clever", "coral", "cosy", "crimson", "daring", "deft", "eager", "early", "earnest", "fair",
    "fleet", "fond", "frank", "free", "gentle", "glad", "golden", "grand", "hardy", "honest",
    "humble", "ivory", "jolly", "keen", "kind", "lively", "loyal", "lucid", "mellow", "merry",
    "mild", "misty", "neat", "nimble", "noble", "olive", "patient", "plucky", "polite", "proud",
    "quick", "quiet", "rapid", "rosy", "sage", "serene", "silver", "sleek", "snowy", "steady",
    "sunny", "tidy", "vivid", "witty",
)  # fmt: skip
_WHO: Final = (
    "adder", "auk", "badger", "bat", "bear", "beaver", "bee", "bison", "bream", "buzzard", "carp",
    "crane", "cricket", "crow", "curlew", "deer", "dove", "duck", "eagle", "eel", "egret", "elk",
    "falcon", "ferret", "finch", "fox", "frog", "gannet", "goat", "goose", "hare", "hawk", "heron",
    "ibex", "jackdaw", "jay", "kestrel", "kite", "lark", "linnet", "lynx", "magpie", "marten",
    "mink", "mole", "moth", "newt", "otter", "owl", "perch", "pike", "plover", "puffin", "quail",
    "raven", "robin", "seal", "shrew", "stoat", "stork", "swan", "tern", "vole", "wren",
)  # fmt: skip


def name_of(run_id: UUID) -> str:
    """Such as `brisk-heron`. Many runs share a name; it is for people to talk about one."""
    # The low bits: those of an id made by the clock hold the time in the high ones.
    number = run_id.int
    return f"{_HOW[number % len(_HOW)]}-{_WHO[number // len(_HOW) % len(_WHO)]}"
