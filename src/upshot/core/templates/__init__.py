"""Parameters of deployments and triggers: JSON whose strings are Jinja templates, kept harmless."""

from upshot.core.templates.faults import RenderFailed
from upshot.core.templates.parameters import (
    Parameters,
    as_literal,
    compile_parameters,
    merged_source,
)
from upshot.core.templates.view import event_document, event_view

__all__ = [
    "Parameters",
    "RenderFailed",
    "as_literal",
    "compile_parameters",
    "event_document",
    "event_view",
    "merged_source",
]
