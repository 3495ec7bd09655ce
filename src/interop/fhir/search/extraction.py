"""Search rows from a resource: one for each value that a search parameter finds in it.

Extractors are compiled from the official expressions, one list for each resource type
(FHIR R4 searchparameter-registry.html); what a data type contributes is in `converters`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cache, lru_cache
from typing import Any

from interop.errors import TooCostly
from interop.fhir.definitions import SearchParameter, definitions
from interop.fhir.fhirpath_compile import Stream, compile_expression
from interop.fhir.lens import JsonObject
from interop.fhir.search.converters import (
    CONVERTERS,
    OF_TYPE,
    TEXT,
    TEXTS,
    Context,
    Converter,
    Row,
    identifier_types,
)
from interop.fhir.search.full_text import FULL_TEXT, documents
from interop.fhir.search.values import EARLIEST, LATEST, fold, grams
from interop.fhir.sensitive import hidden_numbers, sensitive

# The parameters that fhir_resources answers from its own columns.
COLUMN_PARAMETERS = ("_id", "_lastUpdated")
# Those that no expression is compiled for.
_APART = (*COLUMN_PARAMETERS, *FULL_TEXT)

# What a client may send at most: each is a row with two index entries to write in one transaction.
# What rows of our own become (a study of many thousand instances) has no limit.
MAX_ROWS = 20_000

TABLES = ("token", "string", "reference", "date", "number", "quantity", "uri")
# Those with values that JSON does not have.
MEASURED = frozenset({"date", "number", "quantity"})
# Two rows of the table `number`, see `_add_position`.
POSITION = "position"


@dataclass(slots=True)
class SearchRows:
    """The rows of one resource by table: [parameter, ordinal, cluster, *columns]."""

    tables: dict[str, list[list[Any]]] = field(default_factory=lambda: {t: [] for t in TABLES})
    grams: set[str] = field(default_factory=set)
    limit: int | None = None
    # The words of its narrative and of all its texts.
    text: list[str] = field(default_factory=list)
    # Whether the resource is one to be stored sealed.
    is_sensitive: bool = False
    # By which of the tenant's own parameters it was indexed (storage.search_parameters).
    epoch: int = 0
    _seen: dict[tuple[str, str], set[Row]] = field(default_factory=dict)
    _size: int = 0

    def add(self, table: str, parameter: str, rows: list[Row], cluster: int = 0) -> None:
        """Append the rows of a parameter; the same row twice is kept once. Raises TooCostly."""
        kept = self.tables[table]
        seen = self._seen.setdefault((table, parameter), set())
        for row in rows:
            if (clustered := (cluster, *row)) not in seen:
                seen.add(clustered)
                kept.append([parameter, len(seen) - 1, cluster, *row])
                self._size += 1
        if self.limit is not None and self._size > self.limit:
            raise TooCostly(
                f"the resource has more values to search by than a resource may: at most "
                f"{self.limit} (the limit was passed at the search parameter {parameter})"
            )

    def as_json(self) -> dict[str, Any]:
        """The rows as JSON has them (storage.search_rows)."""
        found: dict[str, Any] = {
            name: [[_plain(value) for value in row] for row in rows] if name in MEASURED else rows
            for name, rows in self.tables.items()
            if rows
        }
        if self.grams:
            found["gram"] = sorted(self.grams)
        if any(self.text):
            found["text"] = self.text
        if self.epoch:
            found["epoch"] = self.epoch
        return found


def _plain(value: Any) -> Any:
    """A column as PostgreSQL reads it from JSON, infinity included."""
    if isinstance(value, datetime):
        if value in (EARLIEST, LATEST):
            return "-infinity" if value == EARLIEST else "infinity"
        return value.isoformat()
    if isinstance(value, float) and math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


@dataclass(frozen=True, slots=True)
class Value:
    """How one stream of values becomes rows of one table."""

    stream: Stream
    convert: Converter

    def rows(self, items: Sequence[Any], context: Context) -> list[Row]:
        element = self.stream.element
        return [
            row
            for value in self.stream.get(items, context.resource)
            for row in self.convert(value, context, element)
        ]


@dataclass(frozen=True, slots=True)
class Source:
    """A value at the root of a resource: the table and parameter name that its rows get.

    `keys`: it yields nothing where the resource has none of these properties; None: it may always.
    """

    table: str
    name: str
    value: Value
    keys: frozenset[str] | None


@dataclass(frozen=True, slots=True)
class Component:
    """One component of a composite parameter, over the items of one base stream."""

    table: str
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Composite:
    """A composite parameter over one base stream. One of each of `keys` must be there."""

    base: Stream
    components: tuple[Component, ...]
    keys: tuple[frozenset[str], ...]


@dataclass(frozen=True, slots=True)
class Extractor:
    """One search parameter of one resource type, compiled."""

    parameter: SearchParameter
    table: str
    values: tuple[Source, ...]
    composites: tuple[Composite, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """Extractors in the order in which they cost least: by the properties that they begin at."""

    by_key: Mapping[str, tuple[Source, ...]]
    always: tuple[Source, ...]
    composites: tuple[Extractor, ...]


@dataclass(frozen=True, slots=True)
class Indexing:
    """The parameters of a tenant's own, as of an epoch: what is run besides for a type."""

    epoch: int
    plan: Callable[[str], Plan | None]


