"""Organization and Endpoint of the tenant itself: its registry entry and its DICOMweb service.

Both are rendered from tenants and tenant_settings. The name and the state of a tenant are changed
in administration, not over FHIR. Every other Organization or Endpoint (referring practices,
laboratories, payers) is the client's own and stored whole.
"""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from interop.fhir.lens import Connection
from interop.fhir.mappings.concepts import Coding, Reference
from interop.fhir.mappings.converters import Boolean, Codes, Text
from interop.fhir.mappings.lens import Entry, ResourceMapping, Row, Rows
from interop.fhir.mappings.systems import OWN
from interop.fhir.mappings.views import ViewLens

TENANT: Final = f"{OWN}:tenant"
PROVIDER: Final = Coding(
    "http://terminology.hl7.org/CodeSystem/organization-type", "prov", "Healthcare Provider"
)
WADO_RS: Final = Coding(
    "http://terminology.hl7.org/CodeSystem/endpoint-connection-type",
    "dicom-wado-rs",
    "DICOM WADO-RS",
)

# SMART Imaging Access: the token that read this Endpoint is to be sent to its address.
SMART_IMAGING: Final = (
    "http://fhir.org/argonaut/smart-imaging/StructureDefinition/requires-access-token"
)


def _organization_template(row: Row) -> dict[str, Any]:
    return {"type": [PROVIDER.concept()]}


ORGANIZATION: Final = ResourceMapping(
    "Organization",
    "tenants",
    [
        Entry("slug", f"identifier[system={TENANT}].value", Text()),
        Entry("is_active", "active", Boolean(), True),
        Entry("name", "name", Text()),
    ],
    template=_organization_template,
)


def _load_organization(connection: Connection, tenant_id: UUID, row_id: UUID) -> Rows | None:
    if row_id != tenant_id:
        return None
    found = connection.execute(
        "SELECT slug, status = 'ACTIVE', name FROM tenants WHERE id = %s", (tenant_id,)
    ).fetchone()
    return Rows(dict(zip(ORGANIZATION.columns, found, strict=True))) if found else None


def organization(public_url: str | None) -> ViewLens:
    origin = "the organization of this tenant; it is changed in administration"
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
