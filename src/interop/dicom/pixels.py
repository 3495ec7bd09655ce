"""The Image Pixel description of one frame and what displaying it needs (PS3.3 C.7.6.3, C.11).

Read from the stored DICOM JSON, so that no file is parsed; look-up tables too large for the JSON
are fetched by their path. Frame-level values of enhanced objects come from the functional groups
(PS3.3 C.7.6.16), the frame's own before the shared ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import orjson

from interop.errors import Unprocessable

# Reads the value of a bulk data path: (VR, bytes).
FetchBulk = Callable[[str], bytes]
Attributes = dict[str, Any]

_LONGEST_LUT = 1 << 17
_LONGEST_PROFILE = 1 << 20


@dataclass(slots=True)
class LookUpTable:
    """A LUT Descriptor and its data (PS3.3 C.11.1.1.1)."""

    entries: int
    first: int
    bits: int
    data: bytes

    def as_json(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {**asdict(self), "data": self.data.hex()}


@dataclass(slots=True)
class PixelDescription:
    """All that a decoder and a renderer must know; plain values, so that it crosses a pipe."""

    transfer_syntax_uid: str
    rows: int
    columns: int
    samples_per_pixel: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    is_signed: bool
    photometric_interpretation: str
    planar_configuration: int = 0
    is_float: bool = False
    rescale_slope: float = 1.0
    rescale_intercept: float = 0.0
    window_center: float | None = None
    window_width: float | None = None
    voi_lut_function: str = "LINEAR"
    is_inverted: bool = False
    padding_value: int | None = None
    modality_lut: LookUpTable | None = None
    voi_lut: LookUpTable | None = None
    palette: list[LookUpTable] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return what JSON can hold; asdict() would copy every value, each time."""
        plain = {name: getattr(self, name) for name in _FIELDS}
        for name in ("modality_lut", "voi_lut"):
            if plain[name] is not None:
                plain[name] = plain[name].as_json()
        plain["palette"] = [table.as_json() for table in self.palette]
        return plain

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> PixelDescription:
        for name in ("modality_lut", "voi_lut"):
            if plain[name] is not None:
                plain[name] = _table(plain[name])
        plain["palette"] = [_table(table) for table in plain["palette"]]
        return cls(**plain)


_FIELDS = tuple(PixelDescription.__dataclass_fields__)


def _table(plain: dict[str, Any]) -> LookUpTable:
    return LookUpTable(
        plain["entries"], plain["first"], plain["bits"], bytes.fromhex(plain["data"])
    )


def describe(
    dicom_json: str | bytes, transfer_syntax_uid: str, frame: int, fetch: FetchBulk
) -> PixelDescription:
    """Return the description of one frame. Raises Unprocessable for what is no image."""
    attributes: Attributes = orjson.loads(dicom_json)
    scopes = _scopes(attributes, frame)
    samples = _integer(attributes, "00280002", 1)
    is_float = "7FE00008" in attributes or "7FE00009" in attributes
    allocated = _integer(attributes, "00280100", 32 if "7FE00008" in attributes else 64)
    stored = _integer(attributes, "00280101", allocated)
    rows, columns = _integer(attributes, "00280010", 0), _integer(attributes, "00280011", 0)
    if not 0 < rows <= 65535 or not 0 < columns <= 65535:
        raise Unprocessable("the object has no image: Rows and Columns are needed")
    if samples not in (1, 3, 4) or allocated not in (1, 8, 16, 32, 64):
        raise Unprocessable(
            f"Samples per Pixel {samples} and Bits Allocated {allocated} are not displayed;"
            " 1 or 3 samples of 1, 8, 16, 32 or 64 bits are"
        )
    if not 0 < stored <= allocated:
        raise Unprocessable(f"Bits Stored {stored} does not fit Bits Allocated {allocated}")
    padding = _first(attributes, "00280120")
    high_bit = _integer(attributes, "00280102", stored - 1)
    described = PixelDescription(
        transfer_syntax_uid=transfer_syntax_uid,
        rows=rows,
        columns=columns,
        samples_per_pixel=samples,
        bits_allocated=allocated,
        bits_stored=stored,
        high_bit=high_bit if stored - 1 <= high_bit < allocated else stored - 1,
        is_signed=_integer(attributes, "00280103", 0) == 1,
        photometric_interpretation=str(_first(attributes, "00280004") or "MONOCHROME2"),
        planar_configuration=_integer(attributes, "00280006", 0),
        is_float=is_float,
        padding_value=padding if isinstance(padding, int) else None,
    )
    _modality(described, scopes, fetch)
    _voi(described, scopes, fetch)
    if described.photometric_interpretation == "PALETTE COLOR":
        described.palette = _palette(attributes, fetch)
    shape = str(_first(attributes, "20500020") or "")
    described.is_inverted = described.photometric_interpretation == "MONOCHROME1" or (
        shape == "INVERSE"
    )
    return described


