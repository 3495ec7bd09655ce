"""DocumentReference over clinical_notes (US Core Clinical Notes), and their Composition.

The note is the text of the first attachment. Its visit is the first encounter of the context, and
the patient is that of the visit. A signed note changes only by an amendment: what it said before is
kept with the reason, and the Composition, which the server shows, tells of each.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from html import escape
from typing import Any, Final
from uuid import UUID

from interop.errors import Conflict
from interop.fhir.lens import Connection, JsonObject
from interop.fhir.mappings import references, statements
from interop.fhir.mappings.concepts import Coding, Concept, Reference
from interop.fhir.mappings.converters import Moment, Text, instant
from interop.fhir.mappings.lens import Entry, ResourceMapping, Row, Rows, constant
from interop.fhir.mappings.path import path
from interop.fhir.mappings.places import FirstOf
from interop.fhir.mappings.shared_type import Writable
from interop.fhir.mappings.systems import LOINC, own_extension
from interop.fhir.mappings.through import ChildLens, Through
from interop.fhir.mappings.unknowns import UNKNOWN
from interop.fhir.mappings.views import Shown, ViewLens

SIGNED_AT: Final = own_extension("note-signed-at")
AMENDMENT_REASON: Final = own_extension("note-amendment-reason")
CLINICAL_NOTE: Final = Coding(
    "http://hl7.org/fhir/us/core/CodeSystem/us-core-documentreference-category",
    "clinical-note",
    "Clinical Note",
)
# The codes of US Core's and R4's value sets of document types.
TYPES: Final = Concept(
    {
        "SOAP": Coding(LOINC, "11506-3", "Progress note"),
        "RADIOLOGY_REPORT": Coding(LOINC, "18748-4", "Diagnostic imaging study"),
        "OP_NOTE": Coding(LOINC, "11504-8", "Surgical operation note"),
    }
)
PLAIN: Final = "text/plain"
AMENDED_AT: Final = own_extension("note-amended-at")
NO_REASON: Final = "changed over FHIR without a reason"


@dataclass(frozen=True, slots=True)
class NoteText:
    """The text of the first content's attachment."""

    label: str = "data of the first attachment, where it is text/plain in UTF-8"

    def get(self, node: Any) -> str | None:
        first = node[0] if isinstance(node, list) and node else None
        attachment = first.get("attachment") if isinstance(first, Mapping) else None
        if not isinstance(attachment, Mapping):
            return None
        media_type = str(attachment.get("contentType", "")).partition(";")[0].strip()
        if media_type != PLAIN or not isinstance(attachment.get("data"), str):
            return None
        try:
            text = base64.b64decode(attachment["data"], validate=False).decode("utf-8")
        except (binascii.Error, ValueError):
            return None
        # PostgreSQL's text holds every character but this one.
        return text if text and "\\0" not in text else None

    def put(self, value: str | None, node: Any) -> Any:
        first, *others = node or [{}]
        if value is None:
            return others or None
        data = base64.b64encode(value.encode()).decode()
        old = first.get("attachment") or {}
        # Size and hash are those of what the note said before.
        kept = {key: item for key, item in old.items() if key in ("id", "extension", "title")}
        attachment = {**kept, "contentType": f"{PLAIN}; charset=utf-8", "data": data}
        return [{**first, "attachment": attachment}, *others]


_SIGNED = path(f"extension[url={SIGNED_AT}].valueDateTime")
_AMENDED = path(f"extension[url={AMENDED_AT}].valueDateTime")


@dataclass(frozen=True, slots=True)
class Signature:
    """(signed_at, amended_at), and the status of the text that follows from them."""

    label: str = (
        "our extensions note-signed-at and note-amended-at, with docStatus preliminary, final or"
        " amended; docStatus final without them: date = signed_at"
    )

    def get(self, node: JsonObject) -> tuple[datetime | None, datetime | None]:
        signed, amended = (Moment().get(place.get(node)) for place in (_SIGNED, _AMENDED))
        if signed is None and amended is None and node.get("docStatus") == "final":
            signed = Moment().get(node.get("date"))
        return signed, amended

    def put(self, value: tuple[datetime | None, datetime | None], node: JsonObject) -> JsonObject:
        signed, amended = value
        result = path("docStatus").put(node, doc_status(signed, amended))
        for place, moment in ((_SIGNED, signed), (_AMENDED, amended)):
            if Moment().get(place.get(result)) != moment:
                result = place.put(result, Moment().put(moment, None))
        return result


