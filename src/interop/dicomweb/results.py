"""QIDO-RS results: the stored JSON of a level, completed with what only the server knows.

PS3.18 Tables 10.6.3-3 to 10.6.3-5 say what a result must have; attributes are in tag order, as
PS3.18 F.2.2 wants. Everything that is stored of a study or series is returned; of an instance only
the required attributes and what the query names, unless it asks for all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson

from interop.dicomweb.attributes import Level, tag_of
from interop.dicomweb.query import Query

Json = dict[str, Any]

# Stands in the stored JSON for the URL under which an instance's bulk data is served.
BULK_DATA_BASE = "@@BULK@@"

_INSTANCE_AVAILABILITY = tag_of("InstanceAvailability")
_MODALITIES_IN_STUDY = tag_of("ModalitiesInStudy")
_SOP_CLASSES_IN_STUDY = tag_of("SOPClassesInStudy")
_RETRIEVE_URL = tag_of("RetrieveURL")
_STUDY_INSTANCE_UID = tag_of("StudyInstanceUID")
_SERIES_INSTANCE_UID = tag_of("SeriesInstanceUID")
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
# Every level of a result is online: nothing is moved to slower storage.
_ONLINE = {"vr": "CS", "Value": ["ONLINE"]}

# What each level's part is made of; UIDs of the levels above stand in front, so every row has them.
COLUMNS = {
    Level.STUDY: (
        "s.dicom_json, s.modalities_in_study, s.sop_classes_in_study, s.number_of_series,"
        " s.number_of_instances"
    ),
    Level.SERIES: "e.dicom_json, e.number_of_instances",
    Level.INSTANCE: "o.dicom_json, o.transfer_syntax_uid",
}
# Where the stored JSON of an instance is in a row of its columns.
INSTANCE_JSON = -2
UIDS = {
    Level.STUDY: "s.study_uid",
    Level.SERIES: "s.study_uid, e.series_uid",
    Level.INSTANCE: "s.study_uid, e.series_uid, o.sop_instance_uid",
}


@dataclass(frozen=True, slots=True)
class Shape:
    """Which levels a result has: from `top`, the first that the URL leaves open, to `level`."""

    top: Level
    level: Level

    @property
    def columns(self) -> str:
        """The select list that `Shape.part` reads back."""
        levels = [level for level in Level if self.top <= level <= self.level]
        return ", ".join([UIDS[self.level], *(COLUMNS[level] for level in levels)])


def result(base: str, shape: Shape, row: tuple[Any, ...], query: Query) -> bytes:
    """One result from a row of `shape.columns`, in tag order."""
    uids, values = row[: shape.level + 1], iter(row[shape.level + 1 :])
    merged: Json = {}
    if shape.top is Level.STUDY:
        merged.update(study_part(next(values), *(next(values) for _ in range(4))))
    if shape.top <= Level.SERIES <= shape.level:
        merged.update(series_part(next(values), next(values)))
    url = f"{base}/studies/{uids[0]}"
    merged[_STUDY_INSTANCE_UID] = {"vr": "UI", "Value": [uids[0]]}
    if shape.level >= Level.SERIES:
        url = f"{url}/series/{uids[1]}"
        merged[_SERIES_INSTANCE_UID] = {"vr": "UI", "Value": [uids[1]]}
    if shape.level is Level.INSTANCE:
        url = f"{url}/instances/{uids[2]}"
        merged.update(instance_part(next(values), next(values), query, url))
    merged[_INSTANCE_AVAILABILITY] = _ONLINE
    merged[_RETRIEVE_URL] = {"vr": "UR", "Value": [url]}
    return orjson.dumps(merged, option=orjson.OPT_SORT_KEYS)


def results(items: Iterable[bytes]) -> bytes:
    """The JSON array of results."""
    return b"[" + b",".join(items) + b"]"


def study_part(
    stored: str | None, modalities: list[str], sop_classes: list[str], series: int, instances: int
) -> Json:
    """The attributes of a study."""
    part: Json = orjson.loads(stored) if stored else {}
    part[_MODALITIES_IN_STUDY] = {"vr": "CS", "Value": sorted(modalities)}
    part[_SOP_CLASSES_IN_STUDY] = {"vr": "UI", "Value": sorted(sop_classes)}
    part[_NUMBER_OF_STUDY_RELATED_SERIES] = {"vr": "IS", "Value": [series]}
    part[_NUMBER_OF_STUDY_RELATED_INSTANCES] = {"vr": "IS", "Value": [instances]}
    return part


def series_part(stored: str | None, instances: int) -> Json:
    """The attributes of a series."""
    part: Json = orjson.loads(stored) if stored else {}
    part[_NUMBER_OF_SERIES_RELATED_INSTANCES] = {"vr": "IS", "Value": [instances]}
    return part


def instance_part(stored: str, transfer_syntax_uid: str, query: Query, url: str) -> Json:
    """The attributes of an instance that the query wants."""
    whole: Json = orjson.loads(stored)
    if query.include_all:
        part = {tag: value for tag, value in whole.items() if tag not in _PIXEL_DATA}
    else:
        wanted = INSTANCE_TAGS | query.include
        part = {tag: value for tag, value in whole.items() if tag in wanted}
    _resolve_bulk_data(part, f"{url}/bulkdata")
    if query.include_all or _AVAILABLE_TRANSFER_SYNTAX_UID in query.include:
        part[_AVAILABLE_TRANSFER_SYNTAX_UID] = {"vr": "UI", "Value": [transfer_syntax_uid]}
    return part


def _resolve_bulk_data(part: Json, base: str) -> None:
    """Give every BulkDataURI its base, in sequences too."""
    for attribute in part.values():
        uri = attribute.get("BulkDataURI")
        if uri is not None:
            attribute["BulkDataURI"] = uri.replace(BULK_DATA_BASE, base)
        if attribute.get("vr") == "SQ":
            for item in attribute.get("Value", ()):
                if item:
                    _resolve_bulk_data(item, base)
