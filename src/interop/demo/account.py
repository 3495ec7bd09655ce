"""The readable account of the demo: what was stored, what the AI found, and lines to paste."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from interop.demo.clinic import TOKEN_FILE, AiOutcome, DemoClinic
from interop.demo.images import DemoStudy

KINDS = {
    "CARIES": "caries", "PATHOLOGY": "periapical lesion", "BONE_LOSS": "bone loss",
}  # fmt: skip
COUNTED = (
    "Patient", "Encounter", "Condition", "Procedure", "Observation", "Consent", "ImagingStudy",
    "DiagnosticReport", "Device", "Task", "Provenance",
)  # fmt: skip


def tell(
    clinic: DemoClinic,
    studies: Sequence[DemoStudy],
    files: dict[str, list[Path]],
    ai: AiOutcome,
    sign_in: tuple[str, str] | None,
) -> None:
    """`sign_in` opens the viewer; None where there is no viewer."""
    console = Console(soft_wrap=True, highlight=False)
    _stored(console, clinic, studies)
    _found(console, ai)
    _lines(console, clinic, studies, files)
    _viewer(clinic, studies, sign_in)


def _stored(console: Console, clinic: DemoClinic, studies: Sequence[DemoStudy]) -> None:
    table = Table(title="Stored: studies as DICOMweb lists them")
    for name in ("study", "patient", "modalities", "series", "instances"):
        table.add_column(name)
    described = {study.study_uid: study.description for study in studies}
    for row in clinic.get(f"{clinic.dicomweb_url}/studies?includefield=00081030"):
        uid = _value(row, "0020000D")
        table.add_row(
            described.get(uid, uid), _value(row, "00100020"), _value(row, "00080061", all_of=True),
            _value(row, "00201206"), _value(row, "00201208"),
        )  # fmt: skip
    console.print(table)
    totals = {
        name: clinic.get(f"{clinic.fhir_url}/{name}?_summary=count")["total"] for name in COUNTED
    }
    console.print("FHIR: " + ", ".join(f"{count} {name}" for name, count in totals.items()))


def _value(row: dict[str, dict[str, list[object]]], tag: str, *, all_of: bool = False) -> str:
    values = row.get(tag, {}).get("Value", [])
    return ", ".join(map(str, values)) if all_of else str(values[0]) if values else ""


def _found(console: Console, ai: AiOutcome) -> None:
    seconds = f" in {ai.seconds:.1f} s" if ai.seconds is not None else ""
    console.print(f"\nAI on the panoramic: {ai.status}{seconds} {ai.reason or ''}")
    console.print("Trained on synthetic images only; not for clinical use.", style="italic")
    table = Table(title=f"{len(ai.findings)} findings, preliminary until a dentist confirms")
    for name in ("tooth (FDI)", "finding", "surface", "confidence", "value"):
        table.add_column(name)
    for finding in ai.findings:
        table.add_row(
            str(finding.tooth), KINDS.get(finding.kind, finding.kind), finding.surface or "",
            f"{finding.confidence:.0%}",
            "" if finding.value is None else f"{finding.value:.0f} % of the root",
        )  # fmt: skip
    console.print(table)
    for modality, decision, reasons in ai.decisions:
        console.print(f"routing of the {modality} study: {decision} {reasons}")


def _lines(
    console: Console,
    clinic: DemoClinic,
    studies: Sequence[DemoStudy],
    files: dict[str, list[Path]],
) -> None:
    px, ct = studies[0].study_uid, studies[1].study_uid
    peer = f"{clinic.tenant.ae_title} {clinic.settings.dicom_host} {clinic.settings.dicom_port}"
    header = clinic.write_token_files()
    curl = f"curl -s -H @{header}"
    patient = studies[0].patient.id
    fhir, web = clinic.fhir_url, clinic.dicomweb_url
    # Not through rich: a line that is folded or styled can't be pasted.
    print(f"""
FHIR      {fhir}
DICOMweb  {web}
DICOM     {peer}
token     {clinic.token}

Paste any of these (they read the token from {header}):

# who the patient is, what was charted, what the AI says
{curl} '{fhir}/Patient/{patient}'
{curl} '{fhir}/Observation?patient={patient}&_count=5'
{curl} '{fhir}/DiagnosticReport?patient={patient}&_include=DiagnosticReport:result'
# the study list, the panoramic as a picture, the AI's report and segmentation beside it
{curl} '{web}/studies'
{curl} -H 'Accept: image/jpeg' -o panoramic.jpg '{web}/studies/{px}/rendered'
{curl} '{web}/studies/{px}/series'
# the door of devices, with DCMTK
echoscu -aec {peer}
storescu -aec {peer} '{files["PX"][0]}'
# the cone beam CT with dicomweb-client
{Path(sys.prefix) / "bin" / "dicomweb_client"} --url '{web}' --bearer-token "$(cat {header.with_name(TOKEN_FILE)})" \\
    search instances --study '{ct}' --limit 3
""", flush=True)  # fmt: skip  # noqa: E501


def _viewer(
    clinic: DemoClinic, studies: Sequence[DemoStudy], sign_in: tuple[str, str] | None
) -> None:
    if sign_in is None:
        print("viewer    not here yet; 'make viewer' brings it\n", flush=True)
        return
    base = f"{clinic.settings.effective_public_url}/t/{clinic.tenant.slug}/viewer"
    email, password = sign_in
    print(f"""viewer    {base}
          {base}?StudyInstanceUIDs={studies[1].study_uid}   (the cone beam CT)
sign in   {email}   {password}
""", flush=True)  # fmt: skip
