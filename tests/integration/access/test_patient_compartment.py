"""A patient's app sees that patient's record and nothing else (security.md D2, D5, D7, D8)."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import httpx
import pytest

from storage.tenancy import Tenant
from tests.integration.access.conftest import FHIR_JSON, Door, comparable, found, put

ANNA, BRUNO = {"reference": "Patient/anna"}, {"reference": "Patient/bruno"}
CARIES = {"coding": [{"system": "urn:codes", "code": "caries"}]}
LABORATORY = {"coding": [{"system": "urn:categories", "code": "laboratory"}]}
EXAM = {"coding": [{"system": "urn:categories", "code": "exam"}]}


def observation(id_: str, subject: dict[str, str], **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "id": id_,
        "status": "final",
        "code": CARIES,
        "subject": subject,
        **more,
    }


RECORDS: list[dict[str, Any]] = [
    {"resourceType": "Practitioner", "id": "dr", "name": [{"family": "Who"}]},
    {"resourceType": "Organization", "id": "clinic", "name": "Clinic"},
    {"resourceType": "Patient", "id": "anna", "name": [{"family": "Anna"}]},
    {"resourceType": "Patient", "id": "bruno", "name": [{"family": "Bruno"}]},
    {
        "resourceType": "Patient",
        "id": "twin",
        "name": [{"family": "Twin"}],
        "link": [{"other": ANNA, "type": "seealso"}],
    },
    {"resourceType": "Device", "id": "implant", "patient": ANNA},
    observation("a-lab", ANNA, category=[LABORATORY], performer=[{"reference": "Practitioner/dr"}]),
    observation("a-exam", ANNA, category=[EXAM]),
    observation("b-lab", BRUNO, category=[LABORATORY]),
    observation("b-focus-a", BRUNO, focus=[ANNA]),
    observation("b-by-a", BRUNO, performer=[ANNA]),
    observation("a-derived", ANNA, derivedFrom=[{"reference": "Observation/b-lab"}]),
    {"resourceType": "Basic", "id": "nobodys", "code": CARIES},
    {"resourceType": "Binary", "id": "scan", "contentType": "text/plain", "data": "QQ=="},
]
OWN = {"Observation/a-lab", "Observation/a-exam", "Observation/b-by-a", "Observation/a-derived"}


@pytest.fixture(scope="module")
def system(door: Door, tenant: Tenant) -> httpx.Client:
    client = door.system(tenant)
    for resource in RECORDS:
        put(client, resource)
    return client


@pytest.fixture(scope="module")
def anna(door: Door, tenant: Tenant, system: httpx.Client) -> UUID:
    return door.row_id(tenant, "Patient", "anna")


@pytest.fixture(scope="module")
def app(door: Door, tenant: Tenant, anna: UUID) -> httpx.Client:
    """An app that Anna launched."""
    return door.caller(tenant, "patient/*.cruds", patient=anna)


def assert_like_nothing(client: httpx.Client, url: str, id_: str) -> None:
    """`url` with this id is answered byte for byte as with an id that never was."""
    hidden = client.get(url.format(id_))
    nothing = client.get(url.format("x" * len(id_)))
    assert hidden.status_code == 404, hidden.text
    assert comparable(hidden) == comparable(nothing)


@pytest.mark.parametrize(
    "own", ["Patient/anna", "Patient/twin", "Practitioner/dr", "Organization/clinic", *sorted(OWN)]
)
def test_what_is_the_patients_or_nobodys_in_particular_is_read(app: httpx.Client, own: str) -> None:
    assert app.get(f"/{own}").status_code == 200
    assert app.get(f"/{own}/_history/1").status_code == 200
    assert app.get(f"/{own}/_history").status_code == 200


@pytest.mark.parametrize(
    "other", ["Patient/bruno", "Observation/b-lab", "Observation/b-focus-a", "Basic/nobodys"]
)
def test_d7_what_is_anothers_is_answered_like_nothing(app: httpx.Client, other: str) -> None:
    """Observation.focus is no compartment parameter; a Basic without a subject is nobody's."""
    type_, id_ = other.split("/")
    for url in (f"/{type_}/{{}}", f"/{type_}/{{}}/_history", f"/{type_}/{{}}/_history/1"):
        assert_like_nothing(app, url, id_)


