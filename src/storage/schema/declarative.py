"""How a table is declared: tenant scope, provenance, keys, enums, ranges and sensitivity.

A model states only what is its own. When the class is complete, `_complete` adds what must hold for
every table: composite foreign keys that begin with `tenant_id`, an index under every foreign key,
a named CHECK for every enum, range and tooth number, and a sensitivity level for every column.
"""

from __future__ import annotations

from datetime import date, datetime, time
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    Double,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    MetaData,
    Numeric,
    SmallInteger,
    Table,
    Text,
    Time,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedColumn, mapped_column
from sqlalchemy.types import TypeEngine

from storage.encryption.columns import SEALED
from storage.schema.presentation import PRESENTED


class Sensitivity(StrEnum):
    """How much harm the disclosure of a column does (data-schema.md XI)."""

    NONE = "NONE"  # keys, states, times of the system itself
    INTERNAL = "INTERNAL"  # the organization's own business data
    CLINICAL = "CLINICAL"  # about a person's health, once linked to the person
    IDENTIFYING = "IDENTIFYING"  # names a person (HIPAA 164.514(b)(2) identifiers)
    RESTRICTED = "RESTRICTED"  # secrets and payment tokens: hashed, or sealed with a key


Json = dict[str, Any]
Money = Annotated[Decimal, mapped_column(Numeric(12, 2), info={"range": (0, None)})]
# Matching columns are compared byte by byte: under row-level security PostgreSQL may use an index
# only for leakproof operators, and text ranges are leakproof only in COLLATE "C" (reliability M11).
Exact = Annotated[str, mapped_column(Text(collation="C"))]

NAMES = {
    "pk": "pk_%(table_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
}

# ISO 3950: quadrants 1 to 4 hold eight permanent teeth, quadrants 5 to 8 five deciduous teeth.
FDI_TOOTH = (
    "(({0} / 10) BETWEEN 1 AND 4 AND ({0} % 10) BETWEEN 1 AND 8)"
    " OR (({0} / 10) BETWEEN 5 AND 8 AND ({0} % 10) BETWEEN 1 AND 5)"
)
# Mesial, occlusal, distal, buccal, lingual, incisal, facial, vestibular, palatal; MOD = several.
SURFACES = "{0} ~ '^[MODBLIFVP]{{1,6}}$'"

# One row that no resource can show would stop the rendering of its type (FHIR R4 datatypes.html:
# dates have years 0001 to 9999, decimals are numbers). NaN is greater than every number here.
PRESENTABLE: dict[type[TypeEngine[Any]], str] = {
    DateTime: "{0} >= '0001-01-01T00:00:00Z' AND {0} < '10000-01-01T00:00:00Z'",
    Date: "{0} >= '0001-01-01' AND {0} < '10000-01-01'",
    Numeric: "{0} > '-Infinity' AND {0} < 'Infinity'",
    Double: "{0} > '-Infinity' AND {0} < 'Infinity'",
}

_STRUCTURAL = {"id", "tenant_id", "created_at", "created_by", "updated_at", "updated_by"}
_ACTOR = text("coalesce(nullif(current_setting('app.actor', true), ''), current_user)")


class Base(DeclarativeBase):
    """The declarative base; `Base.metadata` is the whole schema."""

    metadata = MetaData(naming_convention=NAMES)
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads it from the class
        str: Text(),
        UUID: Uuid(),
        datetime: DateTime(timezone=True),
        date: Date(),
        time: Time(),
        float: Double(),
        bytes: LargeBinary(),
        Decimal: Numeric(12, 2),
        Json: JSONB(none_as_null=True),
        list[Any]: JSONB(none_as_null=True),
        list[str]: ARRAY(Text()),
    }

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        table = cls.__dict__.get("__table__")
        if isinstance(table, Table):
            _complete(table, cls)


