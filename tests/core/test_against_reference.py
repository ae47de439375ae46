"""The core against a model that is written differently, on timelines of chance."""

import os

import pytest
from hypothesis import settings

from tests.core.reference.agreement import agree

EXAMPLES = int(os.environ.get("UPSHOT_TEST_EXAMPLES", "1000"))
PARTS = 4


@pytest.mark.parametrize("part", range(PARTS))
def test_the_core_and_the_reference_agree(part: int) -> None:
    # Where Hypothesis is told to try the same examples each time, each part has its own.
    agree(EXAMPLES // PARTS, chance=part if settings().derandomize else None)
