"""Code systems and extensions that the mappings read and write, by their canonical URLs.

What no published system says in a way that we could check is in a system of our own, under a URN:
LOINC and SNOMED CT codes stand here only where their meaning was read from a published listing.
"""

from __future__ import annotations

from typing import Final

from interop.fhir.mappings.concepts import Coding

OWN: Final = "urn:dental-interop"
_HL7: Final = "http://terminology.hl7.org/CodeSystem"

SNOMED_CT: Final = "http://snomed.info/sct"
LOINC: Final = "http://loinc.org"
DICOM: Final = "http://dicom.nema.org/resources/ontology/DCM"
DICOM_UID: Final = "urn:dicom:uid"
URI: Final = "urn:ietf:rfc:3986"
LANGUAGE: Final = "urn:ietf:bcp:47"
NPI: Final = "http://hl7.org/fhir/sid/us-npi"
NUCC: Final = "http://nucc.org/provider-taxonomy"
CDT: Final = "http://www.ada.org/cdt"
# The dental data exchange guide writes the CDT system without www once.
CDT_SYSTEMS: Final = (CDT, "http://ada.org/cdt")
ICD10_CM: Final = "http://hl7.org/fhir/sid/icd-10-cm"
IDENTIFIER_TYPE: Final = f"{_HL7}/v2-0203"
OBSERVATION_VALUE: Final = f"{_HL7}/v3-ObservationValue"
PARTICIPANT_TYPE: Final = f"{_HL7}/provenance-participant-type"

ADA_UNIVERSAL: Final = f"{_HL7}/ADAUniversalToothDesignationSystem"
# R4 has FDI only as an example system, without deciduous teeth; the URN names ISO 3950 itself.
ISO_3950: Final = "urn:iso:std:iso:3950"
EXAMPLE_TOOTH: Final = f"{_HL7}/ex-tooth"
FDI_SURFACE: Final = f"{_HL7}/FDI-surface"
OWN_SURFACE: Final = f"{OWN}:tooth-surface"

BODY_SITE: Final = "http://hl7.org/fhir/StructureDefinition/bodySite"
ALTERNATE_REFERENCE: Final = "http://hl7.org/fhir/StructureDefinition/alternate-reference"
US_CORE: Final = "http://hl7.org/fhir/us/core/StructureDefinition"
AI_TRANSPARENCY: Final = "http://hl7.org/fhir/uv/aitransparency"

DENTAL: Final = Coding(
    "http://hl7.org/fhir/us/dental-data-exchange/CodeSystem/dental-category", "dental", "Dental"
)
AI_ASSERTED: Final = Coding(OBSERVATION_VALUE, "AIAST", "Artificial Intelligence asserted")
AI_DEVICE: Final = Coding(f"{AI_TRANSPARENCY}/CodeSystem/AIdeviceTypeCS", "Artificial-Intelligence")


def own(system: str, code: str, display: str) -> Coding:
    """A code of one of our own systems."""
    return Coding(f"{OWN}:{system}", code, display)


def own_extension(name: str) -> str:
    """The URL of one of our own extensions."""
    return f"{OWN}:extension:{name}"
