"""What Storage Commitment says on the wire: Action and Event Information (PS3.4 J.3.2, J.3.3).

Read from strangers, so everything is bounded and checked; written with pydicom's own encoder.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

from pydicom import config
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import UID

from interop.dicom.failures import LIMIT_EXCEEDED, Failure
from interop.dicom.limits import DEFAULT_LIMITS
from interop.dicom.uids import is_uid
from interop.dicom.walker import Walk

PUSH_MODEL_SOP_CLASS: Final = "1.2.840.10008.1.20.1"
# PS3.4 J.3.5: the one instance that every transaction is asked of.
PUSH_MODEL_SOP_INSTANCE: Final = "1.2.840.10008.1.20.1.1"
REQUEST_STORAGE_COMMITMENT: Final = 1  # Action Type ID
ALL_COMMITTED, FAILURES_EXIST = 1, 2  # Event Type IDs
EVENT_TYPE_ID: Final = 0x1002  # the command element that has one of them

# PS3.7 10.1.1.1.8 and 10.1.4.1.10.
SUCCESS: Final = 0x0000
PROCESSING_FAILURE: Final = 0x0110
NO_SUCH_INSTANCE: Final = 0x0112
NO_SUCH_EVENT_TYPE: Final = 0x0113
INVALID_ARGUMENT_VALUE: Final = 0x0115
NO_SUCH_ACTION: Final = 0x0123
RESOURCE_LIMITATION: Final = 0x0213

MAX_REFERENCES: Final = 10_000
_LONGEST_UID = 64


class InvalidMessage(Exception):
    """The data set is not what the standard asks for. `status` answers the request."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Reference:
    """One object: Referenced SOP Class UID and Referenced SOP Instance UID."""

    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class Failed:
    """One object that is not committed, and its Failure Reason (0008,1197)."""

    reference: Reference
    reason: int


