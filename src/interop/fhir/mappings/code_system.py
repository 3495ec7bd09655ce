"""CodeSystem and ValueSet over code_systems and code_values, the platform's terminology.

Every tenant reads them and none writes them: the platform's rows are presented in each tenant. A
system of more codes than are listed says that it is a fragment; the ValueSet is all of its codes.
"""

from __future__ import annotations

import re
from typing import Any, Final
from uuid import UUID

from interop.fhir.lens import Connection, JsonObject
from interop.fhir.mappings.converters import Codes, Integer, Text
from interop.fhir.mappings.lens import Entry, ResourceMapping, Row, Rows, constant
from interop.fhir.mappings.statements import query
from interop.fhir.mappings.systems import OWN
from interop.fhir.mappings.views import Shown, ViewLens

CODE: Final = f"{OWN}:code-system"
# A resource is read whole; ICD-10 has 70,000 codes.
MAX_LISTED_CODES: Final = 1000
_STATUS: Final = {"status": "active"}
_UNNAMEABLE: Final = re.compile(r"[^A-Za-z0-9_]+")
_PROPERTIES: Final = [
    {"code": "parent", "uri": "http://hl7.org/fhir/concept-properties#parent", "type": "code"},
    {"code": "inactive", "uri": "http://hl7.org/fhir/concept-properties#inactive",
     "type": "boolean"},
    {"code": "category", "type": "string"},
]  # fmt: skip

CODE_SYSTEM: Final = ResourceMapping(
    "CodeSystem",
    "code_systems",
    [
        Entry("uri", "url", Text()),
        Entry("code", f"identifier[system={CODE}].value", Text()),
        Entry("version", "version", Text()),
        Entry("computable_name", "name", Text()),
        Entry("name", "title", Text()),
        Entry("publisher", "publisher", Text()),
        Entry("license_note", "copyright", Text()),
        Entry(
            "content",
            "content",
            Codes({"complete": "COMPLETE", "fragment": "FRAGMENT", "not-present": "NONE"}),
        ),
        Entry("number_of_codes", "count", Integer()),
        Entry("properties", "property", Shown("those that the concepts have")),
        Entry("concepts", "concept", Shown("code_values: code, display, definition, properties")),
    ],
    template=constant(_STATUS),
)
VALUE_SET: Final = ResourceMapping(
    "ValueSet",
    "code_systems",
    [
        Entry("url", "url", Text()),
        Entry("version", "version", Text()),
        Entry("computable_name", "name", Text()),
        Entry("name", "title", Text()),
        Entry("publisher", "publisher", Text()),
        Entry("license_note", "copyright", Text()),
        Entry("include", "compose", Shown("all codes of the system, in its version")),
    ],
    template=constant(_STATUS),
)

_SYSTEM: Final = """
SELECT c.code, c.uri, c.name, c.version, c.publisher, c.license_note,
    (SELECT count(*) FROM code_values AS v WHERE v.code_system_id = c.id) AS number_of_codes
FROM code_systems AS c WHERE c.id = %s
"""
_VALUES: Final = """
SELECT code, display, definition, parent_code, category, is_active FROM code_values
WHERE code_system_id = %s ORDER BY code LIMIT %s
"""


def _system(connection: Connection, row_id: UUID) -> Row | None:
    found = query(connection, _SYSTEM, row_id)
    if not found:
        return None
    system = found[0]
    name = _UNNAMEABLE.sub("_", system["code"]).strip("_")
    # cnl-0 and its kin: a name is a word that begins with a capital letter.
    return {**system, "computable_name": name[:1].upper() + name[1:] or "CodeSystem"}


def _load_code_system(connection: Connection, tenant_id: UUID, row_id: UUID) -> Rows | None:
    system = _system(connection, row_id)
    if system is None:
        return None
    values = query(connection, _VALUES, row_id, MAX_LISTED_CODES)
    concepts = [_concept(value) for value in values]
    number = system["number_of_codes"]
    content = "COMPLETE" if number <= MAX_LISTED_CODES else "FRAGMENT"
    used = {item["code"] for concept in concepts for item in concept.get("property", ())}
    properties = [item for item in _PROPERTIES if item["code"] in used]
    return Rows(
        {
            **{column: system[column] for column in CODE_SYSTEM.columns if column in system},
            "content": content if number else "NONE",
            "properties": properties or None,
            "concepts": concepts or None,
        }
    )


def _concept(value: Row) -> JsonObject:
    concept: JsonObject = {"code": value["code"], "display": value["display"]}
    if value["definition"]:
        concept["definition"] = value["definition"]
    properties: list[dict[str, Any]] = []
    if value["parent_code"]:
        properties.append({"code": "parent", "valueCode": value["parent_code"]})
    if not value["is_active"]:
        properties.append({"code": "inactive", "valueBoolean": True})
    if value["category"]:
        properties.append({"code": "category", "valueString": value["category"]})
    return {**concept, "property": properties} if properties else concept


def _load_value_set(connection: Connection, tenant_id: UUID, row_id: UUID) -> Rows | None:
    system = _system(connection, row_id)
    if system is None:
        return None
    include = {"system": system["uri"], "version": system["version"]}
    return Rows(
        {
            **{column: system[column] for column in VALUE_SET.columns if column in system},
            "url": f"urn:uuid:{row_id}",
            "include": {"include": [{name: node for name, node in include.items() if node}]},
        }
    )


_ORIGIN: Final = "terminology of the platform"


def code_system(public_url: str | None) -> ViewLens:
    return ViewLens(CODE_SYSTEM, _load_code_system, _ORIGIN)


def value_set(public_url: str | None) -> ViewLens:
    return ViewLens(VALUE_SET, _load_value_set, _ORIGIN)
