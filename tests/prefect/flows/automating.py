"""Every call and command for automations, with the client's own models; a line for each step."""

import asyncio
import json
import sys
from datetime import timedelta
from uuid import UUID

from prefect.automations import Automation
from prefect.cli import app
from prefect.client.orchestration import get_client
from prefect.events.actions import DoNothing, PauseAutomation, RunDeployment
from prefect.events.schemas.automations import CompoundTrigger, EventTrigger, SequenceTrigger

DEPLOYMENT = UUID(sys.argv[1])
COMMANDS = json.loads(sys.argv[2])

ORDER = EventTrigger(
    after={"order.created"},
    expect={"order.complete", "order.paid"},
    for_each={"prefect.resource.id", "shop.country"},
    match={"prefect.resource.name": ["a*", "!ab"]},
    within=timedelta(minutes=2),
)
SILENCE = EventTrigger(expect={"beat"}, posture="Proactive", threshold=3)
TRIGGERS = [
    ORDER,
    SILENCE,
    CompoundTrigger(triggers=[ORDER, SILENCE], require=1, within=timedelta(hours=1)),
    SequenceTrigger(triggers=[ORDER, CompoundTrigger(triggers=[SILENCE], require="all")]),
]
FORMS = {
    "plain": "{{ event.resource.id }}",
    "text": {"__prefect_kind": "jinja", "template": "{{ event.payload.total }}"},
    "json": {
        "__prefect_kind": "json",
        "value": {"__prefect_kind": "jinja", "template": "{{ event.payload | tojson }}"},
    },
    "constant": {"__prefect_kind": "json", "value": "[1, 2]"},
}


def main() -> None:
    for trigger in TRIGGERS:
        made = Automation(
            name=f"{trigger.type} \N{PACKAGE}",
            description="as it was",
            trigger=trigger,
            actions=[
                RunDeployment(deployment_id=DEPLOYMENT, parameters=FORMS),
                PauseAutomation(source="inferred"),
                DoNothing(),
            ],
        ).create()
        read = Automation.read(id=made.id)
        assert read.trigger == trigger, (read.trigger, trigger)
        assert read.actions[0].deployment_id == DEPLOYMENT
        assert read.actions[1:] == made.actions[1:]
        assert {name: read.actions[0].parameters[name] for name in FORMS} == {
            **FORMS,
            "constant": [1, 2],
        }
    # Read by name, where there are several it is the newest.
    read = Automation.read(name="event \N{PACKAGE}")
    read.name, read.description = "renamed", ""
    read.trigger.threshold = 7
    read.update()
    assert Automation.read(id=read.id) == read
    read.disable()
    assert not Automation.read(id=read.id).enabled
    # Prefect 3.0.0 asks for the id "asd" here, and learns that there is none.
    assert read.enable() == Automation.read(id=read.id).enabled
    assert read.delete()
    asyncio.run(of_resources())
    for arguments in COMMANDS:
        command(*arguments)


async def of_resources() -> None:
    async with get_client() as client:
        related = await client.read_resource_related_automations(f"prefect.deployment.{DEPLOYMENT}")
        assert len(related) == 3, related
        await client.delete_resource_owned_automations("prefect.deployment.nobody")


def command(*arguments: str) -> None:
    """The `prefect` command, as often as wanted for one start of Python."""
    sys.argv = ["prefect", *arguments]
    try:
        app()
    except SystemExit as error:
        print(f"$ {' '.join(arguments)} -> {error.code or 0}", flush=True)


main()
