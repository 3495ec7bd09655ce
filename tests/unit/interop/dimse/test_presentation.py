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
    MAX_OPERATIONS,
    STORAGE_TRANSFER_SYNTAXES,
    Negotiated,
    Offer,
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


def negotiated(
    *contexts: tuple[str, list[str]],
    items: tuple[Any, ...] = (),
    pdu_bytes: int = 32768,
    **offered: Any,
) -> Negotiated:
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
    length.maximum_length_received = pdu_bytes
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = UID("1.2.3")
    proposal.user_information = [length, implementation, *items]
    scanned = scan_associate_request(A_ASSOCIATE_RQ(proposal).encode()[6:])
    return negotiate(decode_request(scanned), 131072, **offered)


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


def test_a_peer_that_may_retrieve_is_scp_of_storage_by_role_selection_only() -> None:
    retrieving = Offer(as_scp=False, as_scu=True)

    by_role = negotiated((CT, [EXPLICIT]), items=(role(False, True),), storage=retrieving)
    by_default = negotiated((CT, [EXPLICIT]), storage=retrieving)

    roles = accept(by_role).user_information.role_selection
    assert (roles[CT].scu_role, roles[CT].scp_role) == (0, 1)
    assert (by_role.contexts[1].as_scp, by_role.contexts[1].as_scu) == (False, True)
    assert [c.result for c in accept(by_default).presentation_context] == [3]


def test_both_roles_of_storage_can_be_had_on_one_association() -> None:
    both = Offer(as_scp=True, as_scu=True)

    answer = negotiated((CT, [EXPLICIT]), items=(role(True, True),), storage=both)

    assert (answer.contexts[1].as_scp, answer.contexts[1].as_scu) == (True, True)


def test_a_service_is_accepted_uncompressed_and_only_where_it_is_offered() -> None:
    offers = {STUDY_ROOT_FIND: Offer()}

    answer = negotiated((STUDY_ROOT_FIND, [J2K, EXPLICIT]), (STUDY_ROOT_FIND, [J2K]), offers=offers)

    assert [c.result for c in accept(answer).presentation_context] == [0, 4]
    assert not answer.contexts[1].is_storage
    assert not negotiated((STUDY_ROOT_FIND, [EXPLICIT]), offers={}).contexts


def extended(uid: str, information: bytes) -> Any:
    item = SOPClassExtendedNegotiation()
    item.sop_class_uid = UID(uid)
    item.service_class_application_information = information
    return item


def test_extended_negotiation_is_answered_by_whom_it_concerns() -> None:
    offers = {STUDY_ROOT_FIND: Offer(extended=lambda asked: asked[:1] + b"\0")}
    items = (
        extended(CT, b"\x03\x00\x00\x00\x02\x00"),
        extended(STUDY_ROOT_FIND, b"\1\1\1"),
        extended("1.2.840.10008.5.1.4.1.2.1.1", b"\1"),  # in no context
    )

    answer = negotiated((CT, [EXPLICIT]), (STUDY_ROOT_FIND, [EXPLICIT]), items=items, offers=offers)

    answered = {i.uid: i.app_info for i in accept(answer).user_information.ext_neg}
    assert answered == {CT: b"\x02\x00\x03\x00\x00\x00", STUDY_ROOT_FIND: b"\1\0"}
    assert answer.extended[STUDY_ROOT_FIND] == b"\1\0"


def window(invoked: int, performed: int) -> Any:
    item = AsynchronousOperationsWindowNegotiation()
    item.maximum_number_operations_invoked = invoked
    item.maximum_number_operations_performed = performed
    return item


@pytest.mark.parametrize(("asked", "allowed"), [(0, MAX_OPERATIONS), (5, 5), (1, 1), (999, 16)])
def test_the_peer_may_have_some_operations_outstanding_and_we_one(asked: int, allowed: int) -> None:
    answer = negotiated((CT, [EXPLICIT]), items=(window(asked, 7),))

    answered = accept(answer).user_information.async_ops_window
    assert answered.maximum_number_operations_invoked == allowed == answer.operations
    assert answered.maximum_number_operations_performed == 1


def test_the_window_is_one_where_we_are_scu_and_unanswered_where_nobody_asks() -> None:
    both = Offer(as_scp=True, as_scu=True)

    answer = negotiated((CT, [EXPLICIT]), items=(role(True, True), window(5, 5)), storage=both)

    assert accept(answer).user_information.async_ops_window.maximum_number_operations_invoked == 1
    assert accept(negotiated((CT, [EXPLICIT]))).user_information.async_ops_window is None


@pytest.mark.parametrize(
    ("stated", "used"), [(0, 131072), (16384, 16384), (1 << 30, 131072), (7, 1024)]
)
def test_what_is_sent_fits_the_peer(stated: int, used: int) -> None:
    assert negotiated((CT, [EXPLICIT]), pdu_bytes=stated).peer_pdu_bytes == used


def test_what_pynetdicom_cannot_decode_is_a_protocol_violation() -> None:
    with pytest.raises(ProtocolViolation):
        decode_request(AssociateRequest(1, "A", "B", b"\1\0\0\0\0\4\0\1\0\0"))
