"""A query as one SELECT: newest study first, in the order of an index.

So a page needs no sort, nothing is counted, and a page can go on after the last row of another
(`Position`), where neither what arrives nor how deep it lies makes a difference. The rows that an
offset skips are read from the index alone.
"""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from interop.dicom.query.attributes import Level
from interop.dicom.query.conditions import AnyOf, Between, Condition, Test
from interop.dicom.query.matching import Parameters, predicates
from interop.dicom.query.results import Shape
from interop.errors import BadRequest

TABLES = {
    Level.PATIENT: "imaging_studies s",
    Level.STUDY: "imaging_studies s",
    Level.SERIES: (
        "imaging_studies s JOIN imaging_series e ON e.tenant_id = %(tenant_id)s"
        " AND e.study_id = s.id"
    ),
    Level.INSTANCE: (
        "imaging_studies s JOIN imaging_series e ON e.tenant_id = %(tenant_id)s"
        " AND e.study_id = s.id JOIN imaging_objects o ON o.tenant_id = %(tenant_id)s"
        " AND o.series_id = e.id AND o.sop_instance_uid IS NOT NULL"
    ),
}
# The order of the index (tenant_id, study_date, study_time, study_uid), read backwards.
NEWEST_FIRST = "s.study_date DESC, s.study_time DESC, s.study_uid DESC"
ORDER = {
    Level.PATIENT: NEWEST_FIRST,
    Level.STUDY: NEWEST_FIRST,
    Level.SERIES: f"{NEWEST_FIRST}, e.series_number, e.series_uid",
    Level.INSTANCE: (
        f"{NEWEST_FIRST}, e.series_number, e.series_uid, o.instance_number, o.sop_instance_uid"
    ),
}
# Keys that few rows share, each with an index or below one that has.
_IDENTIFYING = frozenset(
    ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "PatientID", "AccessionNumber")
)
# What of the order the UIDs in front of a row do not say.
_KEYS = {
    Level.STUDY: "s.study_date, s.study_time",
    Level.SERIES: "s.study_date, s.study_time, e.series_number",
    Level.INSTANCE: "s.study_date, s.study_time, e.series_number, o.instance_number",
}
# One row of each patient: that of the newest study. A study without PatientID is nobody's but its
# own patient's.
_SAME_PATIENT = (
    "s.dicom_patient_id, s.issuer_of_patient_id,"
    " CASE WHEN coalesce(s.dicom_patient_id, '') = '' THEN s.patient_id END"
)


@dataclass(frozen=True, slots=True)
class Position:
    """The place of a row in the order of all: dates and times, UIDs, numbers down to its level."""

    study: tuple[str | None, str | None, str]
    series: tuple[int | None, str] | None = None
    instance: tuple[int | None, str] | None = None

    def token(self) -> str:
        """The position as text for a URL."""
        parts = [part for part in (self.study, self.series, self.instance) if part is not None]
        return urlsafe_b64encode(orjson.dumps(parts)).decode().rstrip("=")


