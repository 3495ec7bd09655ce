"""Media types: reading Accept and Content-Type, and choosing what to answer (PS3.18 8.7).

A choice is made over (media type, transfer syntax) pairs. `transfer-syntax=*` is what viewers send
for "as you have it" and is answered with the stored encoding.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import groupby

from interop.dicom.decodable import (
    ENCAPSULATED_TARGETS,
    HTJ2K_LOSSLESS,
    JPEG_2000_LOSSLESS,
    JPEG_BASELINE,
    JPEG_LOSSLESS_SV1,
    JPEG_LS_LOSSLESS,
    RLE_LOSSLESS,
    can_transcode,
)
from interop.errors import BadRequest, NotAcceptable

DICOM = "application/dicom"
DICOM_JSON = "application/dicom+json"
DICOM_XML = "application/dicom+xml"
JSON = "application/json"
OCTET_STREAM = "application/octet-stream"
MULTIPART = "multipart/related"
EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
ANY = "*"

MAX_ACCEPT_LENGTH = 4096
MAX_ENTRIES = 64
_TOKEN = r"[^\s;,=\"]+"  # noqa: S105 a pattern, not a secret
_PARAMETER = re.compile(rf"\s*;\s*({_TOKEN})\s*=\s*(\"(?:[^\"\\]|\\.)*\"|[^\s;,\"]*)")
_TYPE = re.compile(r"\s*([^\s;,/]+/[^\s;,]+|\*)")


@dataclass(frozen=True, slots=True)
class MediaType:
    """A media type with its parameters; for multipart/related, `part_type` is its root's type."""

    name: str
    parameters: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def is_multipart(self) -> bool:
        return self.name == MULTIPART

    @property
    def part_type(self) -> str:
        return self.parameters.get("type", "*/*").lower() if self.is_multipart else self.name

    @property
    def transfer_syntax(self) -> str | None:
        return self.parameters.get("transfer-syntax") or None

    @property
    def quality(self) -> float:
        try:
            return min(max(float(self.parameters.get("q", "1")), 0.0), 1.0)
        except ValueError:
            return 0.0

    def admits(self, name: str) -> bool:
        """Whether `name` (a full media type) falls under this, wildcards included."""
        own = self.part_type
        return own in (name, "*/*", "*") or (own.endswith("/*") and name.startswith(own[:-1]))


def parse_media_types(text: str) -> list[MediaType]:
    """Read an Accept value, best first (by q, then by order). Raises BadRequest."""
    if len(text) > MAX_ACCEPT_LENGTH:
        raise BadRequest(f"the Accept value is longer than {MAX_ACCEPT_LENGTH} characters")
    found: list[MediaType] = []
    at = 0
    while at < len(text):
        match = _TYPE.match(text, at)
        if match is None:
            raise BadRequest(
                f"cannot read the media type at character {at + 1} of {text!r}; "
                f"expected e.g. {DICOM_JSON}"
            )
        at = match.end()
        parameters: dict[str, str] = {}
        while (parameter := _PARAMETER.match(text, at)) is not None:
            parameters.setdefault(parameter[1].lower(), _unquoted(parameter[2]))
            at = parameter.end()
        found.append(MediaType(match[1].lower(), parameters))
        rest = text[at:].lstrip()
        if rest and not rest.startswith(","):
            raise BadRequest(f"cannot read the media type parameters at {rest[:40]!r}")
        at = len(text) - len(rest) + 1
        if len(found) > MAX_ENTRIES:
            raise BadRequest(f"more than {MAX_ENTRIES} media types in one Accept value")
    return sorted((m for m in found if m.quality > 0), key=lambda m: -m.quality)


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1]) if text.startswith('"') else text


# Kept: clients send the same few values with every request.
Accepted = tuple[MediaType, ...]


@lru_cache(maxsize=256)
def accepted(header: str | None, query: str | None) -> Accepted:
    """What the caller accepts: the `accept` query parameter before the header (PS3.18 8.3.3.1)."""
    wanted = parse_media_types(query) if query else []
    if not wanted:
        wanted = parse_media_types(header) if header else []
    return tuple(wanted) or (MediaType("*/*"),)


def json_or_xml(wanted: Iterable[MediaType], what: str) -> str:
    """Choose JSON, or XML where multipart is wanted (PS3.18 8.7.3.2). Raises NotAcceptable.

    `what` is served, for the message; application/json is chosen when only that is named.
    """
    for media_type in wanted:
        if media_type.is_multipart:
            if media_type.admits(DICOM_XML):
                return DICOM_XML
            continue
        for name in (DICOM_JSON, JSON):
            if media_type.admits(name):
                return name
    raise NotAcceptable(
        f'{what} as {DICOM_JSON}, {JSON} or {MULTIPART}; type="{DICOM_XML}"; accept one of them'
    )


