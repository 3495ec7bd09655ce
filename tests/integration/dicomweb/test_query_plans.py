"""Searches keep their indexes under row-level security: what PostgreSQL plans, asked by EXPLAIN."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from interop.dicom.query.attributes import Level
from interop.dicom.query.conditions import NO_TAGS, AnyOf, Condition
from interop.dicom.query.matching import Parameters
from interop.dicom.query.statements import Position
from interop.dicomweb import qido
from interop.dicomweb.query import read_parameters, understood
from storage.database import Database
from storage.tenancy import Tenant

STUDIES = 20_000
FILL = """
INSERT INTO patients (tenant_id, last_name) VALUES (%(tenant)s, 'X');
WITH made AS (
    INSERT INTO imaging_studies (tenant_id, patient_id, study_uid, study_date, study_time,
        accession_number, patient_name, patient_name_key, dicom_patient_id, dicom_json)
    SELECT %(tenant)s, (SELECT id FROM patients WHERE tenant_id = %(tenant)s LIMIT 1), '1.9.' || n,
        to_char(date '2010-01-01' + n %% 5000, 'YYYYMMDD'), '101500', 'ACC' || n,
        'NAME' || n || '^ANNA', 'NAME' || n || '^ANNA', 'P' || n, repeat('x', 600)
    FROM generate_series(1, %(studies)s) AS n RETURNING id, study_uid),
of_study AS (
    INSERT INTO imaging_series (tenant_id, study_id, series_uid, modality)
    SELECT %(tenant)s, id, study_uid || '.1', 'IO' FROM made RETURNING id, study_id, series_uid)
INSERT INTO imaging_objects (tenant_id, study_id, series_id, sop_instance_uid, sop_class_uid,
    storage_uri, hash, byte_size)
SELECT %(tenant)s, study_id, id, series_uid || '.1', '1.2.840', series_uid, repeat('0', 64), 1
FROM of_study
"""
Plan = dict[str, Any]
Explain = Callable[..., list[Plan]]


@pytest.fixture(scope="module")
def filled(database: Database, tenant: Tenant) -> Database:
    with database.connection(tenant.id) as connection:
        connection.execute("SELECT set_config('app.lens', 'on', true)")
        values = {"tenant": tenant.id, "studies": STUDIES}
        for statement in FILL.split(";"):
            connection.execute(statement.encode(), values)
    with database.connection(tenant.id) as connection:
        tables = ("studies", "series", "objects", "name_words")
        connection.execute("SELECT 1")
    owner = Database(database.owner_url)  # type: ignore[attr-defined]
    try:
        with owner.connection_apart(None) as connection:
            connection.commit()
            connection.autocommit = True
            for table in tables:
                connection.execute(f"VACUUM (ANALYZE) imaging_{table}".encode())
    finally:
        owner.close()
    return database


def nodes(plan: Plan) -> Iterator[Plan]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


@pytest.fixture
def explain(filled: Database, tenant: Tenant) -> Explain:
    """The nodes of the plan of a search, which is run as the application's role."""

    def ask(
        level: Level = Level.STUDY,
        below: tuple[Condition, ...] = (),
        after: Position | None = None,
        **asked: str,
    ) -> list[Plan]:
        query = understood(read_parameters(level, asked.items()))
        if after is not None:
            query = understood(
                read_parameters(level, [*asked.items(), ("continuation", after.token())])
            )
        parameters = Parameters(tenant_id=tenant.id)
        shape = qido.shape_of(Level(len(below)), query, NO_TAGS)
        page = qido.statement(shape, query, below, parameters)
        with filled.connection(tenant.id) as connection:
            connection.execute("SET LOCAL jit = off")
            row = connection.execute(
                f"EXPLAIN (ANALYZE, FORMAT JSON, TIMING OFF) {page.rows}".encode(),
                parameters.values,
            ).fetchone()
        assert row is not None
        plan = row[0] if isinstance(row[0], list) else json.loads(row[0])
        return list(nodes(plan[0]["Plan"]))

    return ask


def read(plan: list[Plan], table: str) -> float:
    """How many rows of a table were looked at."""
    found: float = sum(
        (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
        for node in plan
        if node.get("Relation Name") == table
    )
    return found


@pytest.mark.parametrize(
    ("asked", "most"),
    [
        ({"StudyInstanceUID": "1.9.77"}, 1),
        ({"StudyInstanceUID": "1.9.77,1.9.78,1.9.79"}, 3),
        ({"PatientID": "P77"}, 1),
        ({"AccessionNumber": "ACC77"}, 1),
        ({"PatientID": "P777*"}, 11),
        ({"PatientName": "name1999*"}, 11),
        ({"PatientName": "name1999?^*"}, 11),
        ({"StudyDate": "20120305"}, 8),
        ({"StudyDate": "20120301-20120331", "limit": "25"}, 26),
        ({"StudyDate": "20120301-20120331", "StudyTime": "0900-1000", "limit": "25"}, 30),
        ({"StudyDate": "20120305", "TimezoneOffsetFromUTC": "+0100"}, 16),
        ({"limit": "25"}, 26),
        ({"PatientName": "name777", "fuzzymatching": "true"}, 40),
    ],
    ids=str,
)
def test_a_search_looks_at_what_it_finds_and_little_else(
    explain: Explain, asked: dict[str, str], most: int
) -> None:
    plan = explain(**asked)

    assert not any(node["Node Type"] == "Seq Scan" for node in plan)
    assert 1 <= read(plan, "imaging_studies") <= most
    assert read(plan, "imaging_name_words") <= most


def test_the_rows_of_an_offset_are_skipped_in_the_index(explain: Explain) -> None:
    plan = explain(limit="25", offset=str(STUDIES * 9 // 10))

    (skipped,) = [node for node in plan if node["Node Type"] == "Index Only Scan"]
    assert skipped["Actual Rows"] == STUDIES * 9 // 10 + 26
    whole = [node for node in plan if node["Node Type"] == "Index Scan"]
    assert read(whole, "imaging_studies") == 26


@pytest.mark.parametrize("level", list(Level)[1:])
def test_a_page_after_another_begins_where_that_one_ended(explain: Explain, level: Level) -> None:
    below = [(None, "1.9.2000.1"), (None, "1.9.2000.1.1")][: level.value]
    date = "20150623"  # the 2,000th day
    plan = explain(level, after=Position((date, "101500", "1.9.2000"), *below), limit="25")

    assert not any(node["Node Type"] == "Seq Scan" for node in plan)
    assert read(plan, "imaging_studies") <= 28


@pytest.mark.parametrize("level", [Level.SERIES, Level.INSTANCE])
def test_below_a_study_only_that_study_is_looked_at(explain: Explain, level: Level) -> None:
    study = Condition(qido._STUDY_UID, AnyOf(("1.9.4711",)))
    plan = explain(level, (study,))

    assert not any(node["Node Type"] == "Seq Scan" for node in plan)
    assert read(plan, "imaging_studies") == read(plan, "imaging_series") == 1


def test_an_instance_by_its_uid_needs_no_study(explain: Explain) -> None:
    plan = explain(Level.INSTANCE, SOPInstanceUID="1.9.4711.1.1")

    assert not any(node["Node Type"] == "Seq Scan" for node in plan)
    assert read(plan, "imaging_objects") == 1