def extract(
    resource: JsonObject,
    own_base: str | None = None,
    *,
    limit: int | None = None,
    blind: Callable[[str], str] | None = None,
    indexing: Indexing | None = None,
) -> SearchRows:
    """All search rows of `resource`. `own_base` is the URL under which this server serves it.

    With a `limit`, raises TooCostly where there are more. `blind` makes of an especially sensitive
    number what it is found by; without it such a number is not indexed. `indexing` is what the
    tenant's own parameters add (`custom.indexing`).
    """
    found = sensitive(resource)
    rows = SearchRows(limit=limit, is_sensitive=found.found)
    context = Context(resource, own_base, found.identifiers, blind)
    hidden = hidden_numbers(resource, found)
    rows.text = documents(resource, hidden=hidden if found.found else None, blind=blind)
    resource_type = str(resource["resourceType"])
    _run(plan(resource_type), rows, context)
    if indexing is not None:
        rows.epoch = indexing.epoch
        own = indexing.plan(resource_type)
        if own is not None:
            _run(own, rows, replace(context, hidden=hidden))
    _add_grams(rows)
    return rows


def extract_only(
    extractor: Extractor,
    resource: JsonObject,
    own_base: str | None,
    *,
    blind: Callable[[str], str] | None,
) -> SearchRows:
    """The rows of one parameter of a tenant's own."""
    found = sensitive(resource)
    rows = SearchRows(is_sensitive=found.found)
    hidden = hidden_numbers(resource, found)
    context = Context(resource, own_base, found.identifiers, blind, hidden)
    _run(planned([extractor]), rows, context)
    _add_grams(rows)
    return rows


def _add_grams(rows: SearchRows) -> None:
    for row in rows.tables["string"]:
        if not row[0].endswith(TEXT):
            rows.grams |= grams(fold(str(row[4])))


def _run(plan_: Plan, rows: SearchRows, context: Context) -> None:
    resource = context.resource
    root = (resource,)
    # A source that begins at several properties runs once.
    sources = {
        id(source): source
        for key in resource
        if key in plan_.by_key
        for source in plan_.by_key[key]
    }
    for source in (*plan_.always, *sources.values()):
        made = source.value.rows(root, context)
        if context.hidden:
            made = [row for row in made if not context.tells(row)]
        if not made:
            continue
        if source.table == POSITION:
            _add_position(rows, source.name, made)
        else:
            rows.add(source.table, source.name, made)
    for extractor in plan_.composites:
        _add_composite(rows, extractor, context)


def _add_position(rows: SearchRows, code: str, found: list[Row]) -> None:
    """`near` compares two numbers of one element."""
    for cluster, (latitude, longitude) in enumerate(found):
        rows.add("number", f"{code}.latitude", [(latitude, latitude)], cluster)
        rows.add("number", f"{code}.longitude", [(longitude, longitude)], cluster)


def _add_composite(rows: SearchRows, extractor: Extractor, context: Context) -> None:
    cluster = 0
    present = context.resource.keys()
    for composite in extractor.composites:
        if any(keys.isdisjoint(present) for keys in composite.keys):
            continue
        for item in composite.base.get((context.resource,), context.resource):
            parts = _parts(composite.components, item, context)
            if not parts:
                continue
            for index, (component, found) in enumerate(
                zip(composite.components, parts, strict=True)
            ):
                name = component_name(extractor.parameter.code, index)
                rows.add(component.table, name, found, cluster)
            cluster += 1


def _parts(
    components: tuple[Component, ...], item: Any, context: Context
) -> list[list[Row]] | None:
    """The rows of each component of one element; None where one has none."""
    parts: list[list[Row]] = []
    for component in components:
        found = [row for value in component.values for row in value.rows((item,), context)]
        if context.hidden:
            found = [row for row in found if not context.tells(row)]
        if not found:
            return None
        parts.append(found)
    return parts