@dataclass(frozen=True, slots=True)
class DicomChoice:
    """How application/dicom is sent: groups of equally wanted transfer syntaxes, best first.

    ANY is the stored encoding, DEFAULT what PS3.18 8.7.3 gives a caller who names none.
    """

    multipart: bool
    preferences: tuple[tuple[str, ...], ...]


DEFAULT = ""


def choose_dicom(wanted: Iterable[MediaType], *, single: bool) -> DicomChoice:
    """Choose between multipart and, for one instance (`single`), a bare application/dicom body.

    A caller that names no media type at all takes what is stored.
    """
    multipart: bool | None = None
    preferences: list[tuple[str, ...]] = []
    for _, group in groupby(wanted, key=lambda media_type: media_type.quality):
        syntaxes: list[str] = []
        for media_type in group:
            is_open = media_type.part_type in ("*/*", ANY)
            if not media_type.admits(DICOM) or not (media_type.is_multipart or single or is_open):
                continue
            as_multipart = media_type.is_multipart or is_open
            if multipart is None:
                multipart = as_multipart
            if as_multipart == multipart:
                syntaxes.append(media_type.transfer_syntax or (ANY if is_open else DEFAULT))
        if syntaxes:
            preferences.append(tuple(syntaxes))
    if multipart is None:
        bare = f", or {DICOM}" if single else ""
        raise NotAcceptable(
            f'this resource is served as {MULTIPART}; type="{DICOM}"{bare}, with '
            "transfer-syntax=* for the stored encoding"
        )
    return DicomChoice(multipart, tuple(preferences))


# PS3.18 Table 8.7.3-5: the media type of a compressed frame by its transfer syntax.
FRAME_MEDIA_TYPES = {
    "1.2.840.10008.1.2.5": "image/dicom-rle",
    "1.2.840.10008.1.2.4.50": "image/jpeg",
    "1.2.840.10008.1.2.4.51": "image/jpeg",
    "1.2.840.10008.1.2.4.57": "image/jpeg",
    "1.2.840.10008.1.2.4.70": "image/jpeg",
    "1.2.840.10008.1.2.4.80": "image/jls",
    "1.2.840.10008.1.2.4.81": "image/jls",
    "1.2.840.10008.1.2.4.90": "image/jp2",
    "1.2.840.10008.1.2.4.91": "image/jp2",
    "1.2.840.10008.1.2.4.92": "image/jpx",
    "1.2.840.10008.1.2.4.93": "image/jpx",
    "1.2.840.10008.1.2.4.110": "image/jxl",
    "1.2.840.10008.1.2.4.111": "image/jxl",
    "1.2.840.10008.1.2.4.112": "image/jxl",
    "1.2.840.10008.1.2.4.201": "image/jphc",
    "1.2.840.10008.1.2.4.202": "image/jphc",
    "1.2.840.10008.1.2.4.203": "image/jphc",
    "1.2.840.10008.1.2.4.100": "video/mpeg",
    "1.2.840.10008.1.2.4.101": "video/mpeg",
    "1.2.840.10008.1.2.4.102": "video/mp4",
    "1.2.840.10008.1.2.4.103": "video/mp4",
    "1.2.840.10008.1.2.4.104": "video/mp4",
    "1.2.840.10008.1.2.4.105": "video/mp4",
    "1.2.840.10008.1.2.4.106": "video/mp4",
    "1.2.840.10008.1.2.4.107": "video/mp4",
    "1.2.840.10008.1.2.4.108": "video/mp4",
}
NATIVE = frozenset(
    (
        "1.2.840.10008.1.2",
        "1.2.840.10008.1.2.1",
        "1.2.840.10008.1.2.1.99",
        "1.2.840.10008.1.2.2",
        "1.2.840.10008.1.2.1.98",
    )
)


# The transfer syntax that a media type means by itself (PS3.18 Table 8.7.3-5).
_DEFAULT_SYNTAXES = {
    "image/dicom-rle": RLE_LOSSLESS,
    "image/jpeg": JPEG_LOSSLESS_SV1,
    "image/jls": JPEG_LS_LOSSLESS,
    "image/jp2": JPEG_2000_LOSSLESS,
    "image/jphc": HTJ2K_LOSSLESS,
}
_MADE_SYNTAXES = frozenset((*ENCAPSULATED_TARGETS, JPEG_BASELINE))


