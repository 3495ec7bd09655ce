"""Section IV.1: studies, series, stored objects and annotations, with what DICOM queries match.

Columns in COLLATE "C" carry the DICOM text that QIDO-RS and C-FIND match; `dicom_json` is what is
served (PS3.18 Annex F). The ingest function is the only writer.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    Index,
    Integer,
    SmallInteger,
    Text,
    UniqueConstraint,
)
from sqlalchemy import text as sql
from sqlalchemy.orm import Mapped, mapped_column

from storage.schema.declarative import (
    Base,
    Exact,
    Json,
    Sensitivity,
    TenantTable,
    bounded,
    count,
    flag,
    global_link,
    link,
    member_link,
    one_of,
    phi,
)

SECTION = "IV. Imaging & AI Analysis"
_IDENTIFYING = Sensitivity.IDENTIFYING
# PS3.5 9: a UID has at most 64 characters of digits and dots.
_UID = "{0} ~ '^[0-9.]{{1,64}}$'"
_FDI_TEETH = (
    "{0} <@ '{{11,12,13,14,15,16,17,18,21,22,23,24,25,26,27,28,31,32,33,34,35,36,37,38,41,42,43,"
    "44,45,46,47,48,51,52,53,54,55,61,62,63,64,65,71,72,73,74,75,81,82,83,84,85}}'::smallint[]"
)


class ImagingStudy(TenantTable, Base):
    """A DICOM study."""

    __tablename__ = "imaging_studies"
    __section__ = SECTION
    __phi__ = Sensitivity.CLINICAL
    __table_args__ = (
        UniqueConstraint("tenant_id", "study_uid"),
        Index(None, "tenant_id", "patient_id", "acquisition_datetime"),
        Index(None, "tenant_id", "study_date", "study_time", "study_uid"),
        Index(None, "tenant_id", "patient_name_key"),
        Index(None, "tenant_id", "dicom_patient_id"),
        Index(None, "tenant_id", "accession_number"),
    )

    patient_id: Mapped[UUID] = link("patients")
    encounter_id: Mapped[UUID | None] = link("encounters")
    study_uid: Mapped[Exact] = mapped_column(info={"check": _UID})
    modality: Mapped[str] = one_of(
        "INTRAORAL", "PANORAMIC", "CBCT", "PHOTO", "VIDEO", "OTHER", default="OTHER"
    )
    body_part: Mapped[str | None]
    acquisition_datetime: Mapped[datetime | None]
    referring_provider_id: Mapped[UUID | None] = member_link()
    performing_device_id: Mapped[UUID | None] = global_link("equipment_reference")
    source_system: Mapped[str | None]
    study_date: Mapped[Exact | None]
    study_time: Mapped[Exact | None]
    accession_number: Mapped[Exact | None] = phi(_IDENTIFYING)
    dicom_study_id: Mapped[Exact | None]
    study_description: Mapped[Exact | None]
    referring_physician_name: Mapped[Exact | None] = phi(_IDENTIFYING)
    referring_physician_key: Mapped[Exact | None] = phi(_IDENTIFYING)
    patient_name: Mapped[Exact | None] = phi(_IDENTIFYING)
    patient_name_key: Mapped[Exact | None] = phi(_IDENTIFYING)
    dicom_patient_id: Mapped[Exact | None] = phi(_IDENTIFYING)
    issuer_of_patient_id: Mapped[Exact | None]
    patient_birth_date: Mapped[Exact | None] = phi(_IDENTIFYING)
    patient_sex: Mapped[Exact | None]
    modalities_in_study: Mapped[list[str]] = mapped_column(
        ARRAY(Text(collation="C")), server_default=sql("'{}'")
    )
    sop_classes_in_study: Mapped[list[str]] = mapped_column(
        ARRAY(Text(collation="C")), server_default=sql("'{}'")
    )
    number_of_series: Mapped[int] = bounded(0, None, Integer(), server_default=sql("0"))
    number_of_instances: Mapped[int] = bounded(0, None, Integer(), server_default=sql("0"))
    dicom_json: Mapped[str | None] = phi(_IDENTIFYING)
    last_received_at: Mapped[datetime | None]
    demographics_conflict: Mapped[Json | None] = phi(_IDENTIFYING)


class ImagingSeries(TenantTable, Base):
    """A DICOM series of one study."""

    __tablename__ = "imaging_series"
    __section__ = SECTION
    __phi__ = Sensitivity.CLINICAL
    __tenant_key__ = False  # implied by the study; spares a lock on the tenant's row per insert
    __table_args__ = (
        UniqueConstraint("tenant_id", "study_id", "series_uid"),
        Index(None, "tenant_id", "series_uid"),
        Index(None, "tenant_id", "modality"),
    )

    study_id: Mapped[UUID] = link("imaging_studies", cascade=True)
    series_uid: Mapped[Exact] = mapped_column(info={"check": _UID})
    modality: Mapped[Exact | None]
    series_number: Mapped[int | None]
    series_description: Mapped[Exact | None]
    body_part_examined: Mapped[Exact | None]
    laterality: Mapped[Exact | None]
    performed_station_ae_title: Mapped[Exact | None]
    performed_procedure_step_start_date: Mapped[Exact | None]
    performed_procedure_step_start_time: Mapped[Exact | None]
    performed_procedure_step_id: Mapped[Exact | None]
    frame_of_reference_uid: Mapped[Exact | None]
    station_name: Mapped[Exact | None]
    manufacturer: Mapped[Exact | None]
    protocol_name: Mapped[Exact | None]
    series_date: Mapped[Exact | None]
    series_time: Mapped[Exact | None]
    number_of_instances: Mapped[int] = bounded(0, None, Integer(), server_default=sql("0"))
    dicom_json: Mapped[str | None] = phi(_IDENTIFYING)
    metadata_gzip: Mapped[bytes | None] = phi(_IDENTIFYING)


class ImagingObject(TenantTable, Base):
    """One stored file: a DICOM instance, an image, a surface scan or a video.

    `frame_table` holds little-endian uint64 pairs (absolute offset in the stored object, length),
    so that a frame is a byte-range read that parses nothing.
    """

    __tablename__ = "imaging_objects"
    __section__ = SECTION
    __phi__ = Sensitivity.CLINICAL
    __tenant_key__ = False  # implied by the study; spares a lock on the tenant's row per insert
    __table_args__ = (
        UniqueConstraint("tenant_id", "sop_instance_uid"),
        Index(None, "tenant_id", "series_id", "instance_number", "sop_instance_uid"),
        Index(None, "tenant_id", "sop_class_uid"),
        Index(None, "tenant_id", "storage_uri"),
        CheckConstraint(
            "object_type <> 'DICOM' OR (sop_instance_uid IS NOT NULL AND sop_class_uid IS NOT NULL)",  # noqa: E501
            name="dicom_has_uids",
        ),
        CheckConstraint("hash ~ '^[0-9a-f]{64}$'", name="hash"),
        CheckConstraint("length(frame_table) % 16 = 0", name="frame_table"),
    )

    study_id: Mapped[UUID] = link("imaging_studies", cascade=True)
    series_id: Mapped[UUID | None] = link("imaging_series", cascade=True)
    sop_instance_uid: Mapped[Exact | None] = mapped_column(info={"check": _UID})
    sop_class_uid: Mapped[Exact | None]
    transfer_syntax_uid: Mapped[Exact | None]
    object_type: Mapped[str] = one_of("DICOM", "JPEG", "PNG", "STL", "MP4", default="DICOM")
    storage_uri: Mapped[Exact]
    hash: Mapped[Exact]
    dataset_hash: Mapped[Exact | None]
    byte_size: Mapped[int] = bounded(0, None, BigInteger())
    dataset_offset: Mapped[int | None] = bounded(0, None, BigInteger())
    width: Mapped[int | None] = bounded(0, None, Integer())
    height: Mapped[int | None] = bounded(0, None, Integer())
    depth_slices: Mapped[int | None] = bounded(0, None, Integer())
    is_original: Mapped[bool] = flag(True)
    processing_pipeline: Mapped[Json | None]
    instance_number: Mapped[int | None]
    number_of_frames: Mapped[int | None] = bounded(0, None, Integer())
    pixel_data_offset: Mapped[int | None] = bounded(0, None, BigInteger())
    frame_length: Mapped[int | None] = bounded(0, None, BigInteger())
    frame_table: Mapped[bytes | None]
    dicom_json: Mapped[str | None] = phi(_IDENTIFYING)
    received_at: Mapped[datetime] = mapped_column(server_default=sql("now()"))
    source_ae_title: Mapped[Exact | None]
    document_title: Mapped[str | None]
    content_date: Mapped[Exact | None]
    content_time: Mapped[Exact | None]
    # FDI (ISO 3950): what a picture, model or video that is no DICOM is of, as its sender says.
    tooth_numbers: Mapped[list[int]] = mapped_column(
        ARRAY(SmallInteger()), server_default=sql("'{}'"), info={"check": _FDI_TEETH}
    )


class ImageAnnotation(TenantTable, Base):
    """A structured markup on an image, by the AI or by a user."""

    __tablename__ = "image_annotations"
    __section__ = SECTION
    __phi__ = Sensitivity.CLINICAL
    __table_args__ = (
        CheckConstraint("source_type = 'AI' OR author_user_id IS NOT NULL", name="author"),
        CheckConstraint("source_type = 'USER' OR confidence IS NOT NULL", name="confidence_of_ai"),
    )

    imaging_object_id: Mapped[UUID] = link("imaging_objects", cascade=True)
    source_type: Mapped[str] = one_of("AI", "USER")
    author_user_id: Mapped[UUID | None] = member_link()
    annotation_type: Mapped[str] = one_of("BOUNDING_BOX", "MASK", "MEASUREMENT", "LABEL")
    geometry: Mapped[Json]
    label_code: Mapped[str | None]
    confidence: Mapped[float | None] = bounded(0, 1)
    version: Mapped[int] = bounded(1, None, Integer(), server_default=sql("1"))


class QuarantinedObject(TenantTable, Base):
    """A received object that was refused and kept for an operator to judge.

    Its bytes count in the tenant's storage quota for as long as it has its row.
    """

    __tablename__ = "quarantined_objects"
    __section__ = SECTION
    __phi__ = Sensitivity.CLINICAL
    __table_args__ = (
        Index(None, "tenant_id", "state", "received_at"),
        Index(None, "tenant_id", "sop_instance_uid"),
        Index(None, "tenant_id", "storage_uri"),
    )

    sop_instance_uid: Mapped[Exact | None]
    study_instance_uid: Mapped[Exact | None]
    storage_uri: Mapped[Exact | None]
    hash: Mapped[Exact | None]
    byte_size: Mapped[int] = bounded(0, None, BigInteger(), server_default=sql("0"))
    reason_code: Mapped[str | None]
    reason: Mapped[str]
    source: Mapped[str | None]
    received_at: Mapped[datetime] = mapped_column(server_default=sql("now()"))
    state: Mapped[str] = one_of("PENDING", "RELEASED", "DISCARDED", default="PENDING")


class StudyActivity(TenantTable, Base):
    """When a study last received something, and which generation of it was found complete."""

    __tablename__ = "study_activity"
    __section__ = SECTION
    __tenant_key__ = False  # implied by the study
    __table_args__ = (UniqueConstraint("tenant_id", "study_id"),)

    study_id: Mapped[UUID] = link("imaging_studies", cascade=True)
    generation: Mapped[int] = count()
    last_received_at: Mapped[datetime] = mapped_column(server_default=sql("now()"))
    instance_count: Mapped[int] = count()
    check_scheduled: Mapped[bool] = flag()
    completed_generation: Mapped[int] = count()
