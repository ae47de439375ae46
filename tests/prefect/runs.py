"""What Prefect's runners and flows say of runs, said by hand."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import httpx

from tests.api.conftest import Api

Document = dict[str, Any]


@dataclass(slots=True)
class Flows:
    """A client of `/api` that makes flows, deployments and runs."""

    api: Api

    @property
    def conn(self) -> asyncpg.Connection:
        return self.api.conn

    async def post(self, path: str, body: Any = None) -> httpx.Response:
        return await self.api.client.post(f"/api{path}", json=body)

    async def posted(self, path: str, body: Any = None) -> Any:
        answer = await self.post(path, body)
        assert answer.is_success, answer.text
        return answer.json()

    async def flow(self, name: str = "ship") -> str:
        flow: Document = await self.posted("/flows/", {"name": name})
        return str(flow["id"])

    async def deployment(self, name: str = "ship", *, flow: str = "ship", **more: Any) -> str:
        body = {"name": name, "flow_id": await self.flow(flow), **more}
        return str((await self.posted("/deployments/", body))["id"])

    async def run(self, deployment: str, **more: Any) -> str:
        """A run that waits for its runner; its id."""
        made = await self.posted(f"/deployments/{deployment}/create_flow_run", more)
        return str(made["id"])

    async def ad_hoc(self, flow: str = "ship", **more: Any) -> str:
        """A run that its client works on itself; its id."""
        body = {"flow_id": await self.flow(flow), **more}
        return str((await self.posted("/flow_runs/", body))["id"])

    async def read(self, run_id: str) -> Document:
        found: Document = await self.api.get(f"/api/flow_runs/{run_id}")
        return found

    async def poll(self, *deployments: str, **more: Any) -> list[str]:
        """The ids of the runs that a runner of these would begin."""
        body = {"deployment_ids": deployments, **more}
        return [
            run["id"] for run in await self.posted("/deployments/get_scheduled_flow_runs", body)
        ]

    async def propose(
        self, run_id: str, type_: str, *, force: bool = False, **state: Any
    ) -> Document:
        """The answer to a state that is proposed."""
        details = {"transition_id": str(uuid4()), **state.pop("details", {})}
        body = {"state": {"type": type_, **state, "state_details": details}, "force": force}
        answer: Document = await self.posted(f"/flow_runs/{run_id}/set_state", body)
        return answer

    async def status(self, run_id: str, type_: str, **more: Any) -> str:
        """In one word what became of a state that is proposed."""
        return str((await self.propose(run_id, type_, **more))["status"])

    async def running(self, run_id: str) -> str:
        """As its runner and its process begin the run."""
        assert await self.status(run_id, "PENDING") == "ACCEPT"
        assert await self.status(run_id, "RUNNING") == "ACCEPT"
        return run_id

    async def state(self, run_id: str) -> str:
        return str((await self.read(run_id))["state_name"])

    async def v1(self, run_id: str) -> Document:
        found: Document = await self.api.get(f"/v1/runs/{run_id}")
        return found

    async def told(self, *, prefix: str = "") -> list[Document]:
        """What the log has, the first first."""
        rows = await self.conn.fetch(
            "SELECT id, name, resource_id, labels, related, payload FROM events "
            "WHERE starts_with(name, $1) ORDER BY position",
            prefix,
        )
        return [dict(row) for row in rows]

    async def silence(self, run_id: str) -> None:
        """Let the lease of a run's process run out."""
        await self.conn.execute(
            "UPDATE run_queue SET lease_until = now() - interval '1 second' WHERE run_id = $1",
            run_id,
        )


def soon(**more: float) -> str:
    return (datetime.now(UTC) + timedelta(**more)).isoformat()
