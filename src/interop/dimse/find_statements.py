"""The pages of a C-FIND: which columns answer its keys, and the statement of each page.

Where columns hold everything that is asked for, nothing else is read; else the stored JSON of the
level is, merged as QIDO-RS merges it. A page goes on after the last row of the one before, in the
order of an index, so that no connection is held while a peer takes its time with what it got.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from operator import itemgetter
from typing import Any, Final

from interop.dicom.query.attributes import Level, tag_of
from interop.dicom.query.matching import Parameters, predicates, readable_json
from interop.dicom.query.results import COLUMNS, Shape, Wanted, merged
from interop.dicom.query.statements import (
    NEWEST_FIRST,
    Position,
    are_identifying,
    are_of_days,
    source,
)
from interop.dicom.received import SERIES_TAGS, STUDY_TAGS
from interop.dicom.walker import standard_vr
from interop.dimse.find_keys import (
    CHARACTER_SET,
    LEVEL_NAMES,
    QUERY_RETRIEVE_LEVEL,
    RETRIEVE_AE_TITLE,
    Find,
)
from interop.dimse.identifier_encoding import Element, IdentifierEncoder, Row

# The first responses come early; what follows takes fewer statements.
FIRST_PAGE: Final = 200
NEXT_PAGE: Final = 2_000
# Pages of rows with stored JSON, and what is read of that at most: a header may be large.
JSON_PAGE: Final = 100
INSTANCE_JSON_BYTES: Final = 64 << 10
STORED_JSON_BYTES: Final = 256 << 10
# What more keys than these need is made anew each time: a peer cannot fill the memory with forms.
_USUAL_KEYS: Final = 64

_PATIENT: Final = (
    ("PatientName", "s.patient_name"),
    ("PatientID", "s.dicom_patient_id"),
    ("IssuerOfPatientID", "s.issuer_of_patient_id"),
    ("PatientBirthDate", "s.patient_birth_date"),
    ("PatientSex", "s.patient_sex"),
)
_COLUMNS: Final[dict[Level, dict[str, str]]] = {
    level: {tag_of(keyword): column for keyword, column in columns}
    for level, columns in {
        Level.PATIENT: (
            *_PATIENT,
            ("NumberOfPatientRelatedStudies", "count(*) OVER patient"),
            ("NumberOfPatientRelatedSeries", "(sum(s.number_of_series) OVER patient)::int"),
            ("NumberOfPatientRelatedInstances", "(sum(s.number_of_instances) OVER patient)::int"),
        ),
        Level.STUDY: (
            *_PATIENT,
            ("StudyInstanceUID", "s.study_uid"),
            ("StudyDate", "s.study_date"),
            ("StudyTime", "s.study_time"),
            ("AccessionNumber", "s.accession_number"),
            ("StudyID", "s.dicom_study_id"),
            ("StudyDescription", "s.study_description"),
            ("ReferringPhysicianName", "s.referring_physician_name"),
            ("ModalitiesInStudy", "s.modalities_in_study"),
            ("SOPClassesInStudy", "s.sop_classes_in_study"),
            ("NumberOfStudyRelatedSeries", "s.number_of_series"),
            ("NumberOfStudyRelatedInstances", "s.number_of_instances"),
        ),
        Level.SERIES: (
            ("SeriesInstanceUID", "e.series_uid"),
            ("Modality", "e.modality"),
            ("SeriesNumber", "e.series_number"),
            ("SeriesDescription", "e.series_description"),
            ("SeriesDate", "e.series_date"),
            ("SeriesTime", "e.series_time"),
            ("BodyPartExamined", "e.body_part_examined"),
            ("Laterality", "e.laterality"),
            ("StationName", "e.station_name"),
            ("Manufacturer", "e.manufacturer"),
            ("ProtocolName", "e.protocol_name"),
            ("FrameOfReferenceUID", "e.frame_of_reference_uid"),
            ("PerformedStationAETitle", "e.performed_station_ae_title"),
            ("PerformedProcedureStepStartDate", "e.performed_procedure_step_start_date"),
            ("PerformedProcedureStepStartTime", "e.performed_procedure_step_start_time"),
            ("PerformedProcedureStepID", "e.performed_procedure_step_id"),
            ("NumberOfSeriesRelatedInstances", "e.number_of_instances"),
        ),
        Level.INSTANCE: (
            ("SOPInstanceUID", "o.sop_instance_uid"),
            ("SOPClassUID", "o.sop_class_uid"),
            ("InstanceNumber", "o.instance_number"),
            ("NumberOfFrames", "o.number_of_frames"),
            ("Rows", "o.height"),
            ("Columns", "o.width"),
            ("ContentDate", "o.content_date"),
            ("ContentTime", "o.content_time"),
            ("AvailableTransferSyntaxUID", "o.transfer_syntax_uid"),
        ),
    }.items()
}
_ARRAYS: Final = ("s.modalities_in_study", "s.sop_classes_in_study")
_AVAILABILITY: Final = tag_of("InstanceAvailability")

# Where a row is in the order of all: what `_position` reads back.
_PLACE: Final = {
    Level.STUDY: ("s.study_date", "s.study_time", "s.study_uid"),
    Level.SERIES: ("e.series_number", "e.series_uid"),
    Level.INSTANCE: ("o.instance_number", "o.sop_instance_uid"),
}
_NOBODY: Final = "'00000000-0000-0000-0000-000000000000'::uuid"
# One patient: the same identifier of the same issuer; who has none is only the own patient's row.
_PATIENT_PLACE: Final = (
    "s.dicom_patient_id",
    "coalesce(s.issuer_of_patient_id, '')",
    f"CASE WHEN s.dicom_patient_id = '' THEN s.patient_id ELSE {_NOBODY} END",
)


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """How the rows that answer some keys at a level are selected, and how responses are made.

    A row is its place in the order, what `columns` name, and the patient whose data it is; `width`
    is what there is before that. `prepared` makes of it what the encoder reads. `unreturned` are
    keys that are not kept.
    """

    columns: tuple[str, ...]
    width: int
    prepared: Callable[[Row], Row]
    encoder: IdentifierEncoder
    is_from_json: bool
    unreturned: frozenset[str]

    def identifier(self, row: Row) -> bytes:
        """The identifier of the response for a row."""
        return self.encoder.identifier(self.prepared(row))


@dataclass(frozen=True, slots=True)
class Plan:
    """How one C-FIND is answered."""

    find: Find
    form: Form

    @property
    def is_complete(self) -> bool:
        """Whether every key of the request is matched and returned (status FF00)."""
        return not self.form.unreturned and not self.find.unmatched

    @property
    def keeps_statement(self) -> bool:
        """Whether the best way to find the rows is the same for all values."""
        tests = self.find.tests
        return bool(tests) and (
            are_identifying(tests) or (self.find.level is Level.STUDY and are_of_days(tests))
        )

    @property
    def largest_page(self) -> int:
        return JSON_PAGE if self.form.is_from_json else NEXT_PAGE

    def statement(
        self, parameters: Parameters, visible: str | None, limit: int, after: Row | None
    ) -> str:
        """The SELECT of a page of `limit` rows after the row `after`."""
        columns = ", ".join([*place_of(self.find.level), *self.form.columns])
        if self.find.level is Level.PATIENT:
            return _patients(columns, self.find, parameters, visible, limit, after)
        rows = source(
            Shape(Level.STUDY, self.find.level),
            self.find.tests,
            parameters,
            visible=visible,
            limit=limit,
            after=_position(self.find.level, after) if after is not None else None,
        )
        return f"SELECT {columns}, s.patient_id {rows}"


def plan(find: Find, called_ae_title: str, transfer_syntax_uid: str) -> Plan:
    """Choose how to answer a request."""
    form_of = _form if len(find.keys) <= _USUAL_KEYS else _form.__wrapped__
    keys = tuple(find.keys.items())
    return Plan(
        find, form_of(find.level, keys, called_ae_title, transfer_syntax_uid, find.character_set)
    )


# A peer asks for the same keys over and over, with other values.
@lru_cache(maxsize=128)
def _form(
    level: Level,
    asked: tuple[tuple[str, str], ...],
    called_ae_title: str,
    transfer_syntax_uid: str,
    character_set: str | None,
) -> Form:
    """Choose the columns for keys, given with their VRs."""
    constants = {
        QUERY_RETRIEVE_LEVEL: LEVEL_NAMES[level],
        RETRIEVE_AE_TITLE: called_ae_title,
        _AVAILABILITY: "ONLINE",
    }
    # What every response says of where it comes from (PS3.4 C.4.1.1.3.2).
    always = {QUERY_RETRIEVE_LEVEL: "CS", RETRIEVE_AE_TITLE: "AE"}
    keys = {tag: vr for tag, vr in {**always, **dict(asked)}.items() if tag != CHARACTER_SET}
    unreturned = frozenset(tag for tag in keys if tag not in constants and not _is_kept(level, tag))
    wanted = [tag for tag in keys if tag not in unreturned]
    fixed = [
        Element(int(tag, 16), standard_vr(int(tag, 16)), constant=constants[tag])
        for tag in wanted
        if tag in constants
    ]
    stored = {tag: keys[tag] for tag in wanted if tag not in constants}
    is_from_json = not _columns_of(level).keys() >= stored.keys()
    selected = _from_json(level, stored) if is_from_json else _from_columns(level, stored)
    encoder = IdentifierEncoder([*fixed, *selected.elements], transfer_syntax_uid, character_set)
    return Form(
        selected.columns, selected.width, selected.prepared, encoder, is_from_json, unreturned
    )


@dataclass(frozen=True, slots=True)
class _Selected:
    """Columns, and where the elements of a response are in a row of them."""

    columns: tuple[str, ...]
    width: int
    elements: tuple[Element, ...]
    prepared: Callable[[Row], Row]


@lru_cache
def place_of(level: Level) -> tuple[str, ...]:
    """The columns in front of every row: its place in the order of all."""
    if level is Level.PATIENT:
        return _PATIENT_PLACE
    return tuple(c for one, columns in _PLACE.items() if one <= level for c in columns)


@lru_cache
def _columns_of(level: Level) -> dict[str, str]:
    if level is Level.PATIENT:
        return _COLUMNS[level]
    return {
        tag: column
        for one, columns in _COLUMNS.items()
        if Level.STUDY <= one <= level
        for tag, column in columns.items()
    }


_KEPT_OF_STUDY: Final = frozenset(f"{tag:08X}" for tag in STUDY_TAGS)
_KEPT_OF_SERIES: Final = frozenset(f"{tag:08X}" for tag in SERIES_TAGS)


def _is_kept(level: Level, tag: str) -> bool:
    """Whether this level has the attribute, in a column or in its stored JSON."""
    if tag in _columns_of(level) or level is Level.INSTANCE:
        return True
    if level is Level.PATIENT:
        return False
    asked = Wanted(frozenset((tag,)))
    if tag in _KEPT_OF_STUDY or asked.more(Level.STUDY):
        return True
    return level is Level.SERIES and (tag in _KEPT_OF_SERIES or bool(asked.more(Level.SERIES)))


def _from_columns(level: Level, tags: Collection[str]) -> _Selected:
    known, place = _columns_of(level), place_of(level)
    columns = tuple(dict.fromkeys(c for c in (known[tag] for tag in tags) if c not in place))
    where = {column: at for at, column in enumerate((*place, *columns))}
    elements = tuple(
        Element(int(tag, 16), standard_vr(int(tag, 16)), _reader(known[tag], where[known[tag]]))
        for tag in tags
    )
    return _Selected(columns, len(where), elements, _as_it_is)


def _from_json(level: Level, keys: Mapping[str, str]) -> _Selected:
    wanted = Wanted(frozenset(keys))
    shape = Shape(
        Level.STUDY,
        level,
        wanted.more(Level.STUDY),
        wanted.more(Level.SERIES) if level >= Level.SERIES else frozenset(),
    )
    columns = shape.columns
    for stored in ("s.dicom_json", "e.dicom_json"):
        columns = columns.replace(
            stored, f"CASE WHEN octet_length({stored}) <= {STORED_JSON_BYTES} THEN {stored} END"
        )
    if level is Level.INSTANCE:
        columns = columns.replace(COLUMNS[Level.INSTANCE], _cut_out(keys))
    elements = tuple(Element(int(tag, 16), _vr(tag, vr), _member(tag)) for tag, vr in keys.items())
    first = len(place_of(level))
    prepared = partial(_merged, shape, wanted, first)
    return _Selected((columns,), first + shape.width, elements, prepared)


def _cut_out(tags: Iterable[str]) -> str:
    """The columns of an instance, of its JSON only these attributes."""
    # Eight hexadecimal digits each, by the walker.
    wanted = ",".join(sorted(tags))
    return (
        f"(SELECT CASE WHEN octet_length(cut.text) <= {INSTANCE_JSON_BYTES} THEN cut.text"
        " ELSE '{}' END FROM (SELECT coalesce(json_object_agg(m.key, m.value)::text, '{}') AS text"
        f" FROM json_each({readable_json('o.dicom_json')}::json) AS m"
        f" WHERE m.key = ANY('{{{wanted}}}')) AS cut), o.transfer_syntax_uid"
    )


def _vr(tag: str, asked: str) -> str:
    """The VR of a key without a value: PS3.6's, or that of the request where it has none."""
    known = standard_vr(int(tag, 16))
    return asked if known == "UN" else known


