"""What the decode child can be asked: a frame decoded or encoded, displayed values, a picture."""

from __future__ import annotations

from typing import Any

import numpy as np

from interop.dicom.decode import Array, CannotDecode, colour_space, decode_frame
from interop.dicom.display import Window, displayed, in_displayed_polarity
from interop.dicom.encode import encode_frame
from interop.dicom.file_pixels import file_pixels
from interop.dicom.picture import Finish, Viewport, animation, finished, picture
from interop.dicom.pixels import PixelDescription

Answer = tuple[dict[str, Any], bytes]
# In place of a media type: the displayed values themselves.
ARRAY = ""
# Up to this size a picture is for finding, not for reading, and is made of fewer pixels.
THUMBNAIL_SIDE = 256


def answer(header: dict[str, Any], body: bytes | memoryview) -> Answer:
    """Return the answer to one request. Raises CannotDecode."""
    if header["wanted"] == "file":
        shape, pixels = file_pixels(body)
        return {"rows_columns_samples_bits": shape}, pixels
    if header["wanted"] == "animation":
        frames = np.frombuffer(body, np.uint8).reshape(tuple(header["shape"]))
        return {}, animation(list(frames), header["milliseconds"])
    described = PixelDescription.from_json(header["pixels"])
    stored = decode_frame(described, body)
    match header["wanted"]:
        case "native":
            return _native(described, stored)
        case "encoded":
            return _encoded(described, stored, header["transfer_syntax_uid"])
        case "polarity":
            return _array(in_displayed_polarity(described, stored))
        case "picture":
            window = Window(*header["window"]) if header["window"] else None
            finish = _finish(header)
            shown = displayed(described, _thinned(stored, finish.viewport), window)
            if header["media_type"] == ARRAY:
                return _array(finished(shown, finish))
            return {}, picture(shown, header["media_type"], header["quality"], finish)
    raise CannotDecode(f"unknown request {header['wanted']!r}")


def _thinned(stored: Array, viewport: Viewport | None) -> Array:
    """Leave out rows and columns that a thumbnail cannot show; two are kept for each of its own."""
    if viewport is None or viewport.source or max(viewport.width, viewport.height) > THUMBNAIL_SIDE:
        return stored
    rows, columns = stored.shape[:2]
    step = int(max(columns / viewport.width, rows / viewport.height)) // 2
    return stored[::step, ::step] if step > 1 else stored


def _finish(header: dict[str, Any]) -> Finish:
    viewport = header["viewport"]
    return Finish(
        Viewport(*viewport) if viewport is not None else None,
        header.get("top", ()),
        header.get("bottom", ()),
        header.get("icc_profile", "no"),
        bytes.fromhex(header.get("stored_profile", "")),
    )


def _native(described: PixelDescription, stored: Array) -> Answer:
    """Return the frame as Explicit VR Little Endian holds it, pixel by pixel (PS3.5 8.1.1)."""
    if described.bits_allocated == 1:
        packed = np.packbits(stored.astype(np.uint8).reshape(-1), bitorder="little")
        return {
            "photometric_interpretation": described.photometric_interpretation
        }, packed.tobytes()
    values = _native_values(described, stored)
    return {"photometric_interpretation": colour_space(described)}, values.tobytes()


def _encoded(described: PixelDescription, stored: Array, transfer_syntax_uid: str) -> Answer:
    """Return the frame in another transfer syntax, from the values of its native form."""
    if described.bits_allocated == 1:
        raise CannotDecode("images of single bits are sent uncompressed only")
    encoded, interpretation = encode_frame(
        described,
        colour_space(described),
        _native_values(described, stored),
        transfer_syntax_uid,
    )
    return {"photometric_interpretation": interpretation}, encoded


def _native_values(described: PixelDescription, stored: Array) -> Array:
    kind = "f" if described.is_float else "i" if described.is_signed else "u"
    dtype = np.dtype(f"<{kind}{described.bits_allocated // 8}")
    if stored.dtype.itemsize > dtype.itemsize:
        raise CannotDecode(
            f"the codestream has {stored.dtype.itemsize * 8} bits a sample;"
            f" Bits Allocated says {described.bits_allocated}"
        )
    if described.is_signed and stored.dtype.kind == "u":
        # Codecs that know no sign: extend it from the highest stored bit.
        sign = 1 << (described.bits_stored - 1)
        stored = (
            (stored.astype(np.int64) ^ sign) - sign
            if described.bits_stored < (dtype.itemsize * 8)
            else stored.view(stored.dtype.str.replace("u", "i"))
        )
    return np.ascontiguousarray(stored).astype(dtype, copy=False)


def _array(array: Array) -> Answer:
    values = np.ascontiguousarray(array)
    return {"shape": list(values.shape), "dtype": values.dtype.str}, values.tobytes()
