"""Flows that pause, fail, crash and call each other, all served by one process."""

import os
import signal
import sys
import time
from pathlib import Path

from prefect import flow, serve, task
from prefect.deployments import run_deployment
from prefect.flow_runs import pause_flow_run, suspend_flow_run
from prefect.runtime import flow_run


@task
def double(number: int) -> int:
    return 2 * number


@flow
def quadruple(number: int) -> int:
    return double(double(number))


@flow(log_prints=True)
def compute(number: int) -> int:
    """Tasks, one of them submitted, and a subflow."""
    doubled = double.submit(number).result()
    answer = quadruple(doubled)
    print(f"computed {answer}")
    return answer


@flow(retries=2, retry_delay_seconds=1, log_prints=True)
def stumble(succeeds_at: int) -> None:
    print(f"this is run {flow_run.run_count}")
    if flow_run.run_count < succeeds_at:
        raise ValueError(f"not at run {flow_run.run_count}")


@flow(log_prints=True)
def ask() -> None:
    """Waits in its process until somebody tells a number."""
    print(f"was told {pause_flow_run(wait_for_input=int, timeout=60, poll_interval=1)}")


@flow(log_prints=True)
def sleep_on_it() -> None:
    """Ends its process; the runner starts it again once it is resumed."""
    suspend_flow_run(key="once", timeout=60)
    print("goes on")


@flow
def linger(marker: str) -> None:
    Path(marker).touch()
    time.sleep(120)


@flow
def crash() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@flow
def delegate(number: int) -> None:
    """Runs another deployment and waits for it."""
    ended = run_deployment("compute/compute", parameters={"number": number}, poll_interval=1)
    assert ended.state.is_completed(), ended.state


if __name__ == "__main__":
    served = (compute, stumble, ask, sleep_on_it, linger, crash, delegate)
    serve(*(one.to_deployment(name=one.name) for one in served), limit=len(served) + 1)
    sys.exit()
