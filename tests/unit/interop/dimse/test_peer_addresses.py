"""F1: an organization says where its DICOM peers are; it does not thereby reach what is ours."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pydantic import ValidationError
from pynetdicom.presentation import build_context

from interop.dimse.peers import destination
from interop.dimse.registry import ApplicationEntity
from interop.dimse.requestor import Destination, RequestedAssociation, SendFailed
from interop.dimse.scu import associated
from interop.settings import Settings
from storage.tenancy import Tenant

TENANT = Tenant(uuid4(), "demo", "Demo", "INTEROP", "ACTIVE", "ROW_LEVEL")
VERIFICATION = "1.2.840.10008.1.1"


def called(host: str, tmp_path: Path, port: int = 104, **settings: Any) -> Destination:
    entity = ApplicationEntity(ae_title="PACS", host=host, port=port, may_be_sent_to=True)
    made = Settings(data_dir=tmp_path, **settings)
    return destination(made, TENANT, entity)


@pytest.mark.parametrize(
    "host", ["10.1.2.3", "172.16.9.9", "192.168.1.40", "100.64.0.7", "fd00::1", "8.8.8.8"]
)
def test_a_clinics_network_and_public_addresses_are_called(host: str, tmp_path: Path) -> None:
    assert called(host, tmp_path, dicom_host="0.0.0.0").addresses() == [host]


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "fe80::1",
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f.1",
        "localhost",
        "::1",
        "::ffff:127.0.0.1",
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "255.255.255.255",
    ],
)
def test_addresses_of_the_machine_and_of_its_provider_are_not(host: str, tmp_path: Path) -> None:
    with pytest.raises(SendFailed, match=r"may not be called|no connection"):
        called(host, tmp_path, dicom_host="0.0.0.0").addresses()


def test_a_server_of_this_machine_alone_calls_peers_on_it(tmp_path: Path) -> None:
    assert called("127.0.0.1", tmp_path).addresses() == ["127.0.0.1"]
    assert "127.0.0.1" in called("localhost", tmp_path).addresses()
    with pytest.raises(SendFailed):
        called("169.254.169.254", tmp_path).addresses()


def test_the_operator_says_which_networks(tmp_path: Path) -> None:
    ours: dict[str, Any] = {"dicom_host": "0.0.0.0", "dicom_peer_networks": "127.0.0.0/8"}

    assert called("127.0.0.1", tmp_path, **ours).addresses() == ["127.0.0.1"]
    with pytest.raises(SendFailed, match="INTEROP_DICOM_PEER_NETWORKS"):
        called("10.1.2.3", tmp_path, **ours).addresses()
    with pytest.raises(ValidationError):
        Settings(data_dir=tmp_path, dicom_peer_networks="the clinic")


def test_a_name_must_mean_nothing_else_besides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolve(*_: object, **__: object) -> list[tuple[Any, ...]]:
        kind = socket.SOCK_STREAM
        return [
            (socket.AF_INET, kind, 6, "", (address, 104)) for address in ("10.1.2.3", "127.0.0.1")
        ]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)

    with pytest.raises(SendFailed, match="may not be called"):
        called("pacs.clinic", tmp_path, dicom_host="0.0.0.0").addresses()


def test_nothing_is_connected_that_may_not_be_called(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        peer = called("127.0.0.1", tmp_path, listener.getsockname()[1], dicom_host="0.0.0.0")

        with pytest.raises(SendFailed, match="may not be called"):
            RequestedAssociation.open(peer, [(VERIFICATION, ("1.2.840.10008.1.2",))])
        with (
            pytest.raises(SendFailed, match="may not be called"),
            associated(peer, [build_context(VERIFICATION)]),
        ):
            pytest.fail("there is an association")

        with pytest.raises(BlockingIOError):
            listener.accept()
