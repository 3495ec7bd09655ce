"""Location over locations (US Core Location)."""

from __future__ import annotations

from typing import Any, Final

from interop.fhir.mappings.concepts import Concept, Reference
from interop.fhir.mappings.converters import Codes, Float, Text
from interop.fhir.mappings.lens import Entry, ResourceMapping, constant
from interop.fhir.mappings.places import FirstAndRest, FirstOf
from interop.fhir.mappings.systems import own
from interop.fhir.mappings.tables import TableLens

TIME_ZONE: Final = "http://hl7.org/fhir/StructureDefinition/timezone"
UNNAMED: Final = "(unnamed location)"

KINDS: Final = Concept(
    {
        "CLINIC": own("location-type", "clinic", "Clinic"),
        "TEACHING_CLINIC": own("location-type", "teaching-clinic", "Teaching clinic"),
        "RESEARCH_UNIT": own("location-type", "research-unit", "Research unit"),
        "LABORATORY": own("location-type", "laboratory", "Laboratory"),
        "VIRTUAL": own("location-type", "virtual", "Virtual"),
    }
)


class Position:
    """(longitude, latitude), which FHIR knows only together."""

    label = "position.longitude, position.latitude"
    _longitude = Float(-180, 180)
    _latitude = Float(-90, 90)

    def get(self, node: Any) -> tuple[float, float] | None:
        position = node or {}
        longitude = self._longitude.get(position.get("longitude"))
        latitude = self._latitude.get(position.get("latitude"))
        return None if longitude is None or latitude is None else (longitude, latitude)

    def put(self, value: tuple[float | None, float | None], node: Any) -> Any:
        if None in value:
            return None
        longitude = self._longitude.put(value[0], None)
        latitude = self._latitude.put(value[1], None)
        return {**(node or {}), "longitude": longitude, "latitude": latitude}


def mapping(public_url: str | None) -> ResourceMapping:
    return ResourceMapping(
        "Location",
        "locations",
        [
            Entry(
                "status",
                "status",
                Codes({"active": "ACTIVE", "suspended": "SUSPENDED", "inactive": "INACTIVE"}),
                "ACTIVE",
            ),
            Entry("name", "name", Text(), UNNAMED),
            Entry("description", "description", Text()),
            Entry("type", "type", FirstOf(KINDS), "CLINIC"),
            Entry("phone", "telecom[system=phone].value", Text()),
            Entry("email", "telecom[system=email].value", Text()),
            Entry(("address_line1", "address_line2"), "address", FirstAndRest("line", "\n")),
            Entry("city", "address.city", Text()),
            Entry("state", "address.state", Text()),
            Entry("postal_code", "address.postalCode", Text()),
            Entry("country", "address.country", Text()),
            Entry(("longitude", "latitude"), "position", Position()),
            Entry("time_zone", f"extension[url={TIME_ZONE}].valueCode", Text()),
            Entry("parent_location_id", "partOf", Reference(("Location",), public_url)),
        ],
        template=constant({"mode": "instance"}),
    )


def lens(public_url: str | None) -> TableLens:
    return TableLens(mapping(public_url))
