"""ServiceRequest over referrals (Dental Data Exchange dental-servicerequest), and its Task.

The request says what is asked for, of whom and why; how the other side takes it shows in a Task of
the same row once the referral was sent, which is changed through the request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from interop.fhir.lens import Connection, JsonObject
from interop.fhir.mappings import ai_job, references
from interop.fhir.mappings.ai_job import FULFILL, Output
from interop.fhir.mappings.concepts import Coding, Concept, ConceptText, Reference, has_coding
from interop.fhir.mappings.converters import Codes, Moment, Text
from interop.fhir.mappings.lens import Entry, ResourceMapping, Row, Rows, constant
from interop.fhir.mappings.medication import Person
from interop.fhir.mappings.places import FirstOf
from interop.fhir.mappings.refined import Refined
from interop.fhir.mappings.shared_type import SharedLens, Writable
from interop.fhir.mappings.statements import select
from interop.fhir.mappings.systems import DENTAL, SNOMED_CT, own, own_extension
from interop.fhir.mappings.tables import TableLens
from interop.fhir.mappings.views import ViewLens

STATUS: Final = own_extension("referral-status")
COMPLETED_AT: Final = own_extension("referral-completed-at")
RESPONSE: Final = own_extension("referral-response")
NO_REASON: Final = "(no reason given)"
# As the published guide's example of a referral codes it.
REFERRAL: Final = Coding(SNOMED_CT, "103697008", "Patient referral for dental care")
TYPES: Final = Concept(
    {
        "REFERRAL": own("referral-type", "referral", "Referral"),
        "SECOND_OPINION": own("referral-type", "second-opinion", "Second opinion"),
    }
)
URGENCIES: Final = Codes(
    {"routine": "ROUTINE", "urgent": "URGENT", "stat": "EMERGENCY", "asap": "URGENT"}
)
STATUSES: Final = Refined(
    "status",
    Codes(
        {
            "draft": "DRAFT",
            "active": "SENT",
            "revoked": "CANCELLED",
            "completed": "COMPLETED",
            "on-hold": "DRAFT",
            "unknown": "DRAFT",
        }
    ),
    STATUS,
    {"ACCEPTED": "SENT", "DECLINED": "CANCELLED"},
    "DRAFT",
)


Named = tuple[str | None, str | None, str | None]


@dataclass(frozen=True, slots=True)
class Addressee:
    """(to_provider_id, to_tenant_id, to_name) in the list of performers."""

    provider: Reference
    organization: Reference

    @property
    def label(self) -> str:
        return (
            f"first {self.provider.label}, first {self.organization.label} of another tenant,"
            " first display"
        )

    def get(self, node: Any) -> Named:
        items = node if isinstance(node, list) else []
        providers = (self.provider.get(item) for item in items)
        organizations = (self.organization.get(item) for item in items)
        names = (_display(item) for item in items)
        first = (next(filter(None, found), None) for found in (providers, organizations, names))
        return tuple(first)  # type: ignore[return-value]

    def put(self, value: Named, node: Any) -> Any:
        provider, organization, name = value
        kept = [item for item in node or [] if not any(self.get([item]))]
        named = [{"reference": target} for target in (provider, organization) if target]
        if name:
            named = [{**item, "display": name} for item in named[:1] or [{}]] + named[1:]
        return [*named, *kept] or None


def _display(item: Any) -> str | None:
    return Text().get(item.get("display")) if isinstance(item, Mapping) else None


def mapping(public_url: str | None) -> ResourceMapping:
    practitioner = Reference(("Practitioner",), public_url)

    def template(row: Row) -> JsonObject:
        return {"intent": "order", "category": [DENTAL.concept()], "code": REFERRAL.concept()}

    return ResourceMapping(
        "ServiceRequest",
        "referrals",
        [
            Entry("completed_at", f"extension[url={COMPLETED_AT}].valueDateTime", Moment()),
            Entry("response", f"extension[url={RESPONSE}].valueString", Text()),
            Entry("status", "", STATUSES),
            Entry("referral_type", "category", FirstOf(TYPES), "REFERRAL"),
            Entry("urgency", "priority", URGENCIES, "ROUTINE"),
            Entry("patient_id", "subject", Reference(("Patient",), public_url)),
            Entry("encounter_id", "encounter", Reference(("Encounter",), public_url)),
            Entry("sent_at", "authoredOn", Moment()),
            Entry("from_provider_id", "requester", practitioner),
            Entry("specialty", "performerType", ConceptText()),
            Entry(
                ("to_provider_id", "to_tenant_id", "to_name"),
                "performer",
                Addressee(practitioner, Reference(("Organization",), public_url)),
            ),
            Entry("reason", "reasonCode", FirstOf(ConceptText()), NO_REASON),
        ],
        template=template,
    )


def is_referral(resource: JsonObject) -> bool:
    """Whether the request is a referral of ours or as the dental guide codes one."""
    if resource.get("status") == "entered-in-error" or resource.get("doNotPerform") is True:
        return False
    categories = resource.get("category") or []
    is_ours = any(has_coding(item, *TYPES.codes.values()) for item in categories)
    return is_ours or has_coding(resource.get("code"), REFERRAL)


def part(public_url: str | None) -> Writable:
    links = {"to_provider_id": ("Practitioner",), "to_tenant_id": ("Organization",)}
    return Writable(TableLens(mapping(public_url), needs=("patient_id",), links=links), is_referral)


# -- the same rows as work for the other side -----------------------------------------------------

TASK: Final = ResourceMapping(
    "Task",
    "referrals",
    [
        Entry(
            "status",
            "status",
            Codes(
                {
                    "requested": "SENT",
                    "accepted": "ACCEPTED",
                    "rejected": "DECLINED",
                    "completed": "COMPLETED",
                    "cancelled": "CANCELLED",
                }
            ),
            required=True,
        ),
        Entry("request", "focus", Reference(("ServiceRequest",))),
        Entry("patient", "for", Reference(("Patient",))),
        Entry("encounter", "encounter", Reference(("Encounter",))),
        Entry("completed_at", "executionPeriod.end", Moment()),
        Entry("sent_at", "authoredOn", Moment()),
        Entry("from_provider", "requester", Reference(("Practitioner",))),
        Entry(("to_provider", "to_name"), "owner", Person(Reference(("Practitioner",)))),
        Entry("response", "output", FirstOf(Output("Response", "valueString", Text()))),
    ],
    template=constant({"intent": "order", "code": FULFILL.concept()}),
)
_SHOWN: Final = (
    "patient_id", "encounter_id", "from_provider_id", "to_provider_id", "to_name", "status",
    "sent_at", "completed_at", "response",
)  # fmt: skip


def _load_task(connection: Connection, tenant_id: UUID, row_id: UUID) -> Rows | None:
    found = select(connection, "referrals", _SHOWN, {"tenant_id": tenant_id, "id": row_id})
    if not found or found[0]["status"] == "DRAFT":
        return None
    row = found[0]

    def named(resource_type: str, target: UUID | None) -> str | None:
        return references.literal(connection, tenant_id, resource_type, target) if target else None

    row["request"] = named("ServiceRequest", row_id)
    row["patient"] = named("Patient", row["patient_id"])
    row["encounter"] = named("Encounter", row["encounter_id"])
    row["from_provider"] = named("Practitioner", row["from_provider_id"])
    row["to_provider"] = named("Practitioner", row["to_provider_id"])
    return Rows({column: row[column] for column in TASK.columns})


def task(public_url: str | None) -> SharedLens:
    """Tasks of referrals, and those of the AI."""
    origin = "made of the ServiceRequest of a referral; change or delete that"
    referred = ViewLens(TASK, _load_task, origin, ("referrals", "id"))
    return SharedLens((ai_job.task(public_url), referred))
