"""What is accepted in association negotiation: SOP classes, transfer syntaxes, roles (PS3.7 D.3.3).

pynetdicom decodes the request, settles contexts and roles, and encodes the answer; this module
decides what it may accept. Objects are kept as they were sent, so every transfer syntax whose
pixel data is inside the object is accepted, and the proposer's order of preference stands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from pydicom._uid_dict import UID_dictionary
from pydicom.uid import UID, AllTransferSyntaxes
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
    SOPClassCommonExtendedNegotiation,
    SOPClassExtendedNegotiation,
)
from pynetdicom.presentation import PresentationContext, build_context, negotiate_as_acceptor
from pynetdicom.sop_class import _STORAGE_CLASSES, Verification

from interop.dicom.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from interop.dimse.transport_guard import ProtocolViolation
from interop.dimse.upper_layer import INVALID_PARAMETER, AssociateRequest

APPLICATION_CONTEXT_NAME: Final = "1.2.840.10008.3.1.1.1"
STORAGE_SERVICE_CLASS: Final = "1.2.840.10008.4.2"
VERIFICATION_SOP_CLASS: Final = str(Verification)

# PS3.4 B.5 and its siblings: nearly all storage SOP classes, also of years to come, are under this
# root; so are a few query services, whose names say so.
_STORAGE_ROOT: Final = "1.2.840.10008.5.1.4.1.1."
_NAMED_STORAGE: Final = frozenset(str(uid) for uid in _STORAGE_CLASSES.values()) | frozenset(
    uid
    for uid, (name, kind, *_) in UID_dictionary.items()
    if kind == "SOP Class" and "Storage" in name and uid.startswith("1.2.840.10008.5.1.")
)
_NAMED_OTHERWISE: Final = frozenset(
    uid for uid, (name, *_) in UID_dictionary.items() if name and "Storage" not in name
)

# Pixel data elsewhere: by URL (JPIP) or in a stream (SMPTE ST 2110). Nothing to keep.
_REFERENCED: Final = ("1.2.840.10008.1.2.4.204", "1.2.840.10008.1.2.4.205", "1.2.840.10008.1.2.7.")
# In the standard and not in pydicom 3.0.2's list: retired JPEG processes that old archives hold,
# Encapsulated Uncompressed, JPEG XL, and HEVC's later siblings.
_BEYOND_PYDICOM: Final = (
    *(f"1.2.840.10008.1.2.4.{number}" for number in (*range(52, 57), *range(58, 67))),
    "1.2.840.10008.1.2.1.98",
    "1.2.840.10008.1.2.4.110",
    "1.2.840.10008.1.2.4.111",
    "1.2.840.10008.1.2.4.112",
    "1.2.840.10008.1.2.8.1",
)
STORAGE_TRANSFER_SYNTAXES: Final = frozenset(
    str(uid) for uid in AllTransferSyntaxes if not uid.startswith(_REFERENCED)
) | frozenset(_BEYOND_PYDICOM)
# Messages that pynetdicom decodes: uncompressed data sets only.
SERVICE_TRANSFER_SYNTAXES: Final = frozenset(
    ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
)

# PS3.4 B.3.1: level 2 (all attributes kept), digital signature level 3 (bits preserved), no
# coercion of data elements.
_STORAGE_EXTENDED: Final = b"\x02\x00\x03\x00\x00\x00"


@dataclass(frozen=True, slots=True)
class AcceptedContext:
    """One presentation context that both sides agreed on."""

    context_id: int
    sop_class_uid: str
    transfer_syntax_uid: str
    is_storage: bool


@dataclass(frozen=True, slots=True)
class Negotiated:
    """The answer to an association request, and what it means for the messages to come."""

    contexts: dict[int, AcceptedContext]
    accept_pdu: bytes
    request: Any
    results: list[Any]


def is_storage_sop_class(uid: str) -> bool:
    """True for every storage SOP class that is known, and for those that look like one."""
    if uid in _NAMED_STORAGE:
        return True
    return uid.startswith(_STORAGE_ROOT) and uid not in _NAMED_OTHERWISE


def decode_request(scanned: AssociateRequest) -> Any:
    """Return pynetdicom's A-ASSOCIATE primitive. Raises ProtocolViolation."""
    pdu = A_ASSOCIATE_RQ()
    try:
        pdu.decode(scanned.pdu)
        return pdu.to_primitive()
    except Exception as error:  # pynetdicom raises whatever its decoders meet
        raise ProtocolViolation(
            f"the A-ASSOCIATE-RQ cannot be decoded: {error}", INVALID_PARAMETER
        ) from error