@pytest.mark.parametrize("type_", ["Device", "Binary", "Subscription"])
def test_types_outside_the_compartment_are_refused_to_patients(
    app: httpx.Client, type_: str
) -> None:
    assert app.get(f"/{type_}/implant").status_code == 403
    assert app.get(f"/{type_}").status_code == 403


def test_a_search_finds_counts_and_pages_only_the_patients_own(app: httpx.Client) -> None:
    page = app.get("/Observation", params={"_total": "accurate", "_count": "3"})
    rest = app.get(next(x["url"] for x in page.json()["link"] if x["relation"] == "next"))

    assert page.json()["total"] == 4
    assert len(page.json()["entry"]) == 3
    assert found(page) | found(rest) == OWN
    assert app.get("/Observation", params={"_summary": "count"}).json()["total"] == 4
    assert found(app.get("/Observation", params={"_sort": "-_lastUpdated"})) == OWN
    assert found(app.get("/Observation", params={"_sort": "code,_id"})) == OWN
    assert found(app.get("/Observation", params={"subject": "Patient/bruno"})) == {
        "Observation/b-by-a"
    }
    assert found(app.get("/Patient")) == {"Patient/anna", "Patient/twin"}
    assert found(app.post("/Observation/_search", data={"status": "final"})) == OWN


def test_d2_includes_bring_only_what_may_be_seen(app: httpx.Client, system: httpx.Client) -> None:
    everything = {
        "_include": ["Observation:subject", "Observation:derived-from", "Observation:performer"],
        "_revinclude": ["Observation:derived-from"],
    }

    brought = found(app.get("/Observation", params=everything), "include")

    assert brought == {"Patient/anna", "Practitioner/dr"}
    assert "Patient/bruno" in found(system.get("/Observation", params=everything), "include")
    reverse = {"_revinclude": ["Observation:focus", "Observation:subject", "Patient:link"]}
    assert found(app.get("/Patient", params=reverse), "include") == OWN - {"Observation/b-by-a"}
    assert "Observation/b-focus-a" in found(system.get("/Patient", params=reverse), "include")


def test_d2_included_types_need_a_scope_of_their_own(
    door: Door, tenant: Tenant, anna: UUID
) -> None:
    narrow = door.caller(tenant, "patient/Observation.rs", patient=anna)
    include = {"_include": ["Observation:subject", "Observation:performer"]}

    assert found(narrow.get("/Observation", params=include), "include") == set()
    assert narrow.get("/Patient/anna").status_code == 403


def test_d2_a_page_link_of_another_shows_only_ones_own(
    app: httpx.Client, system: httpx.Client
) -> None:
    page = system.get("/Observation", params={"_count": "1"}).json()
    link = next(x["url"] for x in page["link"] if x["relation"] == "next")

    assert found(app.get(link)) <= OWN


def test_constraints_of_a_scope_narrow_reads_searches_and_includes(
    door: Door, tenant: Tenant, anna: UUID
) -> None:
    narrow = door.caller(
        tenant,
        "patient/Patient.rs patient/Observation.rs?category=urn:categories|laboratory"
        " patient/Observation.rs?category=exam&_id=a-exam",
        patient=anna,
    )

    assert found(narrow.get("/Observation")) == {"Observation/a-lab", "Observation/a-exam"}
    assert narrow.get("/Observation/a-lab").status_code == 200
    assert narrow.get("/Observation/a-lab/_history").status_code == 200
    assert narrow.get("/Observation/a-exam/_history/1").status_code == 200
    assert_like_nothing(narrow, "/Observation/{}", "a-derived")
    assert_like_nothing(narrow, "/Observation/{}/_history/1", "a-derived")
    reverse = {"_revinclude": "Observation:subject"}
    assert found(narrow.get("/Patient", params=reverse), "include") == {
        "Observation/a-lab",
        "Observation/a-exam",
    }


def test_a_constraint_that_is_no_search_admits_nothing(
    door: Door, tenant: Tenant, anna: UUID
) -> None:
    for constraint in ("nonsense=1", "date=yesterday", "_has=x"):
        scope = f"patient/Observation.rs?{constraint}"
        narrow = door.caller(tenant, scope, patient=anna)
        assert found(narrow.get("/Observation")) == set()
        assert_like_nothing(narrow, "/Observation/{}", "a-lab")


def test_a_patient_scope_without_a_patient_opens_nothing(door: Door, tenant: Tenant) -> None:
    nobody = door.caller(tenant, "patient/*.cruds")

    assert nobody.get("/Observation").status_code == 403
    assert nobody.get("/Patient/anna").status_code == 403


