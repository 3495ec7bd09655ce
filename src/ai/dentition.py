"""Facts about the 32 permanent teeth that every phantom draws from: FDI numbers and mean sizes.

FDI (ISO 3950): first digit is the quadrant (1 upper right, 2 upper left, 3 lower left, 4 lower
right), second digit counts from the midline. Sizes are mean anatomical values in millimetres.
"""

from __future__ import annotations

FDI_NUMBERS: tuple[int, ...] = tuple(
    quadrant * 10 + position for quadrant in (1, 2, 3, 4) for position in range(1, 9)
)

# Index 0 is the central incisor, index 7 the third molar.
MESIODISTAL_WIDTH_UPPER = (8.5, 6.5, 7.5, 7.0, 7.0, 10.5, 10.0, 9.0)
MESIODISTAL_WIDTH_LOWER = (5.3, 5.7, 6.8, 7.0, 7.2, 11.2, 10.6, 10.0)
CROWN_LENGTH_UPPER = (10.5, 9.0, 10.0, 8.5, 8.5, 7.5, 7.2, 6.8)
CROWN_LENGTH_LOWER = (8.8, 9.4, 11.0, 8.8, 8.2, 7.7, 7.2, 7.0)
ROOT_LENGTH_UPPER = (13.0, 13.0, 17.0, 14.0, 14.0, 13.0, 12.0, 11.0)
ROOT_LENGTH_LOWER = (12.5, 14.0, 16.0, 14.0, 14.5, 14.0, 13.0, 11.0)
BUCCOLINGUAL_WIDTH_UPPER = (7.0, 6.0, 8.0, 9.0, 9.0, 11.0, 11.0, 10.0)
BUCCOLINGUAL_WIDTH_LOWER = (6.0, 6.5, 7.5, 7.5, 8.0, 10.5, 10.5, 9.5)


def label_of_fdi(fdi: int) -> int:
    """Return the label-mask value (1..32) of an FDI number."""
    return (fdi // 10 - 1) * 8 + fdi % 10


def fdi_of_label(label: int) -> int:
    """Return the FDI number of a label-mask value (1..32)."""
    return FDI_NUMBERS[label - 1]


def is_upper(fdi: int) -> bool:
    """Tell whether the tooth stands in the maxilla."""
    return fdi // 10 in (1, 2)


def side_of_midline(fdi: int) -> int:
    """Return -1 for teeth drawn left of the midline (the patient's right), +1 for the others."""
    return -1 if fdi // 10 in (1, 4) else 1


def mean_size(fdi: int) -> tuple[float, float, float, float]:
    """Return mesiodistal width, crown length, root length, buccolingual width in millimetres."""
    index = fdi % 10 - 1
    if is_upper(fdi):
        return (
            MESIODISTAL_WIDTH_UPPER[index],
            CROWN_LENGTH_UPPER[index],
            ROOT_LENGTH_UPPER[index],
            BUCCOLINGUAL_WIDTH_UPPER[index],
        )
    return (
        MESIODISTAL_WIDTH_LOWER[index],
        CROWN_LENGTH_LOWER[index],
        ROOT_LENGTH_LOWER[index],
        BUCCOLINGUAL_WIDTH_LOWER[index],
    )