@dataclass(frozen=True, slots=True)
class Request:
    """The Action Information of an N-ACTION."""

    transaction_uid: str
    references: tuple[Reference, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """The Event Information of an N-EVENT-REPORT."""

    transaction_uid: str
    committed: tuple[Reference, ...]
    failed: tuple[Failed, ...]

    @property
    def event_type(self) -> int:
        return FAILURES_EXIST if self.failed else ALL_COMMITTED


def decode_request(data_set: bytes, transfer_syntax_uid: str) -> Request:
    """Read Action Information. Raises InvalidMessage."""
    found = _decode(data_set, transfer_syntax_uid)
    references = tuple(_reference(item) for item in _items(found, "ReferencedSOPSequence"))
    if not references:
        raise InvalidMessage(INVALID_ARGUMENT_VALUE, "Referenced SOP Sequence has no item")
    return Request(_transaction_uid(found), references)


def decode_report(data_set: bytes, transfer_syntax_uid: str) -> Report:
    """Read Event Information. Raises InvalidMessage."""
    found = _decode(data_set, transfer_syntax_uid)
    committed = tuple(_reference(item) for item in _items(found, "ReferencedSOPSequence"))
    failed = tuple(
        Failed(_reference(item), _reason(item)) for item in _items(found, "FailedSOPSequence")
    )
    return Report(_transaction_uid(found), committed, failed)


def request_data_set(request: Request) -> Dataset:
    """Action Information as pydicom holds it."""
    data = Dataset()
    data.TransactionUID = UID(request.transaction_uid)
    data.ReferencedSOPSequence = _sequence(request.references)
    return data


def report_data_set(report: Report) -> Dataset:
    """Event Information as pydicom holds it. A sequence without items is left out (Table J.3-2)."""
    data = Dataset()
    data.TransactionUID = UID(report.transaction_uid)
    if report.committed:
        data.ReferencedSOPSequence = _sequence(report.committed)
    if report.failed:
        items = _sequence([one.reference for one in report.failed])
        for item, one in zip(items, report.failed, strict=True):
            item.FailureReason = one.reason
        data.FailedSOPSequence = items
    return data


def encoded(data: Dataset, transfer_syntax_uid: str) -> bytes:
    """The data set as it goes out."""
    syntax = UID(transfer_syntax_uid)
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = (
        syntax.is_implicit_VR,
        syntax.is_little_endian,
    )
    write_dataset(buffer, data)
    return bytes(buffer.getvalue())


def _decode(data_set: bytes, transfer_syntax_uid: str) -> Dataset:
    syntax = UID(transfer_syntax_uid)
    implicit, big_endian = syntax.is_implicit_VR, not syntax.is_little_endian
    try:
        # pydicom takes seconds for a megabyte of empty items (security.md B3): they are counted
        # before it sees them.
        Walk(data_set, len(data_set), DEFAULT_LIMITS, implicit=implicit, big_endian=big_endian).run(
            0
        )
        return read_dataset(BytesIO(data_set), implicit, not big_endian, len(data_set))
    except Failure as error:
        is_large = error.reason == LIMIT_EXCEEDED.reason
        status = RESOURCE_LIMITATION if is_large else PROCESSING_FAILURE
        raise InvalidMessage(status, f"the data set cannot be read: {error.message}") from error
    except Exception as error:  # pydicom raises whatever its decoders meet
        raise InvalidMessage(PROCESSING_FAILURE, "the data set cannot be decoded") from error


def _items(data: Dataset, keyword: str) -> Sequence[Dataset]:
    value = _value(data, keyword)
    if value is None:
        return ()
    if not isinstance(value, Items):
        raise InvalidMessage(INVALID_ARGUMENT_VALUE, f"{keyword} is no sequence")
    if len(value) > MAX_REFERENCES:
        raise InvalidMessage(
            RESOURCE_LIMITATION, f"{keyword}: {MAX_REFERENCES} items at most are taken"
        )
    return value


def _value(data: Dataset, keyword: str) -> Any:
    try:
        return data.get(keyword)
    except Exception as error:  # values are decoded when they are first looked at
        raise InvalidMessage(INVALID_ARGUMENT_VALUE, f"{keyword} cannot be decoded") from error


def _transaction_uid(data: Dataset) -> str:
    uid = _uid(data, "TransactionUID")
    if not is_uid(uid):
        raise InvalidMessage(INVALID_ARGUMENT_VALUE, "Transaction UID is missing or no UID")
    return uid


def _reference(item: Dataset) -> Reference:
    uids = [_uid(item, name) for name in ("ReferencedSOPClassUID", "ReferencedSOPInstanceUID")]
    # A UID that breaks its form is one that nothing is stored under; one that is too long, or that
    # no column can hold, cannot even be answered.
    if any(not 0 < len(uid) <= _LONGEST_UID or not uid.isprintable() for uid in uids):
        raise InvalidMessage(
            INVALID_ARGUMENT_VALUE, "an item lacks a Referenced SOP Class or Instance UID"
        )
    return Reference(*uids)


def _uid(data: Dataset, keyword: str) -> str:
    """The characters of a UID as they were sent; pydicom would judge them."""
    element = data.get_item(keyword) if keyword in data else None
    value = element.value if element is not None else b""
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else str(value or "")
    return text.rstrip(" \0")


def _reason(item: Dataset) -> int:
    reason = _value(item, "FailureReason")
    return reason if isinstance(reason, int) else PROCESSING_FAILURE


def _sequence(references: Iterable[Reference]) -> Items:
    items = []
    for reference in references:
        item = Dataset()
        # What a peer asked for is named as it did that, a UID or not.
        for keyword, uid in (
            ("ReferencedSOPClassUID", reference.sop_class_uid),
            ("ReferencedSOPInstanceUID", reference.sop_instance_uid),
        ):
            tag = tag_for_keyword(keyword)
            assert tag is not None
            value = UID(uid, config.IGNORE)
            item.add(DataElement(tag, "UI", value, validation_mode=config.IGNORE))
        items.append(item)
    return Items(items)
