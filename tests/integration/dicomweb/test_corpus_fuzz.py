"""Damaged files through STOW-RS: stored and returned byte for byte, or refused with a reason.

Whatever is stored is found, described and rendered or refused; nothing is ever a 5xx.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

import pytest
import requests

from tests.integration.dicomweb.fuzzing import bases, mutants

Store = Callable[..., requests.Response]

SEED, EACH = 20261123, 2
AT_ONCE = 16
AS_STORED = {"Accept": "application/dicom; transfer-syntax=*"}


@pytest.fixture(scope="module")
def results(store: Store) -> dict[str, tuple[bytes, str | None]]:
    """Each mutant with the URL that it is stored under; None where it was refused."""
    found: dict[str, tuple[bytes, str | None]] = {}
    made = mutants(SEED, EACH)
    while batch := list(islice(made, AT_ONCE)):
        answer = store(*(content for _, content in batch))
        assert answer.status_code in (200, 202, 409), (batch[0][0], answer.text[:300])
        module = answer.json()
        stored = [item["00081190"]["Value"][0] for item in module.get("00081199", EMPTY)["Value"]]
        failed = module.get("00081198", EMPTY)["Value"] + module.get("0008119A", EMPTY)["Value"]
        assert len(stored) + len(failed) == len(batch), module
        for item in failed:
            assert item["00081197"]["Value"][0] > 0
            assert item["00000902"]["Value"][0]
            assert item["00081197"]["Value"][0] != 0x0110, (item, [name for name, _ in batch])
        by_uid = {url.rpartition("/")[2]: url for url in stored}
        for name, content in batch:
            url = next((url for uid, url in by_uid.items() if uid.encode() in content), None)
            found[name] = (content, url)
    return found


EMPTY: dict[str, list[dict[str, dict[str, list[str]]]]] = {"Value": []}


def test_what_is_whole_is_stored_and_what_is_damaged_has_a_verdict(
    results: dict[str, tuple[bytes, str | None]],
) -> None:
    assert len(bases()) > 10 and len(results) == len(bases()) * 8 * EACH
    whole = {name: url for name, (_, url) in results.items() if "_nothing" in name}
    assert [name for name, url in whole.items() if url is None] == []
    refused = [name for name, (_, url) in results.items() if url is None]
    assert len(refused) > len(results) // 10
    print(f"{len(results)} mutants, {len(refused)} refused")


def test_what_was_stored_comes_back_and_is_found(
    http: requests.Session, root: str, results: dict[str, tuple[bytes, str | None]]
) -> None:
    for name, (content, url) in results.items():
        if url is None:
            continue
        answer = http.get(url, headers=AS_STORED)
        assert answer.status_code == 200, (name, answer.text[:300])
        if content[128:132] == b"DICM":
            assert answer.content == bytes(128) + content[128:], name
        else:
            # The server gave it the header that it lacked.
            assert content[-400:] in answer.content, name
        metadata = http.get(f"{url}/metadata", headers={"Accept": "application/json"})
        assert metadata.status_code == 200, (name, metadata.text[:300])
        uid = url.rpartition("/")[2]
        assert metadata.json()[0]["00080018"]["Value"] == [uid], name
        found = http.get(f"{root}/instances?SOPInstanceUID={uid}&includefield=all")
        assert (found.status_code, len(found.json())) == (200, 1), name


def test_everything_else_about_it_is_an_answer(
    http: requests.Session, results: dict[str, tuple[bytes, str | None]]
) -> None:
    for name, (_, url) in list(results.items())[::3]:
        if url is None:
            continue
        for resource in ("/frames/1", "/rendered", "/thumbnail"):
            answer = http.get(url + resource)
            assert answer.status_code in (200, 404, 406, 422), (name, resource, answer.text[:300])
        xml = http.get(
            f"{url}/metadata", headers={"Accept": 'multipart/related; type="application/dicom+xml"'}
        )
        assert xml.status_code in (200, 406), (name, xml.text[:300])
