"""The attributes that QIDO-RS matches on, and the column behind each (PS3.18 Table 10.6.1-5).

Levels are those of the Query/Retrieve information model (PS3.4 C.6). Columns are of the tables
`imaging_studies s`, `imaging_series e` and `imaging_objects o`; text is COLLATE "C", so that
equality and ranges keep their index under row-level security.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import LiteralString

from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword

from interop.errors import BadRequest

_TAG = re.compile(r"[0-9A-Fa-f]{8}")
MAX_PATH = 4


class Level(IntEnum):
    """A level of the information model; a result of one level has the attributes above it."""

    STUDY = 0
    SERIES = 1
    INSTANCE = 2

    @property
    def resource(self) -> str:
        return ("studies", "series", "instances")[self]


class Kind(StrEnum):
    """How values of an attribute are matched (PS3.4 C.2.2.2)."""

    UID = "UID"  # a list of UIDs
    TEXT = "text"  # case-sensitive, wildcards
    CODE = "code"  # CS: as TEXT, and several values
    NAME = "name"  # PN: case and accents do not count
    DATE = "date"
    TIME = "time"
    INTEGER = "integer"
    CODE_ARRAY = "codes"  # any of the column's values
    UID_ARRAY = "UIDs"
    SEQUENCE = "sequence"  # an element of a sequence, in the stored JSON


@dataclass(frozen=True, slots=True)
class Attribute:
    """One matching key. `column` is SQL of ours; for SEQUENCE the JSON document's column."""

    keyword: str
    level: Level
    kind: Kind
    column: LiteralString

    @property
    def path(self) -> tuple[str, ...]:
        """Tags as DICOM JSON names them, outermost first."""
        return tuple(tag_of(keyword) for keyword in self.keyword.split("."))

    @property
    def tag(self) -> str:
        return self.path[0]


def tag_of(keyword: str) -> str:
    """The eight hexadecimal digits of a keyword of PS3.6."""
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    return f"{tag:08X}"


def _table(level: Level, *rows: tuple[str, Kind, LiteralString]) -> tuple[Attribute, ...]:
    return tuple(Attribute(keyword, level, kind, column) for keyword, kind, column in rows)


ATTRIBUTES = (
    *_table(
        Level.STUDY,
        ("StudyInstanceUID", Kind.UID, "s.study_uid"),
        ("StudyDate", Kind.DATE, "s.study_date"),
        ("StudyTime", Kind.TIME, "s.study_time"),
        ("AccessionNumber", Kind.TEXT, "s.accession_number"),
        ("ModalitiesInStudy", Kind.CODE_ARRAY, "s.modalities_in_study"),
        ("ReferringPhysicianName", Kind.NAME, "s.referring_physician_key"),
        ("PatientName", Kind.NAME, "s.patient_name_key"),
        ("PatientID", Kind.TEXT, "s.dicom_patient_id"),
        ("StudyID", Kind.TEXT, "s.dicom_study_id"),
        ("IssuerOfPatientID", Kind.TEXT, "s.issuer_of_patient_id"),
        ("PatientBirthDate", Kind.DATE, "s.patient_birth_date"),
        ("PatientSex", Kind.CODE, "s.patient_sex"),
        ("StudyDescription", Kind.TEXT, "s.study_description"),
        ("SOPClassesInStudy", Kind.UID_ARRAY, "s.sop_classes_in_study"),
        ("NumberOfStudyRelatedSeries", Kind.INTEGER, "s.number_of_series"),
        ("NumberOfStudyRelatedInstances", Kind.INTEGER, "s.number_of_instances"),
    ),
    *_table(
        Level.SERIES,
        ("SeriesInstanceUID", Kind.UID, "e.series_uid"),
        ("Modality", Kind.CODE, "e.modality"),
        ("SeriesNumber", Kind.INTEGER, "e.series_number"),
        ("SeriesDescription", Kind.TEXT, "e.series_description"),
        ("BodyPartExamined", Kind.CODE, "e.body_part_examined"),
        ("Laterality", Kind.CODE, "e.laterality"),
        ("StationName", Kind.TEXT, "e.station_name"),
        ("Manufacturer", Kind.TEXT, "e.manufacturer"),
        ("FrameOfReferenceUID", Kind.UID, "e.frame_of_reference_uid"),
        ("PerformedProcedureStepStartDate", Kind.DATE, "e.performed_procedure_step_start_date"),
        ("PerformedProcedureStepStartTime", Kind.TIME, "e.performed_procedure_step_start_time"),
        (
            "RequestAttributesSequence.ScheduledProcedureStepID",
            Kind.SEQUENCE,
            "e.dicom_json",
        ),
        ("RequestAttributesSequence.RequestedProcedureID", Kind.SEQUENCE, "e.dicom_json"),
        ("NumberOfSeriesRelatedInstances", Kind.INTEGER, "e.number_of_instances"),
    ),
    *_table(
        Level.INSTANCE,
        ("SOPInstanceUID", Kind.UID, "o.sop_instance_uid"),
        ("SOPClassUID", Kind.UID, "o.sop_class_uid"),
        ("InstanceNumber", Kind.INTEGER, "o.instance_number"),
        ("AvailableTransferSyntaxUID", Kind.UID, "o.transfer_syntax_uid"),
        ("ContentDate", Kind.DATE, "o.content_date"),
        ("ContentTime", Kind.TIME, "o.content_time"),
        ("NumberOfFrames", Kind.INTEGER, "o.number_of_frames"),
        ("Rows", Kind.INTEGER, "o.height"),
        ("Columns", Kind.INTEGER, "o.width"),
        ("DocumentTitle", Kind.TEXT, "o.document_title"),
    ),
)
BY_PATH = {attribute.path: attribute for attribute in ATTRIBUTES}


def path_of(name: str) -> tuple[str, ...]:
    """Read a key of a query, `PatientName`, `00100010` or `Sequence.Element`, as tags.

    Raises BadRequest for what is neither a keyword of PS3.6 nor a tag.
    """
    steps = name.split(".")
    if len(steps) > MAX_PATH:
        raise BadRequest(f"attribute {name[:80]!r}: at most {MAX_PATH} levels of sequences")
    return tuple(_tag(step, name) for step in steps)


def _tag(step: str, name: str) -> str:
    if _TAG.fullmatch(step):
        return step.upper()
    tag = tag_for_keyword(step)
    if tag is None:
        raise BadRequest(
            f"unknown parameter {name[:80]!r}; expected an attribute keyword such as PatientID, "
            "its tag as eight hexadecimal digits such as 00100020, or one of includefield, limit, "
            "offset, fuzzymatching"
        )
    return f"{tag:08X}"


def name_of(path: tuple[str, ...]) -> str:
    """The keywords of a path, for messages; the tag where PS3.6 has none."""
    return ".".join(keyword_for_tag(int(tag, 16)) or tag for tag in path)


def is_sequence(tag: str) -> bool:
    """Whether PS3.6 gives the tag VR SQ."""
    try:
        return dictionary_VR(int(tag, 16)) == "SQ"
    except KeyError:
        return False
