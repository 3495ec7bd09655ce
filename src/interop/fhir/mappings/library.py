"""Library over knowledge_documents, knowledge_versions and knowledge_localizations.

What is published: the newest approved version, with its translations. Drafts and what is still
under review are the authors' and are not presented.
"""

from __future__ import annotations

from base64 import b64encode
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from interop.fhir.lens import Connection, JsonObject
from interop.fhir.mappings.concepts import Coding
from interop.fhir.mappings.converters import Codes, Moment, Text
from interop.fhir.mappings.lens import Entry, ResourceMapping, Row, Rows, constant
from interop.fhir.mappings.statements import query
from interop.fhir.mappings.systems import OWN, own
from interop.fhir.mappings.views import Shown, ViewLens

SLUG: Final = f"{OWN}:knowledge-slug"
COLLECTION: Final = Coding(
    "http://terminology.hl7.org/CodeSystem/library-type", "asset-collection", "Asset Collection"
)
KINDS: Final = {
    "CLINICAL_PROTOCOL": own("knowledge-type", "clinical-protocol", "Clinical protocol"),
    "EVIDENCE_SUMMARY": own("knowledge-type", "evidence-summary", "Evidence summary"),
    "PATIENT_EDUCATION": own("knowledge-type", "patient-education", "Patient education"),
}

MAPPING: Final = ResourceMapping(
    "Library",
    "knowledge_documents",
    [
        Entry("url", "url", Text()),
        Entry("slug", f"identifier[system={SLUG}].value", Text()),
        Entry("version", "version", Text()),
        Entry("title", "title", Text()),
        Entry("status", "status", Codes({"active": "PUBLISHED", "retired": "RETIRED"})),
        Entry("approved_at", "date", Moment()),
        Entry("change_summary", "purpose", Text()),
        Entry("approval_date", "approvalDate", Text()),
        Entry("review_date", "lastReviewDate", Text()),
        Entry("topics", "topic", Shown("document_type, category, tags")),
        Entry("content", "content", Shown("the version and its localizations, in Markdown")),
    ],
    template=constant({"type": COLLECTION.concept()}),
)

_DOCUMENT: Final = """
SELECT d.slug, d.title, d.document_type, d.category, d.tags, d.status, v.id AS version_id,
    v.version, v.content, v.change_summary, v.reviewed_at, v.approved_at
FROM knowledge_documents AS d JOIN knowledge_versions AS v
    ON v.tenant_id = d.tenant_id AND v.document_id = d.id AND v.review_status = 'APPROVED'
WHERE d.tenant_id = %s AND d.id = %s AND d.status <> 'DRAFT' ORDER BY v.version DESC LIMIT 1
"""


def _load(connection: Connection, tenant_id: UUID, row_id: UUID) -> Rows | None:
    found = query(connection, _DOCUMENT, tenant_id, row_id)
    if not found:
        return None
    document = found[0]
    others = query(
        connection,
        "SELECT language, region, title, content FROM knowledge_localizations"
        " WHERE tenant_id = %s AND version_id = %s ORDER BY language, region NULLS FIRST",
        tenant_id,
        document["version_id"],
    )
    return Rows(
        {
            "url": f"urn:uuid:{row_id}",
            "slug": document["slug"],
            "version": str(document["version"]),
            "title": document["title"],
            "status": document["status"],
            "approved_at": document["approved_at"],
            "change_summary": document["change_summary"],
            "approval_date": _day(document["approved_at"]),
            "review_date": _day(document["reviewed_at"]),
            "topics": _topics(document),
            "content": [_attachment(document), *map(_attachment, others)],
        }
    )


def _day(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).date().isoformat() if moment else None


def _topics(document: Row) -> list[JsonObject]:
    words = [document["category"], *document["tags"]]
    texts = [{"text": word} for word in words if word]
    return [KINDS[document["document_type"]].concept(), *texts]


def _attachment(text: Row) -> JsonObject:
    shown = {"contentType": "text/markdown"}
    if text["title"]:
        shown["title"] = text["title"]
    if "language" in text:
        region = f"-{text['region']}" if text["region"] else ""
        shown["language"] = f"{text['language']}{region}"
    if text["content"]:
        shown["data"] = b64encode(text["content"].encode()).decode()
    return shown


def lens(public_url: str | None) -> ViewLens:
    return ViewLens(MAPPING, _load, "a published document of this organization's knowledge base")
