"""Many rows by one SQL statement: what it makes stale costs time in proportion, not its square."""

from __future__ import annotations

import time

import httpx

from storage.database import Database
from storage.tenancy import Tenant

ROWS = 20_000


def test_twenty_thousand_patients_by_one_statement(
    fhir: httpx.Client, database: Database, tenant: Tenant
) -> None:
    with database.connection(tenant.id) as connection:
        started = time.monotonic()
        connection.execute(
            "INSERT INTO patients (tenant_id, first_name, last_name)"
            " SELECT %s, 'First', 'Last' || n FROM generate_series(1, %s) AS n",
            (tenant.id, ROWS),
        )
        seconds = time.monotonic() - started
        stubs = connection.execute(
            "SELECT count(*) FROM fhir_resources WHERE tenant_id = %s AND resource_type = 'Patient'"
            " AND stale",
            (tenant.id,),
        ).fetchone()
        sample = connection.execute(
            "SELECT id FROM patients WHERE tenant_id = %s AND last_name = 'Last7'", (tenant.id,)
        ).fetchone()

    assert stubs == (ROWS,)
    assert seconds < 20  # it took 40 s when each search for an id walked over the stubs made so far
    assert sample is not None
    assert fhir.get(f"/Patient/{sample[0]}").json()["name"][0]["family"] == "Last7"
