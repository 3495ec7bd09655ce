"""Whatever rows the tables take, each is rendered, conforms to R4, and is found by a search.

Rows are made from the models (tests/integration/partitions/every_table.py), so that a new table
that is presented is under this test as soon as it exists.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from interop.fhir import json
from interop.fhir.rendering import render_stale
from interop.fhir.validation import validate
from storage import resources
from storage.database import Database
from storage.schema.presentation import PRESENTED
from storage.tenancy import Tenant
from tests.integration.partitions.every_table import fill, fill_catalogs

TYPES = {item.resource_type for items in PRESENTED.values() for item in items}
# The rows' texts are noise; what is no code or URI there is none in the resource either.
LEXICAL = re.compile("valid code|a code without|valid uri|a URI without|pattern is|empty text")
Rendered = dict[str, list[dict[str, Any]]]
BASE = "https://example.org/t/demo/fhir/R4"


@pytest.fixture(scope="module")
def rendered(database: Database, owner_url: str, tenant: Tenant) -> Iterator[Rendered]:
    with psycopg.connect(owner_url, autocommit=True) as owner:
        fill_catalogs(owner)
    with database.connection(tenant.id) as connection:
        fill(connection, tenant)
        connection.execute(
            "UPDATE ai_predictions SET prediction_type = 'RISK_SCORE' WHERE tenant_id = %s AND id ="
            " (SELECT id FROM ai_predictions WHERE tenant_id = %s ORDER BY id LIMIT 1)",
            (tenant.id, tenant.id),
        )
    render_stale(database, tenant.id, own_base=BASE)
    with database.connection(tenant.id) as connection:
        rows = connection.execute(
            "SELECT resource_type, resource_id, stale FROM fhir_resources"
            " WHERE tenant_id = %s AND resource_type = ANY(%s) AND NOT deleted"
            " AND (stale OR version > 0)",
            (tenant.id, sorted(TYPES)),
        ).fetchall()
        stuck = Counter(type_ for type_, _, stale in rows if stale)
        assert not stuck, "rows that cannot be presented"
        found: Rendered = {}
        for type_, id_, _ in rows:
            stored = resources.current(connection, tenant.id, type_, id_)
            assert stored is not None
            found.setdefault(type_, []).append(json.loads(stored.body.encode()))
    yield found


def test_every_type_that_tables_are_presented_as_has_resources(rendered: Rendered) -> None:
    assert TYPES - set(rendered) == set()


def test_every_rendered_resource_is_valid(rendered: Rendered) -> None:
    problems = Counter(
        (type_, issue.diagnostics)
        for type_, resources in rendered.items()
        for resource in resources
        for issue in validate(resource)
        if issue.severity in ("error", "fatal") and not LEXICAL.search(issue.diagnostics)
    )

    listing = "\n".join(
        f"{count} {problem}" for problem, count in sorted(problems.items(), key=str)
    )
    assert not problems, listing