class GlobalTable:
    """A row that belongs to the installation: the application role reads it without a tenant."""

    id: Mapped[UUID] = mapped_column(
        primary_key=True, server_default=text("gen_random_uuid()"), sort_order=-10
    )
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"), sort_order=100)
    created_by: Mapped[str | None] = mapped_column(server_default=_ACTOR, sort_order=101)
    updated_at: Mapped[datetime | None] = mapped_column(sort_order=102)
    updated_by: Mapped[str | None] = mapped_column(sort_order=103)


class TenantTable(GlobalTable):
    """A row of one tenant: key (tenant_id, id), row-level security, provenance."""

    tenant_id: Mapped[UUID] = mapped_column(primary_key=True, sort_order=-20)


class PlatformOrTenantTable(GlobalTable):
    """A row of one tenant, or of the platform (tenant_id NULL), which tenants read only.

    NULL cannot be part of a primary key, so `id` alone is the key; what points here is guarded by
    the trigger `refuse_foreign_platform_row`.
    """

    tenant_id: Mapped[UUID | None] = mapped_column(sort_order=-20)


def one_of(*values: str, default: str | None = None, **options: Any) -> MappedColumn[Any]:
    """A text column that holds one of `values`."""
    if default is not None:
        options["server_default"] = text(f"'{default}'")
    return mapped_column(Text(), info={"values": values, **options.pop("info", {})}, **options)


def bounded(
    low: float | None, high: float | None, type_: Any = None, **options: Any
) -> MappedColumn[Any]:
    """A number column from `low` to `high`, both included."""
    return mapped_column(type_, info={"range": (low, high), **options.pop("info", {})}, **options)


def tooth(**options: Any) -> MappedColumn[Any]:
    """A tooth by its FDI number (ISO 3950)."""
    return mapped_column(SmallInteger(), info={"check": FDI_TOOTH}, **options)


def surface(**options: Any) -> MappedColumn[Any]:
    """One or more tooth surfaces, such as O or MOD."""
    return mapped_column(Text(), info={"check": SURFACES}, **options)


def flag(default: bool = False) -> MappedColumn[Any]:
    """A boolean that reads as a claim."""
    return mapped_column(server_default=text("true" if default else "false"))


def count(default: int = 0) -> MappedColumn[Any]:
    """A number of things, never negative."""
    return bounded(0, None, BigInteger(), server_default=text(str(default)))


def phi(level: Sensitivity, type_: Any = None, **options: Any) -> MappedColumn[Any]:
    """A column whose sensitivity differs from its table's."""
    return mapped_column(type_, info={"phi": level, **options.pop("info", {})}, **options)


def link(target: str, *, cascade: bool = False, **options: Any) -> MappedColumn[Any]:
    """A reference to a row of the same tenant."""
    return _link("tenant", target, cascade, options)


def global_link(target: str, *, cascade: bool = False, **options: Any) -> MappedColumn[Any]:
    """A reference to a row of a global table."""
    return _link("global", target, cascade, options)


def platform_link(target: str, *, cascade: bool = False, **options: Any) -> MappedColumn[Any]:
    """A reference to a row of the same tenant or of the platform."""
    return _link("platform", target, cascade, options)


def member_link(**options: Any) -> MappedColumn[Any]:
    """A reference to a user who is a member of the same tenant."""
    return _link("member", "user_tenants", False, options)


def _link(scope: str, target: str, cascade: bool, options: dict[str, Any]) -> MappedColumn[Any]:
    info = {"link": (scope, target, cascade), **options.pop("info", {})}
    return mapped_column(Uuid(), info=info, **options)


def period(start: str, end: str) -> CheckConstraint:
    """`end` is open or not before `start`."""
    return CheckConstraint(f"{end} >= {start}", name=f"{start}_{end}")


def exactly_one(*columns: str) -> CheckConstraint:
    """Exactly one of the columns is filled."""
    return CheckConstraint(f"num_nonnulls({', '.join(columns)}) = 1", name="one_of_" + columns[0])


