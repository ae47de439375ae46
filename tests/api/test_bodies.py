"""Bodies are bounded one by one, and all together."""

import pytest

from tests.api.conftest import Api
from upshot.api.bodies import Bodies, Held
from upshot.core.errors import Overloaded
from upshot.core.limits import BODIES_BYTES_MAX


def test_more_than_all_requests_may_hold_is_refused_until_others_are_done() -> None:
    bodies = Bodies()
    large, small = Held(bodies), Held(bodies)
    large.add(BODIES_BYTES_MAX)
    with pytest.raises(Overloaded):
        small.add(1)
    large.release()
    small.add(1)
    small.release()
    assert bodies.size == 0


@pytest.mark.anyio
async def test_a_request_that_is_answered_holds_nothing_whatever_the_answer(api: Api) -> None:
    for body, status in ((b'{"event": "x", "resource": {"id": "1"}}', 201), (b"[", 400)):
        answer = await api.client.post("/v1/events", content=body)
        assert answer.status_code == status
        assert api.app.state.bodies.size == 0
