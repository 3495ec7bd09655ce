"""Write what follows from the code in profiles/dental-interop, and the snapshots and tables of all.

    .venv/bin/python tools/write_own_definitions.py

Profiles, value sets and search parameters are written by hand. From the code come the code systems
(every code of ours that a mapping writes), the definitions of our extensions (EXTENSIONS, below),
the snapshot of each StructureDefinition (over the official definitions in ../shared/fhir), and the
ImplementationGuide that lists all.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import pkgutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from derive_profiles import ROOT, Library, dental_data_exchange, profiles_of, us_core
from derive_terminology import derive, packed, read_lines
from fhir_snapshots import CORE, snapshot
from interop.fhir import mappings
from interop.fhir.mappings.body_site import OWN_SURFACES
from interop.fhir.mappings.concepts import Coding
from interop.fhir.mappings.systems import OWN, own, own_extension

Json = Any
FOLDER = ROOT / "profiles/dental-interop"
VERSION = "1.0.0"
PUBLISHED = "2026-11-22"
PUBLISHER = "dental-interop"

# name: (title, where it may stand, types of its value). An "-" after a type: the value may be
# absent, with the reason in the extension's place.
EXTENSIONS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "allergy-category": ("Kind of allergen that R4 does not have", ("AllergyIntolerance",), "code"),
    "allergy-life-threatening": (
        "The reaction is a danger to life",
        ("AllergyIntolerance.reaction",),
        "boolean",
    ),
    "attachment-sha256": ("SHA-256 of what is attached", ("Attachment",), "string"),
    "care-team-location": (
        "Where the member works for the team",
        ("CareTeam.participant",),
        "Reference(Location)",
    ),
    "catalogue-drug": (
        "The entry of the drug catalogue that is meant",
        ("AllergyIntolerance", "MedicationStatement", "MedicationRequest"),
        "Reference(Medication)",
    ),
    "catalogue-material": (
        "The entry of the catalogue of materials that is meant",
        ("AllergyIntolerance",),
        "Reference(Device)",
    ),
    "claim-item-planned": (
        "The planned procedure that the line is about",
        ("Claim.item",),
        "Reference(ServiceRequest)",
    ),
    "claim-resubmitted": ("When the claim was sent again", ("Claim",), "dateTime"),
    "claim-status": ("State of a claim beyond R4's status", ("Claim",), "code"),
    "claim-submitted": ("When the claim was sent", ("Claim",), "dateTime-"),
    "consent-revoked-at": ("When the consent was revoked", ("Consent",), "dateTime"),
    "consent-source": ("How the consent reached the record", ("Consent",), "code"),
    "conversation": ("The conversation of a message", ("Communication",), "Identifier"),
    "encounter-no-show": ("The patient did not come", ("Encounter", "Appointment"), "boolean"),
    "estimated-fee": ("Estimated fee of a planned procedure", ("ServiceRequest",), "Money"),
    "estimated-patient-portion": (
        "What of the fee the patient is expected to pay",
        ("ServiceRequest",),
        "Money",
    ),
    "fee-schedule": (
        "The fee schedule that a price is of",
        ("ChargeItemDefinition.propertyGroup",),
        "Identifier",
    ),
    "fee-schedule-location": (
        "The location that a fee schedule is for",
        ("ChargeItemDefinition.propertyGroup",),
        "Reference(Location)",
    ),
    "fee-schedule-payer": (
        "The payer that a fee schedule is for",
        ("ChargeItemDefinition.propertyGroup",),
        "Reference(Organization)",
    ),
    "invoice-due-date": ("When the invoice is due", ("Invoice",), "date"),
    "invoice-paid": ("When the invoice was paid", ("Invoice",), "dateTime"),
    "invoice-period": ("What time the invoice is for", ("Invoice",), "Period"),
    "invoice-status": ("State of an invoice beyond R4's status", ("Invoice",), "code"),
    "material-amount": ("How much was used", ("Procedure.usedReference",), "Quantity"),
    "material-expiry": ("When the lot expires", ("Procedure.usedReference",), "date"),
    "material-lot": ("The lot that was used", ("Procedure.usedReference",), "string"),
    "medication-prescriber": (
        "Who prescribed what the patient takes",
        ("MedicationStatement",),
        "Reference(Practitioner)",
    ),
    "medication-strength": ("Strength of a drug, as its catalogue says", ("Medication",), "string"),
    "note-amended-at": ("When the note was amended", ("DocumentReference",), "dateTime"),
    "note-amendment-reason": ("Why the note was amended", ("DocumentReference",), "string"),
    "note-signed-at": ("When the note was signed", ("DocumentReference",), "dateTime"),
    "periodontal-site": (
        "Where on a tooth the probe stood",
        ("Observation.component",),
        "CodeableConcept",
    ),
    "plan-item-status": ("State of a planned procedure beyond R4's", ("ServiceRequest",), "code"),
    "procedure-category": ("Category of a procedure", ("ChargeItemDefinition",), "string"),
    "referral-completed-at": ("When the referral was completed", ("ServiceRequest",), "dateTime"),
    "referral-response": ("What the other practice answered", ("ServiceRequest",), "string"),
    "referral-status": ("State of a referral beyond R4's status", ("ServiceRequest",), "code"),
    "related-patient": (
        "The patient of ours that the related person is",
        ("RelatedPerson",),
        "Reference(Patient)",
    ),
    "review-comment": ("What the reviewer remarked", ("Provenance",), "string"),
    "risk-score": ("The score that a model gave", ("RiskAssessment",), "Quantity"),
    "risk-tooth": ("The tooth that the risk is about", ("RiskAssessment",), "CodeableConcept"),
    "treatment-order": ("Order within the phase", ("ServiceRequest",), "integer"),
    "treatment-phase": ("Phase of the treatment plan", ("ServiceRequest",), "positiveInt"),
    "treatment-plan-decided-at": ("When the patient decided", ("CarePlan",), "dateTime"),
    "treatment-plan-insurance-share": (
        "What the insurance is expected to pay",
        ("CarePlan",),
        "Money",
    ),
    "treatment-plan-presented-at": ("When the plan was presented", ("CarePlan",), "dateTime"),
    "treatment-plan-status": ("State of a plan beyond R4's status", ("CarePlan",), "code"),
    "treatment-plan-total": ("Estimated total of the plan", ("CarePlan",), "Money"),
    "webhook-payload": ("How much of an event is sent", ("Subscription",), "code"),
}
# The values of these are bound.
BOUND = {"periodontal-site": f"{OWN}:ValueSet:periodontal-site"}


def head(resource_type: str, name: str, url: str, title: str) -> Json:
    return {
        "resourceType": resource_type,
        "id": f"dental-interop-{name}",
        "url": url,
        "version": VERSION,
        "name": "".join(part.capitalize() for part in name.split("-")),
        "title": title,
        "status": "active",
        "experimental": False,
        "date": PUBLISHED,
        "publisher": PUBLISHER,
    }


# -- extensions ---------------------------------------------------------------------------


def extension(name: str) -> Json:
    title, contexts, kind = EXTENSIONS[name]
    may_be_absent = kind.endswith("-")
    code, _, target = kind.removesuffix("-").rstrip(")").partition("(")
    type_ = {"code": code, **({"targetProfile": [CORE + target]} if target else {})}
    value: Json = {"id": "Extension.value[x]", "path": "Extension.value[x]", "type": [type_]}
    if name in BOUND:
        value["binding"] = {"strength": "required", "valueSet": BOUND[name]}
    elements: list[Json] = [{"id": "Extension", "path": "Extension", "short": title}]
    if not may_be_absent:
        none = {"id": "Extension.extension", "path": "Extension.extension", "max": "0"}
        elements.append(none)
        value["min"] = 1
    fixed = {"id": "Extension.url", "path": "Extension.url", "fixedUri": own_extension(name)}
    return {
        **head("StructureDefinition", name, own_extension(name), title),
        "fhirVersion": "4.0.1",
        "kind": "complex-type",
        "abstract": False,
        "context": [{"type": "element", "expression": context} for context in contexts],
        "type": "Extension",
        "baseDefinition": f"{CORE}Extension",
        "derivation": "constraint",
        "differential": {"element": [*elements, fixed, value]},
    }


# -- code systems -------------------------------------------------------------------------


def own_codings() -> dict[str, dict[str, str]]:
    """System name -> code -> display, of all codes of ours that the mappings have."""
    found: dict[str, dict[str, str]] = {}
    for module in _modules():
        for coding in _codings(vars(module), set()):
            if coding.system.startswith(f"{OWN}:") and coding.display:
                name = coding.system.removeprefix(f"{OWN}:")
                found.setdefault(name, {})[coding.code] = coding.display
    found["tooth-surface"] = dict(OWN_SURFACES)
    return {name: dict(sorted(found[name].items())) for name in sorted(found)}


def _modules() -> Iterator[Any]:
    for info in pkgutil.iter_modules(mappings.__path__):
        yield importlib.import_module(f"{mappings.__name__}.{info.name}")


def _codings(node: Any, seen: set[int]) -> Iterator[Coding]:
    """Every Coding in the constants of a module, however deep in tables and converters."""
    if id(node) in seen or isinstance(node, str | bytes | int | float | type):
        return
    seen.add(id(node))
    if isinstance(node, Coding):
        yield node
    elif isinstance(node, Mapping):
        for value in list(node.values()):
            yield from _codings(value, seen)
    elif isinstance(node, list | tuple | set | frozenset):
        for value in node:
            yield from _codings(value, seen)
    elif dataclasses.is_dataclass(node):
        for field in dataclasses.fields(node):
            yield from _codings(getattr(node, field.name, None), seen)


def code_system(name: str, codes: Mapping[str, str]) -> Json:
    title = f"{name.replace('-', ' ').capitalize()} codes"
    return {
        **head("CodeSystem", name, own(name, "", "").system, title),
        "caseSensitive": True,
        "content": "complete",
        "concept": [{"code": code, "display": display} for code, display in codes.items()],
    }


# -- all of them --------------------------------------------------------------------------


def read_folder() -> dict[str, Json]:
    """File name -> resource, of what is published; examples lie in a folder of their own."""
    return {path.name: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}


def implementation_guide(resources: Mapping[str, Json]) -> Json:
    listed = [
        {
            "reference": {"reference": f"{resource['resourceType']}/{resource['id']}"},
            "name": resource.get("title") or resource["name"],
            "exampleBoolean": False,
        }
        for resource in resources.values()
        if resource["resourceType"] != "ImplementationGuide"
    ]
    guide = head("ImplementationGuide", "guide", f"{OWN}:ImplementationGuide", "Dental records")
    del guide["title"]
    return {
        **guide,
        "id": "dental-interop",
        "title": "Dental records: profiles, extensions, terminology and search parameters",
        "packageId": "dental-interop",
        "license": "Apache-2.0",
        "fhirVersion": ["4.0.1"],
        "definition": {"resource": listed},
    }


def derived(source: Path) -> dict[str, Json]:
    """The folder with everything that follows from the code in it."""
    resources = read_folder()
    for name in EXTENSIONS:
        resources[f"StructureDefinition-dental-interop-{name}.json"] = extension(name)
    for name, codes in own_codings().items():
        resources[f"CodeSystem-dental-interop-{name}.json"] = code_system(name, codes)
    library = Library(read_lines(source / "r4/structure-definitions.ndjson.gz"))
    for guide in (us_core(source), dental_data_exchange(source)):
        library.add([one for one in guide if one["resourceType"] == "StructureDefinition"])
    ours = [one for one in resources.values() if one["resourceType"] == "StructureDefinition"]
    library.add(ours)
    for definition in ours:
        definition.pop("snapshot", None)
    for definition in ours:
        elements = snapshot(definition, library.find)
        differential = definition.pop("differential")
        definition |= {"snapshot": {"element": elements}, "differential": differential}
    resources["ImplementationGuide-dental-interop.json"] = implementation_guide(resources)
    return dict(sorted(resources.items()))


def tables(source: Path, resources: Mapping[str, Json]) -> dict[str, list[Json]]:
    """What the validator and the terminology read, by name of the table."""
    library = Library(read_lines(source / "r4/structure-definitions.ndjson.gz"))
    by_type: dict[str, list[Json]] = {}
    for resource in resources.values():
        by_type.setdefault(resource["resourceType"], []).append(resource)
    terminology = derive(by_type["CodeSystem"], by_type["ValueSet"], ours=True)
    return {"profiles": profiles_of(by_type["StructureDefinition"], library), **terminology}


def text_of(resource: Json) -> str:
    return json.dumps(resource, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, default=ROOT.parent / "shared/fhir")
    source = parser.parse_args().source
    resources = derived(source)
    for name, resource in resources.items():
        (FOLDER / name).write_text(text_of(resource))
    for name, rows in tables(source, resources).items():
        (FOLDER / f"{name}.ndjson.gz").write_bytes(packed(rows))
        print(f"{name}: {len(rows)} definitions")


if __name__ == "__main__":
    main()
