"""The filters of Prefect's client for blocks, of which there is one type."""

import re
from typing import Annotated, Any

from fastapi import Body
from pydantic import Field

from upshot.core.language import Storable
from upshot.prefect.flow_filters import Ids, Offset, PageLimit, Texts, or_default
from upshot.prefect.routing import Sent
from upshot.prefect.webhook_blocks import SCHEMA_ID, SLUG, TYPE_ID
from upshot.storage.webhook_blocks import Wanted

Text = Annotated[str, Storable]


class TypeFilter(Sent):
    class Slugs(Sent):
        any_: Texts | None = None

    class Names(Sent):
        like_: Text | None = None

    slug: Slugs = Slugs()
    name: Names = Names()

    def takes_webhooks(self) -> bool:
        like = self.name.like_
        slugs = self.slug.any_
        return (slugs is None or SLUG in slugs) and (like is None or like.lower() in SLUG)


class SchemaFilter(Sent):
    class IdsFilter(Sent):
        any_: Ids | None = None

    class Capabilities(Sent):
        all_: Texts | None = None

    id: IdsFilter = IdsFilter()
    block_type_id: IdsFilter = IdsFilter()
    block_capabilities: Capabilities = Capabilities()

    def takes_webhooks(self) -> bool:
        of_ids, of_types = self.id.any_, self.block_type_id.any_
        return (
            not self.block_capabilities.all_
            and (of_ids is None or SCHEMA_ID in of_ids)
            and (of_types is None or TYPE_ID in of_types)
        )


class DocumentFilter(Sent):
    class IdsFilter(Sent):
        any_: Ids | None = None

    class Names(Sent):
        any_: Texts | None = None
        like_: Text | None = None

    class Anonymous(Sent):
        eq_: bool | None = None

    id: IdsFilter = IdsFilter()
    block_type_id: IdsFilter = IdsFilter()
    name: Names = Names()
    is_anonymous: Anonymous | None = Anonymous(eq_=False)

    def wanted(self) -> Wanted:
        like = self.name.like_
        return Wanted(
            ids=self.id.any_,
            names=self.name.any_,
            like=like and f"%{like}%",
            is_anonymous=self.is_anonymous.eq_ if self.is_anonymous else None,
        )

    def takes_webhooks(self) -> bool:
        # Other characters are in no name, and some of them mean something to the database.
        like = self.name.like_
        of_types = self.block_type_id.any_
        return (of_types is None or TYPE_ID in of_types) and (
            like is None or re.fullmatch(r"[A-Za-z0-9_%-]*", like) is not None
        )


class Filtered(Sent):
    """What is asked of types, schemas or documents of blocks."""

    block_types: TypeFilter | None = None
    block_schemas: SchemaFilter | None = None
    block_documents: DocumentFilter | None = None
    include_secrets: Annotated[bool, or_default(False)] = False
    offset: Offset = 0
    limit: PageLimit = Field(default=None, validate_default=True)

    def takes_webhooks(self) -> bool:
        asked = (self.block_types, self.block_schemas, self.block_documents)
        return all(one is None or one.takes_webhooks() for one in asked)

    def those_of(self, *one: dict[str, Any]) -> list[dict[str, Any]]:
        """The page of a list of one."""
        return list(one)[self.offset : self.offset + self.limit] if self.takes_webhooks() else []


Asked = Annotated[Filtered | None, Body()]
