"""Search rows from a resource: one for each value that a search parameter finds in it.

Extractors are compiled from the official expressions, one list for each resource type
(FHIR R4 searchparameter-registry.html); what a data type contributes is in `converters`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any

from interop.errors import TooCostly
from interop.fhir.definitions import SearchParameter, definitions
from interop.fhir.fhirpath_compile import Stream, compile_expression
from interop.fhir.lens import JsonObject
from interop.fhir.search.converters import (
    CONVERTERS,
    OF_TYPE,
    Context,
    Converter,
    Row,
    identifier_types,
)
from interop.fhir.search.values import EARLIEST, LATEST, fold, grams
from interop.fhir.sensitive import sensitive

# The parameters that fhir_resources answers from its own columns.
COLUMN_PARAMETERS = ("_id", "_lastUpdated")

# What a client may send at most: each is a row with two index entries to write in one transaction.
# What rows of our own become (a study of many thousand instances) has no limit.
MAX_ROWS = 20_000

TABLES = ("token", "string", "reference", "date", "number", "quantity", "uri")


@dataclass(slots=True)
class SearchRows:
    """The rows of one resource by table: [parameter, ordinal, cluster, *columns]."""

    tables: dict[str, list[list[Any]]] = field(default_factory=lambda: {t: [] for t in TABLES})
    grams: set[str] = field(default_factory=set)
    limit: int | None = None
    # Whether the resource is one to be stored sealed.
    is_sensitive: bool = False
    _seen: dict[tuple[str, str], set[Row]] = field(default_factory=dict)
    _size: int = 0

    def add(self, table: str, parameter: str, rows: list[Row], cluster: int = 0) -> None:
        """Append the rows of a parameter; the same row twice is kept once. Raises TooCostly."""
        kept = self.tables[table]
        seen = self._seen.setdefault((table, parameter), set())
        for row in rows:
            if (cluster, *row) not in seen:
                seen.add((cluster, *row))
                kept.append([parameter, len(seen) - 1, cluster, *row])
                self._size += 1
        if self.limit is not None and self._size > self.limit:
            raise TooCostly(
                f"the resource has more values to search by than a resource may: at most "
                f"{self.limit} (the limit was passed at the search parameter {parameter})"
            )

    def as_json(self) -> dict[str, list[Any]]:
        """What the SQL function `fhir_write_search_rows` takes."""
        found: dict[str, list[Any]] = {
            name: [[_plain(value) for value in row] for row in rows]
            for name, rows in self.tables.items()
            if rows
        }
        if self.grams:
            found["gram"] = sorted(self.grams)
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

    def rows(self, items: list[Any], context: Context) -> list[Row]:
        return [
            row
            for value in self.stream.get(items, context.resource)
            for row in self.convert(value, context, self.stream.element)
        ]


@dataclass(frozen=True, slots=True)
class Component:
    """One component of a composite parameter, over the items of one base stream."""

    table: str
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Extractor:
    """One search parameter of one resource type, compiled."""

    parameter: SearchParameter
    table: str
    values: tuple[tuple[str, Value], ...]  # with the parameter name that the rows get
    composites: tuple[tuple[Stream, tuple[Component, ...]], ...]


def extract(
    resource: JsonObject,
    own_base: str | None = None,
    *,
    limit: int | None = None,
    blind: Callable[[str], str] | None = None,
) -> SearchRows:
    """All search rows of `resource`. `own_base` is the URL under which this server serves it.

    With a `limit`, raises TooCostly where there are more. `blind` makes of an especially sensitive
    number what it is found by; without it such a number is not indexed.
    """
    found = sensitive(resource)
    rows = SearchRows(limit=limit, is_sensitive=found.found)
    context = Context(resource, own_base, found.identifiers, blind)
    root = [resource]
    for extractor in extractors(str(resource["resourceType"])):
        for name, value in extractor.values:
            made = value.rows(root, context)
            if extractor.parameter.type == "special":
                _add_position(rows, name, made)
            elif made:
                rows.add(extractor.table, name, made)
        if extractor.composites:
            _add_composite(rows, extractor, context)
    for row in rows.tables["string"]:
        rows.grams |= grams(fold(str(row[3])))
    return rows


def _add_position(rows: SearchRows, code: str, found: list[Row]) -> None:
    """`near` compares two numbers of one element."""
    for cluster, (latitude, longitude) in enumerate(found):
        rows.add("number", f"{code}.latitude", [(latitude, latitude)], cluster)
        rows.add("number", f"{code}.longitude", [(longitude, longitude)], cluster)


def _add_composite(rows: SearchRows, extractor: Extractor, context: Context) -> None:
    cluster = 0
    for base, components in extractor.composites:
        for item in base.get([context.resource], context.resource):
            parts = [
                [row for value in component.values for row in value.rows([item], context)]
                for component in components
            ]
            if not all(parts):
                continue
            for index, (component, found) in enumerate(zip(components, parts, strict=True)):
                name = component_name(extractor.parameter.code, index)
                rows.add(component.table, name, found, cluster)
            cluster += 1


@cache
def reads_identifiers(resource_type: str, code: str) -> bool:
    """Whether a parameter finds Identifiers, whose numbers may be indexed blindly."""
    return any(
        value.stream.type == "Identifier"
        for extractor in extractors(resource_type)
        if extractor.parameter.code == code
        for _, value in extractor.values
    )


def component_name(code: str, index: int) -> str:
    """The parameter name of the rows of a composite's component."""
    return f"{code}.{index + 1}"


