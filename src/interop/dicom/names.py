"""Normal forms under which names and texts are compared (QIDO-RS, C-FIND, patient matching).

DICOM lets a server match PN without regard to case and accents (PS3.4 C.2.2.2.1). Both sides of
a comparison go through ``matching_key``, so that the index can compare bytes.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass


def matching_key(text: str) -> str:
    """Return the text without accents, in upper case, with single spaces; ``*`` and ``?`` stay.

    Of a person name the empty components at the end do not count, nor do ideographic and phonetic
    groups that are empty.
    """
    if text.isascii():
        plain = text
    else:
        # Upper case first: it may itself make accents, which are then taken away.
        decomposed = unicodedata.normalize("NFKD", text.upper())
        plain = "".join(c for c in decomposed if not unicodedata.combining(c))
    key = " ".join(plain.upper().replace("\0", " ").split())
    if "^" in key or "=" in key:
        groups = ["^".join(part.strip() for part in g.split("^")) for g in key.split("=")]
        key = "=".join(group.rstrip("^ ") for group in groups).rstrip("= ")
    return key


@dataclass(frozen=True, slots=True)
class PersonName:
    """The components of a PN value's first group that says anything (PS3.5 6.2.1)."""

    family: str = ""
    given: str = ""
    middle: str = ""
    prefix: str = ""
    suffix: str = ""


def person_name(text: str) -> PersonName:
    """Read the alphabetic group, or the next that is not empty."""
    for group in text.split("="):
        if group.strip(" ^"):
            parts = [part.strip() for part in group.split("^")][:5]
            return PersonName(*parts)
    return PersonName()
