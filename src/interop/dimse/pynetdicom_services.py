"""Every DIMSE service but C-STORE is pynetdicom's: decoding, service class, encoding (PS3.7).

`PynetdicomServices` gives pynetdicom an association whose transport is ours. A further service
(C-FIND, N-ACTION ...) takes its SOP classes in `presentation`, its command in `OPERATIONS` and
its handler in `HANDLERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from pynetdicom import _config, evt
from pynetdicom.association import Association
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.pdu_primitives import P_DATA

from interop.dimse.command_set import AFFECTED_SOP_CLASS_UID, C_ECHO_RQ, Command
from interop.dimse.presentation import Negotiated
from interop.dimse.transport_guard import GuardedApplicationEntity, Link, ProtocolViolation
from interop.dimse.upper_layer import NOT_SPECIFIED, UNEXPECTED_PARAMETER

# pynetdicom would log the identifiers of queries, which hold patients' names (security.md G5).
_config.LOG_HANDLER_LEVEL = "none"
_config.LOG_REQUEST_IDENTIFIERS = False
_config.LOG_RESPONSE_IDENTIFIERS = False

# The identifier of a query is a few hundred bytes; it is held in memory.
MAX_DATA_SET_BYTES: Final = 1 << 20
_COMMAND, _DATA_SET = b"\x03", b"\x02"  # message control headers: last fragment of each

OPERATIONS: Final = {C_ECHO_RQ: "C-ECHO"}

Handler = Callable[[Any], Any]


def handle_c_echo(event: Any) -> int:
    """C-ECHO: the association works (PS3.7 9.1.5)."""
    return 0x0000


HANDLERS: Final[tuple[tuple[Any, Handler], ...]] = ((evt.EVT_C_ECHO, handle_c_echo),)


class _LinkedProvider(DULServiceProvider):  # type: ignore[misc]
    """An upper layer without a reactor: what pynetdicom sends goes out on our link."""

    def __init__(self, association: Any, link: Link) -> None:
        super().__init__(association)
        self._link = link

    def send_pdu(self, primitive: Any) -> None:
        if not isinstance(primitive, P_DATA):
            raise ProtocolViolation("the service ended the association", NOT_SPECIFIED)
        self._link.send(P_DATA_TF(primitive).encode())


class PynetdicomServices:
    """pynetdicom's side of one accepted association, made when the first message needs it."""

    def __init__(self, ae_title: str, link: Link, negotiated: Negotiated) -> None:
        self._ae_title = ae_title
        self._link = link
        self._negotiated = negotiated
        self._association: Any = None

    def require_operation(self, context_id: int, request: Command) -> str:
        """The name of the operation, when this context offers it. Raises ProtocolViolation.

        pynetdicom looks only at the SOP class that the request names: a C-FIND for the
        Verification SOP Class would get an answer of Verification's.
        """
        context = self._negotiated.contexts[context_id]
        operation = OPERATIONS.get(request.command_field)
        if (
            operation is None
            or context.is_storage
            or request.uid(AFFECTED_SOP_CLASS_UID) != context.sop_class_uid
        ):
            raise ProtocolViolation(
                f"command 0x{request.command_field:04X} is not offered in context {context_id}",
                UNEXPECTED_PARAMETER,
            )
        return operation

    def serve(self, context_id: int, command: bytes, data_set: bytes | None) -> None:
        """Answer one message. Raises LinkError when the association cannot go on."""
        association = self._association = self._association or self._open()
        received = P_DATA()
        received.presentation_data_value_list.append((context_id, _COMMAND + command))
        if data_set is not None:
            received.presentation_data_value_list.append((context_id, _DATA_SET + data_set))
        association.dimse.receive_primitive(received)
        _, message = association.dimse.get_msg()
        if message is None or not message.is_valid_request:
            raise ProtocolViolation("not a request that can be served", UNEXPECTED_PARAMETER)
        association._serve_request(message, context_id)

    def _open(self) -> Any:
        association = Association(GuardedApplicationEntity(self._ae_title), "acceptor")
        association.dul = _LinkedProvider(association, self._link)
        association.abort = self._refuse
        association.requestor.primitive = self._negotiated.request
        association._accepted_cx = {
            result.context_id: result for result in self._negotiated.results if result.result == 0
        }
        association.is_established = True
        for event, handler in HANDLERS:
            association.bind(event, handler)
        return association

    def _refuse(self, *_: Any) -> None:
        raise ProtocolViolation("the message cannot be served", UNEXPECTED_PARAMETER)
