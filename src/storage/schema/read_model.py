"""The FHIR read model: current bytes, history, and one search row per indexed value.

`fhir_resources` is named by data-schema.md; the rest serves FHIR R4 history (http.html#history)
and search (search.html). Search predicates must keep their index under row-level security, so
every indexed column is text in COLLATE "C", float8 or timestamptz (reliability.md M11).

A search row's primary key leads to the rows of one resource, for replacement and for sorting; the
second index leads from a value to resources in the order of pages (resource_id).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, Index, Integer, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from storage.schema.declarative import Base, Exact, Sensitivity, flag, phi

EMPTY = text("''")


class FhirResource(Base):
    """The current version of a FHIR resource, as the exact bytes to serve."""

    __tablename__ = "fhir_resources"
    __section__ = "IX"
    __phi__ = Sensitivity.NONE
    __table_args__ = (
        UniqueConstraint("tenant_id", "resource_type", "row_id"),
        Index(None, "tenant_id", "resource_type", "last_updated", "resource_id"),
        Index(
            "ix_fhir_resources_stale", "tenant_id", "resource_type", postgresql_where=text("stale")
        ),
    )

    tenant_id: Mapped[UUID] = mapped_column(primary_key=True)
    resource_type: Mapped[Exact] = mapped_column(primary_key=True)
    resource_id: Mapped[Exact] = mapped_column(primary_key=True)
    row_id: Mapped[UUID | None]
    # patients.id of whom it is about, for the log of accesses.
    patient_id: Mapped[UUID | None]
    version: Mapped[int] = mapped_column(BigInteger())
    last_updated: Mapped[datetime]
    body: Mapped[str] = phi(Sensitivity.IDENTIFYING)
    stale: Mapped[bool] = flag()
    deleted: Mapped[bool] = flag()


class FhirHistory(Base):
    """Every version of a FHIR resource; a deletion has no body."""

    __tablename__ = "fhir_history"
    __section__ = "IX"
    __phi__ = Sensitivity.NONE
    __table_args__ = (
        # The order of histories of everything and of a type (http.html#history).
        Index(None, "tenant_id", "last_updated"),
        Index(None, "tenant_id", "resource_type", "last_updated"),
    )

    tenant_id: Mapped[UUID] = mapped_column(primary_key=True)
    resource_type: Mapped[Exact] = mapped_column(primary_key=True)
    resource_id: Mapped[Exact] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(BigInteger(), primary_key=True)
    last_updated: Mapped[datetime]
    method: Mapped[Exact]  # POST, PUT, DELETE: the request, or the equivalent of a changed row
    body: Mapped[str | None] = phi(Sensitivity.IDENTIFYING)


class FhirPending(Base):
    """A reference that must resolve before a stored resource can have its rows."""

    __tablename__ = "fhir_pending"
    __section__ = "IX"
    __phi__ = Sensitivity.NONE
    __table_args__ = (Index(None, "tenant_id", "reference"),)

    tenant_id: Mapped[UUID] = mapped_column(primary_key=True)
    resource_type: Mapped[Exact] = mapped_column(primary_key=True)
    resource_id: Mapped[Exact] = mapped_column(primary_key=True)
    reference: Mapped[Exact] = mapped_column(primary_key=True)


class SearchRow:
    """What the search rows of all kinds share.

    `ordinal` numbers the rows of one parameter; rows of a composite parameter that came from the
    same element share a `cluster` and lie under `<parameter>.<component>`.
    """

    # A foreign key on each of some thirty rows per resource would buy nothing: the rows are written
    # with their resource and carry its tenant.
    __tenant_key__ = False
    __section__ = "IX"

    tenant_id: Mapped[UUID] = mapped_column(primary_key=True, sort_order=-20)
    resource_type: Mapped[Exact] = mapped_column(primary_key=True, sort_order=-19)
    resource_id: Mapped[Exact] = mapped_column(primary_key=True, sort_order=-18)
    parameter: Mapped[Exact] = mapped_column(primary_key=True, sort_order=-17)
    ordinal: Mapped[int] = mapped_column(Integer(), primary_key=True, sort_order=-16)
    cluster: Mapped[int] = mapped_column(Integer(), server_default=text("0"), sort_order=-15)


def value_index(table: str, *columns: str, **options: Any) -> Index:
    """The index from a parameter's value to resources, in the order of search pages."""
    name = f"ix_{table}_{columns[0]}"
    leading = ("tenant_id", "resource_type", "parameter")
    return Index(name, *leading, *columns, "resource_id", **options)


class FhirSearchToken(SearchRow, Base):
    """A code, identifier, boolean or contact value; '' means that there is none."""

    __tablename__ = "fhir_search_token"
    __phi__ = Sensitivity.IDENTIFYING
    __table_args__ = (value_index("fhir_search_token", "code", postgresql_include=["system"]),)

    system: Mapped[Exact] = mapped_column(server_default=EMPTY)
    code: Mapped[Exact] = mapped_column(server_default=EMPTY)


