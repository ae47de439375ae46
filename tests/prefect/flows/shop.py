"""A flow that is run for each user whose parcel has arrived after it was sent."""

from prefect import flow
from prefect.events.schemas.deployment_triggers import DeploymentEventTrigger

arrived = DeploymentEventTrigger(
    after={"parcel.sent"},
    expect={"parcel.arrived"},
    for_each={"prefect.resource.id"},
    parameters={"parcel": "{{ event.resource.id }}"},
)


@flow(log_prints=True)
def thank_customer(parcel: str):
    print(f"parcel {parcel} has arrived")


if __name__ == "__main__":
    thank_customer.serve(triggers=[arrived])
