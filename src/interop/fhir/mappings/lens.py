"""The pure half of a lens: a table of columns and FHIR paths, read both ways.

Every entry changes a resource only when the resource does not already say what the row says. From
this and from entries that do not overlap follow the two laws of design.md 1:
`get(put(rows, resource)) == rows` and `put(get(resource), resource) == resource`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from interop.fhir.lens import JsonObject
from interop.fhir.mappings.converters import Converter
from interop.fhir.mappings.path import Path, path

Row = dict[str, Any]


@dataclass(frozen=True)
class Rows:
    """What the tables hold of one resource: the columns of its row and the rows that belong to it.

    References stand as `Type/id`. Children are in the order of `Children.sorted`, for the order of
    rows in a table means nothing.
    """

    row: Row
    children: Mapping[str, tuple[Row, ...]] = field(default_factory=dict)


class Entry:
    """One column, or several that share one node, at one path.

    `required` elements are written even where their absence would mean the same (FHIR 1..1).
    `insert_only` columns are taken from a resource when its row is made and never changed by it.
    """

    def __init__(
        self,
        columns: str | Sequence[str],
        place: str,
        converter: Converter,
        default: Any = None,
        *,
        required: bool = False,
        insert_only: bool = False,
    ) -> None:
        self.columns = (columns,) if isinstance(columns, str) else tuple(columns)
        self.path: Path = path(place)
        self.converter = converter
        self.default = default
        self.required = required
        self.insert_only = insert_only

    def get(self, node: JsonObject) -> Row:
        return dict(zip(self.columns, self._values(node), strict=True))

    def put(self, row: Row, node: JsonObject, *, is_new: bool = False) -> JsonObject:
        """The node saying what the row says; a new one says even what its silence would mean."""
        values = tuple(row[column] for column in self.columns)
        old = self.path.get(node)
        if values == self._values(node) and not is_new and not (self.required and old is None):
            return node
        if all(value is None for value in values):
            new = None if old is None else self.converter.put(self._packed(values), old)
        else:
            new = self.converter.put(self._packed(values), old)
        return self.path.put(node, new)

    def _values(self, node: JsonObject) -> tuple[Any, ...]:
        value = self.converter.get(self.path.get(node))
        if len(self.columns) == 1:
            return (self.default if value is None else value,)
        value = self.default if value is None else value
        return (None,) * len(self.columns) if value is None else tuple(value)

    def _packed(self, values: tuple[Any, ...]) -> Any:
        return values[0] if len(self.columns) == 1 else values


class Children:
    """Rows that are the items of a list in the resource.

    `admits` says which items are rows; the others are the client's and stay where they are. An item
    is found again by `key`; where the key is empty, by its content, and then by its place among the
    items that changed. New items are added in the order of `order`.
    """

    def __init__(
        self,
        table: str,
        place: str,
        entries: Iterable[Entry],
        *,
        key: Sequence[str] = (),
        order: Sequence[str] = (),
        admits: Callable[[JsonObject], bool] = lambda item: True,
        needs: Sequence[str] = (),
    ) -> None:
        self.table = table
        self.path = path(place)
        self.entries = tuple(entries)
        self.key = tuple(key)
        self.order = tuple(order)
        self.admits = admits
        # References without which an item is no row; until they resolve it stays the client's.
        self.needs = tuple(needs)

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(column for entry in self.entries for column in entry.columns)

    def get(self, resource: JsonObject) -> tuple[Row, ...]:
        rows = [self._row(item) for item in self._items(resource) if self._is_row(item)]
        if self.key:
            # A repeated key is one row; the first item says what is in it.
            rows = list({self.key_of(row): row for row in reversed(rows)}.values())
        return self.sorted(rows)

    def sorted(self, rows: Iterable[Row]) -> tuple[Row, ...]:
        """The rows in the one order in which they are compared and added."""
        return tuple(sorted(rows, key=self._rank))

    def put(self, rows: Iterable[Row], resource: JsonObject) -> JsonObject:
        wanted = self.sorted(rows)
        if wanted == self.get(resource):
            return resource
        paired = self._pair(wanted, self._items(resource))
        used = {id(row) for _, row in paired}
        kept = [
            put_entries(self.entries, row, item) if row is not None else item
            for item, row in paired
            if row is not None or not self._is_row(item)
        ]
        added = [
            put_entries(self.entries, row, {}, is_new=True) for row in wanted if id(row) not in used
        ]
        return self.path.put(resource, [*kept, *added] or None)

    def is_successor(self, row: Row, other: Row) -> bool:
        """Whether `row` is what `other` has become."""
        return not self.key or self.key_of(row) == self.key_of(other)

    def _pair(self, wanted: Sequence[Row], items: list[Any]) -> list[tuple[Any, Row | None]]:
        """Each item with the row that it becomes."""
        if self.key:
            by_key = {self.key_of(row): row for row in wanted}
            return [
                (
                    item,
                    by_key.pop(self.key_of(self._row(item)), None) if self._is_row(item) else None,
                )
                for item in items
            ]
        left = list(wanted)
        same: dict[int, Row] = {}
        for index, item in enumerate(items):
            if self._is_row(item) and self._row(item) in left:
                same[index] = left.pop(left.index(self._row(item)))
        return [
            (item, same.get(index) or (left.pop(0) if left and self._is_row(item) else None))
            for index, item in enumerate(items)
        ]

    def _rank(self, row: Row) -> tuple[Any, ...]:
        leading = tuple((row[column] is None, row[column]) for column in self.order)
        if self.key:
            return *leading, *map(str, self.key_of(row))
        return *leading, repr(sorted(row.items(), key=_name_of))

    def _is_row(self, item: Any) -> bool:
        return isinstance(item, dict) and self.admits(item)

    def _items(self, resource: JsonObject) -> list[Any]:
        node = self.path.get(resource)
        return node if isinstance(node, list) else []

    def _row(self, item: JsonObject) -> Row:
        return get_entries(self.entries, item)

    def key_of(self, row: Row) -> tuple[Any, ...]:
        """What tells the row from its siblings."""
        return tuple(row[column] for column in self.key)


def _name_of(item: tuple[str, Any]) -> str:
    return item[0]


class ResourceMapping:
    """The entries and children of one resource type over one main table.

    `template` makes what a resource of a row has from the start: required elements that no column
    holds, such as Encounter.class.
    """

    def __init__(
        self,
        resource_type: str,
        table: str,
        entries: Iterable[Entry],
        children: Iterable[Children] = (),
        template: Callable[[Row], JsonObject] = lambda row: {},
    ) -> None:
        self.resource_type = resource_type
        self.table = table
        self.entries = tuple(entries)
        self.children = tuple(children)
        self._template = template

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(column for entry in self.entries for column in entry.columns)

    def template(self, row: Row) -> JsonObject:
        """What a resource of the row has from the start."""
        return self._template(row)

    def get(self, resource: JsonObject) -> Rows:
        """What the resource says of the columns; None where it says nothing that one can hold."""
        return Rows(
            get_entries(self.entries, resource),
            {children.table: children.get(resource) for children in self.children},
        )

    def put(self, rows: Rows, resource: JsonObject | None) -> JsonObject:
        """The resource with the rows in it; None or {} stands for a resource still to be made."""
        result = resource or {"resourceType": self.resource_type, **self._template(rows.row)}
        result = put_entries(self.entries, rows.row, result, is_new=not resource)
        for children in self.children:
            result = children.put(rows.children.get(children.table, ()), result)
        return result


def constant(template: JsonObject) -> Callable[[Row], JsonObject]:
    """A template that is the same for every row."""
    return lambda row: template


def get_entries(entries: Iterable[Entry], node: JsonObject) -> Row:
    """The columns that the entries read from a node."""
    return {column: value for entry in entries for column, value in entry.get(node).items()}


def put_entries(
    entries: Iterable[Entry], row: Row, node: JsonObject, *, is_new: bool = False
) -> JsonObject:
    """The node with every entry of the row in it."""
    for entry in entries:
        node = entry.put(row, node, is_new=is_new)
    return node
