"""Keeps the address of a chat in a block, and has an automation tell it of every delivery.

Its argument is the address.
"""

import sys

from prefect.automations import Automation
from prefect.blocks.core import Block
from prefect.blocks.webhook import Webhook
from prefect.events.actions import CallWebhook
from prefect.events.schemas.automations import EventTrigger

url = sys.argv[1]
TOLD = '{"text": "{{ event.resource.name }} has {{ event.payload.what }}"}'


def keep_the_address() -> None:
    Webhook(url="http://127.0.0.1:9/old").save("chat")
    refusal = ""
    try:
        Webhook(url=url).save("chat")
    except ValueError as error:
        refusal = str(error)
    assert "overwrite" in refusal, "a block was overwritten unasked"
    Webhook(method="PUT", url=url, headers={"X-Token": "hush"}).save("chat", overwrite=True)


def look_it_up() -> Webhook:
    chat = Block.load("webhook/chat")
    assert isinstance(chat, Webhook)
    assert chat.method == "PUT"
    assert chat.url.get_secret_value() == url
    assert chat.headers.get_secret_value() == {"X-Token": "hush"}
    assert Webhook.load("chat").url.get_secret_value() == url
    return chat


def tell_it_of_deliveries(chat: Webhook) -> None:
    assert chat._block_document_id is not None
    Automation(
        name="tell the chat",
        trigger=EventTrigger(expect={"parcel.delivered"}, posture="Reactive", threshold=1),
        actions=[CallWebhook(block_document_id=chat._block_document_id, payload=TOLD)],
    ).create()


keep_the_address()
tell_it_of_deliveries(look_it_up())
