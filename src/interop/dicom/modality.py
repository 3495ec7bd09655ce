"""Which kind of dental study an object makes: DICOM Modality to ``imaging_studies.modality``.

The rule is the table below, read from the top; the first row that fits decides. CT is CBCT only
where something says dental or cone beam, since a dental group may also receive hospital CT.
"""

from __future__ import annotations

from dataclasses import dataclass

OTHER = "OTHER"

# Looked for in descriptions, protocol, body part and device names, in upper case.
_DENTAL_WORDS = (
    "CBCT", "CONE", "DENTAL", "DENTO", "DVT", "TOOTH", "TEETH", "JAW", "MANDIB", "MAXILL",
    "TMJ", "IMPLANT", "ORTHODON", "ENDODON", "FACE", "ORAL",
)  # fmt: skip
_VIDEO_SOP_CLASSES = (
    "1.2.840.10008.5.1.4.1.1.77.1.1.1",
    "1.2.840.10008.5.1.4.1.1.77.1.2.1",
    "1.2.840.10008.5.1.4.1.1.77.1.4.1",
)


@dataclass(frozen=True, slots=True)
class Rule:
    """Fits when the Modality or the SOP class is listed, and a word is found where one is asked."""

    kind: str
    modalities: frozenset[str] = frozenset()
    sop_classes: tuple[str, ...] = ()
    words: tuple[str, ...] = ()


RULES = (
    Rule("VIDEO", sop_classes=_VIDEO_SOP_CLASSES),
    Rule("INTRAORAL", frozenset({"IO"})),
    Rule("INTRAORAL", sop_classes=("1.2.840.10008.5.1.4.1.1.1.3",)),
    Rule("PANORAMIC", frozenset({"PX"})),
    Rule("CBCT", frozenset({"CT"}), words=_DENTAL_WORDS),
    Rule("PANORAMIC", frozenset({"DX", "CR", "DR"}), words=("PANORAM", "OPG", "ORTHOPANTO")),
    Rule("INTRAORAL", frozenset({"DX", "CR", "DR"}), words=("INTRAORAL", "BITEWING", "PERIAPICAL")),
    Rule("PHOTO", frozenset({"XC", "GM", "ES", "OP", "VL", "DMS", "IVOCT"})),
    # Visible light and secondary capture without a better modality are photographs here.
    Rule("PHOTO", frozenset({"OT", "SC", ""}), sop_classes=("1.2.840.10008.5.1.4.1.1.7",)),
    Rule("PHOTO", sop_classes=("1.2.840.10008.5.1.4.1.1.77.1",)),
)


def study_kind(modality: str, sop_class_uid: str, words: str) -> str:
    """Return the kind by the first fitting rule. ``words`` is what says dental, in any case."""
    upper = words.upper()
    for rule in RULES:
        if _fits(rule, modality, sop_class_uid) and (
            not rule.words or any(word in upper for word in rule.words)
        ):
            return rule.kind
    return OTHER


def _fits(rule: Rule, modality: str, sop_class_uid: str) -> bool:
    by_class = sop_class_uid.startswith(rule.sop_classes) if rule.sop_classes else False
    if rule.modalities and rule.sop_classes:
        return modality in rule.modalities and by_class
    return by_class or modality in rule.modalities
