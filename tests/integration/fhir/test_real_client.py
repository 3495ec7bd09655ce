"""A client that others wrote (fhirpy) against the live server."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from fhirpy import AsyncFHIRClient

from interop.access import Scopes
from storage.tenancy import Tenant


def client(live: SimpleNamespace, tenant: Tenant) -> Any:
    token = live.services.tokens.issue(tenant, None, "fhirpy", Scopes.parse("system/*.cruds"))
    return AsyncFHIRClient(
        url=f"{live.url}/t/{tenant.slug}/fhir/R4", authorization=f"Bearer {token}"
    )


def test_fhirpy_creates_reads_updates_searches_and_deletes(
    live: SimpleNamespace, tenant: Tenant
) -> None:
    async def story() -> None:
        fhir = client(live, tenant)
        patient = fhir.resource(
            "Patient", name=[{"family": "Fhirpy", "given": ["Ada"]}], birthDate="1980-05-17"
        )
        await patient.save()
        assert patient.id

        observation = fhir.resource(
            "Observation",
            status="final",
            code={"coding": [{"system": "http://loinc.org", "code": "8867-4"}]},
            subject=patient.to_reference(),
            effectiveDateTime="2026-01-05T10:00:00Z",
            valueQuantity={"value": 72, "unit": "/min"},
        )
        await observation.save()

        found = (
            await fhir.resources("Patient").search(family="fhirpy", birthdate__ge="1980").first()
        )
        assert found.id == patient.id
        of_patient = (
            fhir.resources("Observation")
            .search(patient=patient.id)
            .include("Observation", "patient")
        )
        bundle = await of_patient.fetch_raw()
        assert [entry["search"]["mode"] for entry in bundle["entry"]] == ["match", "include"]
        assert await fhir.resources("Observation").search(patient=patient.id).count() == 1

        found["gender"] = "female"
        await found.save()
        again = await fhir.reference("Patient", patient.id).to_resource()
        assert again["gender"] == "female"
        assert again["meta"]["versionId"] == "2"

        await observation.delete()
        await again.delete()
        assert await fhir.resources("Patient").search(_id=patient.id).fetch() == []

    asyncio.run(story())


def test_fhirpy_walks_all_pages(live: SimpleNamespace, tenant: Tenant) -> None:
    async def story() -> None:
        fhir = client(live, tenant)
        for number in range(7):
            basic = fhir.resource(
                "Basic", code={"coding": [{"code": "paged"}], "text": str(number)}
            )
            await basic.save()

        pages = fhir.resources("Basic").search(code="paged").limit(3)

        assert len([one async for one in pages]) == 7
        assert len(await pages.fetch_all()) == 7

    asyncio.run(story())
