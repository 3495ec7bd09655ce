"""A job's result as JSON in its row, and as the rows that the product shows.

The JSON is written before anything else, so that a worker which dies while writing is followed
by one that writes the same again, without inference.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

import numpy as np

from ai.findings import KINDS, PRIVATE_SCHEME
from ai.identifiers import derived_uuid
from ai.runtime import Finding, Tooth
from ai.writers.report import ReportContext
from ai.writers.structured_report import finding_name
from storage.audit import INSERT_AUDIT, system_audit
from storage.database import Connection

Mask = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True, slots=True)
class ImageResult:
    """What was found in one image. `mask` is (rows, columns) of the source, labels 0 to 32."""

    imaging_object_id: UUID
    teeth: Sequence[Tooth]
    findings: Sequence[Finding]
    mask: Mask

    def to_json(self) -> dict[str, Any]:
        return {
            "imaging_object_id": str(self.imaging_object_id),
            "teeth": [asdict(tooth) for tooth in self.teeth],
            "findings": [asdict(finding) for finding in self.findings],
            "shape": list(self.mask.shape),
            "mask": base64.b64encode(zlib.compress(self.mask.tobytes(), 6)).decode(),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ImageResult:
        flat = np.frombuffer(zlib.decompress(base64.b64decode(data["mask"])), np.uint8)
        return cls(
            UUID(data["imaging_object_id"]),
            [Tooth(**tooth) for tooth in data["teeth"]],
            [Finding(**finding) for finding in data["findings"]],
            flat.reshape(data["shape"]),
        )


def write_rows(
    connection: Connection,
    tenant_id: UUID,
    patient_id: UUID,
    context: ReportContext,
    result: ImageResult,
) -> None:
    """Annotations and predictions of one image; writing them again changes nothing."""
    for tooth in result.teeth:
        _annotate(
            connection,
            tenant_id,
            result.imaging_object_id,
            derived_uuid(context.image_key, "tooth", tooth.fdi),
            "LABEL",
            tooth.polygon,
            f"FDI|{tooth.fdi}",
            tooth.score,
        )
    for index, finding in enumerate(result.findings):
        _write_finding(connection, tenant_id, patient_id, context, result, index, finding)


def _write_finding(
    connection: Connection,
    tenant_id: UUID,
    patient_id: UUID,
    context: ReportContext,
    result: ImageResult,
    index: int,
    finding: Finding,
) -> None:
    kind, name = KINDS[finding.kind], finding_name(index, finding)
    code = f"{kind.concept.scheme}|{kind.concept.value}"
    region = derived_uuid(context.image_key, "region", name)
    _annotate(
        connection,
        tenant_id,
        result.imaging_object_id,
        region,
        "MASK",
        finding.polygon,
        code,
        finding.score,
    )
    connection.execute(
        "INSERT INTO ai_predictions (tenant_id, id, job_id, patient_id, imaging_object_id,"
        " prediction_type, code, confidence, tooth_number, surface, value, unit, roi_ref,"
        " tracking_uid, raw_output) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s,"
        " %s, %s) ON CONFLICT DO NOTHING",
        (
            tenant_id,
            derived_uuid(context.image_key, "prediction", name),
            context.job_id,
            patient_id,
            result.imaging_object_id,
            kind.prediction_type,
            code,
            finding.score,
            finding.fdi,
            finding.surface,
            finding.value,
            finding.unit,
            region,
            context.finding_uid(name),
            json.dumps(asdict(finding)),
        ),
    )


def _annotate(
    connection: Connection,
    tenant_id: UUID,
    imaging_object_id: UUID,
    annotation_id: UUID,
    annotation_type: str,
    polygon: Sequence[Sequence[float]],
    label_code: str,
    confidence: float,
) -> None:
    geometry = {"type": "Polygon", "unit": "pixel", "coordinates": [list(p) for p in polygon]}
    connection.execute(
        "INSERT INTO image_annotations (tenant_id, id, imaging_object_id, source_type,"
        " annotation_type, geometry, label_code, confidence)"
        " VALUES (%s, %s, %s, 'AI', %s, %s, %s, %s) ON CONFLICT DO NOTHING",
        (
            tenant_id,
            annotation_id,
            imaging_object_id,
            annotation_type,
            json.dumps(geometry),
            label_code,
            confidence,
        ),
    )


def finish_job(
    connection: Connection,
    tenant_id: UUID,
    job_id: UUID,
    sr_uid: str | None,
    seg_uid: str | None,
    finding_count: int,
    patient_id: UUID | None = None,
) -> None:
    """Mark the job as succeeded and record it; the last statements of its one transaction."""
    connection.execute(
        "UPDATE ai_inference_jobs SET status = 'SUCCEEDED', state_reason = %s,"
        " sr_sop_instance_uid = %s, seg_sop_instance_uid = %s, error_details = NULL"
        " WHERE tenant_id = %s AND id = %s",
        (
            None if finding_count else "no findings",
            sr_uid,
            seg_uid,
            tenant_id,
            job_id,
        ),
    )
    connection.execute(
        INSERT_AUDIT,
        system_audit(
            tenant_id,
            "IMAGE_ANALYZED",
            "AI_INFERENCE_JOB",
            str(job_id),
            metadata={"findings": finding_count, "scheme": PRIVATE_SCHEME},
            patient_id=patient_id,
        ),
    )
