"""Which way round an image is: a mirrored panoramic would give every finding to the wrong side.

The models read the standard view, rows running to the patient's left and columns to the feet
(PatientOrientation L\\F, PS3.3 C.7.6.1.1.1). A flipped image is turned before inference and its
results are turned back; one that lies on its side is refused. Without the attribute the standard
view is assumed, as viewers do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from pydicom import Dataset

from ai.runtime import Finding, InferenceFailed, InferenceResult, Tooth

Points = tuple[tuple[float, float], ...]
Shape = TypeVar("Shape", Tooth, Finding)


@dataclass(frozen=True, slots=True)
class Flip:
    """What turns an image into the standard view; doing it twice gives the image back."""

    horizontal: bool = False
    vertical: bool = False

    @classmethod
    def of(cls, header: Dataset) -> Flip:
        """Read PatientOrientation. Raises InferenceFailed for a view that no flip can make."""
        directions = [
            str(value).strip().upper() for value in header.get("PatientOrientation") or []
        ]
        if len(directions) != 2 or not all(directions):
            return cls()
        row, column = directions[0][0], directions[1][0]
        if row not in "LR" or column not in "FH":
            raise InferenceFailed(
                f"PatientOrientation {directions[0]}\\{directions[1]} is not a frontal view; "
                "rows to L or R and columns to F or H can be analysed",
                retryable=False,
            )
        return cls(horizontal=row == "R", vertical=column == "H")

    def image(self, pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        turned = pixels[:, ::-1] if self.horizontal else pixels
        return np.ascontiguousarray(turned[::-1] if self.vertical else turned)

    def result(self, found: InferenceResult) -> InferenceResult:
        """Results of the standard view in the geometry of the source image."""
        if not (self.horizontal or self.vertical):
            return found
        height, width = found.label_mask.shape
        return replace(
            found,
            teeth=tuple(self._turned(tooth, width, height) for tooth in found.teeth),
            findings=tuple(self._turned(finding, width, height) for finding in found.findings),
            label_mask=self.image(found.label_mask),
        )

    def _turned(self, item: Shape, width: int, height: int) -> Shape:
        return replace(item, polygon=self._points(item.polygon, width, height))

    def _points(self, points: Sequence[tuple[float, float]], width: int, height: int) -> Points:
        return tuple(
            (width - x if self.horizontal else x, height - y if self.vertical else y)
            for x, y in points
        )
