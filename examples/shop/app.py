"""The shop's app: two users create an order, one of them completes it."""

from upshot import emit_event


def create_order(user_id: str) -> None:
    emit_event(event="order.created", resource={"prefect.resource.id": user_id})


def complete_order(user_id: str) -> None:
    emit_event(event="order.complete", resource={"prefect.resource.id": user_id})


if __name__ == "__main__":
    create_order("123")
    create_order("456")
    complete_order("123")
