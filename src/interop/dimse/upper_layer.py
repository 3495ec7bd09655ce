"""PDUs of the DICOM upper layer that are small enough to write down (PS3.8 9.3).

And the check that an A-ASSOCIATE-RQ passes before pynetdicom decodes it: every length fits, the
presentation context ids are odd and unique, and nothing is repeated thousands of times.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct, pack
from typing import Final

from interop.dimse.transport_guard import ProtocolViolation

A_ASSOCIATE_RQ: Final = 0x01
P_DATA_TF: Final = 0x04
A_RELEASE_RQ: Final = 0x05
A_ABORT: Final = 0x07

A_RELEASE_RP: Final = b"\x06\0\0\0\0\4\0\0\0\0"

# PS3.8 Table 9-26: Source 2 is the service provider; its reasons.
NOT_SPECIFIED: Final = 0
UNRECOGNIZED_PDU: Final = 1
UNEXPECTED_PDU: Final = 2
UNEXPECTED_PARAMETER: Final = 5
INVALID_PARAMETER: Final = 6

_APPLICATION_CONTEXT, _PRESENTATION_CONTEXT, _USER_INFORMATION = 0x10, 0x20, 0x50
_ABSTRACT_SYNTAX, _TRANSFER_SYNTAX = 0x30, 0x40
# PS3.7 D.3.3 and PS3.8 D.1: the user information sub-items that exist.
_USER_SUB_ITEMS = frozenset(range(0x51, 0x5A))

MAX_PRESENTATION_CONTEXTS: Final = 128  # ids are the odd numbers of one byte
MAX_TRANSFER_SYNTAXES: Final = 128  # in one context; the standard has about 60
MAX_USER_SUB_ITEMS: Final = 1024
MAX_UID_BYTES: Final = 65  # 64 and a pad byte that some senders add

_ITEM = Struct(">BxH")
_FIXED_BYTES = 68


@dataclass(frozen=True, slots=True)
class AssociateRequest:
    """The fixed part of an A-ASSOCIATE-RQ, and the whole PDU with only the items that are known."""

    protocol_version: int
    called_ae_title: str
    calling_ae_title: str
    pdu: bytes


def abort_pdu(reason: int, source: int = 2) -> bytes:
    """Return an A-ABORT PDU (PS3.8 9.3.8)."""
    return pack(">BxIxxBB", 0x07, 4, source, reason)


def reject_pdu(result: int, source: int, reason: int) -> bytes:
    """Return an A-ASSOCIATE-RJ PDU (PS3.8 9.3.4)."""
    return pack(">BxIxBBB", 0x03, 4, result, source, reason)


def scan_associate_request(body: bytes) -> AssociateRequest:
    """Check the body of an A-ASSOCIATE-RQ PDU. Raises ProtocolViolation."""
    if len(body) < _FIXED_BYTES:
        raise ProtocolViolation("A-ASSOCIATE-RQ is shorter than its fixed part", INVALID_PARAMETER)
    called, calling = _ae_title(body[4:20]), _ae_title(body[20:36])
    # pynetdicom refuses titles that are padded with NUL.
    kept = [body[:4], *(_field(title) for title in (called, calling)), body[36:_FIXED_BYTES]]
    context_ids: set[int] = set()
    user_information = 0
    for kind, start, end in _items(body, _FIXED_BYTES, len(body)):
        if kind == _PRESENTATION_CONTEXT:
            _check_presentation_context(body, start, end, context_ids)
            kept.append(body[start - 4 : end])
        elif kind == _USER_INFORMATION:
            user_information += 1
            kept.append(_known_user_information(body, start, end))
        elif kind == _APPLICATION_CONTEXT:
            kept.append(body[start - 4 : end])
    if not context_ids or user_information != 1:
        raise ProtocolViolation(
            "A-ASSOCIATE-RQ needs a presentation context and one user information item",
            INVALID_PARAMETER,
        )
    whole = b"".join(kept)
    return AssociateRequest(
        int.from_bytes(body[:2], "big"),
        called,
        calling,
        pack(">BxI", A_ASSOCIATE_RQ, len(whole)) + whole,
    )


def _ae_title(field: bytes) -> str:
    """PS3.8 Table 9-11: leading and trailing spaces do not count. Some peers pad with NUL."""
    return field.decode("latin-1").strip(" \0")


def _field(ae_title: str) -> bytes:
    return ae_title.encode("latin-1").ljust(16)


def _items(body: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield (item type, start of its value, end of its value)."""
    while at < end:
        if at + 4 > end:
            raise ProtocolViolation("an item header is cut off", INVALID_PARAMETER)
        kind, length = _ITEM.unpack_from(body, at)
        if at + 4 + length > end:
            raise ProtocolViolation(
                f"item 0x{kind:02X} is longer than what holds it", INVALID_PARAMETER
            )
        yield kind, at + 4, at + 4 + length
        at += 4 + length


def _check_presentation_context(body: bytes, start: int, end: int, seen: set[int]) -> None:
    if end - start < 4:
        raise ProtocolViolation("a presentation context is too short", INVALID_PARAMETER)
    number = body[start]
    if number % 2 == 0 or number in seen or len(seen) >= MAX_PRESENTATION_CONTEXTS:
        raise ProtocolViolation(
            f"presentation context id {number} is even or used twice", INVALID_PARAMETER
        )
    seen.add(number)
    abstract = transfer = 0
    for kind, value, value_end in _items(body, start + 4, end):
        abstract += kind == _ABSTRACT_SYNTAX
        transfer += kind == _TRANSFER_SYNTAX
        if kind not in (_ABSTRACT_SYNTAX, _TRANSFER_SYNTAX) or not (
            0 < value_end - value <= MAX_UID_BYTES
        ):
            raise ProtocolViolation(
                f"presentation context {number} has a syntax that is no UID", INVALID_PARAMETER
            )
    if abstract != 1 or not 0 < transfer <= MAX_TRANSFER_SYNTAXES:
        raise ProtocolViolation(
            f"presentation context {number} needs one abstract syntax and 1 to "
            f"{MAX_TRANSFER_SYNTAXES} transfer syntaxes",
            INVALID_PARAMETER,
        )


def _known_user_information(body: bytes, start: int, end: int) -> bytes:
    """The item without sub-items that the standard does not have: they are to be ignored."""
    kept = []
    for count, (kind, value, value_end) in enumerate(_items(body, start, end)):
        if count >= MAX_USER_SUB_ITEMS:
            raise ProtocolViolation("too many user information sub-items", INVALID_PARAMETER)
        if kind in _USER_SUB_ITEMS:
            kept.append(body[value - 4 : value_end])
    value_bytes = b"".join(kept)
    return _ITEM.pack(_USER_INFORMATION, len(value_bytes)) + value_bytes
