"""$meta, $meta-add, $meta-delete: profiles, tags, security labels (resource-operation-meta.html).

Adding and deleting make a new version. Labels that the server gives say how something came to be,
and are not a client's to take away (security.md C6).
"""

from __future__ import annotations

from typing import Any

from interop.access import Caller, Filter
from interop.errors import BadRequest, TooCostly, Unprocessable
from interop.fhir import json
from interop.fhir.lens import Connection, JsonObject
from interop.fhir.mappings.systems import AI_ASSERTED
from interop.fhir.visibility import Visibility
from interop.fhir.writing import Change
from storage.in_use import labels_in_use
from storage.resource_search import SearchStatement

MAX_LABELS = 1000
LISTS = ("profile", "security", "tag")
_SERVERS = ((AI_ASSERTED.system, AI_ASSERTED.code),)


def answer(meta: JsonObject) -> bytes:
    """The Parameters that all three operations return."""
    # json.html: an object is never empty.
    row: JsonObject = {"name": "return", **({"valueMeta": meta} if meta else {})}
    return json.dumps({"resourceType": "Parameters", "parameter": [row]})


def meta_of(parameters: JsonObject) -> JsonObject:
    """The Meta that an operation is given. Raises BadRequest where it has anything else."""
    rows = parameters.get("parameter", [])
    if [row.get("name") for row in rows] != ["meta"] or "valueMeta" not in rows[0]:
        raise BadRequest("expected Parameters with one parameter 'meta' that has a valueMeta")
    meta: JsonObject = rows[0]["valueMeta"]
    if other := sorted(set(meta) - set(LISTS)):
        raise BadRequest(
            f"meta.{other[0]} is not for this operation; accepted: {', '.join(LISTS)}",
            expression=f"Parameters.parameter[0].valueMeta.{other[0]}",
        )
    return meta


def adding(meta: JsonObject) -> Change:
    """The resource with these labels besides its own; one that is there is not added again."""

    def change(resource: JsonObject) -> JsonObject:
        own = dict(resource.get("meta", {}))
        for name in LISTS:
            known = {_key(item) for item in own.get(name, ())}
            new = {_key(item): item for item in meta.get(name, ()) if _key(item) not in known}
            if new:
                own[name] = [*own.get(name, ()), *new.values()]
        return {**resource, "meta": own}

    return change


def deleting(meta: JsonObject) -> Change:
    """The resource without these labels. Raises Unprocessable for those that the server gave."""
    for item in meta.get("security", ()):
        if _key(item) in _SERVERS:
            raise Unprocessable(f"the label {item['code']} is the server's and cannot be removed")

    def change(resource: JsonObject) -> JsonObject:
        own = dict(resource.get("meta", {}))
        for name in LISTS:
            gone = {_key(item) for item in meta.get(name, ())}
            left = [item for item in own.get(name, ()) if _key(item) not in gone]
            if left:
                own[name] = left
            else:
                own.pop(name, None)
        return {**resource, "meta": own}

    return change


def in_use(
    connection: Connection, caller: Caller, own_base: str, filters: dict[str, Filter]
) -> JsonObject:
    """The labels of all resources that the caller may see. Raises TooCostly."""
    visibility = Visibility(caller, own_base)
    statements: list[SearchStatement] = []
    values: list[str] = []
    for type_, filter_ in filters.items():
        statement = SearchStatement(type_, values)
        visibility.restrict(statement, filter_)
        statements.append(statement)
    found: dict[str, list[Any]] = {}
    rows = labels_in_use(connection, caller.tenant.id, statements, MAX_LABELS + 1)
    if len(rows) > MAX_LABELS:
        raise TooCostly(f"more than {MAX_LABELS} different labels; ask for the $meta of a type")
    for name, system, code in rows:
        coding = {**({"system": system} if system else {}), **({"code": code} if code else {})}
        found.setdefault(name, []).append(code if name == "profile" else coding)
    return found


def _key(item: Any) -> Any:
    """What makes a label the same: the URL of a profile, system and code of a coding."""
    return item if isinstance(item, str) else (item.get("system", ""), item.get("code", ""))
