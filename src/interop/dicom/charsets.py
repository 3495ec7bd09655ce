"""Specific Character Set (0008,0005): from bytes to text (PS3.5 6.1, PS3.3 C.12.1.1.2).

Decoding never fails: what a set cannot decode becomes U+FFFD, because the bytes are kept as sent
and the text is only a view of them. Our own ISO 2022 walk, because pydicom's warns through
``warnings``, which is neither silent nor thread-safe.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from functools import lru_cache

from pydicom.charset import (
    CODES_TO_ENCODINGS,
    STAND_ALONE_ENCODINGS,
    python_encoding,
)

Decoder = Callable[[bytes], str]

DEFAULT_ENCODING = "iso8859"
_ESC = b"\x1b"
# Python's codecs for these understand the escape sequence themselves.
_CODECS_WITH_ESCAPES = frozenset(("iso2022_jp", "iso2022_jp_2", "iso_ir_58"))
# A control character or delimiter switches back to the first set (PS3.5 6.1.2.5.3).
_RESETS = re.compile(rb"[\t\n\f\r\\^=]")


def default_decoder(raw: bytes) -> str:
    """Decode the default repertoire; bytes above 127 are shown as Latin-1, their usual origin."""
    return raw.decode("latin-1")


@lru_cache(maxsize=256)
def decoder_for(defined_terms: str) -> Decoder:
    """Return the decoder of a Specific Character Set value, values separated by backslash."""
    terms = [term.strip() for term in defined_terms.rstrip("\0 ").split("\\")]
    if terms[0] in STAND_ALONE_ENCODINGS:
        terms = terms[:1]
    encodings = [_python_encoding(term) for term in terms]
    if encodings == [DEFAULT_ENCODING]:
        return default_decoder
    first = encodings[0]

    def decode(raw: bytes) -> str:
        if _ESC not in raw:
            return raw.decode(first, "replace")
        head, *fragments = raw.split(_ESC)
        return head.decode(first, "replace") + "".join(
            _decode_fragment(fragment, first) for fragment in fragments
        )

    return decode


def _decode_fragment(fragment: bytes, first: str) -> str:
    """Decode what follows one escape character up to the next."""
    for code, encoding in CODES_TO_ENCODINGS.items():
        designation = code[1:]
        if not fragment.startswith(designation):
            continue
        if encoding in _CODECS_WITH_ESCAPES and encoding != "iso_ir_58":
            return (_ESC + fragment).decode(encoding, "replace")
        rest = fragment[len(designation) :]
        reset = _RESETS.search(rest)
        if reset is None or encoding == "shift_jis":
            return _decode_designated(rest, encoding)
        at = reset.start()
        return _decode_designated(rest[:at], encoding) + rest[at:].decode(first, "replace")
    return fragment.decode(first, "replace")


def _decode_designated(raw: bytes, encoding: str) -> str:
    if encoding == "iso_ir_58":
        # GB 2312 in G1 with ASCII in G0: the bytes are those of gb2312, no escape needed.
        return raw.decode("gb2312", "replace")
    return raw.decode(encoding, "replace")


def _python_encoding(term: str) -> str:
    known = python_encoding.get(term)
    if known is not None:
        return known
    number = re.fullmatch(r"ISO[ _-]*(2022)?[ _-]*IR[ _-]*(\d+)", term, re.IGNORECASE)
    if number:
        form = "ISO 2022 IR " if number[1] else "ISO_IR "
        return python_encoding.get(form + number[2], DEFAULT_ENCODING)
    try:
        # Some senders write the name of a codec ("utf-8"). Only text codecs can be meant.
        found = codecs.lookup(term)
    except (LookupError, ValueError):
        return DEFAULT_ENCODING
    return found.name if getattr(found, "_is_text_encoding", False) else DEFAULT_ENCODING
