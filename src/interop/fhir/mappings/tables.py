"""The half of a lens that speaks SQL: a mapping over one main table and its children.

Every statement carries the tenant, besides the row-level security of the connection. Columns that
the mapping does not name are never written. A foreign key is written when its reference resolves:
one that the table needs and that does not resolve keeps the whole resource waiting, another leaves
its column empty and the reference in the resource (see `waits_for`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from uuid import UUID

import psycopg
from psycopg import errors

from interop.errors import Conflict, Unprocessable
from interop.fhir.lens import Connection, JsonObject
from interop.fhir.mappings import references, statements
from interop.fhir.mappings.concepts import Reference
from interop.fhir.mappings.elsewhere import Elsewhere
from interop.fhir.mappings.lens import Children, Entry, ResourceMapping, Row, Rows


class TableLens:
    """A lens over one main table, its rows found by (tenant_id, id)."""

    def __init__(
        self,
        mapping: ResourceMapping,
        *,
        needs: tuple[str, ...] = (),
        parent: str = "",
        where: Row | None = None,
        normalize: Callable[[Row], Row] = lambda row: row,
        beside: tuple[str, ...] = (),
        links: Mapping[str, tuple[str, ...]] | None = None,
        derived: tuple[str, ...] = (),
    ) -> None:
        self.mapping = mapping
        # Columns without which there is no row; for links, the row waits until they resolve.
        self.needs = needs
        # The column of the children that points at the main row.
        self.parent = parent
        # Constant columns: what the rows of this resource type have in common.
        self.where = where or {}
        # What a row written in SQL may leave out and means all the same.
        self.normalize = normalize
        # Further columns for the template of the mapping: what a row says once, when it is new.
        self.beside = beside
        # Columns of the mapping that the table lacks: what other rows say (`derive`).
        self.derived = derived
        # `links`: those columns of entries over several that hold references.
        self.links = {entry.columns[0]: types for entry, types in _links(mapping.entries)}
        self.links |= links or {}
        self.child_links = {
            children.table: {entry.columns[0]: types for entry, types in _links(children.entries)}
            for children in mapping.children
        }
        self.elsewhere = Elsewhere(mapping.table, (mapping.resource_type, "id"))
        self.child_elsewhere = {
            children.table: Elsewhere(children.table, (mapping.resource_type, parent))
            for children in mapping.children
        }

    @property
    def resource_type(self) -> str:
        return self.mapping.resource_type

    def get(self, resource: JsonObject) -> Rows:
        return self.mapping.get(resource)

    def put(self, rows: Rows, resource: JsonObject | None) -> JsonObject:
        return self.mapping.put(rows, resource)

    # -- writing --------------------------------------------------------------------------------

    def write(
        self,
        connection: Connection,
        tenant_id: UUID,
        row_id: UUID,
        resource: JsonObject,
        actor: str,
    ) -> list[str]:
        rows = self.get(resource)
        missing = [column for column in self.needs if rows.row[column] is None]
        if missing:
            if self.exists(connection, tenant_id, row_id):
                raise Unprocessable(
                    f"{self.resource_type}: {', '.join(missing)} of the record cannot be empty;"
                    " send the element with a value that the server can hold, or delete the"
                    " resource"
                )
            return []
        resolved = _resolve(connection, tenant_id, self.links, rows.row)
        waiting = [rows.row[c] for c in self.needs if c in self.links and resolved[c] is None]
        if waiting:
            return references.local_parts(connection, tenant_id, waiting)
        row = {**rows.row, **resolved}
        with refusing_bad_rows(self.resource_type):
            before = self.elsewhere.image(connection, tenant_id, row_id)
            is_new = self._upsert(connection, tenant_id, row_id, row, actor)
            for children in self.mapping.children:
                wanted = self._wanted(connection, tenant_id, children, rows)
                elsewhere = self.child_elsewhere[children.table]
                siblings = elsewhere.images(connection, tenant_id, self.parent, row_id)
                if is_new:
                    self._add(connection, tenant_id, row_id, children, wanted, actor)
                else:
                    self._synchronize(connection, tenant_id, row_id, children, wanted, actor)
                left = elsewhere.images(connection, tenant_id, self.parent, row_id)
                elsewhere.mark_rows(connection, tenant_id, siblings, left)
            self.elsewhere.mark(connection, tenant_id, row_id, before)
        return []

    def _wanted(
        self, connection: Connection, tenant_id: UUID, children: Children, rows: Rows
    ) -> tuple[Row, ...]:
        """The rows of one list with their references resolved, but for what cannot be a row yet."""
        links = self.child_links[children.table]
        resolved = (
            {**child, **_resolve(connection, tenant_id, links, child)}
            for child in rows.children[children.table]
        )
        return tuple(child for child in resolved if all(child[c] for c in children.needs))

    def waits_for(self, connection: Connection, tenant_id: UUID, resource: JsonObject) -> list[str]:
        """References whose columns are empty until their resources exist."""
        if not (self.links.keys() - self.needs or any(self.child_links.values())):
            return []
        rows = self.get(resource)
        optional = [rows.row[c] for c in self.links if c not in self.needs]
        for table, links in self.child_links.items():
            optional += [child[c] for child in rows.children[table] for c in links]
        optional = [reference for reference in optional if reference]
        return references.unresolved(connection, tenant_id, optional)

    def exists(self, connection: Connection, tenant_id: UUID, row_id: UUID) -> bool:
        return self._select(connection, tenant_id, row_id) is not None

    def _upsert(
        self, connection: Connection, tenant_id: UUID, row_id: UUID, row: Row, actor: str
    ) -> bool:
        """Insert or change the row; whether it is new."""
        fixed = {entry.columns[0] for entry in self.mapping.entries if entry.insert_only}
        key = {"tenant_id": tenant_id, "id": row_id}
        row = {column: value for column, value in row.items() if column not in self.derived}
        row = statements.sealed(connection, self.mapping.table, row, {**key, **self.where})
        values = {**key, **self.where, **row, "created_by": actor, "updated_by": actor}
        changed = [column for column in (*row, "updated_by") if column not in fixed]
        statement = statements.upsert_statement(
            self.mapping.table, tuple(values), tuple(changed), tuple(self.where)
        )
        written = connection.execute(statement, statements.bound(values)).fetchone()
        if written is None:
            raise Conflict(f"a record of another kind has the id {row_id}; choose another id")
        return bool(written[0])

    def _add(
        self,
        connection: Connection,
        tenant_id: UUID,
        row_id: UUID,
        children: Children,
        rows: Iterable[Row],
        actor: str,
    ) -> None:
        for row in rows:
            identity = {"tenant_id": tenant_id, self.parent: row_id, "created_by": actor}
            statements.insert(connection, children.table, {**identity, **row})

    def _synchronize(
        self,
        connection: Connection,
        tenant_id: UUID,
        row_id: UUID,
        children: Children,
        wanted: tuple[Row, ...],
        actor: str,
    ) -> None:
        """Bring the child rows to what is wanted, changing as few of them as will do."""
        present = dict(self._children(connection, tenant_id, row_id, children))
        left = list(wanted)
        for same in (_is_equal, children.is_successor):
            for child_id, row in list(present.items()):
                found = next((item for item in left if same(item, row)), None)
                if found is None:
                    continue
                del present[child_id]
                left = [item for item in left if item is not found]
                if found != row:
                    changed = {**found, "updated_by": actor}
                    self._change(connection, children, tenant_id, child_id, changed)
        for child_id in present:
            statements.delete(connection, children.table, {"tenant_id": tenant_id, "id": child_id})
        self._add(connection, tenant_id, row_id, children, left, actor)

    def _change(
        self,
        connection: Connection,
        children: Children,
        tenant_id: UUID,
        child_id: UUID,
        row: Row,
    ) -> None:
        key = {"tenant_id": tenant_id, "id": child_id}
        statements.update(connection, children.table, row, key)

    # -- presenting -----------------------------------------------------------------------------

    def present(
        self, connection: Connection, tenant_id: UUID, row_id: UUID, stored: JsonObject | None
    ) -> JsonObject | None:
        row = self._select(connection, tenant_id, row_id)
        if row is None:
            return None
        row = self.normalize(row)
        rows = self.get(stored) if stored else Rows({})
        if self.derived:
            row |= self.derive(connection, tenant_id, row_id, row, rows.row)
        for column, types in self.links.items():
            spelled = rows.row.get(column)
            meant = references.resolve(connection, tenant_id, spelled) if spelled else None
            if spelled and meant is None and column in self.needs:
                # The stored resource is newer than its row, which it cannot have yet.
                return stored
            row[column] = spell(connection, tenant_id, types, row[column], spelled, meant)
        children = {
            item.table: self._present_children(connection, tenant_id, row_id, item, rows)
            for item in self.mapping.children
        }
        return with_id(self.put(Rows(row, children), stored), row_id)

    def derive(
        self, connection: Connection, tenant_id: UUID, row_id: UUID, row: Row, said: Row
    ) -> Row:
        """The derived columns of a row; `said` are the columns as the stored resource has them."""
        return dict.fromkeys(self.derived)

    def _present_children(
        self,
        connection: Connection,
        tenant_id: UUID,
        row_id: UUID,
        children: Children,
        stored: Rows,
    ) -> tuple[Row, ...]:
        """The rows of one list, their references spelled as the client's item of that key does."""
        found = [row for _, row in self._children(connection, tenant_id, row_id, children)]
        links = self.child_links[children.table]
        if not links:
            return children.sorted(found)
        items = stored.children.get(children.table, ())
        meant = self._resolved_items(connection, tenant_id, children, items)
        key = children.key or tuple(links)
        keyed = {
            tuple({**item, **ids}[column] for column in key): (item, ids)
            for item, ids in zip(items, meant, strict=True)
        }
        for row in found:
            said, ids = keyed.get(tuple(row[column] for column in key), ({}, {}))
            for column, types in links.items():
                spelled = said.get(column)
                row[column] = spell(
                    connection, tenant_id, types, row[column], spelled, ids.get(column)
                )
        # What cannot be a row yet is still what the client says.
        waiting = [
            item
            for item, ids in zip(items, meant, strict=True)
            if any(ids[column] is None for column in children.needs)
        ]
        return children.sorted([*found, *waiting])

    def _resolved_items(
        self, connection: Connection, tenant_id: UUID, children: Children, items: Sequence[Row]
    ) -> list[dict[str, UUID | None]]:
        """The rows that the references of a client's items mean."""
        links = self.child_links[children.table]
        return [_resolve(connection, tenant_id, links, item) for item in items]

    def delete(self, connection: Connection, tenant_id: UUID, row_id: UUID) -> None:
        with refusing_bad_rows(self.resource_type):
            key = {"tenant_id": tenant_id, "id": row_id, **self.where}
            with statements.announced(connection):
                statements.delete(connection, self.mapping.table, key)

    def _select(self, connection: Connection, tenant_id: UUID, row_id: UUID) -> Row | None:
        key = {"tenant_id": tenant_id, "id": row_id, **self.where}
        mapped = (column for column in self.mapping.columns if column not in self.derived)
        columns = (*mapped, *self.beside)
        found = statements.select(connection, self.mapping.table, columns, key)
        return found[0] if found else None

    def _children(
        self, connection: Connection, tenant_id: UUID, row_id: UUID, children: Children
    ) -> Iterator[tuple[UUID, Row]]:
        key = {"tenant_id": tenant_id, self.parent: row_id}
        for row in statements.select(connection, children.table, ("id", *children.columns), key):
            yield row.pop("id"), row


