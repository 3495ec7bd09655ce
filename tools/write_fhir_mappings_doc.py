"""Writes docs/fhir-mappings.md from the lenses; a test keeps it current."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from interop.fhir.mappings import LENSES
from interop.fhir.mappings.custom_fields import CustomFieldsLens, url_of
from interop.fhir.mappings.imaging_study import ListOf
from interop.fhir.mappings.lens import Children, Entry, ResourceMapping
from interop.fhir.mappings.not_presented import LOGS, NOT_PRESENTED
from interop.fhir.mappings.observation import ObservationLens
from interop.fhir.mappings.shared_type import SharedLens
from interop.fhir.mappings.views import ViewLens
from storage.schema import MODULES, metadata
from storage.schema.presentation import CUSTOM_FIELDS, PRESENTED

TARGET = Path(__file__).parents[1] / "docs" / "fhir-mappings.md"
HEAD = """# How rows and FHIR resources map

Made from the lenses by `tools/write_fhir_mappings_doc.py`: first what each table is presented as
and which tables are not, then, resource by resource, each column and its element. What is not in a
table of a resource is kept in the stored resource as it was sent; columns that are not listed are
never written over FHIR.

- **writes**: what a client sends goes into the columns. **shows**: the rows are the server's own;
  a client's further elements stay, and what the rows say wins in every presentation. A resource of
  such a type that no row stands for is the client's own and stored whole.
- *default*: what the column holds when the element is absent or says what the column cannot hold;
  without one the column is empty. *(required)*: always written. *(first version only)*: a later
  version does not change the column.
- Dates and times: a bare date is midnight UTC in a column with time. Less than a full date has no
  counterpart in a column. The way a client wrote a moment, code or decimal stays as long as it
  means what the row says.
- References are filled when they resolve within the tenant. Columns marked *needed* keep the whole
  resource waiting, others stay empty until the resource they name exists.
- A new resource of a row has the required elements of its type and of US Core besides what is
  listed (Encounter.class, categories, Consent.policyRule), where nothing is known with a
  data-absent-reason.
- The catalogues of the platform are in each tenant: terminology from the tenant's beginning, drugs,
  materials and equipment as soon as a record of the tenant names them. Another tenant is an
  Organization, by name and kind, as soon as a policy, claim, fee schedule or referral names it.

"""


def document() -> str:
    """The whole page."""
    lines = [*_tables(), *_custom_fields(), "## Resource by resource\n"]
    for resource_type in sorted(LENSES):
        parts = _parts(LENSES[resource_type])
        for part in parts:
            lines += _section(part, is_alone=len(parts) == 1)
    return HEAD + "\n".join(lines) + "\n"


def _tables() -> Iterator[str]:
    yield "## Table by table\n"
    yield "| table | presented as |"
    yield "|---|---|"
    for table in _in_order():
        shown = {item.resource_type for item in PRESENTED.get(table, ())}
        shown |= {LOGS[table]} if table in LOGS else set()
        if shown:
            yield f"| `{table}` | {', '.join(sorted(shown))} |"
    yield "\nDeliberately not presented:\n"
    yield "| table | why |"
    yield "|---|---|"
    for table in _in_order():
        if table in NOT_PRESENTED:
            yield f"| `{table}` | {NOT_PRESENTED[table]} |"
    yield ""


def _in_order() -> list[str]:
    """All tables, in the order of the sections of data-schema.md."""
    modules = [f"storage.schema.{name}" for name in MODULES]
    of_table = {
        mapper.local_table: modules.index(mapper.class_.__module__) for mapper in _mappers()
    }
    tables = list(metadata.tables.values())
    return [table.name for table in sorted(tables, key=lambda table: of_table[table])]


def _mappers() -> Iterable[Any]:
    from storage.schema import Base

    return Base.registry.mappers


def _custom_fields() -> Iterator[str]:
    yield "## Fields of a tenant's own\n"
    yield "A row of `custom_field_definitions` is a StructureDefinition of an extension; a row of"
    yield "`custom_field_values` is that extension on the resource of its record, both ways.\n"
    yield "| entity_type | resource | extension |"
    yield "|---|---|---|"
    for entity_type, resource_type in CUSTOM_FIELDS.items():
        yield f"| {entity_type} | {resource_type} | `{url_of(entity_type, '<field_key>')}` |"
    yield ""


def _parts(lens: Any) -> list[Any]:
    """The lenses, each over a table of its own, that make up the lens of a type."""
    if isinstance(lens, CustomFieldsLens):
        return _parts(lens.lens)
    if isinstance(lens, SharedLens):
        return [*lens.views, *(part.lens for part in lens.tables)]
    if isinstance(lens, ObservationLens):
        return list(lens.parts)
    return [lens]


def _section(lens: Any, *, is_alone: bool) -> Iterator[str]:
    mapping: ResourceMapping = lens.mapping
    table = mapping.table
    yield f"### {mapping.resource_type}{'' if is_alone else f' of {table}'}\n"
    tables = [name for name, shown in PRESENTED.items() if _shows(shown, mapping)]
    yield f"Table `{table}`, {_access(lens)}. A change to one of these tables makes a new version"
    yield f"of its {mapping.resource_type}: {', '.join(f'`{name}`' for name in tables)}.\n"
    entries = (*mapping.entries, *getattr(lens, "shown", ()))
    yield from _table(entries, getattr(lens, "needs", ()))
    for children in mapping.children:
        yield from _children(children)


def _access(lens: Any) -> str:
    if not isinstance(lens, ViewLens):
        shown = [f"`{entry.path}`" for entry in getattr(lens, "shown", ())]
        return f"writes ({', '.join(shown)}: shows)" if shown else "writes"
    written = [f"`{name}`" for name in lens.client_elements]
    return f"shows ({', '.join(written)}: writes)" if written else "shows"


def _shows(shown: Iterable[object], mapping: ResourceMapping) -> bool:
    return any(getattr(item, "resource_type", "") == mapping.resource_type for item in shown)


def _children(children: Children) -> Iterator[str]:
    key = f", known by {', '.join(children.key)}" if children.key else ""
    yield f"Items of `{children.path}` are rows of `{children.table}`{key}.\n"
    yield from _table(children.entries, children.needs)
    for entry in children.entries:
        if isinstance(entry.converter, ListOf):
            yield from _children(entry.converter.children)


def _table(entries: Iterable[Entry], needs: Iterable[str]) -> Iterator[str]:
    yield "| column | element | value |"
    yield "|---|---|---|"
    for entry in entries:
        columns = ", ".join(f"`{column}`" for column in entry.columns)
        notes = [entry.converter.label]
        if entry.default is not None and entry.default != ():
            notes.append(f"default {entry.default}")
        if entry.required:
            notes.append("(required)")
        if entry.insert_only:
            notes.append("(first version only)")
        if any(column in needs for column in entry.columns):
            notes.append("*needed*")
        value = "; ".join(notes).replace("|", "\\|")
        yield f"| {columns} | `{str(entry.path) or '(the whole)'}` | {value} |"
    yield ""


if __name__ == "__main__":
    TARGET.write_text(document(), encoding="utf-8")
