"""The SDK stands alone, and is all there under the package's own name."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import upshot
from upshot import sdk

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]


def loaded_by(code: str) -> set[str]:
    code += "\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(told.stdout))


def test_all_of_the_sdk_loads_nothing_that_only_the_server_has() -> None:
    # httpx has a command of its own, and loads what that needs where it is installed.
    added = loaded_by("from upshot import *") - loaded_by("import httpx, pydantic")
    server = {
        re.split(r"[^A-Za-z0-9._-]", name)[0].replace("-", "_")
        for name in PROJECT["optional-dependencies"]["server"]
    }
    parts = {"upshot.core", "upshot.storage", "upshot.settings", "upshot.metrics", "upshot.api"}
    assert "upshot.sdk.serving" in added
    assert not (server | parts) & added


def test_the_package_has_what_the_sdk_has() -> None:
    assert set(upshot.__all__) == {*sdk.__all__, "__version__"}
    for name in sdk.__all__:
        assert getattr(upshot, name) is getattr(sdk, name)
    assert set(sdk.__all__) <= set(dir(upshot))


def test_the_webhook_mode_needs_one_more_package() -> None:
    assert PROJECT["optional-dependencies"]["webhook"] == ["uvicorn>=0.34"]
