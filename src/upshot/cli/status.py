"""`upshot status`: how a server is doing."""

from upshot.cli.client import connected
from upshot.cli.options import AsJson, Key, Url
from upshot.cli.output import print_fields, print_json


def status(url: Url = None, key: Key = None, as_json: AsJson = False) -> None:
    """Show how far the server is, what is open and what waits."""
    with connected(url, key) as client:
        answer = client.get("/v1/status")
        if as_json:
            print_json(answer)
            return
        print_fields({"server": client.url, **_flattened(answer)})


def _flattened(document: dict[str, object], prefix: str = "") -> dict[str, object]:
    """`{"runs": {"running": 1}}` as `runs running`, since a line has one value."""
    flat: dict[str, object] = {}
    for name, value in document.items():
        title = f"{prefix}{name.replace('_', ' ')}"
        if isinstance(value, dict):
            flat |= _flattened(value, f"{title} ")
        else:
            flat[title] = value
    return flat
