"""QIDO-RS results: what a query found, with the URLs under which it is retrieved.

Attributes are in tag order, as PS3.18 F.2.2 wants.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from interop.dicom.query.attributes import Level, tag_of
from interop.dicom.query.results import Json, Shape, Wanted, merged

# Stands in the stored JSON for the URL under which an instance's bulk data is served.
BULK_DATA_BASE = "@@BULK@@"
_RETRIEVE_URL = tag_of("RetrieveURL")
_PARTS = ("studies", "series", "instances")


def result(base: str, shape: Shape, row: Sequence[Any], wanted: Wanted) -> bytes:
    """One result from a row of `shape.columns`, in tag order."""
    return orjson.dumps(result_json(base, shape, row, wanted), option=orjson.OPT_SORT_KEYS)


def result_json(base: str, shape: Shape, row: Sequence[Any], wanted: Wanted) -> Json:
    """The same before it is written."""
    uids = row[: shape.level + 1]
    url = base + "".join(f"/{part}/{uid}" for part, uid in zip(_PARTS, uids, strict=False))
    found = merged(shape, row, wanted)
    if shape.level is Level.INSTANCE:
        resolve_bulk_data(found, f"{url}/bulkdata")
    found[_RETRIEVE_URL] = {"vr": "UR", "Value": [url]}
    return found


def results(items: Iterable[bytes]) -> bytes:
    """The JSON array of results."""
    return b"[" + b",".join(items) + b"]"


def resolve_bulk_data(part: Json, base: str) -> None:
    """Give every BulkDataURI its base, in sequences too."""
    for attribute in part.values():
        uri = attribute.get("BulkDataURI")
        if uri is not None:
            attribute["BulkDataURI"] = uri.replace(BULK_DATA_BASE, base)
        if attribute.get("vr") == "SQ":
            for item in attribute.get("Value", ()):
                if item:
                    resolve_bulk_data(item, base)