@pytest.fixture(scope="module")
def moved(system: httpx.Client) -> str:
    """Bruno's, then Anna's, then Bruno's again, then gone, then Anna's."""
    for subject in (BRUNO, ANNA, BRUNO):
        put(system, observation("moved", subject))
    system.delete("/Observation/moved").raise_for_status()
    put(system, observation("moved", ANNA))
    return "moved"


class TestHistory:
    """security.md D5: each version is judged by itself."""

    def test_only_the_versions_of_the_patient_are_shown(
        self, app: httpx.Client, moved: str
    ) -> None:
        bundle = app.get(f"/Observation/{moved}/_history").json()

        tags = [entry["response"]["etag"] for entry in bundle["entry"]]
        assert tags == ['W/"5"', 'W/"2"']
        assert bundle["total"] == 2
        for number, status in (("1", 404), ("2", 200), ("3", 404), ("4", 404), ("5", 200)):
            assert app.get(f"/Observation/{moved}/_history/{number}").status_code == status
        assert comparable(app.get(f"/Observation/{moved}/_history/3")) == comparable(
            app.get(f"/Observation/{moved}/_history/99")
        )

    def test_pages_of_history_hold_visible_versions_only(
        self, app: httpx.Client, moved: str
    ) -> None:
        page = app.get(f"/Observation/{moved}/_history", params={"_count": "1"}).json()
        link = next(x["url"] for x in page["link"] if x["relation"] == "next")
        rest = app.get(link).json()

        assert [e["response"]["etag"] for e in page["entry"]] == ['W/"5"']
        assert [e["response"]["etag"] for e in rest["entry"]] == ['W/"2"']
        assert [x["relation"] for x in rest["link"]] == ["self"]

    @pytest.mark.parametrize("url", ["/Observation/_history", "/_history"])
    def test_histories_of_types_and_of_everything_hold_visible_versions_only(
        self, app: httpx.Client, system: httpx.Client, moved: str, url: str
    ) -> None:
        def pages(client: httpx.Client, count: str) -> list[tuple[str, str]]:
            shown: list[tuple[str, str]] = []
            page = client.get(url, params={"_count": count}).json()
            while True:
                for entry in page.get("entry", []):
                    reference = "/".join(entry["fullUrl"].split("/")[-2:])
                    shown.append((reference, entry["response"]["etag"]))
                links = {link["relation"]: link["url"] for link in page["link"]}
                if "next" not in links:
                    return shown
                page = client.get(links["next"]).json()

        everything, seen = pages(system, "1000"), pages(app, "3")

        assert [one for one in seen if one[0] == f"Observation/{moved}"] == [
            (f"Observation/{moved}", 'W/"5"'),
            (f"Observation/{moved}", 'W/"2"'),
        ]
        assert seen == [one for one in everything if one in set(seen)]
        assert {one for one, _ in seen} >= OWN
        hidden = {"Observation/b-lab", "Observation/b-focus-a", "Patient/bruno", "Basic/nobodys"}
        assert not {one for one, _ in seen} & hidden
        for reference, tag in everything:
            number = tag.removeprefix('W/"').rstrip('"')
            status = app.get(f"/{reference}/_history/{number}").status_code
            assert ((reference, tag) in seen) == (status in (200, 410)), (reference, tag)
        counted = app.get(url, params={"_summary": "count"}).json()
        assert counted["total"] == len(seen)

    def test_what_was_moved_away_is_gone_and_its_own_versions_stay(
        self, app: httpx.Client, system: httpx.Client
    ) -> None:
        put(system, observation("left", ANNA))
        put(system, observation("left", BRUNO))

        assert_like_nothing(app, "/Observation/{}", "left")
        assert app.get("/Observation/left/_history/1").status_code == 200
        assert_like_nothing(app, "/Observation/{}/_history/2", "left")

    def test_a_deletion_shows_only_where_the_deleted_showed(
        self, app: httpx.Client, system: httpx.Client
    ) -> None:
        put(system, observation("gone-a", ANNA))
        put(system, observation("gone-b", BRUNO))
        system.delete("/Observation/gone-a").raise_for_status()
        system.delete("/Observation/gone-b").raise_for_status()

        assert app.get("/Observation/gone-a").status_code == 410
        assert app.get("/Observation/gone-a/_history/2").status_code == 410
        for url in ("/Observation/{}", "/Observation/{}/_history", "/Observation/{}/_history/2"):
            assert_like_nothing(app, url, "gone-b")


