"""What breaks PS3.5 in the attributes that people search for, and is no reason to refuse an object.

Real devices write UIDs with leading zeros, one UID for two things, dates that are none and values
longer than their VR (fo-dicom#1160, #859; microsoft/dicom-server#114, #117, #2431, #3257). The
object is stored as it was sent; the sender and the transaction log are told.
"""

from __future__ import annotations

import re

from interop.dicom.part10 import Instance
from interop.dicom.uids import has_leading_zero

_DATE = re.compile(r"[0-9]{4}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])")
_TIME = re.compile(r"(?:[01][0-9]|2[0-3])(?:[0-5][0-9](?:(?:[0-5][0-9]|60)(?:\.[0-9]{1,6})?)?)?")
_CODE = re.compile(r"[A-Z0-9 _]{1,16}")
_DATES = (0x00080020, 0x00080021, 0x00080022, 0x00080023, 0x00100030)
_TIMES = (0x00080030, 0x00080031, 0x00080032, 0x00080033)
_CODES = (0x00080060, 0x00100040)
# PS3.5 Table 6.2-1, characters of one value; a name has as many in each of its groups.
_LONGEST = {
    0x00080050: 16,
    0x00081010: 16,
    0x00081030: 64,
    0x0008103E: 64,
    0x00100010: 64,
    0x00100020: 64,
    0x00100021: 64,
    0x00200010: 16,
}


def oddities(instance: Instance) -> list[str]:
    """Return one sentence for each attribute that breaks its VR or its meaning."""
    found = [*_of_uids(instance)]
    for tags, pattern, what in (
        (_DATES, _DATE, "is no date (DA)"),
        (_TIMES, _TIME, "is no time (TM)"),
        (_CODES, _CODE, "is no code string (CS)"),
    ):
        for tag in tags:
            value = instance.first(tag)
            if value and pattern.fullmatch(value) is None:
                found.append(f"{_named(tag)} {what}")
    for tag, most in _LONGEST.items():
        stored = instance.top.get(tag)
        if stored is None or stored[2] <= most:
            continue
        separator = "=" if tag == 0x00100010 else "\\"
        longest = max(len(value.strip()) for value in instance.text(tag).split(separator))
        if longest > most:
            found.append(f"{_named(tag)} has {longest} characters; {most} are allowed")
    return found


def _of_uids(instance: Instance) -> list[str]:
    uids = {
        0x00080016: instance.sop_class_uid,
        0x00080018: instance.sop_instance_uid,
        0x0020000D: instance.study_instance_uid,
        0x0020000E: instance.series_instance_uid,
    }
    found = [
        f"{_named(tag)} has a UID component that begins with 0"
        for tag, uid in uids.items()
        if has_leading_zero(uid)
    ]
    named: dict[str, int] = {}
    for tag, uid in uids.items():
        first = named.setdefault(uid, tag)
        if first != tag:
            found.append(f"{_named(tag)} is the same UID as {_named(first)}")
    return found


def _named(tag: int) -> str:
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