def _is_equal(row: Row, other: Row) -> bool:
    return row == other


def _resolve(
    connection: Connection, tenant_id: UUID, links: Mapping[str, tuple[str, ...]], row: Row
) -> dict[str, UUID | None]:
    return {
        column: references.resolve(connection, tenant_id, row[column]) if row[column] else None
        for column in links
    }


def _links(entries: Iterable[Entry]) -> Iterator[tuple[Entry, tuple[str, ...]]]:
    for entry in entries:
        reference = _reference(entry.converter)
        if reference is not None:
            yield entry, reference.types


def _reference(converter: object) -> Reference | None:
    """The Reference that a converter wraps, if any."""
    while converter is not None and not isinstance(converter, Reference):
        converter = getattr(converter, "converter", None) or getattr(converter, "item", None)
    return converter


def spell(
    connection: Connection,
    tenant_id: UUID,
    types: tuple[str, ...],
    target: UUID | None,
    spelled: str | None,
    meant: UUID | None,
) -> str | None:
    """The reference to a row, as the client `spelled` it where it `meant` the same row.

    Where the column is empty, a reference stays that still waits for its resource.
    """
    if target is None:
        return spelled if meant is None else None
    return (
        spelled if meant == target else references.literal(connection, tenant_id, types[0], target)
    )


def with_id(resource: JsonObject, row_id: UUID) -> JsonObject:
    """The resource with an id; a row's own UUID unless the client chose one."""
    if "id" in resource:
        return resource
    return {"resourceType": resource["resourceType"], "id": str(row_id), **resource}


@contextmanager
def refusing_bad_rows(resource_type: str) -> Iterator[None]:
    """Turn what the tables refuse into an answer; the transaction can then only be rolled back."""
    try:
        yield
    except errors.ForeignKeyViolation as error:
        raise Conflict(
            f"{resource_type} is still referred to ({error.diag.table_name}); delete or change"
            " what refers to it first"
        ) from error
    except errors.UniqueViolation as error:
        raise Conflict(
            f"{resource_type}: another record has the same {error.diag.constraint_name}"
        ) from error
    except (errors.IntegrityError, psycopg.DataError) as error:
        rule = error.diag.constraint_name or error.diag.message_primary
        raise Unprocessable(f"{resource_type}: the record would break the rule {rule}") from error
