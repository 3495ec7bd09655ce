"""Budgets, shared places and the log of refusals, by themselves."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from cryptography.hazmat.primitives import serialization

from interop.dimse import budgets
from interop.dimse.budgets import Budget, Budgets
from interop.dimse.certificates import (
    canonical_subject,
    normal_fingerprint,
    validity_problems,
    write_trial_certificates,
)
from interop.dimse.endpoints import NoEndpoint, endpoints
from interop.dimse.places import SharedPlaces
from interop.dimse.refusals import MAX_LOOKUPS, Refusal, RefusalLog, source_of
from interop.dimse.registry import ApplicationEntity
from interop.dimse.tls import TlsConfigurationError, TlsFiles
from interop.dimse.transactions import AuditRow
from interop.settings import Settings
from tests.dicom_pki import Authority


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


# -- refusals ---------------------------------------------------------------------------------


@pytest.fixture
def rows() -> list[AuditRow]:
    return []


def counts(rows: list[AuditRow]) -> list[int]:
    return [json.loads(row.values["metadata"])["count"] for row in rows]


def test_a_source_gets_at_most_one_row_a_minute(rows: list[AuditRow]) -> None:
    clock, tenant_id = Clock(), uuid4()
    log = RefusalLog(rows.append, clock)
    for second in range(150):
        clock.now = 1000.0 + second
        log.note(Refusal(tenant_id, "192.0.2.1", "unknown", "1/1/3", f"AE{second}"))
        log.flush()

    # At 0 s the first; at 60 s and 120 s what came within the minute before.
    assert counts(rows) == [1, 60, 60]
    log.flush(everything=True)
    assert sum(counts(rows)) == 150
    titles = json.loads(rows[1].values["metadata"])["calling_ae_titles"]
    assert len(titles) == 10


def test_a_source_that_stopped_is_written_down_afresh(rows: list[AuditRow]) -> None:
    clock, tenant_id = Clock(), uuid4()
    log = RefusalLog(rows.append, clock)
    log.note(Refusal(tenant_id, "192.0.2.1", "unknown"))
    clock.now += 61
    log.flush()
    assert counts(rows) == [1]

    log.note(Refusal(tenant_id, "192.0.2.1", "unknown"))

    assert counts(rows) == [1, 1]


def test_sources_and_tenants_are_counted_apart(rows: list[AuditRow]) -> None:
    log, tenants = RefusalLog(rows.append, Clock()), (uuid4(), uuid4())
    for tenant_id in tenants:
        for address in ("192.0.2.1", "192.0.2.2", "::ffff:192.0.2.1", "2001:db8::1", "2001:db8::2"):
            log.note(Refusal(tenant_id, address, "unknown"))

    assert [row.values["ip_address"] for row in rows] == 2 * [
        "192.0.2.1",
        "192.0.2.2",
        "2001:db8::1",
    ]
    assert source_of("fe80::1%eth0") == "fe80::/64"


def test_a_refusal_without_a_tenant_is_in_the_log_only(
    rows: list[AuditRow], caplog: pytest.LogCaptureFixture
) -> None:
    log = RefusalLog(rows.append, Clock())
    for _ in range(3):
        log.note(Refusal(None, "192.0.2.1", "the TLS handshake failed"))
    log.flush(everything=True)

    assert rows == []
    assert [record.count for record in caplog.records] == [1, 2]  # type: ignore[attr-defined]


def test_more_sources_than_are_remembered_lose_no_count(
    rows: list[AuditRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("interop.dimse.refusals._SOURCES", 10)
    log, tenant_id = RefusalLog(rows.append, Clock()), uuid4()
    for _ in range(2):
        for number in range(50):
            log.note(Refusal(tenant_id, f"192.0.2.{number}", "unknown"))
    log.flush(everything=True)

    assert sum(counts(rows)) == 100


def test_a_flood_ends_with_its_minute() -> None:
    clock = Clock()
    log = RefusalLog(lambda _: None, clock)
    for _ in range(MAX_LOOKUPS):
        assert not log.is_flooding("192.0.2.1")
        log.count_lookup("192.0.2.1")

    assert log.is_flooding("192.0.2.1")
    assert not log.is_flooding("192.0.2.2")
    clock.now += 61
    assert not log.is_flooding("192.0.2.1")


# -- budgets ----------------------------------------------------------------------------------


def test_a_budget_fills_again_and_keeps_what_is_owed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(budgets.time, "monotonic", clock)
    budget = Budget()
    budget.set_limits(None, 6000)
    assert budget.refusal() is None
    budget.charge(9000)  # more than was left: 3000 are owed

    clock.now += 29
    assert budget.refusal() == "the limit of 6000 bytes a minute is reached"
    clock.now += 2
    assert budget.refusal() is None


def test_a_budget_of_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(budgets.time, "monotonic", clock)
    budget = Budget()
    budget.set_limits(3, None)
    taken = 0
    for _ in range(10):
        if budget.refusal() is None:
            budget.charge(1)
            taken += 1
    assert taken == 3

    clock.now += 19
    assert budget.refusal() is not None
    clock.now += 2
    assert budget.refusal() is None


def test_associations_of_an_entity_share_its_budget_and_others_have_none() -> None:
    kept, tenant_id = Budgets(), uuid4()
    limited = ApplicationEntity(ae_title="BUSY", max_objects_per_minute=1)
    first = kept.of(tenant_id, limited)
    assert first is not None
    first.charge(1)

    again, elsewhere = kept.of(tenant_id, limited), kept.of(uuid4(), limited)

    assert again is first and again.refusal() is not None
    assert elsewhere is not None and elsewhere.refusal() is None
    assert kept.of(tenant_id, ApplicationEntity(ae_title="FREE")) is None
    assert kept.of(tenant_id, None) is None


# -- places -----------------------------------------------------------------------------------


def test_places_are_shared_by_processes_and_freed_by_death(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    other = context.Process(target=_take_two, args=(tmp_path, theirs))
    other.start()
    assert ours.recv() == [0, 1]
    places = SharedPlaces(tmp_path)

    third = places.take("demo", 3)
    assert third is not None and third.number == 2
    assert places.take("demo", 3) is None
    assert places.take("other", 3) is not None

    assert other.pid is not None
    os.kill(other.pid, signal.SIGKILL)
    other.join()
    assert places.take("demo", 3) is not None
    places.give_back(third)
    assert places.take("demo", 3) is not None


def _take_two(folder: Path, pipe: Any) -> None:
    places = SharedPlaces(folder)
    taken = [places.take("demo", 3), places.take("demo", 3)]
    pipe.send([place.number for place in taken if place])
    pipe.recv()


def test_a_row_without_places_keeps_no_descriptor(tmp_path: Path) -> None:
    places = SharedPlaces(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        place = places.take("demo", 1)
        assert place is not None
        assert places.take("demo", 1) is None
        places.give_back(place)
    assert places.take("demo", 0) is None

    assert len(os.listdir("/proc/self/fd")) == before


# -- certificates and endpoints ---------------------------------------------------------------


def test_fingerprints_are_read_as_tools_print_them() -> None:
    digits = "AB" * 32
    colons = ":".join("AB" for _ in range(32))
    for text in (digits, colons, f"sha256 Fingerprint={colons}", f" sha256:{digits}\n"):
        assert normal_fingerprint(text) == digits.lower()
    assert canonical_subject("emailAddress=a@b.c,CN=x") == "1.2.840.113549.1.9.1=a@b.c,CN=x"


def test_expiry_is_told_30_days_before(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ca")
    fine, soon, over, early = (
        authority.issue("fine", ends=31),
        authority.issue("soon", ends=29),
        authority.issue("over", starts=-9, ends=-1),
        authority.issue("early", starts=1),
    )

    assert validity_problems(fine.certificate) == []
    assert [bad for bad, _ in validity_problems(soon.certificate)] == [False]
    assert "expires on" in validity_problems(soon.certificate)[0][1]
    assert [bad for bad, _ in validity_problems(over.certificate)] == [True]
    assert [bad for bad, _ in validity_problems(early.certificate)] == [True]


def test_trial_certificates_are_a_working_pair_and_never_overwritten(tmp_path: Path) -> None:
    ca, server, key, client, client_key = write_trial_certificates(tmp_path, ["pacs.example"], 3)

    TlsFiles(server, key, ca).server_context()
    TlsFiles(client, client_key, ca).client_context()
    assert [path.stat().st_mode & 0o777 for path in (key, client_key)] == [0o600, 0o600]
    # Three days are not 30: doctor says so.
    assert [bad for path in (ca, server) for bad, _ in validity_problems(path)] == [False, False]
    with pytest.raises(FileExistsError, match="overwritten"):
        write_trial_certificates(tmp_path, [], 3)


def test_files_that_cannot_be_used_are_named_by_their_setting(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ca")
    one, other = authority.issue("one"), authority.issue("other")
    good = TlsFiles(one.certificate, one.key, authority.bundle)
    sealed = tmp_path / "sealed.key"
    sealed.write_bytes(
        serialization.load_pem_private_key(one.key.read_bytes(), None).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    empty = tmp_path / "empty.pem"
    empty.write_bytes(b"")
    good.server_context()

    for files, named in (
        (TlsFiles(None, None, None), "CERTIFICATE is not set"),
        (TlsFiles(one.certificate, None, authority.bundle), "TLS_KEY is not set"),
        (TlsFiles(one.certificate, other.key, authority.bundle), "of one pair"),
        (TlsFiles(one.certificate, sealed, authority.bundle), "private key is encrypted"),
        (TlsFiles(tmp_path / "none.pem", one.key, authority.bundle), "No such file"),
        (TlsFiles(one.certificate, one.key, None), "TLS_CA is not set"),
        (TlsFiles(one.certificate, one.key, empty), "TLS_CA="),
    ):
        with pytest.raises(TlsConfigurationError, match=named):
            files.server_context()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, ["DICOM 127.0.0.1:11112"]),
        ({"dicom_host": "0.0.0.0"}, None),
        ({"dicom_host": "0.0.0.0", "dicom_plain": "on"}, ["DICOM 0.0.0.0:11112"]),
        ({"dicom_plain": "off"}, None),
        (
            {"dicom_tls_certificate": "c.pem"},
            ["DICOM 127.0.0.1:11112", "DICOM TLS 127.0.0.1:2762"],
        ),
        ({"dicom_host": "0.0.0.0", "dicom_tls_certificate": "c.pem"}, ["DICOM TLS 0.0.0.0:2762"]),
        (
            {"dicom_tls_host": "0.0.0.0", "dicom_tls_certificate": "c.pem"},
            ["DICOM 127.0.0.1:11112", "DICOM TLS 0.0.0.0:2762"],
        ),
        ({"dicom_plain": "off", "dicom_tls_certificate": "c.pem"}, ["DICOM TLS 127.0.0.1:2762"]),
    ],
)
def test_a10_plain_dicom_beyond_this_machine_is_off_unless_a_setting_says_otherwise(
    values: dict[str, Any], expected: list[str] | None
) -> None:
    settings = Settings(**values)

    if expected is None:
        with pytest.raises(NoEndpoint, match="INTEROP_DICOM_PLAIN"):
            endpoints(settings)
    else:
        assert [str(endpoint) for endpoint in endpoints(settings)] == expected


def test_the_content_of_a_pem_file_is_not_taken_for_its_name() -> None:
    with pytest.raises(ValueError, match="name of a PEM file"):
        Settings(dicom_tls_key="-----BEGIN PRIVATE KEY-----\n...")  # type: ignore[arg-type]
