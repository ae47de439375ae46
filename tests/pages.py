"""The pages of the docs: their examples, and a shell to type them into."""

import asyncio
import json
import os
import re
from asyncio.subprocess import PIPE
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"
ADDRESS = "http://127.0.0.1:8484"
"""Where the pages suppose the server."""

_FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


class Page:
    """A page; `examples` are its fenced blocks, by heading and language, in their order."""

    def __init__(self, name: str) -> None:
        self.text = (DOCS / name).read_text(encoding="utf-8")
        self.headings: list[str] = _HEADING.findall(_FENCED.sub("", self.text))
        self.examples: dict[str, dict[str, list[str]]] = {}
        for match in _FENCED.finditer(self.text):
            heading = _HEADING.findall(_FENCED.sub("", self.text[: match.start()]))[-1]
            of_heading = self.examples.setdefault(heading, {})
            of_heading.setdefault(match[1], []).append(match[2])

    def rows(self, heading: str) -> Iterator[list[str]]:
        """The cells of all lines of the tables right under a heading."""
        _, after = self.text.split(f"# {heading}\n", 1)
        section = re.split(r"^#+ ", after, maxsplit=1, flags=re.MULTILINE)[0]
        for line in re.findall(r"^\|(.+)\|$", section, re.MULTILINE):
            yield [cell.strip() for cell in line.split("|")]


class Shell:
    """Each command begins with `begin`; `change` are texts of the page that are others here."""

    def __init__(
        self,
        url: object,
        directory: Path,
        *,
        begin: str = "",
        change: Mapping[str, str] | None = None,
    ) -> None:
        self._begin = begin
        self._change = {ADDRESS: str(url).rstrip("/"), **(change or {})}
        self._directory = directory

    async def run(self, command: str, **variables: str) -> list[Any]:
        """The JSON documents that the command prints."""
        printed = await self.say(command, **variables)
        decoder = json.JSONDecoder()
        found = []
        while printed := printed.strip():
            value, end = decoder.raw_decode(printed)
            found.append(value)
            printed = printed[end:]
        return found

    async def say(self, command: str, **variables: str) -> str:
        """What the command prints."""
        command = self._begin + command
        for told, real in self._change.items():
            command = command.replace(told, real)
        process = await asyncio.create_subprocess_exec(
            "sh", "-euc", command, env={"PATH": os.environ["PATH"], **variables},
            cwd=self._directory, stdout=PIPE, stderr=PIPE,
        )  # fmt: skip
        printed, complaint = await process.communicate()
        assert process.returncode == 0, (printed, complaint)
        return printed.decode()
