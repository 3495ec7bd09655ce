"""/tenants/{tenant}/application-entities: the DICOM peers that an organization knows."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field, StringConstraints

from interop.administration.desk import AtDesk, Desk
from interop.administration.door import AdministrationRoute
from interop.administration.paging import After, Limit, Page, page, read_key
from interop.administration.values import MOST_BIG_INTEGER, MOST_INTEGER, Body, Line, Moment
from interop.administration.versions import IfMatch, require_match, tag
from interop.dimse import registry
from interop.errors import NotFound

router = APIRouter(route_class=AdministrationRoute, tags=["application entities"])

AeTitle = Annotated[
    str,
    StringConstraints(
        min_length=1,
        max_length=16,
        pattern=r"^[\x21-\x5b\x5d-\x7e]([\x20-\x5b\x5d-\x7e]{0,14}[\x21-\x5b\x5d-\x7e])?$",
    ),
]
Flag = Annotated[bool, Field(strict=True)]
Most = Annotated[int, Field(strict=True, ge=1, le=MOST_INTEGER)]
MostBytes = Annotated[int, Field(strict=True, ge=1, le=MOST_BIG_INTEGER)]


class EntityTerms(Body):
    """What is known of a peer and what it may do."""

    host: Line | None = None
    port: Annotated[int, Field(strict=True, ge=1, le=65535)] | None = None
    description: Line | None = None
    source_networks: Annotated[list[Line], Field(max_length=100)] = Field(
        [], description="CIDR; empty: the host's address."
    )
    certificate_fingerprints: Annotated[list[Line], Field(max_length=100)] = Field(
        [], description="SHA-256 of client certificates."
    )
    certificate_subject: Line | None = None
    may_send: Flag = True
    may_query: Flag = True
    may_be_sent_to: Flag = False
    purpose: Literal["CARE", "DATA_SHARING", "RESEARCH"] = Field(
        "CARE", description="For anything but care it sees only patients who have consented."
    )
    require_tls: Flag = False
    max_associations: Most | None = None
    max_objects_per_minute: Most | None = None
    max_bytes_per_minute: MostBytes | None = None
    active: Flag = True
    valid_from: Moment | None = None
    valid_until: Moment | None = None

    def given(self) -> dict[str, Any]:
        """What the request says, as the registry takes it."""
        values = self.model_dump(exclude_unset=True)
        if "source_networks" in values:
            values["source_networks"] = registry.networks(values["source_networks"])
        if "certificate_fingerprints" in values:
            values["certificate_fingerprints"] = tuple(values["certificate_fingerprints"])
        return values


class NewEntity(EntityTerms):
    """A peer to register; the AE title cannot be changed later."""

    ae_title: AeTitle


class EntityShown(BaseModel):
    """A peer."""

    id: UUID
    ae_title: str
    host: str | None
    port: int | None
    description: str | None
    source_networks: list[str]
    certificate_fingerprints: list[str]
    certificate_subject: str | None
    may_send: bool
    may_query: bool
    may_be_sent_to: bool
    purpose: str
    require_tls: bool
    max_associations: int | None
    max_objects_per_minute: int | None
    max_bytes_per_minute: int | None
    active: bool
    valid_from: datetime | None
    valid_until: datetime | None


@router.get("/tenants/{tenant}/application-entities")
def list_entities(
    tenant: str, desk: AtDesk, limit: Limit = 50, after: After = None
) -> Page[EntityShown]:
    """The peers, by AE title."""
    key = read_key(after, str)
    desk.record("CONFIG_VIEWED", registry.RESOURCE_TYPE)
    rows = registry.list_all(desk.database, desk.tenant, after=key, limit=limit + 1)
    return page(rows, limit, lambda one: one.ae_title, _shown)


@router.post("/tenants/{tenant}/application-entities", status_code=201)
def create_entity(tenant: str, entity: NewEntity, desk: AtDesk, response: Response) -> EntityShown:
    """Register a peer."""
    made = _shown(registry.create(desk.database, desk.tenant, entity.given(), desk.caller))
    tag(response, made)
    return made


@router.get("/tenants/{tenant}/application-entities/{id}")
def get_entity(tenant: str, id: UUID, desk: AtDesk, response: Response) -> EntityShown:
    """One peer; the ETag is what a change asks for."""
    found = _shown(_found(desk, id))
    desk.record("CONFIG_VIEWED", registry.RESOURCE_TYPE, id)
    tag(response, found)
    return found


@router.patch("/tenants/{tenant}/application-entities/{id}")
def change_entity(
    tenant: str,
    id: UUID,
    changes: EntityTerms,
    desk: AtDesk,
    response: Response,
    if_match: IfMatch = None,
) -> EntityShown:
    """Change what is given, everywhere within five seconds; associations that are open go on."""
    changed = _change(desk, id, changes.given(), if_match)
    tag(response, changed)
    return changed


@router.post("/tenants/{tenant}/application-entities/{id}/disable")
def disable_entity(tenant: str, id: UUID, desk: AtDesk) -> EntityShown:
    """Admit the peer no more, and send nothing to it."""
    return _change(desk, id, {"active": False}, "*")


def _change(
    desk: Desk, entity_id: UUID, changes: dict[str, Any], if_match: str | None
) -> EntityShown:
    before: list[registry.ApplicationEntity] = []

    def check(found: registry.ApplicationEntity) -> None:
        require_match(if_match, _shown(found))
        before.append(found)

    title = _found(desk, entity_id).ae_title
    after = registry.update(desk.database, desk.tenant, title, changes, desk.caller, check)
    if before == [after]:
        # The registry records what changed, and nothing did.
        desk.record("CONFIG_CHANGED", registry.RESOURCE_TYPE, entity_id, {"changes": {}})
    return _shown(after)


def _found(desk: Desk, entity_id: UUID) -> registry.ApplicationEntity:
    found = registry.find_by_id(desk.database, desk.tenant, entity_id)
    if found is None:
        raise NotFound()
    return found


def _shown(entity: registry.ApplicationEntity) -> EntityShown:
    return EntityShown.model_validate(registry.described(entity))