@dataclass(frozen=True, slots=True)
class FrameChoice:
    """How pixel data is sent, if not as stored: `decode`, uncompressed little endian; `encode`."""

    multipart: bool
    media_type: str
    transfer_syntax: str
    decode: bool
    encode: bool = False

    @property
    def content_type(self) -> str:
        return f"{self.media_type}; transfer-syntax={self.transfer_syntax}"


def choose_frames(
    wanted: Iterable[MediaType], stored: str, *, single: bool, can_decode: bool
) -> FrameChoice:
    """Choose the encoding of frames of an object stored in transfer syntax `stored`.

    application/octet-stream without a transfer syntax is uncompressed (Table 8.7.3-5); with `*`,
    and for a media type that fits the stored one, the stored bytes go out. Of what is wanted
    equally the stored comes first, then the uncompressed. Raises NotAcceptable.
    """
    ways = (_as_stored, _decoded, _encoded) if can_decode else (_as_stored, _native)
    for _, group in groupby(wanted, key=lambda media_type: media_type.quality):
        usable = [m for m in group if m.is_multipart or single or m.part_type in ("*/*", ANY)]
        for way in ways:
            for media_type in usable:
                found = way(media_type, stored)
                if found is not None:
                    is_open = media_type.part_type in ("*/*", ANY)
                    multipart = media_type.is_multipart or is_open or not single
                    return replace(found, multipart=multipart)
    raise _no_frames(stored, can_decode=can_decode)


def _stored_choice(stored: str) -> FrameChoice:
    if stored in NATIVE:
        return FrameChoice(False, OCTET_STREAM, EXPLICIT_VR_LITTLE_ENDIAN, False)
    return FrameChoice(False, FRAME_MEDIA_TYPES.get(stored, OCTET_STREAM), stored, False)


def _as_stored(media_type: MediaType, stored: str) -> FrameChoice | None:
    choice, syntax = _stored_choice(stored), media_type.transfer_syntax
    if syntax in (ANY, choice.transfer_syntax):
        fits = media_type.admits(choice.media_type) or media_type.admits(OCTET_STREAM)
        return choice if fits else None
    return choice if syntax is None and media_type.admits(choice.media_type) else None


def _decoded(media_type: MediaType, stored: str) -> FrameChoice | None:
    wants = media_type.transfer_syntax in (None, EXPLICIT_VR_LITTLE_ENDIAN)
    if not wants or not media_type.admits(OCTET_STREAM):
        return None
    return FrameChoice(False, OCTET_STREAM, EXPLICIT_VR_LITTLE_ENDIAN, stored not in NATIVE)


def _native(media_type: MediaType, stored: str) -> FrameChoice | None:
    return _decoded(media_type, stored) if stored in NATIVE else None


def _encoded(media_type: MediaType, stored: str) -> FrameChoice | None:
    """Frames in a codec that they are not stored in; lossy only where it is named."""
    syntax = media_type.transfer_syntax
    for name, default in _DEFAULT_SYNTAXES.items():
        made = syntax or default
        if (
            made in _MADE_SYNTAXES
            and FRAME_MEDIA_TYPES[made] == name
            and media_type.admits(name)
            and can_transcode(stored, EXPLICIT_VR_LITTLE_ENDIAN)
        ):
            return FrameChoice(False, name, made, False, encode=True)
    return None


def _no_frames(stored: str, *, can_decode: bool) -> NotAcceptable:
    """Name what could be had instead."""
    choice = _stored_choice(stored)
    made = ""
    if can_decode:
        types = ", ".join(f"{name} ({uid})" for name, uid in _DEFAULT_SYNTAXES.items())
        made = f', {MULTIPART}; type="{OCTET_STREAM}" uncompressed, or transcoded as {types}'
    return NotAcceptable(
        f'these frames are served as {MULTIPART}; type="{choice.media_type}"; '
        f"transfer-syntax={choice.transfer_syntax}{made}"
    )


# PS3.5 A.4: compressed with loss, whatever the object says of itself.
_LOSSY = frozenset(
    (
        "1.2.840.10008.1.2.4.50",
        "1.2.840.10008.1.2.4.51",
        "1.2.840.10008.1.2.4.81",
        "1.2.840.10008.1.2.4.91",
        "1.2.840.10008.1.2.4.93",
        "1.2.840.10008.1.2.4.112",
        "1.2.840.10008.1.2.4.203",
    )
)


def is_lossy(transfer_syntax_uid: str) -> bool:
    """Whether decompressing gains nothing that was there: lossy images and all video."""
    media_type = FRAME_MEDIA_TYPES.get(transfer_syntax_uid, "")
    return transfer_syntax_uid in _LOSSY or media_type.startswith("video/")
