"""The shop's worker: runs after a user has completed an order that they had created."""

from upshot import EventTrigger, deployment

order_complete = EventTrigger(
    expect={"order.complete"},
    after={"order.created"},
    for_each={"prefect.resource.id"},
    parameters={"user_id": "{{ event.resource.id }}"},
)


@deployment(name="post-order-complete")
def post_order_complete(user_id: str) -> None:
    print(f"User {user_id} has completed an order", flush=True)


if __name__ == "__main__":
    post_order_complete.serve(triggers=[order_complete])
