"""Every example of docs/cloudevents.md does what the page says."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.server import serving
from tests.pages import Page, Shell

pytestmark = pytest.mark.anyio

PAGE = Page("cloudevents.md")
(EXAMPLES,) = PAGE.examples.values()


async def test_both_modes_store_the_one_event_that_the_page_shows(
    database_url: str, tmp_path: Path
) -> None:
    expected: dict[str, Any] = json.loads(*EXAMPLES["json"])
    structured, binary = EXAMPLES["sh"]
    async with serving(database_url) as server:
        shell = Shell(server.api.http.base_url, tmp_path)
        first, again = await shell.run(structured + binary)
        (stored,) = (await server.api.get("/v1/events"))["items"]
    assert first["results"] == [{"id": expected["id"], "status": "accepted"}]
    assert again["results"] == [{"id": expected["id"], "status": "duplicate"}]
    assert {name: stored[name] for name in expected} == expected


def test_the_program_prints_the_id_of_the_event() -> None:
    (program,) = EXAMPLES["python"]
    printed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == json.loads(*EXAMPLES["json"])["id"]
