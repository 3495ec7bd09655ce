from __future__ import annotations

import json
from typing import Any

import pydicom
import pytest

from interop.dicom.failures import (
    COERCION,
    DUPLICATE_SOP_INSTANCE,
    OBJECT_TOO_LARGE,
    OUT_OF_RESOURCES,
    Failure,
)
from interop.dicom.ingest_types import Kind, Outcome
from interop.dicom.spool import SpoolLimitExceeded
from interop.dicomweb.media_types import DICOM_JSON
from interop.dicomweb.store_response import StoreReport, could_not_spool
from interop.errors import BadRequest, PayloadTooLarge, ServerError


def outcome(kind: Kind, failure: Failure | None = None, warning: Failure | None = None) -> Outcome:
    return Outcome(kind, "1.2.3", "1.4", "1.1", "1.2", failure, warning)


STORED = outcome("stored")
AGAIN = outcome("duplicate")
WARNED = outcome("stored", warning=Failure.of(COERCION, "coerced"))
REFUSED = outcome("refused", Failure.of(DUPLICATE_SOP_INSTANCE, "other bytes"))
FULL = outcome("failed", Failure.of(OUT_OF_RESOURCES, "full"))
BOMB = outcome("refused", Failure.of(OBJECT_TOO_LARGE, "inflates"))


@pytest.mark.parametrize(
    ("outcomes", "error", "status"),
    [
        ([STORED], None, 200),
        ([STORED, AGAIN], None, 200),
        ([WARNED], None, 202),
        ([STORED, REFUSED], None, 202),
        ([STORED], BadRequest("cut"), 202),
        ([REFUSED], None, 409),
        ([REFUSED, FULL], None, 409),
        ([FULL, FULL], None, 503),
        ([BOMB], None, 413),
        ([REFUSED], PayloadTooLarge("more"), 413),
        ([], BadRequest("no parts"), 400),
    ],
)
def test_the_status_is_that_of_ps3_18(
    outcomes: list[Outcome], error: ServerError | None, status: int
) -> None:
    assert StoreReport(outcomes, error).status == status


def module(*outcomes: Outcome, error: ServerError | None = None) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(StoreReport(outcomes, error).body("http://x", DICOM_JSON))
    pydicom.Dataset.from_json(found)
    return found


def test_stored_failed_and_warned_are_listed_with_their_numbers() -> None:
    found = module(STORED, WARNED, REFUSED)

    first, second = found["00081199"]["Value"]
    assert first["00081190"]["Value"] == ["http://x/studies/1.1/series/1.2/instances/1.4"]
    assert "00081196" not in first
    assert second["00081196"]["Value"] == [0xB000]
    (failed,) = found["00081198"]["Value"]
    assert failed["00081197"]["Value"] == [0x0111]
    assert failed["00081155"]["Value"] == ["1.4"]
    assert found["00081190"]["Value"] == ["http://x/studies/1.1"]


def test_failures_without_uids_and_of_the_request_are_other_failures() -> None:
    nameless = could_not_spool(Failure.of(OUT_OF_RESOURCES, "disk"))

    found = module(nameless, error=BadRequest("ends inside part 2"))

    assert "00081198" not in found
    reasons = [item["00081197"]["Value"][0] for item in found["0008119A"]["Value"]]
    assert reasons == [0xA700, 0x0110]
    assert found["00081190"] == {"vr": "UR"}


def test_a_full_disk_may_pass_and_a_size_limit_may_not() -> None:
    assert could_not_spool(Failure.of(OUT_OF_RESOURCES, "x")).kind == "failed"
    assert could_not_spool(SpoolLimitExceeded.of(OBJECT_TOO_LARGE, "x")).kind == "refused"
