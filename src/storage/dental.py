"""Teeth and tooth surfaces in every notation that the server speaks.

FDI two-digit designation (ISO 3950) is what the tables hold. SNOMED CT codes and names are those
of PS3.16 CID 4018 (permanent) and CID 4019 (deciduous); ADA Universal letters and numbers follow
ISO 3950 Annex. Surfaces have no SNOMED CT codes here: published guides contradict each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Tooth:
    """One tooth: FDI designation, ADA Universal designation, SNOMED CT code and DICOM's name."""

    fdi: str
    universal: str
    snomed_ct: str
    name: str

    @property
    def is_deciduous(self) -> bool:
        return self.fdi[0] in "5678"


TEETH: Final[tuple[Tooth, ...]] = (
    Tooth("11", "8", "422653006", "Permanent maxillary right central incisor tooth"),
    Tooth("12", "7", "424877001", "Permanent maxillary right lateral incisor tooth"),
    Tooth("13", "6", "860767006", "Permanent maxillary right canine tooth"),
    Tooth("14", "5", "57826002", "Permanent maxillary right first premolar tooth"),
    Tooth("15", "4", "36492000", "Permanent maxillary right second premolar tooth"),
    Tooth("16", "3", "865995000", "Permanent maxillary right first molar tooth"),
    Tooth("17", "2", "863902006", "Permanent maxillary right second molar tooth"),
    Tooth("18", "1", "68085002", "Permanent maxillary right third molar tooth"),
    Tooth("21", "9", "424399000", "Permanent maxillary left central incisor tooth"),
    Tooth("22", "10", "423185002", "Permanent maxillary left lateral incisor tooth"),
    Tooth("23", "11", "860780009", "Permanent maxillary left canine tooth"),
    Tooth("24", "12", "61897005", "Permanent maxillary left first premolar tooth"),
    Tooth("25", "13", "23226009", "Permanent maxillary left second premolar tooth"),
    Tooth("26", "14", "865988009", "Permanent maxillary left first molar tooth"),
    Tooth("27", "15", "863901004", "Permanent maxillary left second molar tooth"),
    Tooth("28", "16", "87704003", "Permanent maxillary left third molar tooth"),
    Tooth("31", "24", "425106001", "Mandibular left central incisor tooth"),
    Tooth("32", "23", "423331005", "Mandibular left lateral tooth"),
    Tooth("33", "22", "860782001", "Mandibular left canine tooth"),
    Tooth("34", "21", "2400006", "Mandibular left first premolar tooth"),
    Tooth("35", "20", "24573005", "Mandibular left second premolar tooth"),
    Tooth("36", "19", "866006002", "Mandibular left first molar tooth"),
    Tooth("37", "18", "863898000", "Mandibular left second molar tooth"),
    Tooth("38", "17", "74344005", "Mandibular left third molar tooth"),
    Tooth("41", "25", "424575004", "Mandibular right central incisor tooth"),
    Tooth("42", "26", "423937004", "Mandibular right lateral incisor tooth"),
    Tooth("43", "27", "860785004", "Mandibular right canine tooth"),
    Tooth("44", "28", "80140008", "Mandibular right first premolar tooth"),
    Tooth("45", "29", "8873007", "Mandibular right second premolar tooth"),
    Tooth("46", "30", "866005003", "Mandibular right first molar tooth"),
    Tooth("47", "31", "863899008", "Mandibular right second molar tooth"),
    Tooth("48", "32", "38994002", "Mandibular right third molar tooth"),
    Tooth("51", "E", "88824007", "Deciduous maxillary right central incisor tooth"),
    Tooth("52", "D", "65624003", "Deciduous maxillary right lateral incisor tooth"),
    Tooth("53", "C", "30618001", "Deciduous maxillary right canine tooth"),
    Tooth("54", "B", "17505006", "Deciduous maxillary right first molar tooth"),
    Tooth("55", "A", "27855007", "Deciduous maxillary right second molar tooth"),
    Tooth("61", "F", "51678005", "Deciduous maxillary left central incisor tooth"),
    Tooth("62", "G", "43622005", "Deciduous maxillary left lateral incisor tooth"),
    Tooth("63", "H", "73937000", "Deciduous maxillary left canine tooth"),
    Tooth("64", "I", "45234009", "Deciduous maxillary left first molar tooth"),
    Tooth("65", "J", "51943008", "Deciduous maxillary left second molar tooth"),
    Tooth("71", "O", "89552004", "Deciduous mandibular left central incisor tooth"),
    Tooth("72", "N", "14770005", "Deciduous mandibular left lateral incisor tooth"),
    Tooth("73", "M", "43281008", "Deciduous mandibular left canine tooth"),
    Tooth("74", "L", "38896004", "Deciduous mandibular left first molar tooth"),
    Tooth("75", "K", "49330006", "Deciduous mandibular left second molar tooth"),
    Tooth("81", "P", "67834006", "Deciduous mandibular right central incisor tooth"),
    Tooth("82", "Q", "22445006", "Deciduous mandibular right lateral incisor tooth"),
    Tooth("83", "R", "6062009", "Deciduous mandibular right canine tooth"),
    Tooth("84", "S", "58646007", "Deciduous mandibular right first molar tooth"),
    Tooth("85", "T", "61868007", "Deciduous mandibular right second molar tooth"),
)

TOOTH_BY_FDI: Final = {tooth.fdi: tooth for tooth in TEETH}
TOOTH_BY_UNIVERSAL: Final = {tooth.universal: tooth for tooth in TEETH}
TOOTH_BY_SNOMED_CT: Final = {tooth.snomed_ct: tooth for tooth in TEETH}

# Codes of http://terminology.hl7.org/CodeSystem/FDI-surface (FHIR R4) for one surface; a filling
# of several surfaces is written as their letters in a row (MOD).
SURFACES: Final = {
    "M": "Mesial",
    "O": "Occlusal",
    "I": "Incisal",
    "D": "Distal",
    "B": "Buccal",
    "V": "Ventral",
    "L": "Lingual",
}
# The combinations that the same code system lists.
SURFACE_COMBINATIONS: Final = {
    "MO": "Mesioclusal",
    "DO": "Distoclusal",
    "DI": "Distoincisal",
    "MOD": "Mesioclusodistal",
}

# The six probing sites of a periodontal chart, in the order in which they are called out.
PERIODONTAL_SITES: Final = {
    "MB": "Mesiobuccal",
    "B": "Buccal",
    "DB": "Distobuccal",
    "ML": "Mesiolingual",
    "L": "Lingual",
    "DL": "Distolingual",
}