def doc_status(signed_at: datetime | None, amended_at: datetime | None) -> str:
    """The composition-status of a note."""
    if amended_at is not None:
        return "amended"
    return "preliminary" if signed_at is None else "final"


def mapping(public_url: str | None) -> ResourceMapping:
    def template(row: Row) -> JsonObject:
        created = row.get("created_at")
        dated = {"date": instant(created)} if created else {}
        return {"status": "current", "category": [CLINICAL_NOTE.concept()], **dated}

    practitioner = Reference(("Practitioner",), public_url)
    encounter = Reference(("Encounter",), public_url)
    return ResourceMapping(
        "DocumentReference",
        "clinical_notes",
        [
            Entry("amendment_reason", f"extension[url={AMENDMENT_REASON}].valueString", Text()),
            Entry(("signed_at", "amended_at"), "", Signature()),
            Entry("note_type", "type", TYPES),
            Entry("patient_id", "subject", Reference(("Patient",), public_url)),
            Entry("author_id", "author", FirstOf(practitioner)),
            Entry("signed_by_id", "authenticator", practitioner),
            Entry("content", "content", NoteText()),
            Entry("encounter_id", "context.encounter", FirstOf(encounter)),
        ],
        template=template,
    )


def is_note(resource: JsonObject, row: Row) -> bool:
    """Whether a row can hold the document: a text of a visit, of a kind that the table knows."""
    return resource.get("status") == "current" and all(
        row[column] is not None for column in ("note_type", "content", "encounter_id")
    )


_AMENDMENT: Final = (
    "SELECT reason FROM clinical_note_amendments WHERE tenant_id = %s AND note_id = %s"
    " ORDER BY version DESC LIMIT 1"
)
_BEFORE: Final = ("content", "signed_at", "signed_by_id", "amended_at", "version")


class NoteLens(ChildLens):
    """Notes, of which the signed ones are only amended, and never removed."""

    def derive(
        self, connection: Connection, tenant_id: UUID, row_id: UUID, row: Row, said: Row
    ) -> Row:
        found = connection.execute(_AMENDMENT, (tenant_id, row_id)).fetchone()
        patient = super().derive(connection, tenant_id, row_id, row, said)
        return {**patient, "amendment_reason": found[0] if found else None}

    def _upsert(
        self, connection: Connection, tenant_id: UUID, row_id: UUID, row: Row, actor: str
    ) -> bool:
        # When a note was amended is for the server to say.
        written = {**row, "amended_at": None}
        key = {"tenant_id": tenant_id, "id": row_id}
        found = statements.select(connection, self.mapping.table, _BEFORE, key)
        if found and found[0]["signed_at"] is not None:
            written |= self._amended(connection, key, found[0], row, actor)
        return super()._upsert(connection, tenant_id, row_id, written, actor)

    def _amended(self, connection: Connection, key: Row, before: Row, row: Row, actor: str) -> Row:
        """What an amendment leaves of the row: its signature, and the next version of the text."""
        kept = {column: before[column] for column in _BEFORE if column != "content"}
        if row["content"] == before["content"]:
            return kept
        amendment = {
            "tenant_id": key["tenant_id"],
            "note_id": key["id"],
            "version": before["version"],
            "previous_content": before["content"],
            "reason": row["amendment_reason"] or NO_REASON,
            "created_by": actor,
        }
        statements.insert(connection, "clinical_note_amendments", amendment)
        found = connection.execute("SELECT greatest(now(), %s)", (before["signed_at"],)).fetchone()
        now = found[0] if found else None
        return {**kept, "version": before["version"] + 1, "amended_at": now}

    def delete(self, connection: Connection, tenant_id: UUID, row_id: UUID) -> None:
        key = {"tenant_id": tenant_id, "id": row_id}
        found = statements.select(connection, self.mapping.table, ("signed_at",), key)
        if found and found[0]["signed_at"] is not None:
            raise Conflict("a signed note is not removed; amend it")
        super().delete(connection, tenant_id, row_id)


