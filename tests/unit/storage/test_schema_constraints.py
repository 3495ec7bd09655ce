"""Constraints worth having: the database refuses what cannot be true."""

from __future__ import annotations

from uuid import UUID

import pytest
from psycopg import errors

from storage.database import Database
from storage.tenancy import Tenant

VALID: dict[str, dict[str, object]] = {
    "perio_measurements": {"patient_id": "{patient}", "tooth_number": 36, "site": "MB"},
    "procedures": {"patient_id": "{patient}", "cdt_code": "D2391"},
    "image_annotations": {
        "imaging_object_id": "{object}",
        "source_type": "AI",
        "annotation_type": "LABEL",
        "geometry": "{{}}",
        "confidence": 0.5,
    },
    "treatment_plans": {"patient_id": "{patient}"},
    "patients": {"first_name": "Ann"},
    "encounters": {"patient_id": "{patient}"},
    "imaging_objects": {
        "study_id": "{study}",
        "sop_instance_uid": "1.2.3.9",
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.7",
        "storage_uri": "k",
        "hash": "0" * 64,
        "byte_size": 1,
    },
    "dicom_application_entities": {"ae_title": "PANO"},
    "vital_signs": {"patient_id": "{patient}"},
    "messages": {
        "conversation_id": "{conversation}",
        "sender_type": "SYSTEM",
        "content": "Reminder",
    },
    "tenant_features": {"feature": "AI_DIAGNOSTICS"},
    "claims": {"patient_id": "{patient}", "claim_number": "C-1"},
    "invoices": {
        "invoice_number": "1",
        "period_start": "2026-01-01",
        "period_end": "2026-01-31",
    },
}

REFUSED = [
    *[
        ("perio_measurements", {"tooth_number": n})
        for n in (0, 10, 19, 29, 40, 49, 56, 86, 95, -11)
    ],
    ("perio_measurements", {"site": "X"}),
    ("perio_measurements", {"pocket_depth_mm": -1}),
    ("perio_measurements", {"pocket_depth_mm": 21}),
    ("perio_measurements", {"gingival_margin_mm": 16}),
    ("perio_measurements", {"mobility_grade": 4}),
    ("perio_measurements", {"furcation_involvement": 5}),
    ("procedures", {"tooth_number": 99}),
    ("procedures", {"surface": "Q"}),
    ("procedures", {"surface": ""}),
    ("procedures", {"start_at": "2026-01-02", "end_at": "2026-01-01"}),
    ("image_annotations", {"confidence": 1.01}),
    ("image_annotations", {"confidence": -0.01}),
    ("image_annotations", {"confidence": None}),
    ("image_annotations", {"source_type": "USER"}),
    ("treatment_plans", {"total_estimated_cost": -1}),
    ("treatment_plans", {"status": "MAYBE"}),
    ("encounters", {"check_in_at": "2026-01-02", "check_out_at": "2026-01-01"}),
    ("encounters", {"encounter_type": "exam"}),
    # What no resource could show.
    ("encounters", {"check_out_at": "infinity"}),
    ("encounters", {"check_in_at": "-infinity"}),
    ("encounters", {"check_in_at": "10000-01-01"}),
    ("encounters", {"check_in_at": "0044-03-15 BC"}),
    ("patients", {"dob": "infinity"}),
    ("vital_signs", {"bmi": "NaN"}),
    ("perio_measurements", {"pocket_depth_mm": "NaN"}),
    ("imaging_objects", {"sop_instance_uid": None}),
    ("imaging_objects", {"sop_instance_uid": "1.2.x"}),
    ("imaging_objects", {"hash": "abc"}),
    ("imaging_objects", {"byte_size": -1}),
    ("imaging_objects", {"frame_table": b"123"}),
    ("dicom_application_entities", {"ae_title": "LONGER_THAN_SIXTEEN"}),
    ("dicom_application_entities", {"port": 65536}),
    ("dicom_application_entities", {"may_be_sent_to": True}),
    *[
        ("dicom_application_entities", {"certificate_fingerprints": [f]})
        for f in ("", "AB" * 32, "ab" * 31, "ab" * 32 + ",", None)
    ],
    ("dicom_application_entities", {"max_associations": 0}),
    ("dicom_application_entities", {"valid_from": "2026-01-02", "valid_until": "2026-01-02"}),
    ("vital_signs", {"systolic_mmhg": 70, "diastolic_mmhg": 120}),
    ("messages", {"sender_type": "USER"}),
    ("tenant_features", {"feature": "ai diagnostics"}),
    ("claims", {"total_billed_amount": -0.01}),
    ("claims", {"currency": "dollars"}),
    ("invoices", {"period_end": "2025-12-31"}),
    ("invoices", {"status": "PAID"}),
]

ACCEPTED = [
    ("encounters", {"check_in_at": "0001-01-01", "check_out_at": "9999-12-31T23:59:59Z"}),
    *[("perio_measurements", {"tooth_number": n}) for n in (11, 18, 21, 48, 51, 55, 71, 85)],
    ("perio_measurements", {"gingival_margin_mm": -3.5, "pocket_depth_mm": 4.5}),
    ("procedures", {"tooth_number": 16, "surface": "MOD"}),
    ("imaging_objects", {"object_type": "STL", "sop_instance_uid": None, "sop_class_uid": None}),
    ("imaging_objects", {"frame_table": bytes(32)}),
    (
        "dicom_application_entities",
        {
            "certificate_fingerprints": ["ab" * 32, "0f" * 32],
            "source_networks": ["10.0.0.0/8", "fd00::/8"],
        },
    ),
]


