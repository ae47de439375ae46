"""What is installed, locked and deployed, read from the files that say so."""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from upshot.settings import Settings
from upshot.storage.embedded.cluster import SETTINGS

ROOT = Path(__file__).parents[1]
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()


def names(requirements: list[str]) -> set[str]:
    return {
        re.split(r"[^A-Za-z0-9._-]", line)[0].lower().replace("_", "-") for line in requirements
    }


def locked(lock: Path) -> list[str]:
    return re.findall(r"^([a-z0-9][^ ]*==[^ ]*)", lock.read_text(), re.MULTILINE)


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def instructions(name: str) -> list[str]:
    return [line.removeprefix(f"{name} ") for line in DOCKERFILE if line.startswith(f"{name} ")]


def test_the_client_alone_needs_httpx_and_pydantic() -> None:
    assert names(PROJECT["dependencies"]) == {"httpx", "pydantic"}


def test_importing_upshot_loads_nothing_of_the_server() -> None:
    server = names(PROJECT["optional-dependencies"]["server"])
    modules = {name.replace("-", "_") for name in server} | {
        "yaml",
        "upshot.core",
        "upshot.storage",
    }
    loaded = python("import json, sys, upshot; print(json.dumps(sorted(sys.modules)))").stdout
    assert modules.isdisjoint(json.loads(loaded))


def test_the_command_without_the_server_says_what_to_install() -> None:
    result = python(
        "import sys; sys.modules['typer'] = None\nfrom upshot.cli.entry import main\nmain()"
    )
    assert result.returncode == 1
    assert "'typer' is missing" in result.stderr
    assert "pip install 'upshot[server]'" in result.stderr
    assert "pip install 'upshot[server,embedded]'" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_broken_module_of_our_own_is_not_taken_for_a_missing_package() -> None:
    result = python(
        "import sys; sys.modules['upshot.cli.app'] = None\n"
        "from upshot.cli.entry import main\nmain()"
    )
    assert "Traceback" in result.stderr


def test_the_locks_are_all_there() -> None:
    assert [lock.name for lock in LOCKS] == [
        "build.txt", "dev.txt", "prefect-newest.txt", "prefect-oldest.txt", "run.txt", "server.txt",
    ]  # fmt: skip


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_a_lock_pins_and_hashes_everything_and_names_no_place(lock: Path) -> None:
    blocks = re.split(r"\n(?=[a-z0-9])", lock.read_text().strip())
    assert len(blocks) == len(locked(lock)) > 1
    for block in blocks:
        assert re.match(
            r"[a-z0-9][a-z0-9.\[\],_-]*==[^ ]+ (; [^\\]+)?\\\n    --hash=sha256:", block
        )
    assert not re.search(
        r"://|index-url|find-links|trusted-host|^-|/(opt|tmp|home)/", lock.read_text(), re.M
    )


def test_prefect_is_in_the_locks_of_the_tests_clients_alone() -> None:
    naming = [lock.name for lock in LOCKS if "prefect" in names(locked(lock))]
    assert naming == ["prefect-newest.txt", "prefect-oldest.txt"]


def test_what_runs_is_what_was_tested() -> None:
    run, server, dev = (
        set(locked(ROOT / "requirements" / name)) for name in ("run.txt", "server.txt", "dev.txt")
    )
    assert server < run < dev


@pytest.mark.parametrize(
    ("lock", "extras"), [("server.txt", ["server"]), ("run.txt", ["server", "embedded"])]
)
def test_every_dependency_is_locked(lock: str, extras: list[str]) -> None:
    declared = list(PROJECT["dependencies"])
    for extra in extras:
        declared += PROJECT["optional-dependencies"][extra]
    assert names(declared) <= names(locked(ROOT / "requirements" / lock))


def test_the_image_runs_as_nobody_special_and_is_watched() -> None:
    assert instructions("USER") == ["10001:10001"]
    assert "/healthz" in instructions("HEALTHCHECK")[0]
    assert instructions("EXPOSE") == [str(Settings.model_fields["port"].default)]
    assert [json.loads(line) for line in instructions("ENTRYPOINT")] == [["upshot"]]


def test_the_image_installs_only_what_has_a_known_hash() -> None:
    installs = [
        part for line in instructions("RUN") for part in re.split(r"&&", line) if "pip" in part
    ]
    assert len(installs) == 4
    for install in installs:
        assert "--require-hashes" in install or "--no-deps" in install


def test_every_image_has_a_version() -> None:
    bases = [line.split()[0] for line in instructions("FROM")]
    for image in [*bases, *(service["image"] for service in COMPOSE["services"].values())]:
        assert re.search(r":(?!latest)[0-9]", image), image


def test_the_image_of_the_composition_has_the_version_of_the_project() -> None:
    assert COMPOSE["services"]["server"]["image"] == f"upshot:{PROJECT['version']}"


def test_compose_refuses_to_start_without_a_key() -> None:
    key = COMPOSE["services"]["server"]["environment"]["UPSHOT_API_KEY"]
    assert key.startswith("${UPSHOT_API_KEY:?")


def test_the_server_waits_for_the_migration_and_the_migration_for_the_database() -> None:
    services: dict[str, Any] = COMPOSE["services"]
    conditions = services["server"]["depends_on"]
    assert conditions["migrate"] == {"condition": "service_completed_successfully"}
    assert services["migrate"]["depends_on"] == {"database": {"condition": "service_healthy"}}
    assert "healthcheck" in services["database"]


def test_the_database_of_the_composition_is_durable_and_cannot_be_reached_from_outside() -> None:
    database = COMPOSE["services"]["database"]
    assert {"fsync=on", "synchronous_commit=on", "full_page_writes=on"} <= composed_settings()
    assert "ports" not in database
    assert all(COMPOSE["networks"][network]["internal"] for network in database["networks"])
    assert database["volumes"]


def test_both_postgres_are_tuned_alike_and_the_docs_say_how() -> None:
    embedded = re.findall(r"^(\w+) = ([^'\n]+)$", SETTINGS, re.M)
    # Where it listens, what it logs and when it gives up on a client are not tuning.
    elsewhere = re.compile("port|listen_|unix_|log_|statement_|idle_")
    tuned = {f"{name}={value}" for name, value in embedded if not elsewhere.match(name)}
    assert composed_settings() == tuned
    page = (ROOT / "docs" / "operations.md").read_text()
    assert {one for one in tuned if f"`{one.replace('=', ' = ')}`" not in page} == set()


def composed_settings() -> set[str]:
    program, *options = shlex.split(COMPOSE["services"]["database"]["command"])
    assert program == "postgres"
    assert set(options[::2]) == {"-c"}
    return set(options[1::2])


def test_every_setting_that_a_deployment_file_uses_exists() -> None:
    known = {f"UPSHOT_{name.upper()}" for name in Settings.model_fields}
    for name in ("Dockerfile", "docker-compose.yml"):
        used = set(re.findall(r"UPSHOT_[A-Z_]+", (ROOT / name).read_text()))
        assert used <= known
        assert used
