"""Medication and Device over the platform's catalogues: drugs, materials, equipment.

A tenant reads those entries that its own records name, as soon as they do: a drug that is
prescribed or not tolerated, a material that was used, the machine that made an image. The
catalogues themselves are the platform's, and long.
"""

from __future__ import annotations

from typing import Final, LiteralString
from uuid import UUID

from interop.fhir.lens import Connection, JsonObject
from interop.fhir.mappings.ai_device import device as ai_device
from interop.fhir.mappings.concepts import Coding, ConceptText
from interop.fhir.mappings.converters import Codes, Text
from interop.fhir.mappings.lens import Entry, ResourceMapping, Row, Rows
from interop.fhir.mappings.places import FirstOf, Within
from interop.fhir.mappings.shared_type import SharedLens
from interop.fhir.mappings.statements import query
from interop.fhir.mappings.systems import DICOM, OWN, own_extension
from interop.fhir.mappings.views import Shown, ViewLens

ATC: Final = "http://www.whocc.no/atc"
DRUG: Final = f"{OWN}:drug"
MATERIAL: Final = f"{OWN}:material"
STRENGTH: Final = own_extension("medication-strength")
_STATUS: Final = Codes({"active": "ACTIVE", "inactive": "INACTIVE"})
_ORIGIN: Final = "an entry of a catalogue of the platform"

MEDICATION: Final = ResourceMapping(
    "Medication",
    "drug_reference",
    [
        Entry("status", "status", _STATUS),
        Entry("code", "code", Shown("code in its system, ATC, name")),
        Entry("form", "form", ConceptText()),
        Entry("strength", f"extension[url={STRENGTH}].valueString", Text()),
        Entry(
            "generic_name",
            "ingredient",
            FirstOf(Within("itemCodeableConcept", ConceptText())),
        ),
    ],
)
DEVICE_MATERIAL: Final = ResourceMapping(
    "Device",
    "material_reference",
    [
        Entry("status", "status", _STATUS),
        Entry("code", f"identifier[system={MATERIAL}].value", Text()),
        Entry("manufacturer", "manufacturer", Text()),
        Entry("name", "deviceName[type=manufacturer-name].name", Text()),
        Entry("material_type", "type", ConceptText()),
        Entry("unique_device_identifier", "udiCarrier[].deviceIdentifier", Text()),
        Entry("allergens", "safety", Shown("allergens")),
    ],
)
DEVICE_EQUIPMENT: Final = ResourceMapping(
    "Device",
    "equipment_reference",
    [
        Entry("status", "status", _STATUS),
        Entry("manufacturer", "manufacturer", Text()),
        Entry("model_name", "deviceName[type=model-name].name", Text()),
        Entry("type", "type", Shown("equipment_type; modality as DICOM codes it")),
        Entry("unique_device_identifier", "udiCarrier[].deviceIdentifier", Text()),
    ],
)

# Who asks for which entry.
_ASKED: Final = "WITH asked (tenant, entry) AS (VALUES (%s::uuid, %s::uuid))"
_DRUG: Final = f"""{_ASKED}
SELECT d.* FROM asked JOIN drug_reference AS d ON d.id = entry WHERE
    EXISTS (SELECT FROM patient_medications WHERE tenant_id = tenant AND drug_id = entry)
    OR EXISTS (SELECT FROM patient_allergies WHERE tenant_id = tenant AND drug_id = entry)
"""
_MATERIAL: Final = f"""{_ASKED}
SELECT m.* FROM asked JOIN material_reference AS m ON m.id = entry WHERE
    EXISTS (SELECT FROM procedure_materials WHERE tenant_id = tenant AND material_id = entry)
    OR EXISTS (SELECT FROM patient_allergies WHERE tenant_id = tenant AND material_id = entry)
"""
_EQUIPMENT: Final = f"""{_ASKED}
SELECT e.* FROM asked JOIN equipment_reference AS e ON e.id = entry WHERE
    EXISTS (SELECT FROM imaging_studies WHERE tenant_id = tenant AND performing_device_id = entry)
"""


def _entry(
    connection: Connection, statement: LiteralString, tenant_id: UUID, row_id: UUID
) -> Row | None:
    found = query(connection, statement, tenant_id, row_id)
    if not found:
        return None
    return {**found[0], "status": "ACTIVE" if found[0]["is_active"] else "INACTIVE"}


def _load_medication(connection: Connection, tenant_id: UUID, row_id: UUID) -> Rows | None:
    drug = _entry(connection, _DRUG, tenant_id, row_id)
    if drug is None:
        return None
    codings = [Coding(drug["code_system_uri"] or DRUG, drug["code"])]
    if drug["atc_code"]:
        codings.append(Coding(ATC, drug["atc_code"]))
    code = {"coding": [coding.json() for coding in codings], "text": drug["name"]}
    return _rows(MEDICATION, {**drug, "code": code})


def _load_material(connection: Connection, tenant_id: UUID, row_id: UUID) -> Rows | None:
    material = _entry(connection, _MATERIAL, tenant_id, row_id)
    if material is None:
        return None
    allergens = [{"text": f"Contains {name}"} for name in material["allergens"]]
    return _rows(DEVICE_MATERIAL, {**material, "allergens": allergens or None})


def _load_equipment(connection: Connection, tenant_id: UUID, row_id: UUID) -> Rows | None:
    equipment = _entry(connection, _EQUIPMENT, tenant_id, row_id)
    if equipment is None:
        return None
    type_: JsonObject = {}
    if equipment["modality"]:
        type_["coding"] = [{"system": DICOM, "code": equipment["modality"]}]
    if equipment["equipment_type"]:
        type_["text"] = equipment["equipment_type"]
    return _rows(DEVICE_EQUIPMENT, {**equipment, "type": type_ or None})


def _rows(mapping: ResourceMapping, row: Row) -> Rows:
    return Rows({column: row[column] for column in mapping.columns})


def medication(public_url: str | None) -> ViewLens:
    return ViewLens(MEDICATION, _load_medication, _ORIGIN)


def device(public_url: str | None) -> SharedLens:
    """Models of the AI, materials and equipment."""
    material = ViewLens(DEVICE_MATERIAL, _load_material, _ORIGIN)
    equipment = ViewLens(DEVICE_EQUIPMENT, _load_equipment, _ORIGIN)
    return SharedLens([ai_device(public_url), material, equipment])
