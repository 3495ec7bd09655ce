"""Results of a query: the stored JSON of a level, completed with what the database counts.

PS3.18 Tables 10.6.3-3 to 10.6.3-5 and PS3.4 C.6.1.1 say what a result must have. Everything that is
stored of a study or series is returned; of an instance only the required attributes and what the
query names, unless it asks for all. What a study or series does not keep itself is taken from its
first instance, where it is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from interop.dicom.query.attributes import Level, tag_of
from interop.dicom.query.matching import readable_json

Json = dict[str, Any]
Row = Sequence[Any]

_INSTANCE_AVAILABILITY = tag_of("InstanceAvailability")
_MODALITIES_IN_STUDY = tag_of("ModalitiesInStudy")
_SOP_CLASSES_IN_STUDY = tag_of("SOPClassesInStudy")
_STUDY_INSTANCE_UID = tag_of("StudyInstanceUID")
_SERIES_INSTANCE_UID = tag_of("SeriesInstanceUID")
_NUMBER_OF_PATIENT_RELATED_STUDIES = tag_of("NumberOfPatientRelatedStudies")
_NUMBER_OF_PATIENT_RELATED_SERIES = tag_of("NumberOfPatientRelatedSeries")
_NUMBER_OF_PATIENT_RELATED_INSTANCES = tag_of("NumberOfPatientRelatedInstances")
_NUMBER_OF_STUDY_RELATED_SERIES = tag_of("NumberOfStudyRelatedSeries")
_NUMBER_OF_STUDY_RELATED_INSTANCES = tag_of("NumberOfStudyRelatedInstances")
_NUMBER_OF_SERIES_RELATED_INSTANCES = tag_of("NumberOfSeriesRelatedInstances")
_AVAILABLE_TRANSFER_SYNTAX_UID = tag_of("AvailableTransferSyntaxUID")
_PIXEL_DATA = frozenset(tag_of(k) for k in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"))
# PS3.18 Table 10.6.3-5, what of it comes from the instance itself.
INSTANCE_TAGS = frozenset(
    tag_of(keyword)
    for keyword in (
        "SpecificCharacterSet",
        "SOPClassUID",
        "SOPInstanceUID",
        "TimezoneOffsetFromUTC",
        "InstanceNumber",
        "Rows",
        "Columns",
        "BitsAllocated",
        "NumberOfFrames",
    )
)
# Of the patient, of what is stored with a study.
PATIENT_TAGS = frozenset(
    tag_of(keyword)
    for keyword in (
        "SpecificCharacterSet",
        "PatientName",
        "PatientID",
        "IssuerOfPatientID",
        "PatientBirthDate",
        "PatientSex",
    )
)
# Every level of a result is online: nothing is moved to slower storage.
ONLINE = {"vr": "CS", "Value": ["ONLINE"]}

# Attributes of the patient, the study and the series that are not stored with their rows: those of
# PS3.3 C.7.1, C.7.2 (Patient, Patient Study, General Study) and C.7.3, C.7.5 (Series, Equipment).
MORE = {
    Level.STUDY: frozenset(
        tag_of(keyword)
        for keyword in (
            "AdditionalPatientHistory",
            "AdmittingDiagnosesDescription",
            "Allergies",
            "EthnicGroup",
            "MedicalAlerts",
            "NameOfPhysiciansReadingStudy",
            "Occupation",
            "OtherPatientIDs",
            "OtherPatientNames",
            "PatientAge",
            "PatientBirthTime",
            "PatientComments",
            "PatientIdentityRemoved",
            "PatientSize",
            "PatientWeight",
            "PhysiciansOfRecord",
            "PregnancyStatus",
            "ProcedureCodeSequence",
            "ReferencedStudySequence",
            "RequestedProcedureDescription",
            "RequestingService",
            "ResponsiblePerson",
            "SmokingStatus",
        )
    ),
    Level.SERIES: frozenset(
        tag_of(keyword)
        for keyword in (
            "AnatomicRegionSequence",
            "DeviceSerialNumber",
            "InstitutionAddress",
            "InstitutionName",
            "InstitutionalDepartmentName",
            "Manufacturer",
            "ManufacturerModelName",
            "OperatorsName",
            "PatientPosition",
            "PerformedProcedureStepDescription",
            "PerformedProcedureStepID",
            "PerformedProtocolCodeSequence",
            "PerformedStationName",
            "PerformingPhysicianName",
            "PositionReferenceIndicator",
            "ProtocolName",
            "SeriesDescriptionCodeSequence",
            "SoftwareVersions",
        )
    ),
}

# What each level's part is made of; UIDs of the levels above stand in front, so every row has them.
COLUMNS = {
    Level.PATIENT: (
        "s.dicom_json, count(*) OVER patient, sum(s.number_of_series) OVER patient,"
        " sum(s.number_of_instances) OVER patient"
    ),
    Level.STUDY: (
        "s.dicom_json, s.modalities_in_study, s.sop_classes_in_study, s.number_of_series,"
        " s.number_of_instances"
    ),
    Level.SERIES: "e.dicom_json, e.number_of_instances",
    Level.INSTANCE: "o.dicom_json, o.transfer_syntax_uid",
}
UIDS = {
    Level.PATIENT: "s.dicom_patient_id",
    Level.STUDY: "s.study_uid",
    Level.SERIES: "s.study_uid, e.series_uid",
    Level.INSTANCE: "s.study_uid, e.series_uid, o.sop_instance_uid",
}
# Of JSON that is read for a few attributes. The length of a stored text is known unread.
_LARGEST_HEADER = 1 << 20
_FIRST_INSTANCE = {
    Level.STUDY: (
        "imaging_series AS fe JOIN imaging_objects AS f ON f.tenant_id = %(tenant_id)s"
        " AND f.series_id = fe.id WHERE fe.tenant_id = %(tenant_id)s AND fe.study_id = s.id"
        f" AND octet_length(f.dicom_json) <= {_LARGEST_HEADER}"
        " ORDER BY fe.series_number, fe.series_uid, f.instance_number, f.sop_instance_uid LIMIT 1"
    ),
    Level.SERIES: (
        "imaging_objects AS f WHERE f.tenant_id = %(tenant_id)s AND f.series_id = e.id"
        f" AND octet_length(f.dicom_json) <= {_LARGEST_HEADER}"
        " ORDER BY f.instance_number, f.sop_instance_uid LIMIT 1"
    ),
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """The attributes that a query asks for, by tag, beside those that every result has."""

    tags: frozenset[str] = frozenset()
    all: bool = False

    def more(self, level: Level, indexed: frozenset[str] = frozenset()) -> frozenset[str]:
        """What is to be read of the first instance; `indexed` are tags of the tenant's own."""
        known = MORE[level] | indexed
        return known if self.all else known & self.tags