@cache
def extractors(resource_type: str) -> tuple[Extractor, ...]:
    """The compiled extractors of a resource type."""
    return tuple(
        _compile(parameter, resource_type)
        for parameter in definitions().search_parameters[resource_type].values()
        if parameter.has_index() and parameter.code not in COLUMN_PARAMETERS
    )


def _compile(parameter: SearchParameter, resource_type: str) -> Extractor:
    streams = compile_expression(parameter.expression, resource_type)
    if parameter.type == "composite":
        composites = tuple((stream, _components(parameter, stream)) for stream in streams)
        return Extractor(parameter, "", (), composites)
    table = "number" if parameter.type == "special" else parameter.type
    values = [(parameter.code, value) for value in _values(parameter.code, parameter.type, streams)]
    values += [
        (parameter.code + OF_TYPE, Value(stream, identifier_types))
        for stream in streams
        if table == "token" and stream.type == "Identifier"
    ]
    return Extractor(parameter, table, tuple(values), ())


def _values(code: str, type_: str, streams: tuple[Stream, ...]) -> tuple[Value, ...]:
    found: list[Value] = []
    for stream in streams:
        convert = CONVERTERS.get((type_, stream.type))
        if code == "phonetic":
            convert = CONVERTERS["phonetic", stream.type]
        if convert is not None:
            found.append(Value(stream, convert))
    return tuple(found)


def _components(parameter: SearchParameter, base: Stream) -> tuple[Component, ...]:
    found: list[Component] = []
    for code, type_, expression in parameter.components:
        streams = compile_expression(expression, base.type)
        table = component_table(type_, streams)
        found.append(Component(table, _values(code, table, streams)))
    return tuple(found)


def component_table(declared: str, streams: tuple[Stream, ...]) -> str:
    """The kind of a component. R4 exchanges the two of DocumentReference.relationship."""
    if any((declared, stream.type) in CONVERTERS for stream in streams):
        found = {s.type for s in streams}
        if not (declared == "reference" and found == {"code"}):
            return declared
    return "reference" if any(s.type == "Reference" for s in streams) else "token"


@cache
def component_tables(resource_type: str, code: str) -> tuple[str, ...]:
    """The table of each component of a composite parameter."""
    for extractor in extractors(resource_type):
        if extractor.parameter.code == code and extractor.composites:
            return tuple(component.table for component in extractor.composites[0][1])
    return ()
