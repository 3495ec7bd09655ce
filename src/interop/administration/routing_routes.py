"""/tenants/{tenant}/routing-rules, /routing-destinations, /deliveries, /storage-commitments.

Where an organization's images are sent on, and what became of it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, Field, StringConstraints

from interop.administration.desk import AtDesk, Desk
from interop.administration.door import AdministrationRoute
from interop.administration.entity_routes import AeTitle, Flag
from interop.administration.named import Named, Put
from interop.administration.paging import After, Limit, Page, page, read_key
from interop.administration.values import Body
from interop.administration.versions import IfMatch
from interop.dimse import commitment_records
from interop.errors import Conflict, NotFound
from interop.routing import deliveries, rules, web_destinations
from interop.routing.web_destinations import WebDestination
from storage.database import Connection

router = APIRouter(route_class=AdministrationRoute, tags=["image routing"])

_NAME = r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,62}$"
RouteName = Annotated[str, StringConstraints(pattern=_NAME)]
InPath = Annotated[str, Path(pattern=_NAME)]
Url = Annotated[str, StringConstraints(max_length=2048, pattern=r"^https://[\x21-\x7e]+$")]
Word = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[\x20-\x7e]+$")]
Text = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]+$")]
Texts = Annotated[list[Text], Field(max_length=100)]
Consent = Literal["AI_ANALYSIS", "RESEARCH", "DATA_SHARING", "MARKETING"]
Status = Literal["PENDING", "RETRYING", "DELIVERED", "WITHHELD", "DEAD_LETTER"]
DELIVERY, COMMITMENT = "ROUTED_DELIVERY", "STORAGE_COMMITMENT"


class Conditions(Body):
    """What an object must be like; of each list that is given, one value must fit."""

    modalities: Texts | None = None
    sop_class_uids: Texts | None = None
    calling_ae_titles: Texts | None = Field(None, description="Who sent it.")
    study_descriptions: Texts | None = Field(None, description="With the wildcards * and ?.")
    body_parts: Texts | None = None
    manufacturers: Texts | None = Field(None, description="With wildcards.")
    station_names: Texts | None = Field(None, description="With wildcards.")
    location_ids: Annotated[list[UUID], Field(max_length=100)] | None = Field(
        None, description="The patient's primary location."
    )


class RuleTerms(Body):
    """What a rule says. It has one destination."""

    predicate: Conditions = Field(default_factory=Conditions)
    ae_title: AeTitle | None = Field(None, description="A peer that may be sent to.")
    web_destination: RouteName | None = Field(None, description="A routing destination, by name.")
    quiet_seconds: Annotated[int, Field(strict=True, ge=0, le=rules.MOST_QUIET_SECONDS)] = Field(
        0, description="Send when nothing more of the study has come for so long; 0: at once."
    )
    with_commitment: Flag = Field(False, description="Ask the peer for storage commitment.")
    required_consent: Consent | None = Field(
        None, description="What the patient must have consented to."
    )
    enabled: Flag = True

    def given(self) -> dict[str, Any]:
        """As interop.routing.rules takes it."""
        values = self.model_dump()
        values["predicate"] = {
            key: [str(text) for text in texts]
            for key, texts in values["predicate"].items()
            if texts
        }
        return values


class NewRule(RuleTerms):
    """A rule to make."""

    name: RouteName


class RuleShown(BaseModel):
    """A rule."""

    id: UUID
    name: str
    predicate: dict[str, list[str]]
    ae_title: str | None
    web_destination: str | None
    quiet_seconds: int
    with_commitment: bool
    required_consent: str | None
    enabled: bool


class DestinationTerms(Body):
    """A DICOMweb service and how it knows us. The secret is kept sealed and never shown."""

    url: Url = Field(description="Its root: /studies is added.")
    authentication: Literal["NONE", "BASIC", "BEARER", "CLIENT_CREDENTIALS"] = "NONE"
    client_id: Word | None = Field(None, description="The user, or the OAuth client.")
    secret: Annotated[str, StringConstraints(min_length=1, max_length=4096)] | None = Field(
        None, description="Password, token or client secret; left out: the one that it has."
    )
    token_url: Url | None = None
    scope: Word | None = None
    active: Flag = True


class NewDestination(DestinationTerms):
    """A service to register."""

    name: RouteName


class DestinationShown(BaseModel):
    """A DICOMweb service."""

    id: UUID
    name: str
    url: str
    authentication: str
    client_id: str | None
    token_url: str | None
    scope: str | None
    active: bool


class DeliveryShown(BaseModel):
    """An object on its way to a destination."""

    id: UUID
    rule_name: str
    destination: str
    status: Status
    attempts: int
    status_code: int | None = Field(description="C-STORE status, Failure Reason or HTTP status.")
    message: str | None
    study_instance_uid: str
    sop_instance_uid: str
    created_at: datetime
    next_attempt_at: datetime
    delivered_at: datetime | None
    commitment: str | None = Field(
        description="COMMITTED, NOT_COMMITTED, or how the request for storage commitment stands."
    )


class CommitmentShown(BaseModel):
    """A storage commitment: asked of this server (SCP), or by it (SCU)."""

    id: UUID
    role: Literal["SCP", "SCU"]
    transaction_uid: str
    peer_ae_title: str
    status: str
    status_code: int | None
    message: str | None
    attempts: int
    created_at: datetime
    completed_at: datetime | None
    objects: int
    committed: int
    failed: int


# -- rules --------------------------------------------------------------------------------------


def _rule(rule: rules.Rule) -> RuleShown:
    return RuleShown.model_validate(rule.described())


RULES = Named(rules.SUBJECT, "rule", rules.list_all, rules.find, rules.remove, _rule)


def _put_rule(desk: Desk, terms: RuleTerms) -> Put[rules.Rule]:
    return lambda connection, name: rules.put(
        connection, desk.tenant.id, name, terms.given(), desk.changer
    )


@router.get("/tenants/{tenant}/routing-rules")
def list_rules(
    tenant: str, desk: AtDesk, limit: Limit = 50, after: After = None
) -> Page[RuleShown]:
    """The rules, by name."""
    return RULES.page(desk, after, limit)


@router.post("/tenants/{tenant}/routing-rules", status_code=201)
def create_rule(tenant: str, rule: NewRule, desk: AtDesk, response: Response) -> RuleShown:
    """Make a rule; it holds for what comes from now on."""
    return RULES.make(desk, rule.name, _put_rule(desk, rule), response)


@router.get("/tenants/{tenant}/routing-rules/{rule}")
def get_rule(tenant: str, rule: InPath, desk: AtDesk, response: Response) -> RuleShown:
    """One rule."""
    return RULES.one(desk, rule, response)


@router.put("/tenants/{tenant}/routing-rules/{rule}")
def replace_rule(
    tenant: str,
    rule: InPath,
    terms: RuleTerms,
    desk: AtDesk,
    response: Response,
    if_match: IfMatch = None,
) -> RuleShown:
    """Replace what a rule says; what is on its way by it still goes."""
    return RULES.replace(desk, rule, if_match, _put_rule(desk, terms), response)


@router.delete("/tenants/{tenant}/routing-rules/{rule}")
def remove_rule(tenant: str, rule: InPath, desk: AtDesk) -> RuleShown:
    """Forget a rule; what is on its way by it still goes."""
    return RULES.forget(desk, rule)


# -- DICOMweb destinations ----------------------------------------------------------------------


def _destination(destination: WebDestination) -> DestinationShown:
    return DestinationShown.model_validate(destination.described())


DESTINATIONS = Named(
    web_destinations.SUBJECT,
    "destination",
    web_destinations.list_all,
    web_destinations.find,
    web_destinations.remove,
    _destination,
)


def _put_destination(desk: Desk, terms: DestinationTerms) -> Put[WebDestination]:
    values = terms.model_dump(exclude={"secret", "name"})
    return lambda connection, name: web_destinations.put(
        connection, desk.tenant.id, name, values, terms.secret, desk.changer
    )


@router.get("/tenants/{tenant}/routing-destinations")
def list_destinations(
    tenant: str, desk: AtDesk, limit: Limit = 50, after: After = None
) -> Page[DestinationShown]:
    """The DICOMweb services, by name."""
    return DESTINATIONS.page(desk, after, limit)


@router.post("/tenants/{tenant}/routing-destinations", status_code=201)
def create_destination(
    tenant: str, destination: NewDestination, desk: AtDesk, response: Response
) -> DestinationShown:
    """Register a DICOMweb service."""
    put = _put_destination(desk, destination)
    return DESTINATIONS.make(desk, destination.name, put, response)


@router.get("/tenants/{tenant}/routing-destinations/{destination}")
def get_destination(
    tenant: str, destination: InPath, desk: AtDesk, response: Response
) -> DestinationShown:
    """One DICOMweb service."""
    return DESTINATIONS.one(desk, destination, response)


@router.put("/tenants/{tenant}/routing-destinations/{destination}")
def replace_destination(
    tenant: str,
    destination: InPath,
    terms: DestinationTerms,
    desk: AtDesk,
    response: Response,
    if_match: IfMatch = None,
) -> DestinationShown:
    """Change a DICOMweb service; another origin needs its own secret."""
    put = _put_destination(desk, terms)
    return DESTINATIONS.replace(desk, destination, if_match, put, response)


@router.delete("/tenants/{tenant}/routing-destinations/{destination}")
def remove_destination(tenant: str, destination: InPath, desk: AtDesk) -> DestinationShown:
    """Forget a DICOMweb service that no rule and no delivery names."""
    return DESTINATIONS.forget(desk, destination)


# -- what became of it --------------------------------------------------------------------------


@router.get("/tenants/{tenant}/deliveries")
def list_deliveries(
    tenant: str,
    desk: AtDesk,
    limit: Limit = 50,
    after: After = None,
    status: Annotated[Status | None, Query(description="Only of this status.")] = None,
) -> Page[DeliveryShown]:
    """The deliveries, newest first."""
    key = read_key(after, tuple[datetime, UUID])
    found = desk.read(
        lambda connection: deliveries.list_deliveries(
            connection, desk.tenant.id, after=key, limit=limit + 1, status=status
        ),
        DELIVERY,
    )
    return page(found, limit, _moment, DeliveryShown.model_validate)


@router.post("/tenants/{tenant}/deliveries/{id}/retry")
def retry_delivery(tenant: str, id: UUID, desk: AtDesk) -> DeliveryShown:
    """Send an object again that was given up, withheld, not committed, or waits to be tried."""

    def work(connection: Connection) -> DeliveryShown:
        if not deliveries.retry(connection, desk.tenant.id, [id]):
            if deliveries.find_one(connection, desk.tenant.id, id) is None:
                raise NotFound()
            raise Conflict("it is delivered and not refused by a commitment, or on its way")
        return DeliveryShown.model_validate(deliveries.find_one(connection, desk.tenant.id, id))

    return desk.change(work, DELIVERY, id)


@router.get("/tenants/{tenant}/storage-commitments")
def list_storage_commitments(
    tenant: str, desk: AtDesk, limit: Limit = 50, after: After = None
) -> Page[CommitmentShown]:
    """The storage commitments, newest first."""
    key = read_key(after, tuple[datetime, UUID])
    found = desk.read(
        lambda connection: commitment_records.list_commitments(
            connection, desk.tenant.id, after=key, limit=limit + 1
        ),
        COMMITMENT,
    )
    return page(found, limit, _moment, CommitmentShown.model_validate)


def _moment(row: dict[str, Any]) -> tuple[datetime, UUID]:
    return row["created_at"], row["id"]