def _complete(table: Table, model: type[Base]) -> None:
    if issubclass(model, PlatformOrTenantTable):
        scope = "platform"
    elif "tenant_id" in table.c:
        scope = "tenant"
    else:
        scope = "global"
    table.info["scope"] = scope
    table.info["description"] = " ".join((model.__doc__ or "").split())
    table.info["section"] = getattr(model, "__section__", "")
    if scope != "global" and getattr(model, "__tenant_key__", True):
        table.append_constraint(ForeignKeyConstraint(["tenant_id"], ["tenants.id"]))
    if scope == "platform":
        Index(None, table.c.tenant_id, table.c.id)
    for sealed in SEALED.get(table.name, ()):
        # Clear text is refused from whatever hand: the ORM's, a practice system's SQL, our own.
        table.c[sealed.name].info["sealed"] = True
        table.append_constraint(CheckConstraint(sealed.check(), name=f"{sealed.name}_sealed"))
    level = getattr(model, "__phi__", Sensitivity.INTERNAL)
    for column in list(table.c):
        _constrain(table, column)
        if table.name in PRESENTED and column.name not in _STRUCTURAL:
            _keep_presentable(table, column)
        if "link" in column.info:
            _join(table, column, scope)
        structural = column.name in _STRUCTURAL or "link" in column.info
        column.info.setdefault("phi", Sensitivity.NONE if structural else level)


def _constrain(table: Table, column: Column[Any]) -> None:
    if "values" in column.info:
        allowed = ", ".join(f"'{value}'" for value in column.info["values"])
        table.append_constraint(CheckConstraint(f"{column.name} IN ({allowed})", name=column.name))
    if "check" in column.info:
        condition = column.info["check"].format(column.name)
        table.append_constraint(CheckConstraint(condition, name=column.name))
    if "range" in column.info:
        low, high = column.info["range"]
        conditions = [f"{column.name} >= {low}"] if low is not None else []
        conditions += [f"{column.name} <= {high}"] if high is not None else []
        table.append_constraint(CheckConstraint(" AND ".join(conditions), name=column.name))


def _keep_presentable(table: Table, column: Column[Any]) -> None:
    """What a reader is shown must be a value in its types: no infinity, no NaN, no year 10000."""
    condition = next(
        (text for kind, text in PRESENTABLE.items() if isinstance(column.type, kind)), None
    )
    is_bounded = None not in column.info.get("range", (None, None))
    if condition is not None and not is_bounded:
        name = f"{column.name}_presentable"
        table.append_constraint(CheckConstraint(condition.format(column.name), name=name))


def _join(table: Table, column: Column[Any], scope: str) -> None:
    """Add the foreign key of a link column and the index under it."""
    kind, target, cascade = column.info["link"]
    ondelete = "CASCADE" if cascade else None
    name = column.name
    if kind == "tenant":
        keys, parents = ["tenant_id", name], [f"{target}.tenant_id", f"{target}.id"]
    elif kind == "member":
        keys, parents = ["tenant_id", name], [f"{target}.tenant_id", f"{target}.user_id"]
    else:
        keys, parents = [name], [f"{target}.id"]
    table.append_constraint(ForeignKeyConstraint(keys, parents, ondelete=ondelete))
    indexed = [column] if scope == "global" else [table.c.tenant_id, column]
    if not _is_indexed(table, indexed):
        Index(None, *indexed)


def _is_indexed(table: Table, columns: list[Column[Any]]) -> bool:
    """Whether a declared key or index begins with these columns."""
    names = [column.name for column in columns]
    declared: list[Any] = [c for c in table.constraints if isinstance(c, UniqueConstraint)]
    declared += [index for index in table.indexes if index.kwargs.get("postgresql_where") is None]
    leading = [[c.name for c in key.columns][: len(names)] for key in declared]
    return names in leading