@pytest.fixture(scope="module")
def targets(database: Database, tenant: Tenant) -> dict[str, UUID]:
    """Rows that others point at."""
    made: dict[str, UUID] = {}
    inserts = {
        "patient": "INSERT INTO patients (tenant_id) VALUES (%(tenant)s)",
        "study": "INSERT INTO imaging_studies (tenant_id, patient_id, study_uid)"
        " VALUES (%(tenant)s, %(patient)s, '1.2.9')",
        "object": "INSERT INTO imaging_objects (tenant_id, study_id, sop_instance_uid,"
        " sop_class_uid, storage_uri, hash, byte_size)"
        " VALUES (%(tenant)s, %(study)s, '1.2.9.1', '1.2.8', 'key', repeat('0', 64), 1)",
        "conversation": "INSERT INTO conversations (tenant_id, conversation_type)"
        " VALUES (%(tenant)s, 'TEAM_CHAT')",
    }
    with database.connection(tenant.id) as connection:
        for name, insert in inserts.items():
            row = connection.execute(
                insert + " RETURNING id",
                {"tenant": tenant.id, **made},
            ).fetchone()
            assert row is not None
            made[name] = row[0]
    return made


def insert(
    database: Database,
    tenant: Tenant,
    targets: dict[str, UUID],
    table: str,
    changes: dict[str, object],
) -> None:
    """Insert the valid row with changes, and take it back."""
    values = {"tenant_id": str(tenant.id), **VALID[table], **changes}
    bound = [v.format(**targets) if isinstance(v, str) else v for v in values.values()]
    statement = (
        f"INSERT INTO {table} ({', '.join(values)}) VALUES ({', '.join(['%s'] * len(values))})"
    )
    with database.connection(tenant.id) as connection:
        connection.execute(statement, bound)
        connection.rollback()


@pytest.mark.parametrize("table", sorted(VALID))
def test_the_plain_row_is_accepted(
    database: Database, tenant: Tenant, targets: dict[str, UUID], table: str
) -> None:
    insert(database, tenant, targets, table, {})


@pytest.mark.parametrize(("table", "changes"), ACCEPTED)
def test_what_can_be_true_is_accepted(
    database: Database,
    tenant: Tenant,
    targets: dict[str, UUID],
    table: str,
    changes: dict[str, object],
) -> None:
    insert(database, tenant, targets, table, changes)


@pytest.mark.parametrize(("table", "changes"), REFUSED)
def test_what_cannot_be_true_is_refused(
    database: Database,
    tenant: Tenant,
    targets: dict[str, UUID],
    table: str,
    changes: dict[str, object],
) -> None:
    with pytest.raises(errors.CheckViolation):
        insert(database, tenant, targets, table, changes)


def test_a_change_is_dated_and_signed(database: Database, tenant: Tenant) -> None:
    with database.connection(tenant.id) as connection:
        connection.execute("SELECT set_config('app.actor', 'dr.ko', true)")
        row = connection.execute(
            "INSERT INTO patients (tenant_id) VALUES (%s) RETURNING id, created_by, updated_at",
            (tenant.id,),
        ).fetchone()
        assert row is not None
        changed = connection.execute(
            "UPDATE patients SET last_name = 'Ko' WHERE id = %s"
            " RETURNING updated_by, updated_at IS NOT NULL",
            (row[0],),
        ).fetchone()
        named = connection.execute(
            "UPDATE patients SET updated_by = 'import' WHERE id = %s RETURNING updated_by",
            (row[0],),
        ).fetchone()

    assert row[1:] == ("dr.ko", None)
    assert changed == ("dr.ko", True)
    assert named == ("import",)


def test_the_sites_of_a_tooth_share_an_observation_and_the_teeth_an_exam(
    database: Database, tenant: Tenant, targets: dict[str, UUID]
) -> None:
    with database.connection(tenant.id) as connection:
        rows = [
            connection.execute(
                "INSERT INTO perio_measurements (tenant_id, patient_id, tooth_number, site,"
                " measured_at) VALUES (%s, %s, %s, %s, %s)"
                " RETURNING observation_id, exam_observation_id",
                (tenant.id, targets["patient"], tooth, site, at),
            ).fetchone()
            for tooth, site, at in [
                (36, "MB", "2026-03-01T09:00Z"),
                (36, "DB", "2026-03-01T09:05Z"),
                (37, "MB", "2026-03-01T09:06Z"),
                (36, "MB", "2026-04-01T09:00Z"),
            ]
        ]
    first, site, tooth, later = [row for row in rows if row is not None]

    assert site == first
    assert tooth[0] != first[0] and tooth[1] == first[1]
    assert later[0] != first[0] and later[1] != first[1]


def test_billing_plans_is_another_name_of_subscription_plans(
    database: Database, owner_url: str
) -> None:
    import psycopg

    with psycopg.connect(owner_url) as owner:
        owner.execute(
            "INSERT INTO subscription_plans (code, name, tier, price_per_month)"
            " VALUES ('pro', 'Pro', 'PRO', 99)"
        )
    with database.platform_connection() as connection:
        plan = connection.execute("SELECT code, price_per_month FROM billing_plans").fetchone()

    assert plan is not None and plan[0] == "pro" and plan[1] == 99
