"""The models say what data-schema.md says."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from sqlalchemy import CheckConstraint, UniqueConstraint

from storage.schema import Sensitivity, metadata
from storage.schema.mirror import render


def _document() -> ModuleType:
    path = Path(__file__).with_name("data_schema.py")
    spec = importlib.util.spec_from_file_location("data_schema", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


DOCUMENT = _document()
MIRROR = Path(__file__).parents[3] / "profiles" / "dataSchema.yaml"


def test_every_table_of_the_document_exists() -> None:
    assert set(DOCUMENT.TABLES) - set(metadata.tables) == set()


@pytest.mark.parametrize("table", sorted(DOCUMENT.FIELDS))
def test_every_named_field_exists(table: str) -> None:
    columns = set(metadata.tables[table].c.keys())

    assert set(DOCUMENT.FIELDS[table].split()) - columns == set()


@pytest.mark.parametrize("place", sorted(DOCUMENT.ENUMS))
def test_every_enum_holds_exactly_the_values_of_the_document(place: str) -> None:
    table, column = place.split(".")

    values = metadata.tables[table].c[column].info["values"]

    assert set(values) == set(DOCUMENT.ENUMS[place].split())


def test_every_enum_is_checked_by_the_database() -> None:
    for table in metadata.sorted_tables:
        checks = {str(c.name) for c in table.constraints if isinstance(c, CheckConstraint)}
        for column in table.c:
            if "values" in column.info:
                assert f"ck_{table.name}_{column.name}" in checks


def test_tables_with_patient_data_have_provenance_and_a_tenant() -> None:
    sensitive = {Sensitivity.CLINICAL, Sensitivity.IDENTIFYING}
    read_model = {name for name in metadata.tables if name.startswith("fhir_")}
    global_identities = {"users", "user_auth_identities"}
    # A row of the log says itself who did it and when, and is never updated.
    logs = {"audit_events", "phi_access_logs"}
    bearing = {
        table.name
        for table in metadata.sorted_tables
        if any(column.info["phi"] in sensitive for column in table.c)
    }
    assert {"patients", "vital_signs", "imaging_studies", "claims"} <= bearing

    # What is searched by, derived from rows that say who wrote them.
    indexes = {"imaging_name_words", "dicom_query_tag_values"}

    for name in bearing - read_model - global_identities - logs - indexes:
        columns = set(metadata.tables[name].c.keys())
        missing = {"tenant_id", "created_at", "created_by", "updated_at", "updated_by"} - columns
        assert missing == set(), name


def test_secrets_are_marked_restricted() -> None:
    telling = ("secret", "_hash", "private_jwk", "token_encrypted", "recovery_code")
    public = {"content_hash", "dataset_hash"}
    for table in metadata.sorted_tables:
        for column in table.c:
            if any(word in column.name for word in telling) and column.name not in public:
                assert column.info["phi"] is Sensitivity.RESTRICTED, f"{table.name}.{column.name}"


def test_tenant_leads_every_key_of_a_tenant_table() -> None:
    for table in metadata.sorted_tables:
        if table.info["scope"] != "tenant":
            continue
        keys = [c for c in table.constraints if isinstance(c, UniqueConstraint)]
        for key in [table.primary_key, *keys]:
            assert key.columns[0].name == "tenant_id", f"{table.name}: {key.name}"


def test_every_model_says_what_it_holds() -> None:
    for table in metadata.sorted_tables:
        assert table.info["description"], table.name
        assert table.info["section"], table.name


def test_the_yaml_mirror_is_current() -> None:
    """When this fails: `python -m storage.schema.mirror > profiles/dataSchema.yaml`."""
    assert MIRROR.read_text(encoding="utf-8") == render(metadata)
