"""The core against a model that is written differently, on timelines of chance."""

import os

from tests.core.reference.agreement import agree

EXAMPLES = int(os.environ.get("UPSHOT_TEST_EXAMPLES", "1000"))


def test_the_core_and_the_reference_agree() -> None:
    agree(EXAMPLES)
