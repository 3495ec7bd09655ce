"""Extended query tags: registered, built from what is stored, kept by ingest, removed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pydicom
import pytest
import requests
from pydicom.uid import generate_uid

from interop.dicom import query_tags
from interop.dicom.query.attributes import Level
from interop.errors import BadRequest, Conflict, NotFound
from storage.tenancy import Tenant
from storage.tenants.changes import OPERATOR
from tests.integration.dicomweb.conftest import Server, Store

Image = Callable[..., pydicom.Dataset]
Encode = Callable[[pydicom.Dataset], bytes]
CREATOR = "ACME 1.1"


class Tags:
    """Registers query tags, and has the job run."""

    def __init__(self, server: Server, tenant: Tenant) -> None:
        self.database, self.tenant_id = server.services.database, tenant.id

    def register(self, path: str, level: Level, **options: Any) -> query_tags.Registered:
        with self.database.connection(self.tenant_id) as connection:
            return query_tags.register(connection, self.tenant_id, path, level, OPERATOR, **options)

    def build(self) -> int:
        return query_tags.index_stored(self.database, self.tenant_id)

    def find(self, path: str) -> query_tags.Registered:
        with self.database.connection(self.tenant_id) as connection:
            return query_tags.find(connection, self.tenant_id, path)

    def errors(self, path: str) -> list[dict[str, Any]]:
        with self.database.connection(self.tenant_id) as connection:
            tag_id = query_tags.find(connection, self.tenant_id, path).id
            return query_tags.errors_of(connection, self.tenant_id, tag_id, None, 100)

    def remove(self, path: str) -> None:
        with self.database.connection(self.tenant_id) as connection:
            query_tags.remove(connection, self.tenant_id, path, OPERATOR)

    def all(self) -> list[str]:
        with self.database.connection(self.tenant_id) as connection:
            return [one.path for one in query_tags.list_all(connection, self.tenant_id)]

    def rows(self) -> int:
        with self.database.connection(self.tenant_id) as connection:
            row = connection.execute(
                "SELECT count(*) FROM dicom_query_tag_values WHERE tenant_id = %s",
                (self.tenant_id,),
            ).fetchone()
        assert row is not None
        return int(row[0])


@pytest.fixture
def tags(server: Server, tenant: Tenant) -> Iterator[Tags]:
    registry = Tags(server, tenant)
    yield registry
    for path in registry.all():
        registry.remove(path)
    registry.build()
    assert registry.rows() == 0


@pytest.fixture
def send(store: Store, image: Image, encode: Encode) -> Callable[..., pydicom.Dataset]:
    def one(**attributes: Any) -> pydicom.Dataset:
        unit = attributes.pop("unit", None)
        dataset = image(StudyInstanceUID=generate_uid(), **attributes)
        if unit is not None:
            block = dataset.private_block(0x0011, CREATOR, create=True)
            block.add_new(0x01, "LO", unit)
        assert store(encode(dataset)).status_code == 200
        return dataset

    return one


@pytest.fixture
def find(http: requests.Session, root: str) -> Callable[..., set[str]]:
    def found(level: str, tag: str = "0020000D", **parameters: str) -> set[str]:
        answer = http.get(f"{root}/{level}", params=parameters)
        assert answer.status_code == 200, answer.text
        return {one[tag]["Value"][0] for one in answer.json()}

    return found


def test_a_tag_is_matched_once_all_that_is_stored_is_indexed(
    tags: Tags, send: Any, find: Any, http: requests.Session, root: str
) -> None:
    before = send(PatientAge="052Y")
    send(PatientAge="053Y")
    made = tags.register("PatientAge", Level.STUDY)
    assert (made.path, made.vr, made.status) == ("00101010", "AS", "BUILDING")
    refused = http.get(f"{root}/studies?PatientAge=052Y")
    assert refused.status_code == 400
    assert "cannot be matched" in refused.json()["error"]
    # Between the registration and the job.
    between = send(PatientAge="052Y")

    assert tags.build() >= 3
    ready = tags.find("PatientAge")
    after = send(PatientAge="052Y")
    again = send(PatientAge="052Y", StudyDate="20210101")

    assert (ready.status, ready.done, ready.errors) == ("READY", ready.total, 0)
    expected = {one.StudyInstanceUID for one in (before, between, after, again)}
    assert find("studies", PatientAge="052Y") == expected
    assert find("series", **{"00101010": "05?Y"}) > expected
    answer = http.get(f"{root}/studies?PatientAge=052Y&limit=1")
    assert answer.json()[0]["00101010"]["Value"] == ["052Y"]
    assert find("studies", PatientAge="052Y", StudyDate="20210101") == {again.StudyInstanceUID}


def test_objects_of_a_study_that_is_arriving_are_indexed_too(
    tags: Tags, send: Any, find: Any, store: Store, image: Image, encode: Encode
) -> None:
    """The second object comes while this process remembers the study (decision 0009)."""
    common = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid()}
    first = image(**common, ContentLabel="ONE")
    assert store(encode(first)).status_code == 200
    tags.register("ContentLabel", Level.INSTANCE)
    second = image(**common, ContentLabel="TWO")
    assert store(encode(second)).status_code == 200
    third = image(**common, ContentLabel="TWO")
    assert store(encode(third)).status_code == 200

    tags.build()

    assert find("instances", "00080018", ContentLabel="TWO") == {
        second.SOPInstanceUID,
        third.SOPInstanceUID,
    }
    assert find("instances", "00080018", ContentLabel="ONE") == {first.SOPInstanceUID}


def test_private_tags_are_found_in_the_block_of_their_creator(
    tags: Tags, send: Any, find: Any, image: Image, store: Store, encode: Encode
) -> None:
    mine = send(unit="Chair 4")
    other = image(StudyInstanceUID=generate_uid())
    other.private_block(0x0011, "SOMEBODY ELSE", create=True).add_new(0x01, "LO", "Chair 4")
    other.private_block(0x0011, CREATOR, create=True).add_new(0x01, "LO", "Chair 5")
    assert store(encode(other)).status_code == 200

    tags.register("00111001", Level.SERIES, vr="LO", private_creator=CREATOR)
    tags.build()

    assert find("series", **{"00111001": "Chair 4"}) == {mine.StudyInstanceUID}
    assert find("series", **{"00111001": "Chair 5"}) == {other.StudyInstanceUID}


def test_elements_of_sequences_and_their_values(tags: Tags, send: Any, find: Any) -> None:
    code, reader = pydicom.Dataset(), pydicom.Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "T-54", "SRT", "Tooth"
    reader.RequestedProcedureDescription = "Bite"
    sent = send(
        ProcedureCodeSequence=[code],
        OtherPatientNames="Çelik^Ümit\\Celik^U",
        AcquisitionDateTime="20260704233000+0200",
        PatientWeight="70.50",
    )
    tags.register("ProcedureCodeSequence.CodeValue", Level.STUDY)
    tags.register("OtherPatientNames", Level.STUDY)
    tags.register("AcquisitionDateTime", Level.INSTANCE)
    tags.register("PatientWeight", Level.STUDY)
    tags.build()
    (study, instance) = {sent.StudyInstanceUID}, {sent.SOPInstanceUID}

    assert find("studies", **{"ProcedureCodeSequence.CodeValue": "T-5*"}) == study
    assert find("studies", OtherPatientNames="celik^umit") == study
    assert (
        find("studies", OtherPatientNames="CELIK^U\\celik^ümit", multiplevaluematching="true")
        == study
    )
    assert (
        find("studies", OtherPatientNames="celik^u\\nobody", multiplevaluematching="true") == set()
    )
    assert find("studies", PatientWeight="70.5") == study
    moments = {"20260704213000+0000": instance, "20260704213001+0000-": set(),
               "20260704-20260705": instance, "-202607042131+0000": instance}  # fmt: skip
    for asked, expected in moments.items():
        assert find("instances", "00080018", AcquisitionDateTime=asked) == expected, asked
    assert sent.StudyInstanceUID not in find(
        "studies", PatientWeight='""', emptyvaluematching="true"
    )


def test_a_value_that_breaks_its_vr_is_counted_and_stored_all_the_same(
    tags: Tags, send: Any, find: Any, server: Server, tenant: Tenant
) -> None:
    tags.register("DateOfSecondaryCapture", Level.INSTANCE)
    good = send(DateOfSecondaryCapture="20260704")
    with server.services.database.connection(tenant.id) as connection:
        connection.execute(
            "UPDATE imaging_objects SET dicom_json = replace(dicom_json, '20260704', '4 July')"
            " WHERE tenant_id = %s AND sop_instance_uid = %s",
            (tenant.id, send(DateOfSecondaryCapture="20260704").SOPInstanceUID),
        )
    tags.remove("DateOfSecondaryCapture")
    tags.build()
    tags.register("DateOfSecondaryCapture", Level.INSTANCE)
    tags.build()

    assert find("instances", "00080018", DateOfSecondaryCapture="2026070" + "4") == {
        good.SOPInstanceUID
    }
    (error,) = tags.errors("DateOfSecondaryCapture")
    assert "date" in error["message"]
    assert tags.find("DateOfSecondaryCapture").errors == 1


def test_a_removed_tag_is_not_matched_any_more(
    tags: Tags, send: Any, http: requests.Session, root: str
) -> None:
    send(PatientAge="052Y")
    tags.register("PatientAge", Level.STUDY)
    tags.build()
    tags.remove("PatientAge")

    assert http.get(f"{root}/studies?PatientAge=052Y").status_code == 400
    send(PatientAge="052Y")
    tags.build()
    with pytest.raises(NotFound):
        tags.find("PatientAge")


@pytest.mark.parametrize(
    ("path", "options", "error", "message"),
    [
        ("PatientID", {}, Conflict, "searchable already"),
        ("00111001", {"vr": "LO"}, BadRequest, "private_creator"),
        ("PatientAge", {"private_creator": "X"}, BadRequest, "not private"),
        ("PatientAge", {"vr": "LO"}, BadRequest, "VR AS"),
        ("PixelData", {}, BadRequest, "cannot be compared"),
        ("PatientAge.CodeValue", {}, BadRequest, "no sequence"),
        ("ProcedureCodeSequence", {}, BadRequest, "cannot be compared"),
        ("00080999", {}, BadRequest, "name its vr"),
        ("Nonsense", {}, BadRequest, "unknown parameter"),
    ],
)
def test_what_cannot_be_indexed_is_refused(
    tags: Tags, path: str, options: dict[str, str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        tags.register(path, Level.STUDY, **options)


def test_tags_of_another_tenant_are_not_ours(
    tags: Tags, server: Server, other_tenant: Tenant, find: Any
) -> None:
    tags.register("PatientAge", Level.STUDY)
    tags.build()
    session = server.session(other_tenant)

    answer = session.get(f"{server.root(other_tenant)}/studies?PatientAge=052Y")

    assert answer.status_code == 400
