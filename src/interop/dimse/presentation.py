"""What is accepted in association negotiation: SOP classes, transfer syntaxes, roles (PS3.7 D.3.3).

pynetdicom decodes the request, settles contexts and roles, and encodes the answer; this module
decides what it may accept. Objects are kept as they were sent, so every transfer syntax whose
pixel data is inside the object is accepted, and the proposer's order of preference stands.
Storage SOP classes are told by their UID; those of the other services are in `services.SERVICES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pydicom._uid_dict import UID_dictionary
from pydicom.uid import UID, AllTransferSyntaxes
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    AsynchronousOperationsWindowNegotiation,
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
# Identifiers and the data sets of N-services: no pixel data, so no compression.
SERVICE_TRANSFER_SYNTAXES: Final = frozenset(
    ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
)

# PS3.4 B.3.1: level 2 (all attributes kept), digital signature level 3 (bits preserved), no
# coercion of data elements.
_STORAGE_EXTENDED: Final = b"\x02\x00\x03\x00\x00\x00"

# Operations that a peer may have outstanding. They are served one after the other; what it gains
# is that the next is there when the one before is done.
MAX_OPERATIONS: Final = 16
_SMALLEST_PDU: Final = 1024  # a peer that states less cannot mean it

# From the application information of a SOP class that a peer sends to what is answered.
ExtendedNegotiation = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class Offer:
    """In which roles we serve a SOP class, and how its extended negotiation is answered."""

    as_scp: bool = True
    as_scu: bool = False
    extended: ExtendedNegotiation | None = None

    @property
    def is_open(self) -> bool:
        return self.as_scp or self.as_scu


NOTHING: Final = Offer(as_scp=False)
VERIFICATION_ONLY: Final[Mapping[str, Offer]] = {VERIFICATION_SOP_CLASS: Offer()}


@dataclass(frozen=True, slots=True)
class AcceptedContext:
    """One presentation context that both sides agreed on, and our roles in it."""

    context_id: int
    sop_class_uid: str
    transfer_syntax_uid: str
    is_storage: bool
    as_scp: bool = True
    as_scu: bool = False


@dataclass(frozen=True, slots=True)
class Negotiated:
    """The answer to an association request, and what it means for the messages to come."""

    contexts: dict[int, AcceptedContext]
    accept_pdu: bytes
    # What the peer takes in one PDU; never more than we would send.
    peer_pdu_bytes: int = 16 << 10
    # The application information that was answered, by SOP class.
    extended: dict[str, bytes] = field(default_factory=dict)
    # How many operations the peer may have outstanding.
    operations: int = 1


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
    request: Any,
    advertised_pdu_bytes: int,
    offers: Mapping[str, Offer] = VERIFICATION_ONLY,
    storage: Offer = Offer(),
) -> Negotiated:
    """Settle every proposed context and build the A-ASSOCIATE-AC (PS3.8 9.3.3).

    `offers` are the services by SOP class, `storage` is what holds for every storage SOP class.
    """
    user_information = request.user_information
    roles = {
        item.sop_class_uid: (item.scu_role, item.scp_role)
        for item in user_information
        if isinstance(item, SCP_SCU_RoleSelectionNegotiation)
    }
    declared_storage = _declared_storage(user_information)
    results: list[Any] = []
    answered_roles: dict[str, Any] = {}
    storing: set[str] = set()
    for proposed in request.presentation_context_definition_list:
        uid = str(proposed.abstract_syntax)
        offer, accepted = offers.get(uid, NOTHING), SERVICE_TRANSFER_SYNTAXES
        if uid not in offers and (is_storage_sop_class(uid) or uid in declared_storage):
            offer, accepted = storage, STORAGE_TRANSFER_SYNTAXES
            storing.add(uid)
        supported = _supported(proposed, offer, accepted, roles)
        settled, role_answers = negotiate_as_acceptor([proposed], supported, roles)
        results += settled
        answered_roles.update({str(answer.sop_class_uid): answer for answer in role_answers})
    contexts = {
        result.context_id: AcceptedContext(
            result.context_id,
            str(result.abstract_syntax),
            str(result.transfer_syntax[0]),
            str(result.abstract_syntax) in storing,
            bool(result.as_scp),
            bool(result.as_scu),
        )
        for result in results
        if result.result == 0
    }
    extended = _extended(user_information, contexts, offers)
    operations = _operations(user_information, contexts)
    answer = _accept(request, results, advertised_pdu_bytes)
    answer.user_information += answered_roles.values()
    answer.user_information += map(_extended_item, extended.items())
    if operations is not None:
        answer.user_information.append(_window(operations))
    return Negotiated(
        contexts,
        A_ASSOCIATE_AC(answer).encode(),
        _peer_pdu_bytes(user_information, advertised_pdu_bytes),
        extended,
        operations or 1,
    )


def _declared_storage(user_information: list[Any]) -> frozenset[str]:
    """SOP classes, private ones too, that the peer says belong to the Storage Service Class."""
    return frozenset(
        str(item.sop_class_uid)
        for item in user_information
        if isinstance(item, SOPClassCommonExtendedNegotiation)
        and item.service_class_uid == STORAGE_SERVICE_CLASS
    )


def _supported(
    proposed: Any,
    offer: Offer,
    accepted: frozenset[str],
    roles: Mapping[str, tuple[bool | None, bool | None]],
) -> list[Any]:
    """What we support of one proposed context, in the proposer's order of transfer syntaxes."""
    # Without role selection the proposer is SCU (PS3.7 D.3.3.4).
    if not offer.is_open or (not offer.as_scp and proposed.abstract_syntax not in roles):
        return []
    syntaxes = [s for s in proposed.transfer_syntax if s in accepted]
    if not syntaxes:
        # pynetdicom answers "transfer syntaxes not supported" only when it has one that differs.
        context = PresentationContext()
        context.abstract_syntax = proposed.abstract_syntax
        context.transfer_syntax = [UID("1.2.840.10008.1.2.0")]
    else:
        context = build_context(proposed.abstract_syntax, syntaxes)
    # In pynetdicom's acceptor: the roles that the proposer may have.
    context.scu_role, context.scp_role = offer.as_scp, offer.as_scu
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


