"""One Comprehensive 3D SR per analysed image: TID 1500 Measurement Report (PS3.16).

One measurement group per finding (TID 1410 planar ROI): finding, tooth as finding site (SNOMED CT
of CID 4018/4019), surface as topographical modifier, certainty, region as closed polyline.
No finding is a report too: one TID 1501 group that says so with the algorithm, so that "ran and
found nothing" differs from "did not run" (TID 1500 asks for at least one group).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from highdicom import sr
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from ai.findings import (
    BONE_LOSS_PERCENT,
    CERTAINTY,
    KINDS,
    NO_FINDING,
    PRIVATE_SCHEME,
    PRIVATE_SCHEME_UID,
    SURFACES,
    Concept,
)
from ai.runtime import Finding
from ai.writers.report import DEVICE_MODEL_PREFIX, MANUFACTURER, ReportContext, stamp
from storage.dental import TOOTH_BY_FDI

SERIES_NUMBER = 9001
# CID 100: the panoramic's own LOINC and SNOMED CT codes are newer than the validators' copies.
PROCEDURE = Code("363679005", "SCT", "Imaging procedure")
ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")
PERCENT = Code("%", "UCUM", "Percent")


def code(concept: Concept) -> Code:
    return Code(concept.value, concept.scheme, concept.meaning)


def structured_report(context: ReportContext, findings: Sequence[Finding]) -> bytes:
    """The Part 10 bytes of the report of `findings`; equal input gives equal bytes."""
    source = context.source
    content = sr.MeasurementReport(
        observation_context=_observer(context),
        procedure_reported=PROCEDURE,
        imaging_measurements=[
            _group(context, index, finding) for index, finding in enumerate(findings)
        ]
        or [_no_finding(context)],
        title=codes.DCM.ImagingMeasurementReport,
        referenced_images=[source],
    )
    document = sr.Comprehensive3DSR(
        evidence=[source],
        content=content[0],
        series_number=SERIES_NUMBER,
        series_instance_uid=context.series_uid("SR"),
        sop_instance_uid=context.sop_uid("SR"),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=DEVICE_MODEL_PREFIX + context.model_name,
        software_versions=context.model_version,
        device_serial_number=str(context.model_version_id),
        coding_schemes=[_private_scheme()],
        is_complete=True,
        is_final=False,
        is_verified=False,
        series_description=f"AI findings: {context.model_name}"[:64],
    )
    _copy_patient_module(document, source)
    return stamp(document, context)


def _private_scheme() -> Any:
    return CodingSchemeIdentificationItem(
        designator=PRIVATE_SCHEME,
        name="dental-interop result codes",
        version="1",
        uid=PRIVATE_SCHEME_UID,
        responsible_organization=MANUFACTURER,
    )


def _observer(context: ReportContext) -> Any:
    """TID 1001/1004: the device, one per deployed model version."""
    return sr.ObservationContext(
        observer_device_context=sr.ObserverContext(
            observer_type=codes.DCM.Device,
            observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
                uid=context.series_uid("device"),
                name=context.model_name,
                manufacturer_name=MANUFACTURER,
                model_name=DEVICE_MODEL_PREFIX + context.model_name,
                serial_number=context.model_version,
            ),
        )
    )


def _group(context: ReportContext, index: int, finding: Finding) -> Any:
    kind = KINDS[finding.kind]
    measurements = [
        sr.Measurement(name=code(CERTAINTY), value=round(100 * finding.score, 1), unit=PERCENT)
    ]
    if finding.value is not None:
        measurements.append(
            sr.Measurement(
                name=code(BONE_LOSS_PERCENT), value=round(finding.value, 1), unit=PERCENT
            )
        )
    return sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=context.finding_uid(finding_name(index, finding)),
            # ISO 3950 has no coding scheme in DICOM, so FDI stands in this text only.
            identifier=f"FDI {finding.fdi} {finding.kind} {index + 1}",
        ),
        referenced_region=sr.ImageRegion(
            graphic_type=sr.GraphicTypeValues.POLYLINE,
            graphic_data=_closed(finding.polygon, context.source),
            source_image=sr.SourceImageForRegion.from_source_image(context.source),
        ),
        finding_type=code(kind.concept),
        algorithm_id=_algorithm(context),
        finding_sites=[_site(finding)],
        measurements=measurements,
    )


def _no_finding(context: ReportContext) -> Any:
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=context.finding_uid("none"), identifier="no finding"
        ),
        finding_type=code(NO_FINDING),
        algorithm_id=_algorithm(context),
        source_images=[sr.SourceImageForMeasurementGroup.from_source_image(context.source)],
    )


def _algorithm(context: ReportContext) -> Any:
    """TID 4019."""
    return sr.AlgorithmIdentification(
        name=context.model_name,
        version=context.model_version,
        parameters=[f"job {context.job_id}", f"bundle sha256 {context.bundle_digest}"],
    )


def _site(finding: Finding) -> Any:
    tooth = TOOTH_BY_FDI[str(finding.fdi)]
    surface = SURFACES.get(finding.surface or "")
    return sr.FindingSite(
        anatomic_location=Code(tooth.snomed_ct, "SCT", tooth.name),
        topographical_modifier=code(surface) if surface else None,
    )


def finding_name(index: int, finding: Finding) -> str:
    """What makes a finding the same finding in SR, SEG and rows of one job."""
    return f"{index}:{finding.fdi}:{finding.kind}:{finding.surface or ''}"


def _closed(polygon: Sequence[Sequence[float]], source: Dataset) -> np.ndarray[Any, Any]:
    """The polygon as a closed SCOORD polyline inside the image (PS3.3 C.18.6)."""
    points = np.asarray(polygon, dtype=float).reshape(-1, 2)
    points = np.clip(points, 0.0, [float(source.Columns), float(source.Rows)])
    if len(points) < 3 or not np.array_equal(points[0], points[-1]):
        points = np.vstack([points, points[:1]])
    return points


def _copy_patient_module(document: Dataset, source: Dataset) -> None:
    """highdicom copies the common patient attributes; the issuer qualifies the PatientID."""
    if "IssuerOfPatientID" in source:
        document.IssuerOfPatientID = source.IssuerOfPatientID
