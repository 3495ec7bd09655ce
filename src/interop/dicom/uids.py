"""What counts as a UID (PS3.5 9.1), strict where security needs it and lenient where devices are.

Nothing that a sender wrote ever becomes part of a path or an object key; this check keeps what
cannot be a UID out of the index as well (pynetdicom CVE-2026-56445, DCMTK CVE-2022-2119).
"""

from __future__ import annotations

import re

from interop.dicom.failures import INVALID_UID, MISSING_UID, Failure

_UID = re.compile(r"[0-9]+(?:\.[0-9]+)*")
_LEADING_ZERO = re.compile(r"(?:^|\.)0[0-9]")
LONGEST_UID = 64


def is_uid(text: str) -> bool:
    """Whether the text is 1 to 64 characters of numbers joined by dots."""
    return len(text) <= LONGEST_UID and _UID.fullmatch(text) is not None


def has_leading_zero(uid: str) -> bool:
    """Whether a component begins with 0, which PS3.5 9.1 forbids and real devices write."""
    return _LEADING_ZERO.search(uid) is not None


def require_uid(text: str, attribute: str) -> str:
    """Return the UID, or raise Failure saying what is wrong with it."""
    if not text:
        raise Failure.of(MISSING_UID, f"{attribute} is missing or empty.")
    if not is_uid(text):
        raise Failure.of(
            INVALID_UID,
            f"{attribute} is not a UID: 1 to {LONGEST_UID} characters,"
            " numbers joined by dots, are accepted.",
        )
    return text
