"""Writes docs/fhir-mappings.md from the lenses; a test keeps it current."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from interop.fhir.mappings import (
    ai_device,
    ai_finding,
    ai_job,
    condition,
    consent,
    encounter,
    imaging_study,
    location,
    organization,
    patient,
    perio,
    practitioner,
    procedure,
    vital_signs,
)
from interop.fhir.mappings.imaging_study import ListOf
from interop.fhir.mappings.lens import Children, Entry, ResourceMapping
from storage.schema.presentation import PRESENTED

TARGET = Path(__file__).parents[1] / "docs" / "fhir-mappings.md"
HEAD = """# How rows and FHIR resources map

Made from the lenses by `tools/write_fhir_mappings_doc.py`. What is not in a table of a resource is
kept in the stored resource as it was sent; columns that are not listed are never written over FHIR.

- **writes**: what a client sends goes into the columns. **shows**: the rows are the server's own;
  a client's further elements stay, and what the rows say wins in every presentation. A resource of
  such a type that no row stands for is the client's own and stored whole.
- *default*: what the column holds when the element is absent or says what the column cannot hold;
  without one the column is empty. *(required)*: always written. *(first version only)*: a later
  version does not change the column.
- Dates and times: a bare date is midnight UTC in a column with time. Less than a full date has no
  counterpart in a column. The way a client wrote a moment, code or decimal stays as long as it
  means what the row says.
- References are filled when they resolve within the tenant. Columns marked *needed* keep the whole
  resource waiting, others stay empty until the resource they name exists.
- A new resource of a row has the required elements of its type and of US Core besides what is
  listed (Encounter.class, categories, Consent.policyRule).

"""

Section = tuple[str, str, ResourceMapping, tuple[str, ...]]
SECTIONS: tuple[Section, ...] = (
    ("Patient", "writes", patient.MAPPING, ()),
    ("Practitioner", "writes", practitioner.MAPPING, ()),
    ("Organization (the tenant itself)", "shows", organization.ORGANIZATION, ()),
    ("Endpoint (the tenant's DICOMweb)", "shows", organization.ENDPOINT, ()),
    ("Location", "writes", location.mapping(None), ()),
    ("Encounter", "writes", encounter.mapping(None), ("patient_id",)),
    ("Condition", "writes", condition.mapping(None), ("patient_id",)),
    ("Procedure", "writes", procedure.mapping(None), ("patient_id",)),
    (
        "ImagingStudy",
        "shows (encounter and referrer: writes)",
        imaging_study.mapping(None),
        (),
    ),
    (
        "Observation: a tooth in a periodontal exam",
        "writes",
        perio.tooth_mapping(None),
        ("patient_id", "encounter_id", "measured_at", "tooth_number", "sites"),
    ),
    ("Observation: a periodontal exam", "shows", perio.exam_mapping(None), ()),
    (
        "Observation: vital signs",
        "writes",
        vital_signs.mapping(None),
        ("patient_id", "measured_at"),
    ),
    ("Observation: a finding of the AI", "shows", ai_finding.MAPPING, ()),
    ("DiagnosticReport", "shows", ai_job.DIAGNOSTIC_REPORT, ()),
    ("Task", "shows", ai_job.TASK, ()),
    ("Provenance", "shows", ai_job.PROVENANCE, ()),
    ("Device", "shows", ai_device.DEVICE, ()),
    ("Consent (of patients)", "writes", consent.mapping(None), ("subject_id", "consent_type")),
)


def document() -> str:
    """The whole page."""
    return HEAD + "\n".join(line for section in SECTIONS for line in _section(*section)) + "\n"


def _section(
    title: str, access: str, mapping: ResourceMapping, needs: tuple[str, ...]
) -> Iterator[str]:
    yield f"## {title}\n"
    tables = [table for table, shown in PRESENTED.items() if _shows(shown, mapping)]
    yield f"Table `{mapping.table}`, {access}. A change to one of these tables makes a new version"
    yield f"of its {mapping.resource_type}: {', '.join(f'`{table}`' for table in tables)}.\n"
    yield from _table(mapping.entries, needs)
    for children in mapping.children:
        yield from _children(children)


def _shows(shown: Iterable[object], mapping: ResourceMapping) -> bool:
    return any(getattr(item, "resource_type", "") == mapping.resource_type for item in shown)


def _children(children: Children) -> Iterator[str]:
    key = f", known by {', '.join(children.key)}" if children.key else ""
    yield f"Items of `{children.path}` are rows of `{children.table}`{key}.\n"
    yield from _table(children.entries, ())
    for entry in children.entries:
        if isinstance(entry.converter, ListOf):
            yield from _children(entry.converter.children)


def _table(entries: Iterable[Entry], needs: tuple[str, ...]) -> Iterator[str]:
    yield "| column | element | value |"
    yield "|---|---|---|"
    for entry in entries:
        columns = ", ".join(f"`{column}`" for column in entry.columns)
        notes = [entry.converter.label]
        if entry.default is not None and entry.default != ():
            notes.append(f"default {entry.default}")
        if entry.required:
            notes.append("(required)")
        if entry.insert_only:
            notes.append("(first version only)")
        if any(column in needs for column in entry.columns):
            notes.append("*needed*")
        value = "; ".join(notes).replace("|", "\\|")
        yield f"| {columns} | `{str(entry.path) or '(the whole)'}` | {value} |"
    yield ""


if __name__ == "__main__":
    TARGET.write_text(document(), encoding="utf-8")
