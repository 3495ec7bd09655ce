"""Operations on records: $everything, $lastn, $meta, $meta-add and $meta-delete."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import pytest

from interop.fhir.everything import ENCOUNTER, compartment
from interop.fhir.xml import from_xml, to_xml
from storage.tenancy import Tenant

Outcome = Callable[..., dict[str, Any]]
FHIR_JSON = {"Content-Type": "application/fhir+json"}
EXAMPLE = Path(__file__).parents[4] / "shared/fhir/examples/compartmentdefinition-encounter.json"
ANNA, BRUNO = {"reference": "Patient/anna"}, {"reference": "Patient/bruno"}
HL7 = "http://terminology.hl7.org/CodeSystem"
DR = {"reference": "Practitioner/dr"}
VISIT = {"reference": "Encounter/visit"}


def code(text: str) -> dict[str, Any]:
    return {"coding": [{"system": "urn:codes", "code": text}]}


def observation(id_: str, what: str, when: str, subject: Any = ANNA, **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "Observation", "id": id_, "status": "final", "code": code(what),
        "subject": subject, "effectiveDateTime": when, **more,
    }  # fmt: skip


RECORDS: list[dict[str, Any]] = [
    {"resourceType": "Organization", "id": "clinic", "name": "Clinic"},
    {"resourceType": "Practitioner", "id": "dr", "name": [{"family": "Who"}]},
    {"resourceType": "Patient", "id": "anna", "managingOrganization":
        {"reference": "Organization/clinic"}},
    {"resourceType": "Patient", "id": "bruno"},
    {"resourceType": "Encounter", "id": "visit", "status": "finished", "class": {"code": "AMB"},
     "subject": ANNA, "period": {"start": "2024-03-01", "end": "2024-03-01"}},
    observation("pulse-1", "pulse", "2024-01-01T10:00:00Z", category=[code("vital")]),
    observation("pulse-2", "pulse", "2024-03-01T10:00:00Z", encounter=VISIT, performer=[DR]),
    observation("pulse-3", "pulse", "2024-02-01T10:00:00Z"),
    observation("depth-1", "depth", "2024-01-15T10:00:00Z", category=[code("vital")]),
    observation("depth-2", "depth", "2024-02-15T10:00:00Z"),
    observation("of-bruno", "pulse", "2024-06-01T10:00:00Z", subject=BRUNO, focus=[ANNA]),
    {"resourceType": "AllergyIntolerance", "id": "nuts", "patient": ANNA,
     "clinicalStatus": {"coding": [{"system": f"{HL7}/allergyintolerance-clinical",
                                    "code": "active"}]}},
    {"resourceType": "Condition", "id": "caries", "subject": ANNA, "encounter": VISIT,
     "clinicalStatus": {"coding": [{"system": f"{HL7}/condition-clinical", "code": "active"}]}},
    {"resourceType": "Basic", "id": "nobodys", "code": code("x")},
]  # fmt: skip
OF_ANNA = {
    "Patient/anna", "Encounter/visit", "AllergyIntolerance/nuts", "Condition/caries",
    *(f"Observation/{one}" for one in ("pulse-1", "pulse-2", "pulse-3", "depth-1", "depth-2")),
}  # fmt: skip
AROUND = {"Practitioner/dr", "Organization/clinic"}


@pytest.fixture(scope="module")
def records(fhir: httpx.Client) -> None:
    for resource in RECORDS:
        url = f"/{resource['resourceType']}/{resource['id']}"
        put = fhir.put(url, content=json.dumps(resource), headers=FHIR_JSON)
        assert put.status_code == 201, put.text


def shown(bundle: dict[str, Any], mode: str = "") -> list[str]:
    assert bundle["resourceType"] == "Bundle", bundle
    return [
        f"{entry['resource']['resourceType']}/{entry['resource']['id']}"
        for entry in bundle.get("entry", [])
        if mode in ("", entry["search"]["mode"])
    ]


def pages(fhir: httpx.Client, url: str) -> Iterator[dict[str, Any]]:
    while url:
        bundle = fhir.get(url).json()
        yield bundle
        url = next((x["url"] for x in bundle["link"] if x["relation"] == "next"), "")


class TestEverything:
    @pytest.fixture(autouse=True)
    def _records(self, records: None) -> None:
        pass

    def test_of_a_patient_is_the_compartment_and_those_who_treat(self, fhir: httpx.Client) -> None:
        bundle = fhir.get("/Patient/anna/$everything").json()

        assert set(shown(bundle, "match")) == OF_ANNA
        assert set(shown(bundle, "include")) == AROUND
        assert bundle["type"] == "searchset"
        assert bundle["link"][0]["url"].endswith("/Patient/anna/$everything")

    def test_of_an_encounter(self, fhir: httpx.Client) -> None:
        bundle = fhir.get("/Encounter/visit/$everything").json()

        assert set(shown(bundle, "match")) == {
            "Encounter/visit", "Condition/caries", "Observation/pulse-2"
        }  # fmt: skip
        assert set(shown(bundle, "include")) == {"Patient/anna", "Practitioner/dr"}

    def test_of_all_patients(self, fhir: httpx.Client) -> None:
        found = [one for page in pages(fhir, "/Patient/$everything?_count=4")
                 for one in shown(page, "match")]  # fmt: skip

        assert set(found) == OF_ANNA | {"Patient/bruno", "Observation/of-bruno"}
        assert len(found) == len(set(found))

    def test_pages_hold_everything_once(self, fhir: httpx.Client) -> None:
        found = [shown(page, "match") for page in pages(fhir, "/Patient/anna/$everything?_count=2")]

        assert all(len(page) == 2 for page in found[:-1])
        assert sorted(one for page in found for one in page) == sorted(OF_ANNA)

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ("_type=Observation,Patient", {"Patient/anna", "Observation/pulse-1",
             "Observation/pulse-2", "Observation/pulse-3", "Observation/depth-1",
             "Observation/depth-2"}),
            ("_type=Condition", {"Condition/caries"}),
            ("start=2024-03-01", {"Patient/anna", "Encounter/visit", "AllergyIntolerance/nuts",
                                  "Condition/caries", "Observation/pulse-2"}),
            ("end=2024-01-10&_type=Observation", {"Observation/pulse-1"}),
            ("start=2024-01-10&end=2024-02-10&_type=Observation",
             {"Observation/pulse-3", "Observation/depth-1"}),
            ("_since=2001-01-01T00:00:00Z", OF_ANNA),
            ("_since=2099-01-01T00:00:00Z", set()),
        ],
    )  # fmt: skip
    def test_parameters_narrow_it_also_by_post(
        self, fhir: httpx.Client, query: str, expected: set[str]
    ) -> None:
        bundle = fhir.get(f"/Patient/anna/$everything?{query}").json()
        kinds = {"_type": "valueString", "start": "valueDate", "end": "valueDate",
                 "_since": "valueInstant"}  # fmt: skip
        rows = [part.split("=") for part in query.split("&")]
        body = {"resourceType": "Parameters",
                "parameter": [{"name": n, kinds[n]: value} for n, value in rows]}  # fmt: skip
        posted = fhir.post("/Patient/anna/$everything", content=json.dumps(body), headers=FHIR_JSON)
        as_xml = fhir.post("/Patient/anna/$everything", content=to_xml(body),
                           headers={"Content-Type": "application/fhir+xml"})  # fmt: skip

        assert set(shown(bundle, "match")) == expected
        assert shown(posted.json(), "match") == shown(bundle, "match")
        assert shown(as_xml.json(), "match") == shown(bundle, "match")

    def test_only_what_the_scopes_show(
        self, client_for: Callable[..., httpx.Client], tenant: Tenant, fhir: httpx.Client
    ) -> None:
        narrow = client_for(tenant, "system/Patient.r system/Observation.rs")
        none = client_for(tenant, "system/Observation.rs")

        found = shown(narrow.get("/Patient/anna/$everything").json())

        assert set(found) == {one for one in OF_ANNA if one.startswith(("Patient", "Observation"))}
        assert none.get("/Patient/anna/$everything").status_code == 403

    def test_what_is_not_there_or_not_understood(
        self, fhir: httpx.Client, other_fhir: httpx.Client, assert_outcome: Outcome
    ) -> None:
        assert_outcome(fhir.get(f"/Patient/{uuid4()}/$everything"), 404, "not-found")
        assert_outcome(other_fhir.get("/Patient/anna/$everything"), 404, "not-found")
        assert shown(other_fhir.get("/Patient/$everything").json()) == []
        for query in ("nonsense=1", "_type=Nonsense", "start=x", "_since=x", "_count=x",
                      "_cursor=x"):  # fmt: skip
            assert_outcome(fhir.get(f"/Patient/anna/$everything?{query}"), 400)
        assert_outcome(fhir.get("/Encounter/visit/$everything?start=2024"), 400)


@pytest.mark.skipif(not EXAMPLE.is_file(), reason="no official examples at hand")
def test_the_record_of_an_encounter_has_its_whole_compartment() -> None:
    rows = json.loads(EXAMPLE.read_bytes())["resource"]
    official = {row["code"]: tuple(row["param"]) for row in rows if row.get("param")}
    official[ENCOUNTER] = ()

    assert {type_: compartment(ENCOUNTER).get(type_) for type_ in official} == official


class TestLastN:
    @pytest.fixture(autouse=True)
    def _records(self, records: None) -> None:
        pass

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ("patient=anna&code=pulse", ["pulse-2"]),
            ("patient=anna&code=pulse&max=2", ["pulse-2", "pulse-3"]),
            ("subject=Patient/anna&code=pulse,depth&max=2",
             ["depth-2", "depth-1", "pulse-2", "pulse-3"]),
            ("patient=anna&category=vital", ["depth-1", "pulse-1"]),
            ("patient=anna&code=pulse&date=lt2024-02-15", ["pulse-3"]),
            ("patient=bruno&code=pulse&max=3", ["of-bruno"]),
        ],
    )  # fmt: skip
    def test_shows_the_newest_of_each_code(
        self, fhir: httpx.Client, query: str, expected: list[str]
    ) -> None:
        bundle = fhir.get(f"/Observation/$lastn?{query}").json()

        assert shown(bundle) == [f"Observation/{one}" for one in expected]
        assert urlsplit(bundle["link"][0]["url"]).path.endswith("/Observation/$lastn")

    def test_takes_parameters_by_post(self, fhir: httpx.Client) -> None:
        body = {"resourceType": "Parameters", "parameter": [
            {"name": "patient", "valueReference": ANNA},
            {"name": "code", "valueString": "urn:codes|pulse"},
            {"name": "max", "valuePositiveInt": 2}]}  # fmt: skip

        bundle = fhir.post("/Observation/$lastn", content=json.dumps(body), headers=FHIR_JSON)

        assert shown(bundle.json()) == ["Observation/pulse-2", "Observation/pulse-3"]

    def test_says_what_it_needs(self, fhir: httpx.Client, assert_outcome: Outcome) -> None:
        for query, said in (
            ("code=pulse", "patient, subject"),
            ("patient=anna", "code, category"),
            ("patient=anna&code=pulse&max=0", "a number from 1"),
            ("patient=anna&code=pulse&_sort=date", "no _sort"),
            ("patient=anna&code=pulse&nonsense=1", "nonsense"),
        ):
            outcome = assert_outcome(fhir.get(f"/Observation/$lastn?{query}"), 400)
            assert said in outcome["issue"][0]["diagnostics"]


TAG = {"system": "urn:tags", "code": "red"}
LABEL = {"system": "urn:labels", "code": "secret"}
PROFILE = "http://example.org/StructureDefinition/own"


def meta_body(**meta: Any) -> str:
    return json.dumps(
        {"resourceType": "Parameters", "parameter": [{"name": "meta", "valueMeta": meta}]}
    )


def returned(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    parameters = response.json()
    assert [row["name"] for row in parameters["parameter"]] == ["return"]
    return parameters["parameter"][0].get("valueMeta", {})  # type: ignore[no-any-return]


class TestMeta:
    def make(self, fhir: httpx.Client) -> str:
        body = {"resourceType": "Basic", "code": code("meta"), "meta": {"tag": [TAG]}}
        made = fhir.post("/Basic", content=json.dumps(body), headers=FHIR_JSON)
        return f"/Basic/{made.json()['id']}"

    def test_labels_are_added_and_deleted_in_new_versions(self, fhir: httpx.Client) -> None:
        url = self.make(fhir)
        added = meta_body(tag=[TAG, {"code": "blue"}], security=[LABEL], profile=[PROFILE])

        first = returned(fhir.get(f"{url}/$meta"))
        after = fhir.post(f"{url}/$meta-add", content=added, headers=FHIR_JSON)
        again = returned(fhir.get(f"{url}/$meta"))
        removed = meta_body(tag=[TAG], security=[LABEL], profile=[PROFILE])
        left = fhir.post(f"{url}/$meta-delete", content=removed, headers=FHIR_JSON)

        assert first["tag"] == [TAG] and first["versionId"] == "1"
        assert returned(after) == again
        assert again["tag"] == [TAG, {"code": "blue"}]
        assert again["security"] == [LABEL] and again["profile"] == [PROFILE]
        assert again["versionId"] == "2" and after.headers["etag"] == 'W/"2"'
        assert returned(left)["tag"] == [{"code": "blue"}]
        assert not {"security", "profile"} & returned(left).keys()
        assert fhir.get(url).json()["meta"] == returned(left)
        assert returned(fhir.get(f"{url}/_history/2/$meta")) == again

    def test_labels_of_a_type_and_of_everything(
        self, fhir: httpx.Client, other_fhir: httpx.Client,
        client_for: Callable[..., httpx.Client], tenant: Tenant,
    ) -> None:  # fmt: skip
        url = self.make(fhir)
        mine = {"system": "urn:tags", "code": uuid4().hex}
        fhir.post(f"{url}/$meta-add", content=meta_body(tag=[mine]), headers=FHIR_JSON)
        blind = client_for(tenant, "system/Flag.r")

        assert mine in returned(fhir.get("/Basic/$meta"))["tag"]
        assert mine in returned(fhir.get("/$meta"))["tag"]
        assert mine not in returned(fhir.get("/Flag/$meta")).get("tag", [])
        assert mine not in returned(blind.get("/$meta")).get("tag", [])
        assert blind.get("/Basic/$meta").status_code == 403
        assert returned(other_fhir.get("/$meta")) == {}

    def test_what_the_server_says_is_not_for_clients(
        self, fhir: httpx.Client, assert_outcome: Outcome
    ) -> None:
        url = self.make(fhir)
        asserted = {"system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue",
                    "code": "AIAST"}  # fmt: skip

        for body, status in (
            (meta_body(versionId="9"), 400),
            (meta_body(lastUpdated="2020-01-01T00:00:00Z"), 400),
            (meta_body(source="urn:x"), 400),
            ('{"resourceType":"Parameters"}', 400),
        ):
            refused = fhir.post(f"{url}/$meta-add", content=body, headers=FHIR_JSON)
            assert_outcome(refused, status)
        body = meta_body(security=[asserted])
        refused = fhir.post(f"{url}/$meta-delete", content=body, headers=FHIR_JSON)
        assert_outcome(refused, 422, "processing")
        stale = {**FHIR_JSON, "If-Match": 'W/"7"'}
        refused = fhir.post(f"{url}/$meta-add", content=meta_body(tag=[TAG]), headers=stale)
        assert_outcome(refused, 412)
        missing = fhir.post(
            f"/Basic/{uuid4()}/$meta-add", content=meta_body(tag=[TAG]), headers=FHIR_JSON
        )
        assert_outcome(missing, 404, "not-found")

    def test_in_xml(self, fhir: httpx.Client) -> None:
        url = self.make(fhir)
        found = fhir.get(f"{url}/$meta", headers={"Accept": "application/fhir+xml"})

        assert from_xml(found.content)["parameter"][0]["valueMeta"]["tag"] == [TAG]
