"""Flows that compute, fail, wait, crash and are cancelled, as Prefect's users run them."""

from collections import Counter
from pathlib import Path

import pytest

from tests.e2e.server import serving
from tests.prefect.clients import FLOWS, Client, Shell, url_of

pytestmark = pytest.mark.anyio

CHECKS = (
    "computes", "stumbles", "gives_up", "is_told", "is_resumed", "is_cancelled", "crashes",
    "delegates", "never_begins", "runs_later", "runs_here",
)  # fmt: skip


@pytest.mark.timeout(300)
async def test_one_process_serves_flows_that_end_in_every_way(
    client: Client, database_url: str, tmp_path: Path
) -> None:
    async with serving(database_url) as server:
        shell = Shell(client, tmp_path, url_of(server))
        async with shell.start(FLOWS / "workshop.py") as workshop:
            await workshop.said("deployments are being served")
            said = await shell.run(FLOWS / "foreman.py", tmp_path, within=200)
            watched = await shell.cli(
                "deployment", "run", "compute/compute", "-p", "number=2", "--watch"
            )
            ended = Counter(run["state"] for run in await server.api.runs())
            (run,) = await server.api.runs(deployment="compute", state="cancelled")
            await server.api.send("POST", f"/v1/runs/{run['id']}/retry")
            again = await server.api.ended(run["id"], within=60)
    assert [line for line in said.splitlines() if line.endswith(": ok")] == [
        f"{check}: ok" for check in CHECKS
    ], said
    assert "Flow run finished successfully" in watched
    assert again["state"] == "completed"
    assert ended["cancelled"] == 2, ended
    assert ended["failed"] == 2, ended
    assert set(ended) == {"completed", "cancelled", "failed"}, ended
