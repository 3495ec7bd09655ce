"""The registry of application entities: what is kept, refused and written into the audit."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from interop.access.principals import Caller
from interop.access.scopes import Scopes
from interop.dimse import registry
from storage.database import Database
from storage.tenancy import Tenant

PIN = "ab" * 32


def audited(database: Database, tenant: Tenant, ae_title: str) -> list[tuple[Any, ...]]:
    with database.connection(tenant.id) as connection:
        found: list[tuple[Any, ...]] = connection.execute(
            "SELECT event_type, actor_type, api_client_id, metadata->'changed' FROM audit_events"
            " WHERE tenant_id = %s AND metadata->>'ae_title' = %s ORDER BY timestamp",
            (tenant.id, ae_title),
        ).fetchall()
    return found


def test_what_is_registered_is_found_as_it_was_said(database: Database, tenant: Tenant) -> None:
    values = {
        "ae_title": "PANO 1",
        "host": "pano-1.example",
        "port": 104,
        "description": "room 2",
        "source_networks": registry.networks(["10.1.2.0/24", "fd00:1::/64"]),
        "certificate_fingerprints": ["AB:" * 31 + "AB", f"sha256:{PIN}"],
        "certificate_subject": "CN=pano-1,O=Clinic",
        "may_query": False,
        "may_be_sent_to": True,
        "require_tls": True,
        "max_associations": 2,
        "max_objects_per_minute": 100,
        "max_bytes_per_minute": 1 << 33,
        "valid_from": datetime(2026, 1, 1, tzinfo=UTC),
        "valid_until": datetime(2027, 1, 1, tzinfo=UTC),
    }

    made = registry.create(database, tenant, values)

    assert registry.find(database, tenant, "PANO 1") == made
    assert made.certificate_fingerprints == (PIN,)
    assert registry.described(made)["source_networks"] == ["10.1.2.0/24", "fd00:1::/64"]
    assert {n: getattr(made, n) for n in values if not n.startswith("cert")} == {
        n: v for n, v in values.items() if not n.startswith("cert")
    }


def test_every_change_is_one_audit_row(database: Database, tenant: Tenant) -> None:
    client = uuid4()
    caller = Caller(tenant, "API_CLIENT", client, "console", Scopes.parse("system/*.cruds"), "r-1")
    registry.create(database, tenant, {"ae_title": "CHANGING"})

    registry.update(database, tenant, "CHANGING", {"max_associations": 3}, caller)
    registry.update(database, tenant, "CHANGING", {"max_associations": 3}, caller)
    registry.disable(database, tenant, "CHANGING")
    registry.update(database, tenant, "CHANGING", {"active": True})

    assert audited(database, tenant, "CHANGING") == [
        ("DICOM_AE_CREATED", "SYSTEM", None, ["ae_title"]),
        ("DICOM_AE_UPDATED", "API_CLIENT", client, ["max_associations"]),
        ("DICOM_AE_DISABLED", "SYSTEM", None, ["active"]),
        ("DICOM_AE_UPDATED", "SYSTEM", None, ["active"]),
    ]


def test_a_change_that_is_refused_changes_nothing(database: Database, tenant: Tenant) -> None:
    registry.create(database, tenant, {"ae_title": "STEADY", "host": "h", "port": 1})

    with pytest.raises(registry.InvalidApplicationEntity, match="host and a port"):
        registry.update(database, tenant, "STEADY", {"may_be_sent_to": True, "port": None})

    found = registry.find(database, tenant, "STEADY")
    assert found is not None and (found.port, found.may_be_sent_to) == (1, False)
    assert len(audited(database, tenant, "STEADY")) == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ae_title": "SEVENTEEN_LETTERS"}, "1 to 16"),
        ({"ae_title": "BACK\\SLASH"}, "no backslash"),
        ({"ae_title": " PADDED"}, "no space"),
        ({"ae_title": "A", "port": 0}, "1 to 65535"),
        ({"ae_title": "A", "max_associations": 0}, "max_associations 0"),
        ({"ae_title": "A", "certificate_fingerprints": ["ab"]}, "64 hexadecimal"),
        ({"ae_title": "A", "certificate_subject": "pano"}, "RFC 4514"),
        ({"ae_title": "A", "colour": "red"}, "colour"),
        (
            {
                "ae_title": "A",
                "valid_from": datetime(2027, 1, 1, tzinfo=UTC),
                "valid_until": datetime(2026, 1, 1, tzinfo=UTC),
            },
            "not after",
        ),
    ],
)
def test_what_cannot_be_kept_is_refused_by_name(
    database: Database, tenant: Tenant, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(registry.InvalidApplicationEntity, match=message):
        registry.create(database, tenant, values)


@pytest.mark.parametrize(
    ("text", "message"),
    [("10.0.0.1/8", "the network is 10.0.0.0/8"), ("clinic", "10.1.2.0/24"), ("1.2.3.4/33", "/24")],
)
def test_a_network_says_what_was_probably_meant(text: str, message: str) -> None:
    with pytest.raises(registry.InvalidApplicationEntity, match=message):
        registry.networks([text])


@pytest.mark.strategies
def test_tenants_do_not_see_or_change_each_others_entities(
    database: Database, tenant: Tenant, other_tenant: Tenant
) -> None:
    registry.create(database, tenant, {"ae_title": "OURS"})

    assert registry.find(database, other_tenant, "OURS") is None
    assert "OURS" not in [one.ae_title for one in registry.list_all(database, other_tenant)]
    with pytest.raises(registry.UnknownApplicationEntity):
        registry.disable(database, other_tenant, "OURS")
    with pytest.raises(registry.ApplicationEntityExists):
        registry.create(database, tenant, {"ae_title": "OURS"})
    registry.create(database, other_tenant, {"ae_title": "OURS"})


def test_the_name_and_the_id_cannot_be_changed(database: Database, tenant: Tenant) -> None:
    registry.create(database, tenant, {"ae_title": "NAMED"})

    for name in ("ae_title", "id", "tenant_id"):
        with pytest.raises(registry.InvalidApplicationEntity, match=name):
            registry.update(database, tenant, "NAMED", {name: "X"})
