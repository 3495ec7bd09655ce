"""Stored values to displayed ones: the grey scale and colour pipelines (PS3.3 C.11, PS3.4 N.2).

Runs in the limited child process. Integer images of up to 16 bits go through one table of all
possible values, so that rescale, window and inversion cost one look-up a pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from interop.dicom.decode import Array, CannotDecode, colour_space
from interop.dicom.pixels import LookUpTable, PixelDescription

Grey = NDArray[np.uint8]
_BLOCK = 1 << 14


@dataclass(frozen=True, slots=True)
class Window:
    """A VOI window (PS3.3 C.11.2.1.2, C.11.2.1.3)."""

    center: float
    width: float
    function: str = "LINEAR"


def displayed(described: PixelDescription, stored: Array, window: Window | None) -> Grey:
    """Return 8 bits a sample: [rows, columns] for grey scale, [rows, columns, 3] for colour."""
    if described.samples_per_pixel > 1:
        return _colour(described, stored)
    if described.photometric_interpretation == "PALETTE COLOR":
        return _palette(described, stored)
    return _grey(described, stored, window)


def in_displayed_polarity(described: PixelDescription, stored: Array) -> Array:
    """Return all bits of the stored values, unsigned, larger being brighter; colour as 8 bits."""
    if described.samples_per_pixel > 1 or described.photometric_interpretation == "PALETTE COLOR":
        return displayed(described, stored, None)
    if described.bits_allocated > 16 or described.is_float:
        return displayed(described, stored, None)
    values = _significant(described, stored).astype(np.int32)
    low, high = _range(described)
    values = high - values if described.is_inverted else values - low
    return values.astype(np.uint8 if high - low <= 255 else np.uint16)


def _range(described: PixelDescription) -> tuple[int, int]:
    if described.is_signed:
        return -(1 << described.bits_stored - 1), (1 << described.bits_stored - 1) - 1
    return 0, (1 << described.bits_stored) - 1


def _significant(described: PixelDescription, stored: Array) -> Array:
    """Return the values of the stored bits alone: old files keep overlays in the others."""
    bits, allocated = described.bits_stored, described.bits_allocated
    if described.is_float:
        return stored
    if bits == stored.dtype.itemsize * 8:
        if described.is_signed and stored.dtype.kind == "u":
            # JPEG Lossless and JPEG-LS know no sign: the codec returns the bits unsigned.
            return stored.view(f"i{stored.dtype.itemsize}")
        return stored
    width = stored.dtype.itemsize * 8
    above = width - 1 - described.high_bit
    if allocated > 1 and above >= 0 and stored.dtype.kind in "iu":
        # Out at the top and back: what comes in from there is the sign, or nothing.
        typed = stored.view(f"{'i' if described.is_signed else 'u'}{stored.dtype.itemsize}")
        return np.asarray((typed << above) >> (width - bits))
    shift = described.high_bit + 1 - bits if allocated > 1 else 0
    raw = stored.astype(np.int64) >> max(shift, 0)
    raw &= (1 << bits) - 1
    if described.is_signed:
        raw = np.where(raw >= 1 << bits - 1, raw - (1 << bits), raw)
    return raw.astype(np.int32 if bits <= 31 else np.int64)


def _grey(described: PixelDescription, stored: Array, window: Window | None) -> Grey:
    values = _significant(described, stored)
    if described.is_float or described.bits_stored > 16:
        return _voi(described, _modality(described, values.astype(np.float64)), window)
    low, high = _range(described)
    possible = np.arange(low, high + 1, dtype=np.float64)
    if window is None and described.window_width is None and described.voi_lut is None:
        window = _automatic(described, values)
    table = _voi(described, _modality(described, possible), window)
    return _through(table, values, low)


def _through(table: Grey, values: Array, low: int) -> Grey:
    """Look every value up, block by block: the indices of one fit the processor's cache."""
    flat, out = values.reshape(-1), np.empty(values.size, np.uint8)
    indices = np.empty(min(_BLOCK, values.size), np.intp)
    for at in range(0, values.size, _BLOCK):
        index = indices[: values.size - at]
        index[:] = flat[at : at + _BLOCK]
        if low:
            index -= low
        # "clip" needs no second pass that checks; no value lies outside of the table.
        np.take(table, index, out=out[at : at + _BLOCK], mode="clip")
    return out.reshape(values.shape)


def _automatic(described: PixelDescription, values: Array) -> Window:
    """Return the window from the darkest to the brightest value, padding left out."""
    shown = values
    if described.padding_value is not None:
        shown = values[values != described.padding_value]
        if shown.size == 0:
            shown = values
    ends = np.array([shown.min(), shown.max()], dtype=np.float64)
    low, high = sorted(_modality(described, ends))
    return Window((low + high) / 2 + 0.5, max(high - low, 1.0) + 1, "LINEAR")


def _modality(described: PixelDescription, values: NDArray[np.float64]) -> NDArray[np.float64]:
    if described.modality_lut is not None:
        return _looked_up(described.modality_lut, values)
    if (described.rescale_slope, described.rescale_intercept) == (1.0, 0.0):
        return values
    return values * described.rescale_slope + described.rescale_intercept


