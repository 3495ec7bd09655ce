"""The preamble and File Meta Information (PS3.10 7.1): read, locate and write.

File Meta Information is always Explicit VR Little Endian. Files without a preamble, without the
prefix, without a group length or without any meta information at all exist; this module says
where the data set begins in each of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from struct import Struct, pack

from interop.dicom.failures import LIMIT_EXCEEDED, Failure
from interop.dicom.implementation import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
)

PREAMBLE_LENGTH = 128
PREFIX = b"DICM"
LONG_VRS = frozenset(
    (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
)
_EXPLICIT = Struct("<HH2sH").unpack_from
_LENGTH = Struct("<I").unpack_from

# Real meta groups are a few hundred bytes; private information (0002,0102) may be larger.
META_LIMIT = 1 << 20
# PS3.10 7.1 defines 16 elements.
_MOST_ELEMENTS = 256

IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1.99"
EXPLICIT_VR_BIG_ENDIAN = "1.2.840.10008.1.2.2"


@dataclass(slots=True)
class FileMeta:
    """Where the data set begins, and the meta elements by tag with their raw values."""

    dataset_offset: int
    has_preamble: bool
    has_prefix: bool
    elements: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)

    def text(self, tag: int) -> str:
        """Return the value of ``tag`` as text without padding; "" when absent."""
        found = self.elements.get(tag)
        if found is None:
            return ""
        return found[1].decode("ascii", "replace").rstrip("\0 ")

    @property
    def media_storage_sop_class_uid(self) -> str:
        return self.text(0x00020002)

    @property
    def media_storage_sop_instance_uid(self) -> str:
        return self.text(0x00020003)

    @property
    def transfer_syntax_uid(self) -> str:
        return self.text(0x00020010)

    @property
    def implementation_class_uid(self) -> str:
        return self.text(0x00020012)


class MoreBytesNeeded(Exception):
    """The head ends before the File Meta Information does."""


def read_file_meta(head: bytes | bytearray | memoryview, *, complete: bool) -> FileMeta:
    """Read the meta group from the first bytes of a file.

    Raises MoreBytesNeeded while ``head`` is too short to tell and not ``complete``, and Failure
    for a group of more elements than anybody means.
    """
    size = len(head)
    if size < PREAMBLE_LENGTH + 4 and not complete:
        raise MoreBytesNeeded
    has_prefix = bytes(head[PREAMBLE_LENGTH : PREAMBLE_LENGTH + 4]) == PREFIX
    has_preamble = has_prefix
    at = PREAMBLE_LENGTH + 4 if has_prefix else 0
    if not has_prefix and bytes(head[:4]) == PREFIX:
        at, has_prefix = 4, True
    meta = FileMeta(at, has_preamble, has_prefix)
    end = size
    count = 0
    while True:
        if at + 8 > end:
            if complete or at >= META_LIMIT:
                break
            raise MoreBytesNeeded
        group, element, vr, length = _EXPLICIT(head, at)
        if group != 0x0002 or not vr.isalpha():
            break
        value_at = at + 8
        if vr in LONG_VRS:
            if at + 12 > end:
                if complete:
                    break
                raise MoreBytesNeeded
            length = _LENGTH(head, at + 8)[0]
            value_at = at + 12
        if value_at + length > end:
            if complete or length > META_LIMIT:
                break
            raise MoreBytesNeeded
        # Counted, since one element may come again and again.
        count += 1
        if count > _MOST_ELEMENTS:
            raise Failure.of(
                LIMIT_EXCEEDED,
                f"The File Meta Information has more than {_MOST_ELEMENTS} elements,"
                " the most accepted.",
            )
        meta.elements[0x00020000 | element] = (vr, bytes(head[value_at : value_at + length]))
        at = value_at + length
    meta.dataset_offset = at
    return meta


def write_file_meta(
    sop_class_uid: str,
    sop_instance_uid: str,
    transfer_syntax_uid: str,
    source_ae_title: str = "",
) -> bytes:
    """Return preamble, prefix and File Meta Information as PS3.10 7.1 wants them of a receiver."""
    elements = [
        pack("<HH2sHI", 2, 1, b"OB", 0, 2) + b"\x00\x01",
        _short(0x0002, b"UI", sop_class_uid),
        _short(0x0003, b"UI", sop_instance_uid),
        _short(0x0010, b"UI", transfer_syntax_uid),
        _short(0x0012, b"UI", IMPLEMENTATION_CLASS_UID),
        _short(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME),
    ]
    if source_ae_title:
        elements.append(_short(0x0016, b"AE", source_ae_title))
    body = b"".join(elements)
    return bytes(PREAMBLE_LENGTH) + PREFIX + pack("<HH2sHI", 2, 0, b"UL", 4, len(body)) + body


def _short(element: int, vr: bytes, text: str) -> bytes:
    value = text.encode("ascii", "replace")
    if len(value) % 2:
        value += b"\0" if vr == b"UI" else b" "
    return pack("<HH2sH", 2, element, vr, len(value)) + value
