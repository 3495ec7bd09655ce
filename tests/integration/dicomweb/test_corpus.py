"""Every DICOM file that pydicom ships for its own tests goes in, is found, and comes out unchanged.

What is refused is refused with a reason; nothing is ever answered with a 5xx.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest
import requests
from pydicom.data import get_testdata_files

Store = Callable[..., requests.Response]
Parts = Callable[[requests.Response], list[tuple[dict[str, str], bytes]]]

EXPLICIT = "1.2.840.10008.1.2.1"
AS_STORED = {"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'}
# Not data sets: directories of media, a zip, JSON, text, images.
SUFFIXES = ("", ".dcm", ".dicom", ".ima", ".img")

# Values of IS and DS that are no numbers; they are shown as the text that they are, which
# pydicom's JSON reader does not take.
INVALID_NUMBERS = frozenset(("badVR.dcm",))


def local_files() -> list[Path]:
    """What lies in the installed package; nothing is fetched."""
    root = Path(pydicom.__file__).parent
    found = {Path(name) for name in get_testdata_files() if Path(name).is_relative_to(root)}
    return sorted(p for p in found if p.is_file() and p.suffix.lower() in SUFFIXES)


def expected_bytes(file: bytes) -> bytes | None:
    """The stored form: the same with a zeroed preamble; None where a header had to be made."""
    return bytes(128) + file[128:] if file[128:132] == b"DICM" else None


@pytest.fixture(scope="module")
def answers(store: Store) -> dict[Path, requests.Response]:
    return {path: store(path.read_bytes()) for path in local_files()}


def stored_urls(answers: dict[Path, requests.Response]) -> dict[Path, str]:
    return {
        path: answer.json()["00081199"]["Value"][0]["00081190"]["Value"][0]
        for path, answer in answers.items()
        if answer.status_code in (200, 202)
    }


def test_there_is_a_corpus() -> None:
    assert len(local_files()) > 60


def test_each_file_is_stored_or_refused_with_a_reason(
    answers: dict[Path, requests.Response],
) -> None:
    for path, answer in answers.items():
        assert answer.status_code in (200, 202, 409, 413), (path.name, answer.text)
        if answer.status_code in (409, 413):
            body = answer.json()
            (item,) = (body.get("00081198") or body["0008119A"])["Value"]
            assert item["00081197"]["Value"][0] > 0, path.name
            assert item["00000902"]["Value"][0], path.name
    stored = [path for path, answer in answers.items() if answer.status_code in (200, 202)]
    assert len(stored) > len(answers) / 2, sorted(p.name for p in set(answers) - set(stored))


def test_what_was_stored_comes_back_byte_for_byte(
    http: requests.Session, answers: dict[Path, requests.Response], parts_of: Parts
) -> None:
    seen: set[str] = set()
    for path, url in stored_urls(answers).items():
        # Several files of the corpus share UIDs; the first of them is the one that is stored.
        if url in seen:
            continue
        seen.add(url)
        expected = expected_bytes(path.read_bytes())
        answer = http.get(url, headers=AS_STORED)
        assert answer.status_code == 200, path.name
        ((_, content),) = parts_of(answer)
        if expected is not None:
            assert content == expected, path.name
        else:
            assert path.read_bytes()[-512:] in content, path.name


def test_what_was_stored_is_found_and_described(
    http: requests.Session, root: str, answers: dict[Path, requests.Response]
) -> None:
    for path, url in stored_urls(answers).items():
        uid = url.rpartition("/")[2]
        found = http.get(f"{root}/instances?SOPInstanceUID={uid}&includefield=all")
        assert found.status_code == 200, path.name
        assert [r["00080018"]["Value"] for r in found.json()] == [[uid]], path.name
        metadata = http.get(f"{url}/metadata")
        assert metadata.status_code == 200, path.name
        (described,) = metadata.json()
        assert described["00080018"]["Value"] == [uid], path.name
        if path.name not in INVALID_NUMBERS:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                pydicom.Dataset.from_json(described, lambda *_: b"")


def test_everything_else_about_it_is_an_answer_and_never_a_5xx(
    http: requests.Session, answers: dict[Path, requests.Response]
) -> None:
    rendered = frames = transcoded = 0
    for path, url in stored_urls(answers).items():
        for resource, allowed in (
            ("/frames/1", (200, 404, 406, 422)),
            ("/rendered", (200, 404, 406, 422)),
            ("/thumbnail", (200, 404, 406, 422)),
        ):
            answer = http.get(url + resource)
            assert answer.status_code in allowed, (path.name, resource, answer.text)
            rendered += resource == "/rendered" and answer.status_code == 200
            frames += resource == "/frames/1" and answer.status_code == 200
        plain = http.get(url, headers={"Accept": f"application/dicom; transfer-syntax={EXPLICIT}"})
        assert plain.status_code in (200, 406, 422), (path.name, plain.text)
        transcoded += plain.status_code == 200
    print(f"{rendered} rendered, {frames} with frames, {transcoded} as {EXPLICIT}")
    assert min(rendered, frames) > 40
    assert transcoded > 60


def test_bulk_data_named_by_the_metadata_can_be_had(
    http: requests.Session, answers: dict[Path, requests.Response]
) -> None:
    def uris(item: dict[str, Any]) -> list[str]:
        found = []
        for attribute in item.values():
            if "BulkDataURI" in attribute:
                found.append(attribute["BulkDataURI"])
            if attribute["vr"] == "SQ":
                for nested in attribute.get("Value", []):
                    found += uris(nested or {})
        return found

    checked = 0
    for path, url in stored_urls(answers).items():
        for uri in uris(http.get(f"{url}/metadata").json()[0])[:20]:
            answer = http.get(uri, headers={"Accept": "application/octet-stream"})
            assert answer.status_code == 200, (path.name, uri, answer.text)
            checked += 1
    assert checked > 60
