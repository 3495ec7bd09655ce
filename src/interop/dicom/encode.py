"""Arrays to codestreams (PS3.5 8.2, A.4, Annex G). Runs only in the limited child process.

Every codec here is lossless but JPEG Baseline, which is made for frames that a caller asks for by
its name. Precision follows Bits Stored where all values fit it: the other bits of old files, which
may hold overlays, are kept by a precision of Bits Allocated.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import pack

import imagecodecs
import jpeg_ls  # type: ignore[import-not-found, import-untyped, unused-ignore]
import numpy as np

from interop.dicom.decodable import (
    HTJ2K_LOSSLESS,
    HTJ2K_LOSSLESS_RPCL,
    JPEG_2000_LOSSLESS,
    JPEG_BASELINE,
    JPEG_LOSSLESS_SV1,
    JPEG_LS_LOSSLESS,
    RLE_LOSSLESS,
    can_hold,
)
from interop.dicom.decode import Array, CannotDecode
from interop.dicom.pixels import PixelDescription

JPEG_BASELINE_QUALITY = 90
# HTJ2K with RPCL Options: the smallest resolution fits into 64 by 64 (PS3.5 A.4.11).
_SMALLEST_SIDE = 64
_SEGMENTS = 15


def encode_frame(
    described: PixelDescription, interpretation: str, pixels: Array, transfer_syntax_uid: str
) -> tuple[bytes, str]:
    """Return a frame's codestream and its photometric interpretation. Raises CannotDecode.

    ``pixels`` are as Explicit VR Little Endian holds them, colour pixel by pixel.
    """
    is_baseline = transfer_syntax_uid == JPEG_BASELINE and described.bits_allocated == 8
    holds = can_hold(transfer_syntax_uid, described.samples_per_pixel, described.bits_allocated)
    if described.is_float or not (holds or is_baseline):
        raise CannotDecode(
            f"{described.samples_per_pixel} samples of {described.bits_allocated} bits cannot be"
            f" encoded in {transfer_syntax_uid}"
        )
    try:
        encoded = _ENCODERS[transfer_syntax_uid](described, interpretation, pixels)
    except CannotDecode:
        raise
    except Exception as error:
        raise CannotDecode(f"the pixels cannot be encoded: {error}") from error
    return encoded, _interpretation(transfer_syntax_uid, interpretation)


def _interpretation(transfer_syntax_uid: str, interpretation: str) -> str:
    """PS3.5 8.2: what the components of the codestream are."""
    if interpretation == "RGB":
        if transfer_syntax_uid in _COLOUR_TRANSFORMED:
            return "YBR_RCT"
        if transfer_syntax_uid == JPEG_BASELINE:
            return "YBR_FULL_422"
    return interpretation


def _precision(described: PixelDescription, pixels: Array) -> int:
    """Return Bits Stored where all values are of that many bits, else Bits Allocated."""
    bits = described.bits_stored
    if bits >= described.bits_allocated or not pixels.size:
        return described.bits_allocated
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if described.is_signed else (0, 2**bits - 1)
    fits = int(pixels.min()) >= low and int(pixels.max()) <= high
    return bits if fits else described.bits_allocated


def _unsigned(described: PixelDescription, pixels: Array) -> tuple[Array, int]:
    """Return the bits for codecs that know no sign, and how many there are.

    Whoever decodes extends the sign from Bits Stored, so all values must be of that many.
    """
    precision = _precision(described, pixels)
    if described.is_signed:
        if precision != described.bits_stored:
            raise CannotDecode(
                f"signed values of more than the {described.bits_stored} bits stored; this codec"
                " keeps no sign: ask for JPEG 2000, HTJ2K or RLE"
            )
        pixels = pixels.view(f"u{pixels.dtype.itemsize}") & ((1 << precision) - 1)
    return np.ascontiguousarray(pixels), precision


def _rle(described: PixelDescription, interpretation: str, pixels: Array) -> bytes:
    """Byte planes, the most significant first, each row packed by itself (PS3.5 G.3)."""
    del described, interpretation
    planes = pixels[:, :, None] if pixels.ndim == 2 else pixels
    width = planes.dtype.itemsize
    octets = np.ascontiguousarray(planes).view(np.uint8).reshape(*planes.shape, width)
    segments = []
    for sample in range(planes.shape[2]):
        for byte in reversed(range(width)):
            plane = np.ascontiguousarray(octets[:, :, sample, byte])
            packed = bytes(imagecodecs.packbits_encode(plane))
            segments.append(packed + b"\0" * (len(packed) % 2))
    offsets, at = [], 64
    for segment in segments:
        offsets.append(at)
        at += len(segment)
    offsets += [0] * (_SEGMENTS - len(segments))
    return pack("<16I", len(segments), *offsets) + b"".join(segments)


def _lossless_jpeg(described: PixelDescription, interpretation: str, pixels: Array) -> bytes:
    del interpretation
    bits, precision = _unsigned(described, pixels)
    return bytes(
        imagecodecs.jpeg8_encode(bits, lossless=True, predictor=1, bitspersample=precision)
    )


def _jpeg_ls(described: PixelDescription, interpretation: str, pixels: Array) -> bytes:
    del interpretation
    bits, precision = _unsigned(described, pixels)
    rows, columns = bits.shape[:2]
    return bytes(
        jpeg_ls.encode_buffer(
            bits.tobytes(),
            rows,
            columns,
            described.samples_per_pixel,
            # CharLS begins at two bits.
            max(precision, 2),
            interleave_mode=2 if described.samples_per_pixel > 1 else 0,
        )
    )


def _jpeg_2000(described: PixelDescription, interpretation: str, pixels: Array) -> bytes:
    return bytes(
        imagecodecs.jpeg2k_encode(
            pixels,
            level=0,
            codecformat="J2K",
            reversible=True,
            bitspersample=_precision(described, pixels),
            mct=interpretation == "RGB",
            planar=False,
        )
    )


def _htj2k(described: PixelDescription, interpretation: str, pixels: Array) -> bytes:
    del described
    return bytes(
        imagecodecs.htj2k_encode(pixels, level=0, reversible=True, rgb=interpretation == "RGB")
    )


def _htj2k_rpcl(described: PixelDescription, interpretation: str, pixels: Array) -> bytes:
    del described
    halvings = max(-(-max(pixels.shape[:2]) // _SMALLEST_SIDE) - 1, 0).bit_length()
    return bytes(
        imagecodecs.htj2k_encode(
            pixels,
            level=0,
            reversible=True,
            rgb=interpretation == "RGB",
            tlm=True,
            resolutions=halvings + 1,
        )
    )


def _baseline(described: PixelDescription, interpretation: str, pixels: Array) -> bytes:
    if described.is_signed:
        raise CannotDecode("signed pixels have no JPEG Baseline form")
    if described.samples_per_pixel == 1:
        return bytes(imagecodecs.jpeg8_encode(pixels, level=JPEG_BASELINE_QUALITY))
    # Y, Cb and Cr are coded as they are; RGB is transformed, as nearly all decoders expect.
    space = "YCBCR" if interpretation.startswith("YBR") else "RGB"
    return bytes(
        imagecodecs.jpeg8_encode(
            pixels,
            level=JPEG_BASELINE_QUALITY,
            colorspace=space,
            outcolorspace="YCBCR",
            subsampling="422",
        )
    )


_Encoder = Callable[[PixelDescription, str, Array], bytes]
_COLOUR_TRANSFORMED = frozenset((JPEG_2000_LOSSLESS, HTJ2K_LOSSLESS, HTJ2K_LOSSLESS_RPCL))
_ENCODERS: dict[str, _Encoder] = {
    RLE_LOSSLESS: _rle,
    JPEG_BASELINE: _baseline,
    JPEG_LOSSLESS_SV1: _lossless_jpeg,
    JPEG_LS_LOSSLESS: _jpeg_ls,
    JPEG_2000_LOSSLESS: _jpeg_2000,
    HTJ2K_LOSSLESS: _htj2k,
    HTJ2K_LOSSLESS_RPCL: _htj2k_rpcl,
}
