"""What the models may find, and the codes that name it in the rows, in DICOM SR and in FHIR.

SNOMED CT codes as checked in shared guides (ai.md 2.1, 2.2); what has no checked public code uses
the private scheme 99INTEROP, which the SR registers in its Coding Scheme Identification Sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PRIVATE_SCHEME: Final = "99INTEROP"
# Registers the private scheme; derived once from its name, never changed.
PRIVATE_SCHEME_UID: Final = "2.25.213257840371760595157088028335385491428"


@dataclass(frozen=True, slots=True)
class Concept:
    """A coded concept: value, scheme designator and meaning (PS3.3 8.8)."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True, slots=True)
class FindingKind:
    """One kind of finding: its name in the runtime, its row's type, its code."""

    name: str
    prediction_type: str  # ai_predictions.prediction_type
    concept: Concept


CARIES = FindingKind("caries", "CARIES", Concept("80967001", "SCT", "Dental caries"))
PERIAPICAL_LESION = FindingKind(
    "periapical_lesion", "PATHOLOGY", Concept("39273001", "SCT", "Apical periodontitis")
)
BONE_LOSS = FindingKind("bone_loss", "BONE_LOSS", Concept("109706009", "SCT", "Alveolar bone loss"))
KINDS: Final = {kind.name: kind for kind in (CARIES, PERIAPICAL_LESION, BONE_LOSS)}

CERTAINTY = Concept("111012", "DCM", "Certainty of Finding")
BONE_LOSS_PERCENT = Concept(
    "RBLPCT", PRIVATE_SCHEME, "Radiographic bone loss, percent of root length"
)
NO_FINDING = Concept("NOFINDING", PRIVATE_SCHEME, "No finding above the threshold")
# Published guides contradict each other on SNOMED CT surface codes, so ours are private.
SURFACES: Final = {
    "M": Concept("SURF-M", PRIVATE_SCHEME, "Mesial surface of tooth"),
    "D": Concept("SURF-D", PRIVATE_SCHEME, "Distal surface of tooth"),
    "O": Concept("SURF-O", PRIVATE_SCHEME, "Occlusal surface of tooth"),
    "I": Concept("SURF-I", PRIVATE_SCHEME, "Incisal edge of tooth"),
    "B": Concept("SURF-B", PRIVATE_SCHEME, "Buccal surface of tooth"),
    "L": Concept("SURF-L", PRIVATE_SCHEME, "Lingual surface of tooth"),
}
