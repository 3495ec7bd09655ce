"""What both DICOM writers need to know of a finished job, and what they stamp on each object.

highdicom reads the clock while it builds, so two builds of one job would differ and the ingest
would refuse the second as other bytes under a known UID. `stamp` replaces every such time by the
job's own (ai.md 2.3 a).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from uuid import UUID

from pydicom import Dataset, dcmwrite
from pydicom.uid import ExplicitVRLittleEndian

from ai.identifiers import derived_uid

MANUFACTURER = "dental-interop"
# Objects of this manufacturer made by this software never start a pipeline (loop guard).
DEVICE_MODEL_PREFIX = "dental-interop AI: "
IMPLEMENTATION_VERSION = "INTEROP_AI_010"


@dataclass(frozen=True, slots=True)
class ReportContext:
    """One finished job over one source image.

    `source` is the image's header without pixel data. `key` is the job's idempotency key, the
    root of every UID made here.
    """

    key: str
    job_id: UUID
    model_name: str
    model_version: str
    model_version_id: UUID
    bundle_digest: str
    completed_at: datetime
    source: Dataset

    @property
    def image_key(self) -> str:
        return f"{self.key}|{self.source.SOPInstanceUID}"

    def series_uid(self, kind: str) -> str:
        """Re-runs of one model version over one study land in one series."""
        return derived_uid("series", self.source.StudyInstanceUID, self.model_version_id, kind)

    def sop_uid(self, kind: str) -> str:
        return derived_uid(self.image_key, kind)

    def finding_uid(self, name: str) -> str:
        """The tracking UID of one finding, equal in SR and SEG."""
        return derived_uid(self.image_key, "finding", name)


def stamp(dataset: Dataset, context: ReportContext) -> bytes:
    """The Part 10 bytes of `dataset` with all times set to the job's."""
    moment = context.completed_at.astimezone(UTC)
    date, time = moment.strftime("%Y%m%d"), moment.strftime("%H%M%S.%f")
    dataset.TimezoneOffsetFromUTC = "+0000"
    dataset.InstanceCreationDate, dataset.InstanceCreationTime = date, time
    dataset.ContentDate, dataset.ContentTime = date, time
    dataset.SeriesDate, dataset.SeriesTime = date, time
    for equipment in dataset.get("ContributingEquipmentSequence", []):
        if "ContributionDateTime" in equipment:
            equipment.ContributionDateTime = date + time
    meta = dataset.file_meta
    meta.TransferSyntaxUID = meta.get("TransferSyntaxUID", ExplicitVRLittleEndian)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION
    buffer = BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()
