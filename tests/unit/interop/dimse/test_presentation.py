"""What is accepted in negotiation, as pynetdicom's own requestor sees the answer."""

from __future__ import annotations

from typing import Any

import pytest
from pydicom.uid import UID
from pynetdicom import StoragePresentationContexts
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    AsynchronousOperationsWindowNegotiation,
    ImplementationClassUIDNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
    SOPClassCommonExtendedNegotiation,
    SOPClassExtendedNegotiation,
)
from pynetdicom.presentation import build_context

from interop.dicom.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from interop.dimse.presentation import (
    STORAGE_TRANSFER_SYNTAXES,
    Negotiated,
    decode_request,
    is_storage_sop_class,
    negotiate,
)
from interop.dimse.transport_guard import ProtocolViolation
from interop.dimse.upper_layer import AssociateRequest, scan_associate_request

CT = "1.2.840.10008.5.1.4.1.1.2"
STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
J2K, HTJ2K = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.201"


def negotiated(*contexts: tuple[str, list[str]], items: tuple[Any, ...] = ()) -> Negotiated:
    proposal = A_ASSOCIATE()
    proposal.application_context_name = UID("1.2.840.10008.3.1.1.1")
    proposal.calling_ae_title, proposal.called_ae_title = "PEER", "INTEROP"
    proposed = []
    for index, (abstract, syntaxes) in enumerate(contexts):
        one = build_context(abstract, syntaxes)
        one.context_id = 2 * index + 1
        proposed.append(one)
    proposal.presentation_context_definition_list = proposed
    length = MaximumLengthNotification()
    length.maximum_length_received = 32768
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = UID("1.2.3")
    proposal.user_information = [length, implementation, *items]
    scanned = scan_associate_request(A_ASSOCIATE_RQ(proposal).encode()[6:])
    return negotiate(decode_request(scanned), 131072)


def accept(answer: Negotiated) -> Any:
    pdu = A_ASSOCIATE_AC()
    pdu.decode(answer.accept_pdu)
    return pdu


def test_the_answer_names_us_and_the_pdu_size() -> None:
    user = accept(negotiated((CT, [EXPLICIT]))).user_information

    assert user.maximum_length == 131072
    assert user.implementation_class_uid == IMPLEMENTATION_CLASS_UID
    assert user.implementation_version_name == IMPLEMENTATION_VERSION_NAME
    assert len(IMPLEMENTATION_VERSION_NAME) <= 16


def test_the_proposers_first_supported_transfer_syntax_is_taken() -> None:
    answer = negotiated(
        (CT, [HTJ2K, J2K, EXPLICIT]), (CT, [IMPLICIT, J2K]), (CT, ["1.2.3.4", EXPLICIT])
    )

    assert {i: c.transfer_syntax_uid for i, c in answer.contexts.items()} == {
        1: HTJ2K,
        3: IMPLICIT,
        5: EXPLICIT,
    }
    assert [c.transfer_syntax for c in accept(answer).presentation_context] == [
        HTJ2K,
        IMPLICIT,
        EXPLICIT,
    ]


def test_refused_contexts_say_why() -> None:
    answer = negotiated((CT, ["1.2.3.4"]), (STUDY_ROOT_FIND, [IMPLICIT]), (CT, [EXPLICIT]))

    # PS3.8 Table 9-18: 4 is transfer syntaxes not supported, 3 abstract syntax not supported.
    assert [c.result for c in accept(answer).presentation_context] == [4, 3, 0]
    assert set(answer.contexts) == {5}


def test_every_storage_class_of_pynetdicom_is_accepted() -> None:
    wanted = [str(c.abstract_syntax) for c in StoragePresentationContexts]

    answer = negotiated(*((uid, [EXPLICIT]) for uid in wanted[:128]))

    assert len(answer.contexts) == len(wanted[:128])
    assert all(is_storage_sop_class(uid) for uid in wanted)


@pytest.mark.parametrize(
    ("uid", "expected"),
    [
        ("1.2.840.10008.5.1.4.1.1.999.1", True),  # a class of years to come
        ("1.2.840.10008.5.1.4.1.1.3", True),  # retired ultrasound
        ("1.2.840.10008.5.1.4.38.1", True),  # hanging protocol
        ("1.2.840.10008.5.1.4.1.1.201.2", False),  # Inventory - FIND
        ("1.2.840.10008.5.1.4.1.1.200.5", False),  # Protocol Approval - MOVE
        ("1.2.840.10008.1.20.1", False),  # storage commitment
        ("1.2.840.10008.1.1", False),
        ("1.3.46.670589.5.0.1", False),  # private
    ],
)
def test_storage_is_recognized(uid: str, expected: bool) -> None:
    assert is_storage_sop_class(uid) is expected


@pytest.mark.parametrize(
    "uid",
    [
        IMPLICIT,
        "1.2.840.10008.1.2.1.99",
        "1.2.840.10008.1.2.2",
        "1.2.840.10008.1.2.5",
        *(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70, 80, 81, 90, 91, 100, 102, 106)),
        *(f"1.2.840.10008.1.2.4.{n}" for n in (107, 201, 202, 203)),
    ],
)
def test_common_transfer_syntaxes_are_accepted(uid: str) -> None:
    assert uid in STORAGE_TRANSFER_SYNTAXES


def test_a_private_class_declared_as_storage_is_accepted() -> None:
    common = SOPClassCommonExtendedNegotiation()
    common.sop_class_uid = UID("1.3.46.670589.5.0.1")
    common.service_class_uid = UID("1.2.840.10008.4.2")

    assert negotiated(("1.3.46.670589.5.0.1", [EXPLICIT]), items=(common,)).contexts
    assert not negotiated(("1.3.46.670589.5.0.1", [EXPLICIT])).contexts


def role(scu: bool, scp: bool) -> Any:
    item = SCP_SCU_RoleSelectionNegotiation()
    item.sop_class_uid, item.scu_role, item.scp_role = UID(CT), scu, scp
    return item


def test_the_peer_may_be_scu_and_not_scp_of_storage() -> None:
    answer = accept(negotiated((CT, [EXPLICIT]), items=(role(True, True),)))

    roles = answer.user_information.role_selection
    assert (roles[CT].scu_role, roles[CT].scp_role) == (1, 0)


def test_a_peer_that_wants_to_be_scp_only_gets_no_context() -> None:
    answer = negotiated((CT, [EXPLICIT]), items=(role(False, True),))

    assert not answer.contexts


def test_storage_extended_negotiation_is_answered_and_asynchronous_operations_are_not() -> None:
    extended = SOPClassExtendedNegotiation()
    extended.sop_class_uid = UID(CT)
    extended.service_class_application_information = b"\x03\x00\x00\x00\x02\x00"
    window = AsynchronousOperationsWindowNegotiation()
    window.maximum_number_operations_invoked = 5
    window.maximum_number_operations_performed = 5

    user = accept(negotiated((CT, [EXPLICIT]), items=(extended, window))).user_information

    assert user.ext_neg[0].app_info == b"\x02\x00\x03\x00\x00\x00"
    assert user.async_ops_window is None


def test_what_pynetdicom_cannot_decode_is_a_protocol_violation() -> None:
    with pytest.raises(ProtocolViolation):
        decode_request(AssociateRequest(1, "A", "B", b"\1\0\0\0\0\4\0\1\0\0"))
