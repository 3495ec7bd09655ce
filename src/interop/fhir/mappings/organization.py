"""Organization and Endpoint of the tenant itself: its registry entry and its DICOMweb service.

Both are rendered from tenants and tenant_settings. The name and the state of a tenant are changed
in administration, not over FHIR. Another tenant is an Organization here as soon as rows name it, as
a payer or as whom a patient was referred to: by its name and kind, and nothing else. Every other
Organization or Endpoint (referring practices, laboratories) is the client's own and stored whole.
"""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from interop.fhir.lens import Connection
from interop.fhir.mappings.concepts import Coding, Reference
from interop.fhir.mappings.converters import Boolean, Codes, Text
from interop.fhir.mappings.lens import Entry, ResourceMapping, Row, Rows
from interop.fhir.mappings.systems import OWN
from interop.fhir.mappings.views import Shown, ViewLens

TENANT: Final = f"{OWN}:tenant"
_TYPE: Final = "http://terminology.hl7.org/CodeSystem/organization-type"
PROVIDER: Final = Coding(_TYPE, "prov", "Healthcare Provider")
# What a tenant is that does not treat patients.
OTHER_KINDS: Final = {
    "PAYER": Coding(_TYPE, "pay", "Payer"),
    "REGULATOR": Coding(_TYPE, "govt", "Government"),
    "AI_VENDOR": Coding(_TYPE, "bus", "Non-Healthcare Business or Corporation"),
}
WADO_RS: Final = Coding(
    "http://terminology.hl7.org/CodeSystem/endpoint-connection-type",
    "dicom-wado-rs",
    "DICOM WADO-RS",
)

# SMART Imaging Access: the token that read this Endpoint is to be sent to its address.
SMART_IMAGING: Final = (
    "http://fhir.org/argonaut/smart-imaging/StructureDefinition/requires-access-token"
)


ORGANIZATION: Final = ResourceMapping(
    "Organization",
    "tenants",
    [
        Entry("slug", f"identifier[system={TENANT}].value", Text()),
        Entry("is_active", "active", Boolean(), True),
        Entry("type", "type", Shown("type as organization-type")),
        Entry("name", "name", Text()),
    ],
)

_OF_TENANT: Final = """
SELECT CASE WHEN id = %(tenant)s THEN slug END, id <> %(tenant)s OR status = 'ACTIVE', type, name
FROM tenants WHERE id = %(row)s AND (id = %(tenant)s
    OR EXISTS (SELECT FROM patient_insurance_policies WHERE tenant_id = %(tenant)s
        AND payer_id = %(row)s)
    OR EXISTS (SELECT FROM claims WHERE tenant_id = %(tenant)s AND payer_id = %(row)s)
    OR EXISTS (SELECT FROM fee_schedules WHERE tenant_id = %(tenant)s AND payer_id = %(row)s)
    OR EXISTS (SELECT FROM referrals WHERE tenant_id = %(tenant)s AND to_tenant_id = %(row)s))
"""


def _load_organization(connection: Connection, tenant_id: UUID, row_id: UUID) -> Rows | None:
    values = {"tenant": tenant_id, "row": row_id}
    found = connection.execute(_OF_TENANT, values).fetchone()
    if found is None:
        return None
    row = dict(zip(ORGANIZATION.columns, found, strict=True))
    return Rows({**row, "type": [OTHER_KINDS.get(row["type"], PROVIDER).concept()]})


def organization(public_url: str | None) -> ViewLens:
    origin = "an organization of this installation, a tenant; it is changed in administration"
    return ViewLens(ORGANIZATION, _load_organization, origin)


def _endpoint_template(row: Row) -> dict[str, Any]:
    return {
        "extension": [{"url": SMART_IMAGING, "valueBoolean": True}],
        "connectionType": WADO_RS.json(),
        "payloadType": [{"text": "DICOM WADO-RS"}],
        "payloadMimeType": ["application/dicom"],
    }


ENDPOINT: Final = ResourceMapping(
    "Endpoint",
    "tenant_settings",
    [
        Entry(
            "status",
            "status",
            Codes({"active": "ACTIVE", "suspended": "SUSPENDED", "off": "CLOSED"}),
            required=True,
        ),
        Entry("name", "name", Text()),
        Entry("organization", "managingOrganization", Reference(("Organization",))),
        Entry("address", "address", Text()),
    ],
    template=_endpoint_template,
)


def dicomweb_address(public_url: str | None, slug: str) -> str:
    """The DICOMweb service of a tenant; without a public URL, relative to the server."""
    return f"{public_url or ''}/t/{slug}/dicom-web"


def endpoint(public_url: str | None) -> ViewLens:
    def load(connection: Connection, tenant_id: UUID, row_id: UUID) -> Rows | None:
        found = connection.execute(
            "SELECT t.status, t.name, t.slug FROM tenant_settings AS s"
            " JOIN tenants AS t ON t.id = s.tenant_id WHERE s.tenant_id = %s AND s.id = %s",
            (tenant_id, row_id),
        ).fetchone()
        if found is None:
            return None
        status, name, slug = found
        row = (status, f"DICOMweb of {name}", f"Organization/{tenant_id}")
        address = dicomweb_address(public_url, slug)
        return Rows(dict(zip(ENDPOINT.columns, (*row, address), strict=True)))

    return ViewLens(ENDPOINT, load, "the DICOMweb service of this tenant")
