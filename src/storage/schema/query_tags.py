"""Section IV.2: rows that searches of images are answered from, beside the columns of a study.

Words of names for fuzzy matching, and the values of attributes that a tenant has made searchable
(extended query tags). All are compared by equality and ranges of text, which keep their index under
row-level security.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from storage.schema.declarative import (
    Base,
    Exact,
    Sensitivity,
    TenantTable,
    count,
    link,
    one_of,
    phi,
)

SECTION = "IV. Imaging & AI Analysis"
# Those whose values can be compared.
VRS = (
    "AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO", "LT", "PN", "SH", "SL", "SS",
    "ST", "SV", "TM", "UC", "UI", "UL", "UR", "US", "UT", "UV",
)  # fmt: skip
_PATH = r"{0} ~ '^[0-9A-F]{{8}}(\.[0-9A-F]{{8}}){{0,3}}$'"


class ImagingNameWord(Base):
    """A word of a person's name in a study, and how it sounds (migrations/name_words.sql)."""

    __tablename__ = "imaging_name_words"
    __section__ = SECTION
    __phi__ = Sensitivity.CLINICAL
    __tenant_key__ = False  # implied by the study
    __table_args__ = (
        Index(None, "tenant_id", "tag", "word", "study_id"),
        Index(None, "tenant_id", "tag", "sound", "study_id"),
    )

    tenant_id: Mapped[UUID] = mapped_column(primary_key=True)
    study_id: Mapped[UUID] = link("imaging_studies", cascade=True, primary_key=True)
    tag: Mapped[Exact] = mapped_column(primary_key=True)
    word: Mapped[Exact] = phi(Sensitivity.IDENTIFYING, primary_key=True)
    sound: Mapped[Exact | None] = phi(Sensitivity.IDENTIFYING)


class DicomQueryTag(TenantTable, Base):
    """An attribute that a tenant has made searchable; BUILDING until what is stored is indexed.

    `path` is of tags, `00400275.00400007`; a private tag is found in the block of its creator.
    """

    __tablename__ = "dicom_query_tags"
    __section__ = SECTION
    __phi__ = Sensitivity.NONE
    __table_args__ = (UniqueConstraint("tenant_id", "path"),)

    path: Mapped[Exact] = mapped_column(info={"check": _PATH})
    private_creator: Mapped[Exact | None]
    vr: Mapped[str] = one_of(*VRS)
    level: Mapped[str] = one_of("STUDY", "SERIES", "INSTANCE")
    status: Mapped[str] = one_of("BUILDING", "READY", "DROPPING", default="BUILDING")
    total: Mapped[int] = count()
    done: Mapped[int] = count()
    # The last object that was indexed; none before the first.
    position: Mapped[UUID | None]


class DicomQueryTagValue(Base):
    """A value that an object has for a query tag, in the form in which it is compared."""

    __tablename__ = "dicom_query_tag_values"
    __section__ = SECTION
    __phi__ = Sensitivity.CLINICAL
    __tenant_key__ = False  # implied by the object
    __table_args__ = (
        Index(None, "tenant_id", "tag_id", "value"),
        Index(None, "tenant_id", "tag_id", "study_id"),
        Index(None, "tenant_id", "tag_id", "series_id"),
    )

    tenant_id: Mapped[UUID] = mapped_column(primary_key=True)
    object_id: Mapped[UUID] = link("imaging_objects", cascade=True, primary_key=True)
    tag_id: Mapped[UUID] = link("dicom_query_tags", cascade=True, primary_key=True)
    value: Mapped[Exact] = phi(Sensitivity.IDENTIFYING, primary_key=True)
    study_id: Mapped[UUID]
    series_id: Mapped[UUID]


class DicomQueryTagError(Base):
    """An object whose value for a query tag could not be indexed, and why."""

    __tablename__ = "dicom_query_tag_errors"
    __section__ = SECTION
    __phi__ = Sensitivity.INTERNAL
    __tenant_key__ = False  # implied by the object

    tenant_id: Mapped[UUID] = mapped_column(primary_key=True)
    tag_id: Mapped[UUID] = link("dicom_query_tags", cascade=True, primary_key=True)
    object_id: Mapped[UUID] = link("imaging_objects", cascade=True, primary_key=True)
    message: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
