"""QIDO-RS and C-FIND are two doors to one search: the same keys find the same, with one answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from tests.integration.dicomweb.conftest import Server, server
from tests.integration.dimse.conftest import register
from tests.integration.dimse.finding import Archive, associated, filled, find, listening

__all__ = ["server"]

UNIQUE = {"studies": "StudyInstanceUID", "series": "SeriesInstanceUID"}
LEVELS = {"studies": "STUDY", "series": "SERIES", "instances": "IMAGE"}


@pytest.fixture(scope="module")
def archive(server: Server, tenant: Any, other_tenant: Any) -> Archive:
    with server.services.database.connection(tenant.id) as connection:
        register(connection, tenant, "PEER")
    return filled(server.services, tenant, other_tenant)


@pytest.fixture(scope="module")
def association(server: Server, archive: Archive) -> Iterator[Any]:
    # Relational and combined, as QIDO-RS always is (PS3.18 8.3.4).
    with listening(server.services) as port, associated(port, extended=b"\1\1\1") as opened:
        yield opened


@pytest.fixture(scope="module")
def http(server: Server, tenant: Any) -> Any:
    return server.session(tenant)


@pytest.mark.parametrize("level", ["studies", "series", "instances"])
@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"PatientID": "P1"},
        {"PatientID": "P?"},
        {"PatientName": "doe^j*"},
        {"PatientName": "müller^jörg"},
        {"PatientName": "*J?RG"},
        {"StudyDate": "20260102"},
        {"StudyDate": "20191224-20260102"},
        {"StudyDate": "-20251231"},
        {"StudyTime": "2300-2359"},
        {"StudyDate": "20260102-20260103", "StudyTime": "101113-2329"},
        {"AccessionNumber": "A1"},
        {"AccessionNumber": "a1"},
        {"ModalitiesInStudy": "IO"},
        {"ModalitiesInStudy": "C*"},
        {"PatientSex": "M"},
        {"PatientBirthDate": "19800215"},
        {"ReferringPhysicianName": "ref^*"},
        {"StudyDescription": "*jaw"},
        {"NumberOfStudyRelatedSeries": "2"},
        {"IssuerOfPatientID": "CLINIC", "PatientSex": "F"},
    ],
    ids=str,
)
def test_the_same_keys_find_the_same(
    association: Any,
    server: Server,
    http: Any,
    tenant: Any,
    level: str,
    keys: dict[str, str],
) -> None:
    unique = UNIQUE.get(level, "SOPInstanceUID")
    tag = f"{tag_for_keyword(unique):08X}"

    answer = http.get(f"{server.root(tenant)}/{level}", params=keys)
    found = find(association, _identifier(level, {unique: "", **keys}))

    assert answer.status_code == 200
    by_web = sorted(match[tag]["Value"][0] for match in answer.json())
    assert sorted(found.values(unique)) == by_web
    assert found.status.Status == 0
    # Some find something and some nothing, or the test would say little.
    assert len(by_web) <= 8


def _identifier(level: str, keys: dict[str, str]) -> Dataset:
    asked = Dataset()
    asked.QueryRetrieveLevel = LEVELS[level]
    asked.SpecificCharacterSet = "ISO_IR 192"
    for keyword, value in keys.items():
        tag = tag_for_keyword(keyword)
        assert tag is not None
        asked.add(DataElement(tag, dictionary_VR(tag), value, validation_mode=0))
    return asked


@pytest.mark.parametrize("level", ["studies", "series", "instances"])
def test_every_attribute_has_the_same_value(
    association: Any,
    server: Server,
    http: Any,
    tenant: Any,
    level: str,
) -> None:
    """What QIDO-RS returns unasked, asked for by C-FIND: by columns here, from JSON there."""
    answer = http.get(f"{server.root(tenant)}/{level}").json()
    # What only one of the two has: the character set is the transport's, the URL the web's.
    own = {"00080005", "00081190", "00080056", "00083002"}
    unique = f"{tag_for_keyword(UNIQUE.get(level, 'SOPInstanceUID')):08X}"

    for result in answer:
        tags = {tag: value for tag, value in result.items() if tag not in own}
        for asked in (tags, {tag: value for tag, value in tags.items() if value["vr"] != "SQ"}):
            identifier = _identifier(level, {})
            for tag, value in asked.items():
                is_unique = tag == unique
                given = value["Value"][0] if is_unique else [] if value["vr"] == "SQ" else None
                identifier.add_new(int(tag, 16), value["vr"], given)

            (match,) = find(association, identifier).matches

            returned = match.to_json_dict()
            assert {tag: _values(returned[tag]) for tag in asked} == {
                tag: _values(value) for tag, value in asked.items()
            }


def _values(attribute: dict[str, Any]) -> Any:
    """Values in the form that both have: numbers of strings are numbers of JSON."""
    values = attribute.get("Value", [])
    return [value if isinstance(value, dict) else str(value) for value in values]
