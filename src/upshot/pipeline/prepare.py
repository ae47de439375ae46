"""What is left to be rendered of a run before it is handed to its runner."""

import json
from datetime import datetime

from upshot.core.parameter_schema import breach_of
from upshot.core.templates import RenderFailed
from upshot.pipeline.render import Renderers
from upshot.storage.queue import ClaimedRun, Outcome


async def render_left(renderers: Renderers, run: ClaimedRun, template: str) -> str:
    """The parameters as JSON.

    Raises:
        RenderFailed: there are none, or they break the deployment's schema.
    """
    return await render_template(renderers, template, parameter_schema=run.parameter_schema)


async def render_template(
    renderers: Renderers, template: str, *, parameter_schema: str | None
) -> str:
    """Likewise, of a run that nobody has claimed yet."""
    heavy = json.loads(template)
    rendered = await renderers.render(heavy["parameters"], heavy["context"])
    breach = breach_of(parameter_schema, rendered)
    if breach is not None:
        raise RenderFailed(breach)
    return json.dumps(rendered)


def unrendered(run: ClaimedRun, started_at: datetime, error: RenderFailed) -> Outcome:
    """The run fails without having reached its runner."""
    return Outcome(
        run_id=run.id,
        lease=run.lease,
        state="failed",
        attempt=run.attempt,
        started_at=started_at,
        duration=0.0,
        outcome="failed",
        error=error.message,
    )