class FhirSearchString(SearchRow, Base):
    """A text, normalised (no case, no accents) and as it was sent."""

    __tablename__ = "fhir_search_string"
    __phi__ = Sensitivity.IDENTIFYING
    __table_args__ = (value_index("fhir_search_string", "value"),)

    value: Mapped[Exact]
    value_exact: Mapped[Exact]


class FhirSearchGram(Base):
    """Three consecutive characters of any normalised text of a resource, for `:contains`."""

    __tablename__ = "fhir_search_gram"
    __section__ = "IX"
    __phi__ = Sensitivity.IDENTIFYING
    __tenant_key__ = False
    __table_args__ = (Index(None, "tenant_id", "resource_type", "resource_id"),)

    tenant_id: Mapped[UUID] = mapped_column(primary_key=True)
    resource_type: Mapped[Exact] = mapped_column(primary_key=True)
    gram: Mapped[Exact] = mapped_column(primary_key=True)
    resource_id: Mapped[Exact] = mapped_column(primary_key=True)


class FhirSearchText(Base):
    """The words of a resource in their order, between spaces: of its narrative and of all texts."""

    __tablename__ = "fhir_search_text"
    __section__ = "IX"
    __phi__ = Sensitivity.NONE
    __tenant_key__ = False

    tenant_id: Mapped[UUID] = mapped_column(primary_key=True)
    resource_type: Mapped[Exact] = mapped_column(primary_key=True)
    resource_id: Mapped[Exact] = mapped_column(primary_key=True)
    narrative: Mapped[str] = phi(Sensitivity.IDENTIFYING)
    content: Mapped[str] = phi(Sensitivity.IDENTIFYING)


class FhirSearchReference(SearchRow, Base):
    """A reference: to a resource of this server, to another URL or canonical, or by identifier."""

    __tablename__ = "fhir_search_reference"
    __phi__ = Sensitivity.CLINICAL
    __table_args__ = (
        value_index("fhir_search_reference", "target_id", postgresql_include=["target_type"]),
        value_index(
            "fhir_search_reference", "target_url", postgresql_where=text("target_url <> ''")
        ),
        value_index(
            "fhir_search_reference",
            "identifier_value",
            postgresql_where=text("identifier_value <> ''"),
        ),
    )

    target_type: Mapped[Exact] = mapped_column(server_default=EMPTY)
    target_id: Mapped[Exact] = mapped_column(server_default=EMPTY)
    target_url: Mapped[Exact] = mapped_column(server_default=EMPTY)
    target_version: Mapped[Exact] = mapped_column(server_default=EMPTY)
    identifier_system: Mapped[Exact] = mapped_column(server_default=EMPTY)
    identifier_value: Mapped[Exact] = mapped_column(server_default=EMPTY)


class FhirSearchDate(SearchRow, Base):
    """A date, time or period as the half-open interval [low, high)."""

    __tablename__ = "fhir_search_date"
    __phi__ = Sensitivity.CLINICAL
    __table_args__ = (
        value_index("fhir_search_date", "low"),
        value_index("fhir_search_date", "high"),
    )

    low: Mapped[datetime]
    high: Mapped[datetime]


class FhirSearchNumber(SearchRow, Base):
    """A number (low = high) or a range of numbers."""

    __tablename__ = "fhir_search_number"
    __phi__ = Sensitivity.CLINICAL
    __table_args__ = (value_index("fhir_search_number", "low"),)

    low: Mapped[float]
    high: Mapped[float]


class FhirSearchQuantity(SearchRow, Base):
    """A quantity (low = high), range or amount of money with its unit.

    What has a unit of UCUM has its bounds in base units besides, and the product of base units that
    they are in: 5.4 mg and 0.0054 g are found by each other.
    """

    __tablename__ = "fhir_search_quantity"
    __phi__ = Sensitivity.CLINICAL
    __table_args__ = (
        value_index("fhir_search_quantity", "low"),
        value_index(
            "fhir_search_quantity",
            "base_unit",
            "base_low",
            postgresql_where=text("base_unit <> ''"),
        ),
    )

    low: Mapped[float]
    high: Mapped[float]
    system: Mapped[Exact] = mapped_column(server_default=EMPTY)
    code: Mapped[Exact] = mapped_column(server_default=EMPTY)
    unit: Mapped[Exact] = mapped_column(server_default=EMPTY)
    base_unit: Mapped[Exact] = mapped_column(server_default=EMPTY)
    base_low: Mapped[float | None]
    base_high: Mapped[float | None]


class FhirSearchUri(SearchRow, Base):
    """A URI, compared character by character."""

    __tablename__ = "fhir_search_uri"
    __phi__ = Sensitivity.INTERNAL
    __table_args__ = (value_index("fhir_search_uri", "value"),)

    value: Mapped[Exact]