EVERYTHING = Wanted(all=True)


@dataclass(frozen=True, slots=True)
class Shape:
    """Which levels a result has: from `top`, the first that the query leaves open, to `level`.

    `more` are attributes of the study and of the series that their first instances have.
    """

    top: Level
    level: Level
    more_of_study: frozenset[str] = frozenset()
    more_of_series: frozenset[str] = frozenset()

    @property
    def columns(self) -> str:
        """The select list that `merged` reads back."""
        return ", ".join([self._stored, *self._more])

    @property
    def width(self) -> int:
        """How many columns that are."""
        return self._stored.count(",") + 1 + len(self._more)

    @property
    def instance_json(self) -> int:
        """Where the stored JSON of an instance is in a row of `columns`."""
        return self.width - len(self._more) - 2

    @property
    def _stored(self) -> str:
        levels = [level for level in Level if self.top <= level <= self.level]
        return ", ".join([UIDS[self.level], *(COLUMNS[level] for level in levels)])

    @property
    def _more(self) -> list[str]:
        return [
            _of_first_instance(level, tags)
            for level, tags in (
                (Level.STUDY, self.more_of_study),
                (Level.SERIES, self.more_of_series),
            )
            if tags and self.top <= level <= self.level
        ]


def _of_first_instance(level: Level, tags: frozenset[str]) -> str:
    """Some attributes of the first instance, cut out by the database: a header may be large."""
    # Eight hexadecimal digits each, by `path_of`.
    wanted = ",".join(sorted(tags))
    return (
        "(SELECT json_object_agg(m.key, m.value)::text FROM (SELECT f.dicom_json FROM"
        f" {_FIRST_INSTANCE[level]}) AS first, json_each({readable_json('first.dicom_json')}::json)"
        f" AS m WHERE m.key = ANY('{{{wanted}}}'))"
    )


