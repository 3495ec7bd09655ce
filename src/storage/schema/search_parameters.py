"""Search parameters that a tenant has defined for itself, and how far their index is built.

The resources SearchParameter are their truth; these rows say which of them are in force.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, text
from sqlalchemy.orm import Mapped, mapped_column

from storage.schema.declarative import Base, Exact, Sensitivity


class FhirSearchParameter(Base):
    """A search parameter of a tenant. `definition_id` is the id of its SearchParameter.

    An id of '*' is no parameter: it stands for the building anew of everything that is indexed.
    """

    __tablename__ = "fhir_search_parameters"
    __section__ = "IX"
    __phi__ = Sensitivity.NONE

    tenant_id: Mapped[UUID] = mapped_column(primary_key=True)
    definition_id: Mapped[Exact] = mapped_column(primary_key=True)
    # url, code, type, expression, bases, targets, components
    definition: Mapped[str]
    status: Mapped[Exact]  # BUILDING, READY, DROPPING
    # The epoch (below) at which it was last defined or begun anew.
    epoch: Mapped[int] = mapped_column(BigInteger())
    total: Mapped[int] = mapped_column(BigInteger(), server_default=text("0"))
    done: Mapped[int] = mapped_column(BigInteger(), server_default=text("0"))
    # "Type/id" of the last resource that was indexed; '' before the first.
    position: Mapped[Exact] = mapped_column(server_default=text("''"))
    changed_at: Mapped[datetime] = mapped_column(server_default=text("now()"))


class FhirSearchEpoch(Base):
    """Counts the changes of a tenant's search parameters: who indexes a resource names the count.

    A write that was indexed by other parameters than those in force is refused, and made again.
    """

    __tablename__ = "fhir_search_epochs"
    __section__ = "IX"
    __phi__ = Sensitivity.NONE

    tenant_id: Mapped[UUID] = mapped_column(primary_key=True)
    epoch: Mapped[int] = mapped_column(BigInteger())
