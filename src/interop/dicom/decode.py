"""Frames to arrays. Runs only in the limited child process (security.md B5, B6).

Codecs come from imagecodecs; which one reads which transfer syntax is the table below. A decoder's
result is believed only when it has the shape that the attributes declare, so that a lie about
dimensions is an error and never a read beyond a buffer.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from interop.dicom.filemeta import EXPLICIT_VR_BIG_ENDIAN
from interop.dicom.pixels import PixelDescription

Array = NDArray[np.generic]


class CannotDecode(ValueError):
    """The frame cannot be decoded."""


def decode_frame(described: PixelDescription, frame: bytes | memoryview) -> Array:
    """Return the frame as [rows, columns] or [rows, columns, samples], stored values.

    Colour comes out as in ``colour_space`` and pixel by pixel. Raises CannotDecode.
    """
    decoder = _DECODERS.get(described.transfer_syntax_uid)
    if decoder is None:
        return _native(described, frame)
    try:
        array = np.asarray(decoder(described, bytes(frame)))
    except CannotDecode:
        raise
    except Exception as error:
        # Codec libraries raise types of their own; all mean the same here.
        raise CannotDecode(f"the codestream is damaged: {error}") from error
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    expected: tuple[int, ...] = (described.rows, described.columns)
    if described.samples_per_pixel > 1:
        expected = (*expected, described.samples_per_pixel)
    if array.shape != expected:
        raise CannotDecode(f"the codestream holds {array.shape}; the attributes say {expected}")
    return array


def colour_space(described: PixelDescription) -> str:
    """Return the photometric interpretation of what ``decode_frame`` returns (PS3.5 8.2)."""
    interpretation = described.photometric_interpretation
    if described.transfer_syntax_uid in _NATIVE_COLOUR or described.samples_per_pixel == 1:
        if interpretation == "YBR_FULL_422" and described.transfer_syntax_uid not in _DECODERS:
            return "YBR_FULL"
        return interpretation
    if interpretation in ("YBR_RCT", "YBR_ICT"):
        return "RGB"
    if described.transfer_syntax_uid in _JPEG_8 and interpretation.startswith("YBR"):
        # libjpeg converts while it decodes.
        return "RGB"
    return interpretation


def _native(described: PixelDescription, frame: bytes | memoryview) -> Array:
    rows, columns, samples = described.rows, described.columns, described.samples_per_pixel
    pixels = rows * columns
    if described.bits_allocated == 1:
        if len(frame) * 8 < pixels:
            raise CannotDecode(f"{len(frame)} bytes for {pixels} one-bit pixels")
        bits = np.unpackbits(np.frombuffer(frame, np.uint8), count=pixels, bitorder="little")
        return bits.reshape(rows, columns)
    kind = "f" if described.is_float else "i" if described.is_signed else "u"
    order = ">" if described.transfer_syntax_uid == EXPLICIT_VR_BIG_ENDIAN else "<"
    dtype = np.dtype(f"{order}{kind}{described.bits_allocated // 8}")
    is_422 = described.photometric_interpretation == "YBR_FULL_422" and samples == 3
    count = pixels * (2 if is_422 else samples)
    if len(frame) < count * dtype.itemsize:
        raise CannotDecode(
            f"the frame has {len(frame)} bytes; its attributes need {count * dtype.itemsize}"
        )
    values = np.frombuffer(frame, dtype, count).astype(dtype.newbyteorder("="), copy=False)
    if is_422:
        return _upsampled(values, rows, columns)
    if samples == 1:
        return values.reshape(rows, columns)
    if described.planar_configuration == 1:
        return np.moveaxis(values.reshape(samples, rows, columns), 0, -1)
    return values.reshape(rows, columns, samples)


def _upsampled(values: Array, rows: int, columns: int) -> Array:
    """Return YBR_FULL from Y Y Cb Cr quadruples (PS3.3 C.7.6.3.1.2)."""
    if columns % 2:
        raise CannotDecode("YBR_FULL_422 needs an even number of columns")
    quads = values.reshape(rows, columns // 2, 4)
    out = np.empty((rows, columns, 3), values.dtype)
    out[:, 0::2, 0], out[:, 1::2, 0] = quads[:, :, 0], quads[:, :, 1]
    out[:, :, 1] = np.repeat(quads[:, :, 2], 2, axis=1)
    out[:, :, 2] = np.repeat(quads[:, :, 3], 2, axis=1)
    return out


def _rle(described: PixelDescription, frame: bytes) -> Array:
    """RLE Lossless (PS3.5 Annex G): byte planes, the most significant first."""
    samples, width = described.samples_per_pixel, described.bits_allocated // 8
    pixels = described.rows * described.columns
    segments = samples * width
    header = np.frombuffer(frame[:64], "<u4")
    if len(header) < 16 or header[0] != segments:
        raise CannotDecode(f"RLE header announces {header[:1]} segments; {segments} are needed")
    offsets = [int(o) for o in header[1 : 1 + segments]] + [len(frame)]
    if offsets[0] != 64 or any(b <= a for a, b in pairwise(offsets)):
        raise CannotDecode("the offsets in the RLE header do not ascend within the frame")
    planes = np.empty((samples, width, pixels), np.uint8)
    for n in range(segments):
        plane = np.frombuffer(imagecodecs.packbits_decode(frame[offsets[n] : offsets[n + 1]]), "u1")
        if len(plane) < pixels:
            raise CannotDecode(f"RLE segment {n} has {len(plane)} of {pixels} bytes")
        planes[n // width, width - 1 - n % width] = plane[:pixels]
    kind = "i" if described.is_signed else "u"
    values = np.moveaxis(planes, 1, 2).copy().view(f"<{kind}{width}")[:, :, 0]
    shape = (samples, described.rows, described.columns)
    out = np.moveaxis(values.reshape(shape), 0, -1)
    return out[:, :, 0] if samples == 1 else out


def _jpeg(described: PixelDescription, frame: bytes) -> Array:
    if described.samples_per_pixel == 1:
        return imagecodecs.jpeg8_decode(frame)
    is_ybr = described.photometric_interpretation.startswith("YBR")
    return imagecodecs.jpeg8_decode(
        frame, colorspace="YCBCR" if is_ybr else "RGB", outcolorspace="RGB"
    )


def _lossless_jpeg(described: PixelDescription, frame: bytes) -> Array:
    if described.samples_per_pixel == 1:
        return imagecodecs.jpegsof3_decode(frame)
    return imagecodecs.ljpeg_decode(frame)


def _jpeg_2000(described: PixelDescription, frame: bytes) -> Array:
    return imagecodecs.jpeg2k_decode(frame, planar=False)


_Decoder = Callable[[PixelDescription, bytes], Array]
_JPEG_8 = frozenset(("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"))
_NATIVE_COLOUR = frozenset(("1.2.840.10008.1.2.5",))
_DECODERS: dict[str, _Decoder] = {
    "1.2.840.10008.1.2.5": _rle,
    "1.2.840.10008.1.2.4.50": _jpeg,
    "1.2.840.10008.1.2.4.51": _jpeg,
    "1.2.840.10008.1.2.4.57": _lossless_jpeg,
    "1.2.840.10008.1.2.4.70": _lossless_jpeg,
    "1.2.840.10008.1.2.4.80": lambda _, frame: imagecodecs.jpegls_decode(frame),
    "1.2.840.10008.1.2.4.81": lambda _, frame: imagecodecs.jpegls_decode(frame),
    "1.2.840.10008.1.2.4.90": _jpeg_2000,
    "1.2.840.10008.1.2.4.91": _jpeg_2000,
    "1.2.840.10008.1.2.4.110": lambda _, frame: imagecodecs.jpegxl_decode(frame),
    "1.2.840.10008.1.2.4.111": lambda _, frame: imagecodecs.jpegxl_decode(frame),
    "1.2.840.10008.1.2.4.112": lambda _, frame: imagecodecs.jpegxl_decode(frame),
    "1.2.840.10008.1.2.4.201": _jpeg_2000,
    "1.2.840.10008.1.2.4.202": _jpeg_2000,
    "1.2.840.10008.1.2.4.203": _jpeg_2000,
}
