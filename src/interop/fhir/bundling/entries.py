"""Reading a batch or transaction: its frame, and each entry's request (R4 bundle.html)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import unquote

from interop.access.costs import entry_cost
from interop.errors import BadRequest, ServerError, TooCostly
from interop.fhir import gate
from interop.fhir.definitions import definitions
from interop.fhir.lens import JsonObject
from interop.fhir.outcomes import InvalidResource, Issue

# Entries of one Bundle, and bytes of its body (reliability.md, limits).
MAX_ENTRIES = 5000
MAX_BUNDLE_BYTES = 50 * 1024 * 1024

# http.html#trules: what is deleted first, then created, then changed, then read.
ORDER = {"DELETE": 0, "POST": 1, "PUT": 2, "PATCH": 2, "GET": 3, "HEAD": 3}
_CONDITIONS = ("ifNoneMatch", "ifModifiedSince", "ifMatch", "ifNoneExist")
_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")


@dataclass(slots=True)
class Entry:
    """One request of a Bundle. `url` is relative to the base; `conditions` go by R4's names."""

    index: int
    method: str
    url: str
    full_url: str = ""
    resource: JsonObject | None = None
    conditions: dict[str, str] = field(default_factory=dict)

    @property
    def path(self) -> str:
        return unquote(self.url.partition("?")[0])

    @property
    def query(self) -> str:
        return self.url.partition("?")[2]

    @property
    def place(self) -> str:
        return f"Bundle.entry[{self.index}]"

    @property
    def is_operation(self) -> bool:
        return "$" in self.path or self.path.endswith("_search")

    def target(self) -> tuple[str, str]:
        """(resource type, id) of the URL, the id '' where it names a type only.

        Raises BadRequest for any other URL.
        """
        type_, slash, id_ = self.path.partition("/")
        if type_ not in definitions().resource_types or (slash and not _ID.fullmatch(id_)):
            raise BadRequest(
                f"{self.method} {self.url[:200]!r}; a transaction writes by URLs such as Patient,"
                " Patient/123 and Patient?identifier=urn:example|1",
                expression=f"{self.place}.request.url",
            )
        return type_, id_


@dataclass(frozen=True, slots=True)
class RequestBundle:
    """A batch or transaction whose frame is right. What the entries hold is not checked yet."""

    type: Literal["batch", "transaction"]
    entries: list[Entry]

    @property
    def cost(self) -> int:
        """Units of the rate limits (interop.access.costs)."""
        return sum(entry_cost(entry.method, entry.url) for entry in self.entries)

    def in_order(self) -> list[Entry]:
        """The entries as they are to be processed (http.html#trules)."""
        return sorted(self.entries, key=lambda entry: ORDER[entry.method])


def read_bundle(bundle: JsonObject, own_base: str) -> RequestBundle:
    """Raises BadRequest where the frame is wrong, and TooCostly for too many entries."""
    listed = bundle.get("entry") or []
    if isinstance(listed, list) and len(listed) > MAX_ENTRIES:
        raise TooCostly(f"{len(listed)} entries; a Bundle may have {MAX_ENTRIES}")
    gate.check(_frame(bundle), "Bundle")
    type_ = bundle.get("type")
    if type_ not in ("batch", "transaction"):
        raise BadRequest(
            f"a Bundle of type {type_!r}; accepted here: batch, transaction",
            expression="Bundle.type",
        )
    entries = [_entry(index, item, own_base) for index, item in enumerate(listed)]
    _refuse_twins(entries)
    return RequestBundle(type_, entries)


def _frame(bundle: JsonObject) -> JsonObject:
    """The Bundle without its resources, each of which is judged by itself."""
    listed = bundle.get("entry")
    if not isinstance(listed, list):
        return bundle
    bare = [
        {key: value for key, value in item.items() if key != "resource"}
        if isinstance(item, dict)
        else item
        for item in listed
    ]
    return {**bundle, "entry": bare}


def _entry(index: int, item: JsonObject, own_base: str) -> Entry:
    place = f"Bundle.entry[{index}]"
    request: dict[str, Any] = item.get("request") or {}
    if not request:
        raise BadRequest(
            f"{place} has no request; each entry of a batch or transaction has one",
            expression=f"{place}.request",
        )
    url = str(request["url"]).removeprefix(own_base).lstrip("/")
    if "://" in url.partition("?")[0] or not url.partition("?")[0]:
        raise BadRequest(
            f"{place}.request.url {str(request['url'])[:200]!r}; expected a URL relative to"
            f" {own_base}, such as Patient/123",
            expression=f"{place}.request.url",
        )
    resource = item.get("resource")
    if resource is not None and not isinstance(resource, dict):
        raise BadRequest(f"{place}.resource is no resource", expression=f"{place}.resource")
    return Entry(
        index,
        request["method"],
        url,
        str(item.get("fullUrl", "")),
        resource,
        {name: str(request[name]) for name in _CONDITIONS if name in request},
    )


def _refuse_twins(entries: list[Entry]) -> None:
    """bdl-7: a fullUrl stands for one resource."""
    seen: dict[str, int] = {}
    for entry in entries:
        if not entry.full_url or entry.resource is None:
            continue
        first = seen.setdefault(entry.full_url, entry.index)
        if first != entry.index:
            raise BadRequest(
                f"{entry.place} has the fullUrl of Bundle.entry[{first}]; each has its own",
                expression=f"{entry.place}.fullUrl",
            )


@contextmanager
def at_entry(entry: Entry) -> Iterator[None]:
    """Have an error say at which entry it happened."""
    try:
        yield
    except ServerError as error:
        if isinstance(error, InvalidResource):
            error.issues = [
                Issue(
                    issue.code,
                    issue.diagnostics,
                    _placed(entry, issue.expression),
                    issue.severity,
                )
                for issue in error.issues
            ]
        error.diagnostics = f"{entry.place} ({entry.method} {entry.path}): {error.diagnostics}"
        error.expression = _placed(entry, error.expression)
        raise


def _placed(entry: Entry, expression: str | None) -> str:
    """An expression about the entry's resource as one about the Bundle."""
    if not expression:
        return entry.place
    if expression.startswith("Bundle.entry["):
        return expression
    _, dot, rest = expression.partition(".")
    return f"{entry.place}.resource{dot}{rest}"
