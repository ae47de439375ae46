"""Emits an event for each argument `<event>=<resource>` or `<event>=<resource>=<occurred>`; at `-`
it waits for a line on standard input."""

import sys
from datetime import UTC, datetime

from prefect.events import emit_event

for argument in sys.argv[1:]:
    if argument == "-":
        print("waiting", flush=True)
        sys.stdin.readline()
        continue
    name, resource, *rest = argument.split("=")
    occurred = datetime.fromisoformat(rest[0]) if rest else datetime.now(UTC)
    emit_event(event=name, resource={"prefect.resource.id": resource}, occurred=occurred)
    print(f"emitted {name} of {resource}")