def _voi(described: PixelDescription, values: NDArray[np.float64], window: Window | None) -> Grey:
    if window is None and described.voi_lut is not None:
        table = described.voi_lut
        top = float((1 << min(max(table.bits, 8), 16)) - 1)
        shown = _looked_up(table, values) / top
    else:
        if window is None and described.window_center is not None:
            window = Window(
                described.window_center, described.window_width or 1.0, described.voi_lut_function
            )
        if window is None:
            low, high = float(np.nanmin(values)), float(np.nanmax(values))
            window = Window((low + high) / 2 + 0.5, max(high - low, 1e-9) + 1, "LINEAR")
        shown = _windowed(values, window)
    return _of_brightness(shown, described.is_inverted)


def _windowed(values: NDArray[np.float64], window: Window) -> NDArray[np.float64]:
    """Return 0 to 1, what lies outside of the window beyond (PS3.3 C.11.2.1.2.1, C.11.2.1.3)."""
    if window.function == "SIGMOID":
        exponent = np.clip(-4.0 * (values - window.center) / window.width, -500, 500)
        return np.asarray(1.0 / (1.0 + np.exp(exponent)), np.float64)
    center, width = window.center, window.width
    if window.function != "LINEAR_EXACT":
        if width <= 1:
            return (values > center - 0.5).astype(np.float64)
        center, width = center - 0.5, width - 1
    shown = values - center
    shown /= width
    shown += 0.5
    return shown


def _of_brightness(shown: NDArray[np.float64], is_inverted: bool) -> Grey:
    """Return 8 bits for 0 to 1, in place: fresh memory costs more than arithmetic."""
    # What is no number is black: of it and 0, fmax returns 0.
    np.fmax(shown, 0.0, out=shown)
    np.fmin(shown, 1.0, out=shown)
    shown *= 255.0
    shown += 0.5
    grey = shown.astype(np.uint8)
    return 255 - grey if is_inverted else grey


def _looked_up(table: LookUpTable, values: NDArray[np.float64]) -> NDArray[np.float64]:
    data = _table_values(table)
    first = (
        table.first - 65536 if table.first >= 32768 and values.min(initial=0) < 0 else table.first
    )
    index = np.clip(np.rint(values) - first, 0, len(data) - 1).astype(np.intp)
    return np.asarray(data[index], np.float64)


def _table_values(table: LookUpTable) -> NDArray[np.uint16]:
    """Return the entries; 8-bit data may be packed two to a word (PS3.3 C.7.6.3.1.6)."""
    if len(table.data) >= 2 * table.entries:
        return np.frombuffer(table.data, "<u2", table.entries)
    if len(table.data) >= table.entries:
        return np.frombuffer(table.data, "u1", table.entries).astype(np.uint16)
    raise CannotDecode(
        f"a look-up table has {len(table.data)} bytes; its descriptor says {table.entries} entries"
    )


def _palette(described: PixelDescription, stored: Array) -> Grey:
    channels = []
    for table in described.palette:
        data = _table_values(table)
        # Indices below the first and above the last entry show those (PS3.3 C.7.6.3.1.5), so
        # nothing outside the table is ever read (CVE-2026-5445).
        index = np.clip(stored.astype(np.int64) - table.first, 0, len(data) - 1)
        is_wide = table.bits > 8 and int(data.max(initial=0)) > 255
        channels.append(((data >> 8) if is_wide else data).astype(np.uint8)[index])
    return np.stack(channels, axis=-1)


def _colour(described: PixelDescription, stored: Array) -> Grey:
    values = stored[:, :, :3]
    if values.dtype != np.uint8:
        shift = max(described.bits_stored - 8, 0)
        values = np.clip(values.astype(np.int64) >> shift, 0, 255).astype(np.uint8)
    space = colour_space(described)
    if space in ("YBR_FULL", "YBR_FULL_422"):
        return _rgb_of_full_range(values)
    if space.startswith("YBR_PARTIAL"):
        return _rgb_of_partial_range(values)
    return np.ascontiguousarray(values)


def _rgb_of_full_range(values: Array) -> Grey:
    y, cb, cr = (values[:, :, n].astype(np.float32) for n in range(3))
    return _packed(
        y + 1.402 * (cr - 128),
        y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128),
        y + 1.772 * (cb - 128),
    )


def _rgb_of_partial_range(values: Array) -> Grey:
    y, cb, cr = (values[:, :, n].astype(np.float32) for n in range(3))
    y = 1.1644 * (y - 16)
    return _packed(
        y + 1.596 * (cr - 128),
        y - 0.3917 * (cb - 128) - 0.8129 * (cr - 128),
        y + 2.0173 * (cb - 128),
    )


def _packed(*channels: NDArray[np.float32]) -> Grey:
    return np.asarray(np.clip(np.stack(channels, axis=-1) + 0.5, 0, 255), np.uint8)
