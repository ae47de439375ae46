"""`upshot demo`, whole: from nothing, again, and stopped."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.ports import free_port
from upshot.demo.background import Background


@pytest.fixture
def port() -> int:
    return free_port()


class Demo:
    def __init__(self, environment: dict[str, str], directory: Path) -> None:
        self._environment = environment
        self._directory = directory

    def __call__(self, *options: str, **settings: str) -> subprocess.CompletedProcess[str]:
        given = {f"UPSHOT_{name.upper()}": value for name, value in settings.items()}
        return subprocess.run(
            [sys.executable, "-m", "upshot", "demo", *options],
            cwd=self._directory,
            env={**self._environment, **given},
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def demo(port: int, database_url: str, tmp_path: Path) -> Iterator[Demo]:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("UPSHOT_")
    }
    environment |= {
        "UPSHOT_PORT": str(port),
        "UPSHOT_DATABASE_URL": database_url,
        "UPSHOT_DATA_DIR": str(tmp_path / "data"),
    }
    yield Demo(environment, tmp_path)
    for name in ("runner", "server"):
        Background(tmp_path / "data" / "demo", name).stop()


def test_the_demo_tells_the_shops_story_and_leaves_it_running(demo: Demo, port: int) -> None:
    first = demo()
    assert first.returncode == 0, first.stderr
    assert '{"user_id": "123"}' in first.stdout
    assert "signature valid" in first.stdout
    assert '1 run: {"prefect.resource.id": "123"}' in first.stdout
    url = f"http://127.0.0.1:{port}"
    with httpx.Client(base_url=url, trust_env=False) as http:
        assert http.get("/readyz").status_code == 200
        complete = {"event": "order.complete", "resource": {"id": "456"}}
        assert http.post("/v1/events?wait=evaluated", json=complete).json()["evaluated"]
        assert len(http.get("/v1/runs").json()["items"]) == 2

    elsewhere = demo(port="1")
    assert elsewhere.returncode == 1
    assert f"A demo's server runs already, at {url}" in elsewhere.stderr

    second = demo()
    assert second.returncode == 0, second.stderr
    assert '1 run: {"prefect.resource.id": "123"}' in second.stdout

    stopped = demo("--stop")
    assert stopped.stdout == "The runner is stopped.\nThe server is stopped.\n"
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/readyz", trust_env=False)
    again = demo("--stop")
    assert (again.returncode, again.stdout.count("was not running")) == (0, 2)


def test_the_demo_leaves_alone_what_it_did_not_make(demo: Demo, port: int) -> None:
    assert demo().returncode == 0
    runner = {"runner": {"url": "http://shop.example/run"}}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:
        http.patch("/v1/deployments/post-order-complete", json=runner).raise_for_status()
        ended = demo()
        assert ended.returncode == 1
        assert "that the demo did not make" in ended.stderr
        deployment = http.get("/v1/deployments/post-order-complete").json()
    assert deployment["runner"]["url"] == "http://shop.example/run"


def test_on_a_port_where_something_else_answers_the_demo_says_so(port: int, demo: Demo) -> None:
    other = subprocess.Popen(
        [sys.executable, "-u", "-m", "http.server", str(port), "--bind", "127.0.0.1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline().startswith("Serving")
        ended = demo()
    finally:
        other.kill()
        other.communicate()
    assert ended.returncode == 1
    assert "Something that is no Upshot answers" in ended.stderr


def test_a_server_that_does_not_start_is_quoted(demo: Demo, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("UPSHOT_HOST=localhost.invalid\n")
    ended = demo()
    assert ended.returncode == 1
    assert "The server ended:" in ended.stderr
