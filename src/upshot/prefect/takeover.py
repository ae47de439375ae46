"""Which automation of its owner a newly sent one is: `flow.serve` makes all of them anew."""

from collections.abc import Sequence

from upshot.core.language import AnyTrigger, read_trigger, same_condition, stored_document
from upshot.prefect.actions import stored_actions
from upshot.storage.automations import StoredAutomation


def same_as_sent(
    owned: Sequence[StoredAutomation], name: str, written: AnyTrigger
) -> StoredAutomation | None:
    """The owner's automation that goes on as the one that is sent, with its id and open keys.

    Of those that are ending any with the same condition, and best one with the same actions and
    name. Of the others only one that is the same in all: another process of the same owner has
    made it just now.
    """
    actions = stored_actions(stored_document(written))

    def likeness(one: StoredAutomation) -> tuple[bool, bool]:
        return stored_actions(one.trigger.document) == actions, one.name == name

    fitting = [one for one in owned if same_condition(read_trigger(one.trigger.document), written)]
    ending = [one for one in fitting if one.is_ending]
    if ending:
        return max(ending, key=likeness)
    return next((one for one in fitting if all(likeness(one))), None)
