"""References as R4 writes them (references.html): what one names, read from its own text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from interop.fhir.definitions import definitions

# references.html 2.3.0.1: the RESTful URL form, its base absent when relative.
_RESTFUL = re.compile(
    r"(?P<base>https?://[^?#\s]+/)?(?P<type>[A-Z][A-Za-z]+)/(?P<id>[A-Za-z0-9\-.]{1,64})"
    r"(?:/_history/(?P<version>[A-Za-z0-9\-.]{1,64}))?(?:\|\S*)?(?:#\S*)?"
)


@dataclass(frozen=True, slots=True)
class Target:
    """A literal reference. `resource_type` and `resource_id` are '' where the URL names none."""

    base: str
    resource_type: str
    resource_id: str
    url: str

    def is_local(self, own_base: str | None) -> bool:
        """Whether it names a resource of this server and tenant, by relative or absolute URL."""
        return bool(self.resource_type) and (not self.base or self.base.rstrip("/") == own_base)


def parse_target(url: str) -> Target:
    """Read a literal reference; what is not RESTful is kept as a plain URL."""
    found = _RESTFUL.fullmatch(url)
    if found is None or found["type"] not in definitions().resource_types:
        return Target("", "", "", url)
    return Target(found["base"] or "", found["type"], found["id"], url)


def referenced_type(reference: Any, resource: Any) -> str | None:
    """The resource type that a Reference names: by its URL, its `type`, or a contained resource."""
    if not isinstance(reference, dict):
        return None
    url = reference.get("reference")
    if isinstance(url, str):
        if url.startswith("#"):
            return _contained_type(url[1:], resource)
        target = parse_target(url)
        if target.resource_type:
            return target.resource_type
    declared = reference.get("type")
    return declared if isinstance(declared, str) else None


def _contained_type(identifier: str, resource: Any) -> str | None:
    inside = resource.get("contained")
    for contained in inside if isinstance(inside, list) else ():
        if isinstance(contained, dict) and contained.get("id") == identifier:
            return str(contained.get("resourceType"))
    return None


def local_references(resource: Any, own_base: str | None) -> Iterator[str]:
    """Each "Type/id" of this server that `resource` refers to, contained resources included."""
    if isinstance(resource, list):
        for item in resource:
            yield from local_references(item, own_base)
    elif isinstance(resource, dict):
        url = resource.get("reference")
        if isinstance(url, str):
            target = parse_target(url)
            if target.is_local(own_base):
                yield f"{target.resource_type}/{target.resource_id}"
        for value in resource.values():
            if isinstance(value, (dict, list)):
                yield from local_references(value, own_base)