def _extended(
    user_information: list[Any], contexts: dict[int, AcceptedContext], offers: Mapping[str, Offer]
) -> dict[str, bytes]:
    """What is answered to SOP class extended negotiation; silence says: not supported."""
    accepted = {context.sop_class_uid: context.is_storage for context in contexts.values()}
    answers: dict[str, bytes] = {}
    for item in user_information:
        if not isinstance(item, SOPClassExtendedNegotiation):
            continue
        uid = str(item.sop_class_uid)
        if uid not in accepted or uid in answers:
            continue
        if accepted[uid]:
            answers[uid] = _STORAGE_EXTENDED
        elif (extended := offers[uid].extended) is not None:
            answers[uid] = extended(bytes(item.service_class_application_information or b""))
    return answers


def _extended_item(answered: tuple[str, bytes]) -> Any:
    item = SOPClassExtendedNegotiation()
    item.sop_class_uid = UID(answered[0])
    item.service_class_application_information = answered[1]
    return item


def _operations(user_information: list[Any], contexts: dict[int, AcceptedContext]) -> int | None:
    """How many operations the peer may have outstanding; None where it did not ask (D.3.3.3).

    One where we are SCU in any context: while we wait there for the answer to a request of ours,
    the peer's next one would stand before it.
    """
    for item in user_information:
        if isinstance(item, AsynchronousOperationsWindowNegotiation):
            if any(context.as_scu for context in contexts.values()):
                return 1
            # 0 is as many as one likes.
            return min(item.maximum_number_operations_invoked or MAX_OPERATIONS, MAX_OPERATIONS)
    return None


def _window(operations: int) -> Any:
    window = AsynchronousOperationsWindowNegotiation()
    window.maximum_number_operations_invoked = operations
    # Of ours there is never more than one.
    window.maximum_number_operations_performed = 1
    return window


def _peer_pdu_bytes(user_information: list[Any], advertised_pdu_bytes: int) -> int:
    for item in user_information:
        if isinstance(item, MaximumLengthNotification) and item.maximum_length_received:
            stated = int(item.maximum_length_received)
            return max(_SMALLEST_PDU, min(stated, advertised_pdu_bytes))
    return advertised_pdu_bytes  # 0 is without limit (PS3.8 D.1)
