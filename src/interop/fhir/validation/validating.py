"""One validation, from the gate to profiles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from interop.fhir import gate
from interop.fhir.definitions import definitions
from interop.fhir.fhirpath_engine import Item, navigate, resource_item
from interop.fhir.lens import JsonObject
from interop.fhir.outcomes import Issue
from interop.fhir.validation.base_rules import check_base
from interop.fhir.validation.bindings import Codes, server_codes
from interop.fhir.validation.library import ProfileLibrary, library
from interop.fhir.validation.scope import Scope
from interop.fhir.validation.slicing import CORE

# NONE: the gate only. BASE: R4's own rules too. PROFILE: also what meta.profile claims.
LEVELS = ("NONE", "BASE", "PROFILE")
MAX_PROFILES = 20


def validate(
    resource: JsonObject,
    profiles: Sequence[str] = (),
    *,
    known: ProfileLibrary | None = None,
    codes: Codes | None = None,
    level: str = "PROFILE",
    with_gate: bool = True,
    with_warnings: bool = True,
) -> list[Issue]:
    """What is wrong with a resource, by R4, by `profiles` and by those that it claims.

    An empty list: nothing. Never raises; time is bounded (Budget).
    """
    type_ = resource.get("resourceType")
    if not isinstance(type_, str) or type_ not in definitions().resource_types:
        what = f"resourceType {str(type_)[:64]!r} is not a resource type of FHIR R4"
        return [Issue("structure", what, "resourceType")]
    issues = gate.issues_of(resource, type_) if with_gate else []
    if level == "NONE":
        return issues
    root = resource_item(resource)
    scope = Scope(
        root,
        known or library(),
        codes or server_codes(),
        with_warnings=with_warnings,
        with_profiles=level == "PROFILE",
        entries=_entries(root),
    )
    try:
        scope.run(check_base, root)
        if level == "PROFILE":
            _check_profiles(root, profiles, scope)
    except RecursionError:
        issues.append(Issue("too-costly", "nested too deep to be validated", type_))
    return list(dict.fromkeys(issues + scope.issues))


def _entries(root: Item) -> dict[str, Item]:
    """What references inside a Bundle may name: fullUrl, and type/id."""
    found: dict[str, Item] = {}
    if root.type != "Bundle":
        return found
    for entry in navigate([root], "entry"):
        for resource in navigate([entry], "resource"):
            identifier, url = resource.value.get("id"), entry.value.get("fullUrl")
            if isinstance(identifier, str):
                found.setdefault(f"{resource.type}/{identifier}", resource)
            if isinstance(url, str):
                found.setdefault(url, resource)
    return found


def _check_profiles(root: Item, profiles: Sequence[str], scope: Scope) -> None:
    for url in profiles[:MAX_PROFILES]:
        _check_profile(root, url, scope, is_asked=True)
    for item in (root, *_inside(root)):
        for url in claimed(item.value):
            if item is not root or url not in profiles:
                _check_profile(item, url, scope, is_asked=False)


def _check_profile(item: Item, url: str, scope: Scope, *, is_asked: bool) -> None:
    name = url.partition("|")[0].removeprefix(CORE)
    if name in definitions().kinds:
        if name not in (item.type, "Resource", "DomainResource"):
            scope.add("structure", f"{item.type} is no {name}", item)
        return
    check = scope.library.check_of(url)
    if check is not None:
        if scope.enter(item, url):
            scope.run(check, item)
        return
    why = scope.library.problem_of(url) or "it is not known here"
    what = f"not checked by the profile {url[:200]!r}: {why}"
    severity = "error" if is_asked else "warning"
    scope.issues.append(Issue("not-found", f"{item.path()}: {what}", item.path(), severity))


def claimed(resource: Any) -> list[str]:
    """The profiles that a resource says it conforms to."""
    meta = resource.get("meta")
    found = meta.get("profile") if isinstance(meta, dict) else None
    if not isinstance(found, list):
        return []
    return [url for url in found if isinstance(url, str)][:MAX_PROFILES]


def _inside(item: Item) -> Iterator[Item]:
    """The resources in a resource: contained, entries, parameters, at any depth."""
    for below in _resources_below(item.value, item.type, item):
        yield below
        yield from _inside(below)


def _resources_below(value: Any, type_: str, item: Item) -> Iterable[Item]:
    if type_ == "Bundle":
        entries = navigate([item], "entry")
        return [
            *navigate(entries, "resource"),
            *navigate(navigate(entries, "response"), "outcome"),
        ]
    if type_ == "Parameters":
        return _parameters(item)
    return navigate([item], "contained") if "contained" in value else ()


def _parameters(item: Item) -> Iterable[Item]:
    waiting, found = navigate([item], "parameter"), []
    while waiting:
        parameter = waiting.pop()
        found += navigate([parameter], "resource")
        waiting += navigate([parameter], "part")
    return found
