"""Device over ai_model_versions: the model version that made a finding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from interop.fhir.lens import Connection
from interop.fhir.mappings.converters import Text
from interop.fhir.mappings.lens import Entry, ResourceMapping, Rows, constant
from interop.fhir.mappings.places import FirstOf
from interop.fhir.mappings.statements import query
from interop.fhir.mappings.systems import AI_DEVICE
from interop.fhir.mappings.views import ViewLens

MANUFACTURER: Final = "dental-interop"
DISCLAIMER: Final = "Trained on synthetic images. Not for clinical use."


@dataclass(frozen=True, slots=True)
class Property:
    """The code of a Device property, known by the text of its type."""

    text: str

    @property
    def label(self) -> str:
        return f"valueCode.text of the property {self.text!r}"

    def get(self, node: Any) -> str | None:
        if not isinstance(node, Mapping) or (node.get("type") or {}).get("text") != self.text:
            return None
        return next((Text().get(item.get("text")) for item in node.get("valueCode") or []), None)

    def put(self, value: str | None, node: Any) -> Any:
        return {"type": {"text": self.text}, "valueCode": [{"text": value}]}


@dataclass(frozen=True, slots=True)
class Disclaimer:
    """Whether a note says that the model is experimental."""

    label: str = "the note with our disclaimer"

    def get(self, node: Any) -> bool | None:
        return True if isinstance(node, Mapping) and node.get("text") == DISCLAIMER else None

    def put(self, value: bool | None, node: Any) -> Any:
        return {"text": DISCLAIMER} if value else None


DEVICE: Final = ResourceMapping(
    "Device",
    "ai_model_versions",
    [
        Entry("manufacturer", "manufacturer", Text()),
        Entry("name", "deviceName[type=model-name].name", Text()),
        Entry("model_number", "modelNumber", Text()),
        Entry("version_tag", "version[].value", Text()),
        Entry("artifact_digest", "property", FirstOf(Property("bundle sha256"))),
        Entry("is_experimental", "note", FirstOf(Disclaimer())),
    ],
    template=constant(
        {
            "status": "active",
            "type": {**AI_DEVICE.concept(), "text": "Artificial Intelligence (algorithm)"},
        }
    ),
)


def _load_device(connection: Connection, tenant_id: UUID, row_id: UUID) -> Rows | None:
    found = query(
        connection,
        "SELECT m.name, m.vendor_name, m.regulatory_class, v.version_tag, v.artifact_digest"
        " FROM ai_model_versions AS v JOIN ai_models AS m ON m.id = v.model_id WHERE v.id = %s"
        " AND EXISTS (SELECT FROM ai_inference_jobs AS j"
        " WHERE j.tenant_id = %s AND j.model_version_id = v.id)",
        row_id,
        tenant_id,
    )
    if not found:
        return None
    data = found[0]
    row = {
        "manufacturer": data["vendor_name"] or MANUFACTURER,
        "name": data["name"],
        "model_number": data["name"],
        "version_tag": data["version_tag"],
        "artifact_digest": data["artifact_digest"],
        "is_experimental": True if data["regulatory_class"] == "EXPERIMENTAL" else None,
    }
    return Rows(row)


def device(public_url: str | None) -> ViewLens:
    return ViewLens(DEVICE, _load_device, "a model version of this server")