def _reader(column: str, at: int) -> Callable[[Row], Any]:
    if column in _ARRAYS:
        return lambda row: sorted(row[at])
    return itemgetter(at)


def _member(tag: str) -> Callable[[Any], Any]:
    return lambda result: result.get(tag)


def _as_it_is(row: Row) -> Row:
    return row


def _merged(shape: Shape, wanted: Wanted, first: int, row: Row) -> Any:
    return merged(shape, row[first:], wanted)


def _position(level: Level, row: Row) -> Position:
    below = [(row[3 + 2 * n], row[4 + 2 * n]) for n in range(level)]
    return Position((row[0], row[1], row[2]), *below)


def _patients(
    columns: str,
    find: Find,
    parameters: Parameters,
    visible: str | None,
    limit: int,
    after: Row | None,
) -> str:
    """One row of each patient, that of the newest study, in the order of the index."""
    wheres = ["s.tenant_id = %(tenant_id)s", "s.dicom_patient_id IS NOT NULL"]
    wheres += predicates(find.tests, parameters)
    if visible is not None:
        wheres.append(visible)
    place = ", ".join(_PATIENT_PLACE)
    if after is not None:
        patient_id, issuer, nobody = after[:3]
        last = parameters.bind(patient_id)
        wheres.append(f"s.dicom_patient_id >= {last}")
        wheres.append(
            f"({place}) > ({last}, {parameters.bind(issuer)}, {parameters.bind(str(nobody))}::uuid)"
        )
    return (
        f"SELECT DISTINCT ON ({place}) {columns}, s.patient_id FROM imaging_studies s"
        f" WHERE {' AND '.join(wheres)} WINDOW patient AS (PARTITION BY {place})"
        f" ORDER BY {place}, {NEWEST_FIRST} LIMIT {limit}"
    )