def part(public_url: str | None) -> Writable:
    lens = NoteLens(
        mapping(public_url),
        Through({"encounter_id": "encounters"}),
        needs=("encounter_id", "note_type", "content"),
        beside=("created_at",),
        derived=("amendment_reason",),
    )
    return Writable(lens, lambda resource: is_note(resource, lens.get(resource).row))


# -- the note as a document -----------------------------------------------------------------------

COMPOSITION: Final = ResourceMapping(
    "Composition",
    "clinical_notes",
    [
        Entry("status", "status", Text("preliminary, final or amended"), required=True),
        Entry("note_type", "type", TYPES),
        Entry("patient", "subject", Reference(("Patient",))),
        Entry("encounter", "encounter", Reference(("Encounter",))),
        Entry("date", "date", Moment()),
        Entry("author", "author", Shown("author_id; empty: data-absent-reason")),
        Entry("title", "title", Text("of note_type")),
        Entry("attester", "attester", Shown("legal: signed_at, signed_by_id")),
        Entry("sections", "section", Shown("the content; then each amendment, the last first")),
    ],
    template=constant({"category": [CLINICAL_NOTE.concept()]}),
)
_NOTE: Final = """
SELECT n.note_type, n.content, n.author_id, n.signed_at, n.signed_by_id, n.amended_at, n.version,
    n.created_at, n.encounter_id, e.patient_id
FROM clinical_notes AS n
JOIN encounters AS e ON e.tenant_id = n.tenant_id AND e.id = n.encounter_id
WHERE n.tenant_id = %s AND n.id = %s
"""
_AMENDMENTS: Final = """
SELECT version, previous_content, reason, amended_at FROM clinical_note_amendments
WHERE tenant_id = %s AND note_id = %s ORDER BY version DESC
"""


def _load(connection: Connection, tenant_id: UUID, row_id: UUID) -> Rows | None:
    found = statements.query(connection, _NOTE, tenant_id, row_id)
    if not found:
        return None
    note = found[0]

    def named(resource_type: str, target: UUID | None) -> JsonObject | None:
        if target is None:
            return None
        return {"reference": references.literal(connection, tenant_id, resource_type, target)}

    attester = None
    if note["signed_at"] is not None:
        said = {"time": instant(note["signed_at"]), "party": named(*_BY, note["signed_by_id"])}
        attester = [{"mode": "legal", **{key: item for key, item in said.items() if item}}]
    amendments = statements.query(connection, _AMENDMENTS, tenant_id, row_id)
    row: Row = {
        "status": doc_status(note["signed_at"], note["amended_at"]),
        "note_type": note["note_type"],
        "patient": (named("Patient", note["patient_id"]) or {}).get("reference"),
        "encounter": (named("Encounter", note["encounter_id"]) or {}).get("reference"),
        "date": note["amended_at"] or note["signed_at"] or note["created_at"],
        "author": [named(*_BY, note["author_id"]) or UNKNOWN],
        "title": TYPES.codes[note["note_type"]].display,
        "attester": attester,
        "sections": [
            _section("Note", note["content"]),
            *(_section(_heading(item), item["previous_content"]) for item in amendments),
        ],
    }
    return Rows(row)


_BY: Final = ("Practitioner",)


def _heading(amendment: Mapping[str, Any]) -> str:
    day = instant(amendment["amended_at"])[:10]
    return f"Version {amendment['version']}, amended on {day}: {amendment['reason']}"


def _section(title: str, text: str) -> JsonObject:
    """A section whose narrative is a text, line by line."""
    words = "<br/>".join(escape(_printable(line)) for line in text.splitlines() or [""])
    div = f'<div xmlns="http://www.w3.org/1999/xhtml"><p>{words or "-"}</p></div>'
    return {"title": title, "text": {"status": "additional", "div": div}}


def _printable(line: str) -> str:
    """The line without the control characters that XML 1.0 does not know."""
    return "".join(one for one in line if one >= " " or one == "\t")


def composition(public_url: str | None) -> ViewLens:
    origin = "a clinical note; change its DocumentReference instead"
    return ViewLens(COMPOSITION, _load, origin, ("clinical_notes", "id"))