def merged(shape: Shape, row: Row, wanted: Wanted) -> Json:
    """One result from a row of `shape.columns`. Bulk data keeps the URIs that it is stored with."""
    uids = row[: max(shape.level, 0) + 1]
    values = iter(row[len(uids) : shape.width])
    found: Json = {}
    if shape.top is Level.PATIENT:
        found.update(patient_part(next(values), *(next(values) for _ in range(3))))
    if shape.top <= Level.STUDY <= shape.level:
        found.update(study_part(next(values), *(next(values) for _ in range(4))))
    if shape.top <= Level.SERIES <= shape.level:
        found.update(series_part(next(values), next(values)))
    if shape.level is Level.INSTANCE:
        found.update(instance_part(next(values), next(values), wanted))
    for more in values:
        if more is not None:
            found = {**_small(orjson.loads(more)), **found}
    if shape.level >= Level.STUDY:
        found[_STUDY_INSTANCE_UID] = {"vr": "UI", "Value": [uids[0]]}
    if shape.level >= Level.SERIES:
        found[_SERIES_INSTANCE_UID] = {"vr": "UI", "Value": [uids[1]]}
    found[_INSTANCE_AVAILABILITY] = ONLINE
    return found


def _small(more: Json) -> Json:
    """Without what is so large that it is served by itself: it belongs to an instance."""
    return {tag: value for tag, value in more.items() if b"BulkDataURI" not in orjson.dumps(value)}


def patient_part(stored: str | None, studies: int, series: int, instances: int) -> Json:
    """The attributes of a patient, as the newest study has them."""
    whole: Json = orjson.loads(stored) if stored else {}
    part = {tag: value for tag, value in whole.items() if tag in PATIENT_TAGS}
    part[_NUMBER_OF_PATIENT_RELATED_STUDIES] = {"vr": "IS", "Value": [studies]}
    part[_NUMBER_OF_PATIENT_RELATED_SERIES] = {"vr": "IS", "Value": [series]}
    part[_NUMBER_OF_PATIENT_RELATED_INSTANCES] = {"vr": "IS", "Value": [instances]}
    return part


def study_part(
    stored: str | None, modalities: list[str], sop_classes: list[str], series: int, instances: int
) -> Json:
    """The attributes of a study."""
    part: Json = orjson.loads(stored) if stored else {}
    part[_MODALITIES_IN_STUDY] = _values("CS", modalities)
    part[_SOP_CLASSES_IN_STUDY] = _values("UI", sop_classes)
    part[_NUMBER_OF_STUDY_RELATED_SERIES] = {"vr": "IS", "Value": [series]}
    part[_NUMBER_OF_STUDY_RELATED_INSTANCES] = {"vr": "IS", "Value": [instances]}
    return part


def _values(vr: str, values: list[str]) -> Json:
    """Without a Value where there is none (PS3.18 F.2.5): a study may have no DICOM object yet."""
    return {"vr": vr, "Value": sorted(values)} if values else {"vr": vr}


def series_part(stored: str | None, instances: int) -> Json:
    """The attributes of a series."""
    part: Json = orjson.loads(stored) if stored else {}
    part[_NUMBER_OF_SERIES_RELATED_INSTANCES] = {"vr": "IS", "Value": [instances]}
    return part


def instance_part(stored: str, transfer_syntax_uid: str, wanted: Wanted) -> Json:
    """The attributes of an instance that the query wants."""
    whole: Json = orjson.loads(stored)
    if wanted.all:
        part = {tag: value for tag, value in whole.items() if tag not in _PIXEL_DATA}
    else:
        tags = INSTANCE_TAGS | wanted.tags
        part = {tag: value for tag, value in whole.items() if tag in tags}
    if wanted.all or _AVAILABLE_TRANSFER_SYNTAX_UID in wanted.tags:
        part[_AVAILABLE_TRANSFER_SYNTAX_UID] = {"vr": "UI", "Value": [transfer_syntax_uid]}
    return part