def _scopes(attributes: Attributes, frame: int) -> list[tuple[str, Attributes]]:
    """Return (bulk path prefix, attributes) from the most specific to the data set itself."""
    scopes: list[tuple[str, Attributes]] = []
    for sequence, index in (("52009230", frame), ("52009229", 0)):
        items = attributes.get(sequence, {}).get("Value", [])
        if index >= len(items) or not isinstance(items[index], dict):
            continue
        # Frame VOI LUT and Pixel Value Transformation hold what rendering needs.
        for macro in ("00289132", "00289145"):
            inner = items[index].get(macro, {}).get("Value", [])
            if inner and isinstance(inner[0], dict):
                scopes.append((f"{sequence}/{index + 1}/{macro}/1/", inner[0]))
    scopes.append(("", attributes))
    return scopes


def _modality(
    described: PixelDescription, scopes: list[tuple[str, Attributes]], fetch: FetchBulk
) -> None:
    for path, scope in scopes:
        slope = _first(scope, "00281053")
        if isinstance(slope, int | float):
            described.rescale_slope = float(slope) or 1.0
            intercept = _first(scope, "00281052")
            described.rescale_intercept = (
                float(intercept) if isinstance(intercept, int | float) else 0.0
            )
            return
        described.modality_lut = _sequence_table(scope, path, "00283000", fetch)
        if described.modality_lut is not None:
            return


def _voi(
    described: PixelDescription, scopes: list[tuple[str, Attributes]], fetch: FetchBulk
) -> None:
    for path, scope in scopes:
        center, width = _first(scope, "00281050"), _first(scope, "00281051")
        if isinstance(center, int | float) and isinstance(width, int | float) and width > 0:
            described.window_center, described.window_width = float(center), float(width)
            described.voi_lut_function = str(_first(scope, "00281056") or "LINEAR").upper()
            return
        described.voi_lut = _sequence_table(scope, path, "00283010", fetch)
        if described.voi_lut is not None:
            return


def _sequence_table(
    scope: Attributes, path: str, sequence: str, fetch: FetchBulk
) -> LookUpTable | None:
    items = scope.get(sequence, {}).get("Value", [])
    if not items or not isinstance(items[0], dict):
        return None
    return _descriptor_and_data(items[0], "00283002", "00283006", f"{path}{sequence}/1/", fetch)


def _palette(attributes: Attributes, fetch: FetchBulk) -> list[LookUpTable]:
    tables = []
    for channel in ("1", "2", "3"):
        table = _descriptor_and_data(
            attributes, f"0028110{channel}", f"0028120{channel}", "", fetch
        )
        if table is None:
            raise Unprocessable(
                "PALETTE COLOR needs red, green and blue look-up tables (0028,1201) to (0028,1203)"
            )
        tables.append(table)
    return tables


def _descriptor_and_data(
    scope: Attributes, descriptor_tag: str, data_tag: str, path: str, fetch: FetchBulk
) -> LookUpTable | None:
    descriptor = scope.get(descriptor_tag, {}).get("Value", [])
    element = scope.get(data_tag)
    if len(descriptor) < 3 or element is None or not all(isinstance(v, int) for v in descriptor):
        return None
    entries = descriptor[0] & 0xFFFF or 65536
    data = _element_bytes(element, f"{path}{data_tag}", fetch)
    if len(data) > _LONGEST_LUT * 2:
        raise Unprocessable(f"the look-up table ({data_tag}) has {len(data)} bytes")
    return LookUpTable(entries, descriptor[1], descriptor[2], data)


def stored_profile(dicom_json: str | bytes, fetch: FetchBulk) -> bytes:
    """Return the ICC Profile (0028,2000) of the image; empty where it has none."""
    element = orjson.loads(dicom_json).get("00282000")
    if element is None:
        return b""
    profile = _element_bytes(element, "00282000", fetch)
    if len(profile) > _LONGEST_PROFILE:
        raise Unprocessable(f"the ICC profile (0028,2000) has {len(profile)} bytes")
    return profile


def _element_bytes(element: dict[str, Any], path: str, fetch: FetchBulk) -> bytes:
    import base64

    if "BulkDataURI" in element:
        return fetch(path)
    if "InlineBinary" in element:
        return base64.b64decode(element["InlineBinary"])
    values = element.get("Value", [])
    return b"".join((int(v) & 0xFFFF).to_bytes(2, "little") for v in values if isinstance(v, int))


def _first(attributes: Attributes, tag: str) -> Any:
    values = attributes.get(tag, {}).get("Value") or [None]
    return values[0]


def _integer(attributes: Attributes, tag: str, default: int) -> int:
    value = _first(attributes, tag)
    return value if isinstance(value, int) else default
