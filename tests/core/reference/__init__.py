"""When triggers fire, once more and written for obviousness: what the core is compared with.

Nothing here is incremental where it can be helped: events are kept in plain lists and looked
through again at every arrival. Only what is tested by itself is shared with the core: patterns,
matching of labels, keys, `where`.
"""

from tests.core.reference.timeline import Fired, firings

__all__ = ["Fired", "firings"]