def read_position(level: Level, token: str) -> Position:
    """Read what `Position.token` wrote for a search at `level`. Raises BadRequest."""
    try:
        parts = orjson.loads(urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        date, time, uid = parts[0]
        study = (_text_or_none(date), _text_or_none(time), _text(uid))
        below = [(_number_or_none(number), _text(uid)) for number, uid in parts[1:]]
    except (binascii.Error, ValueError, TypeError, KeyError, IndexError):
        raise _not_ours() from None
    if len(below) != level:
        raise _not_ours()
    return Position(study, *below)


def _not_ours() -> BadRequest:
    return BadRequest(
        'continuation is not one of this search; take it from the Link header with rel="next"'
    )


def _text(value: object) -> str:
    if not isinstance(value, str) or "\0" in value or len(value) > 512:
        raise ValueError
    return value


def _text_or_none(value: object) -> str | None:
    return None if value is None else _text(value)


def _number_or_none(value: object) -> int | None:
    if value is None:
        return None
    if type(value) is not int or not -(2**31) <= value < 2**31:
        raise ValueError
    return value


def columns_of(shape: Shape) -> str:
    """The select list of a page: what `merged` reads, and what `position_of` reads after it."""
    return f"{shape.columns}, {_KEYS[shape.level]}"


def position_of(shape: Shape, row: Sequence[Any]) -> Position:
    """The position of a row of `columns_of(shape)`."""
    uids, keys = row[: shape.level + 1], row[shape.width :]
    below = [(keys[2 + n], uids[1 + n]) for n in range(shape.level)]
    return Position((keys[0], keys[1], uids[0]), *below)


def source(
    shape: Shape,
    tests: Iterable[Test],
    parameters: Parameters,
    *,
    visible: str | None = None,
    limit: int | None = None,
    offset: int = 0,
    after: Position | None = None,
) -> str:
    """FROM to LIMIT: rows that meet all tests, in the order of `ORDER`, from `after` on.

    Only studies that meet the condition `visible` are looked at. Of the columns of a level
    `columns_of` may be selected.
    """
    wheres = ["s.tenant_id = %(tenant_id)s", *predicates(tests, parameters)]
    if visible is not None:
        wheres.append(visible)
    if after is not None:
        wheres += _after(after, parameters)
    tables, order = TABLES[shape.level], ORDER[shape.level]
    # A number of ours in the text: the plan depends on it.
    paging = "" if limit is None else f" LIMIT {limit}"
    if offset:
        paging += f" OFFSET {parameters.bind(offset)}"
    where = " AND ".join(wheres)
    if not offset or shape.level is not Level.STUDY:
        return f"FROM {tables} WHERE {where} ORDER BY {order}{paging}"
    # The rows of the page are looked up after the skipping, for which the index has enough.
    return (
        f"FROM (SELECT s.study_uid FROM {tables} WHERE {where} ORDER BY {order}{paging}) AS picked"
        f" JOIN {tables} ON s.tenant_id = %(tenant_id)s AND s.study_uid = picked.study_uid"
        f" ORDER BY {order}"
    )


def select(
    shape: Shape,
    tests: Iterable[Test],
    parameters: Parameters,
    *,
    visible: str | None = None,
    limit: int | None = None,
    after: Position | None = None,
) -> str:
    """The rows of `columns_of(shape)`, and as their last column whose data they are (patient_id).

    At the level of patients: the rows of `shape.columns` and that one.
    """
    if shape.level is Level.PATIENT:
        return _patients(shape, tests, parameters, visible, limit)
    rows = source(shape, tests, parameters, visible=visible, limit=limit, after=after)
    return f"SELECT {columns_of(shape)}, s.patient_id {rows}"


def _patients(
    shape: Shape,
    tests: Iterable[Test],
    parameters: Parameters,
    visible: str | None,
    limit: int | None,
) -> str:
    wheres = ["s.tenant_id = %(tenant_id)s", *predicates(tests, parameters)]
    if visible is not None:
        wheres.append(visible)
    paging = "" if limit is None else f" LIMIT {limit}"
    return (
        f"SELECT DISTINCT ON ({_SAME_PATIENT}) {shape.columns}, s.patient_id"
        f" FROM {TABLES[Level.PATIENT]} WHERE {' AND '.join(wheres)}"
        f" WINDOW patient AS (PARTITION BY {_SAME_PATIENT})"
        f" ORDER BY {_SAME_PATIENT}, {NEWEST_FIRST}{paging}"
    )


# -- going on after a row -------------------------------------------------------------------


def _after(position: Position, parameters: Parameters) -> list[str]:
    """Conditions that only rows behind the position meet. No value sorts first, or last below."""
    if position.series is None:
        return _after_study(position.study, parameters)
    series = _after_numbered("e.series_number", "e.series_uid", position.series, parameters)
    if position.instance is not None:
        instance = _after_numbered(
            "o.instance_number", "o.sop_instance_uid", position.instance, parameters
        )
        same = f"e.series_uid = {parameters.bind(position.series[1])}"
        series = f"({series} OR ({same} AND {instance}))"
    other = f"s.study_uid <> {parameters.bind(position.study[2])}"
    return [*_after_study(position.study, parameters, or_in_it=True), f"({other} OR {series})"]


def _after_study(
    study: tuple[str | None, str | None, str], parameters: Parameters, *, or_in_it: bool = False
) -> list[str]:
    date, time, uid = study
    operator = "<=" if or_in_it else "<"
    last = f"s.study_uid {operator} {parameters.bind(uid)}"
    if date is not None and time is not None:
        bound = f"{parameters.bind(date)}, {parameters.bind(time)}, {parameters.bind(uid)}"
        # A comparison of rows, which an index over all three serves.
        return [f"(s.study_date, s.study_time, s.study_uid) {operator} ({bound})"]
    same_date, later_date = _ordered("s.study_date", date, parameters)
    same_time, later_time = _ordered("s.study_time", time, parameters)
    return [f"({later_date} OR ({same_date} AND ({later_time} OR ({same_time} AND {last}))))"]


def _ordered(column: str, value: str | None, parameters: Parameters) -> tuple[str, str]:
    """Equal to the value, and behind it, where NULL is first of all and the greatest next."""
    if value is None:
        return f"{column} IS NULL", f"{column} IS NOT NULL"
    bound = parameters.bind(value)
    return f"{column} = {bound}", f"{column} < {bound}"


def _after_numbered(
    number: str, uid: str, last: tuple[int | None, str], parameters: Parameters
) -> str:
    """Behind (number, UID), where the least number is first and NULL last of all."""
    value, bound = last[0], parameters.bind(last[1])
    if value is None:
        return f"({number} IS NULL AND {uid} > {bound})"
    least = parameters.bind(value)
    return f"({number} > {least} OR {number} IS NULL OR ({number} = {least} AND {uid} > {bound}))"


def are_identifying(tests: Iterable[Test]) -> bool:
    """Whether each asks one value of a key that few rows share: then one plan suits all values."""
    return all(
        isinstance(test, Condition)
        and test.attribute.keyword in _IDENTIFYING
        and isinstance(test.matcher, AnyOf)
        and len(test.matcher.values) == 1
        for test in tests
    )


def are_of_days(tests: Iterable[Test]) -> bool:
    """Whether each is a range of the study date: then the index of the order has the rows in their
    order, and studies are best found in it whatever the days.
    """
    return all(
        isinstance(test, Condition)
        and test.attribute.keyword == "StudyDate"
        and isinstance(test.matcher, Between)
        for test in tests
    )
