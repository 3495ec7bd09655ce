"""Links between the entries of a transaction, written anew with the ids that the server gives.

R4 http.html#trules: references, elements of type uri, url, oid and uuid, and href and src of the
narrative. Canonicals, and identifiers that look like links, stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from interop.fhir.definitions import definitions
from interop.fhir.lens import JsonObject

LINKS = frozenset({"uri", "url", "oid", "uuid"})
# What a link becomes; None: it stays.
Replace = Callable[[str], str | None]

_NARRATIVE_LINK = re.compile(r"""(?P<start>\b(?:href|src)\s*=\s*(?P<quote>["']))(?P<url>[^"']*)""")
_CONDITIONAL = re.compile(r"([A-Z][A-Za-z]+)\?(.+)", re.DOTALL)
_RESTFUL_BASE = re.compile(r"(https?://.+/)[A-Z][A-Za-z]+/[A-Za-z0-9\-.]{1,64}")
_REFERENCE, _LINK = "reference", "link"


def relink(resource: JsonObject, replace: Replace, own_base: str) -> JsonObject:
    """The resource with its links replaced; itself where none is.

    What replaces them is relative to `own_base`; a narrative takes absolute URLs only.
    """
    linked = _object(resource, str(resource.get("resourceType")), replace)

    def absolute(link: str) -> str | None:
        new = replace(link)
        return f"{own_base}/{new}" if new else None

    return relink_narrative(linked, absolute)


def relink_narrative(resource: JsonObject, replace: Replace) -> JsonObject:
    """The resource with the links of its narrative replaced."""
    text = resource.get("text")
    div = text.get("div") if isinstance(text, dict) else None
    if not isinstance(div, str) or not ("href" in div or "src" in div):
        return resource

    def link(found: re.Match[str]) -> str:
        return found["start"] + (replace(found["url"]) or found["url"])

    return {**resource, "text": {**resource["text"], "div": _NARRATIVE_LINK.sub(link, div)}}


def conditional_references(resource: Any) -> Iterator[str]:
    """Each reference of the form `Patient?identifier=...` in a resource."""
    if isinstance(resource, list):
        for item in resource:
            yield from conditional_references(item)
    elif isinstance(resource, dict):
        url = resource.get("reference")
        if isinstance(url, str) and split_conditional(url) is not None:
            yield url
        for value in resource.values():
            if isinstance(value, dict | list):
                yield from conditional_references(value)


def split_conditional(url: str) -> tuple[str, str] | None:
    """(resource type, criteria) of a conditional reference; None for any other."""
    found = _CONDITIONAL.fullmatch(url)
    if found is None or found[1] not in definitions().resource_types:
        return None
    return found[1], found[2]


def base_of(full_url: str) -> str:
    """Where a relative reference of an entry starts from: the base of its own RESTful fullUrl.

    bundle.html#references; '' where the fullUrl is no such URL.
    """
    found = _RESTFUL_BASE.fullmatch(full_url)
    return found[1] if found else ""


def _object(node: JsonObject, type_: str, replace: Replace) -> JsonObject:
    if type_ == "Resource" or "resourceType" in node:
        type_ = str(node.get("resourceType"))
    kinds = _kinds(type_)
    changed: JsonObject | None = None
    for key, value in node.items():
        kind = kinds.get(key)
        if kind is None:
            continue
        new = _value(value, kind, replace)
        if new is not value:
            if changed is None:
                changed = dict(node)
            changed[key] = new
    return node if changed is None else changed


def _value(value: Any, kind: str, replace: Replace) -> Any:
    if isinstance(value, list):
        items = [_value(item, kind, replace) for item in value]
        return value if all(a is b for a, b in zip(items, value, strict=True)) else items
    if isinstance(value, dict):
        return value if kind in (_REFERENCE, _LINK) else _object(value, kind, replace)
    if not isinstance(value, str):
        return value
    return replace(value) or value if kind in (_REFERENCE, _LINK) else value


@cache
def _kinds(type_: str) -> dict[str, str]:
    """What may hold links in an object of a type, by its JSON names."""
    tables = definitions()
    if type_ == "Reference":
        return {"reference": _REFERENCE, "identifier": "Identifier", "extension": "Extension"}
    found: dict[str, str] = {}
    for element in tables.types.get(type_, {}).values():
        for key, kind in element.keys():
            if tables.is_primitive(kind):
                # Of a primitive, the extensions stand beside it.
                found[f"_{key}"] = "Element"
                if kind in LINKS and not (type_ == "Extension" and key == "url"):
                    found[key] = _LINK
            elif kind != "xhtml":
                found[key] = kind
    return found
