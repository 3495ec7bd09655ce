"""Settings, branding, quotas, plans and features: what is taken, what holds, what is audited."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from storage.database import Database
from storage.tenancy import Tenant
from storage.tenants import configuration, features, subscriptions
from storage.tenants.configuration import InvalidConfiguration
from storage.tenants.features import Features, effective_features, has_feature, switch_feature

MakeTenant = Callable[..., Tenant]
NOW = datetime.now(UTC)
DAY = timedelta(days=1)


def audited(database: Database, tenant: Tenant) -> list[tuple[Any, ...]]:
    with database.connection(tenant.id) as connection:
        return connection.execute(
            "SELECT resource_type, metadata -> 'changes' FROM audit_events"
            " WHERE tenant_id = %s AND event_type = 'CONFIG_CHANGED' ORDER BY timestamp",
            (tenant.id,),
        ).fetchall()


def test_a_change_is_written_and_audited_with_what_was_before(
    database: Database, make_tenant: MakeTenant
) -> None:
    tenant = make_tenant()

    with database.connection(tenant.id) as connection:
        found = configuration.change(
            connection,
            tenant.id,
            "settings",
            {"time_zone": "Europe/Zurich", "currency": "USD", "quiet_window_seconds": 30},
        )

    assert (found["time_zone"], found["quiet_window_seconds"]) == ("Europe/Zurich", 30)
    # What was so before is no change.
    assert audited(database, tenant) == [
        (
            "TENANT_SETTINGS",
            {"time_zone": ["UTC", "Europe/Zurich"], "quiet_window_seconds": [None, 30]},
        )
    ]


def test_what_does_not_change_leaves_no_trace(database: Database, make_tenant: MakeTenant) -> None:
    tenant = make_tenant()

    with database.connection(tenant.id) as connection:
        configuration.change(connection, tenant.id, "settings", {"locale": "en"})

    assert audited(database, tenant) == []


def test_the_audit_trail_does_not_hold_templates(
    database: Database, make_tenant: MakeTenant
) -> None:
    tenant = make_tenant()

    with database.connection(tenant.id) as connection:
        configuration.change(
            connection, tenant.id, "branding", {"email_templates": {"invitation": "Dear you"}}
        )
        found = configuration.read(connection, tenant.id, "branding")

    assert found["email_templates"] == {"invitation": "Dear you"}
    assert audited(database, tenant) == [
        ("TENANT_BRANDING", {"email_templates": [None, "(object)"]})
    ]


@pytest.mark.parametrize(
    ("section", "name", "value", "message"),
    [
        ("settings", "colour", "red", "no settings; there are"),
        ("settings", "tenant_id", "x", "no settings; there are"),
        ("settings", "tooth_numbering_system", "ROMAN", "FDI, UNIVERSAL, PALMER"),
        ("settings", "time_zone", "Mars/Olympus", "IANA"),
        ("settings", "locale", "english", "BCP 47"),
        ("settings", "currency", "usd", "ISO 4217"),
        ("settings", "currency", None, "must have a value"),
        ("settings", "quiet_window_seconds", 86401, "from 0 to 86400"),
        ("settings", "quiet_window_seconds", True, "int expected"),
        ("settings", "quiet_window_seconds", "5", "int expected"),
        ("settings", "requires_ai_review", 1, "bool expected"),
        ("settings", "default_retention_max_years", 3, "default_retention_min_years 10"),
        ("settings", "default_issuer_of_patient_id", "a\x00b", "printable"),
        ("branding", "website_url", "javascript:alert(1)", "http or https"),
        ("branding", "website_url", "https://u:p@host/", "without credentials"),
        ("branding", "support_email", "nobody", "e-mail"),
        ("branding", "color_scheme", "red", "dict expected"),
        ("quota", "max_users", -1, "from 0"),
        ("quota", "max_users", 2**31, "from 0 to 2147483647"),
        ("quota", "max_storage_bytes", 2**63, "from 0"),
        ("nothing", "x", 1, "settings, branding, quota"),
    ],
)
def test_what_is_not_taken_is_named_and_nothing_is_written(
    database: Database,
    make_tenant: MakeTenant,
    section: str,
    name: str,
    value: object,
    message: str,
) -> None:
    tenant = make_tenant()

    with (
        database.connection(tenant.id) as connection,
        pytest.raises(InvalidConfiguration, match=message),
    ):
        configuration.change(connection, tenant.id, section, {name: value})

    assert audited(database, tenant) == []


@pytest.mark.parametrize(
    ("section", "name", "text", "value"),
    [
        ("quota", "max_users", "12", 12),
        ("quota", "max_users", "null", None),
        ("settings", "requires_ai_review", "false", False),
        ("settings", "locale", "de-CH", "de-CH"),
        ("branding", "color_scheme", '{"accent": "#123456"}', {"accent": "#123456"}),
    ],
)
def test_words_of_the_command_line_become_values(
    section: str, name: str, text: str, value: object
) -> None:
    assert configuration.from_text(section, name, text) == value


@pytest.mark.parametrize(("name", "text"), [("max_users", "many"), ("max_users", "1.5")])
def test_a_word_that_is_no_number_is_refused(name: str, text: str) -> None:
    with pytest.raises(InvalidConfiguration, match="a whole number or null"):
        configuration.from_text("quota", name, text)


# -- features and plans -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def plans(database: Database, owner_url: str) -> None:
    with psycopg.connect(owner_url) as owner:
        for code, names in (
            ("BASE", ("AI_DIAGNOSTICS",)),
            ("MORE", ("AI_DIAGNOSTICS", "ORTHO_PLANNING")),
        ):
            subscriptions.define_plan(owner, code, name=code.title(), tier="PRO", features=names)


def test_the_application_cannot_write_plans(database: Database) -> None:
    with (
        pytest.raises(psycopg.errors.InsufficientPrivilege),
        database.platform_connection() as connection,
    ):
        subscriptions.define_plan(connection, "MINE", name="Mine", tier="PRO")


def test_what_nobody_switched_on_is_off(database: Database, make_tenant: MakeTenant) -> None:
    tenant = make_tenant()

    with database.connection(tenant.id) as connection:
        assert not has_feature(connection, tenant.id, "AI_DIAGNOSTICS")
        assert effective_features(connection, tenant.id) == {}


def test_features_are_those_of_the_plan_and_the_tenants_own(
    database: Database, make_tenant: MakeTenant, plans: None
) -> None:
    tenant = make_tenant()

    with database.connection(tenant.id) as connection:
        subscriptions.subscribe(connection, tenant.id, "MORE", start_at=NOW - DAY)
        switch_feature(
            connection, tenant.id, "FEDERATED_LEARNING", is_enabled=True, configuration={"x": 1}
        )
        switch_feature(connection, tenant.id, "ORTHO_PLANNING", is_enabled=False)
        found = effective_features(connection, tenant.id)

    assert {n: (f.is_enabled, f.origin, f.configuration) for n, f in found.items()} == {
        "AI_DIAGNOSTICS": (True, "PLAN MORE", {}),
        "FEDERATED_LEARNING": (True, "SWITCH", {"x": 1}),
        "ORTHO_PLANNING": (False, "SWITCH", {}),
    }


def test_a_switch_holds_in_its_period_and_the_plan_around_it(
    database: Database, make_tenant: MakeTenant, plans: None
) -> None:
    tenant = make_tenant()

    with database.connection(tenant.id) as connection:
        subscriptions.subscribe(connection, tenant.id, "BASE", start_at=NOW - 9 * DAY)
        switch_feature(
            connection, tenant.id, "AI_DIAGNOSTICS", is_enabled=False,
            valid_from=NOW, valid_until=NOW + DAY,
        )  # fmt: skip
        found = [
            has_feature(connection, tenant.id, "AI_DIAGNOSTICS", NOW + days * DAY)
            for days in (-0.1, 0, 0.9, 1)
        ]
        switch_feature(connection, tenant.id, "AI_DIAGNOSTICS", is_enabled=None)
        found.append(has_feature(connection, tenant.id, "AI_DIAGNOSTICS", NOW + DAY / 2))

    assert found == [True, False, False, True, True]


@pytest.mark.parametrize(
    ("options", "days", "expected"),
    [
        ({"start_at": NOW + DAY}, 0, False),
        ({"start_at": NOW - DAY, "end_at": NOW + DAY}, 0, True),
        ({"start_at": NOW - DAY, "end_at": NOW + DAY}, 1, False),
        ({"start_at": NOW - DAY, "trial_ends_at": NOW + DAY}, 0, True),
        ({"start_at": NOW - DAY, "trial_ends_at": NOW + DAY}, 2, False),
    ],
)
def test_a_plan_counts_while_its_subscription_runs(
    database: Database,
    make_tenant: MakeTenant,
    plans: None,
    options: dict[str, Any],
    days: int,
    expected: bool,
) -> None:
    tenant = make_tenant()

    with database.connection(tenant.id) as connection:
        subscriptions.subscribe(connection, tenant.id, "BASE", **options)
        found = has_feature(connection, tenant.id, "AI_DIAGNOSTICS", NOW + days * DAY)

    assert found is expected


def test_a_new_subscription_ends_the_former(
    database: Database, make_tenant: MakeTenant, plans: None
) -> None:
    tenant = make_tenant()

    with database.connection(tenant.id) as connection:
        subscriptions.subscribe(connection, tenant.id, "MORE", start_at=NOW - DAY)
        subscriptions.subscribe(connection, tenant.id, "BASE")
        found = effective_features(connection, tenant.id)

    assert {name: one.origin for name, one in found.items()} == {"AI_DIAGNOSTICS": "PLAN BASE"}
    with (
        database.connection(tenant.id) as connection,
        pytest.raises(subscriptions.UnknownPlan, match="NOTHING"),
    ):
        subscriptions.subscribe(connection, tenant.id, "NOTHING")


def test_features_are_remembered_for_less_than_a_minute(
    database: Database, make_tenant: MakeTenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = make_tenant()
    known = Features(database)
    assert not known.has(tenant.id, "AI_DIAGNOSTICS")
    with database.connection(tenant.id) as connection:
        switch_feature(connection, tenant.id, "AI_DIAGNOSTICS", is_enabled=True)
    assert not known.has(tenant.id, "AI_DIAGNOSTICS")
    assert features.CACHE_SECONDS <= 45

    clock = features.time.monotonic
    monkeypatch.setattr(features.time, "monotonic", lambda: clock() + features.CACHE_SECONDS)

    assert known.has(tenant.id, "AI_DIAGNOSTICS")


@pytest.mark.parametrize("name", ["ai", "A", "A-B", "1A", "A" * 65])
def test_a_feature_without_a_proper_name_is_refused(
    database: Database, make_tenant: MakeTenant, name: str
) -> None:
    tenant = make_tenant()

    with database.connection(tenant.id) as connection, pytest.raises(ValueError, match="A-Z"):
        switch_feature(connection, tenant.id, name, is_enabled=True)