def negotiate(
    request: Any, advertised_pdu_bytes: int, *, is_storage_offered: bool = True
) -> Negotiated:
    """Settle every proposed context and build the A-ASSOCIATE-AC (PS3.8 9.3.3)."""
    user_information = request.user_information
    roles = {
        item.sop_class_uid: (item.scu_role, item.scp_role)
        for item in user_information
        if isinstance(item, SCP_SCU_RoleSelectionNegotiation)
    }
    declared_storage = _declared_storage(user_information)
    results: list[Any] = []
    answered_roles: dict[str, Any] = {}
    for proposed in request.presentation_context_definition_list:
        supported = _supported(proposed, declared_storage)
        if not is_storage_offered and str(proposed.abstract_syntax) != VERIFICATION_SOP_CLASS:
            supported = []
        settled, role_answers = negotiate_as_acceptor([proposed], supported, roles)
        results += settled
        answered_roles.update({str(answer.sop_class_uid): answer for answer in role_answers})
    contexts = {
        result.context_id: AcceptedContext(
            result.context_id,
            str(result.abstract_syntax),
            str(result.transfer_syntax[0]),
            str(result.abstract_syntax) != VERIFICATION_SOP_CLASS,
        )
        for result in results
        if result.result == 0
    }
    answer = _accept(request, results, advertised_pdu_bytes)
    answer.user_information += answered_roles.values()
    answer.user_information += _extended_negotiation(user_information, contexts)
    return Negotiated(contexts, A_ASSOCIATE_AC(answer).encode(), request, results)


def _declared_storage(user_information: list[Any]) -> frozenset[str]:
    """SOP classes, private ones too, that the peer says belong to the Storage Service Class."""
    return frozenset(
        str(item.sop_class_uid)
        for item in user_information
        if isinstance(item, SOPClassCommonExtendedNegotiation)
        and item.service_class_uid == STORAGE_SERVICE_CLASS
    )


def _supported(proposed: Any, declared_storage: frozenset[str]) -> list[Any]:
    """What we support of one proposed context, in the proposer's order of transfer syntaxes."""
    uid = str(proposed.abstract_syntax)
    if is_storage_sop_class(uid) or uid in declared_storage:
        accepted = STORAGE_TRANSFER_SYNTAXES
    elif uid == VERIFICATION_SOP_CLASS:
        accepted = SERVICE_TRANSFER_SYNTAXES
    else:
        return []
    syntaxes = [s for s in proposed.transfer_syntax if s in accepted]
    if not syntaxes:
        # pynetdicom answers "transfer syntaxes not supported" only when it has one that differs.
        context = PresentationContext()
        context.abstract_syntax = proposed.abstract_syntax
        context.transfer_syntax = [UID("1.2.840.10008.1.2.0")]
    else:
        context = build_context(proposed.abstract_syntax, syntaxes)
    context.scu_role, context.scp_role = True, False
    return [context]


def _accept(request: Any, results: list[Any], advertised_pdu_bytes: int) -> Any:
    answer = A_ASSOCIATE()
    answer.application_context_name = UID(APPLICATION_CONTEXT_NAME)
    answer.calling_ae_title = request.calling_ae_title
    answer.called_ae_title = request.called_ae_title
    answer.result, answer.result_source = 0x00, 0x01
    answer.presentation_context_definition_results_list = results
    length = MaximumLengthNotification()
    length.maximum_length_received = advertised_pdu_bytes
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
    version = ImplementationVersionNameNotification()
    version.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    answer.user_information = [length, implementation, version]
    return answer


def _extended_negotiation(
    user_information: list[Any], contexts: dict[int, AcceptedContext]
) -> list[Any]:
    """Answers for storage SOP classes only; for others silence says: not supported."""
    storing = {context.sop_class_uid for context in contexts.values() if context.is_storage}
    answers = []
    for item in user_information:
        if isinstance(item, SOPClassExtendedNegotiation) and str(item.sop_class_uid) in storing:
            answer = SOPClassExtendedNegotiation()
            answer.sop_class_uid = item.sop_class_uid
            answer.service_class_application_information = _STORAGE_EXTENDED
            answers.append(answer)
            storing.discard(str(item.sop_class_uid))
    return answers
