"""/tenants/{tenant}/query-tags: attributes of images that an organization makes searchable."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, Field, StringConstraints

from interop.administration.desk import AtDesk
from interop.administration.door import AdministrationRoute
from interop.administration.paging import After, Limit, Page, page, page_of, read_key
from interop.administration.values import Body
from interop.dicom import query_tags
from interop.dicom.query.attributes import Level
from interop.dicom.query_tags import Registered

router = APIRouter(route_class=AdministrationRoute, tags=["query tags"])

TagLevel = Literal["STUDY", "SERIES", "INSTANCE"]
Path = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class NewTag(Body):
    """An attribute to make searchable."""

    path: Path = Field(
        description="A keyword, a tag as eight hexadecimal digits, or a path of such:"
        " RequestAttributesSequence.RequestedProcedureDescription."
    )
    level: TagLevel = Field(description="What a search with it finds: at this level or below.")
    vr: Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}$")] | None = Field(
        None, description="Of what PS3.6 does not have."
    )
    private_creator: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = Field(
        None, description="Of a private tag; it is found in whatever block its creator reserved."
    )


class TagShown(BaseModel):
    """A searchable attribute and the state of its index."""

    path: str
    keyword: str
    private_creator: str | None
    vr: str
    level: TagLevel
    status: Literal["BUILDING", "READY", "DROPPING"] = Field(description="Matched when READY.")
    total: int = Field(description="Objects that were stored when it was registered.")
    done: int = Field(description="How many of them are indexed.")
    errors: int = Field(description="Objects whose value could not be indexed.")


class TagError(BaseModel):
    """An object whose value could not be indexed."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    message: str
    created_at: datetime


@router.get("/tenants/{tenant}/query-tags")
def list_query_tags(
    tenant: str, desk: AtDesk, limit: Limit = 50, after: After = None
) -> Page[TagShown]:
    """The searchable attributes, by path."""
    rows = desk.read(
        lambda connection: query_tags.list_all(connection, desk.tenant.id),
        query_tags.RESOURCE_TYPE,
    )
    return page_of(rows, after, limit, str, lambda one: one.path, _shown)


@router.post("/tenants/{tenant}/query-tags", status_code=202)
def register_query_tag(tenant: str, tag: NewTag, desk: AtDesk) -> TagShown:
    """Make an attribute searchable; it is matched when all that is stored is indexed."""
    made = desk.change(
        lambda connection: query_tags.register(
            connection,
            desk.tenant.id,
            tag.path,
            Level[tag.level],
            desk.changer,
            vr=tag.vr,
            private_creator=tag.private_creator,
        ),
        query_tags.RESOURCE_TYPE,
    )
    return _shown(made)


@router.get("/tenants/{tenant}/query-tags/{tag}")
def get_query_tag(tenant: str, tag: str, desk: AtDesk) -> TagShown:
    """One searchable attribute, by keyword or tag."""
    return _shown(
        desk.read(
            lambda connection: query_tags.find(connection, desk.tenant.id, tag),
            query_tags.RESOURCE_TYPE,
        )
    )


@router.get("/tenants/{tenant}/query-tags/{tag}/errors")
def list_query_tag_errors(
    tenant: str, tag: str, desk: AtDesk, limit: Limit = 50, after: After = None
) -> Page[TagError]:
    """Objects whose value could not be indexed, and why."""
    last = read_key(after, UUID)
    rows = desk.read(
        lambda connection: query_tags.errors_of(
            connection,
            desk.tenant.id,
            query_tags.find(connection, desk.tenant.id, tag).id,
            last,
            limit + 1,
        ),
        query_tags.RESOURCE_TYPE,
    )
    return page(rows, limit, lambda one: one["object_id"], TagError.model_validate)


@router.delete("/tenants/{tenant}/query-tags/{tag}", status_code=202)
def remove_query_tag(tenant: str, tag: str, desk: AtDesk) -> TagShown:
    """Have an attribute be searchable no more, at once; a job removes its index."""
    return _shown(
        desk.change(
            lambda connection: query_tags.remove(connection, desk.tenant.id, tag, desk.changer),
            query_tags.RESOURCE_TYPE,
        )
    )


def _shown(tag: Registered) -> TagShown:
    return TagShown.model_validate(tag, from_attributes=True)
