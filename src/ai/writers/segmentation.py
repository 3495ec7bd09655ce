"""One SEG per analysed image: a binary segment for each tooth (PS3.3 A.51).

BINARY is what every viewer reads. One frame per segment, in the geometry of the source image.
"""

from __future__ import annotations

from typing import Any

import highdicom as hd
import numpy as np
from highdicom import seg
from pydicom.sr.coding import Code

from ai.dentition import label_of_fdi
from ai.writers.report import DEVICE_MODEL_PREFIX, MANUFACTURER, ReportContext, stamp
from ai.writers.structured_report import ARTIFICIAL_INTELLIGENCE
from storage.dental import TOOTH_BY_FDI

SERIES_NUMBER = 9002
# PS3.16 CID 7150: the category of the segmented property; tooth is an anatomical structure.
ANATOMICAL_STRUCTURE = Code("123037004", "SCT", "Anatomical Structure")
JAW_REGION = Code("661005", "SCT", "Jaw region")


def segmentation(
    context: ReportContext, label_mask: np.ndarray[Any, np.dtype[np.uint8]], teeth: list[int]
) -> bytes | None:
    """The Part 10 bytes of the SEG of `teeth` (FDI), or None when no tooth was found.

    `label_mask` is (rows, columns) in the geometry of the source image.
    """
    present = [fdi for fdi in sorted(teeth) if np.any(label_mask == label_of_fdi(fdi))]
    if not present:
        return None
    pixels = np.stack([label_mask == label_of_fdi(fdi) for fdi in present], axis=-1)
    document = seg.Segmentation(
        source_images=[context.source],
        pixel_array=pixels[np.newaxis].astype(np.uint8),
        segmentation_type=seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[
            _description(context, number, fdi) for number, fdi in enumerate(present, start=1)
        ],
        series_instance_uid=context.series_uid("SEG"),
        series_number=SERIES_NUMBER,
        sop_instance_uid=context.sop_uid("SEG"),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=DEVICE_MODEL_PREFIX + context.model_name,
        software_versions=context.model_version,
        device_serial_number=str(context.model_version_id),
        series_description=f"AI teeth: {context.model_name}"[:64],
        content_label="AI_TEETH",
    )
    _name_dimensions(document, context.sop_uid("SEG dimensions"))
    if "PatientOrientation" not in document:
        document.PatientOrientation = ""  # type 2C that highdicom omits for a planar image
    if "IssuerOfPatientID" in context.source:
        document.IssuerOfPatientID = context.source.IssuerOfPatientID
    return stamp(document, context)


def _name_dimensions(document: Any, uid: str) -> None:
    """highdicom draws this UID at random; a retry must make the same object."""
    for item in (*document.DimensionOrganizationSequence, *document.DimensionIndexSequence):
        item.DimensionOrganizationUID = uid


def _description(context: ReportContext, number: int, fdi: int) -> Any:
    tooth = TOOTH_BY_FDI[str(fdi)]
    return seg.SegmentDescription(
        segment_number=number,
        segment_label=f"Tooth {fdi}",
        segmented_property_category=ANATOMICAL_STRUCTURE,
        segmented_property_type=Code(tooth.snomed_ct, "SCT", tooth.name),
        algorithm_type=seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=context.model_name,
            family=ARTIFICIAL_INTELLIGENCE,
            version=context.model_version,
        ),
        tracking_uid=context.finding_uid(f"tooth:{fdi}"),
        tracking_id=f"FDI {fdi}",
        anatomic_regions=[JAW_REGION],
    )
