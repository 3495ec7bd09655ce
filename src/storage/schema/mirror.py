"""The machine-readable mirror of the model, profiles/dataSchema.yaml.

data-schema.md names this file for code generation and DDL creation; a test keeps it current:
`python -m storage.schema.mirror > profiles/dataSchema.yaml`.
"""

from __future__ import annotations

import sys
from typing import Any

import yaml
from sqlalchemy import (
    CheckConstraint,
    Column,
    ForeignKeyConstraint,
    Index,
    MetaData,
    Table,
    UniqueConstraint,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex

from storage.schema import Sensitivity, metadata
from storage.schema.presentation import PRESENTED

DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]
HEADER = """\
# Generated from src/storage/schema by `python -m storage.schema.mirror`; do not edit.
# scope: global = no tenant; tenant = row-level security on tenant_id;
#        platform = tenant_id NULL is a row of the platform, which tenants read.
# phi: NONE, INTERNAL, CLINICAL, IDENTIFYING, RESTRICTED (hashed, or sealed with a key).
# sealed: holds ciphertext only (of some rows: see the check), under a data key of the tenant.
"""


def mirror(schema: MetaData) -> dict[str, Any]:
    """The whole model as plain data."""
    return {
        "version": 1,
        "sensitivity_levels": [level.value for level in Sensitivity],
        "aliases": {"billing_plans": "subscription_plans"},
        "tables": {table.name: _table(table) for table in _in_order(schema)},
    }


def _in_order(schema: MetaData) -> list[Table]:
    return sorted(schema.tables.values(), key=lambda table: table.name)


def _table(table: Table) -> dict[str, Any]:
    described: dict[str, Any] = {
        "section": table.info["section"],
        "description": table.info["description"],
        "scope": table.info["scope"],
        "presented_as": sorted({item.resource_type for item in PRESENTED.get(table.name, ())}),
        "columns": {column.name: _column(column) for column in table.columns},
        "primary_key": [column.name for column in table.primary_key.columns],
        "unique": sorted(
            [column.name for column in constraint.columns]
            for constraint in table.constraints
            if isinstance(constraint, UniqueConstraint)
        ),
        "foreign_keys": sorted(
            (_foreign_key(c) for c in table.constraints if isinstance(c, ForeignKeyConstraint)),
            key=lambda key: (key["columns"], key["references"]),
        ),
        "checks": {
            str(constraint.name): str(constraint.sqltext)
            for constraint in sorted(table.constraints, key=lambda c: str(c.name))
            if isinstance(constraint, CheckConstraint)
        },
        "indexes": [_index(i) for i in sorted(table.indexes, key=lambda i: str(i.name))],
    }
    return {name: value for name, value in described.items() if value not in ([], {})}


def _column(column: Column[Any]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "type": column.type.compile(dialect=DIALECT),
        "nullable": bool(column.nullable),
        "phi": column.info["phi"].value,
    }
    if column.info.get("sealed"):
        described["sealed"] = True
    if column.computed is not None:
        described["generated"] = str(column.computed.sqltext)
    elif column.server_default is not None and hasattr(column.server_default, "arg"):
        described["default"] = str(column.server_default.arg)
    if "values" in column.info:
        described["enum"] = list(column.info["values"])
    if "range" in column.info:
        described["range"] = list(column.info["range"])
    return described


def _foreign_key(constraint: ForeignKeyConstraint) -> dict[str, Any]:
    described: dict[str, Any] = {
        "columns": [column.name for column in constraint.columns],
        "references": [element.target_fullname for element in constraint.elements],
    }
    if constraint.ondelete:
        described["on_delete"] = constraint.ondelete
    return described


def _index(index: Index) -> str:
    return " ".join(str(CreateIndex(index).compile(dialect=DIALECT)).split())


def render(schema: MetaData) -> str:
    """The text of profiles/dataSchema.yaml."""
    body: str = yaml.dump(
        mirror(schema), Dumper=_Dumper, sort_keys=False, width=100_000, allow_unicode=True
    )
    return HEADER + body


class _Dumper(yaml.SafeDumper):
    """One line for each column, key and constraint, so that a change reads as one line."""

    def represent_data(self, data: Any) -> yaml.Node:
        if isinstance(data, str):  # SQLAlchemy's quoted_name among them
            return self.represent_str(str(data))
        node = super().represent_data(data)
        if isinstance(node, yaml.CollectionNode):
            parts = [part for item in node.value for part in _parts(item)]
            width = sum(_width(part) for part in parts)
            node.flow_style = all(_is_leaf(part) for part in parts) and width < 200
        return node

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _parts(item: Any) -> tuple[yaml.Node, ...]:
    return item if isinstance(item, tuple) else (item,)


def _is_leaf(node: yaml.Node) -> bool:
    """A scalar or a list of scalars."""
    return isinstance(node, yaml.ScalarNode) or (
        isinstance(node, yaml.SequenceNode)
        and all(isinstance(item, yaml.ScalarNode) for item in node.value)
    )


def _width(node: yaml.Node) -> int:
    if isinstance(node, yaml.ScalarNode):
        return len(node.value)
    return sum(_width(part) for item in node.value for part in _parts(item))


if __name__ == "__main__":
    sys.stdout.write(render(metadata))