class TestWrites:
    """What is written lies within what the caller may write, before and after."""

    def create(self, client: httpx.Client, body: dict[str, Any]) -> httpx.Response:
        url = f"/{body['resourceType']}"
        body = {k: v for k, v in body.items() if k != "id"}
        return client.post(url, content=json.dumps(body), headers=FHIR_JSON)

    def test_only_ones_own_is_created(self, app: httpx.Client) -> None:
        assert self.create(app, observation("", ANNA)).status_code == 201
        other = self.create(app, observation("", BRUNO))
        nobody = self.create(app, observation("", {"reference": "Patient/never"}))
        assert other.status_code == nobody.status_code == 403
        assert other.content == nobody.content
        without = {k: v for k, v in observation("", ANNA).items() if k != "subject"}
        assert self.create(app, without).status_code == 403
        assert self.create(app, {"resourceType": "Patient"}).status_code == 403
        assert self.create(app, {"resourceType": "Practitioner"}).status_code in (201, 403)

    def test_references_to_the_invisible_are_answered_like_missing_ones(
        self, app: httpx.Client
    ) -> None:
        def refusal(name: str) -> str:
            body = observation("", ANNA, derivedFrom=[{"reference": f"Observation/{name}"}])
            response = self.create(app, body)
            assert response.status_code == 422, response.text
            return response.text.replace(name, "?")

        assert refusal("b-lab") == refusal("never")
        fine = observation(
            "",
            ANNA,
            derivedFrom=[{"reference": "Observation/a-lab"}],
            performer=[{"reference": "Practitioner/dr"}],
        )
        assert self.create(app, fine).status_code == 201

    def test_an_update_cannot_reach_or_leave(self, app: httpx.Client, system: httpx.Client) -> None:
        put(system, observation("mine", ANNA))
        put(system, observation("theirs", BRUNO))

        def update(id_: str, subject: dict[str, str], **headers: str) -> httpx.Response:
            body = json.dumps(observation(id_, subject, status="amended"))
            return app.put(f"/Observation/{id_}", content=body, headers=FHIR_JSON | headers)

        assert update("mine", ANNA).status_code == 200
        assert update("mine", BRUNO).status_code == 403
        hidden, nothing = update("theirs", ANNA), update("xxxxxx", ANNA)
        assert hidden.status_code == 404
        assert comparable(hidden) == comparable(nothing)
        match = {"If-Match": 'W/"1"'}
        hidden, nothing = update("theirs", ANNA, **match), update("xxxxxx", ANNA, **match)
        assert hidden.status_code == 412
        assert comparable(hidden) == comparable(nothing)
        assert system.get("/Observation/mine").json()["subject"] == ANNA
        assert system.get("/Observation/theirs").json()["status"] == "final"

    def test_a_deletion_of_the_invisible_does_nothing(
        self, app: httpx.Client, system: httpx.Client
    ) -> None:
        put(system, observation("kept", BRUNO))
        put(system, observation("dropped", ANNA))

        hidden, nothing = app.delete("/Observation/kept"), app.delete("/Observation/xxxx")

        assert hidden.status_code == 204
        assert comparable(hidden) == comparable(nothing)
        assert system.get("/Observation/kept").status_code == 200
        assert app.delete("/Observation/dropped").status_code == 204
        assert system.get("/Observation/dropped").status_code == 410

    def test_what_may_be_read_and_not_written_is_refused_as_such(
        self, door: Door, tenant: Tenant, anna: UUID, system: httpx.Client
    ) -> None:
        put(system, observation("exam", ANNA, category=[EXAM]))
        narrow = door.caller(
            tenant, "patient/Observation.rs patient/Observation.ud?category=laboratory",
            patient=anna,
        )  # fmt: skip

        body = json.dumps(observation("exam", ANNA, category=[LABORATORY]))
        assert narrow.put("/Observation/exam", content=body, headers=FHIR_JSON).status_code == 403
        assert narrow.delete("/Observation/exam").status_code == 403
        body = json.dumps(observation("a-lab", ANNA, category=[EXAM]))
        assert narrow.put("/Observation/a-lab", content=body, headers=FHIR_JSON).status_code == 403
