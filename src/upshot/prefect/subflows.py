"""The task run that stands for a subflow in the run of its parent goes through the same states."""

from datetime import datetime
from uuid import UUID

import msgspec
from msgspec import structs
from sqlalchemy.ext.asyncio import AsyncConnection

from upshot.prefect.standing import Progress, advanced
from upshot.prefect.states import State, new_id, stored_state
from upshot.storage import task_runs
from upshot.storage.task_runs import StoredTaskRun


async def follow(conn: AsyncConnection, task_run_id: UUID, state: State, *, now: datetime) -> None:
    """Put the task run into its subflow's state; nothing if there is no such task run."""
    task_run = await task_runs.lock(conn, task_run_id)
    if task_run is not None:
        child = state.state_details.get("flow_run_id")
        copied = structs.replace(state, id=new_id()).with_details(
            child_flow_run_id=child,
            flow_run_id=task_run.flow_run_id and str(task_run.flow_run_id),
            task_run_id=str(task_run.id),
        )
        await enter(conn, task_run, copied, now=now)


async def enter(
    conn: AsyncConnection, task_run: StoredTaskRun, state: State, *, now: datetime
) -> None:
    """The locked task run is in this state from now on."""
    progress = advanced(
        Progress(run_count=task_run.run_count, started_at=task_run.started_at),
        before=stored_state(task_run.state),
        after=state,
        is_resuming=False,
        now=now,
    )
    await task_runs.save(
        conn,
        task_run.id,
        state_type=state.type.value,
        state=msgspec.to_builtins(state),
        run_count=progress.run_count,
        started_at=progress.started_at,
        ended_at=progress.ended_at,
    )