@cache
def reads_identifiers(resource_type: str, code: str) -> bool:
    """Whether a parameter finds Identifiers, whose numbers may be indexed blindly."""
    return any(
        source.value.stream.type == "Identifier"
        for extractor in extractors(resource_type)
        if extractor.parameter.code == code
        for source in extractor.values
    )


def component_name(code: str, index: int) -> str:
    """The parameter name of the rows of a composite's component."""
    return f"{code}.{index + 1}"


@cache
def plan(resource_type: str) -> Plan:
    """What is run for a resource of R4's own parameters of its type."""
    return planned(extractors(resource_type))


def planned(found: Sequence[Extractor]) -> Plan:
    """The same of any extractors of one type."""
    sources = [source for extractor in found for source in extractor.values]
    by_key: dict[str, list[Source]] = {}
    for source in sources:
        for key in source.keys or ():
            by_key.setdefault(key, []).append(source)
    return Plan(
        {key: tuple(listed) for key, listed in by_key.items()},
        tuple(source for source in sources if source.keys is None),
        tuple(extractor for extractor in found if extractor.composites),
    )


@cache
def extractors(resource_type: str) -> tuple[Extractor, ...]:
    """The compiled extractors of a resource type."""
    return tuple(
        compiled(parameter, resource_type)
        for parameter in definitions().search_parameters[resource_type].values()
        if parameter.has_index() and parameter.code not in _APART
    )


def compiled(parameter: SearchParameter, resource_type: str) -> Extractor:
    """One parameter, ready to run. Raises FhirPathError."""
    streams = compile_expression(parameter.expression, resource_type)
    if parameter.type == "composite":
        composites = tuple(_composite(parameter, stream) for stream in streams)
        return Extractor(parameter, "", (), composites)
    table = POSITION if parameter.type == "special" else parameter.type
    kept = _values(parameter.code, parameter.type, streams)
    sources = [_source(table, parameter.code, value) for value in kept]
    if table == "token":
        sources += [
            _source("token", parameter.code + OF_TYPE, Value(stream, identifier_types))
            for stream in streams
            if stream.type == "Identifier"
        ]
        sources += [
            _source("string", parameter.code + TEXT, Value(stream, TEXTS[stream.type]))
            for stream in streams
            if stream.type in TEXTS
        ]
    return Extractor(parameter, table, tuple(sources), ())


def _source(table: str, name: str, value: Value) -> Source:
    return Source(table, name, value, _keys(value.stream))


def _keys(stream: Stream) -> frozenset[str] | None:
    """The properties of a resource without which a stream yields nothing; None: it may always."""
    probe = _Probe()
    if stream.get((probe,), probe):
        return None
    return frozenset(probe.asked) or None


class _Probe(dict[str, Any]):
    """A resource with nothing in it, that remembers what it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return default


def _values(code: str, type_: str, streams: tuple[Stream, ...]) -> tuple[Value, ...]:
    found: list[Value] = []
    for stream in streams:
        convert = CONVERTERS.get((type_, stream.type))
        if code == "phonetic":
            convert = CONVERTERS["phonetic", stream.type]
        if convert is not None:
            found.append(Value(stream, convert))
    return tuple(found)


def _composite(parameter: SearchParameter, base: Stream) -> Composite:
    components: list[Component] = []
    keys: list[frozenset[str]] = []
    of_base = _keys(base)
    if of_base is not None:
        keys.append(of_base)
    is_root = "." not in base.type and base.type in definitions().resource_types
    for code, type_, expression in parameter.components:
        streams = compile_expression(expression, base.type)
        table = component_table(type_, streams)
        values = _values(code, table, streams)
        components.append(Component(table, values))
        asked = [_keys(value.stream) for value in values]
        if is_root and None not in asked:
            keys.append(frozenset().union(*(one for one in asked if one is not None)))
    return Composite(base, tuple(components), tuple(keys))


def component_table(declared: str, streams: tuple[Stream, ...]) -> str:
    """The kind of a component. R4 exchanges the two of DocumentReference.relationship."""
    if any((declared, stream.type) in CONVERTERS for stream in streams):
        found = {s.type for s in streams}
        if not (declared == "reference" and found == {"code"}):
            return declared
    return "reference" if any(s.type == "Reference" for s in streams) else "token"


@lru_cache(4096)
def component_tables(resource_type: str, parameter: SearchParameter) -> tuple[str, ...]:
    """The table of each component of a composite parameter."""
    composites = compiled(parameter, resource_type).composites
    return tuple(component.table for component in composites[0].components) if composites else ()
