"""`interop tenant ...` against a real database, as an operator types it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from typer.testing import CliRunner

from interop.cli import app
from interop.errors import PreconditionFailed
from storage.database import Database
from storage.objects import open_object_store
from storage.objects.keys import new_key
from storage.tenancy import Tenant, TenantDirectory
from storage.tenants import deletion

Run = Callable[..., str]


@pytest.fixture
def run(database: Database, owner_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command and returns what it prints; raises what it raises."""
    monkeypatch.setenv("INTEROP_DATABASE_URL", database.url)
    monkeypatch.setenv("INTEROP_DATABASE_OWNER_URL", owner_url)
    monkeypatch.setenv("INTEROP_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")

    def command(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["tenant", *arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    return command


@pytest.fixture
def slug(run: Run) -> str:
    name = f"c{uuid4().hex[:10]}"
    run("create", name)
    return name


def found(database: Database, slug: str) -> Tenant:
    tenant = TenantDirectory(database).even_closed(slug)
    assert tenant is not None
    return tenant


def test_a_tenant_is_suspended_resumed_and_closed(run: Run, database: Database, slug: str) -> None:
    states = []
    for step in ("suspend", "resume", "close", "resume"):
        run(step, slug, "--reason", "because")
        states.append(found(database, slug).status)

    assert states == ["SUSPENDED", "ACTIVE", "CLOSED", "ACTIVE"]
    with pytest.raises(ValueError, match="the tenant is ACTIVE"):
        run("resume", slug, "--reason", "again")


def test_settings_and_quotas_are_shown_and_changed(run: Run, slug: str) -> None:
    settings = json.loads(run("settings", slug, "time_zone=Europe/Zurich", "--json"))
    quota = json.loads(
        run("quota", slug, "max_users=5", "api_rate_limit_per_minute=6000", "--json")
    )

    assert settings["time_zone"] == "Europe/Zurich"
    assert (quota["max_users"], quota["api_rate_limit_per_minute"]) == (5, 6000)
    assert quota["used"] == {"users": 0, "storage_bytes": 0, "ai_inferences_this_month": 0}
    assert json.loads(run("quota", slug, "max_users=null", "--json"))["max_users"] is None
    with pytest.raises(ValueError, match="there are max_users"):
        run("quota", slug, "max_patients=5")


def test_c12_a_change_of_what_was_changed_meanwhile_is_refused(run: Run, slug: str) -> None:
    seen = json.loads(run("settings", slug, "--json"))["version"]
    changed = json.loads(run("settings", slug, "currency=CHF", "--if-match", seen, "--json"))

    with pytest.raises(PreconditionFailed, match="changed since you read it"):
        run("settings", slug, "currency=EUR", "--if-match", seen)

    found = json.loads(run("settings", slug, "--json"))
    assert (found["currency"], found["version"]) == ("CHF", changed["version"])
    assert changed["version"] != seen
    # Quoted as an ETag is, and without: both are what somebody may have copied.
    run("settings", slug, "currency=EUR", "--if-match", f'"{changed["version"]}"')
    for section in ("branding", "quota"):
        assert len(json.loads(run(section, slug, "--json"))["version"]) == 32


def test_features_come_from_plans_and_switches(run: Run, slug: str) -> None:
    run("plan", "CLI", "--name", "Cli", "--feature", "AI_DIAGNOSTICS")
    run("subscribe", slug, "CLI")
    assert json.loads(run("feature", slug, "--json")) == {"AI_DIAGNOSTICS": "on (plan cli)"}

    run("feature", slug, "AI_DIAGNOSTICS", "off")
    assert json.loads(run("feature", slug, "--json")) == {"AI_DIAGNOSTICS": "off (switch)"}

    run("feature", slug, "AI_DIAGNOSTICS", "default")
    run("enable", slug, "ORTHO_PLANNING")
    assert json.loads(run("feature", slug, "--json")) == {
        "AI_DIAGNOSTICS": "on (plan cli)",
        "ORTHO_PLANNING": "on (switch)",
    }


def test_a_subtree_is_granted_and_the_grant_revoked(
    run: Run, database: Database, slug: str
) -> None:
    child = f"c{uuid4().hex[:10]}"
    run("create", child)
    run("place", child, "--below", slug)

    run("grant", slug, "--on", child, "--level", "MANAGE", "--role", "TENANT_ADMIN")
    (grant,) = json.loads(run("grant", slug, "--json"))
    assert (grant["root_slug"], grant["level"]) == (child, "MANAGE")
    assert found(database, child).parent_id == found(database, slug).id

    run("grant", slug, "--revoke", grant["id"])
    assert json.loads(run("grant", slug, "--json")) == []
    run("place", child)
    assert found(database, child).parent_id is None


def test_offboarding_wants_the_slug_twice_and_prints_the_certificate(
    run: Run, database: Database, slug: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deletion.request, "__kwdefaults__", {"grace": timedelta(0)})
    tenant = found(database, slug)
    objects = open_object_store((tmp_path / "objects").as_uri())
    objects.put_bytes(new_key(tenant.id), b"x")

    refused = CliRunner().invoke(app, ["tenant", "offboard", slug, "--confirm", "else"])
    assert refused.exit_code != 0
    assert found(database, slug).status == "ACTIVE"

    said = json.loads(run("offboard", slug, "--confirm", slug, "--json"))

    assert (said["slug"], said["deleted"]["objects"]) == (slug, 1)
    assert said["certificate"].count(".") == 2
    assert list(objects.list(f"{tenant.id}/")) == []
    assert found(database, slug).status == "CLOSED"
    # Repeating shows the same one.
    again = json.loads(run("offboard", slug, "--confirm", slug, "--json"))
    assert again["certificate"] == said["certificate"]
