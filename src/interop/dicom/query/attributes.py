"""The attributes that a query matches on, and the column behind each (PS3.18 Table 10.6.1-5).

Levels are those of the Query/Retrieve information model (PS3.4 C.6). Columns are of the tables
`imaging_studies s`, `imaging_series e` and `imaging_objects o`; text is COLLATE "C", so that
equality and ranges keep their index under row-level security.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import LiteralString
from uuid import UUID

from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword

from interop.errors import BadRequest

_TAG = re.compile(r"[0-9A-Fa-f]{8}")
MAX_PATH = 4


class Level(IntEnum):
    """A level of the information model; a result of one level has the attributes above it.

    PATIENT is for C-FIND: a patient is seen through the studies.
    """

    PATIENT = -1
    STUDY = 0
    SERIES = 1
    INSTANCE = 2

    @property
    def resource(self) -> str:
        return ("studies", "series", "instances", "patients")[self]


class Kind(StrEnum):
    """How values of an attribute are matched (PS3.4 C.2.2.2)."""

    UID = "UID"  # a list of UIDs
    TEXT = "text"  # case-sensitive, wildcards
    CODE = "code"  # CS: as TEXT, and several values
    NAME = "name"  # PN: case and accents do not count
    DATE = "date"
    TIME = "time"
    DATETIME = "datetime"  # as UTC, where the offset is known
    INTEGER = "integer"
    NUMBER = "number"
    CODE_ARRAY = "codes"  # any of the column's values
    UID_ARRAY = "UIDs"
    AVAILABILITY = "availability"  # the same for everything that is stored


# How values of a VR are matched, where no column of ours is behind them. Others cannot be.
KIND_OF_VR: dict[str, Kind] = {
    **dict.fromkeys(("AE", "AS", "AT", "LO", "LT", "SH", "ST", "UC", "UR", "UT"), Kind.TEXT),
    **dict.fromkeys(("IS", "SL", "SS", "SV", "UL", "US", "UV"), Kind.INTEGER),
    **dict.fromkeys(("DS", "FD", "FL"), Kind.NUMBER),
    "CS": Kind.CODE,
    "DA": Kind.DATE,
    "DT": Kind.DATETIME,
    "PN": Kind.NAME,
    "TM": Kind.TIME,
    "UI": Kind.UID,
}


@dataclass(frozen=True, slots=True)
class Attribute:
    """One matching key. `column` is SQL of ours: of the values, or of the JSON that holds them.

    `keyword` may be a path, `Sequence.Element`; where PS3.6 has no keyword it is the tag.
    """

    keyword: str
    level: Level
    kind: Kind
    column: LiteralString
    # Whether the values are in a sequence of the stored JSON.
    in_json: bool = False
    # The extended query tag whose rows hold the values (storage.schema.query_tags).
    tag_id: UUID | None = None

    @property
    def path(self) -> tuple[str, ...]:
        """Tags as DICOM JSON names them, outermost first."""
        return tuple(tag_of(keyword) for keyword in self.keyword.split("."))

    @property
    def tag(self) -> str:
        return self.path[0]

    @property
    def has_words(self) -> bool:
        """Whether the words of its names are indexed (storage/migrations/name_words.sql)."""
        return self.kind is Kind.NAME and self.tag_id is None and not self.in_json


def tag_of(keyword: str) -> str:
    """The eight hexadecimal digits of a keyword of PS3.6, or of a tag."""
    tag = tag_for_keyword(keyword)
    if tag is not None:
        return f"{tag:08X}"
    if _TAG.fullmatch(keyword):
        return keyword.upper()
    raise KeyError(keyword)


def _table(level: Level, *rows: tuple[str, Kind, LiteralString]) -> tuple[Attribute, ...]:
    return tuple(Attribute(keyword, level, kind, column) for keyword, kind, column in rows)


ATTRIBUTES = (
    *_table(
        Level.PATIENT,
        ("PatientName", Kind.NAME, "s.patient_name_key"),
        ("PatientID", Kind.TEXT, "s.dicom_patient_id"),
        ("IssuerOfPatientID", Kind.TEXT, "s.issuer_of_patient_id"),
        ("PatientBirthDate", Kind.DATE, "s.patient_birth_date"),
        ("PatientSex", Kind.CODE, "s.patient_sex"),
    ),
    *_table(
        Level.STUDY,
        ("StudyInstanceUID", Kind.UID, "s.study_uid"),
        ("StudyDate", Kind.DATE, "s.study_date"),
        ("StudyTime", Kind.TIME, "s.study_time"),
        ("AccessionNumber", Kind.TEXT, "s.accession_number"),
        ("ModalitiesInStudy", Kind.CODE_ARRAY, "s.modalities_in_study"),
        ("ReferringPhysicianName", Kind.NAME, "s.referring_physician_key"),
        ("StudyID", Kind.TEXT, "s.dicom_study_id"),
        ("StudyDescription", Kind.TEXT, "s.study_description"),
        ("SOPClassesInStudy", Kind.UID_ARRAY, "s.sop_classes_in_study"),
        ("NumberOfStudyRelatedSeries", Kind.INTEGER, "s.number_of_series"),
        ("NumberOfStudyRelatedInstances", Kind.INTEGER, "s.number_of_instances"),
        ("InstanceAvailability", Kind.AVAILABILITY, "'ONLINE'"),
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
        ("PerformedProcedureStepID", Kind.TEXT, "e.performed_procedure_step_id"),
        ("PerformedStationAETitle", Kind.TEXT, "e.performed_station_ae_title"),
        ("ProtocolName", Kind.TEXT, "e.protocol_name"),
        ("SeriesDate", Kind.DATE, "e.series_date"),
        ("SeriesTime", Kind.TIME, "e.series_time"),
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
# Keys of the sequence that series keep whole in their JSON (PS3.18 Table 10.6.1-5 requires two of
# them); any other element of its items can be named as well.
_REQUESTED = "RequestAttributesSequence"
SEQUENCES = tuple(
    Attribute(f"{_REQUESTED}.{keyword}", Level.SERIES, Kind.TEXT, "e.dicom_json", in_json=True)
    for keyword in ("ScheduledProcedureStepID", "RequestedProcedureID")
)
BY_PATH = {attribute.path: attribute for attribute in (*ATTRIBUTES, *SEQUENCES)}
# The dates and times that together are a moment (PS3.4 C.2.2.2.5.4), and where their zone is.
MOMENTS: tuple[tuple[str, str, LiteralString], ...] = (
    ("StudyDate", "StudyTime", "s.dicom_json"),
    ("SeriesDate", "SeriesTime", "e.dicom_json"),
    ("PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime", "e.dicom_json"),
    ("ContentDate", "ContentTime", "o.dicom_json"),
)


def attribute_of(path: tuple[str, ...]) -> Attribute | None:
    """The attribute that a path names, where no extended query tag is needed for it."""
    known = BY_PATH.get(path)
    if known is not None or len(path) == 1 or path[0] != tag_of(_REQUESTED):
        return known
    kind = KIND_OF_VR.get(vr_of(path[-1]))
    if kind in (None, Kind.NAME, Kind.NUMBER, Kind.DATETIME):
        # Their form in JSON is not that in which they are compared; a query tag has both.
        return None
    assert kind is not None
    return Attribute(name_of(path), Level.SERIES, kind, "e.dicom_json", in_json=True)


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
            "offset, fuzzymatching, emptyvaluematching, multiplevaluematching"
        )
    return f"{tag:08X}"


def name_of(path: tuple[str, ...]) -> str:
    """The keywords of a path, for messages; the tag where PS3.6 has none."""
    return ".".join(keyword_for_tag(int(tag, 16)) or tag for tag in path)


def vr_of(tag: str) -> str:
    """The VR that PS3.6 gives a tag, the first of several; "" for a tag that it does not have."""
    try:
        return dictionary_VR(int(tag, 16)).partition(" ")[0]
    except KeyError:
        return ""
